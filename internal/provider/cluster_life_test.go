package provider_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/reconcile/reconciletest"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// nothingLeft fails the test when anything of clusters is on the machine or in the store.
func nothingLeft(t *testing.T, h *resourcetypetest.Harness, m *machine) {
	t.Helper()
	if len(m.planes) > 0 || len(m.nodes) > 0 {
		t.Errorf("left on the machine: %v, %v", m.planes, m.names())
	}
	if all := inside(h); len(all) != 1 {
		t.Errorf("left in the store: %v", all)
	}
}

// named is the machine's nodes without the digits of the cluster.
func named(h *resourcetypetest.Harness, m *machine, id resourceid.ID) []string {
	var stored managedclusters.Model
	h.Stored(id, &stored)
	names := m.names()
	for i := range names {
		names[i] = strings.Replace(names[i], stored.Memory.Suffix, "N", 1)
	}
	return names
}

// single is the cluster with one node: fewer places to die at.
func single(t *testing.T) map[string]any {
	return changed(t, create, map[string]any{"pool.count": 1})
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// A cluster can die at any line of its creation, and the next process ends it: with the same names, and nothing twice.
func TestClusterCreateCrashesEverywhere(t *testing.T) {
	t.Parallel()
	reconciletest.CrashEverywhere(t, func(t *testing.T) reconciletest.Scenario {
		m := newMachine()
		var id resourceid.ID
		return reconciletest.Scenario{
			Definitions: func(p *reconciletest.Process) []resourcetype.Definition {
				m.effect = p.Effect
				return aks(m)
			},
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				id = h.ID(managedclusters.Name, "demo")
				return h.Do(http.MethodPut, id, "", single(t))
			},
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				if d := h.Get(id); d.State() != "Succeeded" || d.String("properties.agentPoolProfiles.0.provisioningState") != "Succeeded" {
					t.Errorf("the cluster is %s: %v", d.State(), d)
				}
				want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000")
				if n := len(slices.DeleteFunc(inside(h), func(s string) bool { return strings.HasSuffix(s, "/SOA/@") })); n != 24 {
					t.Errorf("%d resources, want 24: %s", n, strings.Join(inside(h), "\n"))
				}
				if len(m.planes) != 1 {
					t.Errorf("control planes %v", m.planes)
				}
			},
		}
	})
}

func TestClusterDeleteCrashesEverywhere(t *testing.T) {
	t.Parallel()
	reconciletest.CrashEverywhere(t, func(t *testing.T) reconciletest.Scenario {
		m := newMachine()
		return reconciletest.Scenario{
			Definitions: func(p *reconciletest.Process) []resourcetype.Definition {
				m.effect = p.Effect
				return aks(m)
			},
			Setup: func(h *resourcetypetest.Harness) { h.Put(h.ID(managedclusters.Name, "demo"), single(t)) },
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				return h.Do(http.MethodDelete, h.ID(managedclusters.Name, "demo"), "", nil)
			},
			Check: func(t *testing.T, h *resourcetypetest.Harness) { nothingLeft(t, h, m) },
		}
	})
}

func TestPoolScalingCrashesEverywhere(t *testing.T) {
	t.Parallel()
	reconciletest.CrashEverywhere(t, func(t *testing.T) reconciletest.Scenario {
		m := newMachine()
		var id, pool resourceid.ID
		return reconciletest.Scenario{
			Definitions: func(p *reconciletest.Process) []resourcetype.Definition {
				m.effect = p.Effect
				return aks(m)
			},
			Setup: func(h *resourcetypetest.Harness) {
				id = h.ID(managedclusters.Name, "demo")
				pool = id.Child("agentPools", "nodepool1")
				h.Put(id, create)
				h.Put(pool, `{"properties":{"count":3,"mode":"System"}}`)
			},
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				return h.Do(http.MethodPut, pool, "", `{"properties":{"count":1,"mode":"System"}}`)
			},
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000")
				if len(m.joined) != 1 {
					t.Errorf("Node objects left: %v", m.joined)
				}
				nics := slices.DeleteFunc(inside(h), func(s string) bool { return !strings.HasSuffix(s, "-nic") })
				if len(nics) != 1 {
					t.Errorf("network interfaces left: %v", nics)
				}
			},
		}
	})
}

