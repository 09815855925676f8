package provider_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// version is what az aks upgrade sends: the cluster's document with another version, for the pools too unless the
// control plane alone is meant.
func version(t *testing.T, h *resourcetypetest.Harness, id resourceid.ID, cluster, pools string) map[string]any {
	t.Helper()
	data, err := json.Marshal(h.Get(id))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	p := doc["properties"].(map[string]any)
	p["kubernetesVersion"] = cluster
	if pools != "" {
		for _, pool := range p["agentPoolProfiles"].([]any) {
			pool.(map[string]any)["orchestratorVersion"] = pools
		}
	}
	return doc
}

// An upgrade takes the control plane, and after it the pools that the request raises.
func TestUpgrade(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	pool := id.Child("agentPools", "nodepool1")
	h.Put(id, version(t, h, id, "1.31.0", ""))
	var mem managedclusters.Model
	h.Stored(id, &mem)
	if plane := m.planes[mem.Memory.ClusterID].KubernetesVersion; plane != "1.31.0" || mem.Properties.CurrentKubernetesVersion != "1.31.0" {
		t.Errorf("control plane %s, and it shows %s", plane, mem.Properties.CurrentKubernetesVersion)
	}
	if d := h.Get(pool); d.String("properties.currentOrchestratorVersion") != "1.30.3" || m.runs()["000000"] != 1 {
		t.Errorf("the pool went along: %v, %v", d, m.runs())
	}
	// A scale-out of a pool that stayed behind stays behind too.
	h.Put(pool, `{"properties":{"count":3,"mode":"System"}}`)
	for _, n := range m.nodes {
		if n.Bootstrap.KubernetesVersion != "1.30.3" {
			t.Errorf("node %s has %s", n.Name, n.Bootstrap.KubernetesVersion)
		}
	}
	profile, err := h.TryGet(pool.Child("upgradeProfiles", "default"))
	if err != nil || profile.String("properties.upgrades.0.kubernetesVersion") != "1.31.0" {
		t.Errorf("upgrades %v, %v", profile, err)
	}
	d := h.Put(pool, `{"properties":{"orchestratorVersion":"1.31","mode":"System"}}`)
	if d.String("properties.currentOrchestratorVersion") != "1.31.0" || d.String("properties.orchestratorVersion") != "1.31" {
		t.Errorf("%v", d)
	}
	for _, n := range m.nodes {
		if n.Bootstrap.KubernetesVersion != "1.31.0" || !slices.Equal(n.Bootstrap.CachedImages, []string{"kube-proxy:v1.31.0"}) {
			t.Errorf("node %s has %s, %v", n.Name, n.Bootstrap.KubernetesVersion, n.Bootstrap.CachedImages)
		}
	}
}

func TestUpgradeRefusals(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	np2 := id.Child("agentPools", "np2")
	h.Put(np2, `{"properties":{"count":1,"mode":"User"}}`)
	mixed := version(t, h, id, "1.31.0", "1.31.0")
	delete(mixed["properties"].(map[string]any)["agentPoolProfiles"].([]any)[0].(map[string]any), "orchestratorVersion")
	for _, tc := range []struct {
		id            resourceid.ID
		body          any
		code, message string
	}{
		{id, mixed, "NotAllAgentPoolOrchestratorVersionSpecifiedAndUnchanged", "must be all specified or all unspecified"},
		{np2, `{"properties":{"mode":"User","orchestratorVersion":"1.31.0"}}`, "NodePoolMcVersionIncompatible", "Minor version of node pool version 31 is bigger than control plane version 30"},
		{id, version(t, h, id, "1.32.0", "1.32.0"), "K8sVersionNotSupported", "1.32.0"},
	} {
		_, err := h.TryPut(tc.id, tc.body)
		refused(t, err, tc.code, tc.message)
	}
	h.Put(id, version(t, h, id, "1.31.0", "1.31.0"))
	for _, n := range m.nodes {
		if n.Bootstrap.KubernetesVersion != "1.31.0" {
			t.Errorf("node %s has %s", n.Name, n.Bootstrap.KubernetesVersion)
		}
	}
	_, err := h.TryPut(id, version(t, h, id, "1.30.3", "1.30.3"))
	refused(t, err, "OperationNotAllowed", "Upgrading Kubernetes version 1.31.0 to 1.30.3 is not allowed. Available upgrades: []")
	_, err = h.TryPut(np2, `{"properties":{"mode":"User","orchestratorVersion":"1.30.3"}}`)
	refused(t, err, "AgentPoolUpgradeVersionNotAllowed", "from Kubernetes version 1.31.0 to 1.30.3")
}

