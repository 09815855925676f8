package fabric

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

func TestGuestsOfANetworkReachEachOther(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2), jumpBox(a, "box", "10.0.1.50")}
	w.set(Config{Networks: []Network{a}})
	for ns, pod := range map[string]string{"node-a-1": "10.0.1.101", "node-a-2": "10.0.1.102"} {
		w.pod(ns, pod)
		w.listen(ns, "0.0.0.0:80")
	}
	for _, c := range []struct{ ns, from, to string }{
		{"node-a-1", "10.0.1.4", "10.0.1.5"},
		{"node-a-1", "10.0.1.101", "10.0.1.102"},
		{"node-a-1", "10.0.1.4", "10.0.1.102"},
		{"node-a-2", "10.0.1.102", "10.0.1.4"},
		{"jump-abox", "10.0.1.50", "10.0.1.101"},
	} {
		start := time.Now()
		got := w.reaches(c.ns, c.from, c.to+":80")
		if got.from != ip(c.from) || got.at != ip(c.to) {
			t.Errorf("%s → %s was seen as %v", c.from, c.to, got)
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("%s → %s: the first connection took %v", c.from, c.to, d)
		}
	}
	// What nobody has is silent, and refused by the network rather than by the guest for want of an ARP answer.
	for _, nobody := range []string{"10.0.1.77", "10.0.77.1", "192.168.1.1", "8.8.8.8"} {
		before := w.counters().Networks["a"].Refused
		w.timesOut("node-a-1", "", nobody+":80")
		if w.counters().Networks["a"].Refused == before {
			t.Errorf("%s: not counted as refused", nobody)
		}
	}
	// A node forwards for its pods, a jump box for nobody.
	for ns, want := range map[string]string{"node-a-1": "1", "jump-abox": "0", "vnet-a": "1"} {
		w.in(ns, func(*netlink.Handle) error {
			if v, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(v)) != want {
				t.Errorf("%s: ip_forward is %q, %v", ns, v, err)
			}
			return nil
		})
	}
}

// TestPodBehindItsNode has a pod as the CNI plugin ptp makes it: its own namespace, linked to the node's.
func TestPodBehindItsNode(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	w.set(services(a))
	pod := filepath.Join(t.TempDir(), "pod.net")
	if err := netns.Create(pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(pod) })
	file, err := os.Open(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w.in("node-a-1", func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "veth-pod"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(file.Fd())}); err != nil {
			return err
		}
		return plug(h, "veth-pod", "10.0.1.4/32", "10.0.1.101/32")
	})
	podHandle := func(h *netlink.Handle) error {
		if err := plug(h, "eth0", "10.0.1.101/32", "10.0.1.4/32"); err != nil {
			return err
		}
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Dst: ipNet(anywhere), Gw: ipNet(cidr("10.0.1.4/32")[0]).IP, LinkIndex: l.Attrs().Index})
	}
	w.inAt(pod, podHandle)
	w.listen("node-a-2", "0.0.0.0:80")
	w.listen("vnet-a", "169.254.169.254:80")
	w.listen("registry", "240.0.0.1:443")
	time.Sleep(50 * time.Millisecond) // the test's own link
	for _, to := range []string{"10.0.1.5:80", "169.254.169.254:80"} {
		if got, _, err := w.dialAt(pod, "", to); err != nil || got.from != ip("10.0.1.101") {
			t.Errorf("pod → %s: seen as %v, %v", to, got.from, err)
		}
	}
	if _, _, err := w.dialAt(pod, "", "10.0.2.4:443"); err != nil {
		t.Errorf("pod → endpoint: %v", err)
	}
	w.listenAt(pod, "0.0.0.0:80")
	w.reaches("node-a-2", "", "10.0.1.101:80")
	w.reaches("vnet-a", "", "10.0.1.101:80")
}

func TestPlatformAddressesSeeWhoAsks(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	a.Subnets[0].Rules = []Rule{{Name: "deny", Priority: 100, Direction: Outbound, Protocol: "*"}}
	w.set(Config{Networks: []Network{a}})
	w.pod("node-a-1", "10.0.1.101")
	for _, platform := range []string{"168.63.129.16", "169.254.169.254"} {
		w.listen("vnet-a", platform+":80")
		w.listenUDP("vnet-a", platform+":53")
		for _, from := range []string{"10.0.1.4", "10.0.1.101"} {
			if got := w.reaches("node-a-1", from, platform+":80"); got.from != ip(from) {
				t.Errorf("%s saw %s as %s", platform, from, got.from)
			}
			if !w.udp("node-a-1", from, platform+":53") {
				t.Errorf("%s → %s: no answer by UDP", from, platform)
			}
		}
	}
}

