package fabric

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// world is a fabric in namespaces of its own.
type world struct {
	*testing.T
	*Fabric
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the fabric needs root")
	}
	f := New(tempLayout(t))
	t.Cleanup(func() {
		if err := f.Teardown(context.Background()); err != nil {
			t.Errorf("teardown: %v", err)
		}
	})
	return &world{t, f}
}

// tempLayout is an installation of its own.
func tempLayout(t testing.TB) layout.Layout {
	id := make([]byte, 3)
	rand.Read(id)
	dir := t.TempDir()
	return layout.Layout{DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Instance: hex.EncodeToString(id)}
}

func (w *world) set(c Config) {
	w.Helper()
	if err := w.Set(context.Background(), c); err != nil {
		w.Fatalf("set: %v", err)
	}
}

func (w *world) ns(name string) string { return w.layout.NetNS(name) }

// patience is how long a test waits for what must not come; a flow that is granted takes microseconds.
const patience = 300 * time.Millisecond

// answer is what a listener tells whoever connects: whom it saw, and at which address it was called.
type answer struct{ from, at netip.Addr }

// listen answers TCP on the address in the namespace.
func (w *world) listen(ns, address string) {
	w.Helper()
	w.listenAt(w.ns(ns), address)
}

func (w *world) listenAt(path, address string) {
	w.Helper()
	l, err := netns.Listen(path, "tcp4", address)
	if err != nil {
		w.Fatalf("listen on %s in %s: %v", address, path, err)
	}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	w.Cleanup(func() {
		close(ended)
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", host0(c.RemoteAddr()), host0(c.LocalAddr()))
			serving.Go(func() { // a client that is cut off never says so
				<-ended
				c.Close()
			})
			serving.Go(func() { io.Copy(c, c) })
		}
	})
}

func host0(a net.Addr) string { h, _, _ := net.SplitHostPort(a.String()); return h }

// dial connects from an address of the namespace ("" for the kernel's choice).
func (w *world) dial(ns, from, to string) (answer, net.Conn, error) {
	w.Helper()
	return w.dialAt(w.ns(ns), from, to)
}

func (w *world) dialAt(path, from, to string) (answer, net.Conn, error) {
	w.Helper()
	var conn net.Conn
	err := netns.Do(path, func() error {
		d := net.Dialer{Timeout: patience, FallbackDelay: -1}
		if from != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		var err error
		conn, err = d.Dial("tcp", to)
		return err
	})
	if err != nil {
		return answer{}, nil, err
	}
	w.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReaderSize(conn, 64).ReadString('\n')
	if err != nil {
		return answer{}, nil, fmt.Errorf("read the answer: %w", err)
	}
	words := strings.Fields(line)
	return answer{netip.MustParseAddr(words[0]), netip.MustParseAddr(words[1])}, conn, nil
}

// reaches fails the test unless the flow passes, and returns what the listener saw.
func (w *world) reaches(ns, from, to string) answer {
	w.Helper()
	a, _, err := w.dial(ns, from, to)
	if err != nil {
		w.Errorf("%s (%s) → %s: %v", ns, from, to, err)
	}
	return a
}

// timesOut fails the test unless the flow gets no answer at all, as on Azure: neither a connection nor a refusal.
func (w *world) timesOut(ns, from, to string) {
	w.Helper()
	a, _, err := w.dial(ns, from, to)
	if err == nil {
		w.Errorf("%s (%s) → %s: connected, and was seen as %v", ns, from, to, a)
		return
	}
	if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		w.Errorf("%s (%s) → %s: %v, want a time-out", ns, from, to, err)
	}
}

// echoes sends on an open connection and fails the test unless the same comes back (or, if !want, nothing does).
func (w *world) echoes(c net.Conn, want bool) {
	w.Helper()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "x")
	_, err := c.Read(make([]byte, 1))
	if (err == nil) != want {
		w.Errorf("on an open connection: %v, want an echo: %v", err, want)
	}
}

// in does something on the links of a namespace, as its own root would.
func (w *world) in(ns string, fn func(h *netlink.Handle) error) {
	w.Helper()
	w.inAt(w.ns(ns), fn)
}

func (w *world) inAt(path string, fn func(h *netlink.Handle) error) {
	w.Helper()
	err := netns.Do(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
	if err != nil {
		w.Fatalf("in %s: %v", path, err)
	}
}

// plug sets up one end of a pod's link: an address and a route to the other end.
func plug(h *netlink.Handle, dev, address, other string) error {
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := h.AddrReplace(l, a); err != nil {
		return err
	}
	return h.RouteReplace(&netlink.Route{Dst: ipNet(cidr(other)[0]), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
}

// flushRules removes every rule of a namespace.
func (w *world) flushRules(ns string) {
	w.Helper()
	file, err := os.Open(w.ns(ns))
	if err != nil {
		w.Fatal(err)
	}
	defer file.Close()
	c, err := filterAt(int(file.Fd()))
	if err != nil {
		w.Fatal(err)
	}
	defer c.CloseLasting()
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		w.Fatal(err)
	}
}

// masquerade has a guest give what it forwards its own address, as a virtual appliance does.
func (w *world) masquerade(ns string) {
	w.Helper()
	file, err := os.Open(w.ns(ns))
	if err != nil {
		w.Fatal(err)
	}
	defer file.Close()
	c, err := filterAt(int(file.Fd()))
	if err != nil {
		w.Fatal(err)
	}
	defer c.CloseLasting()
	t := c.AddTable(&nftables.Table{Name: "appliance", Family: nftables.TableFamilyIPv4})
	ch := c.AddChain(&nftables.Chain{Name: "out", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Masq{}}})
	if err := c.Flush(); err != nil {
		w.Fatal(err)
	}
}

func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
}

