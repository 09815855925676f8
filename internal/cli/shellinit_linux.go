package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hidden are the sockets through which a program would leave the session: daemons that see the real
// network (Docker, containerd, podman, snapd) and resolvers that see the real DNS.
var hidden = []string{
	"/run/docker.sock", "/run/containerd", "/run/podman", "/run/snapd.socket",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd",
}

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
	// A fresh sysfs shows this network namespace's interfaces rather than the host's.
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
	if err := plainNames(filepath.Dir(spec)); err != nil {
		return err
	}
	for _, path := range hidden {
		if err := hide(path); err != nil {
			return err
		}
	}
	for k, v := range s.Env {
		os.Setenv(k, v)
	}
	if len(s.Path) > 0 {
		os.Setenv("PATH", strings.Join(s.Path, ":")+":"+os.Getenv("PATH"))
	}
	for _, k := range []string{"DOCKER_HOST", "CONTAINER_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"} {
		os.Unsetenv(k)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
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
