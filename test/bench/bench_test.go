package main

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}, {[]float64{7}, 7}, {nil, 0}} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("the median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
}

func TestMissedPromise(t *testing.T) {
	r := newRecord(options{repetitions: 1}, []int{1})
	r.add(metricCreate(1), 15.1)
	r.add(metricUp, 2.9)
	r.finish()
	if got := r.missed(); len(got) != 1 || got[0] != metricCreate(1) {
		t.Errorf("missed %q, want only the create", got)
	}
}

// TestContainerOf reads /proc/PID/cgroup as it is with cgroup v1, with v2, and of a neighbour.
func TestContainerOf(t *testing.T) {
	for name, tc := range map[string]struct {
		groups, container string
		pod               bool
	}{
		"v1":        {"9:name=systemd:/cloister-b34653/registry\n8:pids:/cloister-b34653/registry\n", "registry", false},
		"v2":        {"0::/cloister-b34653/node-1bdd0751/init\n", "node-1bdd0751", false},
		"pod":       {"3:cpu:/cloister-b34653/node-1bdd0751/kubepods/burstable/pod1/2\n", "node-1bdd0751", true},
		"neighbour": {"0::/cloister-b34653f/registry\n", "", false},
		"host":      {"0::/system.slice/cloister-b34653.service\n", "", false},
	} {
		container, pod := containerOf(tc.groups, "/cloister-b34653")
		if container != tc.container || pod != tc.pod {
			t.Errorf("%s: container %q, in a pod %v; want %q, %v", name, container, pod, tc.container, tc.pod)
		}
	}
}

func TestProcessorTime(t *testing.T) {
	got, err := parseTime("1234 (a) name) S 1 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 9 0 1 2 3")
	if err != nil || got != 1270*time.Millisecond {
		t.Errorf("a process's time is %v, %v; want 1.27 s", got, err)
	}
	got, err = parseBusy("cpu  100 10 50 9999 8888 5 6 7 0 0")
	if err != nil || got != 1780*time.Millisecond {
		t.Errorf("the machine was busy for %v, %v; want 1.78 s", got, err)
	}
	if _, err := parseBusy("intr 1"); err == nil {
		t.Error("a line that is not of processors was read")
	}
}

func TestPartOf(t *testing.T) {
	for name, want := range map[string]string{
		"cp-86e0dfa8-kube-controller-manager": "kube-controller-manager", "node-1bdd0751": "nodes", "registry": "registry",
		"cloister": "cloister serve", "containerd-shim-runc-v2": "containerd",
	} {
		if got := partOf(name); got != want {
			t.Errorf("%s is part of %q, want %q", name, got, want)
		}
	}
}
