package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// UndrainableError is returned when a pod did not leave a node in time.
type UndrainableError struct {
	Node, Namespace, Pod string
	// Refused is what the API server said to the last try at evicting the pod; "" when it agreed, and the pod did not end.
	Refused string
	// Budgets are the disruption budgets that cover the pod, and Unready its fellows that they wait for.
	Budgets, Unready []string
}

func (e *UndrainableError) Error() string {
	if e.Refused == "" {
		return fmt.Sprintf("node %s: pod %s/%s did not end in time", e.Node, e.Namespace, e.Pod)
	}
	return fmt.Sprintf("node %s: pod %s/%s was not evicted in time: %s", e.Node, e.Namespace, e.Pod, e.Refused)
}

// Drain makes the node take no more pods and evicts those it has, as `kubectl drain
// --ignore-daemonsets --delete-emptydir-data --force` does: a disruption budget is respected for the time given, 0
// for as long as it takes. When it is over, the error is an *UndrainableError. A node that is not there is no error.
func (e *Engine) Drain(ctx context.Context, id, name string, timeout time.Duration) error {
	fail := func(err error) error { return fmt.Errorf("drain node %s of control plane %s: %w", name, id, err) }
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`), meta.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	list, err := client.CoreV1().Pods("").List(ctx, meta.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return fail(err)
	}
	limit := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	g, limit := errgroup.WithContext(limit)
	for i := range list.Items {
		if pod := &list.Items[i]; evictable(pod) {
			g.Go(func() error { return evict(limit, client, pod, list.ResourceVersion) })
		}
	}
	err = g.Wait()
	var stuck *UndrainableError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stuck) && ctx.Err() == nil:
		stuck.explain(ctx, client)
	}
	return fail(err)
}

// evictable leaves out pods that would come back on the same node, and those of the kubelet's own.
func evictable(pod *core.Pod) bool {
	if _, mirror := pod.Annotations[core.MirrorPodAnnotationKey]; mirror {
		return false
	}
	owner := meta.GetControllerOf(pod)
	return owner == nil || owner.Kind != "DaemonSet"
}

// evictAgain is how long after a refusal a pod's eviction is asked for again when the answer does not say: a budget's
// state is not announced to who waits for it.
const evictAgain = time.Second

// evict evicts one pod and returns when it is gone. since is the resource version at which the pod was seen: its own may
// be older than what an API server that was just started remembers.
func evict(ctx context.Context, client kubernetes.Interface, pod *core.Pod, since string) error {
	fail := func(err error) error { return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err) }
	late := func(refused string) error {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fail(ctx.Err())
		}
		return &UndrainableError{Node: pod.Spec.NodeName, Namespace: pod.Namespace, Pod: pod.Name, Refused: refused}
	}
	pods := client.CoreV1().Pods(pod.Namespace)
	watcher, err := pods.Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + pod.Name, ResourceVersion: since})
	if err != nil {
		return fail(err)
	}
	defer watcher.Stop()
	refused := ""
	for {
		err := pods.EvictV1(ctx, &policy.Eviction{
			ObjectMeta:    meta.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
			DeleteOptions: &meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &pod.UID}},
		})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone, or another of its name
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return late(refused)
		}
		if !apierrors.IsTooManyRequests(err) {
			return fail(err)
		}
		// A disruption budget forbids it now.
		refused = err.Error()
		wait := evictAgain
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			wait = time.Duration(seconds) * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return late(refused)
		}
	}
	for {
		select {
		case event, ok := <-watcher.ResultChan():
			if !ok {
				if ctx.Err() != nil {
					return late("")
				}
				return fail(errors.New("the watch for its end was cut"))
			}
			if event.Type == "DELETED" {
				return nil
			}
			if event.Type == "ERROR" {
				return fail(apierrors.FromObject(event.Object))
			}
		case <-ctx.Done():
			return late("")
		}
	}
}

// explain finds the budgets that held the pod. What cannot be found out is left out.
func (e *UndrainableError) explain(ctx context.Context, client kubernetes.Interface) {
	if e.Refused == "" {
		return
	}
	pod, err := client.CoreV1().Pods(e.Namespace).Get(ctx, e.Pod, meta.GetOptions{})
	if err != nil {
		return
	}
	budgets, err := client.PolicyV1().PodDisruptionBudgets(e.Namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return
	}
	for _, b := range budgets.Items {
		selector, err := meta.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		e.Budgets = append(e.Budgets, b.Name)
		fellows, err := client.CoreV1().Pods(e.Namespace).List(ctx, meta.ListOptions{LabelSelector: selector.String()})
		if err != nil {
			continue
		}
		for i := range fellows.Items {
			if p := newPod(&fellows.Items[i]); !p.Ready {
				e.Unready = append(e.Unready, e.Namespace+"/"+p.Name)
			}
		}
	}
}

// Details is the tail of AKS's message on a pod that a budget holds.
func (e *UndrainableError) Details() string {
	if len(e.Budgets) == 0 {
		return ""
	}
	s := fmt.Sprintf("PDB debug info: %s/%s blocked by pdb %s with %d unready pods", e.Namespace, e.Pod, strings.Join(e.Budgets, ", "), len(e.Unready))
	if len(e.Unready) > 0 {
		s += ": [" + strings.Join(e.Unready, " ") + "]"
	}
	return s + "."
}

// DeleteNode removes the node from the cluster's API, and after it the pods that it had: nobody else tells that they
// are gone, and a machine of the same name may come at once. One that is not there is no error.
func (e *Engine) DeleteNode(ctx context.Context, id, name string) error {
	fail := func(err error) error { return fmt.Errorf("delete node %s of control plane %s: %w", name, id, err) }
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	if err := client.CoreV1().Nodes().Delete(ctx, name, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fail(err)
	}
	list, err := client.CoreV1().Pods("").List(ctx, meta.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return fail(err)
	}
	for _, pod := range list.Items {
		now := int64(0)
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &meta.Preconditions{UID: &pod.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fail(err)
		}
	}
	return nil
}
