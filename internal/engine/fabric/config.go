package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Config is the whole of what the fabric is to be. The zero Config is the hub and `public` alone.
type Config struct {
	Leaves       []Leaf
	Networks     []Network
	Workstations []Workstation
	Fronts       []Front
}

// A Leaf is a namespace that provides services: linked to the hub and, by at most one NIC, to a network, it never forwards.
type Leaf struct {
	Name      string       // of the network namespace
	Addresses []netip.Addr // service-side, in 240.0.0.0/4 outside 255.0.0.0/8
}

// A Workstation is a namespace linked to `public` only.
type Workstation struct {
	Name    string     // of the network namespace
	Address netip.Addr // in 198.18.8.0/21
}

// A Front is an address in `public` that is a service's on a leaf, for whoever has a way to `public`.
type Front struct {
	ID             string
	Address        netip.Addr // in 198.18.0.0/16, outside what the fabric and workstations have
	Ports          []uint16   // TCP
	ServiceAddress netip.Addr
	Leaf           string
	// Sources are who is let in, by the address that public sees, and Networks who is whatever their address is
	// there. Neither: everyone.
	Sources  []netip.Prefix
	Networks []string // by ID
}

// A Network is a VNet. Its namespace is called "vnet-" and the ID.
type Network struct {
	ID        string
	Prefixes  []netip.Prefix
	Subnets   []Subnet
	NICs      []NIC
	Endpoints []Endpoint
	Peers     []Peer
}

// NetNS is the name of the network's namespace.
func (n Network) NetNS() string { return "vnet-" + n.ID }

// A Subnet of a VNet.
type Subnet struct {
	Name            string
	Prefix          netip.Prefix
	DefaultOutbound bool // guests reach `public`, translated
	// Rules of the subnet's network security group, without Azure's six default rules, which the fabric
	// appends. nil means there is no group: everything passes. Empty means a group with the default rules alone.
	Rules      []Rule
	NATGateway *NATGateway
	Routes     []Route // of its route table; nil: there is none
}

// A NIC joins a guest to a subnet.
type NIC struct {
	ID        string
	Subnet    string
	Address   netip.Addr
	Secondary []netip.Addr // of pods, reached through Address
	Guest     Guest
	Interface string // its name in the guest, "eth0"
	Rules     []Rule // as in Subnet
	// Public are instance-level addresses. Outbound are the rules of load balancers that the NIC is behind; Balanced
	// says that it is behind one at all.
	Public   []PublicAddress
	Outbound []OutboundRule
	Balanced bool
	// Forwarding lets packets come from it that have other sources than its own, and go to it that are for others.
	Forwarding bool
}

// A Guest is the network namespace a NIC ends in. With a UIDCount it belongs to a user namespace with that
// map, and routes for what runs in it. Without one it may be a Leaf: a service with an address in the network.
type Guest struct {
	Name              string
	UIDBase, UIDCount uint32
}

// An Endpoint is a private endpoint: an address in the VNet that is a service's on a leaf.
type Endpoint struct {
	ID             string
	Address        netip.Addr
	Ports          []uint16 // TCP
	ServiceAddress netip.Addr
	Leaf           string
	// Guarded is the subnet whose security group judges what comes to the endpoint; "" where private endpoints are
	// exempt from network policies, as they are on Azure unless their subnet says otherwise.
	Guarded string `json:",omitempty"`
}

// Direction of a Rule, as seen from the guest.
type Direction string

// The directions of a Rule.
const (
	Inbound  Direction = "Inbound"
	Outbound Direction = "Outbound"
)

// A Rule of a network security group. Service tags are resolved by the caller.
type Rule struct {
	Name                                string
	Priority                            int
	Direction                           Direction
	Allow                               bool
	Protocol                            string         // "*", "Tcp", "Udp" or "Icmp"
	SourcePrefixes, DestinationPrefixes []netip.Prefix // none: any
	SourcePorts, DestinationPorts       []PortRange    // none: any
}

// A PortRange includes both its ends.
type PortRange struct{ First, Last uint16 }

