package controlplane

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testUpgrade gives the control plane another version of Kubernetes: what is stored stays, etcd runs on, and all others
// run anew and say so.
func testUpgrade(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	before := running(t, m)
	c.KubernetesVersion = "1.31.0"
	begin := time.Now()
	if err := e.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	t.Logf("upgraded in %v", time.Since(begin).Round(10*time.Millisecond))
	client := clientset(t, e, c.ID)
	if info, err := client.Discovery().ServerVersion(); err != nil || info.GitVersion != "v1.31.0" {
		t.Errorf("the API server is %v, %v", info, err)
	}
	if _, err := client.CoreV1().Secrets("shop").Get(ctx, "password", meta.GetOptions{}); err != nil {
		t.Errorf("what was stored before: %v", err)
	}
	proxy, err := client.AppsV1().DaemonSets("kube-system").Get(ctx, "kube-proxy", meta.GetOptions{})
	if err != nil || !strings.HasSuffix(proxy.Spec.Template.Spec.Containers[0].Image, ":v1.31.0") {
		t.Errorf("kube-proxy is %v, %v", proxy.Spec.Template.Spec.Containers, err)
	}
	after := running(t, m)
	for id, pid := range before {
		if kept := after[id] == pid; kept != strings.HasSuffix(id, etcd) {
			t.Errorf("%s: process %d, then %d", id, pid, after[id])
		}
	}
}

// testStop stops the control plane: nothing of it runs, nothing resumes it, and a start finds its data.
func testStop(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	begin := time.Now()
	if err := e.Stop(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %v", time.Since(begin).Round(10*time.Millisecond))
	if left := running(t, m); len(left) != 0 {
		t.Errorf("these run: %v", left)
	}
	if err := e.Resume(ctx, c.ID); !errors.Is(err, ErrStopped) {
		t.Errorf("resume what was stopped: %v", err)
	}
	if err := e.Stop(ctx, c.ID); err != nil {
		t.Errorf("stop what is stopped: %v", err)
	}
	if err := e.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, err := clientset(t, e, c.ID).CoreV1().Secrets("shop").Get(ctx, "password", meta.GetOptions{}); err != nil {
		t.Errorf("what was stored before: %v", err)
	}
}

// running are the processes of the machine's containers.
func running(t *testing.T, m *machine) map[string]int {
	t.Helper()
	all, err := m.containers.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range all {
		if s.Running {
			out[s.ID] = s.PID
		}
	}
	return out
}
