package projection

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/provider/network/routetables/routes"
	"github.com/cloister-dev/cloister/internal/provider/network/vnetpeering"
)

// publicAddresses are the addresses behind references to public IP addresses, for the network. A reference to what is
// not there grants nothing, and an address leads to one network: the first that names it.
func (b *builder) publicAddresses(n *fabric.Network, refs ...documents.Ref) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, r := range refs {
		stored, ok := b.docs.Find(r.ID)
		if !ok {
			continue
		}
		doc, err := documents.Decode[publicIPAddress](stored)
		if err != nil {
			return nil, err
		}
		a, err := parseAddr(doc.Properties.IPAddress, stored.ID)
		if err != nil {
			return nil, err
		}
		if owner, claimed := b.claimed[a]; !claimed || owner == n.ID {
			b.claimed[a] = n.ID
			out = append(out, a)
		}
	}
	return out, nil
}

// natGateway is a subnet's, nil without one. One that is going away no longer lets anything out.
func (b *builder) natGateway(gateway *documents.Ref, n *fabric.Network) (*fabric.NATGateway, error) {
	if gateway == nil || gateway.ID.IsZero() {
		return nil, nil
	}
	stored, ok := b.docs.Find(gateway.ID)
	if !ok {
		return &fabric.NATGateway{}, nil
	}
	doc, err := documents.Decode[natGateway](stored)
	if err != nil {
		return nil, err
	}
	addresses, err := b.publicAddresses(n, doc.Properties.PublicIPAddresses...)
	return &fabric.NATGateway{Addresses: addresses}, err
}

// routes are those of a route table; nil without one.
func (b *builder) routes(table *documents.Ref) ([]fabric.Route, error) {
	if table == nil || table.ID.IsZero() {
		return nil, nil
	}
	out := []fabric.Route{}
	for _, r := range b.docs.Under(table.ID, routes.Name) {
		doc, err := documents.Decode[routes.Model](r)
		if err != nil {
			return nil, err
		}
		p := doc.Properties
		prefix, err := netip.ParsePrefix(p.AddressPrefix)
		if err != nil {
			return nil, fmt.Errorf("read document %s: %w", r.ID, err)
		}
		route := fabric.Route{Prefix: prefix.Masked(), Hop: fabric.Hop(p.NextHopType)}
		if p.NextHopType == routes.VirtualAppliance {
			if route.Appliance, err = parseAddr(p.NextHopIPAddress, r.ID); err != nil {
				return nil, err
			}
		}
		if !slices.ContainsFunc(out, func(o fabric.Route) bool { return o.Prefix == route.Prefix }) {
			out = append(out, route)
		}
	}
	slices.SortFunc(out, func(a, c fabric.Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(c.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), c.Prefix.Bits()))
	})
	return out, nil
}

// waysOut adds to the NIC what its IP configuration with the address gives it: a public address of its own, and
// the outbound rules of the load balancers that it is behind.
func (b *builder) waysOut(nic *fabric.NIC, n *fabric.Network, private netip.Addr, public *documents.Ref, pools []documents.Ref) error {
	if public != nil {
		addresses, err := b.publicAddresses(n, *public)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			nic.Public = append(nic.Public, fabric.PublicAddress{Private: private, Public: a})
		}
	}
	for _, pool := range pools {
		balancer, ok := pool.ID.Parent()
		if !ok {
			continue
		}
		stored, ok := b.docs.Find(balancer)
		if !ok {
			continue
		}
		doc, err := documents.Decode[loadBalancer](stored)
		if err != nil {
			return err
		}
		nic.Balanced = true
		for _, rule := range doc.Properties.OutboundRules {
			if !rule.Properties.BackendAddressPool.ID.Equal(pool.ID) {
				continue
			}
			addresses, err := b.publicAddresses(n, doc.public(rule.Properties.FrontendIPConfigurations)...)
			if err != nil {
				return err
			}
			protocol := rule.Properties.Protocol
			if protocol == "All" {
				protocol = "*"
			}
			nic.Outbound = append(nic.Outbound, fabric.OutboundRule{Protocol: protocol, Addresses: addresses})
		}
	}
	return nil
}

// public are the public IP addresses of the load balancer's frontends.
func (l loadBalancer) public(frontends []documents.Ref) (out []documents.Ref) {
	for _, wanted := range frontends {
		for _, f := range l.Properties.FrontendIPConfigurations {
			if f.ID.Equal(wanted.ID) && f.Properties.PublicIPAddress != nil {
				out = append(out, *f.Properties.PublicIPAddress)
			}
		}
	}
	return out
}

// peers joins the network to those that it names and that name it. Networks whose addresses overlap are never joined.
func (b *builder) peers(id resourceid.ID, n *fabric.Network) error {
	joins, err := vnetpeering.Of(context.Background(), b.docs, id)
	if err != nil {
		return err
	}
	mine, err := vnetpeering.Space(context.Background(), b.docs, id)
	if err != nil {
		return err
	}
	for _, j := range joins {
		_, _, overlap := vnetpeering.Overlap(mine, j.RemoteSpace)
		if !j.Connected || overlap || !b.docs.Has(j.Remote) || j.Remote.Equal(id) {
			continue
		}
		p := fabric.Peer{ID: NetworkID(j.Remote), Tagged: j.Access, Forwarded: j.Forwarded}
		if slices.ContainsFunc(n.Peers, func(q fabric.Peer) bool { return q.ID == p.ID }) {
			continue
		}
		for _, s := range j.RemoteSpace {
			prefix, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("read document %s: %w", j.Remote, err)
			}
			p.Prefixes = append(p.Prefixes, prefix.Masked())
		}
		n.Peers = append(n.Peers, p)
	}
	return nil
}

// The views of this file's documents.

type publicIPAddress struct {
	Properties struct {
		IPAddress string `json:"ipAddress"`
	} `json:"properties"`
}

type natGateway struct {
	Properties struct {
		PublicIPAddresses []documents.Ref `json:"publicIpAddresses"`
	} `json:"properties"`
}

type loadBalancer struct {
	Properties struct {
		FrontendIPConfigurations []struct {
			ID         resourceid.ID `json:"id"`
			Properties struct {
				PublicIPAddress *documents.Ref `json:"publicIPAddress"`
			} `json:"properties"`
		} `json:"frontendIPConfigurations"`
		OutboundRules []struct {
			Properties struct {
				FrontendIPConfigurations []documents.Ref `json:"frontendIPConfigurations"`
				BackendAddressPool       documents.Ref   `json:"backendAddressPool"`
				Protocol                 string          `json:"protocol"`
			} `json:"properties"`
		} `json:"outboundRules"`
	} `json:"properties"`
}
