package fabric

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// serviceNIC gives a leaf an address in the subnet "services".
func serviceNIC(leaf, address string) NIC {
	return NIC{ID: leaf + "-nic", Subnet: "services", Interface: "eth0", Address: ip(address), Guest: Guest{Name: leaf}}
}

// front is 198.18.16.1:443 of a leaf.
func front(service, leaf string) Front {
	return Front{ID: "f", Address: ip("198.18.16.1"), Ports: []uint16{443}, ServiceAddress: ip(service), Leaf: leaf}
}

func TestFrontLeadsToItsServiceOnly(t *testing.T) {
	w := newWorld(t)
	a, b := vnet("a", "10.0"), vnet("b", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.NICs, b.NICs = []NIC{node(a, 1)}, []NIC{node(b, 1)}
	c := services(a, b)
	c.Workstations = []Workstation{{Name: "workstation-x", Address: ip("198.18.8.7")}, {Name: "workstation-y", Address: ip("198.18.8.8")}}
	c.Fronts = []Front{front("240.1.0.1", "cp-one")}
	w.set(c)
	w.listen("cp-one", "0.0.0.0:443")
	w.listen("cp-one", "0.0.0.0:2379")
	w.listen("registry", "240.0.0.1:443")
	w.listen("node-a-1", "0.0.0.0:80")

	// A workstation, and a network that has a way to public, come to the service, which sees neither.
	var open net.Conn
	for _, from := range []string{"workstation-x", "node-a-1"} {
		got, conn, err := w.dial(from, "", "198.18.16.1:443")
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		if got.at != ip("240.1.0.1") || got.from != linkAddress(publicSlot) {
			t.Errorf("%s was seen as %v", from, got)
		}
		w.echoes(conn, true)
		open = conn
	}
	// A network without one does not, and nobody comes to another port, another service, or by the service's own address.
	w.timesOut("node-b-1", "", "198.18.16.1:443")
	for _, to := range []string{"198.18.16.1:2379", "198.18.16.2:443", "240.1.0.1:443", "240.0.0.1:443", "10.0.1.4:80", "198.19.0.1:80"} {
		w.timesOut("workstation-x", "", to)
	}
	// The service answers, and speaks to nobody by itself.
	w.listen("workstation-x", "0.0.0.0:80")
	for _, to := range []string{"198.18.8.7:80", addr(linkAddress(publicSlot).As4()) + ":80"} {
		if _, _, err := w.dial("cp-one", "240.1.0.1", to); err == nil {
			t.Errorf("the service came to %s", to)
		}
	}
	if _, _, err := w.dial("public", "", "240.1.0.1:443"); err == nil {
		t.Error("what runs in public came to the service")
	}

	// Sources let in some, and end what others had open.
	c.Fronts[0].Sources = cidr("198.18.8.7/32")
	w.set(c)
	w.reaches("workstation-x", "", "198.18.16.1:443")
	w.timesOut("workstation-y", "", "198.18.16.1:443")
	w.timesOut("node-a-1", "", "198.18.16.1:443")
	w.echoes(open, false)
	c.Fronts[0].Networks = []string{"a"}
	w.set(c)
	w.reaches("workstation-x", "", "198.18.16.1:443")
	w.reaches("node-a-1", "", "198.18.16.1:443")
	w.timesOut("workstation-y", "", "198.18.16.1:443")

	_, open, err := w.dial("workstation-x", "", "198.18.16.1:443")
	if err != nil {
		t.Fatal(err)
	}
	c.Fronts = nil
	w.set(c)
	w.timesOut("workstation-x", "", "198.18.16.1:443")
	w.echoes(open, false)
}

// A leaf with a NIC has an address in a network: guests reach it there and it reaches them, by nothing but the network and its rules.
func TestLeafInANetwork(t *testing.T) {
	w := newWorld(t)
	a, b := vnet("a", "10.0"), vnet("b", "10.0")
	a.NICs = []NIC{node(a, 1), serviceNIC("cp-one", "10.0.2.10")}
	b.NICs = []NIC{node(b, 1)}
	c := services(a, b)
	w.set(c)
	w.pod("node-a-1", "10.0.1.101")
	w.listen("cp-one", "0.0.0.0:443")
	w.listen("node-a-1", "0.0.0.0:10250")
	w.listen("registry", "240.0.0.1:443")
	for _, from := range []string{"10.0.1.4", "10.0.1.101"} {
		if got := w.reaches("node-a-1", from, "10.0.2.10:443"); got.from != ip(from) || got.at != ip("10.0.2.10") {
			t.Errorf("%s was seen as %v", from, got)
		}
	}
	for _, to := range []string{"10.0.1.4", "10.0.1.101"} {
		if got := w.reaches("cp-one", "", to+":10250"); got.from != ip("10.0.2.10") {
			t.Errorf("the leaf was seen as %v", got)
		}
	}
	w.timesOut("node-b-1", "", "10.0.2.10:443")
	for _, to := range []string{"10.0.2.4:443", "240.0.0.1:443", "198.18.0.10:443"} { // the endpoint is for whoever is in the network
		if _, _, err := w.dial("cp-one", "", to); (err == nil) != (to == "10.0.2.4:443") {
			t.Errorf("the leaf → %s: %v", to, err)
		}
	}
	w.in("cp-one", func(*netlink.Handle) error {
		if v, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(v)) != "0" {
			t.Errorf("ip_forward is %q, %v", v, err)
		}
		return nil
	})
	before := w.snapshot()
	w.again().set(c)
	if after := w.snapshot(); after != before {
		t.Errorf("again:\n%s\nwas\n%s", after, before)
	}

	// The security group of its subnet judges, either way.
	c.Networks[0].Subnets[1].Rules = []Rule{
		{Name: "api", Priority: 100, Direction: Inbound, Allow: true, Protocol: "Tcp", DestinationPorts: []PortRange{{443, 443}}, SourcePrefixes: cidr("10.0.1.101/32")},
		{Name: "deny", Priority: 200, Direction: Inbound, Protocol: "*"},
		{Name: "out", Priority: 100, Direction: Outbound, Protocol: "*", DestinationPrefixes: cidr("10.0.1.101/32")},
	}
	w.set(c)
	w.reaches("node-a-1", "10.0.1.101", "10.0.2.10:443")
	w.timesOut("node-a-1", "10.0.1.4", "10.0.2.10:443")
	w.reaches("cp-one", "", "10.0.1.4:10250")
	w.timesOut("cp-one", "", "10.0.1.101:10250")

	// Without its NIC it is a leaf as before.
	c.Networks[0].NICs = c.Networks[0].NICs[:1]
	w.set(c)
	w.timesOut("node-a-1", "10.0.1.101", "10.0.2.10:443")
	if _, _, err := w.dial("cp-one", "", "10.0.1.4:10250"); err == nil {
		t.Error("the leaf came into the network without a NIC")
	}
}
