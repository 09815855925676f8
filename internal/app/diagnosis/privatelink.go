package diagnosis

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints"
	"github.com/cloister-dev/cloister/internal/provider/network/vnetpeering"
)

// host is a name that a service is found by in a VNet.
type host struct {
	fqdn   string
	record string       // its name in the service's private zone
	member string       // of the private endpoint; "" where no endpoint is behind the name
	want   []netip.Addr // where it is to lead; filled in from the endpoint
}

// service is what nodes reach by private names and addresses: a registry, or an API server.
type service struct {
	target resourceid.ID
	group  string // of the private endpoint
	zone   string // name of the private zone
	vnet   resourceid.ID
	dns    resolver // that the VNet's guests ask
	hosts  []host
	// linked is true when a private endpoint is behind the names; otherwise hosts say where they are to lead.
	linked bool
	// reconcile is the command that makes what is missing again, where AKS owns it; "" where the user does.
	reconcile string
	// subnet is where a private endpoint would be made.
	subnet resourceid.ID
}

// behind are the service's names with the addresses that a private endpoint gives them.
func (s service) behind(e endpointView) []host {
	hosts := slices.Clone(s.hosts)
	for i := range hosts {
		if a := e.address(hosts[i].member); a.IsValid() {
			hosts[i].want = []netip.Addr{a}
		}
	}
	return hosts
}

// mend is how a part of the service's private name and address is made again.
func (s service) mend(lines ...string) []string {
	if s.reconcile != "" {
		return []string{s.reconcile}
	}
	return lines
}

// endpointView is a private endpoint.
type endpointView struct {
	id    resourceid.ID
	model privateendpoints.Model
	state privateendpoints.State
}

func (e endpointView) target() resourceid.ID {
	for _, c := range e.model.Properties.Connections() {
		if id, err := resourceid.Parse(c.Properties.PrivateLinkServiceID); err == nil {
			return id
		}
	}
	return resourceid.ID{}
}

func (e endpointView) subnet() resourceid.ID {
	if e.model.Properties.Subnet == nil {
		return resourceid.ID{}
	}
	id, err := resourceid.Parse(e.model.Properties.Subnet.ID)
	if err != nil {
		return resourceid.ID{}
	}
	return id
}

func (e endpointView) vnet() resourceid.ID {
	vnet, _ := e.subnet().Parent()
	return vnet
}

func (e endpointView) members() []privateendpoints.Member {
	if e.model.Cloister == nil {
		return nil
	}
	return e.model.Cloister.Members
}

// address is that of a member; invalid when it has none.
func (e endpointView) address(member string) netip.Addr {
	for _, m := range e.members() {
		if m.Name == member {
			a, _ := netip.ParseAddr(m.Address)
			return a
		}
	}
	return netip.Addr{}
}

func (w *world) endpoint(ctx context.Context, id resourceid.ID) (endpointView, bool) {
	e := endpointView{id: id}
	if !w.docs.Read(id, &e.model) {
		return e, false
	}
	state, err := privateendpoints.ConnectionState(ctx, w.docs, &e.model)
	if err != nil {
		return e, false
	}
	e.state = state
	return e, true
}

// endpointsTo are the private endpoints to a resource from a VNet and its peers, those that carry packets first.
func (w *world) endpointsTo(ctx context.Context, target, vnet resourceid.ID) []endpointView {
	near := w.reachable(ctx, vnet)
	var approved, others []endpointView
	for _, r := range w.docs.Of(endpointType) {
		e, ok := w.endpoint(ctx, r.ID)
		if !ok || !e.target().Equal(target) || !slices.ContainsFunc(near, e.vnet().Equal) {
			continue
		}
		if e.state.Status == privateendpoints.Approved && !r.Deleting {
			approved = append(approved, e)
		} else {
			others = append(others, e)
		}
	}
	return append(approved, others...)
}

// reachable are a VNet and those that are peered with it and let it in.
func (w *world) reachable(ctx context.Context, vnet resourceid.ID) []resourceid.ID {
	out := []resourceid.ID{vnet}
	peerings, err := vnetpeering.Of(ctx, w.docs, vnet)
	if err != nil {
		return out // a document that cannot be read joins nothing
	}
	for _, p := range peerings {
		if p.Connected && p.Access {
			out = append(out, p.Remote)
		}
	}
	return out
}

