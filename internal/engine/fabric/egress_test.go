package fabric

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

const observer = "198.18.0.10:443"

// seenAs fails the test unless the observer in `public` sees the flow come from the address.
func (w *world) seenAs(ns, from, want string) {
	w.Helper()
	if got := w.reaches(ns, from, observer); got.from.IsValid() && got.from != ip(want) {
		w.Errorf("%s (%s) was seen as %s, want %s", ns, from, got.from, want)
	}
}

// nothingLeft fails the test unless the flow gets no answer and no packet of it arrived in `public`.
func (w *world) nothingLeaves(ns, from string) {
	w.Helper()
	arrived := func() (n uint64) {
		for _, a := range w.counters().Public {
			n += a.Packets
		}
		return n
	}
	before := arrived()
	w.timesOut(ns, from, observer)
	if n := arrived() - before; n != 0 {
		w.Errorf("%s (%s): %d packets arrived in public", ns, from, n)
	}
}

// TestWaysOut takes the ways out of a node and its pod one by one, in the order in which each gives way to the next.
func TestWaysOut(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.Subnets[0].NATGateway = &NATGateway{ips("198.19.128.1")}
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	own := &a.NICs[0]
	own.Public = []PublicAddress{{own.Address, ip("198.19.128.2")}}
	own.Outbound, own.Balanced = []OutboundRule{{"*", ips("198.19.128.3")}}, true
	c := Config{Networks: []Network{a}}
	w.set(c)
	w.listen("public", observer)
	w.listenUDP("public", observer)
	w.pod("node-a-1", "10.0.1.101")
	both := func(want string) {
		t.Helper()
		for _, from := range []string{"10.0.1.4", "10.0.1.101"} {
			w.seenAs("node-a-1", from, want)
		}
		if !w.udp("node-a-1", "10.0.1.4", observer) {
			t.Error("no way out for UDP")
		}
	}
	both("198.19.128.1")
	w.seenAs("node-a-2", "", "198.19.128.1")
	if w.ping("node-a-1", "10.0.1.4", "198.18.0.10") {
		t.Error("a NAT gateway let ICMP out")
	}
	_, conn, err := w.dial("node-a-1", "", observer)
	if err != nil {
		t.Fatal(err)
	}
	w.set(c)
	w.echoes(conn, true) // the same state again

	subnet := &c.Networks[0].Subnets[0]
	subnet.NATGateway = &NATGateway{}
	w.set(c)
	w.echoes(conn, false)
	w.nothingLeaves("node-a-1", "")

	subnet.NATGateway = nil
	w.set(c)
	w.echoes(conn, false) // which is not the address it began with
	both("198.19.128.2")
	if !w.ping("node-a-1", "10.0.1.4", "198.18.0.10") {
		t.Error("a public IP address did not let ICMP out")
	}
	w.seenAs("node-a-2", "", publicAddress(1).String())

	own = &c.Networks[0].NICs[0]
	own.Public = nil
	w.set(c)
	both("198.19.128.3")
	if w.ping("node-a-1", "10.0.1.4", "198.18.0.10") {
		t.Error("an outbound rule let ICMP out")
	}

	own.Outbound = []OutboundRule{{"Tcp", ips("198.19.128.4")}}
	w.set(c)
	w.seenAs("node-a-1", "", "198.19.128.4")
	if w.udp("node-a-1", "", observer) {
		t.Error("an outbound rule for TCP let UDP out")
	}

	own.Outbound = nil
	w.set(c)
	w.nothingLeaves("node-a-1", "") // behind a load balancer there is no default outbound access
	w.seenAs("node-a-2", "", publicAddress(1).String())

	own.Balanced = false
	w.set(c)
	both(publicAddress(1).String())

	subnet.DefaultOutbound = false
	w.set(c)
	w.nothingLeaves("node-a-1", "")
	w.nothingLeaves("node-a-1", "10.0.1.101")
	w.nothingLeaves("node-a-2", "")
}

