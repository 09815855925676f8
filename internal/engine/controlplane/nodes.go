package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// State is what a cluster's API says of its nodes and of the pods in kube-system.
type State struct {
	Nodes []Node
	Pods  []Pod
}

// Node is one node.
type Node struct {
	Name          string
	Ready         bool
	Message       string // why it is not ready, in the kubelet's words
	Unschedulable bool
	Labels        map[string]string
}

// Pod is one pod in kube-system.
type Pod struct {
	Name, Node string
	App        string // its label k8s-app or component
	Ready      bool
	Message    string // why it is not ready
}

// Ready reports whether these nodes are ready and every add-on runs as it should, metrics-server
// excepted, which is not ready before it has scraped twice. missing says what is not.
func (s State) Ready(nodes []string) (missing string, ok bool) {
	var out []string
	for _, name := range nodes {
		i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
		switch {
		case i < 0:
			out = append(out, "node "+name+" has not registered")
		case !s.Nodes[i].Ready:
			out = append(out, "node "+name+" is not ready: "+s.Nodes[i].Message)
		case !slices.ContainsFunc(s.Pods, func(p Pod) bool { return p.App == "kube-proxy" && p.Node == name }):
			out = append(out, "node "+name+" has no kube-proxy yet")
		}
	}
	if !slices.ContainsFunc(s.Pods, func(p Pod) bool { return p.App == "kube-dns" }) {
		out = append(out, "no pod of CoreDNS yet")
	}
	for _, p := range s.Pods {
		if !p.Ready && p.App != "metrics-server" {
			out = append(out, "pod "+p.Name+" is not ready: "+p.Message)
		}
	}
	return strings.Join(out, "; "), len(out) == 0
}

// Watch calls fn with the cluster's state, first as it is, then whenever it changes, until ctx ends or
// fn returns true, which ends it without an error. fn is never called twice at once. The API server may
// go away and come back meanwhile.
func (e *Engine) Watch(ctx context.Context, id string, fn func(State) (done bool)) error {
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	notify := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: notify, UpdateFunc: func(_, o any) { notify(o) }, DeleteFunc: notify}
	all := informers.NewSharedInformerFactory(client, 0)
	system := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(meta.NamespaceSystem))
	nodes, pods := all.Core().V1().Nodes(), system.Core().V1().Pods()
	for _, informer := range []cache.SharedIndexInformer{nodes.Informer(), pods.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watch control plane %s: %w", id, err)
		}
	}
	all.Start(ctx.Done())
	system.Start(ctx.Done())
	defer all.Shutdown()
	defer system.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced, pods.Informer().HasSynced) {
		return fmt.Errorf("watch control plane %s: %w", id, ctx.Err())
	}
	for {
		var s State
		nodeList, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("watch control plane %s: %w", id, err)
		}
		podList, err := pods.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("watch control plane %s: %w", id, err)
		}
		for _, n := range nodeList {
			s.Nodes = append(s.Nodes, newNode(n))
		}
		for _, p := range podList {
			s.Pods = append(s.Pods, newPod(p))
		}
		slices.SortFunc(s.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		slices.SortFunc(s.Pods, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
		if fn(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("watch control plane %s: %w", id, ctx.Err())
		}
	}
}

func newNode(n *core.Node) Node {
	out := Node{Name: n.Name, Unschedulable: n.Spec.Unschedulable, Labels: n.Labels, Message: "the kubelet has not reported"}
	for _, c := range n.Status.Conditions {
		if c.Type == core.NodeReady {
			out.Ready, out.Message = c.Status == core.ConditionTrue, c.Message
		}
	}
	return out
}

func newPod(p *core.Pod) Pod {
	out := Pod{Name: p.Name, Node: p.Spec.NodeName, App: p.Labels["k8s-app"], Message: string(p.Status.Phase)}
	if out.App == "" {
		out.App = p.Labels["component"]
	}
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodReady && c.Status == core.ConditionTrue {
			out.Ready = true
		}
		if c.Type == core.PodScheduled && c.Status != core.ConditionTrue {
			out.Message = c.Message
		}
	}
	for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			out.Message = strings.TrimSpace(w.Reason + " " + w.Message)
		}
	}
	return out
}

// WaitHealthy returns when State.Ready holds for these nodes.
func (e *Engine) WaitHealthy(ctx context.Context, id string, nodes []string) error {
	var missing string
	err := e.Watch(ctx, id, func(s State) (ok bool) {
		missing, ok = s.Ready(nodes)
		return ok
	})
	if err != nil && missing != "" {
		return fmt.Errorf("%w: %s", err, missing)
	}
	return err
}

