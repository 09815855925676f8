package controlplane

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// testNodes plays the kubelet of a node that does not exist.
func testNodes(t *testing.T, ctx context.Context, e *Engine, client *kubernetes.Clientset, c Config) {
	const name = "aks-nodepool1-12345678-vmss000000"
	states := make(chan State, 100)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- e.Watch(watching, c.ID, func(s State) bool { states <- s; return false })
	}()
	until := func(what string, ok func(State) bool) {
		t.Helper()
		var last State
		for {
			select {
			case last = <-states:
				if ok(last) {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("never %s; last %+v", what, last)
			}
		}
	}
	node := &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": "linux"}}}
	node, err := client.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until("a node that is not ready", func(s State) bool { return len(s.Nodes) == 1 && !s.Nodes[0].Ready })
	// Controllers write to a node that is new, too.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if node, err = client.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{}); err != nil {
			return err
		}
		node.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, LastHeartbeatTime: meta.Now()}}
		node.Status.Allocatable = core.ResourceList{core.ResourceCPU: *quantity("4"), core.ResourceMemory: *quantity("8Gi"), core.ResourcePods: *quantity("30")}
		node.Status.Capacity = node.Status.Allocatable
		_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, meta.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	until("CoreDNS and kube-proxy on the ready node", func(s State) bool {
		found := map[string]bool{}
		for _, p := range s.Pods {
			found[p.App+"@"+p.Node] = true
		}
		return s.Nodes[0].Ready && found["kube-dns@"+name] && found["kube-proxy@"+name]
	})
	if err := e.ChangeNode(ctx, c.ID, name, NodeChange{Labels: map[string]string{"kubernetes.io/role": "agent", "old": "1"}, Taints: []string{"team=a:PreferNoSchedule"}}); err != nil {
		t.Error(err)
	}
	until("the labels", func(s State) bool {
		return s.Nodes[0].Labels["kubernetes.io/role"] == "agent" && s.Nodes[0].Labels["old"] == "1"
	})
	if err := e.ChangeNode(ctx, c.ID, name, NodeChange{DropLabels: []string{"old"}, DropTaints: []string{"team=a:PreferNoSchedule"}}); err != nil {
		t.Error(err)
	}
	until("the label's end", func(s State) bool { _, has := s.Nodes[0].Labels["old"]; return !has })
	if now, err := client.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{}); err != nil || slices.ContainsFunc(now.Spec.Taints, func(t core.Taint) bool { return t.Key == "team" }) {
		t.Errorf("taints %v, %v", now.Spec.Taints, err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	if err := e.WaitHealthy(short, c.ID, []string{name}); err == nil || !strings.Contains(err.Error(), "coredns") {
		t.Errorf("healthy without one running pod: %v", err)
	}
	cancel()

	// The part of a kubelet in a drain: what is deleted ends.
	kubelet, halt := context.WithCancel(ctx)
	defer halt()
	watcher, err := client.CoreV1().Pods("").Watch(kubelet, meta.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		now := int64(0)
		for event := range watcher.ResultChan() {
			if pod, ok := event.Object.(*core.Pod); ok && pod.DeletionTimestamp != nil {
				_ = client.CoreV1().Pods(pod.Namespace).Delete(kubelet, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now})
			}
		}
	}()
	// A budget that allows nothing holds its pod, and the error says which.
	dns := intstr.FromInt32(0)
	budget := &policy.PodDisruptionBudget{ObjectMeta: meta.ObjectMeta{Name: "dns", Namespace: "kube-system"}, Spec: policy.PodDisruptionBudgetSpec{
		MaxUnavailable: &dns, Selector: &meta.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}}}
	if _, err := client.PolicyV1().PodDisruptionBudgets("kube-system").Create(ctx, budget, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("kube-system").List(ctx, meta.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods of CoreDNS, %v", len(pods.Items), err)
	}
	pods.Items[0].Status.Phase = core.PodRunning // one that has not started is let go
	if _, err := client.CoreV1().Pods("kube-system").UpdateStatus(ctx, &pods.Items[0], meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	err = e.Drain(ctx, c.ID, name, 2*time.Second)
	if stuck := (*UndrainableError)(nil); !errors.As(err, &stuck) || stuck.Namespace != "kube-system" || !strings.HasPrefix(stuck.Pod, "coredns") ||
		!slices.Equal(stuck.Budgets, []string{"dns"}) || !strings.Contains(stuck.Details(), "blocked by pdb dns with 1 unready pods") {
		t.Errorf("drain against a budget: %v", err)
	}
	if err := client.PolicyV1().PodDisruptionBudgets("kube-system").Delete(ctx, "dns", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Drain(ctx, c.ID, name, 0); err != nil {
		t.Fatal(err)
	}
	left, err := client.CoreV1().Pods("").List(ctx, meta.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range left.Items {
		if p.Labels["component"] != "kube-proxy" {
			t.Errorf("pod %s is still on the drained node", p.Name)
		}
	}
	if err := e.DeleteNode(ctx, c.ID, name); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted node: %v", err)
	}
	for _, again := range []error{e.Drain(ctx, c.ID, name, 0), e.DeleteNode(ctx, c.ID, name)} {
		if again != nil {
			t.Errorf("of a node that is gone: %v", again)
		}
	}
	stop()
	if err := <-ended; err == nil || watching.Err() == nil {
		t.Errorf("the watch ended by itself: %v", err)
	}
}

// testReboot takes away all that a reboot takes: processes, the run directory, namespaces. Then only
// the namespace and containerd come back.
func testReboot(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	if err := m.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for _, pid := range processes(m.l.RunDir) { // the shims, and with them …
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
	for _, pid := range inNamespace(t, c, m) { // … what they ran
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
	unmountBelow(t, m.l.RunDir)
	if err := os.RemoveAll(m.l.RunDir); err != nil {
		t.Fatal(err)
	}

	begin := time.Now()
	m.leaf(t, c)
	if err := e.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := m.daemon.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.WaitReady(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready %v after a reboot", time.Since(begin).Round(10*time.Millisecond))
	if _, err := clientset(t, e, c.ID).CoreV1().Secrets("shop").Get(ctx, "password", meta.GetOptions{}); err != nil {
		t.Errorf("the secret afterwards: %v", err)
	}
	pids(t, m) // every component runs
}

func quantity(s string) *resource.Quantity { q := resource.MustParse(s); return &q }

// processes are those whose command line names path.
func processes(path string) []int {
	return matching(func(dir string) bool {
		line, _ := os.ReadFile(dir + "/cmdline")
		return bytes.Contains(line, []byte(path))
	})
}

// inNamespace are those in the cluster's network namespace.
func inNamespace(t *testing.T, c Config, m *machine) []int {
	t.Helper()
	var want unix.Stat_t
	if err := unix.Stat(m.l.NetNS("cp-"+c.ID), &want); err != nil {
		t.Fatal(err)
	}
	return matching(func(dir string) bool {
		var st unix.Stat_t
		return unix.Stat(dir+"/ns/net", &st) == nil && st.Ino == want.Ino && st.Dev == want.Dev
	})
}

func matching(ok func(dir string) bool) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid != os.Getpid() && ok(dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
				t.Fatalf("unmount %s: %v", fields[4], err)
			}
		}
	}
}
