package artifacts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// prepareHost installs the Debian packages that a recipe needs on this machine. It never removes one: Debian's
// packages of container engines conflict with others', and a user's Docker is not ours to take away.
func (j *job) prepareHost(ctx context.Context, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	// One at a time: apt would make the second job wait for its lock anyhow, and then fail.
	j.host.Lock()
	defer j.host.Unlock()
	var missing []string
	for _, p := range packages {
		out, err := command{}.run(ctx, "dpkg-query", "-W", "-f=${db:Status-Abbrev}", p)
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("needs the equivalents of Debian's %s, and this is no Debian or Ubuntu machine: "+
				"import a set that was exported on one", strings.Join(packages, ", "))
		}
		if err != nil || !strings.HasPrefix(string(out), "ii") {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	j.phase("installing " + strings.Join(missing, " "))
	install := append([]string{"install", "-y", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=300"}, missing...)
	apt := command{env: []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}}
	if _, err := apt.run(ctx, "apt-get", install...); err == nil {
		return nil
	}
	// The lists of packages may be missing or old.
	if _, err := apt.run(ctx, "apt-get", "update"); err != nil {
		return err
	}
	_, err := apt.run(ctx, "apt-get", install...)
	return err
}

// bootstrapDebian makes rootfs/, a minimal Debian owned by root, and packages.txt, what is in it.
func (j *job) bootstrapDebian(ctx context.Context, spec debianSpec) error {
	if os.Geteuid() != 0 {
		return errors.New("the nodes' root file system can only be made by root")
	}
	mirror := j.options.DebianMirror
	if mirror == "" {
		var err error
		if mirror, err = aptMirror(ctx, spec.Suite); err != nil {
			return err
		}
	}
	j.phase("bootstrap")
	root := filepath.Join(j.dir, "rootfs")
	env := []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	if proxy := aptProxy(ctx); proxy != "" {
		env = append(env, "http_proxy="+proxy, "https_proxy="+proxy)
	}
	// debootstrap mounts proc and sys below the new root and is a tree of shells. If it is killed, or this process is,
	// none of that may live on in a directory that the next builder removes.
	boot := command{env: env, contained: true}
	if _, err := boot.run(ctx, "debootstrap", "--variant=minbase", "--force-check-gpg", "--arch="+arch(),
		"--include="+strings.Join(spec.Packages, ","), spec.Suite, root, mirror); err != nil {
		return err
	}
	packages, err := command{}.run(ctx, "dpkg-query", "--admindir="+filepath.Join(root, "var/lib/dpkg"), "-W")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(j.dir, "packages.txt"), packages, 0o644); err != nil {
		return err
	}
	for _, pattern := range spec.Remove {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return fmt.Errorf("versions.json: pattern %q: %w", pattern, err)
		}
		for _, m := range matches {
			if err := os.RemoveAll(m); err != nil {
				return err
			}
		}
	}
	// Every node says who it is itself, and the mirror is this machine's affair.
	for name, content := range map[string]string{
		"etc/hostname": "", "etc/resolv.conf": "", "etc/machine-id": "", "etc/apt/sources.list": "",
		"etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// aptMirror asks apt for a mirror of Debian that this machine uses.
func aptMirror(ctx context.Context, suite string) (string, error) {
	out, err := command{}.run(ctx, "apt-get", "indextargets", "--format", "$(CREATED_BY)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)")
	if err != nil {
		return "", fmt.Errorf("ask apt for its mirror: %w", err)
	}
	return chooseMirror(string(out), suite, osRelease())
}

// chooseMirror prefers a mirror that apt reads the suite from to one it reads the machine's own release of Debian from:
// a mirror carries all releases, but not those of another distribution.
func chooseMirror(targets, suite string, release map[string]string) (string, error) {
	var fallback string
	for line := range strings.Lines(targets) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(f) != 4 || f[0] != "Packages" || f[1] != "main" {
			continue
		}
		if f[2] == suite {
			return f[3], nil
		}
		if release["ID"] == "debian" && fallback == "" && (f[2] == release["VERSION_CODENAME"] || f[2] == "stable") {
			fallback = f[3]
		}
	}
	if fallback == "" {
		return "", fmt.Errorf("apt on this machine has no mirror of Debian %s: name one, or import a set that was exported elsewhere", suite)
	}
	return fallback, nil
}

func aptProxy(ctx context.Context) string {
	out, err := command{}.run(ctx, "apt-config", "shell", "p", "Acquire::http::Proxy")
	if err != nil {
		return ""
	}
	value, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "p='")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(value, "'")
}

func osRelease() map[string]string {
	fields := map[string]string{}
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return fields
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[k] = strings.Trim(v, `"'`)
		}
	}
	return fields
}
