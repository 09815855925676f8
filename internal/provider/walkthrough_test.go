// Package provider_test runs all resource types together, without HTTP and without a machine: the steps of
// the walkthrough in the bodies that az sends.
package provider_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roleassignments"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roledefinitions"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/cacherules"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/privateendpointconnections"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/privatelinkresources"
	"github.com/cloister-dev/cloister/internal/provider/managedidentity/userassignedidentities"
	"github.com/cloister-dev/cloister/internal/provider/network/loadbalancers"
	"github.com/cloister-dev/cloister/internal/provider/network/natgateways"
	"github.com/cloister-dev/cloister/internal/provider/network/networkinterfaces"
	"github.com/cloister-dev/cloister/internal/provider/network/networksecuritygroups"
	"github.com/cloister-dev/cloister/internal/provider/network/networksecuritygroups/securityrules"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones/recordsets"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones/virtualnetworklinks"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints/privatednszonegroups"
	"github.com/cloister-dev/cloister/internal/provider/network/publicipaddresses"
	"github.com/cloister-dev/cloister/internal/provider/network/routetables"
	"github.com/cloister-dev/cloister/internal/provider/network/routetables/routes"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks/subnets"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks/virtualnetworkpeerings"
	"github.com/cloister-dev/cloister/internal/provider/resources/features"
	"github.com/cloister-dev/cloister/internal/provider/resources/resourcegroups"
)

type world struct{}

func (world) Sync(context.Context) error { return nil }

// everyone is a directory in which every principal is a service principal.
type everyone struct{}

func (everyone) PrincipalType(context.Context, string) (string, bool, error) {
	return "ServicePrincipal", true, nil
}

// approver lets everyone approve connections, or nobody.
type approver bool

func (a approver) Allowed(context.Context, resourcetype.Principal, string, resourceid.ID) (bool, error) {
	return bool(a), nil
}

func definitions(approve approver) []resourcetype.Definition {
	w := world{}
	var defaults []networksecuritygroups.Rule
	for _, d := range securityrules.Defaults() {
		defaults = append(defaults, networksecuritygroups.Rule{Name: d.Name, Properties: d.Properties})
	}
	list := []resourcetype.Definition{
		resourcegroups.Type(),
		virtualnetworks.Type(w), subnets.Type(w), virtualnetworkpeerings.Type(w), networksecuritygroups.Type(w, defaults), securityrules.Type(w),
		networkinterfaces.Type(w, func(p resourcetype.Principal) bool { return strings.HasPrefix(p.ObjectID, "service:") }),
		publicipaddresses.Type(w), natgateways.Type(w), routetables.Type(w), routes.Type(w), loadbalancers.Type(w),
		privateendpoints.Type(w, approve), privatednszonegroups.Type(), privatednszones.Type(w), virtualnetworklinks.Type(w),
		cacherules.Type(cacherules.Deps{World: w, Occupied: func(resourceid.ID, string, string) ([]string, error) { return nil, nil }}), privateendpointconnections.Type(w), resourcetype.DefineEndpoint(registries.CheckNameAvailability()),
		userassignedidentities.Type(w, "11111111-1111-1111-1111-111111111111"),
		roledefinitions.Type(), roleassignments.Type(w, everyone{}, func(string) bool { return true }),
	}
	list = append(list, privatelinkresources.Type())
	list = append(list, registries.Types(registries.Deps{World: w, Access: approve})...)
	list = append(list, registries.Unsupported()...)
	list = append(list, features.Types(time.Now)...)
	return append(list, recordsets.Types(w)...)
}

// parts are the resources of the walkthrough.
type parts struct {
	vnet, aks, acr, registry, rule, endpoint, zone, link, identity resourceid.ID
}

