package provider_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/runcommand"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/operationreport"
)

const tenantID = "11111111-1111-1111-1111-111111111111"

// machine is what clusters run on, without running anything: it outlives the process that asks it.
type machine struct {
	// effect does something to the machine, or is where the process dies.
	effect func(func() error) error

	mu       sync.Mutex
	planes   map[string]managedclusters.Cluster
	nodes    map[string]*fakeNode // by node.Config.ID
	joined   []string             // names of Node objects in API servers
	failing  string               // end of the names of nodes that cannot reach their registry
	hold     chan struct{}        // provisioning ends when this is closed; nil: at once
	drained  []string
	commands *commands
	denied   map[string]bool // role actions that no identity of a cluster may do
	// firstRange is where the search for host ids begins.
	firstRange uint32
	// completed counts how often a control plane was completed.
	completed int
	stopped   map[string]bool                    // control planes that are
	stuck     string                             // end of the name of a node whose pods do not go
	most      int                                // the largest number of nodes there were at a drain
	changes   map[string]controlplane.NodeChange // the last of each node
	inSteps   bool                               // clusters are isolated in steps only
	warnings  func(cluster resourceid.ID) ([]adminapi.Warning, error)
	diagnose  func(ctx context.Context, cluster resourceid.ID) (*adminapi.Diagnosis, error)
	azure     bool // new nodes wait as long as Azure's
}

type fakeNode struct {
	node.Config
	exit bootstrap.ExitCode
	runs int // provisionings
}

func newMachine() *machine {
	return &machine{
		effect:   func(do func() error) error { return do() },
		commands: &commands{results: map[string]runcommand.Result{}},
		planes:   map[string]managedclusters.Cluster{}, nodes: map[string]*fakeNode{},
		stopped: map[string]bool{}, changes: map[string]controlplane.NodeChange{},
	}
}

// Allowed is the roles of clusters' identities.
func (m *machine) Allowed(_ context.Context, p resourcetype.Principal, action string, _ resourceid.ID) (bool, error) {
	return p.ObjectID != "" && !m.denied[action], nil
}

func (m *machine) do(change func()) error {
	return m.effect(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		change()
		return nil
	})
}

func (m *machine) Start(_ context.Context, c managedclusters.Cluster) error {
	return m.do(func() {
		m.planes[c.ID] = c
		delete(m.stopped, c.ID)
	})
}

func (m *machine) plane(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.planes[id]; !ok || m.stopped[id] {
		return fmt.Errorf("there is no control plane %s", id)
	}
	return nil
}

func (m *machine) Ready(_ context.Context, id string) error {
	return errors.Join(m.plane(id), m.do(func() { m.completed++ }))
}
func (m *machine) SystemReady(_ context.Context, id string) error { return m.plane(id) }

func (m *machine) RemovePlane(_ context.Context, id string) error {
	return m.do(func() { delete(m.planes, id) })
}

func (m *machine) Kubeconfig(_ context.Context, id, server, group, name string, admin bool) ([]byte, error) {
	return fmt.Appendf(nil, "%s %s %s %s %v", id, server, group, name, admin), m.plane(id)
}

func (m *machine) Join(_ context.Context, id string) (ca, token string, err error) {
	return "ca of " + id, "token of " + id, m.plane(id)
}

func (m *machine) NodesReady(_ context.Context, id string, names []string) error {
	if err := m.plane(id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		if !slices.Contains(m.joined, n) {
			return fmt.Errorf("node %s has not registered", n)
		}
	}
	return nil
}

func (m *machine) ChangeNode(_ context.Context, _, name string, change controlplane.NodeChange) error {
	return m.do(func() { m.changes[name] = change })
}

func (m *machine) Drain(_ context.Context, _, name string, timeout time.Duration) error {
	m.mu.Lock()
	stuck := m.stuck
	m.mu.Unlock()
	if stuck != "" && strings.HasSuffix(name, stuck) {
		return fmt.Errorf("after %s: %w", timeout, &controlplane.UndrainableError{Node: name, Namespace: "shop", Pod: "web", Refused: "no", Budgets: []string{"web"}})
	}
	return m.do(func() {
		if slices.Contains(m.joined, name) {
			m.drained = append(m.drained, name)
		}
		m.most = max(m.most, len(m.joined))
	})
}

func (m *machine) DeleteNode(_ context.Context, _, name string) error {
	return m.do(func() { m.joined = slices.DeleteFunc(m.joined, func(n string) bool { return n == name }) })
}

func (m *machine) Stop(_ context.Context, id string) error {
	return m.do(func() { m.stopped[id] = true })
}