// zoneView is a private zone as one VNet sees it.
type zoneView struct {
	id     resourceid.ID
	linked bool
}

// zoneFor is the private zone of that name which the VNet is linked to, or else the one that most likely was meant.
func (w *world) zoneFor(name string, vnet, near resourceid.ID) (zoneView, bool) {
	var found []zoneView
	for _, r := range w.docs.Of(zoneType) {
		if !strings.EqualFold(r.ID.Name(), name) || r.Deleting {
			continue
		}
		z := zoneView{id: r.ID, linked: slices.ContainsFunc(w.linksOf(r.ID), vnet.Equal)}
		if z.linked {
			return z, true
		}
		if strings.EqualFold(r.ID.ResourceGroup(), near.ResourceGroup()) {
			found = slices.Insert(found, 0, z)
		} else {
			found = append(found, z)
		}
	}
	if len(found) == 0 {
		return zoneView{}, false
	}
	return found[0], true
}

// linksOf are the VNets that a zone is linked to.
func (w *world) linksOf(zone resourceid.ID) []resourceid.ID {
	var out []resourceid.ID
	for _, l := range w.docs.Under(zone, zoneLinkType) {
		var doc struct {
			Properties struct{ VirtualNetwork documents.Ref }
		}
		if !l.Deleting && w.docs.Read(l.ID, &doc) {
			out = append(out, doc.Properties.VirtualNetwork.ID)
		}
	}
	return out
}

// records are the addresses of a record set; false when there is no such set.
func (w *world) records(zone resourceid.ID, name string) ([]netip.Addr, bool) {
	var doc struct {
		Properties struct {
			ARecords []struct{ IPv4Address string }
		}
	}
	if !w.docs.Read(zone.Child("A", name), &doc) {
		return nil, false
	}
	var out []netip.Addr
	for _, a := range doc.Properties.ARecords {
		if address, err := netip.ParseAddr(a.IPv4Address); err == nil {
			out = append(out, address)
		}
	}
	return out, true
}

// names follows a service's names to its addresses in the VNet, and then what stands on them: the documents say where the
// hosts are to lead, so that it need not wait for what the names lead to. usable is false when no packet can come to the
// service yet.
func (w *world) names(ctx context.Context, c *chain, s service, then func(c *chain, hosts []host, usable bool)) {
	var of endpointView
	if s.linked {
		if all := w.endpointsTo(ctx, s.target, s.vnet); len(all) > 0 {
			of = all[0]
		}
	}
	w.namesBehind(ctx, c, s, of, then)
}

// namesBehind is names with the private endpoint that is behind them; a zero view when there is none.
func (w *world) namesBehind(ctx context.Context, c *chain, s service, of endpointView, then func(c *chain, hosts []host, usable bool)) {
	hosts := s.behind(of)
	c.together(
		func(c *chain) { w.resolve(ctx, c, s, hosts) },
		func(c *chain) {
			zone, zoned := w.zoneFor(s.zone, s.dns.sees, s.target)
			w.zone(c, s, zone, zoned)
			for _, h := range hosts {
				w.record(c, s, h, zone, zoned)
			}
			then(c, hosts, !s.linked || w.connection(c, s, of))
		},
	)
}

// onlyNames is for names that nothing is said to stand on.
func onlyNames(*chain, []host, bool) {}

