package containerrun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// EndStrays kills what containerd was starting for a client that has gone, as a service that is stopped in
// the middle of a start: a shim that containerd forgets when the call is cancelled, and the process that
// the shim has made and nobody will start. Such a container has no task, so its deletion meets no resistance
// and ends nothing. id names the container; "" stands for all, when containerd itself has ended.
func EndStrays(o Options, id, cgroup string) error {
	strays, err := shims(o.Socket, id)
	if err != nil {
		return err
	}
	inside, err := processesIn(cgroup)
	if err != nil {
		return err
	}
	for _, pid := range append(strays, inside...) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d, which containerd does not know: %w", pid, err)
		}
	}
	if id == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(o.RuncRoot, o.Namespace, id)) // runc's own memory of it
}

// shims are the processes that run as shims of the containerd at the socket.
func shims(socket, id string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		follows := func(flag, value string) bool {
			i := slices.Index(words, flag)
			return i > 0 && i+1 < len(words) && words[i+1] == value
		}
		if filepath.Base(words[0]) != "containerd-shim-runc-v2" || !follows("-address", socket) || id != "" && !follows("-id", id) {
			continue
		}
		if words[len(words)-1] == "delete" { // cleans up for containerd, and ends
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, pid)
		}
	}
	return found, nil
}

// processesIn are the processes in the cgroup and in those below it, in any hierarchy.
func processesIn(cgroup string) ([]int, error) {
	if cgroup = filepath.Clean("/" + cgroup); cgroup == "/" {
		return nil, errors.New("the hierarchy's root is nobody's cgroup")
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, m := range mounts {
		err := filepath.WalkDir(filepath.Join(m.path, cgroup), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !e.IsDir() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
			for word := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 && !slices.Contains(found, pid) {
					found = append(found, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the processes in cgroup %s: %w", cgroup, err)
		}
	}
	return found, nil
}
