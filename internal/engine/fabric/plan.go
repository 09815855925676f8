package fabric

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// plan is the kernel's state that a Config asks for: a pure function of it and of the allotted slots.
type plan struct {
	spaces []space
	links  []link
}

// space is a network namespace.
type space struct {
	name     string
	ids      userns.Map // of the user namespace it belongs to; zero: the host's
	guest    bool       // what is in it beside our links is the guest's own
	forward  bool
	loopback []netip.Addr
	routes   []route
	tables   []routingTable // of marked packets
	rules    *ruleset       // nil: none
}

type route struct {
	dst netip.Prefix
	via netip.Addr // may be invalid: on the link itself
	dev string
	src netip.Addr // preferred source; may be invalid
	// throw ends the search in this table and goes on in the next.
	throw bool
}

// link is a veth pair. It is made from a's namespace, and a carries the mark that says it is finished.
type link struct{ a, b end }

type end struct {
	space, name string
	mac         net.HardwareAddr
	address     netip.Prefix // may be invalid: unnumbered
	peer        netip.Addr   // when valid, the neighbour at the other end, known without asking
	peerMAC     net.HardwareAddr
	arp         bool // resolves addresses; otherwise both ends have one MAC address and need not
	proxyARP    bool
	ipv6        bool // the stack stays on, without an address, so that what arrives is counted before it is dropped
}

var (
	platformAddresses = []netip.Addr{netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("169.254.169.254")}
	platformSource    = platformAddresses[0]

	// publicAddresses are the parties behind public names: mcr, management, login, graph, registries,
	// API servers, DNS. The IPv6 ones have no name; they are there so that a packet that escaped by IPv6 would arrive.
	publicAddresses = []netip.Addr{
		netip.MustParseAddr("198.18.0.10"), netip.MustParseAddr("198.18.0.11"), netip.MustParseAddr("198.18.0.12"), netip.MustParseAddr("198.18.0.13"),
		netip.MustParseAddr("198.18.0.14"),
		netip.MustParseAddr("198.18.0.20"), netip.MustParseAddr("198.18.0.30"), netip.MustParseAddr("198.18.0.53"),
		netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8::20"), netip.MustParseAddr("2001:db8::53"),
	}

	// nowhere lists what Azure's system routes send nowhere unless it is part of the VNet, and what is the fabric's own.
	nowhere = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("198.19.0.0/16"), serviceSpace,
	}

	// Every NIC sees the same router, as on Azure.
	routerMAC = net.HardwareAddr{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc}
	// A link without ARP sends to its own MAC address, so both its ends have this one.
	wireMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}
)

func newPlan(c Config, slots map[string]uint16) plan {
	var p plan
	hub := space{name: hubName, forward: true}
	public := space{name: publicName, forward: true, loopback: publicAddresses}
	hubRules, publicRules := hubInput{}, publicInput{fronts: c.Fronts}

	var others []space
	leaves := map[string]int{} // where in others
	relays := relays(c.Networks)
	for _, r := range relays {
		p.links = append(p.links, wire("vnet-"+r.from, r.dev, "vnet-"+r.to, r.dev))
	}
	for _, l := range c.Leaves {
		leaves[l.Name] = len(others)
		dev := shortName("l", l.Name)
		for _, a := range l.Addresses {
			hub.routes = append(hub.routes, route{dst: host(a), dev: dev})
		}
		hubRules.leaves = append(hubRules.leaves, dev)
		p.links = append(p.links, wire(hubName, dev, l.Name, "hub"))
		others = append(others, space{name: l.Name, loopback: l.Addresses,
			routes: []route{{dst: netip.PrefixFrom(linkSpace.Addr(), 16), dev: "hub"}}})
	}
	for _, n := range c.Networks {
		slot := slots[n.ID]
		dev := shortName("v", n.ID)
		hub.routes = append(hub.routes, route{dst: host(linkAddress(slot)), dev: dev})
		p.links = append(p.links, wire(hubName, dev, n.NetNS(), "hub"))
		for _, e := range n.Endpoints {
			for _, port := range e.Ports {
				hubRules.flows = append(hubRules.flows, flow{dev, linkAddress(slot), e.ServiceAddress, port})
			}
		}
		for _, a := range n.granted(slot) {
			public.routes = append(public.routes, route{dst: host(a), dev: dev})
			publicRules.sources = append(publicRules.sources, source{dev, a})
		}
		if n.uplinked() {
			p.links = append(p.links, wire(publicName, dev, n.NetNS(), publicName))
		}
		for _, peer := range n.Peers {
			if n.ID < peer.ID { // once of each pair
				p.links = append(p.links, wire(n.NetNS(), peerDevice(peer.ID), "vnet-"+peer.ID, peerDevice(n.ID)))
			}
		}
		vnet, guests, links := network(n, slot, leaves, relays)
		others = append(others, vnet)
		for _, g := range guests {
			if i, ok := leaves[g.name]; ok {
				others[i].routes = append(others[i].routes, g.routes...)
				continue
			}
			// A guest may have several NICs; the first has its default route.
			if !slices.ContainsFunc(others, func(s space) bool { return s.name == g.name }) {
				others = append(others, g)
			}
		}
		p.links = append(p.links, links...)
	}
	// What is for nobody comes by the forward hook, as in a network, and is dropped there without an answer.
	p.links = append(p.links, wire(publicName, sinkName, publicName, sinkName+"-end"))
	public.routes = append(public.routes, route{dst: anywhere, dev: sinkName})
	for _, f := range c.Fronts {
		public.routes = append(public.routes, route{dst: host(f.ServiceAddress), dev: hubName})
		for _, port := range f.Ports {
			hubRules.flows = append(hubRules.flows, flow{publicName, linkAddress(publicSlot), f.ServiceAddress, port})
		}
	}
	if len(c.Fronts) > 0 {
		hub.routes = append(hub.routes, route{dst: host(linkAddress(publicSlot)), dev: publicName})
		p.links = append(p.links, wire(hubName, publicName, publicName, hubName))
	}
	for _, w := range c.Workstations {
		dev := shortName("w", w.Name)
		public.routes = append(public.routes, route{dst: host(w.Address), dev: dev})
		publicRules.stations = append(publicRules.stations, source{dev, w.Address})
		l := wire(publicName, dev, w.Name, "eth0")
		l.b.address = host(w.Address)
		l.b.ipv6 = false
		p.links = append(p.links, l)
		others = append(others, space{name: w.Name, routes: []route{{dst: anywhere, dev: "eth0", src: w.Address}}})
	}
	hub.rules, public.rules = hubRules.render(), publicRules.render()
	p.spaces = append([]space{hub, public}, others...)
	return p
}

