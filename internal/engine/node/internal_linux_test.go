package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDelegateControllers runs against files: what is asserted is what the kernel is told, as
// cgroup v2's documentation demands it.
func TestDelegateControllers(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.procs", "1\n")
	write("cgroup.controllers", "cpuset cpu io memory pids\n")
	if err := delegateControllers(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"init/cgroup.procs": "1", "cgroup.subtree_control": "+pids"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	write("cgroup.controllers", "cpu pids\n")
	if err := delegateControllers(root); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a missing controller: %v", err)
	}
}

func TestVirtualCPUInfo(t *testing.T) {
	got := virtualCPUInfo("processor\t: 7\nmodel name\t: X\nsiblings\t: 64\ncore id\t\t: 9\n\nprocessor\t: 8\n", 3)
	if strings.Count(got, "model name\t: X\n") != 3 || !strings.Contains(got, "processor\t: 2\n") || strings.Contains(got, "64") || strings.Contains(got, ": 8") {
		t.Errorf("%s", got)
	}
}

func TestResources(t *testing.T) {
	c := Config{UIDBase: 3 << 24, UIDCount: 1 << 24, CPUs: 2, MemoryBytes: 1}
	if r := resources(c, true, 8); *r.CPU.Quota != 200_000 || r.CPU.Cpus != "" {
		t.Errorf("v2: %+v", r.CPU)
	}
	if r := resources(c, false, 8); r.CPU.Quota != nil || r.CPU.Cpus != "6,7" {
		t.Errorf("v1: %+v", r.CPU)
	}
	if r := resources(c, false, 2); r.CPU != nil {
		t.Errorf("a size of the whole host: %+v", r.CPU)
	}
}
