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
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

const zoneName = "privatelink.eastus.azmk8s.io"

// zoned is a create with the zone, by a cluster identity of the user's, in the user's VNet.
func zoned(t *testing.T, p parts, zone resourceid.ID, changes map[string]any) map[string]any {
	t.Helper()
	all := map[string]any{
		"identity":          map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{p.identity.String(): map[string]any{}}},
		"pool.vnetSubnetID": p.aks.String(), "pool.count": 1, access + "privateDNSZone": zone.String(),
		"properties.bootstrapProfile.containerRegistryId": p.registry.String(),
	}
	for k, v := range changes {
		all[k] = v
	}
	return changed(t, create, all)
}

func ownZone(h *resourcetypetest.Harness, name string) resourceid.ID {
	zone := h.ID("Microsoft.Network/privateDnsZones", name)
	h.Put(zone, `{"location":"global"}`)
	return zone
}

// The name of the API server is in the user's zone, which AKS links to the nodes' VNet; deletion takes both away again,
// and nothing else of the zone.
func TestOwnZone(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	zone := ownZone(h, zoneName)
	h.Put(zone.Child("A", "other"), `{"properties":{"ttl":60,"aRecords":[{"ipv4Address":"192.168.9.9"}]}}`)
	before := inside(h)

	d := h.Put(id, zoned(t, p, zone, nil))
	name, in, _ := strings.Cut(d.String("properties.privateFQDN"), ".")
	if in != zoneName || !strings.HasPrefix(name, "aks-manage-rg-netiso-222222-") {
		t.Errorf("the private name is %s", d.String("properties.privateFQDN"))
	}
	record := h.Get(zone.Child("A", name)).String("properties.aRecords.0.ipv4Address")
	for _, plane := range m.planes {
		if plane.EndpointAddress.String() != record || plane.PrivateFQDN != d.String("properties.privateFQDN") {
			t.Errorf("%s leads to %s, and the control plane is %+v", d.String("properties.privateFQDN"), record, plane)
		}
	}
	links := h.List(zone, "Microsoft.Network/privateDnsZones/virtualNetworkLinks", "")
	if len(links) != 1 || links[0].String("properties.virtualNetwork.id") != p.vnet.String() {
		t.Errorf("links: %v", links)
	}
	for _, n := range m.nodes {
		if n.Bootstrap.APIServerName != d.String("properties.privateFQDN") {
			t.Errorf("node %s is told that the API server is %s", n.Name, n.Bootstrap.APIServerName)
		}
	}
	if s := strings.Join(inside(h), "\n"); strings.Contains(s, "/MC_rg_demo_eastus/providers/Microsoft.Network/privateDnsZones/") {
		t.Errorf("there is a zone of AKS's beside the user's:\n%s", s)
	}

	// The zone stays; an update that does not name it keeps it, and asks for the identity's rights again.
	if kept := h.Put(id, zoned(t, p, zone, map[string]any{access + "privateDNSZone": nil})); kept.String(access+"privateDNSZone") != zone.String() {
		t.Errorf("the zone is %s now", kept.String(access+"privateDNSZone"))
	}
	for value, code := range map[string]string{"system": "PropertyChangeNotAllowed", "none": "NotSupported"} {
		_, err := h.TryPut(id, zoned(t, p, zone, map[string]any{access + "privateDNSZone": value}))
		wantRefusal(t, err, http.StatusBadRequest, code, access+"privateDNSZone", "privateDNSZone")
	}
	m.denied = map[string]bool{"Microsoft.Network/privateDnsZones/write": true}
	_, err := h.TryPut(id, zoned(t, p, zone, nil))
	wantRefusal(t, err, http.StatusBadRequest, "CustomPrivateDNSZoneMissingPermissionError", access+"privateDNSZone", "Microsoft.Network/privateDnsZones/write")
	m.denied = nil

	// A second cluster of the VNet has a record of its own and uses the same link, which goes with the last of them.
	second := h.ID(managedclusters.Name, "second")
	h.Put(second, zoned(t, p, zone, map[string]any{"properties.dnsPrefix": nil, "properties.fqdnSubdomain": "api"}))
	if h.Get(second).String("properties.privateFQDN") != "api."+zoneName || !h.Exists(zone.Child("A", "api")) {
		t.Errorf("%s has no record", h.Get(second).String("properties.privateFQDN"))
	}
	_, err = h.TryPut(h.ID(managedclusters.Name, "third"), zoned(t, p, zone, map[string]any{"properties.dnsPrefix": nil, "properties.fqdnSubdomain": "API"}))
	wantRefusal(t, err, http.StatusBadRequest, "FQDNSubdomainRecordAlreadyExistsError", "properties.fqdnSubdomain", "API")
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	if links := h.List(zone, "Microsoft.Network/privateDnsZones/virtualNetworkLinks", ""); len(links) != 1 || h.Exists(zone.Child("A", name)) || !h.Exists(zone.Child("A", "api")) {
		t.Errorf("after the first of two: %s", strings.Join(inside(h), "\n"))
	}
	if err := h.Delete(second); err != nil {
		t.Fatal(err)
	}
	want(t, "resources", inside(h), before...)
}

