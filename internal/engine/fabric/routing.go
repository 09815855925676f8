package fabric

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// Hop is where a user's route leads.
type Hop string

// The hops of a Route.
const (
	VnetLocal        Hop = "VnetLocal"
	Internet         Hop = "Internet"
	VirtualAppliance Hop = "VirtualAppliance"
	Nowhere          Hop = "None"
)

// A Route of a subnet's route table. The longest prefix decides, and of equal ones the user's before Azure's.
type Route struct {
	Prefix    netip.Prefix
	Hop       Hop
	Appliance netip.Addr // of VirtualAppliance: a NIC with IP forwarding in the VNet, or in a peer
}

// Peer is a VNet that is joined to this one; it names this one too. What a peer's own peers have is not reached by it.
type Peer struct {
	ID       string
	Prefixes []netip.Prefix
	// Tagged is true when the service tag VirtualNetwork includes the peer's prefixes.
	Tagged bool
	// Forwarded is true when packets that did not begin in the peer may come by it.
	Forwarded bool
}

func peerDevice(id string) string { return shortName("p", id) }

// routingTable is what a space routes marked packets by, before its main table.
type routingTable struct {
	id     uint32 // and the mark
	routes []route
}

// relay is a link of its own to a NIC with IP forwarding in a peer: a packet does not say to whom it is to go next,
// so the link says it.
type relay struct {
	dev  string // in the VNet of the route, and in that of the appliance
	from string // the VNets' IDs
	to   string
	hop  netip.Addr
	nic  NIC // the appliance
}

// relays finds the routes of all networks that lead to appliances in peers.
func relays(networks []Network) (all []relay) {
	byID := map[string]Network{}
	for _, n := range networks {
		byID[n.ID] = n
	}
	for _, n := range networks {
		seen := map[netip.Addr]bool{}
		for _, s := range n.Subnets {
			for _, r := range s.Routes {
				if r.Hop != VirtualAppliance || seen[r.Appliance] || within(n.Prefixes, host(r.Appliance)) {
					continue
				}
				seen[r.Appliance] = true
				for _, p := range n.Peers {
					if nic, ok := byID[p.ID].forwarder(r.Appliance); ok && within(p.Prefixes, host(r.Appliance)) {
						all = append(all, relay{shortName("q", n.ID+p.ID+r.Appliance.String()), n.ID, p.ID, r.Appliance, nic})
					}
				}
			}
		}
	}
	return all
}

// forwarder is the NIC with IP forwarding that has the address.
func (n Network) forwarder(a netip.Addr) (NIC, bool) {
	for _, nic := range n.NICs {
		if nic.Forwarding && slices.Contains(nic.addresses(), a) {
			return nic, true
		}
	}
	return NIC{}, false
}

func (n NIC) addresses() []netip.Addr { return append([]netip.Addr{n.Address}, n.Secondary...) }

// tableID is a number for a routing table that stays the same when others come and go.
func tableID(taken map[uint32]bool, name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	id := binary.BigEndian.Uint32(sum[:4])>>1 | 1<<16 // beyond those the kernel knows by name
	for taken[id] {
		id++
	}
	taken[id] = true
	return id
}

// steering are the routing tables of the VNet's subnets, by the device of each NIC and relay whose packets they route.
func (n Network) steering(relays []relay) (tables []routingTable, marks map[string]uint32) {
	taken, marks := map[uint32]bool{}, map[string]uint32{}
	for _, s := range n.Subnets {
		if s.Routes == nil {
			continue
		}
		t := routingTable{id: tableID(taken, s.Name), routes: n.userRoutes(s.Routes, relays)}
		for _, nic := range n.NICs {
			if nic.Subnet == s.Name {
				marks[nic.device()] = t.id
			}
		}
		tables = append(tables, t)
	}
	for _, r := range relays {
		if r.to == n.ID {
			t := routingTable{id: tableID(taken, r.dev), routes: []route{{dst: anywhere, via: r.nic.Address, dev: r.nic.device()}}}
			marks[r.dev] = t.id
			tables = append(tables, t)
		}
	}
	return tables, marks
}

// userRoutes is a route table in the kernel's terms. What a system route has a longer prefix for is left to the main table.
func (n Network) userRoutes(list []Route, relays []relay) (routes []route) {
	system := union(n.Prefixes, nowhere)
	for _, p := range n.Peers {
		system = union(system, p.Prefixes)
	}
	// Private endpoints are interfaces with routes of their own length, and are not the user's to route.
	for _, e := range n.Endpoints {
		routes = append(routes, route{dst: host(e.ServiceAddress), throw: true})
	}
	for _, r := range list {
		k := route{dst: r.Prefix.Masked(), dev: sinkName}
		switch r.Hop {
		case VnetLocal:
			k.dev, k.throw = "", true
		case Internet:
			if n.uplinked() {
				k.dev = publicName
			}
		case VirtualAppliance:
			if nic, ok := n.forwarder(r.Appliance); ok {
				k.dev, k.via = nic.device(), nic.Address
			}
			for _, l := range relays {
				if l.from == n.ID && l.hop == r.Appliance {
					k.dev = l.dev
				}
			}
		}
		routes = append(routes, k)
	}
	for _, p := range system {
		routes = append(routes, route{dst: p, throw: true})
	}
	// The first of a prefix counts: endpoints, then the user, then the system.
	seen := map[netip.Prefix]bool{}
	return slices.DeleteFunc(routes, func(r route) bool {
		twice := seen[r.dst]
		seen[r.dst] = true
		return twice
	})
}

// steer marks what comes from a NIC or relay with the routing table it is to be routed by.
func (t *table) steer(marks map[string]uint32) {
	var elements []nftables.SetElement
	for dev, mark := range marks {
		elements = append(elements, nftables.SetElement{Key: ifname(dev), Val: binaryutil.NativeEndian.PutUint32(mark)})
	}
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	t.add(set{Name: "tables", Key: nftables.TypeIFName, Map: true, Data: nftables.TypeMark, Elements: elements})
	t.chain("steer", steer, rules("", markedFrom("tables", loadIn(register1))))
}
