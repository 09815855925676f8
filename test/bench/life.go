package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// What is measured of one installation's life, in the table's order.
const (
	metricUp      = "cloister up, nothing there but what is built"
	metricRestart = "cloister up, with a stopped cluster"
	metricResume  = "… until that cluster's API server is ready"
)

func metricCreate(nodes int) string {
	return fmt.Sprintf("aks create, %d node(s), until Succeeded and Ready", nodes)
}
func metricTop(nodes int) string { return fmt.Sprintf("… until kubectl top nodes shows %d", nodes) }
func metricDelete(nodes int) string {
	return fmt.Sprintf("aks delete, %d node(s), until nothing is left", nodes)
}

// create makes a cluster as the walkthrough does, looks whether it is what it says it is, and waits for its metrics.
func (r *record) create(ctx context.Context, in *installation, nodes int) error {
	name := fmt.Sprintf("nodes%d", nodes)
	meter, err := in.startMeter()
	if err != nil {
		return err
	}
	err = in.cloister(ctx, "az", "aks", "create", "--resource-group", "bench", "--name", name, "--node-count", fmt.Sprint(nodes),
		"--kubernetes-version", "1.30.3", "--bootstrap-artifact-source", "Cache", "--outbound-type", "none",
		"--network-plugin", "azure", "--enable-private-cluster", "--output", "none")
	if err != nil {
		return err
	}
	share, err := meter.stop()
	if err != nil {
		return err
	}
	var timeline adminapi.Timeline
	if err := in.query(ctx, &timeline, "timeline", "bench/"+name, "-o", "json"); err != nil {
		return err
	}
	if timeline.End == nil {
		return fmt.Errorf("the create of %s has ended, and its operation has not", name)
	}
	if err := in.verify(ctx, name, nodes); err != nil {
		return fmt.Errorf("the operation says Succeeded, but %w", err)
	}
	total := timeline.End.Sub(timeline.Start)
	r.add(metricCreate(nodes), total.Seconds())
	r.creates = append(r.creates, creation{Nodes: nodes, Timeline: timeline, Processor: share})
	progress("created in %.1f s, others kept %.1f cores busy", total.Seconds(), share.Others)
	if in.short {
		return nil
	}
	script := fmt.Sprintf(`until [ "$(kubectl top nodes --no-headers 2>/dev/null | grep -vc unknown)" = %d ]; do sleep 0.2; done; date +%%s.%%N`, nodes)
	out, err := in.kubectl(ctx, name, script)
	if err != nil {
		return fmt.Errorf("wait for the cluster's metrics: %w", err)
	}
	var answered float64
	if _, err := fmt.Sscan(string(out), &answered); err != nil {
		return fmt.Errorf("read the time %q: %w", out, err)
	}
	started := float64(timeline.Start.UnixNano()) / 1e9
	r.add(metricTop(nodes), answered-started)
	return nil
}

// verify asks the cluster itself.
func (in *installation) verify(ctx context.Context, cluster string, want int) error {
	out, err := in.kubectl(ctx, cluster, "kubectl get nodes -o json; kubectl get pods -n kube-system -o json")
	if err != nil {
		return err
	}
	var nodes core.NodeList
	var pods core.PodList
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for _, list := range []any{&nodes, &pods} {
		if err := decoder.Decode(list); err != nil {
			return err
		}
	}
	if len(nodes.Items) != want {
		return fmt.Errorf("there are %d nodes, not %d", len(nodes.Items), want)
	}
	for _, n := range nodes.Items {
		if !isTrue(n.Status.Conditions, func(c core.NodeCondition) bool {
			return c.Type == core.NodeReady && c.Status == core.ConditionTrue
		}) {
			return fmt.Errorf("node %s is not Ready", n.Name)
		}
	}
	proxies := 0
	for _, p := range pods.Items {
		if p.Labels["component"] == "kube-proxy" {
			proxies++
		}
		// It is Ready when it has scraped twice, ten seconds apart.
		if p.Labels["k8s-app"] == "metrics-server" {
			continue
		}
		if !isTrue(p.Status.Conditions, func(c core.PodCondition) bool {
			return c.Type == core.PodReady && c.Status == core.ConditionTrue
		}) {
			return fmt.Errorf("pod %s is not Ready", p.Name)
		}
	}
	if proxies != want {
		return fmt.Errorf("there are %d pods of kube-proxy, not %d", proxies, want)
	}
	return nil
}

func isTrue[C any](conditions []C, is func(C) bool) bool {
	for _, c := range conditions {
		if is(c) {
			return true
		}
	}
	return false
}

// restart stops everything and starts it again.
func (r *record) restart(ctx context.Context, in *installation, nodes int) error {
	if err := in.cloister(ctx, "down"); err != nil {
		return err
	}
	if err := awaitQuiet(ctx, in.quiet); err != nil {
		return err
	}
	started := time.Now()
	if err := r.measure(metricRestart, func() error { return in.cloister(ctx, "up") }); err != nil {
		return err
	}
	name := fmt.Sprintf("nodes%d", nodes)
	if _, err := in.kubectl(ctx, name, `until kubectl --request-timeout 1s get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done`); err != nil {
		return err
	}
	r.add(metricResume, time.Since(started).Seconds())
	// To delete a cluster of which half is still starting is another measurement.
	return sleep(ctx, 5*time.Second)
}

// leftLimit is how long after a delete bench looks for what is left.
const leftLimit = 20 * time.Second

// remove deletes the cluster, until there is on the machine what there was before it.
func (r *record) remove(ctx context.Context, in *installation, nodes int, before map[string]bool) error {
	return r.measure(metricDelete(nodes), func() error {
		if err := in.cloister(ctx, "az", "aks", "delete", "--resource-group", "bench", "--name", fmt.Sprintf("nodes%d", nodes), "--yes"); err != nil {
			return err
		}
		// Nothing tells when the last thing is gone.
		deadline := time.Now().Add(leftLimit)
		for {
			now, err := in.inventory()
			if err != nil {
				return err
			}
			var left []string
			for what := range now {
				if !before[what] {
					left = append(left, what)
				}
			}
			if len(left) == 0 {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("left of the cluster after %s: %q", leftLimit, left)
			}
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

// measure times fn.
func (r *record) measure(name string, fn func() error) error {
	began := time.Now()
	if err := fn(); err != nil {
		return err
	}
	took := time.Since(began)
	r.add(name, took.Seconds())
	progress("%s: %.2f s", name, took.Seconds())
	return nil
}