// uplinked tells whether anything grants the network a way out.
func (n Network) uplinked() bool { return len(n.granted(firstSlot)) > 0 }

// network plans the VNet's namespace and its guests, some of which may be leaves.
func network(n Network, slot uint16, leaves map[string]int, relays []relay) (vnet space, guests []space, links []link) {
	vnet = space{name: n.NetNS(), forward: true, loopback: platformAddresses}
	// Nothing is refused for want of a route: that would answer at once, and Azure times out. What is to go
	// nowhere is routed to a sink, so that it comes by the forward hook, which drops it.
	links = append(links, wire(vnet.name, sinkName, vnet.name, sinkName+"-end"))
	uplink := sinkName
	if n.uplinked() {
		uplink = publicName
	}
	vnet.routes = append(vnet.routes, route{dst: anywhere, dev: uplink})
	// A peer's prefix may be one of those that lead nowhere otherwise.
	peered := map[netip.Prefix]bool{}
	for _, p := range n.Peers {
		for _, prefix := range p.Prefixes {
			if peered[prefix.Masked()] {
				continue // two peers overlap, which documents refuse: the first has it
			}
			peered[prefix.Masked()] = true
			vnet.routes = append(vnet.routes, route{dst: prefix.Masked(), dev: peerDevice(p.ID)})
		}
	}
	for _, p := range union(n.Prefixes, nowhere) {
		if !peered[p] {
			vnet.routes = append(vnet.routes, route{dst: p, dev: sinkName})
		}
	}
	for _, e := range n.Endpoints {
		r := route{dst: host(e.ServiceAddress), dev: "hub"}
		if !slices.Contains(vnet.routes, r) {
			vnet.routes = append(vnet.routes, r)
		}
	}
	subnets := map[string]Subnet{}
	for _, s := range n.Subnets {
		subnets[s.Name] = s
	}
	for _, nic := range n.NICs {
		subnet := subnets[nic.Subnet].Prefix
		dev := nic.device()
		// Sources are named, or an unnumbered link would have whichever address came first.
		vnet.routes = append(vnet.routes, route{dst: host(nic.Address), dev: dev, src: platformSource})
		for _, a := range nic.Secondary {
			vnet.routes = append(vnet.routes, route{dst: host(a), via: nic.Address, dev: dev, src: platformSource})
		}
		sum := sha256.Sum256([]byte(n.ID + "/" + nic.ID))
		bits := subnet.Bits()
		if _, leaf := leaves[nic.Guest.Name]; leaf {
			bits = 32 // a longer one makes the kernel add a route to a namespace whose routes are all planned
		}
		mac := net.HardwareAddr{0x00, 0x0d, 0x3a, sum[0], sum[1], sum[2]}
		links = append(links, link{
			a: end{space: vnet.name, name: dev, mac: routerMAC, peer: nic.Address, peerMAC: mac, arp: true, proxyARP: true, ipv6: true},
			b: end{space: nic.Guest.Name, name: nic.Interface, mac: mac, arp: true, address: netip.PrefixFrom(nic.Address, bits)},
		})
		guests = append(guests, space{
			name: nic.Guest.Name, guest: true, forward: nic.Guest.UIDCount > 0,
			ids:    userns.Map{Base: nic.Guest.UIDBase, Count: nic.Guest.UIDCount},
			routes: []route{{dst: anywhere, via: subnet.Masked().Addr().Next(), dev: nic.Interface}},
		})
	}
	var marks map[string]uint32
	vnet.tables, marks = n.steering(relays)
	vnet.rules = vnetInput{Network: n, slot: slot, marks: marks, relays: relays}.render()
	return vnet, guests, links
}

// device is the name of the NIC's end in the VNet.
func (n NIC) device() string { return shortName("n", n.ID) }

// wire is a link without addresses of its own, between two namespaces of the fabric.
func wire(aSpace, aName, bSpace, bName string) link {
	return link{
		a: end{space: aSpace, name: aName, mac: wireMAC, ipv6: true},
		b: end{space: bSpace, name: bName, mac: wireMAC, ipv6: true},
	}
}

// mark identifies the link with everything that cannot be changed on a link that is there: when it differs, the link is made anew.
func (l link) mark() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", l))
	return "cloister " + hex.EncodeToString(sum[:12])
}

// shortName makes an interface name, of which 15 bytes is the most, from an identifier of any length.
func shortName(prefix, id string) string {
	sum := sha256.Sum256([]byte(id))
	return prefix + hex.EncodeToString(sum[:6])
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func union(lists ...[]netip.Prefix) (all []netip.Prefix) {
	for _, list := range lists {
		for _, p := range list {
			if p = p.Masked(); !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}
