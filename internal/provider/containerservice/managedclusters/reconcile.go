package managedclusters

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// reconcile makes the cluster: first the documents in the node resource group, then, at once, the control
// plane here and the nodes by their pools' own reconcile, which waits for Memory.Infrastructure.
func (t service) reconcile(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	if r.Deleting {
		return t.remove(ctx, r)
	}
	m := r.Model
	if !r.Requested {
		return t.follow(ctx, r)
	}
	if done, result, err := t.power(ctx, r); done || err != nil {
		return result, err
	}
	if err := t.announce(ctx, r); err != nil {
		return resourcetype.Result{}, err
	}
	r.Step("resources in " + m.Properties.NodeResourceGroup)
	done, err := t.build(ctx, r)
	if err != nil {
		return resourcetype.Result{}, err
	}
	if !done {
		return resourcetype.Result{Waiting: true}, nil
	}
	r.Step("control plane starts")
	cluster, err := t.cluster(ctx, r)
	if err != nil {
		return resourcetype.Result{}, err
	}
	if err := t.ControlPlane.Start(ctx, cluster); err != nil {
		return resourcetype.Result{}, err
	}
	// From here on nodes can start; they wait for the API server themselves.
	m.Memory.Infrastructure = true
	if err := r.Save(ctx); err != nil {
		return resourcetype.Result{}, err
	}
	if err := t.declare(ctx, r, cluster); err != nil {
		return resourcetype.Result{}, err
	}
	if m.Properties.CurrentKubernetesVersion != cluster.KubernetesVersion {
		m.Properties.CurrentKubernetesVersion = cluster.KubernetesVersion
		if err := r.Save(ctx); err != nil { // what wakes pools that wait for their control plane
			return resourcetype.Result{}, err
		}
	}
	if m.Memory.Power == powerStarting {
		r.Step("agent pools start")
		if done, err := t.switchPools(ctx, r, powerRunning); err != nil || !done {
			return resourcetype.Result{Waiting: true}, err
		}
	}
	r.Step("agent pools")
	state, err := t.poolState(ctx, r)
	if err != nil {
		return resourcetype.Result{}, err
	}
	if state != "Succeeded" {
		return resourcetype.Result{Waiting: true}, nil
	}
	r.Step("pods of kube-system become Ready")
	if err := t.ControlPlane.SystemReady(ctx, m.Memory.ClusterID); err != nil {
		return resourcetype.Result{}, fmt.Errorf("wait for the pods of kube-system: %w", err)
	}
	m.Memory.Power, m.Memory.StoppedPools = "", nil
	m.Properties.PowerState = &PowerState{Code: powerRunning}
	return resourcetype.Result{Report: t.Reports.Of(ctx, r.ID)}, nil
}

// follow tells the control plane how many nodes its pools have now, and lets a registry go that the last of them has
// left. A cluster that is done repairs nothing by itself: what a user deletes of it stays deleted until somebody
// reconciles it, as on Azure (az aks update -g -n).
func (t service) follow(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	if r.Model.Memory == nil || r.Model.Memory.Declared == "" || r.Model.Memory.Power != "" {
		return resourcetype.Result{}, nil
	}
	b := &builder{ctx: ctx, client: r.Client}
	if t.dropRegistry(b, r); b.err != nil || len(b.pending) > 0 {
		return resourcetype.Result{Waiting: true}, b.err
	}
	cluster, err := t.cluster(ctx, r)
	if err != nil {
		return resourcetype.Result{}, err
	}
	if cluster.fingerprint() == r.Model.Memory.Declared {
		return resourcetype.Result{}, nil
	}
	if err := t.ControlPlane.Start(ctx, cluster); err != nil {
		return resourcetype.Result{}, err
	}
	return resourcetype.Result{}, t.declare(ctx, r, cluster)
}

// declare completes the control plane, once for each request and each change of the cluster: it is woken by all that
// was made for it.
func (t service) declare(ctx context.Context, r *resourcetype.Reconciliation[Model], c Cluster) error {
	declared := c.fingerprint()
	if r.Model.Memory.Declared == declared {
		return nil
	}
	if err := t.ControlPlane.Ready(ctx, c.ID); err != nil {
		return err
	}
	r.Model.Memory.Declared = declared
	return r.Save(ctx)
}

// fingerprint differs between clusters that differ.
func (c Cluster) fingerprint() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%v", c))
	return hex.EncodeToString(sum[:8])
}