func TestPools(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	pool := func(name string) resourceid.ID { return id.Child("agentPools", name) }
	// What az nodepool add sends.
	d := h.Put(pool("np2"), `{"properties": {"count": 1, "enableAutoScaling": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableNodePublicIP": false, "enableUltraSSD": false, "mode": "User", "nodeTaints": ["a=b:NoSchedule"], "nodeLabels": {"tier": "web"}, "osType": "Linux", "scaleDownMode": "Delete", "scaleSetEvictionPolicy": "Delete", "scaleSetPriority": "Regular", "spotMaxPrice": -1, "type": "VirtualMachineScaleSets", "upgradeSettings": {"undrainableNodeBehavior": "Schedule"}, "vmSize": ""}}`)
	for path, want := range map[string]any{
		"properties.vmSize": agentpools.DefaultVMSize, "properties.maxPods": float64(30), "properties.osDiskSizeGB": float64(128), "properties.orchestratorVersion": "1.30.3",
		"properties.upgradeSettings.maxSurge": "10%", "properties.upgradeSettings.undrainableNodeBehavior": "Schedule", "properties.powerState.code": "Running",
		"properties.spotMaxPrice": float64(-1), "type": agentpools.Name, "name": "np2",
	} {
		if got := d.At(path); got != want {
			t.Errorf("pool %s is %v, want %v", path, got, want)
		}
	}
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001", "aks-np2-N-vmss000000")
	for _, n := range m.nodes {
		k := n.Bootstrap.Kubelet
		if strings.Contains(n.Name, "np2") && (len(k.Taints) != 1 || k.Labels["tier"] != "web" || k.Labels["agentpool"] != "np2") {
			t.Errorf("node %s has labels %v and taints %v", n.Name, k.Labels, k.Taints)
		}
	}
	h.Put(pool("np2"), `{"properties": {"count": 3, "mode": "User"}}`)
	h.Put(pool("np2"), `{"properties": {"count": 2, "mode": "User"}}`)
	h.Put(pool("np2"), `{"properties": {"count": 3, "mode": "User"}}`)
	// Numbers are not used again, and the newest node went.
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-nodepool1-N-vmss000001", "aks-np2-N-vmss000000", "aks-np2-N-vmss000001", "aks-np2-N-vmss000003")
	if len(m.drained) != 1 || !strings.HasSuffix(m.drained[0], "vmss000002") {
		t.Errorf("drained %v", m.drained)
	}
	if profiles, _ := h.Get(id).At("properties.agentPoolProfiles").([]any); len(profiles) != 2 {
		t.Errorf("the cluster shows %d pools, want 2", len(profiles))
	}
	bases := map[uint32]string{}
	for _, n := range m.nodes {
		if other, taken := bases[n.UIDBase]; taken {
			t.Errorf("nodes %s and %s share host ids", n.Name, other)
		}
		bases[n.UIDBase] = n.Name
	}
	// A cluster's PUT scales too, and leaves the pools alone that it does not name.
	h.Put(id, changed(t, create, map[string]any{"pool.count": 1}))
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000", "aks-np2-N-vmss000000", "aks-np2-N-vmss000001", "aks-np2-N-vmss000003")
	h.Put(pool("np2"), `{"properties": {"count": 0, "mode": "User"}}`)
	if err := h.Delete(pool("np2")); err != nil {
		t.Fatal(err)
	}
	want(t, "nodes", named(h, m, id), "aks-nodepool1-N-vmss000000")
	if len(m.joined) != 1 {
		t.Errorf("Node objects left: %v", m.joined)
	}
	// A second System pool lets the first one go.
	h.Put(pool("sys"), `{"properties": {"count": 1, "mode": "System"}}`)
	if err := h.Delete(pool("nodepool1")); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, m)
}

