package agentpools

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
)

// Renewing a pool gives each node a new disk and has it bootstrapped anew with the pool's model: a reimage, or an
// upgrade when the model has another version of Kubernetes. As a scale set's reimage it keeps a node's name and
// network interface. While it lasts the pool has maxSurge more nodes, which go at the end
// (https://learn.microsoft.com/azure/aks/upgrade-aks-cluster, "Customize node surge upgrade").

// Provisioning states of a pool that is renewed.
const (
	stateImage   = "UpgradingNodeImageVersion"
	stateUpgrade = "Upgrading"
)

// Codes of what a pool cannot do. codeUpgrade and its message are Azure's.
const (
	codeUpgrade = "UpgradeFailed"
	codeDrain   = "PodDrainFailure"
)

const (
	defaultDrainTimeout = 30 * time.Minute
	maxDrainTimeout     = 1440 // minutes
	maxSoak             = 30   // minutes
	// leastDrain is what a drain has left that began before a restart of the service, however long ago.
	leastDrain = 10 * time.Second
	// surgeDrain is how long a node may take to leave that was added in vain.
	surgeDrain = 20 * time.Second
)

var surgePattern = regexp.MustCompile(`^[1-9][0-9]*%?$`)

// surge is the number of nodes that a renewal of count nodes adds: a percentage is rounded up.
func (u *UpgradeSettings) surge(count int) int {
	s := u.MaxSurge
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.Atoi(percent)
		if err != nil {
			return 1
		}
		return max(1, int(math.Ceil(float64(n)*float64(count)/100)))
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 1
	}
	return max(1, n)
}

func (u *UpgradeSettings) drainTimeout() time.Duration {
	if u == nil || u.DrainTimeoutInMinutes == 0 {
		return defaultDrainTimeout
	}
	return time.Duration(u.DrainTimeoutInMinutes) * time.Minute
}

func (u *UpgradeSettings) validate() error {
	refuse := func(property, format string, args ...any) error {
		return armerror.New(armerror.InvalidParameter, format, args...).WithTarget("properties.upgradeSettings." + property)
	}
	if percent, is := strings.CutSuffix(u.MaxSurge, "%"); !surgePattern.MatchString(u.MaxSurge) || is && len(percent) > 2 && percent != "100" {
		return refuse("maxSurge", "The value of parameter agentPoolProfile.upgradeSettings.maxSurge is invalid: %q is neither a number of nodes from 1 nor a percentage from 1%% to 100%%.", u.MaxSurge)
	}
	if u.DrainTimeoutInMinutes < 0 || u.DrainTimeoutInMinutes > maxDrainTimeout {
		return refuse("drainTimeoutInMinutes", "The value of parameter agentPoolProfile.upgradeSettings.drainTimeoutInMinutes is invalid: %d is not between 1 and %d.", u.DrainTimeoutInMinutes, maxDrainTimeout)
	}
	if u.NodeSoakDurationInMinutes < 0 || u.NodeSoakDurationInMinutes > maxSoak {
		return refuse("nodeSoakDurationInMinutes", "The value of parameter agentPoolProfile.upgradeSettings.nodeSoakDurationInMinutes is invalid: %d is not between 0 and %d.", u.NodeSoakDurationInMinutes, maxSoak)
	}
	if u.MaxUnavailable != "" && u.MaxUnavailable != "0" && u.MaxUnavailable != "0%" {
		return armerror.New(armerror.NotSupported, "Upgrades that take nodes away first (maxUnavailable %s) are not supported by Cloister; use maxSurge.", u.MaxUnavailable).WithTarget("properties.upgradeSettings.maxUnavailable")
	}
	if b := u.UndrainableNodeBehavior; b != "" && b != "Schedule" {
		return armerror.New(armerror.NotSupported, "undrainableNodeBehavior %q is not supported by Cloister; use 'Schedule'.", b).WithTarget("properties.upgradeSettings.undrainableNodeBehavior")
	}
	return nil
}

// takeOver has the pool take over what its cluster says, with the next reconcile, and all its nodes with it.
func (mem *Memory) takeOver() {
	mem.Model = nil
	mem.Generation++
}

// outdated reports whether the node is to be renewed, or is half way.
func (m Machine) outdated(mem *Memory) bool {
	return !m.Surge && (m.Generation < mem.Generation || m.Phase != "")
}

