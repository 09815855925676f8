package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// toolsInRoot is where a session's tools are in another root file system.
const toolsInRoot = "/run/cloister/bin"

// enterRoot makes another file system the session's root. It is read-only: what is kept between sessions stays as it
// was made. The kernel's file systems, /tmp, the user's home and the session's own files are this machine's.
func enterRoot(s *SessionSpec, session string) error {
	here, err := os.Getwd()
	if err != nil {
		here = "/"
	}
	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind it: %w", err)
	}
	if err := unix.Mount("", s.Root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp"} {
		if err := unix.Mount(dir, s.Root+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.Mount("run", s.Root+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		if err := bindOver(file, s.Root+file); err != nil {
			return err
		}
	}
	for _, dir := range []string{s.Account.Home, session} {
		if err := bindInto(s.Root, dir); err != nil {
			return err
		}
	}
	if err := bindTools(s); err != nil {
		return err
	}
	if err := syscall.Chroot(s.Root); err != nil {
		return err
	}
	for _, dir := range []string{here, s.Account.Home, "/"} {
		if os.Chdir(dir) == nil {
			return nil
		}
	}
	return errors.New("no directory to be in")
}

// bindInto shows a directory at the same path below root, unless what is bound there already shows it.
func bindInto(root, dir string) error {
	if dir == "" || strings.HasPrefix(dir, "/tmp/") {
		return nil
	}
	target := filepath.Join(root, dir)
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		// What is missing is made in memory, over the nearest directory that is there.
		over := filepath.Dir(target)
		for over != root {
			if _, err := os.Stat(over); err == nil {
				break
			}
			over = filepath.Dir(over)
		}
		if over == root {
			return fmt.Errorf("it has no directory /%s for %s", strings.Split(strings.TrimPrefix(dir, "/"), "/")[0], dir)
		}
		if err := unix.Mount("tmpfs", over, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("make place for %s: %w", dir, err)
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(dir, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	return nil
}

// bindTools shows the programs of the session's path, which are links into what is not seen in there.
func bindTools(s *SessionSpec) error {
	to := s.Root + toolsInRoot
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, dir := range s.Path {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			program, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
			if err != nil {
				return err
			}
			place := filepath.Join(to, e.Name())
			if err := os.WriteFile(place, nil, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(program, place, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", program, err)
			}
		}
	}
	s.Path = []string{toolsInRoot}
	return nil
}
