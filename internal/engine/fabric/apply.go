package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// openSpace is a namespace of the plan with the sockets to change it.
type openSpace struct {
	space
	path  string
	file  *os.File
	route *netlink.Handle
	links map[string]netlink.Link // by name, as they were at the last look
	made  []string                // links made by this apply, first ends
	step  func(string) error
}

// apply makes the plan so. A namespace's rules come before its links and before it forwards, so that there is no
// moment in which something passes that is not granted. What fails is left out and told at the end: a guest has the say
// in its own namespace, and must not be able to stop the others' changes.
func (f *Fabric) apply(ctx context.Context, p plan) error {
	var errs []error
	open := map[string]*openSpace{}
	defer func() {
		for _, s := range open {
			s.close()
		}
	}()
	wanted := map[string]bool{}
	for _, s := range p.spaces {
		if err := ctx.Err(); err != nil {
			return err
		}
		wanted[s.name] = true
		o, err := f.open(s)
		if err == nil {
			if err = o.prepare(); err != nil {
				o.close()
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("namespace %s: %w", s.name, err))
			continue
		}
		open[s.name] = o
	}
	kept := map[[2]string]bool{}
	for _, l := range p.links {
		if err := ctx.Err(); err != nil {
			return err
		}
		kept[[2]string{l.a.space, l.a.name}], kept[[2]string{l.b.space, l.b.name}] = true, true
		a, b := open[l.a.space], open[l.b.space]
		if a == nil || b == nil {
			continue
		}
		if err := ensureLink(l, a, b); err != nil {
			errs = append(errs, fmt.Errorf("link %s in %s to %s in %s: %w", l.a.name, l.a.space, l.b.name, l.b.space, err))
		}
	}
	each := func(fn func(*openSpace) error) {
		for _, s := range p.spaces {
			if o := open[s.name]; o != nil {
				if err := fn(o); err != nil {
					errs = append(errs, fmt.Errorf("namespace %s: %w", s.name, err))
				}
			}
		}
	}
	each((*openSpace).ensureRoutes)
	each(func(o *openSpace) error { return o.awaitCarrier(ctx) })
	// From here on only what is not wanted any more.
	each(func(o *openSpace) error {
		if o.guest {
			return nil
		}
		return o.prune(func(link string) bool { return kept[[2]string{o.name, link}] })
	})
	pinned, err := f.pinned()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	stale := slices.DeleteFunc(pinned, func(name string) bool { return wanted[name] })
	return errors.Join(append(errs, f.removeAll(ctx, stale))...)
}