// resolve asks for the names as a node does.
func (w *world) resolve(ctx context.Context, c *chain, s service, hosts []host) {
	if len(hosts) > 0 && s.dns.own() && !w.nameserver(ctx, c, s.dns, hosts[0].fqdn) {
		for _, h := range hosts {
			c.unknown(linkName, h.fqdn, "nobody could be asked for it")
		}
		return
	}
	each(c, hosts, func(c *chain, h host) {
		answer, err := w.lookup(ctx, s.dns, h.fqdn)
		saw := strings.Join(append(slices.Clone(answer.Aliases), addresses(answer.Addresses)), " → ")
		switch {
		case err != nil:
			c.broken(linkName, h.fqdn, nil, "%s does not answer: %v", s.dns, err)
		case answer.Missing:
			c.broken(linkName, h.fqdn, nil, "%s answers: the name does not exist (NXDOMAIN)%s", s.dns, over(answer.Aliases))
		case len(answer.Addresses) == 0:
			c.broken(linkName, h.fqdn, nil, "%s answers: %s, no address", s.dns, answer.Code)
		case len(h.want) > 0 && !slices.ContainsFunc(answer.Addresses, func(a netip.Addr) bool { return slices.Contains(h.want, a) }):
			c.broken(linkName, h.fqdn, nil, "it leads to %s, and %s's private address is %s", saw, s.target.Name(), addresses(h.want))
		case len(h.want) == 0 && s.linked:
			c.broken(linkName, h.fqdn, nil, "it leads to %s, which is no address of this virtual network", saw)
		default:
			c.fine(linkName, h.fqdn, "%s", saw)
		}
	})
}

func over(aliases []string) string {
	if len(aliases) == 0 {
		return ""
	}
	return ", asked by way of " + strings.Join(aliases, " → ")
}

// zone looks for the private zone and its link.
func (w *world) zone(c *chain, s service, zone zoneView, zoned bool) {
	group := s.target.ResourceGroup()
	if !zoned {
		c.broken(linkZone, s.zone, s.mend(az("network", "private-dns", "zone", "create", "-g", group, "-n", s.zone)), "there is no private DNS zone of this name")
	} else {
		group = zone.id.ResourceGroup()
		c.fine(linkZone, zone.id.String(), "the zone is there, in resource group %s", group)
	}
	sees := s.dns.sees
	if sees.IsZero() {
		c.broken(linkLink, s.zone, nil, "DNS server %s is in no virtual network that VNet %s reaches: it knows no private zone. One that forwards to %s from a network that is linked to the zone does", s.dns.servers[0], s.vnet.Name(), bootstrap.AzureDNS)
		return
	}
	if zone.linked {
		c.fine(linkLink, zone.id.String(), "%s is linked to it", s.dns.place())
		return
	}
	mend := []string{az("network", "private-dns", "link", "vnet", "create", "-g", group, "--zone-name", s.zone, "-n", sees.Name()+"-link", "--virtual-network", sees.String(), "--registration-enabled", "false")}
	if !s.dns.own() || !zoned { // AKS links the nodes' network, once it has made the zone
		mend = s.mend(mend...)
	}
	if !zoned {
		c.broken(linkLink, s.zone, mend, "without the zone %s is not linked to it", s.dns.place())
		return
	}
	c.broken(linkLink, zone.id.String(), mend, "%s is not linked to the zone: names in it resolve as they do on the Internet", s.dns.place())
}

// record compares a name's record with where it is to lead.
func (w *world) record(c *chain, s service, h host, zone zoneView, zoned bool) {
	group, subject := s.target.ResourceGroup(), h.record+"."+s.zone
	var have []netip.Addr
	if zoned {
		group = zone.id.ResourceGroup()
		have, _ = w.records(zone.id, h.record)
	}
	set := []string{"-g", group, "--zone-name", s.zone, "--record-set-name", h.record, "--ipv4-address"}
	line := func(verb string, a netip.Addr) string {
		return az(slices.Concat([]string{"network", "private-dns", "record-set", "a", verb}, set, []string{a.String()})...)
	}
	var mend []string
	for _, a := range h.want {
		if !slices.Contains(have, a) {
			mend = append(mend, line("add-record", a))
		}
	}
	if len(h.want) == 0 { // its address is known once the endpoint is there, which can tell it to the zone itself
		mend = []string{az("network", "private-endpoint", "dns-zone-group", "create", "-g", s.target.ResourceGroup(), "--endpoint-name", s.endpointName(), "-n", "default",
			"--zone-name", zoneGroupName, "--private-dns-zone", s.zoneID(zone, zoned).String())}
	}
	var wrong []netip.Addr
	for _, a := range have {
		if len(h.want) > 0 && !slices.Contains(h.want, a) {
			wrong = append(wrong, a)
			mend = append(mend, line("remove-record", a))
		}
	}
	switch {
	case len(have) == 0:
		c.broken(linkRecord, subject, s.mend(mend...), "there is no A record%s", privateAddress(h.want))
	case len(wrong) > 0:
		c.broken(linkRecord, subject, s.mend(mend...), "the A record is %s%s", addresses(have), privateAddress(h.want))
	case len(h.want) == 0:
		c.unknown(linkRecord, subject, "the A record is %s; which address is right is known once a private endpoint is there", addresses(have))
	default:
		c.fine(linkRecord, subject, "A %s", addresses(have))
	}
}