// build runs the page's steps 1 to 5.
func build(h *resourcetypetest.Harness) parts {
	p := parts{
		vnet: h.ID("Microsoft.Network/virtualNetworks", "vnet-netiso"), registry: h.ID("Microsoft.ContainerRegistry/registries", "netisoreg01"),
		endpoint: h.ID("Microsoft.Network/privateEndpoints", "myPrivateEndpoint"), zone: h.ID("Microsoft.Network/privateDnsZones", "privatelink.azurecr.io"),
		identity: h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "id-kubelet"),
	}
	p.aks, p.acr = p.vnet.Child("subnets", "snet-aks"), p.vnet.Child("subnets", "snet-acr")
	p.rule, p.link = p.registry.Child("cacheRules", "acr-cache-rule"), p.zone.Child("virtualNetworkLinks", "MyDNSLink")
	h.Put(p.vnet, `{"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["192.168.0.0/16"]}, "enableDdosProtection": false, "enableVmProtection": false}}`)
	h.Put(p.aks, `{"name": "snet-aks", "properties": {"addressPrefix": "192.168.1.0/24", "defaultOutboundAccess": false, "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"}}`)
	h.Put(p.acr, `{"name": "snet-acr", "properties": {"addressPrefix": "192.168.2.0/24", "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"}}`)
	h.Put(p.registry, `{"location": "eastus", "properties": {"adminUserEnabled": false, "anonymousPullEnabled": false, "networkRuleSet": {"defaultAction": "Deny"}, "publicNetworkAccess": "Disabled"}, "sku": {"name": "Premium"}}`)
	if _, err := h.TryPatch(p.registry, `{"properties": {"anonymousPullEnabled": true}}`); err != nil {
		h.T.Fatal(err)
	}
	h.Put(p.rule, `{"properties": {"credentialSetResourceId": null, "sourceRepository": "mcr.microsoft.com/*", "targetRepository": "*"}}`)
	h.Put(p.endpoint, `{"location": "eastus", "properties": {"privateLinkServiceConnections": [{"name": "myConnection", "properties": {"groupIds": ["registry"], "privateLinkServiceId": "`+p.registry.String()+`"}}], "subnet": {"id": "`+p.acr.String()+`"}}}`)
	h.Put(p.zone, `{"location": "global"}`)
	h.Put(p.link, `{"location": "global", "properties": {"registrationEnabled": false, "virtualNetwork": {"id": "`+p.vnet.String()+`"}}}`)
	h.Put(p.identity, `{"location": "eastus"}`)
	return p
}

