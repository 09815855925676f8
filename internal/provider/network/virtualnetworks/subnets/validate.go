package subnets

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// delegations are the services that a subnet may be delegated to, with what they may do in it.
var delegations = map[string][]string{
	"Microsoft.ContainerService/managedClusters": {"Microsoft.Network/virtualNetworks/subnets/join/action"},
}

// validate finds what is wrong with the properties in a virtual network of that address space. The
// prefix is invalid when it cannot be read.
func validate(id resourceid.ID, p *Properties, space []string) (netip.Prefix, []*armerror.Error) {
	vnet, _ := id.Parent()
	var problems []*armerror.Error
	add := func(target string, e *armerror.Error) { problems = append(problems, e.WithTarget(target)) }
	refuse := func(target, what string) {
		add(target, armerror.New(armerror.NotSupported, "%s of subnet '%s' is not supported by Cloister.", what, id.Name()))
	}

	var prefix netip.Prefix
	text, target := p.AddressPrefix, "properties.addressPrefix"
	if len(p.AddressPrefixes) > 0 {
		if text == "" {
			text, target = p.AddressPrefixes[0], "properties.addressPrefixes[0]"
		}
		if len(p.AddressPrefixes) > 1 {
			refuse("properties.addressPrefixes", "More than one address prefix")
		}
	}
	parsed, err := ipam.Parse(text)
	switch {
	case text == "":
		add(target, armerror.New("AddressPrefixStringCannotBeNullOrEmpty", "Address prefix string for resource %s cannot be null or empty.", id))
	case errors.Is(err, ipam.ErrFamily):
		refuse(target, "The IPv6 address prefix "+text)
	case errors.Is(err, ipam.ErrHostBits):
		add(target, armerror.New("InvalidCIDRNotation", "The address prefix %s in resource %s has an invalid CIDR notation. For the given prefix length, the address prefix should be %s.", text, id, parsed))
	case err != nil:
		add(target, armerror.New("InvalidAddressPrefixFormat", "Address prefix %s of resource %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", text, id))
	case parsed.Bits() > 29 || !within(space, parsed):
		add(target, armerror.New("NetcfgInvalidSubnet", "Subnet '%s' is not valid in virtual network '%s'.", id.Name(), vnet.Name()))
	default:
		prefix = parsed
	}

	if !slices.Contains([]string{"", "Enabled", "Disabled", "NetworkSecurityGroupEnabled", "RouteTableEnabled"}, p.PrivateEndpointNetworkPolicies) {
		add("properties.privateEndpointNetworkPolicies", armerror.New("InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of privateEndpointNetworkPolicies.", p.PrivateEndpointNetworkPolicies))
	}
	if !slices.Contains([]string{"", "Enabled", "Disabled"}, p.PrivateLinkServiceNetworkPolicies) {
		add("properties.privateLinkServiceNetworkPolicies", armerror.New("InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of privateLinkServiceNetworkPolicies.", p.PrivateLinkServiceNetworkPolicies))
	}
	if len(p.ServiceEndpoints) > 0 {
		refuse("properties.serviceEndpoints", "A service endpoint")
	}
	if len(p.ServiceEndpointPolicy) > 0 {
		refuse("properties.serviceEndpointPolicies", "A service endpoint policy")
	}
	for i, d := range p.Delegations {
		target := fmt.Sprintf("properties.delegations[%d]", i)
		if d.Name == "" {
			add(target+".name", armerror.New("InvalidRequestFormat", "Cannot parse the request: delegation %d of subnet '%s' has no name.", i, id.Name()))
		}
		if _, known := delegations[d.Properties.ServiceName]; !known {
			refuse(target+".properties.serviceName", "The delegation to "+d.Properties.ServiceName)
		}
	}
	for _, r := range []struct {
		property string
		ref      *SubResource
		kind     string
	}{
		{"properties.networkSecurityGroup.id", p.NetworkSecurityGroup, "Microsoft.Network/networkSecurityGroups"},
		{"properties.routeTable.id", p.RouteTable, "Microsoft.Network/routeTables"},
		{"properties.natGateway.id", p.NATGateway, "Microsoft.Network/natGateways"},
	} {
		if r.ref == nil {
			continue
		}
		if ref, err := resourceid.Parse(r.ref.ID); err != nil || !ref.Is(r.kind) {
			add(r.property, armerror.New("LinkedInvalidPropertyId", "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", r.ref.ID, r.property))
		}
	}
	return prefix, problems
}

func within(space []string, prefix netip.Prefix) bool {
	for _, s := range space {
		if p, err := ipam.Parse(s); err == nil && ipam.Contains(p, prefix) {
			return true
		}
	}
	return false
}

// overlaps finds the neighbours that have addresses of the prefix.
func overlaps(id resourceid.ID, prefix netip.Prefix, siblings []resourcestore.Resource) []*armerror.Error {
	var problems []*armerror.Error
	for _, s := range siblings {
		var m Model
		if s.ID.Equal(id) || json.Unmarshal(s.Body, &m) != nil {
			continue
		}
		if other, err := m.Prefix(); err == nil && other.Overlaps(prefix) {
			problems = append(problems, armerror.New("NetcfgSubnetRangesOverlap", "Subnet '%s' is not valid because its IP address range overlaps with that of an existing subnet '%s'.", id.Name(), s.ID.Name()).WithTarget("properties.addressPrefix"))
		}
	}
	return problems
}