// A VNet that sees the zone already needs no other link, and the cluster's identity no right on it.
func TestOwnZoneLinked(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	zone := ownZone(h, "team-a."+zoneName)
	m.denied = map[string]bool{"Microsoft.Network/virtualNetworks/join/action": true}
	_, err := h.TryPut(id, zoned(t, p, zone, nil))
	wantRefusal(t, err, http.StatusForbidden, "LinkedAuthorizationFailed", access+"privateDNSZone", "'Microsoft.Network/virtualNetworks/join/action' on the linked scope(s) '"+p.vnet.String()+"'")
	link := zone.Child("virtualNetworkLinks", "mine")
	h.Put(link, `{"location":"global","properties":{"registrationEnabled":false,"virtualNetwork":{"id":"`+p.vnet.String()+`"}}}`)
	h.Put(id, zoned(t, p, zone, nil))
	if links := h.List(zone, "Microsoft.Network/privateDnsZones/virtualNetworkLinks", ""); len(links) != 1 {
		t.Errorf("links: %v", links)
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	if !h.Exists(link) {
		t.Error("the user's link went with the cluster")
	}
}

// In a VNet that AKS makes the identity needs its roles on the zone alone, and the zone is left as it was.
func TestOwnZoneOfManagedVNet(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	zone := ownZone(h, zoneName)
	before := inside(h)
	m.denied = map[string]bool{"Microsoft.Network/virtualNetworks/join/action": true}
	d := h.Put(id, zoned(t, p, zone, map[string]any{"pool.vnetSubnetID": nil, "properties.bootstrapProfile.containerRegistryId": nil}))
	name, _, _ := strings.Cut(d.String("properties.privateFQDN"), ".")
	links := h.List(zone, "Microsoft.Network/privateDnsZones/virtualNetworkLinks", "")
	if len(links) != 1 || !strings.Contains(links[0].String("properties.virtualNetwork.id"), "/MC_rg_demo_eastus/") || !h.Exists(zone.Child("A", name)) {
		t.Errorf("links %v, name %s", links, d.String("properties.privateFQDN"))
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	want(t, "resources", inside(h), before...)
}

// A VNet that sees another zone of the name cannot be linked: AKS says so when it makes the cluster.
func TestOwnZoneOverlaps(t *testing.T) {
	h, _, id := newAKS(t)
	p := build(h)
	zone := ownZone(h, zoneName)
	elsewhere := resourceid.Group(resourcetypetest.Subscription, "hub")
	h.Put(elsewhere, `{"location":"eastus"}`)
	hub := elsewhere.Resource("Microsoft.Network/privateDnsZones", zoneName)
	h.Put(hub, `{"location":"global"}`)
	link := hub.Child("virtualNetworkLinks", "hub")
	h.Put(link, `{"location":"global","properties":{"registrationEnabled":false,"virtualNetwork":{"id":"`+p.vnet.String()+`"}}}`)
	_, err := h.TryPut(id, zoned(t, p, zone, nil))
	wantRefusal(t, err, http.StatusBadRequest, "CreateOrUpdateVirtualNetworkLinkFailed", "", "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with '"+zoneName+"' and '"+zoneName+"' zones.")
	if d := h.Get(id); d.State() != "Failed" {
		t.Errorf("the cluster is %s", d.State())
	}
	if err := h.Delete(link); err != nil {
		t.Fatal(err)
	}
	if d := h.Put(id, zoned(t, p, zone, nil)); d.State() != "Succeeded" {
		t.Errorf("mended, the cluster is %s", d.State())
	}
}

func TestZoneRefusals(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	registered(h, integration)
	zone := ownZone(h, zoneName)
	before := inside(h)
	named := func(name string) string { return h.ID("Microsoft.Network/privateDnsZones", name).String() }
	dnsZone, sub := access+"privateDNSZone", "properties.fqdnSubdomain"
	for _, c := range []refusal{
		{"no ID", map[string]any{dnsZone: "zone"}, "InvalidPrivateDNSZoneResourceID", dnsZone, "Invalid private dns zone resource id 'zone' for private cluster. It should be a valid resource id and the private dns zone name should be in either of these formats: 'privatelink.eastus.azmk8s.io,[a-zA-Z0-9-]{1,32}.privatelink.eastus.azmk8s.io'."},
		{"another type", map[string]any{dnsZone: p.vnet.String()}, "InvalidPrivateDNSZoneResourceID", dnsZone, "vnet-netiso"},
		{"another region", map[string]any{dnsZone: named("privatelink.westus.azmk8s.io")}, "InvalidPrivateDNSZoneResourceID", dnsZone, "westus"},
		{"a long subzone", map[string]any{dnsZone: named(strings.Repeat("a", 33) + "." + zoneName)}, "InvalidPrivateDNSZoneResourceID", dnsZone, "{1,32}"},
		{"two subzones", map[string]any{dnsZone: named("a.b." + zoneName)}, "InvalidPrivateDNSZoneResourceID", dnsZone, "a.b."},
		{"a zone for VNet integration", map[string]any{dnsZone: named("private.eastus.azmk8s.io")}, "InvalidPrivateDNSZoneResourceID", dnsZone, "'privatelink.eastus"},
		{"missing", map[string]any{dnsZone: named("b." + zoneName)}, "PrivateDNSZoneResourceNotFoundError", dnsZone, "b." + zoneName},
		{"missing, with VNet integration", map[string]any{dnsZone: named("a.private.eastus.azmk8s.io"), access + "enableVnetIntegration": true, "pool.vnetSubnetID": nil}, "PrivateDNSZoneResourceNotFoundError", dnsZone, "a.private.eastus"},
		{"system-assigned identity", map[string]any{"identity": map[string]any{"type": "SystemAssigned"}}, "SystemAssignedIdentityNotSupportedForCustomPrivateDNSZone", dnsZone, "user-assigned"},
		{"public cluster", map[string]any{access + "enablePrivateCluster": false}, "InvalidPrivateDNSZoneMode", dnsZone, "Invalid private dns zone for public cluster. It should always be empty for public cluster"},
		{"no name at all", map[string]any{dnsZone: "None", access + "enablePrivateClusterPublicFQDN": false}, "NonePrivateDNSZonePublicFQDNDisabledError", access + "enablePrivateClusterPublicFQDN", "'none'"},
		{"subdomain in a zone of AKS's", map[string]any{dnsZone: "system", sub: "api", "properties.dnsPrefix": nil}, "InvalidParameter", sub, "custom private DNS zone"},
		{"subdomain and prefix", map[string]any{sub: "api"}, "InvalidParameter", sub, "together"},
		{"subdomain of two", map[string]any{sub: "a.b", "properties.dnsPrefix": nil}, "InvalidParameter", sub, "a.b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := h.TryPut(id, zoned(t, p, zone, c.changes))
			wantRefusal(t, err, http.StatusBadRequest, c.code, c.target, c.message)
		})
	}
	for _, action := range []string{"read", "write", "virtualNetworkLinks/write", "A/write"} {
		m.denied = map[string]bool{"Microsoft.Network/privateDnsZones/" + action: true}
		_, err := h.TryPut(id, zoned(t, p, zone, nil))
		wantRefusal(t, err, http.StatusBadRequest, "CustomPrivateDNSZoneMissingPermissionError", dnsZone,
			"Service principal or user-assigned identity must be given permission to read and write to custom private dns zone "+zone.String()+". Check access result not allowed for action Microsoft.Network/privateDnsZones/"+action+".")
	}
	want(t, "resources", inside(h), before...)
}

// Without a private zone the public name is the one that there is: nodes use it, and it leads to the private address.
func TestNoZone(t *testing.T) {
	h, m, id := newAKS(t)
	d := h.Put(id, changed(t, create, map[string]any{access + "privateDNSZone": "none", "pool.count": 1}))
	if d.String("properties.privateFQDN") != "" || d.String(access+"privateDNSZone") != "none" {
		t.Errorf("%v", d)
	}
	for _, s := range inside(h) {
		if strings.Contains(s, "azmk8s.io") {
			t.Errorf("there is %s", s)
		}
	}
	fqdn := d.String("properties.fqdn")
	credentials(t, h, id, fqdn)
	for _, n := range m.nodes {
		if n.Bootstrap.APIServerName != fqdn {
			t.Errorf("node %s is told that the API server is %s", n.Name, n.Bootstrap.APIServerName)
		}
	}
	for _, plane := range m.planes {
		if !strings.HasPrefix(plane.EndpointAddress.String(), "10.224.") || plane.PublicAddress.IsValid() {
			t.Errorf("control plane %+v", plane)
		}
	}
}

// With VNet integration the zone's name can say private, in a subzone too.
func TestOwnZoneIntegrated(t *testing.T) {
	h, m, id := newAKS(t)
	p := build(h)
	registered(h, integration)
	h.Put(h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "kubelet"), `{"location":"eastus"}`)
	api := p.vnet.Child("subnets", "api")
	h.Put(api, `{"properties":{"addressPrefix":"192.168.20.0/24"}}`)
	zone := ownZone(h, "team-a.private.eastus.azmk8s.io")
	body := zoned(t, p, zone, map[string]any{access + "enableVnetIntegration": true, access + "subnetId": api.String()})
	d := h.Put(id, body)
	name, in, _ := strings.Cut(d.String("properties.privateFQDN"), ".")
	if in != "team-a.private.eastus.azmk8s.io" || h.Get(zone.Child("A", name)).String("properties.aRecords.0.ipv4Address") != "192.168.20.4" {
		t.Errorf("%s does not lead to the API server of %+v", d.String("properties.privateFQDN"), m.planes)
	}
}

// A deletion that is cut off anywhere takes the record and the link out of the user's zone in the end.
func TestOwnZoneDies(t *testing.T) {
	t.Parallel()
	reconciletest.CrashEverywhere(t, func(t *testing.T) reconciletest.Scenario {
		m := newMachine()
		var id, zone resourceid.ID
		var before []string
		return reconciletest.Scenario{
			Definitions: func(p *reconciletest.Process) []resourcetype.Definition {
				m.effect = p.Effect
				return aks(m)
			},
			Setup: func(h *resourcetypetest.Harness) {
				id = h.ID(managedclusters.Name, "demo")
				p := build(h)
				zone = ownZone(h, zoneName)
				before = inside(h)
				h.Put(id, zoned(t, p, zone, nil))
			},
			Act: func(h *resourcetypetest.Harness) (resourcemanager.Answer, error) {
				return h.Do(http.MethodDelete, id, "", nil)
			},
			Check: func(t *testing.T, h *resourcetypetest.Harness) {
				if now := inside(h); !slices.Equal(now, before) {
					t.Errorf("there are\n%s\nwant\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
				}
			},
		}
	})
}