func TestTheNetworkItselfReachesGuests(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	a.Subnets[0].DefaultOutbound = true
	c := services(a)
	w.set(c)
	w.pod("node-a-1", "10.0.1.101")
	w.listen("node-a-1", "0.0.0.0:10250")
	for _, to := range []string{"10.0.1.4", "10.0.1.101"} {
		if got := w.reaches("vnet-a", "", to+":10250"); got.from != platformSource {
			t.Errorf("%s saw the network's own namespace as %s", to, got.from)
		}
	}
	w.timesOut("vnet-a", "", "10.0.1.99:80")

	// Also when it is no longer the first address of the namespace.
	w.in("vnet-a", func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.AddrDel(lo, &netlink.Addr{IPNet: ipNet(host(platformSource))})
	})
	w.set(c)
	if got := w.reaches("vnet-a", "", "10.0.1.4:10250"); got.from != platformSource {
		t.Errorf("seen as %s", got.from)
	}

	// But nothing else: it is no way around the guests' rules.
	w.listen("registry", "240.0.0.1:443")
	w.listen("public", "198.18.0.10:443")
	w.timesOut("vnet-a", "", "240.0.0.1:443")
	w.timesOut("vnet-a", "", "198.18.0.10:443")
}

// services is a Config of a registry with two service-side addresses, a control plane, and one endpoint per network.
func services(networks ...Network) Config {
	c := Config{
		Leaves: []Leaf{
			{Name: "registry", Addresses: ips("240.0.0.1", "240.0.0.2")},
			{Name: "cp-one", Addresses: ips("240.1.0.1")},
		},
		Networks: networks,
	}
	for i := range c.Networks {
		n := &c.Networks[i]
		base := n.Subnets[1].Prefix.Addr().As4()
		base[3] = 4
		n.Endpoints = append(n.Endpoints, Endpoint{
			ID: n.ID + "-registry", Address: ip(addr(base)), Ports: []uint16{443}, ServiceAddress: ip("240.0.0.1"), Leaf: "registry"})
	}
	return c
}

func TestEndpointLeadsToItsServiceOnly(t *testing.T) {
	w := newWorld(t)
	a, b := vnet("a", "10.0"), vnet("b", "10.0")
	a.NICs = []NIC{node(a, 1), jumpBox(a, "box", "10.0.1.50")}
	b.NICs = []NIC{node(b, 1)}
	c := services(a, b)
	c.Networks[1].Endpoints[0].ServiceAddress = ip("240.0.0.2")
	w.set(c)
	w.pod("node-a-1", "10.0.1.101")
	for _, service := range []string{"240.0.0.1:443", "240.0.0.2:443", "240.0.0.1:80"} {
		w.listen("registry", service)
	}
	w.listen("cp-one", "240.1.0.1:443")
	w.listen("node-a-1", "0.0.0.0:80")

	// Two networks with the same addresses, each with its own service behind the same endpoint address.
	fromA := w.reaches("node-a-1", "10.0.1.4", "10.0.2.4:443")
	fromB := w.reaches("node-b-1", "10.0.1.4", "10.0.2.4:443")
	if fromA.at != ip("240.0.0.1") || fromB.at != ip("240.0.0.2") {
		t.Errorf("the registry was called at %s and %s", fromA.at, fromB.at)
	}
	if !linkSpace.Contains(fromA.from) || !linkSpace.Contains(fromB.from) || fromA.from == fromB.from {
		t.Errorf("the registry saw the networks as %s and %s", fromA.from, fromB.from)
	}
	w.reaches("node-a-1", "10.0.1.101", "10.0.2.4:443")
	w.reaches("jump-abox", "", "10.0.2.4:443")

	// Other ports, and service-side addresses dialled directly, whether or not the network has an endpoint for them.
	w.timesOut("node-a-1", "", "10.0.2.4:80")
	for _, direct := range []string{"240.0.0.1:443", "240.0.0.2:443", "240.1.0.1:443", "255.0.0.1:443"} {
		w.timesOut("node-a-1", "", direct)
	}
	// The provider sees a link address and can do nothing with it; nor can it reach another leaf.
	for _, to := range []string{fromA.from.String() + ":80", "240.1.0.1:443"} {
		if got, _, err := w.dial("registry", "240.0.0.1", to); err == nil {
			t.Errorf("the registry reached %s: %v", to, got)
		}
	}
	if got, _, err := w.dial("registry", "240.0.0.1", "10.0.1.4:80"); err == nil {
		t.Errorf("the registry reached a guest: %v", got)
	}
}

