package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/test/watchdog"
)

// story is what a running script has made, and so what must be gone when it ends.
type story struct {
	began     time.Time
	env       *testscript.Env
	current   string            // data directory that commands use
	instances map[string]string // by data directory; "" until it was started
	packets   uint64            // what `packets mark` saw
	foreign   *foreign
	dog       *watchdog.Dog
}

// storyKey is where a script keeps its story.
type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// use makes an installation the current one. Its data directory need not exist yet.
func (s *story) use(name string) error {
	s.current = filepath.Join(s.env.WorkDir, name)
	if s.instances == nil {
		s.instances = map[string]string{}
	}
	if _, known := s.instances[s.current]; known {
		return nil
	}
	s.instances[s.current] = ""
	return s.dog.Guard(s.env.Getenv("CLOISTER"), s.current, s.env.WorkDir)
}

// instance is the ID of the installation in a data directory, "" if it was never started. It is
// remembered: a purge removes the file that says it.
func (s *story) instance(dataDir string) string {
	if data, err := os.ReadFile(filepath.Join(dataDir, "instance.json")); err == nil {
		var in struct{ ID string }
		if json.Unmarshal(data, &in) == nil && in.ID != "" {
			s.instances[dataDir] = in.ID
		}
	}
	return s.instances[dataDir]
}

// learn remembers the instances that there are now; every custom command calls it.
func (s *story) learn() {
	for dir := range s.instances {
		s.instance(dir)
	}
}

// end takes down what the story has started, and fails it when something stays.
func (s *story) end() {
	t := s.env.T()
	failed := false
	if f, ok := t.(interface{ Failed() bool }); ok {
		failed = f.Failed()
	}
	s.learn()
	var left []string
	for dir, instance := range s.instances {
		if failed {
			t.Log(s.autopsy(dir))
		}
		if _, err := os.Stat(dir); err == nil {
			if out, err := s.cloister(dir, "down", "--purge").CombinedOutput(); err != nil {
				left = append(left, fmt.Sprintf("cloister down --purge of %s: %v\n%s", dir, err, out))
			}
		}
		here := leftovers(instance, dir)
		for _, l := range here {
			left = append(left, filepath.Base(dir)+": "+l)
		}
		if len(here) == 0 {
			if err := s.dog.Release(dir); err != nil {
				left = append(left, err.Error())
			}
		}
	}
	t.Log(fmt.Sprintf("the story took %.1f s", time.Since(s.began).Seconds()))
	if len(left) > 0 {
		t.Fatal("left on the machine:\n" + strings.Join(left, "\n"))
	}
}

// cloister is a command on an installation, which ends when it hangs.
func (s *story) cloister(dataDir string, args ...string) *exec.Cmd {
	cmd := exec.Command("timeout", append([]string{"--kill-after=10", "120", s.env.Getenv("CLOISTER"), "--data-dir", dataDir}, args...)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "HOME="+s.env.WorkDir)
	return cmd
}

// status asks the current installation.
func (s *story) status() (adminapi.Status, error) {
	var st adminapi.Status
	var complaint bytes.Buffer
	cmd := s.cloister(s.current, "status", "-o", "json")
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return st, fmt.Errorf("cloister status: %w: %s", err, complaint.String())
	}
	return st, json.Unmarshal(out, &st)
}

// autopsy is what a reader of a failed run wants to see.
func (s *story) autopsy(dataDir string) string {
	var b strings.Builder
	section := func(title string, text []byte) {
		fmt.Fprintf(&b, "---- %s ----\n%s\n", title, bytes.TrimSpace(text))
	}
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		return "no data in " + dataDir
	}
	out, _ := s.cloister(dataDir, "status").CombinedOutput()
	section("cloister status", out)
	cluster := s.env.Getenv("CLUSTER")
	out, _ = s.cloister(dataDir, "shell", "--cluster", cluster, "--", "kubectl", "--request-timeout=5s", "get", "nodes,pods", "-A", "-o", "wide").CombinedOutput()
	section("kubectl get nodes,pods -A", out)
	out, _ = s.cloister(dataDir, "shell", "--cluster", cluster, "--", "kubectl", "--request-timeout=5s", "get", "events", "-A").CombinedOutput()
	section("kubectl get events -A", tail(out, 40))
	logs, _ := filepath.Glob(filepath.Join(dataDir, "log", "*.log"))
	for _, path := range logs {
		data, _ := os.ReadFile(path)
		section(filepath.Base(path), tail(data, 15))
	}
	return b.String()
}

func tail(text []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}

// exits tells whether a process (/proc/PID) has ended, or is in the kernel's do_exit, from which nothing returns:
// its cgroup may be gone already while init has not reaped it yet, which is the host's to do.
func exits(process string) bool {
	const exiting = 0x4 // PF_EXITING of the flags, the ninth field of proc_pid_stat(5)
	stat, err := os.ReadFile(process + "/stat")
	if err != nil {
		return true
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&exiting != 0
}

// leftovers lists what an installation has on the machine: processes, mounts, its run directory and its
// cgroups. It looks only for this installation's: others run on the same machine.
func leftovers(instance, dataDir string) []string {
	var found []string
	group, run := "cloister-"+instance, "/run/cloister-"+instance
	mentions := func(text string) bool {
		return instance != "" && (strings.Contains(text, group) || strings.Contains(text, run)) || strings.Contains(text, dataDir+"/") || strings.Contains(text, dataDir+"\x00")
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		command, _ := os.ReadFile(p + "/cmdline")
		cgroup, _ := os.ReadFile(p + "/cgroup")
		if (mentions(string(command)) || mentions(string(cgroup))) && !exits(p) {
			found = append(found, "process "+filepath.Base(p)+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if mentions(line) {
				found = append(found, "mount "+strings.TrimSpace(line))
			}
		}
	}
	if instance != "" {
		if _, err := os.Lstat(run); err == nil {
			found = append(found, "directory "+run)
		}
		for _, pattern := range []string{"/sys/fs/cgroup/" + group, "/sys/fs/cgroup/*/" + group} {
			cgroups, _ := filepath.Glob(pattern)
			for _, c := range cgroups {
				found = append(found, "cgroup "+c)
			}
		}
	}
	if _, err := os.Lstat(dataDir); err == nil {
		found = append(found, "directory "+dataDir)
	}
	slices.Sort(found)
	return found
}