var (
	serviceSpace     = netip.MustParsePrefix("240.0.0.0/4")
	linkSpace        = netip.MustParsePrefix("255.0.0.0/8") // of serviceSpace, what the fabric keeps for its own links
	publicSpace      = netip.MustParsePrefix("198.18.0.0/15")
	workstationSpace = netip.MustParsePrefix("198.18.8.0/21")
	frontSpace       = netip.MustParsePrefix("198.18.0.0/16") // of publicSpace, what networks' own addresses are not in
	anywhere         = netip.MustParsePrefix("0.0.0.0/0")

	// reserved may not be part of a VNet: ours, and what Azure refuses.
	reserved = []netip.Prefix{
		serviceSpace, publicSpace,
		netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"),
	}

	nameRule      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	interfaceRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
)

// Names of the namespaces and links every installation has.
const (
	hubName    = "hub"
	publicName = "public"
	sinkName   = "sink"
)

// ordered is the Config with its lists sorted, so that the order in which a caller came by them changes nothing.
func (c Config) ordered() Config {
	by := func(a, b string) int { return cmp.Compare(a, b) }
	c.Leaves = slices.SortedFunc(slices.Values(c.Leaves), func(a, b Leaf) int { return by(a.Name, b.Name) })
	c.Workstations = slices.SortedFunc(slices.Values(c.Workstations), func(a, b Workstation) int { return by(a.Name, b.Name) })
	c.Fronts = slices.SortedFunc(slices.Values(c.Fronts), func(a, b Front) int { return by(a.ID, b.ID) })
	c.Networks = slices.SortedFunc(slices.Values(c.Networks), func(a, b Network) int { return by(a.ID, b.ID) })
	for i := range c.Networks {
		n := &c.Networks[i]
		n.Subnets = slices.SortedFunc(slices.Values(n.Subnets), func(a, b Subnet) int { return by(a.Name, b.Name) })
		n.NICs = slices.SortedFunc(slices.Values(n.NICs), func(a, b NIC) int { return by(a.ID, b.ID) })
		n.Peers = slices.SortedFunc(slices.Values(n.Peers), func(a, b Peer) int { return by(a.ID, b.ID) })
		n.Endpoints = slices.SortedFunc(slices.Values(n.Endpoints), func(a, b Endpoint) int { return by(a.ID, b.ID) })
		for j := range n.NICs {
			n.NICs[j].Secondary = slices.SortedFunc(slices.Values(n.NICs[j].Secondary), netip.Addr.Compare)
		}
	}
	return c
}

// Validate finds what would make one part of the state break another's, and names every fault.
func (c Config) Validate() error {
	v := validation{names: map[string]string{hubName: "the hub", publicName: "the public network"}, services: map[netip.Addr]string{}, fronts: map[netip.Addr]string{}, leaves: map[string]int{}}
	for _, l := range c.Leaves {
		v.name(l.Name, "leaf "+l.Name)
		for _, a := range l.Addresses {
			v.check(a.Is4() && serviceSpace.Contains(a) && !linkSpace.Contains(a), "leaf %s: address %s is not in %s outside %s", l.Name, a, serviceSpace, linkSpace)
			if other, taken := v.services[a]; taken {
				v.check(false, "leaf %s: address %s is leaf %s's", l.Name, a, other)
			}
			v.services[a] = l.Name
		}
	}
	stations := map[netip.Addr]bool{}
	for _, w := range c.Workstations {
		v.name(w.Name, "workstation "+w.Name)
		v.check(w.Address.Is4() && workstationSpace.Contains(w.Address), "workstation %s: address %s is not in %s", w.Name, w.Address, workstationSpace)
		v.check(!stations[w.Address], "workstation %s: address %s is taken", w.Name, w.Address)
		stations[w.Address] = true
	}
	for _, f := range c.Fronts {
		v.front(f)
	}
	for _, n := range c.Networks {
		v.name(n.NetNS(), "network "+n.ID)
	}
	// A leaf is there already when a NIC ends in it.
	guests := map[string]Guest{}
	for _, l := range c.Leaves {
		v.leaves[l.Name] = 0
		guests[l.Name] = Guest{Name: l.Name}
	}
	for _, n := range c.Networks {
		v.network(n, guests)
	}
	v.idRanges(guests)
	v.egress(c.Networks)
	return errors.Join(v.faults...)
}

type validation struct {
	names    map[string]string
	services map[netip.Addr]string
	fronts   map[netip.Addr]string
	leaves   map[string]int // how many NICs each has
	faults   []error
}

func (v *validation) check(ok bool, format string, args ...any) {
	if !ok {
		v.faults = append(v.faults, fmt.Errorf(format, args...))
	}
}

