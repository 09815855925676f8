package provider_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/reconcile/reconciletest"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// runs are how often each node was provisioned, by the end of its name.
func (m *machine) runs() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, n := range m.nodes {
		out[n.Name[len(n.Name)-6:]] = n.runs
	}
	return out
}

// refused holds that the error has the code, and a part of the message.
func refused(t *testing.T, err error, code, message string) {
	t.Helper()
	if e := resourcetypetest.WantError(t, err, code); !strings.Contains(e.Message, message) {
		t.Errorf("%s: %s\nwant %s", code, e.Message, message)
	}
}

// dying is a scenario on a cluster that setup has made ready.
func dying(t *testing.T, setup func(h *resourcetypetest.Harness, id resourceid.ID), act func(h *resourcetypetest.Harness, id resourceid.ID) (resourcemanager.Answer, error), check func(t *testing.T, h *resourcetypetest.Harness, m *machine, id resourceid.ID)) {
	t.Helper()
	reconciletest.CrashEverywhere(t, func(t *testing.T) reconciletest.Scenario {
		m := newMachine()
		var id resourceid.ID
		return reconciletest.Scenario{
			Definitions: func(p *reconciletest.Process) []resourcetype.Definition {
				m.effect = p.Effect
				return aks(m)
			},
			Setup: func(h *resourcetypetest.Harness) {
				id = h.ID(managedclusters.Name, "demo")
				setup(h, id)
			},
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) { return act(h, id) },
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				if d := h.Get(id); d.State() != "Succeeded" {
					t.Errorf("the cluster is %v", d)
				}
				check(t, h, m, id)
			},
		}
	})
}

// A reimage renews every node once under its name, beside as many more as maxSurge says, which then go.
func TestReimage(t *testing.T) {
	for surge, most := range map[string]int{"": 4, "34%": 5, "3": 6} {
		t.Run("maxSurge "+surge, func(t *testing.T) {
			h, m, id := newAKS(t)
			h.Put(id, changed(t, create, map[string]any{"pool.count": 3, "pool.upgradeSettings.maxSurge": surge}))
			pool := id.Child("agentPools", "nodepool1")
			if _, err := h.Post(pool, "upgradeNodeImageVersion", nil); err != nil {
				t.Fatal(err)
			}
			want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001", "aks-nodepool1-N-vmss000002")
			for name, n := range m.runs() {
				if n != 2 {
					t.Errorf("node %s was provisioned %d times, want twice", name, n)
				}
			}
			if m.most != most || len(m.joined) != 3 || len(m.drained) != most {
				t.Errorf("%d nodes at the most, want %d; at last %v; drained %v", m.most, most, m.joined, m.drained)
			}
			// The interface of a node that went is deleted by its own type.
			h.Until("three network interfaces are left", func() bool { return len(with(h, "-nic")) == 3 })
			if d := h.Get(pool); d.State() != "Succeeded" || d.String("properties.nodeImageVersion") == "" {
				t.Errorf("the pool is %v", d)
			}
		})
	}
}

func TestReimageCrashesEverywhere(t *testing.T) {
	t.Parallel()
	dying(t, func(h *resourcetypetest.Harness, id resourceid.ID) { h.Put(id, create) },
		func(h *resourcetypetest.Harness, id resourceid.ID) (resourcemanager.Answer, error) {
			return h.Do(http.MethodPost, id.Child("agentPools", "nodepool1"), "upgradeNodeImageVersion", nil)
		},
		func(t *testing.T, h *resourcetypetest.Harness, m *machine, id resourceid.ID) {
			want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001")
			for name, n := range m.runs() {
				if n != 2 {
					t.Errorf("node %s was provisioned %d times, want twice", name, n)
				}
			}
			if nics := with(h, "-nic"); len(m.joined) != 2 || len(nics) != 2 {
				t.Errorf("Node objects %v, network interfaces %v", m.joined, nics)
			}
		})
}