func TestWalkthrough(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)

	endpoint := h.Get(p.endpoint)
	if got := endpoint.String("properties.privateLinkServiceConnections.0.properties.privateLinkServiceConnectionState.description"); got != "Auto-Approved" {
		t.Errorf("connection: %q in %v", got, endpoint)
	}
	nic := h.Get(resourceid.MustParse(endpoint.String("properties.networkInterfaces.0.id")))
	for path, want := range map[string]string{
		"properties.ipConfigurations.0.properties.privateIPAddress":                                   "192.168.2.4",
		"properties.ipConfigurations.0.properties.privateLinkConnectionProperties.requiredMemberName": "registry_data_eastus",
		"properties.ipConfigurations.1.properties.privateIPAddress":                                   "192.168.2.5",
		"properties.ipConfigurations.1.properties.privateLinkConnectionProperties.requiredMemberName": "registry",
		"properties.ipConfigurations.1.properties.privateLinkConnectionProperties.fqdns.0":            "netisoreg01.azurecr.io",
		"properties.privateEndpoint.id":                                                               p.endpoint.String(), "kind": "Regular", "properties.nicType": "Standard", "properties.provisioningState": "Succeeded",
	} {
		if got := nic.String(path); got != want {
			t.Errorf("interface %s: %q, want %q", path, got, want)
		}
	}

	// Step 4: an empty record set, then its record, as az adds it: what it read with the list changed.
	a := p.zone.Child("A", "netisoreg01.eastus.data")
	empty := h.Put(a, `{"properties": {"ttl": 3600}}`)
	if list, ok := empty.At("properties.aRecords").([]any); !ok || len(list) != 0 || empty.String("etag") == "" || empty.At("properties.provisioningState") != nil {
		t.Errorf("empty record set: %v", empty)
	}
	full := h.Put(a, `{"etag": "`+strings.ReplaceAll(empty.String("etag"), `"`, `\"`)+`", "properties": {"aRecords": [{"ipv4Address": "192.168.2.4"}], "ttl": 3600}}`)
	if full.String("properties.aRecords.0.ipv4Address") != "192.168.2.4" || full.String("type") != "Microsoft.Network/privateDnsZones/A" {
		t.Errorf("record set: %v", full)
	}
	if n := h.Get(p.zone).At("properties.numberOfRecordSets"); n != 2.0 {
		t.Errorf("%v record sets", n)
	}
	if all := h.List(p.zone, recordsets.NameAll, ""); len(all) != 2 {
		t.Errorf("all record sets: %v", all)
	}

	// Step 5: the role.
	roles := h.List(p.registry, roledefinitions.Name, "roleName eq 'AcrPull'")
	if len(roles) != 1 {
		t.Fatalf("roles: %v", roles)
	}
	assignment := `{"properties": {"principalId": "` + h.Get(p.identity).String("properties.principalId") + `", "principalType": "ServicePrincipal", "roleDefinitionId": "` + roles[0].String("id") + `"}}`
	h.Put(p.registry.Resource(roleassignments.Name, "58ab52d5-7b24-4913-8374-143ce3371a40"), assignment)
	_, err := h.TryPut(p.registry.Resource(roleassignments.Name, "0d53d8f5-7dc2-477d-96f6-08f00c3c4c34"), assignment)
	resourcetypetest.WantError(t, err, "RoleAssignmentExists")
	if list := h.List(p.registry, roleassignments.Name, "atScope()"); len(list) != 1 || list[0].String("properties.scope") != p.registry.String() {
		t.Errorf("assignments: %v", list)
	}

	// What everything shows of everything else.
	registry := h.Get(p.registry)
	if registry.String("properties.privateEndpointConnections.0.properties.privateLinkServiceConnectionState.status") != "Approved" || registry.At("properties.anonymousPullEnabled") != true {
		t.Errorf("registry: %v", registry)
	}
	subnet := h.Get(p.acr)
	if subnet.String("properties.privateEndpoints.0.id") != p.endpoint.String() || len(subnet.At("properties.ipConfigurations").([]any)) != 2 {
		t.Errorf("subnet: %v", subnet)
	}
	if vnet := h.Get(p.vnet); len(vnet.At("properties.subnets").([]any)) != 2 {
		t.Errorf("virtual network: %v", vnet)
	}
}

