package agentpools

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// reconcile makes the pool's machines agree with its document, and writes down why it could not: the
// cluster shows that as its own error.
func (t service) reconcile(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	cluster, _ := r.ID.Parent()
	result, err := t.run(ctx, r)
	if fault, final := armerror.As(err); final && !r.Deleting {
		if fault.Code == extensionCode {
			fault = t.Reports.Explain(ctx, cluster, fault)
		}
		r.Model.Memory.Fault = fault
		return result, errors.Join(fault, r.Save(ctx))
	}
	if err == nil && !result.Waiting && !r.Deleting && r.Requested {
		result.Report = t.Reports.Of(ctx, cluster)
	}
	return result, err
}

func (t service) run(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	clusterID, _ := r.ID.Parent()
	var c cluster
	err := r.Client.Get(ctx, clusterID, &c)
	if errors.Is(err, resourcestore.ErrNotFound) && r.Deleting {
		err = nil
	}
	if err != nil {
		return resourcetype.Result{}, err
	}
	if r.Deleting {
		return t.removeAll(ctx, r, c)
	}
	if r.Model.stopped() {
		return resourcetype.Result{}, t.stop(ctx, r, c)
	}
	if !c.Memory.Infrastructure || newer(t.target(r.Model.Properties, c), c.Properties.CurrentKubernetesVersion) {
		return resourcetype.Result{Waiting: true}, nil // a node is never newer than its control plane
	}
	if err := t.announce(ctx, r, c); err != nil {
		return resourcetype.Result{}, err
	}
	plan, err := t.plan(ctx, r, c)
	if err != nil {
		return resourcetype.Result{}, err
	}
	r.Step("network interfaces of " + r.ID.Name())
	if done, err := t.interfaces(ctx, r, c, plan); err != nil || !done {
		return resourcetype.Result{Waiting: true}, err
	}
	r.Step("nodes of " + r.ID.Name() + " start")
	if err := t.start(ctx, r, c, plan); err != nil {
		return resourcetype.Result{}, err
	}
	r.Step("nodes of " + r.ID.Name() + " provision")
	if err := t.provisioned(ctx, plan); err != nil {
		return resourcetype.Result{}, err
	}
	r.Step("nodes of " + r.ID.Name() + " become Ready")
	if err := t.ready(ctx, r, c, plan); err != nil {
		return resourcetype.Result{}, err
	}
	if err := t.renew(ctx, r, c); err != nil {
		return resourcetype.Result{}, err
	}
	// All are of the pool's model now; the nodes that were added for the time being may go.
	if _, err = t.plan(ctx, r, c); err != nil {
		return resourcetype.Result{}, err
	}
	if err := t.described(ctx, r); err != nil {
		return resourcetype.Result{}, err
	}
	r.Model.Memory.Provisioned = true
	if err := t.removeLeaving(ctx, r, c); err != nil {
		return resourcetype.Result{}, err
	}
	r.Model.Properties.NodeImageVersion = r.Model.Memory.Model.NodeImageVersion
	r.Model.Properties.CurrentOrchestratorVersion = r.Model.Memory.Model.KubernetesVersion
	return resourcetype.Result{}, nil
}

