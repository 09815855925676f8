package vnetservices

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// mounts tells when the mount table changes. A namespace is pinned by a mount, which inotify does not see;
// the kernel marks mountinfo for poll instead (proc_pid_mountinfo(5)).
type mounts struct {
	table *os.File
	end   [2]int // a pipe that wakes the poll at the end
	done  chan struct{}

	mu      sync.Mutex
	changed chan struct{}
}

func watchMounts() (*mounts, error) {
	// Not os.Open: the runtime's poller would take the event.
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the mount table: %w", err)
	}
	m := &mounts{table: os.NewFile(uintptr(fd), "mountinfo"), done: make(chan struct{}), changed: make(chan struct{})}
	if err := unix.Pipe2(m.end[:], unix.O_CLOEXEC); err != nil {
		m.table.Close()
		return nil, fmt.Errorf("watch the mount table: %w", err)
	}
	go m.poll(fd)
	return m, nil
}

func (m *mounts) poll(fd int) {
	defer close(m.done)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(m.end[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents != 0 {
			m.mu.Lock()
			close(m.changed)
			m.changed = make(chan struct{})
			m.mu.Unlock()
		}
	}
}

// Changed returns a channel that is closed at the next change.
func (m *mounts) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Close ends the watch.
func (m *mounts) Close() {
	unix.Close(m.end[1])
	<-m.done
	unix.Close(m.end[0])
	m.table.Close()
}
