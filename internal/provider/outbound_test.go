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
	wantRefusal(t, err, http.StatusBadRequest, "PreviewFeatureNotRegistered", network+"outboundType", "Preview feature Microsoft.ContainerService/NetworkIsolatedClusterPreview not registered.")
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
	if _, err := h.Post(id.Child("agentPools", pool), "upgradeNodeImageVersion", nil); err != nil {
		t.Fatal(err)
	}
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
	h.Until("the registry has gone with the last node that knew it", func() bool { return len(with(h, "/registries/")) == 0 })
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

// Az leaves the ID out when it is not said: that means the managed registry, which a network with a zone of the user's
// for registries cannot have. AKS says why, and the ID again mends it.
func TestRegistryLeftOut(t *testing.T) {
	h, _, id := newAKS(t)
	p := build(h)
	body := map[string]any{"pool.vnetSubnetID": p.aks.String(), "properties.bootstrapProfile.containerRegistryId": p.registry.String()}
	h.Put(id, changed(t, create, body))
	_, err := h.TryPut(id, changed(t, create, map[string]any{"pool.vnetSubnetID": p.aks.String()}))
	if e := resourcetypetest.WantError(t, err, "CreateOrUpdateVirtualNetworkLinkFailed"); !strings.Contains(e.Message, "Reconcile private dns failed") || !strings.Contains(e.Message, "overlapping namespaces") {
		t.Errorf("message %s", e.Message)
	}
	if d := h.Put(id, changed(t, create, body)); d.State() != "Succeeded" || !strings.EqualFold(d.String("properties.bootstrapProfile.containerRegistryId"), p.registry.String()) {
		t.Errorf("mended: %v", d)
	}
	for _, text := range []string{"/registries/", "/privatelink.azurecr.io", "aks-bootstrap-acr-"} {
		if left := with(h, text); len(left) > 0 {
			t.Errorf("left of the registry that could not be: %v", left)
		}
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

// direct is a cluster as az makes it when nothing is said of its artifacts: from mcr.microsoft.com, by the load balancer.
func direct(t *testing.T, changes map[string]any) map[string]any {
	t.Helper()
	all := map[string]any{network + "outboundType": nil, "properties.bootstrapProfile": nil}
	for k, v := range changes {
		all[k] = v
	}
	return changed(t, create, all)
}

// probes are what the nodes of the machine try at their start, and where they take artifacts from.
func probes(m *machine) []string {
	var out []string
	for _, n := range m.nodes {
		out = append(out, n.Bootstrap.RegistryServer+" "+n.Bootstrap.OutboundURL)
	}
	slices.Sort(out)
	return out
}

func TestOutboundLoadBalancer(t *testing.T) {
	h, m, id := newAKS(t)
	d := h.Put(id, direct(t, nil))
	if d.String(network+"outboundType") != "loadBalancer" || d.String("properties.bootstrapProfile.artifactSource") != "Direct" {
		t.Errorf("%v, %v", d.At(network+"outboundType"), d.At("properties.bootstrapProfile"))
	}
	want(t, "nodes", probes(m), " https://mcr.microsoft.com/v2/", " https://mcr.microsoft.com/v2/")
	if left := with(h, "/registries/"); len(left) > 0 {
		t.Errorf("a cluster without a cache has a registry: %v", left)
	}
	ips := with(h, "/publicIPAddresses/")
	if len(ips) != 1 || !strings.HasSuffix(d.String(network+"loadBalancerProfile.effectiveOutboundIPs.0.id"), "/publicIPAddresses/"+ips[0]) || d.At(network+"loadBalancerProfile.managedOutboundIPs.count") != float64(1) {
		t.Errorf("public addresses %v, profile %v", ips, d.At(network+"loadBalancerProfile"))
	}
	balancer := resourceid.MustParse(d.String(network+"loadBalancerProfile.effectiveOutboundIPs.0.id")).GroupID().Resource("Microsoft.Network/loadBalancers", "kubernetes")
	rule := h.Get(balancer)
	for path, want := range map[string]string{
		"properties.outboundRules.0.name": "aksOutboundRule", "properties.outboundRules.0.properties.backendAddressPool.id": balancer.String() + "/backendAddressPools/aksOutboundBackendPool",
		"properties.frontendIPConfigurations.0.properties.publicIPAddress.id": d.String(network + "loadBalancerProfile.effectiveOutboundIPs.0.id"),
		"properties.backendAddressPools.0.name":                               "kubernetes",
	} {
		if got := rule.String(path); !strings.EqualFold(got, want) {
			t.Errorf("the load balancer's %s is %s, want %s", path, got, want)
		}
	}
	// Every node is a member by its primary address, a later one too.
	h.Put(id, direct(t, map[string]any{"pool.count": 3}))
	members := func() (n int) {
		for _, s := range inside(h) {
			if strings.HasSuffix(s, "-nic") {
				pools, _ := h.Get(resourceid.MustParse(s)).At("properties.ipConfigurations.0.properties.loadBalancerBackendAddressPools").([]any)
				n += len(pools)
			}
		}
		return n
	}
	if n := members(); n != 6 {
		t.Errorf("three nodes are members %d times, want twice each", n)
	}
	// More addresses, and fewer.
	for _, count := range []int{3, 2} {
		h.Put(id, direct(t, map[string]any{"pool.count": 3, network + "loadBalancerProfile": map[string]any{"managedOutboundIPs": map[string]any{"count": count}}}))
		frontends, _ := h.Get(balancer).At("properties.frontendIPConfigurations").([]any)
		if ips := with(h, "/publicIPAddresses/"); len(ips) != count || len(frontends) != count {
			t.Errorf("%d addresses were asked for: %v, %v", count, ips, frontends)
		}
	}
	// An address of the user's takes their place, and stays when the load balancer goes.
	mine := h.ID("Microsoft.Network/publicIPAddresses", "mine")
	h.Put(mine, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIPAllocationMethod":"Static"}}`)
	d = h.Put(id, direct(t, map[string]any{"pool.count": 3, network + "loadBalancerProfile": map[string]any{"outboundIPs": map[string]any{"publicIPs": []any{map[string]any{"id": mine.String()}}}}}))
	if left := with(h, "/publicIPAddresses/"); len(left) > 0 || !strings.EqualFold(d.String(network+"loadBalancerProfile.effectiveOutboundIPs.0.id"), mine.String()) || d.At(network+"loadBalancerProfile.managedOutboundIPs") != nil {
		t.Errorf("with an address of the user's: %v, %v", d.At(network+"loadBalancerProfile"), left)
	}
	// It goes with its addresses, and nobody is a member of anything.
	h.Put(id, changed(t, create, map[string]any{"pool.count": 3}))
	if left := append(with(h, "/publicIPAddresses/"), with(h, "/loadBalancers/")...); len(left) > 0 || members() != 0 {
		t.Errorf("left of the load balancer: %v, %d members", left, members())
	}
	if d := h.Get(id); d.At(network+"loadBalancerProfile.effectiveOutboundIPs") != nil || d.String(network+"loadBalancerProfile.backendPoolType") != "nodeIPConfiguration" {
		t.Errorf("profile %v", d.At(network+"loadBalancerProfile"))
	}
	for _, gone := range []resourceid.ID{mine, id} {
		if err := h.Delete(gone); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft(t, h, m)
}

func TestOutboundNATGateway(t *testing.T) {
	h, m, id := newAKS(t)
	d := h.Put(id, direct(t, map[string]any{network + "outboundType": "managedNATGateway", network + "natGatewayProfile": map[string]any{"managedOutboundIPProfile": map[string]any{"count": 2}}}))
	if ips := with(h, "/publicIPAddresses/"); len(ips) != 2 || !strings.HasSuffix(d.String(network+"natGatewayProfile.effectiveOutboundIPs.1.id"), ips[1]) && !strings.HasSuffix(d.String(network+"natGatewayProfile.effectiveOutboundIPs.1.id"), ips[0]) {
		t.Errorf("public addresses %v, profile %v", ips, d.At(network+"natGatewayProfile"))
	}
	var stored managedclusters.Model
	h.Stored(id, &stored)
	subnet := resourceid.MustParse(stored.Memory.SubnetID)
	if got := h.Get(subnet).String("properties.natGateway.id"); !strings.Contains(got, "/natGateways/aks-natgateway-") {
		t.Errorf("the subnet's NAT gateway is %q", got)
	}
	h.Put(id, create)
	if left := append(with(h, "/publicIPAddresses/"), with(h, "/natGateways/")...); len(left) > 0 || h.Get(subnet).At("properties.natGateway") != nil {
		t.Errorf("left of the NAT gateway: %v, %v", left, h.Get(subnet))
	}
	if s := h.Get(subnet); s.At("properties.defaultOutboundAccess") != false || s.At("properties.networkSecurityGroup") == nil {
		t.Errorf("the subnet is %v", s)
	}
	h.Put(id, changed(t, create, map[string]any{network + "outboundType": "managedNATGateway"}))
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, m)
}

// own gives the walkthrough's nodes' subnet a way out of the user's.
func own(h *resourcetypetest.Harness, p parts, hop string) (gateway, table resourceid.ID) {
	address := h.ID("Microsoft.Network/publicIPAddresses", "out")
	gateway, table = h.ID("Microsoft.Network/natGateways", "out"), h.ID("Microsoft.Network/routeTables", "out")
	h.Put(address, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIPAllocationMethod":"Static"}}`)
	h.Put(gateway, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIpAddresses":[{"id":"`+address.String()+`"}]}}`)
	h.Put(table, `{"location":"eastus","properties":{"routes":[{"name":"out","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"`+hop+`"`+map[bool]string{true: `,"nextHopIpAddress":"192.168.2.9"`}[hop == "VirtualAppliance"]+`}}]}}`)
	h.Put(p.aks, `{"properties":{"addressPrefix":"192.168.1.0/24","defaultOutboundAccess":false,"natGateway":{"id":"`+gateway.String()+`"},"routeTable":{"id":"`+table.String()+`"}}}`)
	return gateway, table
}

// What a subnet of the user's must have for the outbound types that go by it.
func TestOutboundOfTheUsersOwn(t *testing.T) {
	for hop, code := range map[string]string{"Internet": "RouteTableInvalidNextHop", "VirtualAppliance": ""} {
		h, m, id := newAKS(t)
		p := build(h)
		gateway, table := own(h, p, hop)
		body := func(outbound string) map[string]any {
			return direct(t, map[string]any{"pool.vnetSubnetID": p.aks.String(), network + "outboundType": outbound})
		}
		if code != "" {
			_, err := h.TryPut(id, body("userDefinedRouting"))
			wantRefusal(t, err, http.StatusBadRequest, code, network+"outboundType", "Default route 0.0.0.0/0 has a next hop of Internet but only next hops of VirtualAppliance or VirtualNetworkGateway are allowed.")
			h.Put(table, `{"location":"eastus","properties":{"routes":[]}}`)
			_, err = h.TryPut(id, body("userDefinedRouting"))
			wantRefusal(t, err, http.StatusBadRequest, "RouteTableMissingDefaultRouteError", network+"outboundType", "0.0.0.0/0")
			h.Put(gateway, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIpAddresses":[]}}`)
			_, err = h.TryPut(id, body("userAssignedNATGateway"))
			wantRefusal(t, err, http.StatusBadRequest, "NATGatewayNotAssociatedWithPublicIPOrIPPrefix", network+"outboundType", "out")
			continue
		}
		h.Put(id, body("userDefinedRouting"))
		h.Put(id, body("userAssignedNATGateway"))
		want(t, "nodes", probes(m), " https://mcr.microsoft.com/v2/", " https://mcr.microsoft.com/v2/")
		if left := append(append(with(h, "/publicIPAddresses/"), with(h, "/natGateways/")...), with(h, "/loadBalancers/")...); len(left) > 0 {
			t.Errorf("made beside the user's own: %v", left)
		}
	}
}

// AKS's migration table, whole: every change that it has is made, every other is refused. The cluster's way here is
// a path over allowed changes.
func TestOutboundMigration(t *testing.T) {
	const nat, ownNAT, udr = "managedNATGateway", "userAssignedNATGateway", "userDefinedRouting"
	all := []string{"loadBalancer", nat, ownNAT, udr, "none", "block"}
	for name, c := range map[string]struct {
		own     bool
		allowed map[string][]string
	}{
		"managed VNet":       {false, map[string][]string{"loadBalancer": {nat, "none", "block"}, nat: {"none", "block"}, "none": {"loadBalancer", nat, "block"}, "block": {"loadBalancer", nat, "none"}}},
		"VNet of the user's": {true, map[string][]string{"loadBalancer": {ownNAT, udr, "none"}, ownNAT: {"loadBalancer", udr, "none"}, udr: {"loadBalancer", ownNAT, "none"}, "none": {"loadBalancer", ownNAT, udr}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _, id := newAKS(t)
			registered(h, "NetworkIsolatedClusterPreview")
			p := build(h)
			own(h, p, "VirtualAppliance")
			body := func(outbound string) map[string]any {
				changes := map[string]any{network + "outboundType": outbound, "pool.count": 1}
				if c.own {
					changes["pool.vnetSubnetID"] = p.aks.String()
					changes["properties.bootstrapProfile.containerRegistryId"] = p.registry.String()
				}
				return changed(t, create, changes)
			}
			for from, allowed := range c.allowed {
				for _, to := range all {
					if to == from {
						continue
					}
					fresh := h.ID(managedclusters.Name, "demo")
					h.Put(fresh, body(from))
					d, err := h.TryPut(id, body(to))
					switch {
					case slices.Contains(allowed, to):
						if err != nil || d.String(network+"outboundType") != to {
							t.Errorf("from %s to %s: %v, %v", from, to, d, err)
						}
					case err == nil:
						t.Errorf("from %s to %s is not in the table, and was done", from, to)
					default:
						code := "UpdatingOutboundTypeNotAllowed"
						switch {
						case c.own && to == nat:
							code = "ManagedNATGatewayWithCustomVNetNotAllowed"
						case !c.own && to == ownNAT:
							code = "UserAssignedNATGatewayWithManagedVNetNotAllowed"
						case c.own && to == "block", !c.own && to == udr:
							code = "UnsupportedOutboundType"
						}
						resourcetypetest.WantError(t, err, code)
					}
					if err := h.Delete(id); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// The page's conversion: one update, which changes no node, nor what a scale-out adds. What a server setting makes of
// it, and today's steps.
func TestConvert(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, direct(t, nil))
	m.inSteps = true
	_, err := h.TryPut(id, create)
	wantRefusal(t, err, http.StatusBadRequest, isolation, network+"outboundType", "cannot be changed in one update")
	h.Put(id, changed(t, create, map[string]any{network + "outboundType": "loadBalancer"}))
	h.Put(id, create)
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	m.inSteps = false

	h.Put(id, direct(t, nil))
	d := h.Put(id, create)
	registry := resourceid.MustParse(d.String("properties.bootstrapProfile.containerRegistryId")).Name() + ".azurecr.io/aks-managed-repository"
	h.Put(id, changed(t, create, map[string]any{"pool.count": 3}))
	old := " https://mcr.microsoft.com/v2/"
	want(t, "nodes of a pool that was not reimaged", probes(m), old, old, old)
	h.Put(id.Child("agentPools", "np2"), `{"properties":{"count":1,"mode":"User"}}`)
	want(t, "nodes", probes(m), old, old, old, registry+" ")
	// Leaving none keeps the registry, while the artifacts still come from it.
	h.Put(id, changed(t, create, map[string]any{"pool.count": 3, network + "outboundType": "loadBalancer"}))
	if len(with(h, "/registries/")) == 0 {
		t.Error("the registry went though the artifacts come from it")
	}
	// Disabled, in the words of the page.
	d = h.Put(id, changed(t, create, map[string]any{"pool.count": 3, network + "outboundType": "LoadBalancer", "properties.bootstrapProfile.artifactSource": "direct"}))
	if d.String(network+"outboundType") != "loadBalancer" || d.String("properties.bootstrapProfile.artifactSource") != "Direct" || d.At("properties.bootstrapProfile.containerRegistryId") != nil {
		t.Errorf("%v, %v", d.At(network+"outboundType"), d.At("properties.bootstrapProfile"))
	}
	if len(with(h, "/registries/")) == 0 {
		t.Error("the registry went while a node was configured with it")
	}
	if err := h.Delete(id.Child("agentPools", "np2")); err != nil {
		t.Fatal(err)
	}
	h.Until("the registry has gone, which no node is configured with", func() bool { return len(with(h, "/registries/")) == 0 })
}

// A conversion can die at any line, forth and back, and the next process ends it: the way out is what the type says,
// and nothing is left of the other one.
func TestConvertCrashesEverywhere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to func(*testing.T) map[string]any
		left     []string
	}{
		"isolated": {
			func(t *testing.T) map[string]any { return direct(t, map[string]any{"pool.count": 1}) }, single,
			[]string{"/loadBalancers/", "/publicIPAddresses/"},
		},
		"opened": {
			single, func(t *testing.T) map[string]any {
				return direct(t, map[string]any{"pool.count": 1, network + "outboundType": "managedNATGateway"})
			},
			[]string{"/loadBalancers/"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
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
						h.Put(id, c.from(t))
					},
					Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
						return h.Do(http.MethodPut, id, "", c.to(t))
					},
					Check: func(t *testing.T, h *resourcetypetest.Harness) {
						if d := h.Get(id); d.State() != "Succeeded" {
							t.Errorf("the cluster is %s", d.State())
						}
						for _, text := range c.left {
							if left := with(h, text); len(left) > 0 {
								t.Errorf("left: %v", left)
							}
						}
						var stored managedclusters.Model
						h.Stored(id, &stored)
						if n := len(with(h, "/publicIPAddresses/")); n != len(stored.Memory.OutboundIPs) {
							t.Errorf("%d public addresses, and %v written down", n, stored.Memory.OutboundIPs)
						}
						for _, n := range m.nodes {
							if n.runs != 1 {
								t.Errorf("node %s was provisioned %d times", n.Name, n.runs)
							}
						}
					},
				}
			})
		})
	}
}