func TestInUse(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	nic := resourceid.MustParse(h.Get(p.endpoint).String("properties.networkInterfaces.0.id"))
	resourcetypetest.WantError(t, h.Delete(nic), "CannotDeleteNicAttachedToPrivateEndpoint")
	resourcetypetest.WantError(t, h.Delete(p.acr), "InUseSubnetCannotBeDeleted")
	resourcetypetest.WantError(t, h.Delete(p.vnet), "InUseSubnetCannotBeDeleted")
	resourcetypetest.WantError(t, h.Delete(p.zone), "CannotDeleteResource")
	_, err := h.TryPut(p.vnet, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["192.168.0.0/16"]},"subnets":[]}}`)
	resourcetypetest.WantError(t, err, "InUseSubnetCannotBeDeleted")

	var memory privateendpoints.Model
	h.Stored(p.endpoint, &memory)
	if err := h.Delete(p.endpoint); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []resourceid.ID{nic, p.endpoint, resourceid.MustParse(memory.Cloister.Connection)} {
		if h.Exists(gone) {
			t.Errorf("%s is left", gone)
		}
	}
	for _, id := range []resourceid.ID{p.acr, p.link, p.zone, p.vnet} {
		if err := h.Delete(id); err != nil {
			t.Errorf("DELETE %s: %v", id, err)
		}
	}
}

func TestGroupGoesWithEverything(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	if err := h.Delete(h.Group()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []resourceid.ID{p.vnet, p.aks, p.registry, p.rule, p.endpoint, p.zone, p.link, p.identity, h.Group()} {
		if h.Exists(id) {
			t.Errorf("%s is left", id)
		}
	}
}

func TestGroup(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	group := resourceid.Group(resourcetypetest.Subscription, "MC_rg_c_eastus")
	made := h.Put(group, `{"location":"eastus","managedBy":"`+h.Group().String()+`","tags":{"a":"b"}}`)
	if made.State() != "Succeeded" || made.String("type") != "Microsoft.Resources/resourceGroups" {
		t.Errorf("%v", made)
	}
	if kept := h.Put(group, `{"location":"East US"}`); kept.String("managedBy") != h.Group().String() || kept.At("tags") != nil {
		t.Errorf("%v", kept)
	}
	_, err := h.TryPut(group, `{"location":"eastus","managedBy":"`+group.String()+`"}`)
	resourcetypetest.WantError(t, err, "ResourceGroupManagedByMismatch")
	_, err = h.TryPut(group, `{"location":"westus"}`)
	resourcetypetest.WantError(t, err, "InvalidResourceGroupLocation")
	if err := h.Delete(group); err != nil || h.Exists(group) {
		t.Errorf("%v", err)
	}
}

func TestUnsupportedRecords(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	_, err := h.TryPut(p.zone.Child("CNAME", "www"), `{"properties":{"ttl":60,"cnameRecord":{"cname":"x.example"}}}`)
	if e := resourcetypetest.WantError(t, err, "NotSupported"); !strings.Contains(e.Message, "CNAME") {
		t.Errorf("%v", e)
	}
	soa := p.zone.Child("SOA", "@")
	if got := h.Get(soa); got.String("properties.soaRecord.host") != "azureprivatedns.net" || got.String("properties.fqdn") != "privatelink.azurecr.io." {
		t.Errorf("%v", got)
	}
	resourcetypetest.WantError(t, h.Delete(soa), "MethodNotAllowed")
}

func TestRegistrysOther(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	link := h.List(p.registry, privatelinkresources.Name, "")
	if len(link) != 1 || link[0].String("properties.requiredMembers.1") != "registry_data_eastus" || link[0].String("name") != "registry" {
		t.Errorf("private link resources: %v", link)
	}
	if one := h.Get(p.registry.Child("privateLinkResources", "registry")); one.String("properties.groupId") != "registry" {
		t.Errorf("%v", one)
	}
	if list := h.List(p.registry, registries.Name+"/replications", ""); len(list) != 0 {
		t.Errorf("replications: %v", list)
	}
	_, err := h.TryPut(p.registry.Child("replications", "westus"), `{"location":"westus"}`)
	if e := resourcetypetest.WantError(t, err, "NotSupported"); !strings.Contains(e.Message, "replications") {
		t.Errorf("%v", e)
	}
	_, err = h.Post(p.registry, "listCredentials", nil)
	resourcetypetest.WantError(t, err, "UnauthorizedForCredentialOperations")
}

func TestPendingUntilApproved(t *testing.T) {
	h := resourcetypetest.New(t, definitions(false)...)
	p := build(h)
	const status = "properties.privateLinkServiceConnections.0.properties.privateLinkServiceConnectionState.status"
	if got := h.Get(p.endpoint).String(status); got != "Pending" {
		t.Fatalf("connection is %s", got)
	}
	connection := resourceid.MustParse(h.Get(p.registry).String("properties.privateEndpointConnections.0.id"))
	h.Put(connection, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved","description":"fine"}}}`)
	if got := h.Get(p.endpoint).String(status); got != "Approved" {
		t.Errorf("connection is %s after approval", got)
	}
	if err := h.Delete(connection); err != nil {
		t.Fatal(err)
	}
	if got := h.Get(p.endpoint).String(status); got != "Disconnected" {
		t.Errorf("connection is %s after its removal", got)
	}
}

