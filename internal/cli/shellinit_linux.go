package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hidden are the sockets through which a program would leave the session: daemons that see the real
// network (Docker, containerd, podman, snapd) and resolvers that see the real DNS.
var hidden = []string{
	"/run/docker.sock", "/run/containerd", "/run/podman", "/run/crio", "/run/buildkit", "/run/snapd.socket", "/run/snapd-snap.socket",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor", "/run/nscd",
}

// daemonsOf are the sockets of a user's own daemons.
func daemonsOf(a Account) []string {
	dir := "/run/user/" + strconv.Itoa(a.UID)
	return []string{dir + "/docker.sock", dir + "/podman", dir + "/containerd-rootless", dir + "/buildkit"}
}

// ways are variables that lead a program out of the session.
var ways = []string{"DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"}

// ShellInit sets up the namespaces of a session and becomes the command. It runs in a process of its
// own, so that nothing of it touches the caller.
func ShellInit(spec string, args []string) error {
	data, err := os.ReadFile(spec)
	if err != nil {
		return err
	}
	var s SessionSpec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	runtime.LockOSThread()
	ns, err := os.Open(s.NetNS)
	if err != nil {
		return fmt.Errorf("open the session's network namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the session's network namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep the session's mounts to itself: %w", err)
	}
	session := filepath.Dir(spec)
	if err := bindOver(s.Azure, filepath.Join(session, "azure")); err != nil {
		return err
	}
	path := os.Getenv("PATH")
	if s.Root != "" {
		if err := enterRoot(&s, session); err != nil {
			return fmt.Errorf("enter %s: %w", s.Root, err)
		}
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if err := s.see(session); err != nil {
		return err
	}
	if err := bindSSHKey(session, s.Account); err != nil {
		return err
	}
	for k, v := range s.Env {
		os.Setenv(k, v)
	}
	os.Setenv("PATH", strings.Join(append(slices.Clone(s.Path), path), ":"))
	for _, k := range ways {
		os.Unsetenv(k)
	}
	if err := s.Account.become(); err != nil {
		return err
	}
	if s.Login {
		if err := azLogin(s.Env); err != nil {
			return err
		}
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, args, os.Environ())
}

// see makes the session's names, resolver and authorities what programs find in their usual places.
func (s *SessionSpec) see(session string) error {
	for from, to := range map[string]string{s.ResolvConf: "/etc/resolv.conf", s.Hosts: "/etc/hosts"} {
		if err := bindOver(from, to); err != nil {
			return err
		}
	}
	for _, bundle := range systemBundles {
		if _, err := os.Stat(bundle); err == nil {
			if err := bindOver(s.CABundle, bundle); err != nil {
				return err
			}
		}
	}
	if err := plainNames(session); err != nil {
		return err
	}
	for _, path := range append(slices.Clone(hidden), daemonsOf(s.Account)...) {
		if err := hide(path); err != nil {
			return err
		}
	}
	return nil
}

// become gives up root for good where the session's user is another.
func (a Account) become() error {
	if a.UID == os.Getuid() {
		return nil
	}
	if err := syscall.Setgroups(a.Groups); err != nil {
		return fmt.Errorf("become %s: %w", a.Name, err)
	}
	if err := syscall.Setgid(a.GID); err != nil {
		return fmt.Errorf("become %s: %w", a.Name, err)
	}
	if err := syscall.Setuid(a.UID); err != nil {
		return fmt.Errorf("become %s: %w", a.Name, err)
	}
	for k, v := range map[string]string{"HOME": a.Home, "USER": a.Name, "LOGNAME": a.Name} {
		os.Setenv(k, v)
	}
	for _, k := range []string{"SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"} {
		os.Unsetenv(k)
	}
	return nil
}

// bindOver binds from over to, which may be a symbolic link into a place that is hidden.
func bindOver(from, to string) error {
	if real, err := filepath.EvalSymlinks(to); err == nil {
		to = real
	} else if os.IsNotExist(err) {
		return nil
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s over %s: %w", from, to, err)
	}
	return nil
}

// plainNames makes names be looked up in hosts and DNS only: nss modules of resolved would ask the host's.
func plainNames(dir string) error {
	const name = "/etc/nsswitch.conf"
	data, err := os.ReadFile(name)
	if err != nil {
		return nil // musl and others have none
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			line = "hosts: files dns\n"
		}
		out = append(out, line)
	}
	path := filepath.Join(dir, "nsswitch.conf")
	if err := os.WriteFile(path, []byte(strings.Join(out, "")), 0o644); err != nil {
		return err
	}
	return bindOver(path, name)
}

// hide puts nothing in the place of a socket or a directory.
func hide(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	if st.IsDir() {
		if err := unix.Mount("none", path, "tmpfs", unix.MS_RDONLY, "size=4k,mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
		return nil
	}
	if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// bindSSHKey shows the session's key, where there is one, in ~/.ssh, beside what the user has there.
func bindSSHKey(session string, a Account) error {
	dir, target, own := filepath.Join(session, "ssh"), filepath.Join(a.Home, ".ssh"), filepath.Join(session, "own-ssh")
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	if err := bindOver(target, own); err != nil {
		return err
	}
	entries, err := os.ReadDir(own)
	if err != nil {
		return fmt.Errorf("read ~/.ssh: %w", err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(own, e.Name()), filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return bindOver(dir, target)
}

// azLogin logs az in, if there is one here and it is not yet. The secret goes by standard input, since arguments are
// seen by every user of the machine.
func azLogin(env map[string]string) error {
	az, err := exec.LookPath("az")
	if err != nil || loggedIn(env) {
		return nil
	}
	cmd := exec.Command(az, "login", "--service-principal", "--username", env["AZURE_CLIENT_ID"], "--password", "@-", "--tenant", env["AZURE_TENANT_ID"], "--output", "none")
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(env["AZURE_CLIENT_SECRET"]), &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("az login: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// loggedIn reads what az remembers: somebody who has logged in as another meanwhile stays who he is.
func loggedIn(env map[string]string) bool {
	data, err := os.ReadFile(filepath.Join(env["AZURE_CONFIG_DIR"], "azureProfile.json"))
	return err == nil && bytes.Contains(data, []byte(env["AZURE_SUBSCRIPTION_ID"]))
}
