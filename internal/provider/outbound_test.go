package provider_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// with are the resources in the cluster's node resource group whose ID holds the text, by their last part.
func with(h *resourcetypetest.Harness, text string) []string {
	var out []string
	for _, s := range inside(h) {
		if strings.Contains(s, "/MC_rg_demo_eastus/") && strings.Contains(s, text) {
			out = append(out, s[strings.LastIndex(s, "/")+1:])
		}
	}
	return out
}

// Block needs its preview feature and the managed VNet. What makes it are two rules, which go with it.
func TestOutboundBlock(t *testing.T) {
	h, _, id := newAKS(t)
	blocked := changed(t, create, map[string]any{network + "outboundType": "Block"})
	_, err := h.TryPut(id, blocked)
	wantRefusal(t, err, http.StatusBadRequest, "FeatureNotRegistered", network+"outboundType", "Preview feature Microsoft.ContainerService/NetworkIsolatedClusterPreview not registered.")
	registered(h, "NetworkIsolatedClusterPreview")
	p := build(h)
	_, err = h.TryPut(id, changed(t, create, map[string]any{network + "outboundType": "block", "pool.vnetSubnetID": p.aks.String()}))
	wantRefusal(t, err, http.StatusBadRequest, "UnsupportedOutboundType", network+"outboundType", "custom virtual network")

	d := h.Put(id, blocked)
	if got := d.String(network + "outboundType"); got != "block" {
		t.Errorf("outboundType is %q", got)
	}
	want(t, "rules", with(h, "/securityRules/"), "AllowVnetOutBound", "block-all-outbound")
	for _, s := range inside(h) {
		if strings.HasSuffix(s, "/block-all-outbound") {
			if r := h.Get(resourceid.MustParse(s)); r.String("properties.access") != "Deny" || r.String("properties.destinationAddressPrefix") != "*" || r.At("properties.priority") != float64(2001) || r.String("properties.direction") != "Outbound" {
				t.Errorf("the rule is %v", r)
			}
		}
	}
	h.Put(id, create)
	want(t, "rules of outbound type none", with(h, "/securityRules/"))
	h.Put(id, blocked)
	want(t, "rules of outbound type block, again", with(h, "/securityRules/"), "AllowVnetOutBound", "block-all-outbound")
}

// reimage has every node of the pool take over what the cluster says now, as a reimage does in the end.
func reimage(t *testing.T, h *resourcetypetest.Harness, id resourceid.ID, pool string) {
	t.Helper()
	var c managedclusters.Model
	h.Stored(id, &c)
	var p agentpools.Model
	h.Stored(id.Child("agentPools", pool), &p)
	p.Memory.Model.RegistryServer = c.Memory.RegistryServer
	for i := range p.Memory.Machines {
		p.Memory.Machines[i].NodeModel = *p.Memory.Model
	}
	h.Seed(id.Child("agentPools", pool), p)
}

// servers are the registry servers of the pool's model and of its machines.
func servers(h *resourcetypetest.Harness, id resourceid.ID, pool string) []string {
	var p agentpools.Model
	h.Stored(id.Child("agentPools", pool), &p)
	out := []string{p.Memory.Model.RegistryServer}
	for _, m := range p.Memory.Machines {
		out = append(out, m.RegistryServer)
	}
	return out
}

// A cluster changes its registry by a PUT, and its nodes by a reimage only: those that there are, and those that a
// scale-out adds, stay with the old one.
func TestRegistryChange(t *testing.T) {
	h, m, id := newAKS(t)
	d := h.Put(id, create)
	managed := d.String("properties.bootstrapProfile.containerRegistryId")
	old := resourceid.MustParse(managed).Name() + ".azurecr.io/aks-managed-repository"
	p := build(h)
	own := map[string]any{"properties.bootstrapProfile.containerRegistryId": p.registry.String()}
	d = h.Put(id, changed(t, create, own))
	if got := d.String("properties.bootstrapProfile.containerRegistryId"); !strings.EqualFold(got, p.registry.String()) {
		t.Errorf("the registry is %s", got)
	}
	own["pool.count"] = 3
	h.Put(id, changed(t, create, own))
	want(t, "servers of a pool that is not reimaged", servers(h, id, "nodepool1"), old, old, old, old)
	for _, n := range m.nodes {
		if n.runs != 1 || n.Bootstrap.RegistryServer != old {
			t.Errorf("node %s was provisioned %d times, at last from %s", n.Name, n.runs, n.Bootstrap.RegistryServer)
		}
	}
	// A new pool has the new registry, and the old one is still there for the others.
	h.Put(id.Child("agentPools", "np2"), `{"properties":{"count":1,"mode":"User"}}`)
	want(t, "servers of a new pool", servers(h, id, "np2"), "netisoreg01.azurecr.io", "netisoreg01.azurecr.io")
	if len(with(h, "/registries/")) == 0 {
		t.Fatal("the managed registry went while nodes were configured with it")
	}
	// Without an ID, as az leaves it out, the managed registry is meant.
	d = h.Put(id, changed(t, create, map[string]any{"pool.count": 3}))
	if got := d.String("properties.bootstrapProfile.containerRegistryId"); got != managed {
		t.Errorf("the registry is %s, want %s", got, managed)
	}
	// It goes, with its endpoint and zone, after the last node has left it.
	h.Put(id, changed(t, create, own))
	if err := h.Delete(id.Child("agentPools", "np2")); err != nil {
		t.Fatal(err)
	}
	reimage(t, h, id, "nodepool1")
	for deadline := time.Now().Add(10 * time.Second); len(with(h, "/registries/")) > 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	for _, text := range []string{"/registries/", "/privatelink.azurecr.io", "aks-bootstrap-acr-", "cacheRules"} {
		if left := with(h, text); len(left) > 0 {
			t.Errorf("%s left after the last node was reimaged: %v", text, left)
		}
	}
	// A managed one is made when it is asked for again.
	d = h.Put(id, changed(t, create, map[string]any{"pool.count": 3}))
	if got := d.String("properties.bootstrapProfile.containerRegistryId"); !strings.Contains(got, "/MC_rg_demo_eastus/") {
		t.Errorf("the registry is %s", got)
	}
	if left := with(h, "/registries/"); !slices.ContainsFunc(left, func(s string) bool { return s == "aks-managed-mcr" }) {
		t.Errorf("the managed registry holds %v", left)
	}
}

// A pool whose nodes were never Ready takes over what its cluster says when it is tried again: nothing is lost by it.
func TestRegistryChangeOfAFailedCreate(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	m.failing = "vmss000000"
	if _, err := h.TryPut(id, create); err == nil {
		t.Fatal("a cluster with a failing node succeeds")
	}
	m.mu.Lock()
	m.failing = ""
	m.mu.Unlock()
	h.Put(id, changed(t, create, map[string]any{"properties.bootstrapProfile.containerRegistryId": p.registry.String()}))
	const now = "netisoreg01.azurecr.io"
	want(t, "servers", servers(h, id, "nodepool1"), now, now, now)
}
