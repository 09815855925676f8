package securityrules

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// Rule is a security rule in terms of addresses.
type Rule struct {
	Name         string
	Priority     int
	Direction    string // Inbound or Outbound
	Allow        bool
	Protocol     string // *, Tcp, Udp or Icmp
	Sources      []netip.Prefix
	Destinations []netip.Prefix
	SourcePorts  []PortRange
	DestPorts    []PortRange
}

// PortRange is one of ports, both ends included.
type PortRange struct{ From, To uint16 }

// Tags are the prefixes that service tags stand for. VirtualNetwork is taken from the network's address
// space, Internet is what lies outside of it, and AzureLoadBalancer the probes' address.
type Tags map[string][]netip.Prefix

// knownTags are the service tags that a rule may name. Their prefixes, past those that Tags speaks of, are the
// caller's to give: what has none here matches nothing.
var knownTags = []string{
	"VirtualNetwork", "Internet", "AzureLoadBalancer", "AzureCloud", "MicrosoftContainerRegistry", "AzureFrontDoor.FirstParty",
	"AzureActiveDirectory", "AzureResourceManager", "AzureContainerRegistry",
}

var everything = netip.MustParsePrefix("0.0.0.0/0")

func validate(p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	add := func(target, code, format string, args ...any) {
		problems = append(problems, armerror.New(code, format, args...).WithTarget("properties."+target))
	}
	fold := func(target string, value *string, code string, allowed ...string) {
		for _, a := range allowed {
			if strings.EqualFold(a, *value) {
				*value = a
				return
			}
		}
		add(target, code, "Security rule has invalid %s. Value provided: %s Allowed values: %s.", target, *value, strings.Join(allowed, ","))
	}
	if p.Priority < 100 || p.Priority > 4096 {
		add("priority", "SecurityRuleInvalidPriority", "Security rule has invalid Priority. Value provided: %d Allowed range: 100-4096.", p.Priority)
	}
	fold("direction", &p.Direction, "SecurityRuleInvalidDirection", "Inbound", "Outbound")
	fold("access", &p.Access, "SecurityRuleInvalidAccess", "Allow", "Deny")
	if strings.EqualFold(p.Protocol, "Esp") || strings.EqualFold(p.Protocol, "Ah") {
		add("protocol", armerror.NotSupported, "Security rules for protocol %s are not supported by Cloister.", p.Protocol)
	} else {
		fold("protocol", &p.Protocol, "SecurityRuleInvalidProtocol", "*", "Tcp", "Udp", "Icmp")
	}
	if len(p.Description) > 140 {
		add("description", "SecurityRuleDescriptionTooLong", "Security rule description cannot be longer than 140 characters.")
	}
	pair := func(one string, many []string, target string, each func(string) bool, code, what, hint string) {
		switch {
		case one == "" && len(many) == 0:
			add(target, "SecurityRuleParameterNotSpecified", "Required security rule parameters are missing for security rule. Security rule must specify either %s or %ss.", target, target)
		case one != "" && len(many) > 0:
			add(target, "SecurityRuleParameterConflict", "Security rule cannot specify both %s and its plural.", target)
		case one != "" && !each(one):
			add(target, code, "Security rule has invalid %s. Value provided: %s%s", what, one, hint)
		}
		for i, m := range many {
			if m == "*" && len(many) > 1 || !each(m) {
				add(fmt.Sprintf("%s[%d]", plural(target), i), code, "Security rule has invalid %s. Value provided: %s%s", what, m, hint)
			}
		}
	}
	port := func(s string) bool { _, ok := parsePorts(s); return ok }
	const portHint = ". Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535."
	pair(p.SourcePortRange, p.SourcePortRanges, "sourcePortRange", port, "SecurityRuleInvalidPortRange", "Port range", portHint)
	pair(p.DestinationPortRange, p.DestinationPortRanges, "destinationPortRange", port, "SecurityRuleInvalidPortRange", "Port range", portHint)
	if len(p.SourceApplicationSecurityGroups) > 0 {
		add("sourceApplicationSecurityGroups", armerror.NotSupported, "Application security groups are not supported by Cloister.")
	} else {
		pair(p.SourceAddressPrefix, p.SourceAddressPrefixes, "sourceAddressPrefix", validAddress, "SecurityRuleInvalidAddressPrefix", "Address prefix", "")
	}
	if len(p.DestinationApplicationSecurityGroups) > 0 {
		add("destinationApplicationSecurityGroups", armerror.NotSupported, "Application security groups are not supported by Cloister.")
	} else {
		pair(p.DestinationAddressPrefix, p.DestinationAddressPrefixes, "destinationAddressPrefix", validAddress, "SecurityRuleInvalidAddressPrefix", "Address prefix", "")
	}
	return problems
}

