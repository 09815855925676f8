package fabric

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// join makes two networks of a Config peers.
func join(c *Config, i, j int) {
	for _, side := range [][2]int{{i, j}, {j, i}} {
		n, other := &c.Networks[side[0]], c.Networks[side[1]]
		n.Peers = append(n.Peers, Peer{ID: other.ID, Prefixes: other.Prefixes, Tagged: true})
	}
}

func TestPeersAreJoinedAndNoFurther(t *testing.T) {
	w := newWorld(t)
	a, b, d := vnet("a", "10.0"), vnet("b", "10.1"), vnet("d", "10.2")
	for _, n := range []*Network{&a, &b, &d} {
		n.NICs = []NIC{node(*n, 1)}
	}
	b.Subnets[0].NATGateway = &NATGateway{ips("198.19.128.1")}
	c := services(a, b, d)
	w.set(c)
	for ns, pod := range map[string]string{"node-a-1": "10.0.1.101", "node-b-1": "10.1.1.101", "node-d-1": "10.2.1.101"} {
		w.pod(ns, pod)
		w.listen(ns, "0.0.0.0:80")
	}
	w.listen("registry", "240.0.0.1:443")
	w.listen("public", observer)
	w.timesOut("node-a-1", "", "10.1.1.4:80")

	join(&c, 0, 1)
	join(&c, 1, 2)
	w.set(c)
	for _, f := range []struct{ ns, from, to string }{
		{"node-a-1", "10.0.1.4", "10.1.1.4"}, {"node-b-1", "10.1.1.4", "10.0.1.4"}, {"node-a-1", "10.0.1.101", "10.1.1.101"},
		{"node-b-1", "10.1.1.4", "10.2.1.4"}, {"node-d-1", "10.2.1.101", "10.1.1.101"},
	} {
		if got := w.reaches(f.ns, f.from, f.to+":80"); got.from != ip(f.from) {
			t.Errorf("%s → %s was seen as %s", f.from, f.to, got.from)
		}
	}
	// A private endpoint of a peer is an address like any other of it.
	if got := w.reaches("node-a-1", "", "10.1.2.4:443"); got.at != ip("240.0.0.1") {
		t.Errorf("the peer's endpoint led to %s", got.at)
	}
	// Peers of a peer are strangers, and so are its ways out and its endpoints' services.
	w.timesOut("node-a-1", "", "10.2.1.4:80")
	w.timesOut("node-d-1", "", "10.0.1.4:80")
	w.timesOut("node-a-1", "", "240.0.0.1:443")
	w.timesOut("node-a-1", "", "10.2.2.4:443")
	w.nothingLeaves("node-a-1", "")
	w.seenAs("node-b-1", "", "198.19.128.1")
	// Not even when a network sends what it must not.
	w.route("vnet-a", "10.2.0.0/16", peerDevice("b"))
	w.route("vnet-a", "198.18.0.0/16", peerDevice("b"))
	w.timesOut("node-a-1", "", "10.2.1.4:80")
	w.nothingLeaves("node-a-1", "")
	w.set(c)

	// The tag VirtualNetwork, in the groups that have the default rules alone.
	_, conn, err := w.dial("node-a-1", "", "10.1.1.4:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Networks[1].Subnets[0].Rules = []Rule{}
	w.set(c)
	w.reaches("node-a-1", "", "10.1.1.4:80")
	c.Networks[1].Peers[0].Tagged = false
	w.set(c)
	w.timesOut("node-a-1", "", "10.1.1.4:80")
	w.reaches("node-d-1", "", "10.1.1.4:80")
	w.echoes(conn, true)

	for i := range c.Networks {
		c.Networks[i].Peers = slices.DeleteFunc(c.Networks[i].Peers, func(p Peer) bool { return p.ID == "a" || c.Networks[i].ID == "a" })
	}
	w.set(c)
	w.echoes(conn, false)
	w.timesOut("node-b-1", "", "10.0.1.4:80")
	w.reaches("node-d-1", "", "10.1.1.4:80")
}

// TestApplianceInAPeer is hub and spoke: what leaves a spoke goes by the hub's appliance, and so does what one spoke
// sends to another.
func TestApplianceInAPeer(t *testing.T) {
	w := newWorld(t)
	a, hub, d := vnet("a", "10.0"), vnet("h", "10.1"), vnet("d", "10.2")
	by := []Route{{Prefix: anywhere, Hop: VirtualAppliance, Appliance: ip("10.1.2.9")}}
	a.Subnets[0].DefaultOutbound, a.Subnets[0].Routes = true, append(slices.Clone(by), Route{Prefix: cidr("10.2.0.0/16")[0], Hop: VirtualAppliance, Appliance: ip("10.1.2.9")})
	d.Subnets[0].Routes = []Route{{Prefix: cidr("10.0.0.0/16")[0], Hop: VirtualAppliance, Appliance: ip("10.1.2.9")}}
	hub.Subnets[1].NATGateway = &NATGateway{ips("198.19.128.1")}
	a.NICs, d.NICs = []NIC{node(a, 1)}, []NIC{node(d, 1)}
	hub.NICs = []NIC{{ID: "fw", Subnet: "services", Interface: "eth0", Address: ip("10.1.2.9"), Guest: Guest{Name: "fw"}, Forwarding: true}}
	c := Config{Networks: []Network{a, hub, d}}
	join(&c, 0, 1)
	join(&c, 2, 1)
	w.set(c)
	w.listen("public", observer)
	w.listen("node-d-1", "0.0.0.0:80")
	w.in("fw", func(*netlink.Handle) error { return writeSysctl("net/ipv4/ip_forward", "1") })
	w.timesOut("node-a-1", "", "10.2.1.4:80") // a spoke takes from the hub what began there
	c.Networks[0].Peers[0].Forwarded, c.Networks[2].Peers[0].Forwarded = true, true
	w.set(c)
	if got := w.reaches("node-a-1", "", "10.2.1.4:80"); got.from != ip("10.0.1.4") {
		t.Errorf("from one spoke to the other seen as %s", got.from)
	}
	w.nothingLeaves("node-a-1", "") // the appliance does not translate yet
	w.masquerade("fw")
	w.seenAs("node-a-1", "", "198.19.128.1")
	before := w.snapshot()
	w.again().set(c)
	if after := w.snapshot(); after != before {
		t.Errorf("the same state again changed\n%s\nto\n%s", before, after)
	}
	c.Networks[1].NICs[0].Forwarding = false
	w.set(c)
	w.nothingLeaves("node-a-1", "")
	w.timesOut("node-a-1", "", "10.2.1.4:80")
}

func TestConfigRefusesBrokenWaysOut(t *testing.T) {
	for name, breaks := range map[string]func(c *Config){
		"a public address of two networks": func(c *Config) {
			for i := range c.Networks {
				c.Networks[i].Subnets[0].NATGateway = &NATGateway{ips("198.19.128.1")}
			}
		},
		"a public address that default outbound access may have": func(c *Config) {
			c.Networks[0].Subnets[0].NATGateway = &NATGateway{ips("198.19.0.1")}
		},
		"a public address for another NIC's": func(c *Config) {
			c.Networks[0].NICs[0].Public = []PublicAddress{{ip("10.0.1.77"), ip("198.19.128.1")}}
		},
		"a route to no hop":            func(c *Config) { c.Networks[0].Subnets[0].Routes = []Route{{Prefix: anywhere, Hop: "Gateway"}} },
		"an appliance without address": func(c *Config) { c.Networks[0].Subnets[0].Routes = []Route{{Prefix: anywhere, Hop: VirtualAppliance}} },
		"two routes of one prefix": func(c *Config) {
			c.Networks[0].Subnets[0].Routes = []Route{{Prefix: anywhere, Hop: Nowhere}, {Prefix: anywhere, Hop: Internet}}
		},
		"a peering of one side": func(c *Config) { c.Networks[0].Peers = []Peer{{ID: "b", Prefixes: cidr("10.1.0.0/16")}} },
		"peers that overlap": func(c *Config) {
			c.Networks[1].Prefixes = cidr("10.0.0.0/8")
			c.Networks[1].Subnets = nil
			join(c, 0, 1)
		},
		"a peer that is not there":  func(c *Config) { c.Networks[0].Peers = []Peer{{ID: "z", Prefixes: cidr("10.9.0.0/16")}} },
		"a network that is its own": func(c *Config) { c.Networks[0].Peers = []Peer{{ID: "a", Prefixes: cidr("10.9.0.0/16")}} },
	} {
		a, b := vnet("a", "10.0"), vnet("b", "10.1")
		a.NICs = []NIC{node(a, 1)}
		c := Config{Networks: []Network{a, b}}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		if breaks(&c); c.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
