// Package userns makes user namespaces, each with a network namespace that belongs to it, pinned as files.
//
// A node's network namespace must be made inside the node's user namespace, or the node cannot mount its
// own sysfs. Both are pinned, so they need no process to live, and networking can be ready before the node
// starts and survives its restarts. The package knows nothing of links, addresses or containers.
package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Map is the range of host ids a user namespace has: id 0 inside is Base outside, and there are Count of them.
type Map struct {
	Base, Count uint32
}

// Create pins a user namespace with the map at userPath, and a network namespace owned by it, with its
// loopback down, at netPath. It is no error when they are there already; what a crash left half made is replaced.
// The caller sees to it that the map of a pinned namespace is never asked to change: the kernel cannot.
func Create(userPath, netPath string, m Map) error {
	if m.Base == 0 || m.Count == 0 {
		return fmt.Errorf("user namespace %s: map 0 %d %d: base and count must be positive", userPath, m.Base, m.Count)
	}
	if Is(userPath, netPath) {
		return nil
	}
	if err := Delete(userPath, netPath); err != nil {
		return err
	}
	for _, path := range []string{userPath, netPath} {
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
	}
	done := make(chan error, 1)
	go func() {
		// The holder dies with the thread that started it, so the thread must be this goroutine's until it is reaped.
		// It is never unlocked: it has become another user and ends with the goroutine.
		runtime.LockOSThread()
		if err := become(m.Base); err != nil {
			done <- err
			return
		}
		done <- pin(userPath, netPath, m)
	}()
	if err := <-done; err != nil {
		return errors.Join(err, Delete(userPath, netPath))
	}
	return nil
}

// become makes uid the effective user of this thread, which keeps its capabilities. The kernel counts what a
// user namespace uses of the machine's per-user limits (inotify instances and watches, keys, pending signals …) against the
// user who made it, too: were that root for every namespace, all of them together would have root's 128 inotify instances.
func become(uid uint32) error {
	const (
		secbitNoSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP: a change of uid leaves the capabilities alone
		unchanged           = ^uintptr(0)
	)
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("read secure bits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|secbitNoSetuidFixup), 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities as user %d: %w", uid, err)
	}
	// The bare system call changes this thread; the one of package syscall would change them all.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
		return fmt.Errorf("become user %d: %w", uid, errno)
	}
	return nil
}

// pin starts a holder in new namespaces and binds them to the files. The holder is traced from its first
// instruction on, hence never runs one: it is this binary only because that one is sure to exist.
func pin(userPath, netPath string, m Map) error {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(m.Base), Size: int(m.Count)}}
	pidfd := -1
	holder, err := os.StartProcess("/proc/self/exe", []string{"userns-holder"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			// In one clone the kernel makes the user namespace first and gives it the network namespace.
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: ids,
			GidMappings: ids,
			// Containers in the namespace call setgroups; without this Go denies it for good.
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  syscall.SIGKILL,
			PidFD:                      &pidfd,
		},
	})
	if err != nil {
		return fmt.Errorf("start a process in new user and network namespaces: %w", err)
	}
	defer func() {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		holder.Kill()
		holder.Wait()
	}()
	for _, ns := range []struct{ kind, path string }{{"user", userPath}, {"net", netPath}} {
		from := fmt.Sprintf("/proc/%d/ns/%s", holder.Pid, ns.kind)
		if err := unix.Mount(from, ns.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s namespace at %s: %w", ns.kind, ns.path, err)
		}
	}
	return nil
}

// Is reports whether a user namespace is pinned at userPath and a network namespace owned by it at netPath.
func Is(userPath, netPath string) bool {
	user, err := os.Open(userPath)
	if err != nil {
		return false
	}
	defer user.Close()
	network, err := os.Open(netPath)
	if err != nil {
		return false
	}
	defer network.Close()
	if kind, err := unix.IoctlRetInt(int(user.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWUSER {
		return false
	}
	if kind, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return false
	}
	owner, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false
	}
	defer unix.Close(owner)
	var a, b unix.Stat_t
	return unix.Fstat(int(user.Fd()), &a) == nil && unix.Fstat(owner, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// Delete unpins both. The kernel ends them when no process and no socket is left in them.
func Delete(userPath, netPath string) error {
	for _, path := range []string{netPath, userPath} {
		for {
			err := unix.Unmount(path, unix.MNT_DETACH)
			if err == nil {
				continue // stacked binds, should a crash have left any
			}
			if err != unix.EINVAL && err != unix.ENOENT {
				return fmt.Errorf("unpin %s: %w", path, err)
			}
			break
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