// Set is node.Engine's: a node that has failed tries again when it is asked to by another attempt, and begins anew
// with another image. It registers once, when it is provisioned.
func (m *machine) Set(_ context.Context, c node.Config) error {
	return m.do(func() {
		n, ok := m.nodes[c.ID]
		if !ok || n.Image != c.Image || n.exit != bootstrap.Success && n.Attempt != c.Attempt {
			runs := 1
			if ok {
				runs = n.runs + 1
			}
			exit := bootstrap.Success
			if m.failing != "" && strings.HasSuffix(c.Name, m.failing) {
				exit = bootstrap.OrasPullNetworkTimeout
			}
			m.nodes[c.ID] = &fakeNode{Config: c, exit: exit, runs: runs}
			if exit == bootstrap.Success && !slices.Contains(m.joined, c.Name) {
				m.joined = append(m.joined, c.Name)
			}
		}
	})
}

func (m *machine) Remove(_ context.Context, id string) error {
	return m.do(func() { delete(m.nodes, id) })
}

func (m *machine) Provisioned(ctx context.Context, id string) (bootstrap.Result, error) {
	m.mu.Lock()
	n, hold := m.nodes[id], m.hold
	m.mu.Unlock()
	if n == nil {
		return bootstrap.Result{}, fmt.Errorf("there is no node %s", id)
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return bootstrap.Result{}, ctx.Err()
		}
	}
	return bootstrap.Result{Done: true, ExitCode: n.exit, Output: "log of " + n.Name}, nil
}

// warn and why are what is told of clusters.
func (m *machine) warn(_ context.Context, cluster resourceid.ID) ([]adminapi.Warning, error) {
	if m.warnings == nil {
		return nil, nil
	}
	return m.warnings(cluster)
}

func (m *machine) why(ctx context.Context, cluster resourceid.ID) (*adminapi.Diagnosis, error) {
	if m.diagnose == nil {
		return nil, nil
	}
	return m.diagnose(ctx, cluster)
}

// names are those of the nodes that run.
func (m *machine) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, n := range m.nodes {
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out
}

// plane of a machine: its Remove is another one than the nodes'.
type planes struct{ *machine }

func (p planes) Remove(ctx context.Context, id string) error { return p.RemovePlane(ctx, id) }

// aks are the resource types of Microsoft.ContainerService on the machine, with all that they use.
func aks(m *machine) []resourcetype.Definition {
	clusters := managedclusters.Deps{ControlPlane: planes{m}, World: world{}, Access: m, Commands: m.commands, Versions: []string{"1.30.3", "1.31.0"}, DefaultVersion: "1.30.3", TenantID: tenantID, InSteps: func() (bool, error) { return m.inSteps, nil }, Reports: operationreport.Source{Warnings: m.warn}}
	return append(append(append(definitions(true), managedclusters.Endpoints(clusters)...), agentpools.Endpoints()...),
		managedclusters.Type(clusters),
		agentpools.Type(agentpools.Deps{
			Nodes: m, ControlPlane: m, Versions: []string{"1.30.3", "1.31.0"}, FirstRange: m.firstRange, NodeImageVersion: "AKSUbuntu-2204gen2containerd-202611.23.0", Rootfs: "/rootfs",
			AuthorityPEM: "authority", TenantID: tenantID, CredentialProviderVersion: "1.32.3",
			CachedImages: func(version string) []string { return []string{"kube-proxy:v" + version} }, Reports: operationreport.Source{Warnings: m.warn, Diagnose: m.why},
			AzureTiming: func() (bool, error) { return m.azure, nil },
		}),
	)
}

// cluster is a fresh harness with the machine, and the ID of a cluster in it that is not there yet.
func newAKS(t *testing.T) (*resourcetypetest.Harness, *machine, resourceid.ID) {
	t.Helper()
	m := newMachine()
	h := resourcetypetest.New(t, aks(m)...)
	return h, m, h.ID(managedclusters.Name, "demo")
}

// create is what az aks create sends for the walkthrough's first cluster, with fewer nodes.
const create = `{"identity": {"type": "SystemAssigned"}, "location": "eastus", "properties": {"addonProfiles": {},
	"agentPoolProfiles": [{"count": 2, "enableAutoScaling": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableNodePublicIP": false,
		"enableUltraSSD": false, "mode": "System", "name": "nodepool1", "nodeTaints": [], "orchestratorVersion": "1.30.3", "osType": "Linux",
		"scaleSetEvictionPolicy": "Delete", "scaleSetPriority": "Regular", "spotMaxPrice": -1, "type": "VirtualMachineScaleSets", "upgradeSettings": {}, "vmSize": ""}],
	"apiServerAccessProfile": {"authorizedIPRanges": [], "enablePrivateCluster": true}, "bootstrapProfile": {"artifactSource": "Cache"},
	"disableLocalAccounts": false, "dnsPrefix": "aks-manage-rg-netiso-222222", "enableRBAC": true, "kubernetesVersion": "1.30.3",
	"linuxProfile": {"adminUsername": "azureuser", "ssh": {"publicKeys": [{"keyData": "ssh-rsa AAAA..."}]}},
	"networkProfile": {"loadBalancerSku": "standard", "networkPlugin": "azure", "outboundType": "none"}, "storageProfile": {}}}`