// zoneGroupName is what a DNS zone group that is suggested calls its zone.
const zoneGroupName = "zone"

func privateAddress(want []netip.Addr) string {
	if len(want) == 0 {
		return ""
	}
	return "; the private address is " + addresses(want)
}

// endpointName is what a private endpoint that is suggested is called.
func (s service) endpointName() string { return s.target.Name() + "-endpoint" }

// zoneID is the zone's, or that of the zone that is suggested.
func (s service) zoneID(zone zoneView, zoned bool) resourceid.ID {
	if zoned {
		return zone.id
	}
	return s.target.GroupID().Resource(zoneType, s.zone)
}

// connection looks at the private endpoint and whether its owner lets it in.
func (w *world) connection(c *chain, s service, e endpointView) (usable bool) {
	if e.id.IsZero() {
		c.broken(linkEndpoint, s.target.String(), s.mend(w.makeEndpoint(s)), "no private endpoint in VNet %s leads to it", s.vnet.Name())
		c.unknown(linkApproval, s.target.String(), "there is no connection to approve")
		return false
	}
	c.fine(linkEndpoint, e.id.String(), "private endpoint %s in subnet %s%s", e.id.Name(), e.subnet().Name(), inNetwork(e, s.vnet))
	subject := e.id.String()
	switch e.state.Status {
	case privateendpoints.Approved:
		c.fine(linkApproval, subject, "its connection is Approved")
		return true
	case privateendpoints.Pending:
		c.broken(linkApproval, subject, s.mend(w.approve(s, e)), "its connection is Pending: nobody with the right to has approved it on %s", s.target.Name())
	default:
		// A connection that was rejected or removed stays so: only a new endpoint asks anew.
		c.broken(linkApproval, subject, s.mend(
			az("network", "private-endpoint", "delete", "-g", e.id.ResourceGroup(), "-n", e.id.Name()),
			w.endpointLine(s, e.id.ResourceGroup(), e.id.Name(), e.subnet()),
		), "its connection is %s: it carries nothing any more, and only a private endpoint made anew can", e.state.Status)
	}
	return false
}

func inNetwork(e endpointView, vnet resourceid.ID) string {
	if e.vnet().Equal(vnet) {
		return ""
	}
	return " of the peered VNet " + e.vnet().Name()
}

// makeEndpoint makes a private endpoint where the page makes one: in a subnet of the VNet that is not the nodes', if there is one.
func (w *world) makeEndpoint(s service) string {
	return w.endpointLine(s, s.target.ResourceGroup(), s.endpointName(), s.subnet)
}

func (w *world) endpointLine(s service, group, name string, subnet resourceid.ID) string {
	return az("network", "private-endpoint", "create", "-g", group, "-n", name, "--subnet", subnet.String(),
		"--private-connection-resource-id", s.target.String(), "--group-id", s.group, "--connection-name", name)
}

// approve is how the owner lets a connection in.
func (w *world) approve(s service, e endpointView) string {
	connection := ""
	if e.model.Cloister != nil {
		if id, err := resourceid.Parse(e.model.Cloister.Connection); err == nil {
			connection = id.Name()
		}
	}
	return az("acr", "private-endpoint-connection", "approve", "-g", s.target.ResourceGroup(), "-r", s.target.Name(), "-n", connection)
}

// endpointSubnet is a subnet of the VNet for private endpoints: the first that is nobody's, or else the nodes'.
func (w *world) endpointSubnet(vnet, nodes resourceid.ID) resourceid.ID {
	for _, r := range w.docs.Under(vnet, "Microsoft.Network/virtualNetworks/subnets") {
		var doc struct {
			Properties struct{ Delegations []any }
		}
		if !r.ID.Equal(nodes) && w.docs.Read(r.ID, &doc) && len(doc.Properties.Delegations) == 0 {
			return r.ID
		}
	}
	return nodes
}
