package agentpools

import (
	"context"
	"maps"
	"slices"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
)

// ready waits until the machines' nodes are Ready and gives them the labels and taints of the pool's document: those
// that a kubelet may not give itself, and those that have changed since it registered. What the document has no more
// is taken away, and nothing that came from elsewhere.
func (t service) ready(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster, machines []Machine) error {
	if len(machines) == 0 {
		return nil
	}
	names := make([]string, 0, len(machines))
	for _, m := range machines {
		names = append(names, m.Name)
	}
	if err := t.ControlPlane.NodesReady(ctx, c.Memory.ClusterID, names); err != nil {
		return err
	}
	p, mem := r.Model.Properties, r.Model.Memory
	for _, m := range machines {
		of := p
		of.NodeImageVersion = m.NodeImageVersion
		change := controlplane.NodeChange{Labels: labels(r.ID.Name(), of, c), Taints: p.NodeTaints}
		for _, k := range mem.UserLabels {
			if _, still := change.Labels[k]; !still {
				change.DropLabels = append(change.DropLabels, k)
			}
		}
		for _, taint := range mem.UserTaints {
			if !slices.Contains(p.NodeTaints, taint) {
				change.DropTaints = append(change.DropTaints, taint)
			}
		}
		if err := t.ControlPlane.ChangeNode(ctx, c.Memory.ClusterID, m.Name, change); err != nil {
			return err
		}
	}
	return nil
}

// remember adds the document's labels and taints to those that nodes may have. It comes before a node is given any.
func (mem *Memory) remember(p Properties) {
	for _, k := range slices.Sorted(maps.Keys(p.NodeLabels)) {
		if !slices.Contains(mem.UserLabels, k) {
			mem.UserLabels = append(mem.UserLabels, k)
		}
	}
	for _, taint := range p.NodeTaints {
		if !slices.Contains(mem.UserTaints, taint) {
			mem.UserTaints = append(mem.UserTaints, taint)
		}
	}
}

// described forgets the labels and taints that no node has any more.
func (t service) described(ctx context.Context, r *resourcetype.Reconciliation[Model]) error {
	mem := r.Model.Memory
	mem.UserLabels, mem.UserTaints = nil, nil
	mem.remember(r.Model.Properties)
	return r.Save(ctx)
}