// plan decides which machines there are to be, and writes them down before any is made. It returns those that are of
// the pool's model; the others are renewed after them.
func (t service) plan(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) ([]Machine, error) {
	t.choosing.Lock()
	defer t.choosing.Unlock()
	mem := r.Model.Memory
	if mem.Model == nil {
		model := t.model(r.Model.Properties, c)
		mem.Model = &model
	}
	servers, err := nameservers(ctx, r.Client, subnetOf(r.Model.Properties, c))
	if err != nil {
		return nil, err
	}
	mem.Model.Nameservers = servers // DHCP's, and so not of the pool's own making: whoever starts now is told these
	for i := range mem.Machines {
		m := &mem.Machines[i]
		if mem.Off { // its disk went when it was stopped: it comes back as a new one
			m.NodeModel, m.Generation, m.Phase = *mem.Model, mem.Generation, ""
		}
		if m.KubernetesVersion == "" { // never provisioned, or written down before models were
			server := or(m.RegistryServer, mem.Model.RegistryServer)
			m.NodeModel = *mem.Model
			m.RegistryServer = server
		}
	}
	mem.Off = false
	var regular []int // by place in Machines, oldest first
	surging, outdated := 0, 0
	for i, m := range mem.Machines {
		switch {
		case m.Leaving:
		case m.Surge:
			surging++
		default:
			regular = append(regular, i)
		}
	}
	want := *r.Model.Properties.Count
	for len(regular) > want { // the newest go first, as a scale set's do
		last := len(regular) - 1
		mem.Machines[regular[last]].Leaving = true
		regular = regular[:last]
	}
	for _, i := range regular {
		if mem.Machines[i].outdated(mem) {
			outdated++
		}
	}
	surge := 0
	if outdated > 0 {
		surge = max(0, min(r.Model.Properties.UpgradeSettings.surge(want), outdated)-surging)
	} else {
		for i := range mem.Machines {
			mem.Machines[i].Leaving = mem.Machines[i].Leaving || mem.Machines[i].Surge
		}
	}
	missing := want - len(regular)
	if missing+surge > 0 {
		bases, err := t.freeUIDs(ctx, r, missing+surge)
		if err != nil {
			return nil, err
		}
		group := resourceid.Group(r.ID.Subscription(), c.Properties.NodeResourceGroup)
		for n, base := range bases {
			name := fmt.Sprintf("aks-%s-%s-vmss%s", r.ID.Name(), c.Memory.Suffix, base36(mem.NextIndex))
			mem.Machines = append(mem.Machines, Machine{
				ID: machineID(c.Memory.ClusterID, name), Name: name, UIDBase: base,
				NIC:   group.Resource("Microsoft.Network/networkInterfaces", name+"-nic").String(),
				Surge: n >= missing, Generation: mem.Generation, NodeModel: *mem.Model,
			})
			mem.NextIndex++
		}
	}
	var settled []Machine
	for _, m := range mem.Machines {
		if !m.Leaving && !m.outdated(mem) {
			settled = append(settled, m)
		}
	}
	return settled, r.Save(ctx)
}

// The first range starts above the ids that distributions give to users and containers.
const (
	firstUIDRange = 16
	uidRanges     = 255 - firstUIDRange
)

// freeUIDs finds id ranges that no machine of the installation has.
func (t service) freeUIDs(ctx context.Context, r *resourcetype.Reconciliation[Model], n int) ([]uint32, error) {
	pools, err := r.Client.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return nil, err
	}
	taken := map[uint32]bool{}
	for _, p := range pools {
		var m Model
		if err := r.Client.Get(ctx, p.ID, &m); err != nil {
			return nil, err
		}
		if m.Memory != nil {
			for _, machine := range m.Memory.Machines {
				taken[machine.UIDBase] = true
			}
		}
	}
	for _, machine := range r.Model.Memory.Machines {
		taken[machine.UIDBase] = true
	}
	free := make([]uint32, 0, n)
	for i := uint32(0); i < uidRanges && len(free) < n; i++ {
		if base := (firstUIDRange + (t.FirstRange+i)%uidRanges) * UIDCount; !taken[base] {
			free = append(free, base)
		}
	}
	if len(free) < n {
		return nil, armerror.New("QuotaExceeded", "This machine has user id ranges for %d nodes; %d more were asked for.", uidRanges, n)
	}
	return free, nil
}

// start makes the machines run, all at once.
func (t service) start(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster, machines []Machine) error {
	ca, token, err := t.ControlPlane.Join(ctx, c.Memory.ClusterID)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range machines {
		g.Go(func() error {
			config, err := t.nodeConfig(gctx, r, c, m, ca, token)
			if err != nil {
				return err
			}
			return t.Nodes.Set(gctx, config)
		})
	}
	return g.Wait()
}

