package diagnosis

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
)

// resolver is whom the guests of a virtual network ask for names: Azure's resolver there, or DNS servers that the network
// names to them. Those answer from the private zones that their own virtual network is linked to, if they forward at all.
type resolver struct {
	vnet    resourceid.ID // the guests'
	servers []netip.Addr  // the user's own; none: Azure's
	// sees is the virtual network whose links decide what is answered; zero for a server in none of them.
	sees resourceid.ID
	of   *cluster
	from machine // that asks; none when the servers cannot be asked
}

type networkView struct {
	Properties struct {
		AddressSpace struct{ AddressPrefixes []netip.Prefix }
		DHCPOptions  struct{ DNSServers []netip.Addr }
	}
}

// nameservers are the DNS servers that the virtual network names to machines which start now.
func nameservers(docs documents.Index, vnet resourceid.ID) []netip.Addr {
	var v networkView
	if !docs.Read(vnet, &v) {
		return nil
	}
	return v.Properties.DHCPOptions.DNSServers
}

// azureResolver is 168.63.129.16 in the virtual network.
func azureResolver(vnet resourceid.ID) resolver { return resolver{vnet: vnet, sees: vnet} }

// resolverFor is whom the node asks, or, without one, a guest that would start now.
func (w *world) resolverFor(ctx context.Context, of *cluster, from machine, vnet resourceid.ID) resolver {
	servers := nameservers(w.docs, vnet)
	if from.ID != "" {
		servers = from.Nameservers
	}
	if len(servers) == 0 || servers[0] == bootstrap.AzureDNS {
		return azureResolver(vnet)
	}
	r := resolver{vnet: vnet, servers: servers, of: of, from: from}
	for _, near := range w.reachable(ctx, vnet) {
		if w.holds(near, servers[0]) {
			r.sees = near
		}
	}
	return r
}

func (w *world) holds(vnet resourceid.ID, a netip.Addr) bool {
	var v networkView
	return w.docs.Read(vnet, &v) && slices.ContainsFunc(v.Properties.AddressSpace.AddressPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// own reports whether it is not Azure's.
func (r resolver) own() bool { return len(r.servers) > 0 }

func (r resolver) String() string {
	if !r.own() {
		return fmt.Sprintf("%s in VNet %s", bootstrap.AzureDNS, r.vnet.Name())
	}
	return "DNS server " + addresses(r.servers)
}

// place is the virtual network whose links count, in words.
func (r resolver) place() string {
	if !r.own() {
		return "VNet " + r.sees.Name()
	}
	return fmt.Sprintf("VNet %s, where DNS server %s of VNet %s is,", r.sees.Name(), r.servers[0], r.vnet.Name())
}

// lookup asks as the guests do. Without a node to ask from, the resolver is asked that such a server would forward to.
func (w *world) lookup(ctx context.Context, r resolver, name string) (answer privatedns.Answer, err error) {
	if !r.own() || r.from.ID == "" {
		return w.machine.Lookup(ctx, r.sees, name)
	}
	for _, server := range r.servers {
		if answer, err = w.machine.LookupAt(ctx, r.from.ID, server, name); err == nil {
			return answer, nil
		}
	}
	return answer, err
}

// nameserver looks whether one of the user's DNS servers answers at all. It returns false when no name can be looked up.
func (w *world) nameserver(ctx context.Context, c *chain, r resolver, name string) bool {
	first := r.servers[0]
	if r.from.ID == "" {
		if r.sees.IsZero() {
			c.unknown(linkNameserver, first.String(), "DNS server of VNet %s; there is no node to ask it from", r.vnet.Name())
		}
		return !r.sees.IsZero()
	}
	if _, err := w.lookup(ctx, r, name); err != nil {
		saw, mend := w.silent(c, r, first)
		c.broken(linkNameserver, first.String(), mend, "VNet %s names it as its DNS server, and it does not answer node %s: %s", r.vnet.Name(), r.from.Name, or(saw, err.Error()))
		return false
	}
	c.fine(linkNameserver, first.String(), "DNS server of VNet %s; it answers node %s", r.vnet.Name(), r.from.Name)
	return true
}

// silent says by the documents why a DNS server does not answer; "" when they do not tell.
func (w *world) silent(c *chain, r resolver, server netip.Addr) (saw string, mend []string) {
	g, there := w.guest(r.from)
	if !there {
		return "", nil
	}
	const domain = 53
	if refusal, refused := g.network.Refusal(g.nic.Address, server, "Udp", domain); refused {
		return w.refusal(c, r.of, g, refusal, "Udp", netip.AddrPortFrom(server, domain)), nil
	}
	if r.sees.IsZero() {
		return w.apart(r.vnet, server)
	}
	for _, doc := range w.docs.Of(nicType) {
		var nic nicView
		if w.docs.Read(doc.ID, &nic) && nic.has(server) {
			return fmt.Sprintf("network interface %s has the address, and nothing answers there on port %d. Start the server, or have the network name Azure's: %s, and reimage",
				doc.ID.Name(), domain, forgetServers(r.vnet)), nil
		}
	}
	return "nothing in VNet " + r.sees.Name() + " has the address", []string{forgetServers(r.vnet)}
}

// apart tells of a server in a network that the guests' is not joined with.
func (w *world) apart(vnet resourceid.ID, server netip.Addr) (saw string, mend []string) {
	for _, doc := range w.docs.Of(networkType) {
		if !w.holds(doc.ID, server) {
			continue
		}
		return fmt.Sprintf("it is in VNet %s, which VNet %s is not peered with", doc.ID.Name(), vnet.Name()), []string{peer(vnet, doc.ID), peer(doc.ID, vnet)}
	}
	return "no virtual network here has the address", nil
}

func peer(vnet, remote resourceid.ID) string {
	return az("network", "vnet", "peering", "create", "-g", vnet.ResourceGroup(), "--vnet-name", vnet.Name(), "-n", "to-"+strings.ToLower(remote.Name()), "--remote-vnet", remote.String(), "--allow-vnet-access", "--allow-forwarded-traffic")
}

// forgetServers has a virtual network name Azure's resolver again.
func forgetServers(vnet resourceid.ID) string {
	return az("network", "vnet", "update", "-g", vnet.ResourceGroup(), "-n", vnet.Name(), "--dns-servers", "null")
}
