package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// place is a destination in one of the kernel's routing tables.
type place struct {
	table uint32
	dst   netip.Prefix
}

// ensureRoutes adds what is missing, replaces what differs and, save in a guest, removes what is not planned. Tables are
// filled before packets are sent to them.
func (o *openSpace) ensureRoutes() error {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	if o.guest {
		filter.Table = unix.RT_TABLE_MAIN
	}
	have, err := dump(func() ([]netlink.Route, error) {
		return o.route.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	there := map[place][]netlink.Route{}
	for _, r := range have {
		if r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		dst := anywhere
		if r.Dst != nil {
			ones, _ := r.Dst.Mask.Size()
			address, _ := netip.AddrFromSlice(r.Dst.IP.To4())
			dst = netip.PrefixFrom(address, ones)
		}
		at := place{uint32(r.Table), dst}
		there[at] = append(there[at], r)
	}
	planned := map[place]bool{}
	var errs []error
	for _, t := range append([]routingTable{{unix.RT_TABLE_MAIN, o.space.routes}}, o.tables...) {
		for _, r := range t.routes {
			at := place{t.id, r.dst}
			planned[at] = true
			if err := o.ensureRoute(r, t.id, there[at]); err != nil {
				errs = append(errs, fmt.Errorf("route %s by %s: %w", r.dst, r.dev, err))
			}
		}
	}
	if o.guest {
		return errors.Join(errs...)
	}
	if err := o.ensureSteering(); err != nil {
		errs = append(errs, err)
	}
	for at, list := range there {
		if planned[at] {
			continue
		}
		for _, r := range list {
			err := o.do("remove route "+at.dst.String()+" in "+o.name, func() error { return o.route.RouteDel(&r) })
			if err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route %s: %w", at.dst, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (o *openSpace) ensureRoute(r route, table uint32, there []netlink.Route) error {
	want := netlink.Route{Dst: ipNet(r.dst), Scope: netlink.SCOPE_LINK, Table: int(table), Type: unix.RTN_UNICAST}
	if r.throw {
		want.Type, want.Scope = unix.RTN_THROW, netlink.SCOPE_UNIVERSE
	} else {
		l, ok := o.links[r.dev]
		if !ok {
			return errors.New("the link is not there")
		}
		want.LinkIndex = l.Attrs().Index
	}
	if r.via.IsValid() {
		want.Gw, want.Scope = net.IP(r.via.AsSlice()), netlink.SCOPE_UNIVERSE
		want.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.src.IsValid() {
		want.Src = net.IP(r.src.AsSlice())
	}
	if slices.ContainsFunc(there, func(have netlink.Route) bool {
		return have.Type == want.Type && have.LinkIndex == want.LinkIndex && have.Gw.Equal(want.Gw) && have.Src.Equal(want.Src)
	}) {
		return nil
	}
	return o.do("route "+r.dst.String()+" in "+o.name, func() error { return o.route.RouteReplace(&want) })
}

// steeringPriority is that of the rules which send marked packets to their tables: after the namespace's own addresses,
// before the main table.
const steeringPriority = 100

// ensureSteering makes a rule for each table, and removes those of tables that are no more.
func (o *openSpace) ensureSteering() error {
	have, err := dump(func() ([]netlink.Rule, error) { return o.route.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	stale := map[uint32]netlink.Rule{}
	for _, r := range have {
		if r.Priority == steeringPriority {
			stale[uint32(r.Table)] = r
		}
	}
	for _, t := range o.tables {
		if r, ok := stale[t.id]; ok && r.Mark == t.id {
			delete(stale, t.id)
			continue
		}
		r := netlink.NewRule()
		r.Family, r.Priority, r.Mark, r.Table = netlink.FAMILY_V4, steeringPriority, t.id, int(t.id)
		if err := o.do(fmt.Sprintf("routing table %d in %s", t.id, o.name), func() error { return o.route.RuleAdd(r) }); err != nil {
			return fmt.Errorf("send packets to routing table %d: %w", t.id, err)
		}
	}
	for _, r := range stale {
		r.Family = netlink.FAMILY_V4
		if err := o.do(fmt.Sprintf("remove routing table %d in %s", r.Table, o.name), func() error { return o.route.RuleDel(&r) }); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the rule of routing table %d: %w", r.Table, err)
		}
	}
	return nil
}
