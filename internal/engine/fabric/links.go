package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

const mtu = 1500

// ensureLink makes the pair if it is not there or was left half made. The mark is set last.
func ensureLink(l link, a, b *openSpace) error {
	if whole(l, a, b) {
		return errors.Join(a.ensureUp(l.a), b.ensureUp(l.b), b.ensureAddress(l.b))
	}
	for _, old := range []struct {
		*openSpace
		name string
	}{{a, l.a.name}, {b, l.b.name}} {
		// Seldom, and what is seen must be what is there: an end may have gone with its other end.
		if old.links[old.name] == nil {
			continue
		}
		err := old.do("remove link "+old.name+" in "+old.openSpace.name, func() error { return old.route.LinkDel(old.links[old.name]) })
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the old %s: %w", old.name, err)
		}
		delete(old.links, old.name)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = l.a.name, mtu, l.a.mac
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = l.b.name, l.b.mac, mtu
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = 1, 1
	veth.PeerNamespace = netlink.NsFd(b.fd())
	if err := a.do("make link "+l.a.name+" in "+a.name, func() error { return a.route.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("make the pair: %w", err)
	}
	for _, e := range []struct {
		*openSpace
		end
	}{{a, l.a}, {b, l.b}} {
		made, err := dump(func() (netlink.Link, error) { return e.route.LinkByName(e.end.name) })
		if err != nil {
			return fmt.Errorf("find %s: %w", e.end.name, err)
		}
		e.links[e.end.name] = made
		if err := e.configure(e.end); err != nil {
			return err
		}
	}
	a.made = append(a.made, l.a.name)
	return a.do("mark link "+l.a.name+" in "+a.name, func() error {
		return a.route.LinkSetAlias(a.links[l.a.name], l.mark())
	})
}

// carrierPatience bounds the wait for new links to pass packets.
const carrierPatience = 2 * time.Second

// awaitCarrier waits until the first ends of new links pass packets. The kernel activates the end that was set up before
// its peer in a work queue, and drops what is sent until then: the first ARP answer, and a guest asks again only after a second.
func (o *openSpace) awaitCarrier(ctx context.Context) error {
	if len(o.made) == 0 {
		return nil
	}
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	if err := netlink.LinkSubscribeAt(vnetns.NsHandle(o.fd()), updates, done); err != nil {
		return fmt.Errorf("subscribe to links: %w", err)
	}
	defer func() {
		close(done)
		go func() { // until the subscription has ended: it may be about to send
			for range updates {
			}
		}()
	}()
	if err := o.look(); err != nil {
		return err
	}
	pending := map[string]bool{}
	for _, name := range o.made {
		if l := o.links[name]; l != nil && l.Attrs().OperState != netlink.OperUp {
			pending[name] = true
		}
	}
	timeout := time.NewTimer(carrierPatience)
	defer timeout.Stop()
	for len(pending) > 0 {
		select {
		case u, ok := <-updates:
			if !ok {
				return nil // too much was to be told; packets get through in a moment all the same
			}
			if u.Attrs().OperState == netlink.OperUp {
				delete(pending, u.Attrs().Name)
			}
		case <-timeout.C:
			return nil // the guest may have set its end down
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// whole reports whether the pair is there, finished, as planned, and its other end is where it should be.
func whole(l link, a, b *openSpace) bool {
	first, second := a.links[l.a.name], b.links[l.b.name]
	return first != nil && second != nil && first.Attrs().Alias == l.mark() &&
		second.Attrs().ParentIndex == first.Attrs().Index && first.Attrs().ParentIndex == second.Attrs().Index
}

// configure sets up one end of a new pair.
func (o *openSpace) configure(e end) error {
	flag := func(on bool) string {
		if on {
			return "1"
		}
		return "0"
	}
	values := []setting{
		{"net/ipv4/conf/" + e.name + "/rp_filter", "0"},
		{"net/ipv4/conf/" + e.name + "/send_redirects", "0"},
		{"net/ipv4/conf/" + e.name + "/proxy_arp", flag(e.proxyARP)},
		{"net/ipv6/conf/" + e.name + "/accept_ra", "0"},
		{"net/ipv6/conf/" + e.name + "/addr_gen_mode", "1"},
		{"net/ipv6/conf/" + e.name + "/disable_ipv6", flag(!e.ipv6)},
	}
	if e.proxyARP {
		// Its default delays every first answer by up to 0.8 seconds.
		values = append(values, setting{"net/ipv4/neigh/" + e.name + "/proxy_delay", "0"})
	}
	if err := o.sysctls(values...); err != nil {
		return err
	}
	l := o.links[e.name]
	if !e.arp {
		if err := o.do("set "+e.name+" without ARP in "+o.name, func() error { return o.route.LinkSetARPOff(l) }); err != nil {
			return fmt.Errorf("set %s without ARP: %w", e.name, err)
		}
	}
	if err := o.do("set up "+e.name+" in "+o.name, func() error { return o.route.LinkSetUp(l) }); err != nil {
		return fmt.Errorf("set up %s: %w", e.name, err)
	}
	if e.peer.IsValid() {
		neighbour := netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IP(e.peer.AsSlice()), HardwareAddr: e.peerMAC}
		if err := o.do("neighbour "+e.peer.String()+" in "+o.name, func() error { return o.route.NeighSet(&neighbour) }); err != nil {
			return fmt.Errorf("make %s known: %w", e.peer, err)
		}
	}
	return o.ensureAddress(e)
}

// ensureUp puts back a link that was set down.
func (o *openSpace) ensureUp(e end) error {
	l := o.links[e.name]
	if l.Attrs().Flags&unix.IFF_UP != 0 {
		return nil
	}
	return o.do("set up "+e.name+" in "+o.name, func() error { return o.route.LinkSetUp(l) })
}

func (o *openSpace) ensureAddress(e end) error {
	if !e.address.IsValid() {
		return nil
	}
	l := o.links[e.name]
	have, err := dump(func() ([]netlink.Addr, error) { return o.route.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", e.name, err)
	}
	want := ipNet(e.address)
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			return nil
		}
	}
	err = o.do("add address "+want.String()+" in "+o.name, func() error {
		return o.route.AddrReplace(l, &netlink.Addr{IPNet: want})
	})
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", want, e.name, err)
	}
	return nil
}

// setting is a file below /proc/sys and what it is to hold.
type setting struct{ name, value string }

// sysctls writes what is not already so, in the namespace. /proc/sys/net shows the settings of the thread that opens it.
func (o *openSpace) sysctls(values ...setting) error {
	if len(values) == 0 {
		return nil
	}
	return netns.Do(o.path, func() error {
		for _, v := range values {
			path := filepath.Join("/proc/sys", v.name)
			have, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(v.name, "net/ipv6/") {
				continue // a kernel without IPv6 has nothing to turn off
			}
			if err != nil {
				return fmt.Errorf("sysctl: %w", err)
			}
			if strings.TrimSpace(string(have)) == v.value {
				continue
			}
			if err := o.do("sysctl "+v.name+" in "+o.name, func() error { return os.WriteFile(path, []byte(v.value), 0o644) }); err != nil {
				return fmt.Errorf("sysctl %s = %s: %w", v.name, v.value, err)
			}
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