func TestProviderCannotRouteIntoANetwork(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	w.set(services(a))
	w.listen("node-a-1", "0.0.0.0:80")
	// As if a leaf had been broken into and given itself routes.
	w.route("registry", "10.0.0.0/16", "hub")
	w.route("hub", "10.0.0.0/16", shortName("v", "a"))
	w.timesOut("registry", "240.0.0.1", "10.0.1.4:80")
	// And as if the hub had let it pass.
	before := w.counters().Networks["a"].Refused
	w.timesOut("hub", "", "10.0.1.4:80")
	if w.counters().Networks["a"].Refused == before {
		t.Error("not counted as refused")
	}
	// Nor is there a way from one leaf to another.
	w.route("registry", "240.1.0.0/16", "hub")
	w.route("cp-one", "240.0.0.0/16", "hub")
	w.listen("cp-one", "240.1.0.1:443")
	w.timesOut("registry", "240.0.0.1", "240.1.0.1:443")
}

// TestHubTrustsNoNetwork lets a network's own rules be gone, and expects the hub to hold alone.
func TestHubTrustsNoNetwork(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	w.set(services(a))
	w.listen("registry", "240.0.0.1:443")
	w.listen("registry", "240.0.0.1:80")
	w.listen("registry", "240.0.0.2:443")
	w.listen("cp-one", "240.1.0.1:443")
	w.flushRules("vnet-a")
	w.route("vnet-a", "240.0.0.0/4", "hub")
	w.pod("vnet-a", "255.0.0.1")
	w.pod("vnet-a", "255.0.0.2")
	w.reaches("vnet-a", "255.0.0.1", "240.0.0.1:443") // what its endpoint grants
	w.timesOut("vnet-a", "255.0.0.2", "240.0.0.1:443")
	for _, to := range []string{"240.0.0.1:80", "240.0.0.2:443", "240.1.0.1:443"} {
		w.timesOut("vnet-a", "255.0.0.1", to)
	}
}

func TestRemovedEndpointEndsItsFlows(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	c := services(a)
	// A second endpoint to the same service: its grant must not carry the first one's flows.
	c.Networks[0].Endpoints = append(c.Networks[0].Endpoints, Endpoint{ID: "second", Address: ip("10.0.2.5"), Ports: []uint16{443}, ServiceAddress: ip("240.0.0.1"), Leaf: "registry"})
	w.set(c)
	w.listen("registry", "240.0.0.1:443")
	_, first, err := w.dial("node-a-1", "", "10.0.2.4:443")
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := w.dial("node-a-1", "", "10.0.2.5:443")
	if err != nil {
		t.Fatal(err)
	}
	w.echoes(first, true)
	c.Networks[0].Endpoints = c.Networks[0].Endpoints[1:]
	w.set(c)
	w.echoes(first, false)
	w.echoes(second, true)
	w.timesOut("node-a-1", "", "10.0.2.4:443")
}

func TestNetworksNeverMeet(t *testing.T) {
	w := newWorld(t)
	a, b := vnet("a", "10.0"), vnet("b", "10.0")
	a.NICs = []NIC{node(a, 1)}
	b.NICs = []NIC{node(b, 1), node(b, 2)}
	for i := range a.Subnets {
		a.Subnets[i].DefaultOutbound, b.Subnets[i].DefaultOutbound = true, true
	}
	w.set(services(a, b))
	w.listen("node-a-1", "0.0.0.0:80")
	w.listen("node-b-1", "0.0.0.0:80")
	w.reaches("node-b-2", "", "10.0.1.4:80")
	w.timesOut("node-a-1", "", "10.0.1.5:80") // which only b has
	for _, foreign := range []string{"255.0.0.1", "255.0.0.2", "198.19.0.1", "198.19.0.2"} {
		w.timesOut("node-a-1", "", foreign+":80")
	}
}

