package provider_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

// exits are resources by which a network of its own gets out.
type exits struct {
	vnet, subnet, behind                                 resourceid.ID // subnets with the NAT gateway and route table, and without
	gateway, gatewayIP, table, balancer, balancerIP, nic resourceid.ID
}

// waysOut makes one of each, and a node's network interface behind the load balancer.
func waysOut(h *resourcetypetest.Harness, _ parts) exits {
	const network = "Microsoft.Network/"
	o := exits{
		vnet: h.ID(network+"virtualNetworks", "vnet-out"), gateway: h.ID(network+"natGateways", "nat"), gatewayIP: h.ID(network+"publicIPAddresses", "nat-ip"),
		table: h.ID(network+"routeTables", "rt"), balancer: h.ID(network+"loadBalancers", "kubernetes"), balancerIP: h.ID(network+"publicIPAddresses", "outbound-ip"),
		nic: h.ID(network+"networkInterfaces", "node-nic"),
	}
	o.subnet, o.behind = o.vnet.Child("subnets", "nat"), o.vnet.Child("subnets", "behind")
	for _, ip := range []resourceid.ID{o.gatewayIP, o.balancerIP} {
		h.Put(ip, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIPAllocationMethod":"Static"}}`)
	}
	h.Put(o.gateway, `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIpAddresses":[{"id":"`+o.gatewayIP.String()+`"}]}}`)
	h.Put(o.table, `{"location":"eastus","properties":{"routes":[`+userRoute+`]}}`)
	h.Put(o.vnet, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.7.0.0/16"]}}}`)
	h.Put(o.subnet, `{"properties":{"addressPrefix":"10.7.0.0/24","natGateway":{"id":"`+o.gateway.String()+`"},"routeTable":{"id":"`+o.table.String()+`"}}}`)
	h.Put(o.behind, `{"properties":{"addressPrefix":"10.7.1.0/24"}}`)
	hub := h.ID(network+"virtualNetworks", "hub")
	h.Put(hub, `{"location":"westus","properties":{"addressSpace":{"addressPrefixes":["10.70.0.0/16","10.71.0.0/16"]}}}`)
	h.Put(hub.Child("virtualNetworkPeerings", "out"), peeringTo(o.vnet))
	h.Put(o.vnet.Child("virtualNetworkPeerings", "back"), peeringTo(hub))
	h.Put(o.balancer, balancer(o.balancer.String(), o.balancerIP.String(), o.behind.String()))
	h.Put(o.nic, `{"location":"eastus","properties":{"enableIPForwarding":true,"ipConfigurations":[{"name":"ipconfig1","properties":{"primary":true,"subnet":{"id":"`+o.behind.String()+`"},
		"loadBalancerBackendAddressPools":[{"id":"`+o.balancer.String()+`/backendAddressPools/aksOutboundBackendPool"}]}}]}}`)
	return o
}

func codeOf(t *testing.T, h *resourcetypetest.Harness, method string, id resourceid.ID, body any) string {
	t.Helper()
	a, err := h.Do(method, id, "", body)
	if err == nil {
		err = h.Finish(a)
	}
	if err == nil {
		return ""
	}
	code, _, _ := strings.Cut(err.Error(), ":")
	return code
}

// What a way out is made of stays while it is used, and goes when it no longer is.
func TestWaysOutInUse(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	o := waysOut(h, parts{})
	for _, c := range []struct {
		id   resourceid.ID
		want string
	}{
		{o.gatewayIP, "PublicIPAddressCannotBeDeleted"}, {o.balancerIP, "PublicIPAddressCannotBeDeleted"},
		{o.gateway, "InUseNatGatewayCannotBeDeleted"}, {o.table, "InUseRouteTableCannotBeDeleted"}, {o.behind, "InUseSubnetCannotBeDeleted"},
	} {
		if got := codeOf(t, h, http.MethodDelete, c.id, nil); got != c.want {
			t.Errorf("DELETE %s: %q, want %s", c.id.Name(), got, c.want)
		}
	}
	if got := h.Get(o.gatewayIP).String("properties.natGateway.id"); got != o.gateway.String() {
		t.Errorf("the address's gateway is %q", got)
	}
	if got := h.Get(o.vnet).String("properties.subnets.1.properties.natGateway.id"); got != o.gateway.String() {
		t.Errorf("the network shows gateway %q", got)
	}
	// An address has one user, and a gateway one network.
	if got := codeOf(t, h, http.MethodPut, h.ID("Microsoft.Network/natGateways", "second"), `{"location":"eastus","properties":{"publicIpAddresses":[{"id":"`+o.balancerIP.String()+`"}]}}`); got != "PublicIPAddressInUse" {
		t.Errorf("a second user of an address: %q", got)
	}
	other := h.ID("Microsoft.Network/virtualNetworks", "other")
	h.Put(other, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.8.0.0/16"]}}}`)
	if got := codeOf(t, h, http.MethodPut, other.Child("subnets", "s"), `{"properties":{"addressPrefix":"10.8.0.0/24","natGateway":{"id":"`+o.gateway.String()+`"}}}`); got != "NatGatewayInUseByAnotherVirtualNetwork" {
		t.Errorf("a gateway in a second network: %q", got)
	}
	// A pool stays while an interface names it.
	if got := codeOf(t, h, http.MethodPut, o.balancer, `{"location":"eastus","properties":{}}`); got != "InUseBackendAddressPoolCannotBeDeleted" {
		t.Errorf("a pool taken away: %q", got)
	}
	address := h.Get(o.gatewayIP).String("properties.ipAddress")
	h.Put(o.subnet, `{"properties":{"addressPrefix":"10.7.0.0/24"}}`)
	for _, id := range []resourceid.ID{o.gateway, o.table, o.gatewayIP} {
		if err := h.Delete(id); err != nil {
			t.Errorf("DELETE %s: %v", id.Name(), err)
		}
	}
	// The balancer may go before its members, which forget it.
	if err := h.Delete(o.balancer); err != nil {
		t.Fatal(err)
	}
	nic := h.Get(o.nic)
	if nic.At("properties.ipConfigurations.0.properties.loadBalancerBackendAddressPools.0") != nil {
		t.Errorf("the interface still names the pool: %v", nic)
	}
	h.Put(o.nic, nic)
	if again := h.Put(h.ID("Microsoft.Network/publicIPAddresses", "again"), `{"location":"eastus"}`); again.String("properties.ipAddress") != address {
		t.Errorf("the address %s was not given again, but %s", address, again.String("properties.ipAddress"))
	}
	if err := h.Delete(o.balancerIP); err != nil {
		t.Error(err)
	}
}

// What is not there is refused with the property, before anything is made.
func TestWaysOutRefuse(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	o := waysOut(h, parts{})
	rule := func(property string) string {
		return `{"properties":{"outboundRules":[{"name":"o","properties":{"protocol":"All",` + property + `}}]}}`
	}
	for _, c := range []struct {
		kind, body, want string
	}{
		{"publicIPAddresses", `{"sku":{"name":"Basic"},"properties":{}}`, "NotSupported@sku.name"},
		{"publicIPAddresses", `{"properties":{"publicIPAllocationMethod":"Dynamic"}}`, "NotSupported@properties.publicIPAllocationMethod"},
		{"publicIPAddresses", `{"properties":{"publicIPAddressVersion":"IPv6"}}`, "NotSupported@properties.publicIPAddressVersion"},
		{"publicIPAddresses", `{"properties":{"dnsSettings":{"domainNameLabel":"x"}}}`, "NotSupported@properties.dnsSettings"},
		{"publicIPAddresses", `{"properties":{"idleTimeoutInMinutes":31}}`, "IdleTimeoutOutOfRange@properties.idleTimeoutInMinutes"},
		{"publicIPAddresses", `{"properties":{"idleTimeoutInMinutes":10}}`, "NotSupported@properties.idleTimeoutInMinutes"},
		{"natGateways", `{"properties":{"idleTimeoutInMinutes":30}}`, "NotSupported@properties.idleTimeoutInMinutes"},
		{"natGateways", `{"properties":{"idleTimeoutInMinutes":121}}`, "IdleTimeoutOutOfRange@properties.idleTimeoutInMinutes"},
		{"loadBalancers", rule(`"allocatedOutboundPorts":8`), "NotSupported@properties.outboundRules[0].properties.allocatedOutboundPorts"},
		{"loadBalancers", rule(`"allocatedOutboundPorts":7`), "OutboundRuleInvalidAllocatedOutboundPorts@properties.outboundRules[0].properties.allocatedOutboundPorts"},
		{"loadBalancers", rule(`"idleTimeoutInMinutes":5`), "NotSupported@properties.outboundRules[0].properties.idleTimeoutInMinutes"},
		{"natGateways", `{"properties":{"publicIpPrefixes":[{"id":"/x"}]}}`, "NotSupported@properties.publicIpPrefixes"},
		{"natGateways", `{"sku":{"name":"StandardV2"},"properties":{}}`, "NotSupported@sku.name"},
		{"natGateways", `{"properties":{"publicIpAddresses":[{"id":"` + h.ID("Microsoft.Network/publicIPAddresses", "none").String() + `"}]}}`, "InvalidResourceReference@properties.publicIpAddresses[0].id"},
		{"routeTables", `{"properties":{"routes":[{"name":"a","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"VirtualNetworkGateway"}}]}}`, "NotSupported@properties.nextHopType"},
		{"routeTables", `{"properties":{"routes":[{"name":"a","properties":{"addressPrefix":"AzureCloud","nextHopType":"None"}}]}}`, "NotSupported@properties.addressPrefix"},
		{"routeTables", `{"properties":{"routes":[{"name":"a","properties":{"addressPrefix":"10.0.0.1/8","nextHopType":"None"}}]}}`, "InvalidCIDRNotation@properties.addressPrefix"},
		{"routeTables", `{"properties":{"routes":[{"name":"a","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"VirtualAppliance"}}]}}`, "InvalidNextHopIpAddress@properties.nextHopIpAddress"},
		{"routeTables", `{"properties":{"routes":[{"name":"a","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"Internet"}},{"name":"b","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"None"}}]}}`, "RouteConflict@properties.addressPrefix"},
		{"loadBalancers", `{"properties":{"loadBalancingRules":[{"name":"r"}]}}`, "NotSupported@properties.loadBalancingRules"},
		{"loadBalancers", `{"properties":{"frontendIPConfigurations":[{"name":"f","properties":{}}]}}`, "FrontendIPConfigurationMustHaveOneAddress@properties.frontendIPConfigurations[0].properties"},
		{"loadBalancers", strings.ReplaceAll(balancer(h.ID("Microsoft.Network/loadBalancers", "refused").String(), o.gatewayIP.String(), o.behind.String()), "/frontendIPConfigurations/front", "/frontendIPConfigurations/inside"), "PublicIPAddressInUse@properties.frontendIPConfigurations[0].properties.publicIPAddress.id"},
	} {
		body := map[string]any{}
		if err := json.Unmarshal([]byte(c.body), &body); err != nil {
			t.Fatal(err)
		}
		body["location"] = "eastus"
		_, err := h.Do(http.MethodPut, h.ID("Microsoft.Network/"+c.kind, "refused"), "", body)
		if got := providertest.Codes(err); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %q, want %s", c.kind, c.body, got, c.want)
		}
	}
}

// Two networks are joined while both say so.
func TestPeering(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	network := func(name, space string) resourceid.ID {
		id := h.ID("Microsoft.Network/virtualNetworks", name)
		h.Put(id, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["`+space+`"]}}}`)
		return id
	}
	a, b, c, same := network("va", "10.0.0.0/16"), network("vb", "10.1.0.0/16"), network("vc", "10.2.0.0/16"), network("same", "10.1.128.0/17")
	ab, ba := a.Child("virtualNetworkPeerings", "to-b"), b.Child("virtualNetworkPeerings", "to-a")
	states := func(want1, want2 string) {
		t.Helper()
		for _, s := range []struct {
			id   resourceid.ID
			want string
		}{{ab, want1}, {ba, want2}} {
			if s.want == "" {
				continue
			}
			if got := h.Get(s.id).String("properties.peeringState"); got != s.want {
				t.Errorf("%s is %s, want %s", s.id, got, s.want)
			}
		}
	}
	h.Put(ab, peeringTo(b))
	states("Initiated", "")
	h.Put(ba, peeringTo(a))
	states("Connected", "Connected")
	if got := h.Get(ab).String("properties.remoteAddressSpace.addressPrefixes.0"); got != "10.1.0.0/16" {
		t.Errorf("the remote address space is %s", got)
	}
	vnet := h.Get(a)
	if vnet.String("properties.virtualNetworkPeerings.0.properties.peeringState") != "Connected" {
		t.Errorf("the network shows %v", vnet.At("properties.virtualNetworkPeerings"))
	}
	h.Put(a, vnet) // as az does to change a tag
	states("Connected", "Connected")

	for _, refused := range []struct {
		id         resourceid.ID
		body, want string
	}{
		{a.Child("virtualNetworkPeerings", "again"), peeringTo(b), "AnotherPeeringAlreadyReferencesRemoteVnet@properties.remoteVirtualNetwork.id"},
		{a.Child("virtualNetworkPeerings", "self"), peeringTo(a), "PeeringToSelfNotAllowed@properties.remoteVirtualNetwork.id"},
		{a.Child("virtualNetworkPeerings", "x"), peeringTo(same), "VnetAddressSpaceOverlapsWithAlreadyPeeredVnet@properties.remoteVirtualNetwork.id"},
		{same.Child("virtualNetworkPeerings", "x"), peeringTo(b), "VnetAddressSpacesOverlap@properties.remoteVirtualNetwork.id"},
		{ab, peeringTo(c), "ChangingRemoteVirtualNetworkNotAllowed@properties.remoteVirtualNetwork.id"},
		{a.Child("virtualNetworkPeerings", "x"), peeringTo(h.ID("Microsoft.Network/virtualNetworks", "none")), "InvalidResourceReference@properties.remoteVirtualNetwork.id"},
		{a.Child("virtualNetworkPeerings", "x"), `{"properties":{"allowGatewayTransit":true,"remoteVirtualNetwork":{"id":"` + c.String() + `"}}}`, "NotSupported@properties.allowGatewayTransit"},
		{a, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/15"]}}}`, "VnetAddressSpacesOverlap@properties.addressSpace.addressPrefixes"},
	} {
		_, err := h.Do(http.MethodPut, refused.id, "", refused.body)
		if got := providertest.Codes(err); got != refused.want {
			t.Errorf("%s: %q, want %s", refused.id, got, refused.want)
		}
	}

	if err := h.Delete(ba); err != nil {
		t.Fatal(err)
	}
	states("Initiated", "")
	h.Put(ba, peeringTo(a))
	// A network takes its side of its peerings with it.
	if err := h.Delete(b); err != nil {
		t.Fatal(err)
	}
	states("Initiated", "")
	if err := h.Delete(ab); err != nil {
		t.Error(err)
	}
}