// provisioned waits for all machines and joins what went wrong into the error that ARM shows for a scale set.
func (t service) provisioned(ctx context.Context, machines []Machine) error {
	var mu sync.Mutex
	var faults []*armerror.Error
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range machines {
		g.Go(func() error {
			result, err := t.Nodes.Provisioned(gctx, m.ID)
			if err != nil {
				return err
			}
			if result.ExitCode != bootstrap.Success {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, extensionError(m.Name, result))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(faults) == 0 {
		return nil
	}
	slices.SortFunc(faults, func(a, b *armerror.Error) int { return strings.Compare(a.Target, b.Target) })
	first := *faults[0]
	first.Target = ""
	first.Details = faults
	return &first
}

// maxOutput is how much of a node's provisioning log the error carries, in bytes; Azure's is 3000.
const maxOutput = 3000

const extensionCode = "VMExtensionProvisioningError"

// extensionError is the error of the custom script extension, in the words of Azure.
func extensionError(name string, result bootstrap.Result) *armerror.Error {
	d := bootstrap.Describe(result.ExitCode)
	output := result.Output
	if len(output) > maxOutput {
		output = output[len(output)-maxOutput:]
	}
	e := armerror.New(extensionCode,
		"VM has reported a failure when processing extension 'vmssCSE' (publisher 'Microsoft.Azure.Extensions' and type 'CustomScript'). Error message: 'Enable failed: failed to execute command: command terminated with exit status=%d\n[stdout]\n%s\n[stderr]\n'. %s %s More information on troubleshooting is available at https://aka.ms/VMExtensionCSELinuxTroubleshoot.",
		result.ExitCode, output, d.Name, d.Hint)
	e.Target = name
	return e
}

// removeLeaving takes machines away that a smaller count leaves over: drained first, then deleted.
func (t service) removeLeaving(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) error {
	for _, m := range slices.Clone(r.Model.Memory.Machines) {
		if !m.Leaving {
			continue
		}
		r.Step("drain " + m.Name)
		if err := t.leave(ctx, r.Model.Properties, c, m); err != nil {
			return err
		}
		if err := t.remove(ctx, r, m); err != nil {
			return err
		}
		r.Model.Memory.Machines = slices.DeleteFunc(r.Model.Memory.Machines, func(o Machine) bool { return o.ID == m.ID })
		if err := r.Save(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave drains the machine's node and takes it out of the cluster.
func (t service) leave(ctx context.Context, p Properties, c cluster, m Machine) error {
	if err := t.ControlPlane.Drain(ctx, c.Memory.ClusterID, m.Name, p.UpgradeSettings.drainTimeout()); err != nil {
		return undrainable(codeDrain, err)
	}
	return t.ControlPlane.DeleteNode(ctx, c.Memory.ClusterID, m.Name)
}

func (t service) remove(ctx context.Context, r *resourcetype.Reconciliation[Model], m Machine) error {
	if err := t.Nodes.Remove(ctx, m.ID); err != nil {
		return err
	}
	_, err := r.Client.Delete(ctx, resourceid.MustParse(m.NIC))
	return err
}

// removeAll ends every machine of the pool at once. When only the pool goes, its nodes are drained and
// leave the cluster; when the cluster goes with it there is nobody left to tell.
func (t service) removeAll(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) (resourcetype.Result, error) {
	if r.Model.Memory == nil {
		return resourcetype.Result{}, nil
	}
	clusterGoes := c.Properties.ProvisioningState == "Deleting" || c.Memory.ClusterID == ""
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range r.Model.Memory.Machines {
		g.Go(func() error {
			if !clusterGoes {
				if err := t.leave(gctx, r.Model.Properties, c, m); err != nil {
					return err
				}
			}
			return t.remove(gctx, r, m)
		})
	}
	return resourcetype.Result{}, g.Wait()
}