// A flow that nobody answers ends with its translation too, though conntrack sees a new one in each of its packets.
func TestUnansweredFlowEndsWithItsWayOut(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	for i := range a.Subnets {
		a.Subnets[i].NATGateway = &NATGateway{ips("198.19.128.1")}
	}
	a.NICs = []NIC{node(a, 1)}
	c := Config{Networks: []Network{a}}
	w.set(c)
	silent, err := netns.ListenPacket(w.ns("public"), "udp", "198.18.0.10:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var conn net.Conn
	if err := netns.Do(w.ns("node-a-1"), func() (err error) {
		conn, err = net.Dial("udp", "198.18.0.10:5000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sends := func(want string) {
		t.Helper()
		conn.Write([]byte("x"))
		silent.SetReadDeadline(time.Now().Add(patience))
		_, from, err := silent.ReadFrom(make([]byte, 1))
		switch {
		case want == "" && err == nil:
			t.Errorf("a packet arrived from %s", from)
		case want != "" && (err != nil || host0(from) != want):
			t.Errorf("a packet came from %v, %v, want %s", from, err, want)
		}
	}
	sends("198.19.128.1")
	sends("198.19.128.1")
	// The address is still the network's, by its other subnet.
	c.Networks[0].Subnets[0].NATGateway = &NATGateway{ips("198.19.128.2")}
	w.set(c)
	sends("")
}

// A denial judges what the guest sent, whatever grants a way out.
func TestSecurityGroupDeniesAGrantedWayOut(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].NATGateway = &NATGateway{ips("198.19.128.1")}
	a.NICs = []NIC{node(a, 1)}
	c := Config{Networks: []Network{a}}
	w.set(c)
	w.listen("public", observer)
	w.seenAs("node-a-1", "", "198.19.128.1")
	c.Networks[0].Subnets[0].Rules = []Rule{{Name: "deny", Priority: 100, Direction: Outbound, Protocol: "*", SourcePrefixes: cidr("10.0.1.4/32"), DestinationPrefixes: outside(anywhere, a.Prefixes)}}
	w.set(c)
	w.nothingLeaves("node-a-1", "")
}

// appliance is a guest of the network's second subnet that routes.
func (w *world) appliance(c Config, ns string) {
	w.Helper()
	w.in(ns, func(*netlink.Handle) error { return writeSysctl("net/ipv4/ip_forward", "1") })
	w.masquerade(ns)
}

// TestRouteTable sends what leaves the nodes to an appliance, nowhere, and to the Internet.
func TestRouteTable(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.Subnets[0].Routes = []Route{{Prefix: anywhere, Hop: VirtualAppliance, Appliance: ip("10.0.2.9")}}
	a.Subnets[1].NATGateway = &NATGateway{ips("198.19.128.1")}
	fw := NIC{ID: "fw", Subnet: "services", Interface: "eth0", Address: ip("10.0.2.9"), Guest: Guest{Name: "fw"}, Forwarding: true}
	a.NICs = []NIC{node(a, 1), node(a, 2), fw}
	c := services(a)
	w.set(c)
	w.listen("public", observer)
	w.listen("registry", "240.0.0.1:443")
	w.listen("node-a-2", "0.0.0.0:80")
	w.pod("node-a-1", "10.0.1.101")
	w.nothingLeaves("node-a-1", "") // the appliance does not forward yet
	w.appliance(c, "fw")
	w.seenAs("node-a-1", "", "198.19.128.1")
	w.seenAs("node-a-1", "10.0.1.101", "198.19.128.1")
	// Longer prefixes of the system's stay: the VNet, and private endpoints.
	if got := w.reaches("node-a-1", "", "10.0.1.5:80"); got.from != ip("10.0.1.4") {
		t.Errorf("inside the network seen as %s", got.from)
	}
	w.reaches("node-a-1", "", "10.0.2.4:443")
	w.timesOut("node-a-1", "", "10.9.9.9:80")

	subnets, nics := c.Networks[0].Subnets, c.Networks[0].NICs
	subnets[1].NATGateway = nil
	w.set(c)
	w.nothingLeaves("node-a-1", "") // the appliance's own way out counts, not the node's
	subnets[1].NATGateway = &NATGateway{ips("198.19.128.1")}
	nics[2].Forwarding = false
	w.set(c)
	w.nothingLeaves("node-a-1", "")
	nics[2].Forwarding = true
	w.set(c)
	w.seenAs("node-a-1", "", "198.19.128.1")

	for _, test := range []struct {
		routes []Route
		seen   string
	}{
		{[]Route{{Prefix: anywhere, Hop: Nowhere}}, ""},
		{[]Route{{Prefix: anywhere, Hop: Internet}}, publicAddress(1).String()},
		{[]Route{{Prefix: anywhere, Hop: Nowhere}, {Prefix: cidr("198.18.0.0/24")[0], Hop: Internet}}, publicAddress(1).String()},
		{[]Route{{Prefix: cidr("198.18.0.10/32")[0], Hop: Nowhere}}, ""},
		{[]Route{{Prefix: anywhere, Hop: VnetLocal}, {Prefix: cidr("198.18.0.8/29")[0], Hop: VirtualAppliance, Appliance: ip("10.0.2.9")}}, "198.19.128.1"},
		{[]Route{}, publicAddress(1).String()},
		{nil, publicAddress(1).String()},
	} {
		subnets[0].Routes = test.routes
		w.set(c)
		if test.seen == "" {
			w.nothingLeaves("node-a-1", "")
		} else {
			w.seenAs("node-a-1", "", test.seen)
		}
	}
}

// TestRouteTableInsideTheNetwork sends one node's packets to another by way of an appliance, which does not translate.
func TestRouteTableInsideTheNetwork(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].Routes = []Route{{Prefix: cidr("10.0.1.5/32")[0], Hop: VirtualAppliance, Appliance: ip("10.0.2.9")}}
	fw := NIC{ID: "fw", Subnet: "services", Interface: "eth0", Address: ip("10.0.2.9"), Guest: Guest{Name: "fw"}, Forwarding: true}
	a.NICs = []NIC{node(a, 1), node(a, 2), fw}
	c := Config{Networks: []Network{a}}
	w.set(c)
	w.listen("node-a-2", "0.0.0.0:80")
	w.timesOut("node-a-1", "", "10.0.1.5:80")
	w.in("fw", func(*netlink.Handle) error { return writeSysctl("net/ipv4/ip_forward", "1") })
	if got := w.reaches("node-a-1", "", "10.0.1.5:80"); got.from != ip("10.0.1.4") {
		t.Errorf("seen as %s", got.from)
	}
	// The appliance's group judges what is sent on by it, and the node's what comes to it in the end.
	for _, deny := range []func(n *Network, r []Rule){
		func(n *Network, r []Rule) { n.NICs[2].Rules = r },
		func(n *Network, r []Rule) { n.NICs[1].Rules = r },
	} {
		deny(&c.Networks[0], []Rule{{Name: "deny", Priority: 100, Direction: Inbound, Protocol: "Tcp", DestinationPrefixes: cidr("10.0.1.5/32")}})
		w.set(c)
		w.timesOut("node-a-1", "", "10.0.1.5:80")
		deny(&c.Networks[0], nil)
		w.set(c)
		w.reaches("node-a-1", "", "10.0.1.5:80")
	}
	// IP forwarding is no leave to speak for the platform.
	w.pod("fw", "168.63.129.16")
	w.listenUDP("node-a-2", "0.0.0.0:53")
	if w.udp("fw", "168.63.129.16", "10.0.1.5:53") {
		t.Error("the appliance spoke as the platform")
	}
}
