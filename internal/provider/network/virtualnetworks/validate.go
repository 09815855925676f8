package virtualnetworks

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// validate finds all that is wrong with the properties by themselves.
func validate(id resourceid.ID, p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	refuse := func(target, what string) {
		problems = append(problems, armerror.New(armerror.NotSupported, "%s of virtual network '%s' is not supported by Cloister.", what, id.Name()).WithTarget(target))
	}
	if p.AddressSpace == nil || len(p.AddressSpace.AddressPrefixes) == 0 {
		problems = append(problems, armerror.New("NetcfgInvalidVirtualNetworkSite", "Virtual network '%s' has no address prefix.", id.Name()).WithTarget("properties.addressSpace.addressPrefixes"))
	} else {
		var seen []netip.Prefix
		for i, s := range p.AddressSpace.AddressPrefixes {
			target := fmt.Sprintf("properties.addressSpace.addressPrefixes[%d]", i)
			prefix, problem := CheckPrefix(id, s)
			if problem != nil {
				problems = append(problems, problem.WithTarget(target))
				continue
			}
			for _, o := range seen {
				if o.Overlaps(prefix) {
					problems = append(problems, armerror.New("NetcfgInvalidVirtualNetworkSite", "Virtual network '%s' has overlapping address prefixes: %s and %s.", id.Name(), o, prefix).WithTarget(target))
				}
			}
			seen = append(seen, prefix)
		}
	}
	problems = append(problems, checkServers(p)...)
	if p.EnableDDoSProtection {
		refuse("properties.enableDdosProtection", "DDoS protection")
	}
	if p.DDoSProtectionPlan != nil {
		refuse("properties.ddosProtectionPlan", "DDoS protection")
	}
	if p.BGPCommunities != nil && string(*p.BGPCommunities) != "null" {
		refuse("properties.bgpCommunities", "BGP communities")
	}
	if p.Encryption != nil && p.Encryption.Enabled {
		refuse("properties.encryption.enabled", "Encryption")
	}
	return problems
}

// maxServers is Azure's limit of DNS servers per virtual network
// (https://learn.microsoft.com/azure/azure-resource-manager/management/azure-subscription-service-limits).
const maxServers = 20

// checkServers looks at the addresses that DHCP is to tell guests. Whether anybody answers there is the network's to show.
func checkServers(p *Properties) []*armerror.Error {
	if p.DHCPOptions == nil {
		return nil
	}
	var problems []*armerror.Error
	const target = "properties.dhcpOptions.dnsServers"
	if n := len(p.DHCPOptions.DNSServers); n > maxServers {
		problems = append(problems, armerror.New("DnsServersLimitReached", "A virtual network can have %d DNS servers; %d were given.", maxServers, n).WithTarget(target))
	}
	for i, s := range p.DHCPOptions.DNSServers {
		target := fmt.Sprintf("%s[%d]", target, i)
		switch a, err := netip.ParseAddr(s); {
		case err != nil || a.Zone() != "":
			problems = append(problems, armerror.New("NetcfgInvalidIPAddress", "IP address is not valid '%s'.", s).WithTarget(target))
		case !a.Is4():
			problems = append(problems, armerror.New(armerror.NotSupported, "DNS server %s is an IPv6 address, which Cloister does not support.", s).WithTarget(target))
		}
	}
	return problems
}

// CheckPrefix reads a prefix that a virtual network may have.
func CheckPrefix(id resourceid.ID, s string) (netip.Prefix, *armerror.Error) {
	prefix, err := ipam.Parse(s)
	switch {
	case errors.Is(err, ipam.ErrFamily):
		return prefix, armerror.New(armerror.NotSupported, "Address prefix %s of resource %s is an IPv6 prefix, which Cloister does not support.", s, id)
	case errors.Is(err, ipam.ErrHostBits):
		return prefix, armerror.New("InvalidCIDRNotation", "The address prefix %s in resource %s has an invalid CIDR notation. For the given prefix length, the address prefix should be %s.", s, id, prefix)
	case err != nil:
		return prefix, armerror.New("InvalidAddressPrefixFormat", "Address prefix %s of resource %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", s, id)
	case prefix.Bits() < 2 || prefix.Bits() > 29:
		return prefix, armerror.New("NetcfgInvalidIPAddressPrefix", "Address prefix %s of virtual network '%s' is not between /2 and /29.", s, id.Name())
	}
	if with, reason, bad := ipam.Reserved(prefix); bad {
		return prefix, armerror.New("NetcfgInvalidIPAddressPrefix", "Address prefix %s of virtual network '%s' overlaps with the reserved range %s (%s).", s, id.Name(), with, reason)
	}
	return prefix, nil
}

// keepsSubnets finds stored subnets that the address space would no longer hold.
func keepsSubnets(id resourceid.ID, p *Properties, stored []resourcestore.Resource) []*armerror.Error {
	var problems []*armerror.Error
	space := p.Space()
	for _, s := range stored {
		var subnet struct {
			Properties struct {
				AddressPrefix   string   `json:"addressPrefix"`
				AddressPrefixes []string `json:"addressPrefixes"`
			} `json:"properties"`
		}
		if json.Unmarshal(s.Body, &subnet) != nil {
			continue
		}
		for _, text := range append(subnet.Properties.AddressPrefixes, subnet.Properties.AddressPrefix) {
			if prefix, err := ipam.Parse(text); err == nil && !holds(space, prefix) {
				problems = append(problems, armerror.New("NetcfgInvalidSubnet", "Subnet '%s' is not valid in virtual network '%s'.", s.ID.Name(), id.Name()).WithTarget("properties.addressSpace.addressPrefixes"))
				break
			}
		}
	}
	return problems
}

// Space are the prefixes of the address space that can be read.
func (p *Properties) Space() []netip.Prefix {
	var space []netip.Prefix
	if p.AddressSpace != nil {
		for _, s := range p.AddressSpace.AddressPrefixes {
			if prefix, err := ipam.Parse(s); err == nil {
				space = append(space, prefix)
			}
		}
	}
	return space
}

func holds(space []netip.Prefix, prefix netip.Prefix) bool {
	for _, s := range space {
		if ipam.Contains(s, prefix) {
			return true
		}
	}
	return false
}