// A node that cannot bootstrap fails its pool and its cluster with the exit status, as Azure tells it; a
// repeated PUT tries again, and so does one that does not name the pool.
func TestFailingNode(t *testing.T) {
	for name, again := range map[string]func(h *resourcetypetest.Harness, id resourceid.ID) (resourcetypetest.Document, error){
		"PUT": func(h *resourcetypetest.Harness, id resourceid.ID) (resourcetypetest.Document, error) {
			return h.TryPut(id, create)
		},
		"PATCH": func(h *resourcetypetest.Harness, id resourceid.ID) (resourcetypetest.Document, error) {
			return h.TryPatch(id, `{"tags":{"a":"b"}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, m, id := newAKS(t)
			m.failing = "vmss000000"
			body := changed(t, create, map[string]any{"pool.nodeLabels": map[string]any{"tier": "web"}})
			_, err := h.TryPut(id, body)
			e := resourcetypetest.WantError(t, err, "VMExtensionProvisioningError")
			for _, text := range []string{"extension 'vmssCSE'", "exit status=211", "log of aks-nodepool1-", "ERR_ORAS_PULL_NETWORK_TIMEOUT", "Bootstrap Container Registry is not reachable"} {
				if !strings.Contains(e.Message, text) {
					t.Errorf("%q is not in %s", text, e.Message)
				}
			}
			if len(e.Details) != 1 || !strings.HasSuffix(e.Details[0].Target, "vmss000000") {
				t.Errorf("details %v", e.Details)
			}
			d := h.Get(id)
			if d.State() != "Failed" || d.String("properties.agentPoolProfiles.0.provisioningState") != "Failed" {
				t.Errorf("cluster and pool are %s and %s", d.State(), d.String("properties.agentPoolProfiles.0.provisioningState"))
			}
			// It fails again, for the same reason.
			_, err = again(h, id)
			resourcetypetest.WantError(t, err, "VMExtensionProvisioningError")
			m.mu.Lock()
			m.failing = ""
			m.mu.Unlock()
			if d, err = again(h, id); err != nil || d.State() != "Succeeded" {
				t.Fatalf("repeated: %v, %v", d, err)
			}
			for path, want := range map[string]string{"mode": "System", "provisioningState": "Succeeded"} {
				if got := d.String("properties.agentPoolProfiles.0." + path); got != want {
					t.Errorf("the mended pool's %s is %q, want %q", path, got, want)
				}
			}
			for _, n := range m.nodes {
				if want := map[bool]int{true: 3, false: 1}[strings.HasSuffix(n.Name, "vmss000000")]; n.runs != want {
					t.Errorf("node %s was provisioned %d times, want %d", n.Name, n.runs, want)
				}
			}
		})
	}
}

// How long a node waits is settled when it is provisioned: one that failed has what is chosen by then when it tries again.
func TestNodesWaitAsLongAsChosen(t *testing.T) {
	h, m, id := newAKS(t)
	scales := func() (scales []float64) {
		for _, n := range m.nodes {
			scales = append(scales, n.Bootstrap.RetryScale)
		}
		return scales
	}
	m.failing = "vmss000000"
	if _, err := h.TryPut(id, create); err == nil {
		t.Fatal("a cluster with a failing node succeeds")
	}
	for _, s := range scales() {
		if s != 0 {
			t.Errorf("unasked, a node waits by a scale of %g", s)
		}
	}
	m.mu.Lock()
	m.failing, m.azure = "", true
	m.mu.Unlock()
	h.Put(id, create)
	if all := scales(); !slices.Contains(all, 1) {
		t.Errorf("nodes wait by scales of %g, and none as Azure's", all)
	}
}

func TestDeleteOfAFailedCluster(t *testing.T) {
	h, m, id := newAKS(t)
	m.failing = "vmss000001"
	if _, err := h.TryPut(id, create); err == nil {
		t.Fatal("a cluster with a failing node succeeds")
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, m)
}

// While an operation is in progress a write is refused with 409, and a DELETE ends what is in progress.
func TestClusterInProgress(t *testing.T) {
	h, m, id := newAKS(t)
	m.hold = make(chan struct{})
	created, err := h.Do(http.MethodPut, id, "", create)
	if err != nil {
		t.Fatal(err)
	}
	pool := id.Child("agentPools", "nodepool1")
	for _, c := range []struct {
		method string
		id     resourceid.ID
		body   any
	}{{http.MethodPut, id, create}, {http.MethodPatch, id, `{"tags":{}}`}, {http.MethodPut, pool, `{"properties":{"count":5,"mode":"System"}}`}} {
		_, err := h.Do(c.method, c.id, "", c.body)
		e := resourcetypetest.WantError(t, err, armerror.OperationNotAllowed)
		if e.HTTPStatus() != http.StatusConflict || !strings.Contains(e.Message, "in progress") {
			t.Errorf("%s of %s: %d %s", c.method, c.id, e.HTTPStatus(), e.Message)
		}
	}
	deleted, err := h.Do(http.MethodDelete, id, "", nil)
	if err != nil || deleted.Status != http.StatusAccepted {
		t.Fatalf("DELETE answers %d, %v", deleted.Status, err)
	}
	if err := h.Finish(deleted); err != nil {
		t.Fatal(err)
	}
	if err := h.Finish(created); err == nil {
		t.Error("the preempted create succeeded")
	}
	nothingLeft(t, h, m)
}

// A node resource group that cannot go, because something of the user's stands on it, fails the delete with the
// reason; it is not tried for ever, and a repeated DELETE works once the reason is gone.
func TestClusterDeleteRefused(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	var stored managedclusters.Model
	h.Stored(id, &stored)
	p := h.ID("Microsoft.Network/networkInterfaces", "mine")
	h.Put(p, `{"location":"eastus","properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"`+stored.Memory.SubnetID+`"}}}]}}`)
	err := h.Delete(id)
	e := resourcetypetest.WantError(t, err, "ResourceGroupDeletionBlocked")
	if !strings.Contains(e.Message, "mine") {
		t.Errorf("the reason is not told: %s", e.Message)
	}
	if d := h.Get(id); d.State() != "Failed" {
		t.Errorf("the cluster is %s", d.State())
	}
	group := resourceid.Group(resourcetypetest.Subscription, "MC_rg_demo_eastus")
	operations, err := h.Store.Operations(context.Background(), group, false)
	if err != nil || len(operations) != 1 {
		t.Errorf("the node resource group's deletion was tried %d times, %v", len(operations), err)
	}
	if err := h.Delete(id); err == nil {
		t.Error("the second DELETE succeeds with the reason in place")
	}
	if err := h.Delete(p); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, m)
}

// A user's own VNet, registry and identities are used, and stay.
func TestClusterOfTheUsersOwn(t *testing.T) {
	for target, server := range map[string]string{"*": "netisoreg01.azurecr.io", "aks-managed-repository/*": "netisoreg01.azurecr.io/aks-managed-repository"} {
		t.Run(target, func(t *testing.T) {
			h, m, id := newAKS(t)
			p := build(h)
			if err := h.Delete(p.rule); err != nil {
				t.Fatal(err)
			}
			h.Put(p.registry.Child("cacheRules", "aks-managed-mcr"), `{"properties": {"sourceRepository": "mcr.microsoft.com/*", "targetRepository": "`+target+`"}}`)
			control := h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "id-controlplane")
			h.Put(control, `{"location": "eastus"}`)
			before := inside(h)
			body := changed(t, create, map[string]any{
				"pool.vnetSubnetID": p.aks.String(), "properties.bootstrapProfile.containerRegistryId": p.registry.String(),
				"identity": map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{control.String(): map[string]any{}}},
				"properties.identityProfile.kubeletidentity.resourceId": p.identity.String(),
			})
			d := h.Put(id, body)
			for path, want := range map[string]string{
				"properties.bootstrapProfile.containerRegistryId":     p.registry.String(),
				"properties.identityProfile.kubeletidentity.objectId": h.Get(p.identity).String("properties.principalId"),
				"properties.identityProfile.kubeletidentity.clientId": h.Get(p.identity).String("properties.clientId"),
				"properties.agentPoolProfiles.0.vnetSubnetID":         p.aks.String(),
				"identity.type": "UserAssigned",
			} {
				if got := d.String(path); !strings.EqualFold(got, want) {
					t.Errorf("%s is %q, want %q", path, got, want)
				}
			}
			for _, n := range m.nodes {
				if n.Bootstrap.RegistryServer != server || !strings.HasPrefix(n.Bootstrap.NodeAddress.String(), "192.168.1.") {
					t.Errorf("node %s at %s bootstraps from %s, want %s", n.Name, n.Bootstrap.NodeAddress, n.Bootstrap.RegistryServer, server)
				}
			}
			for _, s := range inside(h) {
				if strings.Contains(s, "MC_rg_demo_eastus") && (strings.Contains(s, "registries") || strings.Contains(s, "virtualNetworks/") || strings.Contains(s, "userAssigned")) {
					t.Errorf("%s was made beside the user's own", s)
				}
			}
			// A subnet of another network is not this cluster's.
			other := h.ID("Microsoft.Network/virtualNetworks", "other")
			h.Put(other, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]},"subnets":[{"name":"s","properties":{"addressPrefix":"10.9.0.0/24"}}]}}`)
			_, err := h.TryPut(id.Child("agentPools", "np"), `{"properties":{"vnetSubnetID":"`+other.Child("subnets", "s").String()+`"}}`)
			wantRefusal(t, err, http.StatusBadRequest, "InvalidParameter", "properties.vnetSubnetID", "one virtual network")
			if err := h.Delete(other); err != nil {
				t.Fatal(err)
			}
			if err := h.Delete(id); err != nil {
				t.Fatal(err)
			}
			want(t, "resources", inside(h), before...)
		})
	}
}

// What a cluster's pools take of a subnet is counted before anything is made, with the pools that are there. Who else
// has addresses in it shows when nodes are made, in Azure's words.
func TestSubnetFull(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	small := p.vnet.Child("subnets", "small")
	h.Put(small, `{"properties":{"addressPrefix":"192.168.9.0/26"}}`)
	if err := h.Delete(p.link); err != nil { // the network has one link to a zone of that name
		t.Fatal(err)
	}
	h.Put(id, changed(t, create, map[string]any{"pool.vnetSubnetID": small.String(), "pool.count": 1}))
	pool := id.Child("agentPools", "np2")
	body := func(count, pods int) map[string]any {
		return map[string]any{"properties": map[string]any{"vnetSubnetID": small.String(), "count": count, "maxPods": pods}}
	}
	_, err := h.TryPut(pool, body(1, 30))
	wantRefusal(t, err, http.StatusBadRequest, "InsufficientSubnetSize", "agentPoolProfile.count", "Pre-allocated IPs 62 exceeds IPs available 59 in Subnet Cidr 192.168.9.0/26, Subnet Name small.")
	if h.Exists(pool) {
		t.Error("the refused pool is there")
	}
	h.Put(pool, body(1, 10))
	_, err = h.TryPut(pool, body(3, 10))
	wantRefusal(t, err, http.StatusBadRequest, "InsufficientSubnetSize", "agentPoolProfile.count", "Pre-allocated IPs 64 exceeds")
	// Three of private endpoints, 31 and 11 of nodes: 14 are left of 59, and six of them are taken now.
	for i := range 6 {
		h.Put(h.ID("Microsoft.Network/networkInterfaces", fmt.Sprintf("box%d", i)), `{"location":"eastus","properties":{"ipConfigurations":[{"name":"c","properties":{"subnet":{"id":"`+small.String()+`"}}}]}}`)
	}
	_, err = h.TryPut(pool, body(2, 10))
	wantRefusal(t, err, http.StatusBadRequest, "SubnetIsFull", "", "Subnet small with address prefix 192.168.9.0/26 does not have enough capacity for 11 IP addresses.")
	if of, whole := h.Get(pool).State(), h.Get(id).State(); of != "Failed" || whole != "Succeeded" {
		t.Errorf("the pool is %s, and the cluster %s, want that the operation has failed which was on the pool", of, whole)
	}
	// Enough is free when every other of them has gone, though not in a row.
	for i := range 3 {
		if err := h.Delete(h.ID("Microsoft.Network/networkInterfaces", fmt.Sprintf("box%d", 2*i))); err != nil {
			t.Fatal(err)
		}
	}
	if d := h.Put(pool, body(2, 10)); d.State() != "Succeeded" {
		t.Errorf("with room, the pool is %s", d.State())
	}
	last := netip.MustParseAddr("192.168.9.49")
	var pods []string
	for _, n := range m.nodes {
		for _, r := range n.Bootstrap.Pods.Ranges {
			if n.Bootstrap.NodeAddress == last {
				pods = append(pods, r.First.String()+"-"+r.Last.String())
			}
		}
	}
	want(t, "addresses of the last node's pods", pods, "192.168.9.51-192.168.9.51", "192.168.9.53-192.168.9.53", "192.168.9.55-192.168.9.62")
}

func TestSubnetWithoutJoin(t *testing.T) {
	h, _, id := newAKS(t)
	p := build(h)
	h.Deny("Microsoft.Network/virtualNetworks/subnets/join/action")
	_, err := h.TryPut(id, changed(t, create, map[string]any{"pool.vnetSubnetID": p.aks.String()}))
	e := resourcetypetest.WantError(t, err, armerror.LinkedAuthorizationFailed)
	if !strings.Contains(e.Message, "'Microsoft.ContainerService/managedClusters/write'") || !strings.Contains(e.Message, p.aks.String()) {
		t.Error(e.Message)
	}
}

// What somebody deletes in the node resource group comes back with the next update.
func TestRepair(t *testing.T) {
	const endpoint, connection = "/privateEndpoints/aks-bootstrap", "/privateEndpointConnections/aks-bootstrap"
	for name, lost := range map[string]func(id string) bool{
		"registry":              func(string) bool { return false },
		"endpoint and registry": func(id string) bool { return strings.Contains(id, endpoint) },
	} {
		t.Run(name, func(t *testing.T) {
			h, _, id := newAKS(t)
			d := h.Put(id, create)
			before := inside(h)
			for _, s := range before {
				if lost(s) {
					if err := h.Delete(resourceid.MustParse(s)); err != nil {
						t.Fatal(err)
					}
				}
			}
			registry := resourceid.MustParse(d.String("properties.bootstrapProfile.containerRegistryId"))
			if err := h.Delete(registry); err != nil {
				t.Fatal(err)
			}
			for _, s := range inside(h) {
				if lost(s) || s == registry.String() {
					t.Errorf("%s is there before anybody reconciles the cluster", s)
				}
			}
			h.Put(id, create)
			now := inside(h)
			if len(now) != len(before) {
				t.Errorf("before %v\nafter %v", before, now)
			}
			if !slices.ContainsFunc(now, func(s string) bool { return strings.Contains(s, connection) }) {
				t.Errorf("the private endpoint leads to no registry: %v", now)
			}
		})
	}
}

// TestCompletedOnce holds that a cluster's control plane is not completed again whenever something wakes the
// cluster, and that it is after another request.
func TestCompletedOnce(t *testing.T) {
	h, m, id := newAKS(t)
	for i := range 2 {
		h.Put(id, create)
		m.mu.Lock()
		completed := m.completed
		m.mu.Unlock()
		if completed != i+1 {
			t.Errorf("completed %d times after %d requests", completed, i+1)
		}
	}
}

func TestVersions(t *testing.T) {
	h, _, id := newAKS(t)
	h.Put(id, create)
	sub := resourceid.MustParse("/subscriptions/" + resourcetypetest.Subscription)
	list := h.List(sub.Resource("Microsoft.ContainerService/locations", "eastus"), "Microsoft.ContainerService/locations/kubernetesVersions", "")
	if len(list) != 1 || list[0].String("values.0.version") != "1.30" || list[0].String("values.0.capabilities.supportPlan.0") != "KubernetesOfficial" {
		t.Fatalf("%v", list)
	}
	if patches, _ := list[0].At("values.0.patchVersions").(map[string]any); patches["1.30.3"] == nil {
		t.Errorf("patch versions %v", patches)
	}
	profile, err := h.TryGet(id.Child("upgradeProfiles", "default"))
	if err != nil || profile.String("properties.controlPlaneProfile.kubernetesVersion") != "1.30.3" || profile.String("properties.agentPoolProfiles.0.name") != "nodepool1" {
		t.Errorf("%v, %v", profile, err)
	}
	_, err = h.TryGet(h.ID(managedclusters.Name, "nobody").Child("upgradeProfiles", "default"))
	if e, ok := armerror.As(err); !ok || e.Code != armerror.ResourceNotFound {
		t.Errorf("of no cluster: %v", err)
	}
}

// Pools of one request are made at the same time, and share neither addresses nor host ids.
func TestPoolsAtTheSameTime(t *testing.T) {
	h, m, id := newAKS(t)
	body := changed(t, create, nil)
	first := body["properties"].(map[string]any)["agentPoolProfiles"].([]any)[0].(map[string]any)
	var pools []any
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		p := maps.Clone(first)
		p["name"] = name
		pools = append(pools, p)
	}
	body["properties"].(map[string]any)["agentPoolProfiles"] = pools
	h.Put(id, body)
	ids, addresses := map[uint32]string{}, map[netip.Addr]string{}
	for _, n := range m.nodes {
		if other, taken := ids[n.UIDBase]; taken {
			t.Errorf("%s and %s have the same host ids", n.Name, other)
		}
		if other, taken := addresses[n.Bootstrap.NodeAddress]; taken {
			t.Errorf("%s and %s have the same address", n.Name, other)
		}
		ids[n.UIDBase], addresses[n.Bootstrap.NodeAddress] = n.Name, n.Name
	}
	if len(ids) != 12 {
		t.Errorf("%d nodes, want 12", len(ids))
	}
}

func TestClusterConformance(t *testing.T) {
	h, _, id := newAKS(t)
	resourcetypetest.Conformance(t, h, resourcetypetest.Case{ID: id, Body: single(t)})
}

func TestPoolConformance(t *testing.T) {
	h, _, id := newAKS(t)
	h.Put(id, single(t))
	resourcetypetest.Conformance(t, h, resourcetypetest.Case{ID: id.Child("agentPools", "np2"), Body: `{"properties":{"count":1,"mode":"User"}}`})
}