func (t service) cluster(ctx context.Context, r *resourcetype.Reconciliation[Model]) (Cluster, error) {
	p, mem := r.Model.Properties, r.Model.Memory
	c := Cluster{ID: mem.ClusterID, KubernetesVersion: t.targetVersion(p), FQDN: p.FQDN, PrivateFQDN: p.PrivateFQDN, Direct: r.Model.isIntegrated()}
	var err error
	// Without an address in the VNet the public one is where nodes find it, too.
	if c.EndpointAddress, err = netip.ParseAddr(or(mem.EndpointAddress, mem.PublicAddress)); err != nil {
		return c, err
	}
	if !r.Model.isPrivate() {
		if c.PublicAddress, err = netip.ParseAddr(mem.PublicAddress); err != nil {
			return c, err
		}
	}
	if c.ServiceCIDR, err = netip.ParsePrefix(p.NetworkProfile.ServiceCIDR); err != nil {
		return c, err
	}
	if c.DNSServiceIP, err = netip.ParseAddr(p.NetworkProfile.DNSServiceIP); err != nil {
		return c, err
	}
	var subnet subnetView
	if err := r.Client.Get(ctx, resourceid.MustParse(mem.SubnetID), &subnet); err != nil {
		return c, fmt.Errorf("read the nodes' subnet: %w", err)
	}
	c.PodCIDRs = subnet.prefixes()
	c.Nodes, err = t.nodeCount(ctx, r)
	return c, err
}

type poolView struct {
	Name       string `json:"name"`
	Properties struct {
		Count             int    `json:"count"`
		ProvisioningState string `json:"provisioningState"`
	} `json:"properties"`
	Memory struct {
		Fault    *armerror.Error `json:"fault"`
		Model    *nodeModel      `json:"model"`
		Machines []nodeModel     `json:"machines"`
	} `json:"cloister"`
}

// nodeModel is what a node was provisioned with, as far as its cluster cares.
type nodeModel struct {
	RegistryServer string `json:"registryServer"`
}

func (t service) nodeCount(ctx context.Context, r *resourcetype.Reconciliation[Model]) (int, error) {
	pools, err := r.Client.List(ctx, r.ID, poolType)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range pools {
		var v poolView
		if err := r.Client.Get(ctx, p.ID, &v); err != nil {
			return 0, err
		}
		n += v.Properties.Count
	}
	return n, nil
}

// poolAPI is the api-version with which a cluster calls on its pools.
const poolAPI = "2025-03-01"

// poolState is Succeeded when every pool is. A pool that failed fails the cluster, with the pool's error,
// as on Azure.
func (t service) poolState(ctx context.Context, r *resourcetype.Reconciliation[Model]) (string, error) {
	pools, err := r.Client.List(ctx, r.ID, poolType)
	if err != nil {
		return "", err
	}
	state := "Succeeded"
	for _, p := range pools {
		var v poolView
		if err := r.Client.Get(ctx, p.ID, &v); err != nil {
			return "", err
		}
		poolState := v.Properties.ProvisioningState
		if poolState == "Failed" {
			// Changes nothing, but starts a pool again that failed before the user's request. It says all that the
			// pool is: a PUT replaces.
			if poolState, err = r.Client.Put(ctx, p.ID, poolAPI, p.Body); err != nil {
				return "", err
			}
		}
		switch poolState {
		case "Succeeded":
		case "Failed":
			if v.Memory.Fault != nil {
				return "Failed", v.Memory.Fault
			}
			return "Failed", armerror.New("ReconcileAgentPoolFailed", "Agent pool %s is in state Failed.", v.Name)
		default:
			state = poolState
		}
	}
	return state, nil
}

// remove ends the cluster. Its pools are gone by now: children are deleted before their parent.
func (t service) remove(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	if r.Model.Memory == nil {
		return resourcetype.Result{}, nil
	}
	if err := t.ControlPlane.Remove(ctx, r.Model.Memory.ClusterID); err != nil {
		return resourcetype.Result{}, fmt.Errorf("remove the control plane: %w", err)
	}
	r.Model.Memory.Removed = true
	if err := r.Save(ctx); err != nil {
		return resourcetype.Result{}, err
	}
	if left, err := t.leaveZone(ctx, r); err != nil || !left {
		return resourcetype.Result{Waiting: true}, err
	}
	gone, err := r.Client.Delete(ctx, nodeGroup(r.ID, r.Model))
	if err != nil {
		return resourcetype.Result{}, fmt.Errorf("delete %s: %w", r.Model.Properties.NodeResourceGroup, err)
	}
	if !gone {
		return resourcetype.Result{Waiting: true}, nil
	}
	// The document is the last that names the control plane's namespace.
	return resourcetype.Result{}, t.World.Sync(ctx)
}

// zoneOf is the private DNS zone of a name: all after its first label.
func zoneOf(fqdn string) string {
	_, zone, _ := strings.Cut(fqdn, ".")
	return zone
}