// image names what the node's disk is made from: another name is another disk.
func (m Machine) image() string {
	if m.Generation == 0 {
		return m.NodeImageVersion
	}
	return fmt.Sprintf("%s/%d", m.NodeImageVersion, m.Generation)
}

// upgradeNodeImage answers POST upgradeNodeImageVersion: every node gets a new disk from the newest node image, also
// when it has that image.
func (t service) upgradeNodeImage(ctx context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	if err := t.mayAct(ctx, r, "upgradeNodeImageVersion"); err != nil {
		return nil, err
	}
	mem := r.Model.Memory
	mem.takeOver()
	if r.Model.Properties.ProvisioningState == "Failed" {
		mem.Attempt++
		mem.Fault = nil
	}
	r.Model.Properties.ProvisioningState = stateImage
	return nil, nil
}

// deleteMachines answers POST deleteMachines: named nodes leave, and the pool is so much smaller.
func (t service) deleteMachines(ctx context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
	if err := t.mayAct(ctx, r, "deleteMachines"); err != nil {
		return nil, err
	}
	var body struct {
		MachineNames []string `json:"machineNames"`
	}
	if err := decode(r.Body, &body); err != nil {
		return nil, err
	}
	p, mem := &r.Model.Properties, r.Model.Memory
	for _, name := range body.MachineNames {
		i := slices.IndexFunc(mem.Machines, func(m Machine) bool { return m.Name == name && !m.Leaving })
		if i < 0 {
			return nil, armerror.New(armerror.InvalidParameter, "The agent pool %s has no machine %q.", r.ID.Name(), name).WithTarget("machineNames")
		}
		mem.Machines[i].Leaving = true
		p.Count = ptr(*p.Count - 1)
	}
	if *p.Count < 1 && p.Mode == "System" {
		return nil, armerror.New("OperationNotAllowed", "A System pool has at least one node: not all machines of %s can be deleted.", r.ID.Name())
	}
	return nil, nil
}

// announce shows what kind of work is under way.
func (t service) announce(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) error {
	p, mem := &r.Model.Properties, r.Model.Memory
	was := p.ProvisioningState
	switch {
	case !r.Requested:
		return nil
	case mem.Off:
		p.ProvisioningState = "Starting"
	case p.CurrentOrchestratorVersion != t.target(*p, c):
		p.ProvisioningState = stateUpgrade
	case slices.ContainsFunc(mem.Machines, func(m Machine) bool { return m.outdated(mem) }):
		p.ProvisioningState = stateImage
	}
	if p.ProvisioningState == was {
		return nil
	}
	return r.Save(ctx)
}

// renewal is one renewal of a pool's outdated nodes.
type renewal struct {
	service
	r *resourcetype.Reconciliation[Model]
	c cluster

	mu sync.Mutex // held for the model, which the nodes that are renewed at a time share
}

// renew gives outdated nodes their new disks, maxSurge at a time. The nodes that make up for them are Ready.
func (t service) renew(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster) error {
	o := &renewal{service: t, r: r, c: c}
	p, mem := r.Model.Properties, r.Model.Memory
	for {
		var batch []string
		for _, m := range mem.Machines { // those that are half way come first
			if !m.Leaving && m.Phase != "" {
				batch = append(batch, m.ID)
			}
		}
		for _, m := range mem.Machines {
			if !m.Leaving && m.outdated(mem) && m.Phase == "" && len(batch) < p.UpgradeSettings.surge(*p.Count) {
				batch = append(batch, m.ID)
			}
		}
		if len(batch) == 0 {
			return nil
		}
		var g errgroup.Group // a node that cannot be renewed leaves the others of its batch to end what they have begun
		for _, id := range batch {
			g.Go(func() error { return o.node(ctx, id) })
		}
		err := g.Wait()
		if stuck := (*controlplane.UndrainableError)(nil); errors.As(err, &stuck) {
			o.dropSurge(ctx)
			return undrainable(codeUpgrade, err)
		}
		if err != nil {
			return err
		}
	}
}