func TestDefaultOutboundIsTheOnlyWayOut(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1)}
	a.NICs = append(a.NICs, NIC{ID: "s", Subnet: "services", Interface: "eth0", Address: ip("10.0.2.9"), Guest: Guest{Name: "jump-s"}})
	c := Config{Networks: []Network{a}}
	w.set(c)
	w.pod("node-a-1", "10.0.1.101")
	w.listen("public", "198.18.0.10:443")
	w.listen("node-a-1", "0.0.0.0:80")
	w.timesOut("node-a-1", "", "198.18.0.10:443")
	if n := w.counters(); len(n.Public) != 0 || n.Networks["a"].Refused == 0 {
		t.Errorf("counters of a private subnet's attempt: %+v", n)
	}

	c.Networks[0].Subnets[0].DefaultOutbound = true
	w.set(c)
	got, conn, err := w.dial("node-a-1", "10.0.1.4", "198.18.0.10:443")
	if err != nil || !publicSpace.Contains(got.from) || got.from.As4()[1] != 19 {
		t.Fatalf("default outbound access: %v, seen as %v", err, got)
	}
	w.echoes(conn, true)
	w.reaches("node-a-1", "10.0.1.101", "198.18.0.10:443")
	w.timesOut("jump-s", "", "198.18.0.10:443") // of the subnet without it
	n := w.counters()
	if len(n.Public) != 1 || n.Public[0].Destination != ip("198.18.0.10") || n.Public[0].Packets == 0 || n.Public[0].Bytes == 0 {
		t.Errorf("counters after a granted flow: %+v", n.Public)
	}
	// What public starts itself goes nowhere.
	w.timesOut("public", "198.18.0.10", got.from.String()+":80")
	w.route("public", "10.0.0.0/16", shortName("v", "a"))
	w.timesOut("public", "198.18.0.10", "10.0.1.4:80")

	c.Networks[0].Subnets[0].DefaultOutbound = false
	c.Networks[0].Subnets[1].DefaultOutbound = true
	w.set(c)
	w.echoes(conn, false)
	w.timesOut("node-a-1", "", "198.18.0.10:443")
	w.reaches("jump-s", "", "198.18.0.10:443")
	c.Networks[0].Subnets[1].DefaultOutbound = false
	w.set(c)
	w.timesOut("jump-s", "", "198.18.0.10:443")
}

func TestIPv6NeverLeavesAGuest(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	w.set(Config{Networks: []Network{a}})
	w.listenUDP("public", "[2001:db8::53]:53")
	w.listenUDP("node-a-2", "[::]:53")
	// The guests' roots turn it on, give themselves addresses and routes, and know their router's MAC address.
	for ns, address := range map[string]string{"node-a-1": "2001:db8:1::1", "node-a-2": "2001:db8:1::2"} {
		w.ipv6(ns, "eth0", address)
	}
	w.neighbour("node-a-1", "eth0", "2001:db8::53", routerMAC.String())
	w.neighbour("node-a-1", "eth0", "2001:db8:1::2", routerMAC.String())
	before := w.counters()
	for _, to := range []string{"[2001:db8::53]:53", "[2001:db8:1::2]:53"} {
		if w.udp("node-a-1", "", to) {
			t.Errorf("%s answered", to)
		}
	}
	after := w.counters()
	if after.Networks["a"].IPv6 < before.Networks["a"].IPv6+2 {
		t.Errorf("the network dropped %d packets of IPv6, then %d", before.Networks["a"].IPv6, after.Networks["a"].IPv6)
	}
	if len(after.Public) != 0 {
		t.Errorf("arrivals in public: %+v", after.Public)
	}
}

func TestSourceAddressesAreChecked(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2)}
	w.set(Config{Networks: []Network{a}})
	w.listenUDP("node-a-2", "10.0.1.5:53")
	w.listenUDP("vnet-a", "169.254.169.254:80")
	for _, forged := range []string{"10.0.1.102", "10.0.1.66", "168.63.129.16", "8.8.8.8"} {
		w.pod("node-a-1", forged)
		before := w.counters().Networks["a"].Spoofed
		if w.udp("node-a-1", forged, "10.0.1.5:53") || w.udp("node-a-1", forged, "169.254.169.254:80") {
			t.Errorf("an answer to %s, which is not the NIC's", forged)
		}
		if got := w.counters().Networks["a"].Spoofed; got != before+2 {
			t.Errorf("%s: %d spoofed packets were counted, want 2", forged, got-before)
		}
	}
}

func TestWorkstationReachesPublicOnly(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.NICs = []NIC{node(a, 1)}
	c := services(a)
	c.Workstations = []Workstation{{Name: "workstation-x", Address: ip("198.18.8.7")}, {Name: "workstation-y", Address: ip("198.18.8.8")}}
	w.set(c)
	w.listen("public", "198.18.0.11:443")
	w.listen("node-a-1", "0.0.0.0:80")
	w.listen("registry", "240.0.0.1:443")
	w.listen("workstation-y", "0.0.0.0:80")
	if got := w.reaches("workstation-x", "", "198.18.0.11:443"); got.from != ip("198.18.8.7") {
		t.Errorf("seen as %s", got.from)
	}
	for _, to := range []string{"10.0.1.4:80", "240.0.0.1:443", "198.19.0.1:80", "198.18.8.8:80", "8.8.8.8:53"} {
		w.timesOut("workstation-x", "", to)
	}
	if n := w.counters().Public; len(n) != 0 {
		t.Errorf("a workstation's packets were counted as a network's: %+v", n)
	}
}
