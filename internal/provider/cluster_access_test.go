package provider_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/reconcile/reconciletest"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
	"github.com/cloister-dev/cloister/internal/provider/resources/features"
)

const access = "properties.apiServerAccessProfile."

// registered has the subscription registered for a preview feature.
func registered(h *resourcetypetest.Harness, feature string) {
	h.T.Helper()
	id := resourceid.MustParse("/subscriptions/"+resourcetypetest.Subscription).Resource("Microsoft.Features/providers/features", "Microsoft.ContainerService", feature)
	if _, err := h.Post(id, "register", nil); err != nil {
		h.T.Fatal(err)
	}
	// As if it had been asked for an hour ago: a registration takes its time.
	r, err := h.Store.Get(h.T.Context(), id)
	if err != nil {
		h.T.Fatal(err)
	}
	var d resourcetypetest.Document
	if err := json.Unmarshal(r.Body, &d); err != nil {
		h.T.Fatal(err)
	}
	d["cloister"] = features.Memory{Asked: time.Now().Add(-time.Hour).UTC()}
	if r.Body, err = json.Marshal(d); err != nil {
		h.T.Fatal(err)
	}
	if err := h.Store.Apply(h.T.Context(), resourcestore.Change{Put: &r, Revision: r.Revision}); err != nil {
		h.T.Fatal(err)
	}
	if state := h.Get(id).String("properties.state"); state != "Registered" {
		h.T.Fatalf("the feature is %s", state)
	}
}

const integration = "EnableAPIServerVnetIntegrationPreview"

// TestManagedVNetIntegration is the walkthrough's second create: AKS adds the API server's subnet to the VNet it makes.
func TestManagedVNetIntegration(t *testing.T) {
	h, m, id := newAKS(t)
	body := changed(t, create, map[string]any{access + "enableVnetIntegration": true})
	_, err := h.Do(http.MethodPut, id, "", body)
	wantRefusal(t, err, 400, "PreviewFeatureNotRegistered", access+"enableVnetIntegration", "Preview feature Microsoft.ContainerService/EnableAPIServerVnetIntegrationPreview not registered.")
	registered(h, integration)
	d := h.Put(id, body)
	group := resourceid.Group(resourcetypetest.Subscription, "MC_rg_demo_eastus")
	var subnet resourceid.ID
	for _, s := range inside(h) {
		r := resourceid.MustParse(s)
		if r.Is("Microsoft.Network/privateEndpoints") && strings.Contains(s, "kube-apiserver") {
			t.Errorf("there is a private endpoint %s", s)
		}
		if strings.HasSuffix(s, "/subnets/aks-apiserver-subnet") {
			subnet = r
		}
	}
	s := h.Get(subnet)
	if s.String("properties.delegations.0.properties.serviceName") != managedclusters.Name || s.At("properties.defaultOutboundAccess") != false {
		t.Errorf("the API server's subnet is %v", s)
	}
	address := h.Get(group.Resource("Microsoft.Network/loadBalancers", "kube-apiserver")).String("properties.frontendIPConfigurations.0.properties.privateIPAddress")
	if !strings.HasPrefix(address, "10.226.0.") || d.String(access+"subnetId") != subnet.String() {
		t.Errorf("the API server has %s, and its subnet is said to be %s", address, d.String(access+"subnetId"))
	}
	name, zone, _ := strings.Cut(d.String("properties.privateFQDN"), ".")
	if !strings.HasSuffix(zone, ".private.eastus.azmk8s.io") || h.Get(group.Resource("Microsoft.Network/privateDnsZones/A", zone, name)).String("properties.aRecords.0.ipv4Address") != address {
		t.Errorf("%s does not lead to %s", d.String("properties.privateFQDN"), address)
	}
	if d.At("properties.privateLinkResources") != nil {
		t.Error("there is a private link to a cluster with VNet integration")
	}
	for _, p := range m.planes {
		if !p.Direct || p.EndpointAddress.String() != address || p.PublicAddress.IsValid() {
			t.Errorf("control plane %+v", p)
		}
	}
	for _, n := range m.nodes {
		if n.Bootstrap.APIServerName != address {
			t.Errorf("node %s is told that the API server is %s", n.Name, n.Bootstrap.APIServerName)
		}
	}

	// Private or not is a matter of an update, back and forth, and changes nothing for nodes; integration stays.
	open := h.Put(id, changed(t, create, map[string]any{access + "enableVnetIntegration": true, access + "enablePrivateCluster": false}))
	for _, p := range m.planes {
		if !p.Direct || p.EndpointAddress.String() != address || !p.PublicAddress.IsValid() {
			t.Errorf("control plane %+v", p)
		}
	}
	credentials(t, h, id, open.String("properties.fqdn"))
	h.Put(id, body)
	credentials(t, h, id, d.String("properties.privateFQDN"))
	_, err = h.Do(http.MethodPut, id, "", changed(t, create, nil))
	wantRefusal(t, err, 400, "PropertyChangeNotAllowed", access+"enableVnetIntegration", "not allowed")
}

