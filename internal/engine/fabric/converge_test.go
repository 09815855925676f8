package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// snapshot describes everything the fabric makes, without what the kernel numbers as it likes.
func (w *world) snapshot() string {
	w.Helper()
	var b strings.Builder
	pinned, err := w.pinned()
	if err != nil {
		w.Fatal(err)
	}
	slices.Sort(pinned)
	for _, name := range pinned {
		fmt.Fprintf(&b, "%s userns=%v\n", name, userns.Is(w.layout.UserNS(name), w.ns(name)))
		w.in(name, func(h *netlink.Handle) error {
			links, err := h.LinkList()
			if err != nil {
				return err
			}
			names := map[int]string{}
			var lines []string
			for _, l := range links {
				a := l.Attrs()
				names[a.Index] = a.Name
				line := fmt.Sprintf("  link %s %s %q mtu %d up %v noarp %v", a.Name, a.HardwareAddr, a.Alias, a.MTU, a.Flags&unix.IFF_UP != 0, a.RawFlags&unix.IFF_NOARP != 0)
				for _, s := range []string{"ipv4/conf/" + a.Name + "/proxy_arp", "ipv4/conf/" + a.Name + "/rp_filter", "ipv4/conf/" + a.Name + "/forwarding", "ipv4/neigh/" + a.Name + "/proxy_delay", "ipv6/conf/" + a.Name + "/disable_ipv6"} {
					v, _ := os.ReadFile("/proc/sys/net/" + s)
					line += " " + strings.TrimSpace(string(v))
				}
				lines = append(lines, line)
				addresses, err := h.AddrList(l, netlink.FAMILY_ALL)
				if err != nil {
					return err
				}
				for _, x := range addresses {
					lines = append(lines, fmt.Sprintf("  address %s on %s", x.IPNet, a.Name))
				}
				neighbours, err := h.NeighList(a.Index, netlink.FAMILY_V4)
				if err != nil {
					return err
				}
				for _, n := range neighbours {
					if n.State == netlink.NUD_PERMANENT {
						lines = append(lines, fmt.Sprintf("  neighbour %s %s on %s", n.IP, n.HardwareAddr, a.Name))
					}
				}
			}
			routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Table != unix.RT_TABLE_LOCAL {
					lines = append(lines, fmt.Sprintf("  route %s via %s dev %s src %s type %d table %d", r.Dst, r.Gw, names[r.LinkIndex], r.Src, r.Type, r.Table))
				}
			}
			steering, err := h.RuleList(netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, r := range steering {
				lines = append(lines, fmt.Sprintf("  rule %d mark %d table %d", r.Priority, r.Mark, r.Table))
			}
			slices.Sort(lines)
			fmt.Fprintln(&b, strings.Join(lines, "\n"))
			return nil
		})
		file, err := os.Open(w.ns(name))
		if err != nil {
			w.Fatal(err)
		}
		c, err := filterAt(int(file.Fd()))
		if err != nil {
			w.Fatal(err)
		}
		chains, err := c.ListChains()
		if err != nil {
			w.Fatal(err)
		}
		for _, ch := range chains {
			fmt.Fprintf(&b, "  chain %d %s\n", ch.Table.Family, ch.Name)
		}
		c.CloseLasting()
		file.Close()
	}
	return b.String()
}

// again is the fabric as another process would have it.
func (w *world) again() *world { return &world{w.T, New(w.layout)} }

// small has one of everything; changed is another that shares a part with it.
func small() Config {
	a := vnet("a", "10.0")
	a.Subnets[0].DefaultOutbound = true
	a.Subnets[0].Rules = []Rule{}
	a.Subnets[0].Routes = []Route{{Prefix: anywhere, Hop: VirtualAppliance, Appliance: ip("10.0.1.50")}, {Prefix: cidr("198.18.0.0/24")[0], Hop: Internet}}
	a.NICs = []NIC{node(a, 1), jumpBox(a, "box", "10.0.1.50")}
	a.NICs[0].Public = []PublicAddress{{a.NICs[0].Address, ip("198.19.128.1")}}
	a.NICs[1].Forwarding = true
	c := services(a)
	c.Workstations = []Workstation{{Name: "workstation-x", Address: ip("198.18.8.7")}}
	c.Networks[0].NICs = append(c.Networks[0].NICs, serviceNIC("cp-one", "10.0.2.10"))
	c.Fronts = []Front{front("240.1.0.1", "cp-one")}
	return c
}