func (v *validation) name(name, owner string) {
	v.check(nameRule.MatchString(name), "%s: %q cannot name a network namespace", owner, name)
	other, taken := v.names[name]
	v.check(!taken, "%s: the network namespace %q is that of %s", owner, name, other)
	v.names[name] = owner
}

func (v *validation) front(f Front) {
	where := "front " + f.ID
	v.check(f.Address.Is4() && frontSpace.Contains(f.Address) && !workstationSpace.Contains(f.Address) && !slices.Contains(publicAddresses, f.Address), "%s: address %s is not free for it", where, f.Address)
	other, taken := v.fronts[f.Address]
	v.check(!taken, "%s: address %s is that of front %s", where, f.Address, other)
	v.fronts[f.Address] = f.ID
	v.check(len(f.Ports) > 0, "%s: no port", where)
	leaf, ok := v.services[f.ServiceAddress]
	v.check(ok && leaf == f.Leaf, "%s: leaf %q does not have address %s", where, f.Leaf, f.ServiceAddress)
	for _, p := range f.Sources {
		v.check(p.Addr().Is4(), "%s: source %s is not IPv4", where, p)
	}
}

func (v *validation) network(n Network, guests map[string]Guest) {
	for _, p := range n.Prefixes {
		v.check(p.Addr().Is4(), "network %s: prefix %s is not IPv4", n.ID, p)
		for _, r := range reserved {
			v.check(!p.Overlaps(r), "network %s: prefix %s overlaps %s, which is reserved", n.ID, p, r)
		}
	}
	subnets := map[string]Subnet{}
	for _, s := range n.Subnets {
		_, twice := subnets[s.Name]
		v.check(!twice, "network %s: two subnets %q", n.ID, s.Name)
		v.check(within(n.Prefixes, s.Prefix), "network %s: subnet %s: prefix %s is not in the network's", n.ID, s.Name, s.Prefix)
		subnets[s.Name] = s
		v.rules(fmt.Sprintf("network %s: subnet %s", n.ID, s.Name), s.Rules)
	}
	addresses := map[netip.Addr]string{}
	claim := func(a netip.Addr, owner string) {
		other, taken := addresses[a]
		v.check(!taken, "network %s: address %s of %s is that of %s", n.ID, a, owner, other)
		addresses[a] = owner
	}
	ids, interfaces := map[string]bool{}, map[[2]string]bool{}
	for _, nic := range n.NICs {
		where := fmt.Sprintf("network %s: NIC %s", n.ID, nic.ID)
		v.check(!ids[nic.ID], "%s: the ID is taken", where)
		ids[nic.ID] = true
		s, ok := subnets[nic.Subnet]
		v.check(ok, "%s: no subnet %q", where, nic.Subnet)
		v.check(!ok || s.Prefix.Contains(nic.Address), "%s: address %s is not in subnet %s", where, nic.Address, s.Prefix)
		claim(nic.Address, "NIC "+nic.ID)
		for _, a := range nic.Secondary {
			v.check(a.Is4() && !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) }), "%s: secondary address %s is not usable", where, a)
			claim(a, "NIC "+nic.ID)
		}
		v.check(interfaceRule.MatchString(nic.Interface) && nic.Interface != "lo", "%s: %q cannot name an interface", where, nic.Interface)
		key := [2]string{nic.Guest.Name, nic.Interface}
		v.check(!interfaces[key], "%s: guest %s has two interfaces %s", where, nic.Guest.Name, nic.Interface)
		interfaces[key] = true
		if _, leaf := v.leaves[nic.Guest.Name]; leaf {
			v.leaves[nic.Guest.Name]++
			v.check(v.leaves[nic.Guest.Name] == 1 && nic.Interface != hubName, "%s: leaf %s has a way to a network already", where, nic.Guest.Name)
		}
		if g, known := guests[nic.Guest.Name]; known {
			v.check(g == nic.Guest, "%s: guest %s has two id maps", where, nic.Guest.Name)
		} else {
			v.name(nic.Guest.Name, "guest "+nic.Guest.Name)
			guests[nic.Guest.Name] = nic.Guest
		}
		v.rules(where, nic.Rules)
	}
	for _, e := range n.Endpoints {
		where := fmt.Sprintf("network %s: endpoint %s", n.ID, e.ID)
		v.check(within(n.Prefixes, netip.PrefixFrom(e.Address, 32)), "%s: address %s is not in the network", where, e.Address)
		claim(e.Address, "endpoint "+e.ID)
		v.check(len(e.Ports) > 0, "%s: no port", where)
		v.check(e.Guarded == "" || slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Name == e.Guarded }), "%s: no subnet %q guards it", where, e.Guarded)
		leaf, ok := v.services[e.ServiceAddress]
		v.check(ok && leaf == e.Leaf, "%s: leaf %q does not have address %s", where, e.Leaf, e.ServiceAddress)
	}
}