func plural(property string) string {
	if strings.HasSuffix(property, "x") {
		return property + "es"
	}
	return property + "s"
}

func validAddress(s string) bool {
	if s == "*" || slices.ContainsFunc(knownTags, func(t string) bool { return strings.EqualFold(t, s) }) {
		return true
	}
	_, ok := parseAddress(s)
	return ok
}

func parseAddress(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return netip.PrefixFrom(a, 32), true
	}
	p, err := ipam.Parse(s)
	return p, err == nil
}

func parsePorts(s string) (PortRange, bool) {
	if s == "*" {
		return PortRange{0, 65535}, true
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	b, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	return PortRange{uint16(a), uint16(b)}, err1 == nil && err2 == nil && a <= b
}

// Effective is the rule in a virtual network of that address space.
func (m *Model) Effective(name string, space []netip.Prefix, tags Tags) Rule {
	p := m.Properties
	addresses := func(one string, many []string) []netip.Prefix {
		var list []netip.Prefix
		for _, s := range append(slices.Clone(many), one) {
			switch {
			case s == "":
			case s == "*":
				list = append(list, everything)
			case strings.EqualFold(s, "VirtualNetwork"):
				list = append(list, space...)
			case strings.EqualFold(s, "Internet"):
				list = append(list, Outside(space)...)
			case strings.EqualFold(s, "AzureLoadBalancer"):
				list = append(list, netip.MustParsePrefix("168.63.129.16/32"))
			default:
				if prefix, ok := parseAddress(s); ok {
					list = append(list, prefix)
				}
				for tag, prefixes := range tags {
					if strings.EqualFold(tag, s) {
						list = append(list, prefixes...)
					}
				}
			}
		}
		return list
	}
	ports := func(one string, many []string) []PortRange {
		var list []PortRange
		for _, s := range append(slices.Clone(many), one) {
			if r, ok := parsePorts(s); ok {
				list = append(list, r)
			}
		}
		return list
	}
	return Rule{
		Name: name, Priority: p.Priority, Direction: p.Direction, Allow: p.Access == "Allow", Protocol: p.Protocol,
		Sources: addresses(p.SourceAddressPrefix, p.SourceAddressPrefixes), Destinations: addresses(p.DestinationAddressPrefix, p.DestinationAddressPrefixes),
		SourcePorts: ports(p.SourcePortRange, p.SourcePortRanges), DestPorts: ports(p.DestinationPortRange, p.DestinationPortRanges),
	}
}

// Sort puts rules in the order in which they are asked.
func Sort(rules []Rule) {
	sort.SliceStable(rules, func(i, j int) bool { return rules[i].Priority < rules[j].Priority })
}

// Outside are the IPv4 addresses that lie in none of the prefixes, as the fewest prefixes.
func Outside(space []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	var cut func(p netip.Prefix)
	cut = func(p netip.Prefix) {
		touched := false
		for _, s := range space {
			if ipam.Contains(s, p) {
				return
			}
			touched = touched || s.Overlaps(p)
		}
		if !touched {
			list = append(list, p)
			return
		}
		low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
		cut(low)
		cut(netip.PrefixFrom(ipam.Last(low).Next(), p.Bits()+1))
	}
	cut(everything)
	return list
}

// Defaults are the rules that every network security group ends with.
func Defaults() []Default {
	rule := func(name, description string, priority int, access, direction, from, to string) Default {
		return Default{name, Properties{
			Description: description, Protocol: "*", SourcePortRange: "*", DestinationPortRange: "*", SourceAddressPrefix: from, DestinationAddressPrefix: to,
			Access: access, Priority: priority, Direction: direction,
			SourcePortRanges: []string{}, DestinationPortRanges: []string{}, SourceAddressPrefixes: []string{}, DestinationAddressPrefixes: []string{},
		}}
	}
	return []Default{
		rule("AllowVnetInBound", "Allow inbound traffic from all VMs in VNET", 65000, "Allow", "Inbound", "VirtualNetwork", "VirtualNetwork"),
		rule("AllowAzureLoadBalancerInBound", "Allow inbound traffic from azure load balancer", 65001, "Allow", "Inbound", "AzureLoadBalancer", "*"),
		rule("DenyAllInBound", "Deny all inbound traffic", 65500, "Deny", "Inbound", "*", "*"),
		rule("AllowVnetOutBound", "Allow outbound traffic from all VMs to all VMs in VNET", 65000, "Allow", "Outbound", "VirtualNetwork", "VirtualNetwork"),
		rule("AllowInternetOutBound", "Allow outbound traffic from all VMs to Internet", 65001, "Allow", "Outbound", "*", "Internet"),
		rule("DenyAllOutBound", "Deny all outbound traffic", 65500, "Deny", "Outbound", "*", "*"),
	}
}

// Default is one of the rules of Defaults.
type Default struct {
	Name       string
	Properties Properties
}