// credentials holds the server that az aks get-credentials is told.
func credentials(t *testing.T, h *resourcetypetest.Harness, id resourceid.ID, host string) {
	t.Helper()
	answer, err := h.Post(id, "listClusterUserCredential", nil)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Kubeconfigs []struct{ Value []byte } }
	answer.Into(t, &list)
	if !strings.Contains(string(list.Kubeconfigs[0].Value), " https://"+host+":443 ") {
		t.Errorf("credentials are %s, want those of %s", list.Kubeconfigs[0].Value, host)
	}
}

// ownIntegration is the walkthrough's create with a VNet and an API server subnet of the user's own.
func ownIntegration(t *testing.T, h *resourcetypetest.Harness, p parts, api resourceid.ID) map[string]any {
	return changed(t, create, map[string]any{
		"identity":                      map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{p.identity.String(): map[string]any{}}},
		"pool.vnetSubnetID":             p.aks.String(),
		access + "enablePrivateCluster": nil, access + "enableVnetIntegration": true, access + "subnetId": api.String(),
		"properties.bootstrapProfile.containerRegistryId":       p.registry.String(),
		"properties.identityProfile.kubeletidentity.resourceId": h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "kubelet").String(),
	})
}

func TestOwnVNetIntegration(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	registered(h, integration)
	h.Put(h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "kubelet"), `{"location":"eastus"}`)
	subnet := func(name, prefix string) resourceid.ID {
		s := p.vnet.Child("subnets", name)
		h.Put(s, `{"properties":{"addressPrefix":"`+prefix+`"}}`)
		return s
	}
	api, small, nodes := subnet("api", "192.168.20.0/24"), subnet("small", "192.168.21.0/29"), p.aks
	other := h.ID("Microsoft.Network/virtualNetworks", "other")
	h.Put(other, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]}}}`)
	h.Put(other.Child("subnets", "api"), `{"properties":{"addressPrefix":"10.9.0.0/24"}}`)
	used := subnet("used", "192.168.22.0/24")
	h.Put(h.ID("Microsoft.Network/networkInterfaces", "kube-apiserver"), `{"location":"eastus","properties":{"ipConfigurations":[{"name":"c","properties":{"subnet":{"id":"`+used.String()+`"}}}]}}`)
	body := func(s resourceid.ID) map[string]any { return ownIntegration(t, h, p, s) }
	for _, c := range []struct {
		subnet        resourceid.ID
		code, message string
	}{
		{small, "ApiserverSubnetConfigError", "must be /28 or larger"},
		{nodes, "ApiserverSubnetConfigError", "both the API server's and an agent pool's"},
		{other.Child("subnets", "api"), "ApiserverSubnetConfigError", "not in the virtual network of the agent pools"},
		{used, "ApiserverSubnetConfigError", "is in use by"},
		{p.vnet.Child("subnets", "nothere"), "SubnetNotFound", "nothere"},
		{p.vnet, "ApiserverSubnetConfigError", "not the resource ID of a subnet"},
	} {
		_, err := h.Do(http.MethodPut, id, "", body(c.subnet))
		wantRefusal(t, err, 400, c.code, access+"subnetId", c.message)
	}
	without := body(api)
	delete(without["properties"].(map[string]any)["apiServerAccessProfile"].(map[string]any), "subnetId")
	_, err := h.Do(http.MethodPut, id, "", without)
	wantRefusal(t, err, 400, "ApiserverSubnetConfigError", access+"subnetId", "is required")

	// The cluster's identity needs its roles.
	m.denied = map[string]bool{"Microsoft.Network/virtualNetworks/subnets/write": true}
	_, err = h.Do(http.MethodPut, id, "", body(api))
	wantRefusal(t, err, 403, "LinkedAuthorizationFailed", access+"subnetId", "'Microsoft.Network/virtualNetworks/subnets/write' on the linked scope(s) '"+api.String()+"'")
	m.denied = map[string]bool{"Microsoft.ManagedIdentity/userAssignedIdentities/assign/action": true}
	_, err = h.Do(http.MethodPut, id, "", body(api))
	wantRefusal(t, err, 400, "CustomKubeletIdentityMissingPermissionError", "properties.identityProfile", "must be granted 'Managed Identity Operator' role to assign kubelet identity")
	m.denied = nil

	d := h.Put(id, body(api))
	if s := h.Get(api); s.String("properties.delegations.0.properties.serviceName") != managedclusters.Name || s.String("properties.addressPrefix") != "192.168.20.0/24" {
		t.Errorf("the user's subnet is now %v", s)
	}
	// The public endpoint stays, and nodes use the address in the VNet.
	if d.String("properties.privateFQDN") != "" {
		t.Errorf("a cluster that is not private has the private name %s", d.String("properties.privateFQDN"))
	}
	for _, plane := range m.planes {
		if !plane.Direct || plane.EndpointAddress.String() != "192.168.20.4" || plane.PublicAddress.String() != "198.18.16.1" {
			t.Errorf("control plane %+v", plane)
		}
	}
	for _, n := range m.nodes {
		if n.Bootstrap.APIServerName != "192.168.20.4" {
			t.Errorf("node %s is told that the API server is %s", n.Name, n.Bootstrap.APIServerName)
		}
	}
	// A second cluster may share the subnet, and has addresses of its own.
	second := h.ID(managedclusters.Name, "second")
	h.Put(second, body(api))
	for _, plane := range m.planes {
		if plane.FQDN != d.String("properties.fqdn") && (plane.EndpointAddress.String() != "192.168.20.5" || plane.PublicAddress.String() != "198.18.16.2") {
			t.Errorf("the second control plane is %+v", plane)
		}
	}
	h.Delete(second)
	if len(m.planes) != 1 {
		t.Errorf("%d control planes are left", len(m.planes))
	}
}

// A public cluster has neither a private endpoint nor an address in the VNet: nodes use the public name.
func TestPublicCluster(t *testing.T) {
	h, m, id := newAKS(t)
	public := func(changes map[string]any) map[string]any {
		all := map[string]any{access + "enablePrivateCluster": nil}
		for k, v := range changes {
			all[k] = v
		}
		return changed(t, create, all)
	}
	_, err := h.Do(http.MethodPut, id, "", public(map[string]any{access + "authorizedIPRanges": []any{"198.18.8.0/21", "nowhere"}}))
	wantRefusal(t, err, 400, "InvalidAuthorizedIPRanges", access+"authorizedIPRanges[1]", "nowhere")
	_, err = h.Do(http.MethodPut, id, "", public(map[string]any{access + "subnetId": h.ID("Microsoft.Network/virtualNetworks/subnets", "v", "s").String()}))
	wantRefusal(t, err, 400, "InvalidParameter", access+"subnetId", "enableVnetIntegration")
	d := h.Put(id, public(map[string]any{access + "authorizedIPRanges": []any{"198.18.8.0/21", "198.18.9.1"}}))
	for _, r := range inside(h) {
		if strings.Contains(r, "kube-apiserver") || strings.Contains(r, "azmk8s.io") {
			t.Errorf("a public cluster has %s", r)
		}
	}
	for _, p := range m.planes {
		if p.Direct || p.EndpointAddress.String() != "198.18.16.1" || p.PublicAddress != p.EndpointAddress {
			t.Errorf("control plane %+v", p)
		}
	}
	for _, n := range m.nodes {
		if n.Bootstrap.APIServerName != d.String("properties.fqdn") {
			t.Errorf("node %s is told that the API server is %s", n.Name, n.Bootstrap.APIServerName)
		}
	}
	credentials(t, h, id, d.String("properties.fqdn"))
	for property, value := range map[string]any{"enablePrivateCluster": true} {
		_, err = h.Do(http.MethodPut, id, "", public(map[string]any{access + property: value}))
		wantRefusal(t, err, 400, "PropertyChangeNotAllowed", access+property, "not allowed")
	}
}

// A cluster with private link is given VNet integration: its name leads to the API server's new address, by which
// nodes find it until they are reimaged. There is no way back.
func TestIntegrationOfAnExistingCluster(t *testing.T) {
	h, m, id := newAKS(t)
	before := h.Put(id, create)
	registered(h, integration)
	after := h.Put(id, changed(t, create, map[string]any{access + "enableVnetIntegration": true}))
	name, zone, _ := strings.Cut(before.String("properties.privateFQDN"), ".")
	if after.String("properties.privateFQDN") != name+"."+zone {
		t.Errorf("the private name is now %s", after.String("properties.privateFQDN"))
	}
	group := resourceid.Group(resourcetypetest.Subscription, "MC_rg_demo_eastus")
	address := h.Get(group.Resource("Microsoft.Network/loadBalancers", "kube-apiserver")).String("properties.frontendIPConfigurations.0.properties.privateIPAddress")
	if got := h.Get(group.Resource("Microsoft.Network/privateDnsZones/A", zone, name)).String("properties.aRecords.0.ipv4Address"); got != address {
		t.Errorf("the name leads to %s, the API server is at %s", got, address)
	}
	if h.Exists(group.Resource("Microsoft.Network/privateEndpoints", "kube-apiserver")) {
		t.Error("the private endpoint is still there")
	}
	for _, p := range m.planes {
		if !p.Direct || p.EndpointAddress.String() != address {
			t.Errorf("control plane %+v", p)
		}
	}
	h.Put(id, changed(t, create, map[string]any{access + "enableVnetIntegration": true, "pool.count": 3}))
	told := map[string]int{}
	for _, n := range m.nodes {
		told[n.Bootstrap.APIServerName]++
	}
	if told[name+"."+zone] != 3 {
		t.Errorf("nodes are told %v", told)
	}
	_, err := h.Do(http.MethodPut, id, "", create)
	wantRefusal(t, err, 400, "PropertyChangeNotAllowed", access+"enableVnetIntegration", "not allowed")
}

// The move from private link to VNet integration can be cut off at any line.
func TestIntegrationCrashesEverywhere(t *testing.T) {
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
				feature := resourceid.MustParse("/subscriptions/"+resourcetypetest.Subscription).Resource("Microsoft.Features/providers/features", "Microsoft.ContainerService", integration)
				h.Seed(feature, map[string]any{"properties": map[string]any{"state": "Registered"}})
				h.Put(id, single(t))
			},
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				return h.Do(http.MethodPut, id, "", changed(t, create, map[string]any{"pool.count": 1, access + "enableVnetIntegration": true}))
			},
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				if d := h.Get(id); d.State() != "Succeeded" {
					t.Errorf("the cluster is %s: %v", d.State(), d)
				}
				for _, p := range m.planes {
					if !p.Direct || p.EndpointAddress.String() != "10.226.0.4" {
						t.Errorf("control plane %+v", p)
					}
				}
				if s := strings.Join(inside(h), "\n"); strings.Contains(s, "/privateEndpoints/kube-apiserver") || strings.Count(s, "/loadBalancers/kube-apiserver") != 1 {
					t.Errorf("there are\n%s", s)
				}
			},
		}
	})
}