func TestZoneGroupKeepsRecords(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	group := p.endpoint.Child("privateDnsZoneGroups", "default")
	h.Put(group, `{"properties":{"privateDnsZoneConfigs":[{"name":"acr","properties":{"privateDnsZoneId":"`+p.zone.String()+`"}}]}}`)
	record := p.zone.Child("A", "netisoreg01")
	if got := h.Get(record).String("properties.aRecords.0.ipv4Address"); got != "192.168.2.5" {
		t.Errorf("record: %q", got)
	}
	if err := h.Delete(p.endpoint); err != nil {
		t.Fatal(err)
	}
	if h.Exists(record) || h.Exists(group) {
		t.Error("the endpoint went, its records stayed")
	}
}

func TestInlineChildren(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	vnet := h.ID("Microsoft.Network/virtualNetworks", "inline")
	nsg := h.ID("Microsoft.Network/networkSecurityGroups", "nsg")
	h.Put(nsg, `{"location":"eastus","properties":{"securityRules":[{"name":"deny","properties":{"protocol":"*","sourcePortRange":"*","destinationPortRange":"*","sourceAddressPrefix":"*","destinationAddressPrefix":"Internet","access":"Deny","priority":100,"direction":"Outbound"}}]}}`)
	body := func(subnets string) string {
		return `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.224.0.0/12"]}` + subnets + `}}`
	}
	shown := h.Put(vnet, body(`,"subnets":[{"name":"aks-subnet","properties":{"addressPrefix":"10.224.0.0/16","networkSecurityGroup":{"id":"`+nsg.String()+`"}}},{"name":"b","properties":{"addressPrefix":"10.225.0.0/24"}}]`))
	if shown.String("properties.subnets.0.id") != vnet.String()+"/subnets/aks-subnet" || shown.String("properties.subnets.0.properties.provisioningState") != "Succeeded" {
		t.Errorf("%v", shown)
	}
	// What was read can be written back, a PUT without the list keeps it, an explicit one is the truth.
	back := h.Put(vnet, h.Get(vnet))
	if len(back.At("properties.subnets").([]any)) != 2 {
		t.Errorf("%v", back)
	}
	if kept := h.Put(vnet, body("")); len(kept.At("properties.subnets").([]any)) != 2 {
		t.Errorf("%v", kept)
	}
	if one := h.Put(vnet, body(`,"subnets":[{"name":"b","properties":{"addressPrefix":"10.225.0.0/24"}}]`)); len(one.At("properties.subnets").([]any)) != 1 || h.Exists(vnet.Child("subnets", "aks-subnet")) {
		t.Errorf("%v", one)
	}
	_, err := h.TryPut(vnet, body(`,"subnets":[{"name":"b","properties":{"addressPrefix":"10.225.0.0/24"}},{"name":"c","properties":{"addressPrefix":"10.225.0.128/25"}}]`))
	resourcetypetest.WantError(t, err, "NetcfgSubnetRangesOverlap")

	group := h.Get(nsg)
	if len(group.At("properties.defaultSecurityRules").([]any)) != 6 || group.String("properties.securityRules.0.name") != "deny" {
		t.Errorf("%v", group)
	}
	h.Put(vnet.Child("subnets", "b"), `{"properties":{"addressPrefix":"10.225.0.0/24","networkSecurityGroup":{"id":"`+nsg.String()+`"}}}`)
	resourcetypetest.WantError(t, h.Delete(nsg), "InUseNetworkSecurityGroupCannotBeDeleted")
}

func TestFeatures(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	feature := features.ID(resourcetypetest.Subscription, "Microsoft.ContainerService", "NetworkIsolatedClusterPreview")
	if got := h.Get(feature).String("properties.state"); got != "NotRegistered" {
		t.Errorf("state %q", got)
	}
	answer, err := h.Post(feature, "register", nil)
	if err != nil || answer.String("properties.state") != "Registering" || answer.String("name") != "Microsoft.ContainerService/NetworkIsolatedClusterPreview" {
		t.Errorf("%v, %v", answer, err)
	}
	if got := h.Get(feature).String("properties.state"); got != "Registering" {
		t.Errorf("state %q", got)
	}
}
