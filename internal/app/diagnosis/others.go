package diagnosis

import (
	"context"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints"
)

// diagnoseEndpoint follows a private endpoint to what it leads to, and its names to it.
func (w *world) diagnoseEndpoint(ctx context.Context, id resourceid.ID) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: id.String(), Kind: "endpoint", Healthy: true}
	var c chain
	e, ok := w.endpoint(ctx, id)
	if !ok {
		d.State = "unreadable"
		return c.finish(d)
	}
	d.State = e.state.Status
	target := e.target()
	s, known := w.serviceOf(ctx, target, e)
	if !known || !w.docs.Has(target) {
		var mend []string
		if again := w.ownedBy(id); again != "" {
			mend = []string{again}
		}
		c.broken(linkEndpoint, target.String(), mend, "what it leads to does not exist")
		return c.finish(d)
	}
	w.namesBehind(ctx, &c, s, e, onlyNames)
	return c.finish(d)
}

// serviceOf is what an endpoint stands for in its VNet.
func (w *world) serviceOf(ctx context.Context, target resourceid.ID, e endpointView) (service, bool) {
	if target.Is(registryType) {
		var v registryView
		if !w.docs.Read(target, &v) {
			return service{}, false
		}
		s := registryService(target, v, e.vnet())
		s.subnet, s.reconcile, s.dns = e.subnet(), w.ownedBy(e.id), w.resolverFor(ctx, nil, machine{}, e.vnet())
		return s, true
	}
	c, err := w.cluster(target)
	if err != nil {
		return service{}, false
	}
	label, zone, _ := strings.Cut(c.Properties.PrivateFQDN, ".")
	return service{target: target, group: "management", zone: zone, vnet: e.vnet(), dns: w.resolverFor(ctx, c, machine{}, e.vnet()), linked: true, reconcile: c.reconcile(), subnet: e.subnet(),
		hosts: []host{{fqdn: c.Properties.PrivateFQDN, record: label, member: "management"}}}, true
}

// ownedBy is the command by which AKS makes again what lies in a node resource group; "" elsewhere.
func (w *world) ownedBy(id resourceid.ID) string {
	for _, r := range w.docs.Of(clusterType) {
		if c, err := w.cluster(r.ID); err == nil && c.nodeGroup().Contains(id) {
			return c.reconcile()
		}
	}
	return ""
}

// diagnoseRegistry looks at a registry from everywhere it is meant to be used: the clusters that bootstrap from it, and the
// private endpoints to it.
func (w *world) diagnoseRegistry(ctx context.Context, id resourceid.ID) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: id.String(), Kind: "registry", Healthy: true}
	var c chain
	var v registryView
	w.docs.Read(id, &v)
	d.State = v.Properties.ProvisioningState
	var users []*cluster
	for _, r := range w.docs.Of(clusterType) {
		if of, err := w.cluster(r.ID); err == nil && of.registryOf().Equal(id) && !of.vnet().IsZero() {
			users = append(users, of)
		}
	}
	if len(users) > 0 {
		each(&c, users, func(c *chain, of *cluster) {
			from, _ := w.witness(of)
			w.pull(ctx, c, of, from, bootstrapImage)
		})
		return c.finish(d)
	}
	each(&c, w.docs.Of(endpointType), func(c *chain, r resourcestore.Resource) {
		e, ok := w.endpoint(ctx, r.ID)
		if !ok || !e.target().Equal(id) {
			return
		}
		if s, known := w.serviceOf(ctx, id, e); known {
			w.names(ctx, c, s, onlyNames)
		}
	})
	w.reachability(&c, id, v) // and no cache rule is asked of a registry that no cluster takes its artifacts from
	return c.finish(d)
}

// reachability tells of a registry that nobody can come to.
func (w *world) reachability(c *chain, id resourceid.ID, v registryView) {
	open := v.Properties.PublicNetworkAccess != "Disabled"
	approved := slices.ContainsFunc(w.docs.Under(id, connectionType), func(r resourcestore.Resource) bool {
		var doc struct {
			Properties struct {
				State privateendpoints.State `json:"privateLinkServiceConnectionState"`
			}
		}
		return w.docs.Read(r.ID, &doc) && doc.Properties.State.Status == privateendpoints.Approved
	})
	switch {
	case open:
		c.fine(linkRegistry, id.String(), "its public endpoint is open")
	case approved:
		c.fine(linkRegistry, id.String(), "its public endpoint is closed, and a private endpoint is approved")
	default:
		c.broken(linkEndpoint, id.String(), nil, "its public endpoint is closed, and no private endpoint to it is approved: nobody can come to it. Make one with: az network private-endpoint create … --private-connection-resource-id %s --group-id registry", id)
	}
}

// diagnoseZone compares a private zone's records with the private endpoints of the VNets that are linked to it.
func (w *world) diagnoseZone(ctx context.Context, id resourceid.ID) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: id.String(), Kind: "zone", State: "Succeeded", Healthy: true}
	var c chain
	links := w.linksOf(id)
	if len(links) == 0 {
		var used []string
		for _, r := range w.docs.Of(endpointType) {
			e, ok := w.endpoint(ctx, r.ID)
			if !ok {
				continue
			}
			if s, known := w.serviceOf(ctx, e.target(), e); known && strings.EqualFold(s.zone, id.Name()) && !slices.Contains(used, e.vnet().String()) {
				used = append(used, e.vnet().String())
			}
		}
		var mend []string
		for _, vnet := range used {
			mend = append(mend, az("network", "private-dns", "link", "vnet", "create", "-g", id.ResourceGroup(), "--zone-name", id.Name(), "-n", resourceid.MustParse(vnet).Name()+"-link", "--virtual-network", vnet, "--registration-enabled", "false"))
		}
		c.broken(linkLink, id.String(), mend, "no VNet is linked to it: nobody sees its records")
		return c.finish(d)
	}
	each(&c, links, func(c *chain, vnet resourceid.ID) {
		c.fine(linkLink, id.String(), "VNet %s is linked to it", vnet.Name())
		each(c, w.docs.Of(endpointType), func(c *chain, r resourcestore.Resource) {
			e, ok := w.endpoint(ctx, r.ID)
			if !ok || !e.vnet().Equal(vnet) {
				return
			}
			s, known := w.serviceOf(ctx, e.target(), e)
			if !known || !strings.EqualFold(s.zone, id.Name()) {
				return
			}
			s.dns = azureResolver(vnet) // whoever the guests ask: the zone is what is asked about
			hosts := s.behind(e)
			w.resolve(ctx, c, s, hosts)
			for _, h := range hosts {
				w.record(c, s, h, zoneView{id: id, linked: true}, true)
			}
		})
	})
	return c.finish(d)
}