// The control plane comes first, wherever the service dies, and every node is renewed once.
func TestUpgradeCrashesEverywhere(t *testing.T) {
	t.Parallel()
	dying(t, func(h *resourcetypetest.Harness, id resourceid.ID) { h.Put(id, single(t)) },
		func(h *resourcetypetest.Harness, id resourceid.ID) (resourcemanager.Answer, error) {
			return h.Do(http.MethodPut, id, "", version(t, h, id, "1.31.0", "1.31.0"))
		},
		func(t *testing.T, h *resourcetypetest.Harness, m *machine, id resourceid.ID) {
			want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000")
			for _, n := range m.nodes {
				if n.runs != 2 || n.Bootstrap.KubernetesVersion != "1.31.0" {
					t.Errorf("node %s was provisioned %d times, at last with %s", n.Name, n.runs, n.Bootstrap.KubernetesVersion)
				}
			}
			for _, c := range m.planes {
				if c.KubernetesVersion != "1.31.0" {
					t.Errorf("the control plane is %s", c.KubernetesVersion)
				}
			}
			if d := h.Get(id); d.String("properties.agentPoolProfiles.0.currentOrchestratorVersion") != "1.31.0" {
				t.Errorf("%v", d)
			}
		})
}

// A stopped cluster has no nodes and no control plane, takes no orders, and starts with what it had; a pool that its
// user had stopped stays so.
func TestStopAndStart(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	pool := func(name string) resourceid.ID { return id.Child("agentPools", name) }
	h.Put(pool("np2"), `{"properties":{"count":1,"mode":"User"}}`)
	_, err := h.TryPut(pool("nodepool1"), `{"properties":{"mode":"System","powerState":{"code":"Stopped"}}}`)
	refused(t, err, "OperationNotAllowed", "System")
	if d := h.Put(pool("np2"), `{"properties":{"mode":"User","powerState":{"code":"Stopped"}}}`); d.String("properties.powerState.code") != "Stopped" {
		t.Errorf("the pool is %v", d)
	}
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001")
	act := func(action string) error {
		_, err := h.Post(id, action, nil)
		return err
	}
	refused(t, act("start"), "OperationNotAllowed", "Power State(Running), starting cannot be performed")
	if err := act("stop"); err != nil {
		t.Fatal(err)
	}
	if len(m.nodes) != 0 || len(m.joined) != 0 || len(m.stopped) != 1 || len(m.drained) != 1 {
		t.Errorf("nodes %v, objects %v, stopped control planes %v, drained %v", m.names(), m.joined, m.stopped, m.drained)
	}
	d := h.Get(id)
	if d.State() != "Succeeded" || d.String("properties.powerState.code") != "Stopped" || d.String("properties.agentPoolProfiles.0.powerState.code") != "Stopped" {
		t.Errorf("%v", d)
	}
	const stopped = "Power State(Stopped)"
	refused(t, act("stop"), "OperationNotAllowed", "managed cluster is in Provisioning State(Succeeded) and Power State(Stopped), stopping cannot be performed")
	_, err = h.TryPut(id, create)
	refused(t, err, "OperationNotAllowed", stopped)
	_, err = h.TryPut(pool("nodepool1"), `{"properties":{"count":1,"mode":"System"}}`)
	refused(t, err, "OperationNotAllowed", stopped)
	_, err = h.Post(pool("nodepool1"), "upgradeNodeImageVersion", nil)
	refused(t, err, "OperationNotAllowed", stopped)
	refused(t, h.Delete(pool("np2")), "OperationNotAllowed", stopped)
	if err := act("start"); err != nil {
		t.Fatal(err)
	}
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001")
	if len(m.stopped) != 0 || h.Get(id).String("properties.powerState.code") != "Running" || h.Get(pool("np2")).String("properties.powerState.code") != "Stopped" {
		t.Errorf("stopped control planes %v, %v", m.stopped, h.Get(id))
	}
	h.Put(pool("np2"), `{"properties":{"mode":"User","powerState":{"code":"Running"}}}`)
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001", "aks-np2-N-vmss000000")
	if err := act("stop"); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, m)
}

func TestStopAndStartCrashEverywhere(t *testing.T) {
	t.Parallel()
	for i, action := range []string{"stop", "start"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			dying(t, func(h *resourcetypetest.Harness, id resourceid.ID) {
				h.Put(id, single(t))
				if action == "start" {
					if _, err := h.Post(id, "stop", nil); err != nil {
						t.Fatal(err)
					}
				}
			}, func(h *resourcetypetest.Harness, id resourceid.ID) (resourcemanager.Answer, error) {
				return h.Do(http.MethodPost, id, action, nil)
			}, func(t *testing.T, h *resourcetypetest.Harness, m *machine, id resourceid.ID) {
				if len(m.nodes) != i || len(m.joined) != i || len(m.stopped) != 1-i {
					t.Errorf("nodes %v, objects %v, stopped control planes %v", m.names(), m.joined, m.stopped)
				}
			})
		})
	}
}
