package fabric

import (
	"net/netip"
	"slices"
	"testing"
)

func TestSecurityGroups(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.NICs = []NIC{node(a, 1), node(a, 2), node(a, 3)}
	c := services(a)
	w.set(c)
	for ns, pod := range map[string]string{"node-a-1": "10.0.1.101", "node-a-2": "10.0.1.102"} {
		w.pod(ns, pod)
		w.listen(ns, "0.0.0.0:80")
		w.listen(ns, "0.0.0.0:8080")
		w.listenUDP(ns, "0.0.0.0:80")
	}
	w.listen("public", "198.18.0.10:443")
	w.listen("registry", "240.0.0.1:443")

	const first, second, pod1, pod2 = "10.0.1.4", "10.0.1.5", "10.0.1.101", "10.0.1.102"
	type try struct {
		from, to string // from is of node 1, 2 or 3 by its namespace below
		pass     bool
	}
	ns := map[string]string{first: "node-a-1", second: "node-a-2", "10.0.1.6": "node-a-3", pod1: "node-a-1", pod2: "node-a-2"}
	rule := func(d Direction, priority int, allow bool) Rule {
		return Rule{Name: "r", Priority: priority, Direction: d, Allow: allow, Protocol: "*"}
	}
	with := func(r Rule, change func(*Rule)) Rule { change(&r); return r }

	for _, test := range []struct {
		name   string
		subnet []Rule // of "nodes"
		nic    []Rule // of the first node
		tries  []try
		udp    []try
		ping   []try
	}{
		{name: "a group with the default rules alone", subnet: []Rule{}, nic: []Rule{}, tries: []try{
			{first, second + ":80", true}, {second, first + ":80", true}, {pod1, pod2 + ":80", true},
			{first, "198.18.0.10:443", true}, {first, "10.0.2.4:443", true},
		}},
		{name: "the lower number decides",
			subnet: []Rule{
				rule(Inbound, 200, false),
				with(rule(Inbound, 100, true), func(r *Rule) { r.SourcePrefixes = cidr(second + "/32") }),
			},
			tries: []try{{second, first + ":80", true}, {"10.0.1.6", first + ":80", false}, {pod2, first + ":80", false}}},
		{name: "answers pass whatever the other direction says",
			subnet: []Rule{},
			nic:    []Rule{rule(Outbound, 100, false)},
			tries:  []try{{second, first + ":80", true}, {second, pod1 + ":80", true}, {first, second + ":80", false}, {pod1, second + ":80", false}}},
		{name: "the subnet's group and the NIC's must both allow: the subnet's denies",
			subnet: []Rule{with(rule(Inbound, 100, false), func(r *Rule) { r.DestinationPorts = []PortRange{{80, 80}} })},
			nic:    []Rule{rule(Inbound, 100, true)},
			tries:  []try{{second, first + ":80", false}, {second, first + ":8080", true}}},
		{name: "the subnet's group and the NIC's must both allow: the NIC's denies",
			subnet: []Rule{rule(Inbound, 100, true)},
			nic:    []Rule{with(rule(Inbound, 100, false), func(r *Rule) { r.DestinationPorts = []PortRange{{80, 80}} })},
			tries:  []try{{second, first + ":80", false}, {second, first + ":8080", true}, {first, second + ":80", true}}},
		{name: "port ranges and protocols",
			subnet: []Rule{with(rule(Inbound, 100, false), func(r *Rule) {
				r.Protocol, r.DestinationPorts = "Tcp", []PortRange{{70, 79}, {80, 90}, {443, 443}}
			})},
			tries: []try{{second, first + ":80", false}, {second, first + ":8080", true}},
			udp:   []try{{second, first + ":80", true}},
			ping:  []try{{second, first, true}}},
		{name: "ICMP",
			subnet: []Rule{with(rule(Inbound, 100, false), func(r *Rule) { r.Protocol = "Icmp" })},
			tries:  []try{{second, first + ":80", true}},
			ping:   []try{{second, first, false}}},
		{name: "ports without a protocol are those of TCP and UDP",
			subnet: []Rule{with(rule(Inbound, 100, false), func(r *Rule) { r.DestinationPorts = []PortRange{{0, 81}} })},
			tries:  []try{{second, first + ":80", false}, {second, first + ":8080", true}},
			udp:    []try{{second, first + ":80", false}}},
		{name: "judged before translation: the endpoint's address counts, the service's does not",
			subnet: []Rule{
				with(rule(Outbound, 100, false), func(r *Rule) { r.DestinationPrefixes = []netip.Prefix{serviceSpace} }),
			},
			tries: []try{{first, "10.0.2.4:443", true}}},
		{name: "judged before translation: the endpoint's address is denied",
			subnet: []Rule{
				with(rule(Outbound, 100, false), func(r *Rule) { r.DestinationPrefixes = cidr("10.0.2.4/32") }),
			},
			tries: []try{{first, "10.0.2.4:443", false}, {first, second + ":80", true}}},
		{name: "Internet denied, as under outboundType block",
			subnet: []Rule{
				with(rule(Outbound, 2001, false), func(r *Rule) { r.DestinationPrefixes = outside(anywhere, a.Prefixes) }),
			},
			tries: []try{{first, "198.18.0.10:443", false}, {first, "10.0.2.4:443", true}, {first, second + ":80", true}}},
		{name: "a rule that speaks of IPv6 only",
			subnet: []Rule{with(rule(Inbound, 100, false), func(r *Rule) { r.SourcePrefixes = cidr("::/0") })},
			tries:  []try{{second, first + ":80", true}}},
		{name: "no group at all", tries: []try{{second, first + ":80", true}, {first, "198.18.0.10:443", true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{t, w.Fabric}
			c.Networks[0].Subnets[0].Rules, c.Networks[0].NICs[0].Rules = test.subnet, test.nic
			w.set(c)
			for _, try := range test.tries {
				to := netip.MustParseAddrPort(try.to)
				// What is told of a refusal must be what the kernel does.
				if r, refused := c.Networks[0].Refusal(netip.MustParseAddr(try.from), to.Addr(), "Tcp", to.Port()); refused == try.pass {
					t.Errorf("%s → %s: the state says refused %v by %q", try.from, try.to, refused, r.Rule.Name)
				}
				before := w.counters().Networks["a"].Refused
				if try.pass {
					w.reaches(ns[try.from], try.from, try.to)
					continue
				}
				w.timesOut(ns[try.from], try.from, try.to)
				if w.counters().Networks["a"].Refused == before {
					t.Errorf("%s → %s: not counted as refused", try.from, try.to)
				}
			}
			for _, try := range test.ping {
				if got := w.ping(ns[try.from], try.from, try.to); got != try.pass {
					t.Errorf("ping %s → %s: %v, want %v", try.from, try.to, got, try.pass)
				}
			}
			for _, try := range test.udp {
				if got := w.udp(ns[try.from], try.from, try.to); got != try.pass {
					t.Errorf("%s → %s by UDP: %v, want %v", try.from, try.to, got, try.pass)
				}
			}
		})
	}
}

// TestSecurityGroupOfAPrivateEndpoint: the group of its subnet judges what comes to an endpoint only where the subnet has
// network policies for private endpoints.
func TestSecurityGroupOfAPrivateEndpoint(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	c := services(a)
	n := &c.Networks[0]
	n.Subnets[1].Rules = []Rule{{Name: "deny", Priority: 100, Direction: Inbound, Protocol: "Tcp", SourcePrefixes: cidr("10.0.1.4/32")}}
	w.set(c)
	w.listen("registry", "240.0.0.1:443")
	w.reaches("node-a-1", "10.0.1.4", "10.0.2.4:443")
	n.Endpoints[0].Guarded = "services"
	w.set(c)
	before := w.counters().Networks["a"].Refused
	w.timesOut("node-a-1", "10.0.1.4", "10.0.2.4:443")
	if w.counters().Networks["a"].Refused == before {
		t.Error("not counted as refused")
	}
	if r, refused := n.Refusal(ip("10.0.1.4"), ip("10.0.2.4"), "Tcp", 443); !refused || r.Subnet != "services" || r.Rule.Name != "deny" {
		t.Errorf("told of the refusal: %v, %+v", refused, r)
	}
	w.reaches("node-a-2", "10.0.1.5", "10.0.2.4:443")
	n.Subnets[1].Rules = nil
	w.set(c)
	w.reaches("node-a-1", "10.0.1.4", "10.0.2.4:443")
}

func TestSecurityGroupKeepsEstablishedFlows(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	c := Config{Networks: []Network{a}}
	w.set(c)
	w.listen("node-a-1", "0.0.0.0:80")
	_, conn, err := w.dial("node-a-2", "", "10.0.1.4:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Networks[0].Subnets[0].Rules = []Rule{{Name: "deny", Priority: 100, Direction: Inbound, Protocol: "*"}}
	w.set(c)
	w.echoes(conn, true)
	w.timesOut("node-a-2", "", "10.0.1.4:80")
}

func TestSecurityGroupOfManyAddresses(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	var many []netip.Prefix
	for i := range 3000 { // neighbours merge, every other one does not
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i / 100), byte(i % 100), 0}), 25))
	}
	a.Subnets[0].Rules = []Rule{{Name: "deny", Priority: 100, Direction: Inbound, Protocol: "*", SourcePrefixes: append(many, cidr("10.0.1.5/32")...)}}
	w.set(Config{Networks: []Network{a}})
	w.listen("node-a-1", "0.0.0.0:80")
	w.pod("node-a-2", "10.0.1.102")
	w.timesOut("node-a-2", "10.0.1.5", "10.0.1.4:80")
	w.reaches("node-a-2", "10.0.1.102", "10.0.1.4:80")
}

func TestInternetIsWhatIsOutsideTheNetwork(t *testing.T) {
	vnet := cidr("10.0.0.0/16", "10.2.0.0/24")
	internet := outside(anywhere, vnet)
	contains := func(s string) bool {
		return slices.ContainsFunc(internet, func(p netip.Prefix) bool { return p.Contains(ip(s)) })
	}
	for address, want := range map[string]bool{
		"10.0.0.0": false, "10.0.255.255": false, "10.1.0.0": true, "9.255.255.255": true,
		"10.2.0.255": false, "10.2.1.0": true, "0.0.0.0": true, "255.255.255.255": true, "198.18.0.10": true,
	} {
		if contains(address) != want {
			t.Errorf("Internet contains %s: %v, want %v", address, !want, want)
		}
	}
}
