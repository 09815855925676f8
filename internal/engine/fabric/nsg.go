package fabric

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// protocols a rule may name. "*" is any.
var protocols = map[string]byte{"*": 0, "Tcp": unix.IPPROTO_TCP, "Udp": unix.IPPROTO_UDP, "Icmp": unix.IPPROTO_ICMP}

// securityGroups renders the groups of the network's subnets and NICs, and the maps "outbound" (by the link a
// packet came from), "inbound" (by the link it is routed to) and "guarded" (by the private endpoint it is for) to the chains that judge it. As on Azure a packet on its way out
// must pass the NIC's group and then the subnet's, on its way in the subnet's and then the NIC's; the first matching rule
// of a group, by priority, decides.
func (t *table) securityGroups(n Network) {
	groups := map[string]bool{}
	for i, s := range n.Subnets {
		if s.Rules != nil {
			groups[s.Name] = true
			t.group(subnetChain(i, Outbound), Outbound, s.Rules, n)
			t.group(subnetChain(i, Inbound), Inbound, s.Rules, n)
		}
	}
	var outbound, inbound []nftables.SetElement
	for _, nic := range n.NICs {
		subnet := slices.IndexFunc(n.Subnets, func(s Subnet) bool { return s.Name == nic.Subnet })
		var leave, enter []string
		if nic.Rules != nil {
			leave, enter = append(leave, nic.device()+"-out"), append(enter, nic.device()+"-in")
			t.group(leave[0], Outbound, nic.Rules, n)
			t.group(enter[0], Inbound, nic.Rules, n)
		}
		if groups[nic.Subnet] {
			leave = append(leave, subnetChain(subnet, Outbound))
			enter = append([]string{subnetChain(subnet, Inbound)}, enter...)
		}
		if len(leave) == 0 {
			continue
		}
		outbound = append(outbound, nftables.SetElement{Key: ifname(nic.device()), VerdictData: t.sequence(nic.device()+"-leave", leave)})
		inbound = append(inbound, nftables.SetElement{Key: ifname(nic.device()), VerdictData: t.sequence(nic.device()+"-enter", enter)})
	}
	t.add(set{Name: "outbound", Key: nftables.TypeIFName, Map: true, Data: nftables.TypeVerdict, Elements: outbound})
	t.add(set{Name: "inbound", Key: nftables.TypeIFName, Map: true, Data: nftables.TypeVerdict, Elements: inbound})
	var guarded []nftables.SetElement
	for _, e := range n.Endpoints {
		if e.Guarded != "" && groups[e.Guarded] {
			i := slices.IndexFunc(n.Subnets, func(s Subnet) bool { return s.Name == e.Guarded })
			guarded = append(guarded, nftables.SetElement{Key: e.Address.AsSlice(), VerdictData: t.sequence("", []string{subnetChain(i, Inbound)})})
		}
	}
	t.add(set{Name: "guarded", Key: nftables.TypeIPAddr, Map: true, Data: nftables.TypeVerdict, Elements: guarded})
}

func subnetChain(index int, d Direction) string {
	return "subnet-" + strconv.Itoa(index) + map[Direction]string{Inbound: "-in", Outbound: "-out"}[d]
}

// sequence is the verdict that sends a packet through the chains one after the other.
func (t *table) sequence(name string, chains []string) *expr.Verdict {
	if len(chains) == 1 {
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: chains[0]}
	}
	var each []rule
	for _, c := range chains {
		each = append(each, rules("", jump(c)))
	}
	t.chain(name, nil, each...)
	return &expr.Verdict{Kind: expr.VerdictJump, Chain: name}
}