// node renews one node. Its phase is written down before each step.
func (o *renewal) node(ctx context.Context, id string) error {
	r, c, cluster := o.r, o.c, o.c.Memory.ClusterID
	settings := r.Model.Properties.UpgradeSettings
	for {
		m := o.machine(id)
		switch m.Phase {
		case "":
			now := time.Now().UTC()
			if err := o.write(ctx, id, func(m *Machine) { m.Phase, m.Draining = phaseDrain, &now }); err != nil {
				return err
			}
		case phaseDrain:
			o.step("drain " + m.Name)
			left := max(leastDrain, time.Until(m.Draining.Add(settings.drainTimeout())))
			if err := o.ControlPlane.Drain(ctx, cluster, m.Name, left); err != nil {
				if stuck := (*controlplane.UndrainableError)(nil); errors.As(err, &stuck) {
					// It stays what it was, and takes pods again.
					err = errors.Join(err, o.ControlPlane.ChangeNode(ctx, cluster, m.Name, controlplane.NodeChange{Schedulable: true}),
						o.write(ctx, id, func(m *Machine) { m.Phase, m.Draining = "", nil }))
				}
				return err
			}
			if err := o.write(ctx, id, func(m *Machine) { m.Phase, m.Draining = phaseLeave, nil }); err != nil {
				return err
			}
		case phaseLeave:
			// Before the machine goes: afterwards the object is that of the new node, which would not register again.
			if err := o.ControlPlane.DeleteNode(ctx, cluster, m.Name); err != nil {
				return err
			}
			if err := o.write(ctx, id, func(m *Machine) {
				m.Phase, m.Generation, m.NodeModel = phaseReimage, r.Model.Memory.Generation, *r.Model.Memory.Model
			}); err != nil {
				return err
			}
		case phaseReimage:
			o.step("reimage " + m.Name)
			if err := o.start(ctx, r, c, []Machine{m}); err != nil {
				return err
			}
			if err := o.provisioned(ctx, []Machine{m}); err != nil {
				return err
			}
			if err := o.ready(ctx, r, c, []Machine{m}); err != nil {
				return err
			}
			if err := sleep(ctx, time.Duration(settings.NodeSoakDurationInMinutes)*time.Minute); err != nil {
				return err
			}
			return o.write(ctx, id, func(m *Machine) { m.Phase = "" })
		default:
			return fmt.Errorf("node %s is in the unknown phase %q", m.Name, m.Phase)
		}
	}
}

func (o *renewal) machine(id string) Machine {
	o.mu.Lock()
	defer o.mu.Unlock()
	return *find(o.r.Model.Memory, id)
}

func (o *renewal) write(ctx context.Context, id string, change func(*Machine)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(find(o.r.Model.Memory, id))
	return o.r.Save(ctx)
}

func (o *renewal) step(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.r.Step(name)
}

// find returns the machine; the list does not change while nodes are renewed.
func find(mem *Memory, id string) *Machine {
	return &mem.Machines[slices.IndexFunc(mem.Machines, func(m Machine) bool { return m.ID == id })]
}

// dropSurge takes away, as far as that is easy, the nodes that were added for a renewal that has failed. What is left
// goes with the next request.
func (o *renewal) dropSurge(ctx context.Context) {
	mem := o.r.Model.Memory
	for i := range mem.Machines {
		mem.Machines[i].Leaving = mem.Machines[i].Leaving || mem.Machines[i].Surge
	}
	if o.r.Save(ctx) != nil {
		return
	}
	for _, m := range slices.Clone(mem.Machines) {
		if !m.Leaving {
			continue
		}
		if o.ControlPlane.Drain(ctx, o.c.Memory.ClusterID, m.Name, surgeDrain) != nil ||
			o.ControlPlane.DeleteNode(ctx, o.c.Memory.ClusterID, m.Name) != nil || o.remove(ctx, o.r, m) != nil {
			return
		}
		mem.Machines = slices.DeleteFunc(mem.Machines, func(n Machine) bool { return n.ID == m.ID })
		if o.r.Save(ctx) != nil {
			return
		}
	}
}

// undrainable turns a drain's error into the words that Azure has for it.
func undrainable(code string, err error) error {
	var stuck *controlplane.UndrainableError
	if !errors.As(err, &stuck) {
		return err
	}
	const doc = "See https://aka.ms/aks/debugdrainfailures."
	if stuck.Refused == "" {
		return armerror.New(code, "Drain node %s failed when evicting pod %s: the pod did not end before the drain timeout. %s", stuck.Node, stuck.Pod, doc)
	}
	return armerror.New(code, "Drain node %s failed when evicting pod %s failed with Too Many Requests error. This is often caused by a restrictive Pod Disruption Budget (PDB) policy. %s Original error: %s. %s",
		stuck.Node, stuck.Pod, doc, stuck.Refused, stuck.Details())
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