// egress finds a public address that is two networks', routes that lead nowhere known, and peers that do not agree.
func (v *validation) egress(networks []Network) {
	owners, byID := map[netip.Addr]string{}, map[string]Network{}
	for _, n := range networks {
		byID[n.ID] = n
		for a, by := range n.named() {
			v.check(a.Is4() && grantSpace.Contains(a), "network %s: %s: public address %s is not in %s", n.ID, by, a, grantSpace)
			other, taken := owners[a]
			v.check(!taken, "network %s: %s: public address %s is network %s's", n.ID, by, a, other)
			owners[a] = n.ID
		}
		for _, s := range n.Subnets {
			seen := map[netip.Prefix]bool{}
			for _, r := range s.Routes {
				where := fmt.Sprintf("network %s: subnet %s: route %s", n.ID, s.Name, r.Prefix)
				v.check(r.Prefix.Addr().Is4() && !seen[r.Prefix.Masked()], "%s: not an IPv4 prefix, or the second one of it", where)
				v.check(slices.Contains([]Hop{VnetLocal, Internet, VirtualAppliance, Nowhere}, r.Hop), "%s: hop %q", where, r.Hop)
				v.check((r.Hop == VirtualAppliance) == r.Appliance.Is4(), "%s: appliance %s", where, r.Appliance)
				seen[r.Prefix.Masked()] = true
			}
		}
		for _, nic := range n.NICs {
			for _, p := range nic.Public {
				v.check(slices.Contains(nic.addresses(), p.Private), "network %s: NIC %s: %s, which is to be %s outside, is not its address", n.ID, nic.ID, p.Private, p.Public)
			}
			for _, o := range nic.Outbound {
				_, known := protocols[o.Protocol]
				v.check(known, "network %s: NIC %s: outbound protocol %q", n.ID, nic.ID, o.Protocol)
			}
		}
	}
	for _, n := range networks {
		for _, p := range n.Peers {
			v.check(slices.ContainsFunc(byID[p.ID].Peers, func(q Peer) bool { return q.ID == n.ID }) && p.ID != n.ID, "network %s: peer %s does not name it", n.ID, p.ID)
			for _, a := range p.Prefixes {
				v.check(a.Addr().Is4() && !slices.ContainsFunc(n.Prefixes, a.Overlaps), "network %s: peer %s: prefix %s overlaps its own", n.ID, p.ID, a)
			}
		}
	}
}

func (v *validation) rules(where string, rules []Rule) {
	for _, r := range rules {
		v.check(r.Direction == Inbound || r.Direction == Outbound, "%s: rule %s: direction %q", where, r.Name, r.Direction)
		_, known := protocols[r.Protocol]
		v.check(known, "%s: rule %s: protocol %q", where, r.Name, r.Protocol)
		for _, p := range slices.Concat(r.SourcePorts, r.DestinationPorts) {
			v.check(p.First <= p.Last, "%s: rule %s: ports %d-%d", where, r.Name, p.First, p.Last)
		}
	}
}

// idRanges refuses guests whose host ids overlap: a file of one guest would be another's.
func (v *validation) idRanges(guests map[string]Guest) {
	var mapped []Guest
	for _, g := range guests {
		if g.UIDCount > 0 {
			v.check(g.UIDBase > 0, "guest %s: its ids begin with the host's root", g.Name)
			mapped = append(mapped, g)
		}
	}
	slices.SortFunc(mapped, func(a, b Guest) int { return int(int64(a.UIDBase) - int64(b.UIDBase)) })
	for i := 1; i < len(mapped); i++ {
		a, b := mapped[i-1], mapped[i]
		v.check(uint64(a.UIDBase)+uint64(a.UIDCount) <= uint64(b.UIDBase), "guests %s and %s share host ids", a.Name, b.Name)
	}
}

func within(prefixes []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(q netip.Prefix) bool {
		return p.Addr().Is4() && q.Bits() <= p.Bits() && q.Contains(p.Addr())
	})
}
