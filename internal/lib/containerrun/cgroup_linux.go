package containerrun

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CgroupHook gives a container's cgroup to the root of its user namespace, so that it can make
// cgroups in it. It is an OCI createRuntime hook and reads the container's state: a hook, since the
// cgroup is made anew at every start, by the restart monitor's too, when nothing of ours may be
// running. At that moment the container's first process is in its cgroup, which tells where it is.
//
// What is given is the directory and the files that move processes, never the limits: a limit set by
// the host then holds against root in the container. On cgroup v2 the kernel itself lists what may be
// given (https://docs.kernel.org/admin-guide/cgroup-v2.html, Delegation).
func CgroupHook(state io.Reader) error {
	var s specs.State
	if err := json.NewDecoder(state).Decode(&s); err != nil {
		return fmt.Errorf("cgroup hook: read the container's state: %w", err)
	}
	owner, err := strconv.Atoi(s.Annotations[annotationOwner])
	if err != nil || owner <= 0 {
		return fmt.Errorf("cgroup hook: container %s has no cgroup owner but %q", s.ID, s.Annotations[annotationOwner])
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return fmt.Errorf("cgroup hook: %w", err)
	}
	own, err := cgroupsOf(s.Pid)
	if err != nil {
		return fmt.Errorf("cgroup hook: %w", err)
	}
	for _, m := range mounts {
		path, ok := own[m.controllers]
		if !ok || path == "/" {
			continue // a hierarchy that runc has not put the container into
		}
		dir := filepath.Join(m.path, path)
		if err := delegate(dir, m.unified, owner); err != nil {
			return fmt.Errorf("cgroup hook: give %s to %d: %w", dir, owner, err)
		}
	}
	return nil
}

func delegate(dir string, unified bool, owner int) error {
	if err := os.Chown(dir, owner, owner); err != nil {
		return err
	}
	files := []string{"cgroup.procs", "tasks"}
	if unified {
		files = []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
		if listed, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
			files = strings.Fields(string(listed))
		}
	}
	for _, name := range files {
		if err := os.Chown(filepath.Join(dir, name), owner, owner); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// cgroupMount is where a hierarchy is mounted.
type cgroupMount struct {
	path        string
	controllers string // as in the second field of /proc/PID/cgroup; empty for v2
	unified     bool
}

func cgroupMounts() ([]cgroupMount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hierarchies, err := cgroupsOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	var out []cgroupMount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// ID parent major:minor root MOUNTPOINT options … - TYPE source SUPEROPTIONS (proc_pid_mountinfo(5))
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		switch right[0] {
		case "cgroup2":
			out = append(out, cgroupMount{path: left[4], unified: true})
		case "cgroup":
			// The super options name the controllers among others, in an order of their own.
			super := map[string]bool{}
			for _, o := range strings.Split(right[2], ",") {
				super[o] = true
			}
			for controllers := range hierarchies {
				if first, _, _ := strings.Cut(controllers, ","); first != "" && super[first] {
					out = append(out, cgroupMount{path: left[4], controllers: controllers})
				}
			}
		}
	}
	return out, lines.Err()
}

// cgroupsOf maps each hierarchy's controllers, as the kernel writes them, to the process's cgroup in it.
func cgroupsOf(pid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			out[parts[1]] = parts[2]
		}
	}
	return out, nil
}

// RemoveCgroup removes the cgroup and those in it, in every hierarchy. It is no error when there is none.
func RemoveCgroup(cgroup string) error {
	if cgroup = filepath.Clean("/" + cgroup); cgroup == "/" {
		return errors.New("remove cgroup: refused for the hierarchy's root")
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", cgroup, err)
	}
	for _, m := range mounts {
		if err := removeTree(filepath.Join(m.path, cgroup)); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// A killed process leaves its cgroup a moment after it can be waited for, and the kernel tells
	// nobody when.
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY || wait > time.Second {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(wait) //nolint:forbidigo // bounded above, and the kernel tells nobody when a cgroup is free
	}
}
