// Package netns makes, enters and removes network namespaces pinned as files.
//
// A socket stays in the namespace it was made in, so a process can listen in many namespaces at once:
// Listen and Dial enter the namespace on a locked thread, make the socket and leave.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Create makes a network namespace pinned at path with its loopback down. It is no error when path is one already.
func Create(path string) error {
	if Is(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = away(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := unix.Mount(threadNetNS, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// Is reports whether a namespace is pinned at path.
func Is(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Delete unpins the namespace at path. The kernel ends it when no process and no socket is left in it.
func Delete(path string) error {
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
	return nil
}

// Do runs fn on a thread that is in the namespace at path. fn must not start goroutines that rely on it.
func Do(path string, fn func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	return away(func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		return fn()
	})
}

const threadNetNS = "/proc/thread-self/ns/net"

// away runs fn on a thread of its own and takes the thread home to its network namespace. Even a thread that Go will
// not use again must go home: the process's first thread never ends, and would hold the other namespace for good.
func away(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		result := fn()
		// A thread that cannot go home stays locked and ends with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- result
	}()
	return <-done
}

// Listen is net.Listen in the namespace at path.
func Listen(path, network, address string) (l net.Listener, err error) {
	err = Do(path, func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenFree is Listen at an address that the namespace need not have yet (IP_FREEBIND), for servers that
// start before their addresses. With path "" it listens in the process's own namespace.
func ListenFree(ctx context.Context, path, network, address string) (l net.Listener, err error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var fault error
		if err := c.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }); err != nil {
			return err
		}
		return fault
	}}
	if path == "" {
		return config.Listen(ctx, network, address)
	}
	err = Do(path, func() error {
		l, err = config.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket in the namespace at path.
func ListenPacket(path, network, address string) (c net.PacketConn, err error) {
	err = Do(path, func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// Dial connects from the namespace at path. address must hold an IP address: a name would be resolved
// by Go's resolver, whose goroutines are elsewhere.
func Dial(ctx context.Context, path, network, address string) (c net.Conn, err error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s in a network namespace: the host must be an IP address", address)
	}
	err = Do(path, func() error {
		// Without fast fallback and with a literal address the dialer makes its socket on this thread.
		d := net.Dialer{FallbackDelay: -1}
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}