// group renders the rules of one direction: to return is to pass.
func (t *table) group(name string, d Direction, list []Rule, n Network) {
	list = slices.Concat(list, defaultRules(n))
	list = slices.DeleteFunc(list, func(r Rule) bool { return r.Direction != d })
	slices.SortStableFunc(list, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	var rendered []rule
	for _, r := range list {
		rendered = append(rendered, t.securityRule(r)...)
	}
	t.chain(name, nil, rendered...)
}

// defaultRules are those every group ends with.
func defaultRules(n Network) []Rule {
	vnet := slices.Concat(n.VirtualNetwork(), podPrefixes(n), []netip.Prefix{host(platformSource)})
	balancer := []netip.Prefix{host(platformSource)}
	return []Rule{
		{Name: "AllowVnetInBound", Priority: 65000, Direction: Inbound, Allow: true, Protocol: "*", SourcePrefixes: vnet, DestinationPrefixes: vnet},
		{Name: "AllowAzureLoadBalancerInBound", Priority: 65001, Direction: Inbound, Allow: true, Protocol: "*", SourcePrefixes: balancer},
		{Name: "DenyAllInBound", Priority: 65500, Direction: Inbound, Protocol: "*"},
		{Name: "AllowVnetOutBound", Priority: 65000, Direction: Outbound, Allow: true, Protocol: "*", SourcePrefixes: vnet, DestinationPrefixes: vnet},
		{Name: "AllowInternetOutBound", Priority: 65001, Direction: Outbound, Allow: true, Protocol: "*", DestinationPrefixes: outside(anywhere, vnet)},
		{Name: "DenyAllOutBound", Priority: 65500, Direction: Outbound, Protocol: "*"},
	}
}

// VirtualNetwork is the service tag of that name: the address space of the VNet and of its peers.
func (n Network) VirtualNetwork() []netip.Prefix {
	all := slices.Clone(n.Prefixes)
	for _, p := range n.Peers {
		if p.Tagged {
			all = append(all, p.Prefixes...)
		}
	}
	return all
}

// podPrefixes are pod addresses outside the network's address space (an overlay): they are the VNet's to a group.
func podPrefixes(n Network) (prefixes []netip.Prefix) {
	for _, nic := range n.NICs {
		for _, a := range nic.Secondary {
			if !within(n.Prefixes, host(a)) {
				prefixes = append(prefixes, host(a))
			}
		}
	}
	return prefixes
}

// outside is what of the prefix lies in none of the others; of all addresses and a VNet's, the service tag Internet.
func outside(p netip.Prefix, excluded []netip.Prefix) []netip.Prefix {
	overlaps := false
	for _, e := range excluded {
		if e.Bits() <= p.Bits() && e.Contains(p.Addr()) {
			return nil
		}
		overlaps = overlaps || e.Overlaps(p)
	}
	if !overlaps {
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	bytes := p.Addr().As4()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	high := netip.PrefixFrom(netip.AddrFrom4(bytes), p.Bits()+1)
	return append(outside(low, excluded), outside(high, excluded)...)
}

// securityRule renders one rule, as several where it speaks of ports without a protocol.
func (t *table) securityRule(r Rule) []rule {
	var addresses []expr.Any
	for _, side := range []struct {
		prefixes []netip.Prefix
		load     expr.Any
	}{{r.SourcePrefixes, loadSource(register1)}, {r.DestinationPrefixes, loadDestination(register1)}} {
		if len(side.prefixes) == 0 || slices.Contains(side.prefixes, anywhere) {
			continue
		}
		ipv4 := slices.DeleteFunc(slices.Clone(side.prefixes), func(p netip.Prefix) bool { return !p.Addr().Is4() })
		if len(ipv4) == 0 {
			return nil // speaks of IPv6 alone, which never passes
		}
		addresses = append(addresses, member(t.prefixes(ipv4), side.load)...)
	}
	var ports []expr.Any
	for _, side := range []struct {
		ranges []PortRange
		load   expr.Any
	}{{r.SourcePorts, loadSourcePort(register1)}, {r.DestinationPorts, loadPort(register1)}} {
		if len(side.ranges) == 0 || slices.Contains(side.ranges, PortRange{0, 65535}) {
			continue
		}
		ports = append(ports, member(t.ports(side.ranges), side.load)...)
	}
	verdict := back()
	if !r.Allow {
		verdict = goTo("refuse")
	}
	one := func(p byte) rule { return rules(r.Name, protocol(p), addresses, ports, verdict) }
	switch p := protocols[r.Protocol]; {
	case p == unix.IPPROTO_ICMP:
		return []rule{rules(r.Name, protocol(p), addresses, verdict)} // has no ports to compare
	case p != 0:
		return []rule{one(p)}
	case len(ports) == 0:
		return []rule{rules(r.Name, addresses, verdict)}
	default:
		return []rule{one(unix.IPPROTO_TCP), one(unix.IPPROTO_UDP)}
	}
}