// open makes the namespace if it is not there.
func (f *Fabric) open(s space) (*openSpace, error) {
	o := &openSpace{space: s, path: f.layout.NetNS(s.name), step: f.step}
	user := f.layout.UserNS(s.name)
	if netns.Is(o.path) {
		owner, err := ownerOf(o.path)
		if err != nil {
			return nil, err
		}
		// A namespace cannot change hands, nor a user namespace its map.
		if owner != s.ids.Base {
			if err := f.remove(s.name); err != nil {
				return nil, err
			}
		}
	}
	if s.ids.Count > 0 {
		if !userns.Is(user, o.path) {
			if err := f.step("make namespaces " + s.name); err != nil {
				return nil, err
			}
			if err := userns.Create(user, o.path, s.ids); err != nil {
				return nil, err
			}
		}
	} else if !netns.Is(o.path) {
		if err := f.step("make namespace " + s.name); err != nil {
			return nil, err
		}
		if err := netns.Create(o.path); err != nil {
			return nil, err
		}
	}
	var err error
	if o.file, err = os.Open(o.path); err != nil {
		return nil, err
	}
	err = netns.Do(o.path, func() error {
		o.route, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		o.close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return o, nil
}

// ownerOf is the host's id of the root of the user namespace that a network namespace belongs to: the kernel shows its
// sysctls as that user's.
func ownerOf(path string) (owner uint32, err error) {
	err = netns.Do(path, func() error {
		var st unix.Stat_t
		if err := unix.Stat("/proc/sys/net/ipv4/ip_forward", &st); err != nil {
			return fmt.Errorf("owner of %s: %w", path, err)
		}
		owner = st.Uid
		return nil
	})
	return owner, err
}

func (o *openSpace) close() {
	if o.route != nil {
		o.route.Close()
	}
	o.file.Close()
}

func (o *openSpace) fd() int { return int(o.file.Fd()) }

// prepare sets what is the whole namespace's: rules, then sysctls, then loopback.
func (o *openSpace) prepare() error {
	if o.rules != nil {
		if err := o.ensureRules(); err != nil {
			return fmt.Errorf("packet filter: %w", err)
		}
	}
	if err := o.look(); err != nil {
		return err
	}
	forwarding := "0"
	if o.forward {
		forwarding = "1"
	}
	// A new namespace inherits the host's IPv4 settings, whatever they are. "all" and an interface's own are
	// combined by or, so "all" must be off for the interface to decide.
	values := []setting{
		{"net/ipv4/ip_forward", forwarding},
		{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv4/conf/all/proxy_arp", "0"}, {"net/ipv4/conf/default/proxy_arp", "0"},
	}
	if o.guest {
		// Guests set up what runs in them as they like, once they have come into being.
		if _, made := o.links["lo"]; made && o.links["lo"].Attrs().Flags&unix.IFF_UP != 0 {
			values = nil
		}
	} else {
		values = append(values,
			setting{"net/ipv6/conf/all/forwarding", "0"},
			setting{"net/ipv6/conf/default/accept_ra", "0"}, setting{"net/ipv6/conf/default/addr_gen_mode", "1"})
	}
	if err := o.sysctls(values...); err != nil {
		return err
	}
	return o.ensureLoopback()
}

// dump lists again what changed while it was being listed, as guests may do at any time.
func dump[T any](list func() (T, error)) (result T, err error) {
	for range 20 {
		if result, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return result, err
}

// look reads the links that are there.
func (o *openSpace) look() error {
	list, err := dump(o.route.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	o.links = make(map[string]netlink.Link, len(list))
	for _, l := range list {
		o.links[l.Attrs().Name] = l
	}
	return nil
}

func (o *openSpace) ensureLoopback() error {
	lo := o.links["lo"]
	if lo.Attrs().Flags&unix.IFF_UP == 0 {
		if err := o.do("set up loopback of "+o.name, func() error { return o.route.LinkSetUp(lo) }); err != nil {
			return err
		}
	}
	if o.guest {
		return nil
	}
	have, err := dump(func() ([]netlink.Addr, error) { return o.route.AddrList(lo, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of loopback: %w", err)
	}
	stale := map[string]netlink.Addr{}
	for _, a := range have {
		if !a.IP.IsLoopback() {
			stale[a.IPNet.String()] = a
		}
	}
	for _, a := range o.loopback {
		n := ipNet(host(a))
		if _, ok := stale[n.String()]; ok {
			delete(stale, n.String())
			continue
		}
		err := o.do("add address "+a.String()+" in "+o.name, func() error {
			// Without this flag an IPv6 address is tentative until a work queue has been by, and cannot be bound.
			return o.route.AddrReplace(lo, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD})
		})
		if err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	for _, a := range stale {
		if err := o.do("remove address "+a.IPNet.String()+" in "+o.name, func() error { return o.route.AddrDel(lo, &a) }); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// do makes one change to the machine.
func (o *openSpace) do(change string, fn func() error) error {
	if err := o.step(change); err != nil {
		return err
	}
	return fn()
}

// prune removes the links that nothing keeps.
func (o *openSpace) prune(keep func(link string) bool) error {
	if err := o.look(); err != nil {
		return err
	}
	for name, l := range o.links {
		if name == "lo" || keep(name) {
			continue
		}
		err := o.do("remove link "+name+" in "+o.name, func() error { return o.route.LinkDel(l) })
		if err != nil && !errors.Is(err, unix.ENODEV) { // went with its other end
			return fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	return nil
}

// clearLinks removes every link of a namespace.
func clearLinks(path string) error {
	var h *netlink.Handle
	err := netns.Do(path, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return err
	}
	defer h.Close()
	list, err := dump(h.LinkList)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Attrs().Name == "lo" {
			continue
		}
		if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// filter opens the packet filter of the namespace.
func (o *openSpace) filter() (*nftables.Conn, error) { return filterAt(o.fd()) }