func changed() Config {
	c := small()
	b := vnet("b", "10.3")
	n := node(b, 1)
	n.Guest = c.Networks[0].NICs[0].Guest // moves to another network
	b.NICs = []NIC{n}
	a := c.Networks[0]
	box := a.NICs[1]
	box.Address, box.ID = ip("10.0.1.4"), "other" // takes the address over, under another ID in the same guest
	box.Forwarding = false
	a.NICs = []NIC{box}
	a.Subnets[0].DefaultOutbound, a.Subnets[0].Rules, a.Subnets[0].Routes = false, nil, nil
	a.Subnets[1].Routes, a.Subnets[1].NATGateway = []Route{{Prefix: anywhere, Hop: Nowhere}}, &NATGateway{ips("198.19.128.1")}
	a.Endpoints = nil
	joined := Config{Leaves: c.Leaves[1:], Networks: []Network{a, b}}
	join(&joined, 0, 1)
	return joined
}

const deathShards = 4

var errDied = errors.New("died")

// TestDeathAtAnyLine lets the process die before every single change to the machine, on the way from nothing to a
// state and from that state to another, and expects the next one to arrive where an undisturbed one does.
func TestDeathAtAnyLine(t *testing.T) {
	reference := func(configs ...Config) string {
		w := newWorld(t)
		for _, c := range configs {
			w.again().set(c)
		}
		s := w.snapshot()
		if err := w.Teardown(context.Background()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := reference(small()), reference(small(), changed())
	if first == second {
		t.Fatal("the two states do not differ")
	}
	for _, test := range []struct {
		name   string
		before []Config
		config Config
		want   string
	}{
		{"from nothing", nil, small(), first},
		{"from another state", []Config{small()}, changed(), second},
	} {
		for shard := range deathShards {
			t.Run(fmt.Sprintf("%s, %d", test.name, shard), func(t *testing.T) {
				t.Parallel() // most of it is waiting for the kernel
				for deaths := shard; ; deaths += deathShards {
					w := newWorld(t)
					for _, c := range test.before {
						w.set(c)
					}
					left, died := deaths, ""
					var mu sync.Mutex
					dying := w.again()
					dying.step = func(change string) error {
						mu.Lock()
						defer mu.Unlock()
						if left--; left < 0 {
							died = change
							return errDied
						}
						return nil
					}
					err := dying.Set(context.Background(), test.config)
					if err == nil {
						if deaths < 30 {
							t.Errorf("only %d changes to die at", deaths)
						}
						return
					}
					if !errors.Is(err, errDied) {
						t.Fatal(err)
					}
					w.again().set(test.config)
					if got := w.snapshot(); got != test.want {
						t.Fatalf("after a death before %q:\n%s\nwant:\n%s", died, got, test.want)
					}
					if err := w.Teardown(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func TestGuestWithOtherIDsIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	c := small()
	w.set(c)
	nic := &c.Networks[0].NICs[0]
	for _, ids := range [][2]uint32{{5 << 24, 1 << 24}, {0, 0}, {6 << 24, 1 << 24}} {
		nic.Guest.UIDBase, nic.Guest.UIDCount = ids[0], ids[1]
		w.set(c)
		if owner, err := ownerOf(w.ns(nic.Guest.Name)); err != nil || owner != ids[0] {
			t.Errorf("the namespace belongs to %d, %v, want %d", owner, err, ids[0])
		}
		if got, want := userns.Is(w.layout.UserNS(nic.Guest.Name), w.ns(nic.Guest.Name)), ids[1] > 0; got != want {
			t.Errorf("a user namespace: %v, want %v", got, want)
		}
	}
}

func TestOneFailureDoesNotStopTheRest(t *testing.T) {
	w := newWorld(t)
	a := vnet("a", "10.0")
	a.NICs = []NIC{node(a, 1), node(a, 2), node(a, 3)}
	c := services(a)
	bad := a.NICs[0].device()
	undisturbed := w.step
	w.step = func(change string) error {
		if strings.Contains(change, bad) {
			return errDied
		}
		return nil
	}
	if err := w.Set(context.Background(), c); !errors.Is(err, errDied) || !strings.Contains(err.Error(), "node-a-1") {
		t.Fatalf("Set = %v, want what failed", err)
	}
	w.listen("node-a-3", "0.0.0.0:80")
	w.listen("registry", "240.0.0.1:443")
	w.reaches("node-a-2", "", "10.0.1.6:80")
	w.reaches("node-a-2", "", "10.0.2.4:443")
	w.step = undisturbed
	w.set(c)
	w.reaches("node-a-1", "", "10.0.1.6:80")
}

func TestNothingToDoChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.set(small())
	for _, f := range []*world{w, w.again()} {
		undisturbed := f.step
		f.step = func(change string) error { return fmt.Errorf("unexpected change: %s", change) }
		f.set(small())
		c := small() // the same, as another caller might list it
		slices.Reverse(c.Leaves)
		for _, n := range c.Networks {
			slices.Reverse(n.Subnets)
			slices.Reverse(n.NICs)
		}
		f.set(c)
		f.step = undisturbed
	}
}

func TestRestoreAfterReboot(t *testing.T) {
	w := newWorld(t)
	w.set(changed())
	w.set(small()) // slots are not what they would be from nothing
	before := w.snapshot()
	pinned, err := w.pinned()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range pinned {
		if err := w.remove(name); err != nil {
			t.Fatal(err)
		}
	}
	os.RemoveAll(w.layout.RunDir)
	w = w.again()
	if err := w.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.snapshot(); got != before {
		t.Errorf("restored:\n%s\nwant:\n%s", got, before)
	}
	w.listen("registry", "240.0.0.1:443")
	w.reaches("node-a-1", "", "10.0.2.4:443")
}

func TestRestoreWithoutAState(t *testing.T) {
	w := newWorld(t)
	if err := w.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	if pinned, _ := w.pinned(); len(pinned) != 0 {
		t.Errorf("made %v", pinned)
	}
}

func TestDamageIsRepaired(t *testing.T) {
	w := newWorld(t)
	w.set(small())
	want := w.snapshot()
	delLink := func(ns, name string) func() {
		return func() {
			w.in(ns, func(h *netlink.Handle) error {
				l, err := h.LinkByName(name)
				if err != nil {
					return err
				}
				return h.LinkDel(l)
			})
		}
	}
	for what, damage := range map[string]func(){
		"NIC removed by the guest": delLink("node-a-1", "eth0"),
		"hub link removed":         delLink("vnet-a", "hub"),
		"sink removed":             delLink("vnet-a", sinkName),
		"guest namespace unpinned": func() { userns.Delete(w.layout.UserNS("node-a-1"), w.ns("node-a-1")) },
		"network unpinned":         func() { netns.Delete(w.ns("vnet-a")) },
		"hub unpinned":             func() { netns.Delete(w.ns(hubName)) },
		"rules removed":            func() { w.flushRules("vnet-a") },
		"guest's address and default route removed": func() {
			w.in("node-a-1", func(h *netlink.Handle) error {
				l, err := h.LinkByName("eth0")
				if err != nil {
					return err
				}
				a, err := netlink.ParseAddr("10.0.1.4/24")
				if err != nil {
					return err
				}
				return h.AddrDel(l, a)
			})
		},
		"guest's interface set down": func() {
			w.in("node-a-1", func(h *netlink.Handle) error {
				l, err := h.LinkByName("eth0")
				if err != nil {
					return err
				}
				return h.LinkSetDown(l)
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := &world{t, New(w.layout)}
			damage()
			w.set(small())
			if got := w.snapshot(); got != want {
				t.Errorf("repaired:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestRemovedThingsAreGone(t *testing.T) {
	w := newWorld(t)
	w.set(Config{})
	empty := w.snapshot()
	withPublic, without := small(), small()
	without.Networks[0].Subnets = slices.Clone(without.Networks[0].Subnets)
	without.Networks[0].Subnets[0].DefaultOutbound = false
	w.set(without)
	private := w.snapshot()
	w.set(withPublic)
	w.set(without)
	if got := w.snapshot(); got != private {
		t.Errorf("without default outbound access again:\n%s\nwant:\n%s", got, private)
	}
	w.listen("vnet-a", "168.63.129.16:53") // an open socket keeps the namespace, but nothing of it
	w.set(Config{})
	if got := w.snapshot(); got != empty {
		t.Errorf("left behind:\n%s\nwant:\n%s", got, empty)
	}
	if err := w.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(w.layout.RunDir + "/ns"); err != nil || len(entries) != 0 {
		t.Errorf("after teardown: %v, %v", entries, err)
	}
}

func TestFlowsDoNotNoticeOtherChanges(t *testing.T) {
	w := newWorld(t)
	c := small()
	w.set(c)
	w.listen("registry", "240.0.0.1:443")
	w.listen("public", "198.18.0.10:443")
	_, endpoint, err := w.dial("node-a-1", "", "10.0.2.4:443")
	if err != nil {
		t.Fatal(err)
	}
	_, out, err := w.dial("node-a-1", "", "198.18.0.10:443")
	if err != nil {
		t.Fatal(err)
	}
	w.timesOut("node-a-1", "", "10.0.1.99:80")
	before := w.counters()
	b := vnet("b", "10.0")
	b.Subnets[0].DefaultOutbound = true
	c.Networks = append(services(b).Networks, c.Networks...)
	c.Networks[1].NICs = append(c.Networks[1].NICs, node(c.Networks[1], 5))
	c.Workstations = nil
	w.again().set(c)
	w.echoes(endpoint, true)
	w.echoes(out, true)
	after := w.counters()
	if before.Networks["a"].Refused == 0 || after.Networks["a"].Refused < before.Networks["a"].Refused || after.Public[0].Packets <= before.Public[0].Packets {
		t.Errorf("counters %+v, then %+v", before, after)
	}
}

func TestGuestsOwnThingsStay(t *testing.T) {
	w := newWorld(t)
	w.set(small())
	w.in("node-a-1", func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "veth-pod"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "veth-peer"}); err != nil {
			return err
		}
		l, err := h.LinkByName("veth-pod")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("2"), 0o644); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Dst: ipNet(cidr("10.0.1.101/32")[0]), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	before := w.snapshot()
	c := small()
	c.Networks[0].NICs[0].Secondary = append(c.Networks[0].NICs[0].Secondary, ip("10.0.1.111"))
	w.set(c)
	w.set(small())
	if after := w.snapshot(); after != before {
		t.Errorf("was:\n%s\nis:\n%s", before, after)
	}
	w.in("node-a-1", func(*netlink.Handle) error {
		if v, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter"); err != nil || strings.TrimSpace(string(v)) != "2" {
			t.Errorf("the guest's own sysctl became %q, %v", v, err)
		}
		return nil
	})
}

// TestHostIsLeftAlone watches the host's own namespace while the fabric comes and goes.
func TestHostIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	updates, done := make(chan netlink.LinkUpdate, 4096), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	sysctls := func() string {
		var b strings.Builder
		for _, s := range []string{"ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/conf/all/send_redirects", "ipv4/conf/all/proxy_arp", "ipv6/conf/all/forwarding", "ipv6/conf/default/accept_ra", "ipv6/conf/default/addr_gen_mode"} {
			v, err := os.ReadFile("/proc/sys/net/" + s)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s = %s", s, v)
		}
		return b.String()
	}
	before := sysctls()
	w.set(small())
	w.set(changed())
	c, err := filterAt(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseLasting()
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == tableName {
			t.Error("a packet filter table in the host's namespace")
		}
	}
	if err := w.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := sysctls(); after != before {
		t.Errorf("sysctls:\n%swere:\n%s", after, before)
	}
	ours := map[string]bool{"hub": true, "public": true, sinkName: true}
	for _, conf := range []Config{small(), changed()} {
		for _, l := range newPlan(conf, map[string]uint16{}).links {
			ours[l.a.name] = true
		}
	}
	for {
		select {
		case u := <-updates:
			if ours[u.Link.Attrs().Name] {
				t.Errorf("link %s was seen in the host's namespace", u.Link.Attrs().Name)
			}
		default:
			return
		}
	}
}

// sizeable is one network with five NICs and three endpoints.
func sizeable() Config {
	a := vnet("a", "10.0")
	for i := range 5 {
		a.NICs = append(a.NICs, node(a, i+1))
	}
	c := services(a)
	n := &c.Networks[0]
	n.Endpoints = append(n.Endpoints,
		Endpoint{ID: "data", Address: ip("10.0.2.5"), Ports: []uint16{443}, ServiceAddress: ip("240.0.0.2"), Leaf: "registry"},
		Endpoint{ID: "api", Address: ip("10.0.1.200"), Ports: []uint16{443}, ServiceAddress: ip("240.1.0.1"), Leaf: "cp-one"})
	return c
}

func BenchmarkSetFromNothing(b *testing.B) {
	for range b.N {
		f := New(tempLayout(b))
		if err := f.Set(context.Background(), sizeable()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := f.Teardown(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkSetNothingToDo(b *testing.B) {
	f := New(tempLayout(b))
	b.Cleanup(func() { f.Teardown(context.Background()) })
	if err := f.Set(context.Background(), sizeable()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.Set(context.Background(), sizeable()); err != nil {
			b.Fatal(err)
		}
	}
}
