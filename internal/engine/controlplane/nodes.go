package controlplane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
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

// NodeChange is what is to be true of a node's object beside what its kubelet says of it.
type NodeChange struct {
	// Labels are set, those that a kubelet may not give itself included (kubernetes.io/role and the like, refused by
	// NodeRestriction); DropLabels are taken away.
	Labels     map[string]string
	DropLabels []string
	// Taints, as KEY=VALUE:EFFECT or KEY:EFFECT, are set and DropTaints taken away. Others stay as they are.
	Taints, DropTaints []string
	// Schedulable lets the node take pods again.
	Schedulable bool
}

// ChangeNode changes the node's object. The error is one of apierrors.IsNotFound before the node has registered.
func (e *Engine) ChangeNode(ctx context.Context, id, name string, c NodeChange) error {
	fail := func(err error) error { return fmt.Errorf("change node %s of control plane %s: %w", name, id, err) }
	client, err := e.clientset(id)
	if err != nil {
		return err
	}
	drop, err := parseTaints(c.DropTaints)
	if err != nil {
		return fail(err)
	}
	add, err := parseTaints(c.Taints)
	if err != nil {
		return fail(err)
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n, err := client.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return err
		}
		next := n.DeepCopy()
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
		for _, k := range c.DropLabels {
			delete(next.Labels, k)
		}
		maps.Copy(next.Labels, c.Labels)
		next.Spec.Taints = slices.DeleteFunc(next.Spec.Taints, func(t core.Taint) bool {
			same := func(o core.Taint) bool { return o.MatchTaint(&t) }
			return slices.ContainsFunc(drop, same) || slices.ContainsFunc(add, same)
		})
		next.Spec.Taints = append(next.Spec.Taints, add...)
		if c.Schedulable {
			next.Spec.Unschedulable = false
		}
		if equality.Semantic.DeepEqual(n, next) {
			return nil
		}
		_, err = client.CoreV1().Nodes().Update(ctx, next, meta.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// parseTaints reads taints as kubectl and AKS write them.
func parseTaints(list []string) ([]core.Taint, error) {
	var out []core.Taint
	for _, s := range list {
		rest, effect, ok := strings.Cut(s, ":")
		key, value, _ := strings.Cut(rest, "=")
		switch e := core.TaintEffect(effect); {
		case !ok || key == "", e != core.TaintEffectNoSchedule && e != core.TaintEffectPreferNoSchedule && e != core.TaintEffectNoExecute:
			return nil, fmt.Errorf("%q is no taint: want KEY=VALUE:NoSchedule, PreferNoSchedule or NoExecute", s)
		default:
			out = append(out, core.Taint{Key: key, Value: value, Effect: e})
		}
	}
	return out, nil
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
