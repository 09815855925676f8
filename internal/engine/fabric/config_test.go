package fabric

import (
	"net/netip"
	"strings"
	"testing"
)

func TestConfigFaults(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                        func(*Config) {},
		"overlaps 198.18.0.0/15":  func(c *Config) { c.Networks[0].Prefixes = append(c.Networks[0].Prefixes, cidr("198.18.4.0/24")...) },
		"overlaps 240.0.0.0/4":    func(c *Config) { c.Networks[0].Prefixes = append(c.Networks[0].Prefixes, cidr("250.0.0.0/8")...) },
		"is not IPv4":             func(c *Config) { c.Networks[0].Prefixes = append(c.Networks[0].Prefixes, cidr("fd00::/8")...) },
		"is not in the network's": func(c *Config) { c.Networks[0].Subnets[1].Prefix = cidr("10.1.0.0/24")[0] },
		`no subnet "elsewhere"`:   func(c *Config) { c.Networks[0].NICs[0].Subnet = "elsewhere" },
		"is not in subnet":        func(c *Config) { c.Networks[0].NICs[0].Address = ip("10.0.2.9") },
		"is that of NIC":          func(c *Config) { c.Networks[0].NICs[1].Address = c.Networks[0].NICs[0].Address },
		"is that of endpoint": func(c *Config) {
			e := &c.Networks[0].Endpoints[0]
			c.Networks[0].Endpoints = append(c.Networks[0].Endpoints, *e)
		},
		"does not have address":                  func(c *Config) { c.Networks[0].Endpoints[0].Leaf = "cp-one" },
		`no subnet "elsewhere" guards it`:        func(c *Config) { c.Networks[0].Endpoints[0].Guarded = "elsewhere" },
		"no port":                                func(c *Config) { c.Networks[0].Endpoints[0].Ports = nil },
		"is not in 240.0.0.0/4":                  func(c *Config) { c.Leaves[0].Addresses = ips("10.9.0.1") },
		"outside 255.0.0.0/8":                    func(c *Config) { c.Leaves[1].Addresses = ips("255.0.0.9") },
		"is leaf registry's":                     func(c *Config) { c.Leaves[1].Addresses = ips("240.0.0.1") },
		"is that of the hub":                     func(c *Config) { c.Leaves[1].Name = "hub" },
		"cannot name a network namespace":        func(c *Config) { c.Networks[0].NICs[0].Guest.Name = "../etc" },
		"cannot name an interface":               func(c *Config) { c.Networks[0].NICs[0].Interface = "a/b" },
		"share host ids":                         func(c *Config) { c.Networks[0].NICs[1].Guest = Guest{"node-x", 97<<24 + 65536, 65536} },
		"its ids begin with the host's root":     func(c *Config) { c.Networks[0].NICs[0].Guest.UIDBase = 0 },
		"is not in 198.18.8.0/21":                func(c *Config) { c.Workstations[0].Address = ip("198.18.0.10") },
		"address 198.18.0.10 is not free":        func(c *Config) { c.Fronts[0].Address = ip("198.18.0.10") },
		"address 198.18.8.9 is not free":         func(c *Config) { c.Fronts[0].Address = ip("198.18.8.9") },
		"address 198.19.0.1 is not free":         func(c *Config) { c.Fronts[0].Address = ip("198.19.0.1") },
		"is that of front":                       func(c *Config) { c.Fronts = append(c.Fronts, c.Fronts[0]) },
		`front f: leaf "registry" does not have`: func(c *Config) { c.Fronts[0].Leaf = "registry" },
		"has a way to a network already": func(c *Config) {
			c.Networks[0].NICs = append(c.Networks[0].NICs, serviceNIC("cp-one", "10.0.2.11"))
			c.Networks[0].NICs[3].ID, c.Networks[0].NICs[3].Interface = "another", "eth1"
		},
		"guest cp-one has two id maps": func(c *Config) { c.Networks[0].NICs[2].Guest.UIDCount = 65536 },
		`protocol "tcp"`:               func(c *Config) { c.Networks[0].Subnets[0].Rules = []Rule{{Direction: Inbound, Protocol: "tcp"}} },
		`direction ""`:                 func(c *Config) { c.Networks[0].Subnets[0].Rules = []Rule{{Protocol: "Tcp"}} },
		"ports 9-8": func(c *Config) {
			c.Networks[0].NICs[0].Rules = []Rule{{Direction: Inbound, Protocol: "Tcp", SourcePorts: []PortRange{{9, 8}}}}
		},
		"secondary address 169.254.169.254 is": func(c *Config) { c.Networks[0].NICs[0].Secondary = ips("169.254.169.254") },
	} {
		c := small()
		change(&c)
		err := c.Validate()
		switch {
		case want == "" && err != nil:
			t.Errorf("a good Config: %v", err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}

func TestSlotsAreKeptAndNotReusedSoon(t *testing.T) {
	var s state
	allot := func(ids ...string) map[string]uint16 {
		var networks []Network
		for _, id := range ids {
			networks = append(networks, Network{ID: id})
		}
		if err := s.allot(networks); err != nil {
			t.Fatal(err)
		}
		return s.Slots
	}
	a := allot("a", "b")["a"]
	if got := allot("c", "a")["a"]; got != a {
		t.Errorf("a's slot became %d, was %d", got, a)
	}
	b := allot("a", "b")["b"]
	if b == 2 || b == 3 {
		t.Errorf("b came back to slot %d, which was just in use", b)
	}
	// The end of the range is followed by its begin, past what is taken.
	s.Next = lastSlot
	if got := allot("a", "last", "first"); got["last"] != lastSlot || got["first"] == a || got["first"] < firstSlot {
		t.Errorf("slots %v", got)
	}
	if linkAddress(258) != netip.MustParseAddr("255.0.1.2") || publicAddress(258) != netip.MustParseAddr("198.19.1.2") {
		t.Errorf("addresses of slot 258: %s, %s", linkAddress(258), publicAddress(258))
	}
}
