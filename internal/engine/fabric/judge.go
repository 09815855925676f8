package fabric

import (
	"cmp"
	"net/netip"
	"slices"
)

// A Refusal is the security rule that keeps a packet from passing.
type Refusal struct {
	Subnet string // whose group the rule is of; "" when it is that of a NIC
	NIC    string // by ID
	Rule   Rule   // one of the group's, or a default rule
}

// Refusal finds what keeps the first packet of a flow between two addresses of the network, or to one outside it, from
// passing the security groups, in the order in which they judge it. It reads the desired state, not the kernel's.
// protocol is one that a Rule may name but "*".
func (n Network) Refusal(from, to netip.Addr, protocol string, port uint16) (Refusal, bool) {
	if nic, ok := n.at(from); ok {
		for _, g := range []group{{nic: nic.ID, rules: nic.Rules}, {subnet: nic.Subnet, rules: n.subnet(nic.Subnet).Rules}} {
			if r, refused := n.judge(g, Outbound, from, to, protocol, port); refused {
				return r, true
			}
		}
	}
	if nic, ok := n.at(to); ok {
		for _, g := range []group{{subnet: nic.Subnet, rules: n.subnet(nic.Subnet).Rules}, {nic: nic.ID, rules: nic.Rules}} {
			if r, refused := n.judge(g, Inbound, from, to, protocol, port); refused {
				return r, true
			}
		}
	}
	for _, e := range n.Endpoints {
		if e.Guarded != "" && e.Address == to {
			return n.judge(group{subnet: e.Guarded, rules: n.subnet(e.Guarded).Rules}, Inbound, from, to, protocol, port)
		}
	}
	return Refusal{}, false
}

// Route is the user's route that a subnet has for an address, the longest prefix first; false: none, so that Azure's own decide.
func (s Subnet) Route(to netip.Addr) (Route, bool) {
	best, found := Route{}, false
	for _, r := range s.Routes {
		if r.Prefix.Contains(to) && (!found || r.Prefix.Bits() > best.Prefix.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}

// at is the NIC that has the address.
func (n Network) at(a netip.Addr) (NIC, bool) {
	for _, nic := range n.NICs {
		if slices.Contains(nic.addresses(), a) {
			return nic, true
		}
	}
	return NIC{}, false
}

// group is a security group in its place; nil rules: there is none.
type group struct {
	subnet, nic string
	rules       []Rule
}

func (n Network) judge(g group, d Direction, from, to netip.Addr, protocol string, port uint16) (Refusal, bool) {
	if g.rules == nil {
		return Refusal{}, false
	}
	all := slices.Concat(g.rules, defaultRules(n))
	slices.SortStableFunc(all, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range all {
		switch {
		case r.Direction != d || !r.matches(from, to, protocol, port):
		case r.Allow:
			return Refusal{}, false
		default:
			return Refusal{Subnet: g.subnet, NIC: g.nic, Rule: r}, true
		}
	}
	return Refusal{}, false // not reached: the default rules match everything
}

func (r Rule) matches(from, to netip.Addr, protocol string, port uint16) bool {
	if r.Protocol != "*" && r.Protocol != protocol {
		return false
	}
	for _, side := range []struct {
		prefixes []netip.Prefix
		a        netip.Addr
	}{{r.SourcePrefixes, from}, {r.DestinationPrefixes, to}} {
		if len(side.prefixes) > 0 && !slices.ContainsFunc(side.prefixes, func(p netip.Prefix) bool { return p.Contains(side.a) }) {
			return false
		}
	}
	// A rule about certain source ports is not one that a client, whose port is any, could count on or be refused by.
	if len(r.SourcePorts) > 0 && !slices.Contains(r.SourcePorts, PortRange{0, 65535}) {
		return false
	}
	return len(r.DestinationPorts) == 0 || slices.ContainsFunc(r.DestinationPorts, func(p PortRange) bool { return p.First <= port && port <= p.Last })
}

// WayOut says by which of Azure's ways packets of a NIC's own address go out; "" when there is none.
func (n Network) WayOut(nic NIC) string {
	subnet := n.subnet(nic.Subnet)
	switch {
	case subnet.NATGateway != nil && len(subnet.NATGateway.Addresses) > 0:
		return "the subnet's NAT gateway"
	case subnet.NATGateway != nil:
		return ""
	case slices.ContainsFunc(nic.Public, func(p PublicAddress) bool { return p.Private == nic.Address }):
		return "a public IP address of its own"
	case slices.ContainsFunc(nic.Outbound, func(o OutboundRule) bool { return len(o.Addresses) > 0 }):
		return "an outbound rule of its load balancer"
	case subnet.DefaultOutbound && !nic.Balanced:
		return "default outbound access"
	}
	return ""
}