// anyNodeReady reports whether a pod could run anywhere.
func (e *Engine) anyNodeReady(ctx context.Context, id string) (bool, error) {
	client, err := e.clientset(id)
	if err != nil {
		return false, err
	}
	list, err := client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list the nodes of control plane %s: %w", id, err)
	}
	return slices.ContainsFunc(list.Items, func(n core.Node) bool { return newNode(&n).Ready }), nil
}

// rootCA is what a controller publishes in every namespace. All controllers begin to work together, when the last of
// them has been set up, and this is the first work that there is for one in a new cluster.
const rootCA = "kube-root-ca.crt"

// awaitControllers returns when the controllers work. Those that give kubelets their certificates are the ones that
// it is for; they do nothing that could be seen before a kubelet asks.
func (e *Engine) awaitControllers(ctx context.Context, id string) error {
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	for {
		watcher, err := client.CoreV1().ConfigMaps(meta.NamespaceSystem).Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + rootCA})
		if err != nil {
			return fmt.Errorf("watch the controllers of control plane %s: %w", id, err)
		}
		for event := range watcher.ResultChan() {
			if event.Type == watch.Added || event.Type == watch.Modified {
				watcher.Stop()
				return nil
			}
		}
		watcher.Stop() // the API server ends a watch after some minutes
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("the controllers of control plane %s do not start: %w", id, err)
		}
	}
}

// LabelNode sets labels that a kubelet may not give itself (kubernetes.io/role and the like, refused by
// NodeRestriction). The error is one of apierrors.IsNotFound before the node has registered.
func (e *Engine) LabelNode(ctx context.Context, id, name string, labels map[string]string) error {
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err == nil {
		_, err = client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, meta.PatchOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("label node %s of control plane %s: %w", name, id, err)
	}
	return nil
}

// Drain makes the node take no more pods and evicts those it has, as `kubectl drain
// --ignore-daemonsets --delete-emptydir-data --force` does: a disruption budget is respected until ctx
// ends. A node that is not there is no error.
func (e *Engine) Drain(ctx context.Context, id, name string) error {
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
	g, ctx := errgroup.WithContext(ctx)
	for i := range list.Items {
		if pod := &list.Items[i]; evictable(pod) {
			g.Go(func() error { return evict(ctx, client, pod) })
		}
	}
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	return nil
}

// evictable leaves out pods that would come back on the same node, and those of the kubelet's own.
func evictable(pod *core.Pod) bool {
	if _, mirror := pod.Annotations[core.MirrorPodAnnotationKey]; mirror {
		return false
	}
	owner := meta.GetControllerOf(pod)
	return owner == nil || owner.Kind != "DaemonSet"
}

// evict evicts one pod and returns when it is gone.
func evict(ctx context.Context, client kubernetes.Interface, pod *core.Pod) error {
	fail := func(err error) error { return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err) }
	pods := client.CoreV1().Pods(pod.Namespace)
	watcher, err := pods.Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + pod.Name, ResourceVersion: pod.ResourceVersion})
	if err != nil {
		return fail(err)
	}
	defer watcher.Stop()
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
		if !apierrors.IsTooManyRequests(err) {
			return fail(err)
		}
		// A disruption budget forbids it now. The answer says when to ask again, and that is all
		// the API tells.
		wait := 5 * time.Second
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			wait = time.Duration(seconds) * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fail(fmt.Errorf("%w: %w", ctx.Err(), err))
		}
	}
	for {
		select {
		case event, ok := <-watcher.ResultChan():
			if !ok {
				return fail(errors.New("the watch for its end was cut"))
			}
			if event.Type == "DELETED" {
				return nil
			}
			if event.Type == "ERROR" {
				return fail(apierrors.FromObject(event.Object))
			}
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// DeleteNode removes the node from the cluster's API. One that is not there is no error. Its pods are
// then removed by the pod garbage collector.
func (e *Engine) DeleteNode(ctx context.Context, id, name string) error {
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	if err := client.CoreV1().Nodes().Delete(ctx, name, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s of control plane %s: %w", name, id, err)
	}
	return nil
}

func (e *Engine) clientset(id string) (*kubernetes.Clientset, error) {
	config, err := e.Client(id)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", id, err)
	}
	return client, nil
}