// A node that cannot be drained stays what it was, in service; the next request goes on with it.
func TestUndrainable(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	pool := id.Child("agentPools", "nodepool1")
	m.stuck = "vmss000000"
	_, err := h.Post(pool, "upgradeNodeImageVersion", nil)
	refused(t, err, "UpgradeFailed", "failed when evicting pod web failed with Too Many Requests error. This is often caused by a restrictive Pod Disruption Budget (PDB) policy. See https://aka.ms/aks/debugdrainfailures. Original error: no. PDB debug info: shop/web blocked by pdb web with 0 unready pods.")
	if got := m.runs(); len(got) != 2 || got["000000"] != 1 {
		t.Errorf("provisioned %v", got)
	}
	for name, change := range m.changes {
		if strings.HasSuffix(name, m.stuck) && !change.Schedulable {
			t.Errorf("node %s takes no pods: %+v", name, change)
		}
	}
	if d := h.Get(pool); d.State() != "Failed" {
		t.Errorf("the pool is %s", d.State())
	}
	m.stuck = ""
	if _, err := h.Post(pool, "upgradeNodeImageVersion", nil); err != nil {
		t.Fatal(err)
	}
	if got := m.runs(); len(got) != 2 || got["000000"] != 2 {
		t.Errorf("provisioned %v", got)
	}
}

// What a pool's document says of its nodes is told to those that there are; what it says no more is taken back.
func TestPoolDescribesItsNodes(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	pool := id.Child("agentPools", "np2")
	h.Put(pool, `{"properties":{"count":1,"mode":"User","nodeLabels":{"a":"1","b":"1"},"nodeTaints":["x=y:NoSchedule"],"tags":{"team":"red"}}}`)
	h.Put(pool, `{"properties":{"count":1,"mode":"System","nodeLabels":{"a":"2"},"nodeTaints":[],"tags":{"team":"blue"}}}`)
	for name, c := range m.changes {
		if strings.Contains(name, "np2") && (c.Labels["a"] != "2" || c.Labels["kubernetes.azure.com/mode"] != "system" || !slices.Equal(c.DropLabels, []string{"b"}) || !slices.Equal(c.DropTaints, []string{"x=y:NoSchedule"})) {
			t.Errorf("node %s: %+v", name, c)
		}
	}
	var p agentpools.Model
	h.Stored(pool, &p)
	if nic := h.Get(resourceid.MustParse(p.Memory.Machines[0].NIC)); nic.String("tags.team") != "blue" {
		t.Errorf("%v", nic)
	}
	for settings, code := range map[string]string{
		`"upgradeSettings":{"maxSurge":"0"}`:                     "InvalidParameter",
		`"upgradeSettings":{"maxSurge":"101%"}`:                  "InvalidParameter",
		`"upgradeSettings":{"drainTimeoutInMinutes":1441}`:       "InvalidParameter",
		`"upgradeSettings":{"maxUnavailable":"1"}`:               "NotSupported",
		`"upgradeSettings":{"undrainableNodeBehavior":"Cordon"}`: "NotSupported",
		`"powerState":{"code":"Asleep"}`:                         "InvalidParameter",
	} {
		_, err := h.TryPut(pool, `{"properties":{"count":1,"mode":"System",`+settings+`}}`)
		refused(t, err, code, "")
	}
	one, err := h.TryGet(pool.Child("machines", p.Memory.Machines[0].Name))
	if err != nil || one.String("properties.network.ipAddresses.0.ip") == "" || !strings.HasSuffix(one.String("properties.resourceId"), "-vmss/virtualMachines/0") {
		t.Errorf("machine %v, %v", one, err)
	}
	// The named node goes, not the newest.
	h.Put(pool, `{"properties":{"count":2,"mode":"System"}}`)
	if _, err := h.Post(pool, "deleteMachines", `{"machineNames":["`+p.Memory.Machines[0].Name+`"]}`); err != nil {
		t.Fatal(err)
	}
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001", "aks-np2-N-vmss000001")
	if d := h.Get(pool); d.At("properties.count") != float64(1) {
		t.Errorf("the pool has %v nodes", d.At("properties.count"))
	}
}

// Where the search for host ids begins is the installation's own; behind the last range comes the first.
func TestHostIDs(t *testing.T) {
	m := newMachine()
	m.firstRange = 238 // the last of 239
	h := resourcetypetest.New(t, aks(m)...)
	h.Put(h.ID(managedclusters.Name, "demo"), create)
	var bases []uint32
	for _, n := range m.nodes {
		bases = append(bases, n.UIDBase>>24)
	}
	slices.Sort(bases)
	if !slices.Equal(bases, []uint32{16, 254}) {
		t.Errorf("ranges %v, want 254 and then 16", bases)
	}
}