// checksum is the ones' complement sum of RFC 1071.
func checksum(words ...uint16) uint16 {
	var sum uint32
	for _, w := range words {
		sum += uint32(w)
	}
	return uint16(sum + sum>>16)
}

// ping reports whether an ICMP echo is answered.
func (w *world) ping(ns, from, to string) bool {
	w.Helper()
	var conn *net.IPConn
	err := netns.Do(w.ns(ns), func() (err error) {
		conn, err = net.DialIP("ip4:icmp", &net.IPAddr{IP: net.ParseIP(from)}, &net.IPAddr{IP: net.ParseIP(to)})
		return err
	})
	if err != nil {
		w.Fatalf("ping %s → %s: %v", ns, to, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// Another identifier each time, or conntrack would see one flow in all of them.
	id := uint16(time.Now().UnixMicro())
	echo := binary.BigEndian.AppendUint16([]byte{8, 0}, ^checksum(0x0800, id, 1))
	conn.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(echo, id), 1))
	b := make([]byte, 128)
	for {
		n, _, err := conn.ReadFromIP(b)
		if err != nil {
			return false
		}
		if n >= 8 && b[0] == 0 {
			return true
		}
	}
}

// pod gives a guest a further address, as a pod's.
func (w *world) pod(ns, address string) {
	w.Helper()
	w.in(ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address + "/32")
		if err != nil {
			return err
		}
		return h.AddrReplace(lo, a)
	})
}

// udp sends a datagram and reports whether it came back.
func (w *world) udp(ns, from, to string) bool {
	w.Helper()
	var conn net.Conn
	err := netns.Do(w.ns(ns), func() error {
		d := net.Dialer{FallbackDelay: -1}
		if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		var err error
		conn, err = d.Dial("udp", to)
		return err
	})
	if err != nil {
		if errors.Is(err, syscall.ENETUNREACH) {
			return false
		}
		w.Fatalf("udp %s → %s: %v", ns, to, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(conn, "x")
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

func (w *world) listenUDP(ns, address string) {
	w.Helper()
	c, err := netns.ListenPacket(w.ns(ns), "udp", address)
	if err != nil {
		w.Fatalf("listen on %s in %s: %v", address, ns, err)
	}
	w.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
}

// Shorthands of a Config.

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ips(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, ip(s))
	}
	return all
}

func cidr(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// vnet is a network of one /16 with the subnets "nodes" (.1), "services" (.2) and no guests.
func vnet(id, prefix string) Network {
	return Network{
		ID: id, Prefixes: cidr(prefix + ".0.0/16"),
		Subnets: []Subnet{
			{Name: "nodes", Prefix: cidr(prefix + ".1.0/24")[0]},
			{Name: "services", Prefix: cidr(prefix + ".2.0/24")[0]},
		},
	}
}

// node is the number-th node of a network in its subnet "nodes", with a pod.
func node(n Network, number int) NIC {
	base := strings.TrimSuffix(n.Subnets[0].Prefix.Addr().String(), "0")
	return NIC{
		ID: fmt.Sprintf("%s-nic%d", n.ID, number), Subnet: "nodes", Interface: "eth0",
		Address: ip(base + fmt.Sprint(3+number)), Secondary: ips(base + fmt.Sprint(100+number)),
		Guest: Guest{Name: fmt.Sprintf("node-%s-%d", n.ID, number), UIDBase: uint32(1 << 24 * (number + int(n.ID[len(n.ID)-1])%7*16)), UIDCount: 1 << 24},
	}
}

func jumpBox(n Network, name, address string) NIC {
	return NIC{ID: n.ID + "-" + name, Subnet: "nodes", Interface: "eth0", Address: ip(address), Guest: Guest{Name: "jump-" + n.ID + name}}
}

func addr(b [4]byte) string { return netip.AddrFrom4(b).String() }

func (w *world) counters() Counters {
	w.Helper()
	c, err := w.Counters(context.Background())
	if err != nil {
		w.Fatalf("counters: %v", err)
	}
	return c
}

func (w *world) route(ns, dst, dev string) {
	w.Helper()
	w.in(ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{Dst: ipNet(cidr(dst)[0]), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
}

// ipv6 turns IPv6 on, as a guest's root can, with an address and a default route.
func (w *world) ipv6(ns, dev, address string) {
	w.Helper()
	w.in(ns, func(h *netlink.Handle) error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6", []byte("0"), 0o644); err != nil {
			return err
		}
		l, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address + "/64")
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := h.AddrReplace(l, a); err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{Dst: ipNet(cidr("::/0")[0]), LinkIndex: l.Attrs().Index})
	})
}

func (w *world) neighbour(ns, dev, address, mac string) {
	w.Helper()
	w.in(ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		m, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(address), HardwareAddr: m})
	})
}
