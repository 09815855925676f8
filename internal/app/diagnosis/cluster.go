package diagnosis

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// diagnoseCluster follows what a cluster's nodes need, in the order in which a node needs it.
func (w *world) diagnoseCluster(ctx context.Context, of *cluster) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: of.id.String(), Kind: "cluster", State: of.Properties.ProvisioningState, Warnings: w.warnings(of)}
	d.Healthy = d.State != "Failed" && d.State != "Canceled"
	var c chain
	if of.Properties.PowerState.Code == "Stopped" {
		d.State = "Stopped"
		return c.finish(d)
	}
	if of.vnet().IsZero() || !w.docs.Has(of.vnet()) {
		if !d.Healthy {
			c.broken(linkPath, of.id.String(), nil, "the virtual network of its nodes does not exist")
		}
		return c.finish(d, of.reconcile())
	}
	if w.operation(&c, of) {
		return c.finish(d, of.reconcile())
	}
	from, failed := w.witness(of)
	if failed != "" {
		d.State, d.Healthy = d.State+", "+failed, false
	}
	w.needs(ctx, &c, of, from)
	w.generations(&c, of)
	again := []string{of.reconcile()}
	if d.Healthy {
		again = nil // what is mended works at once
	}
	return c.finish(d, again...)
}

// needs follows all that a node of the cluster needs.
func (w *world) needs(ctx context.Context, c *chain, of *cluster, from machine) {
	c.together(
		func(c *chain) { w.metadata(ctx, c, from) },
		func(c *chain) {
			if of.cached() {
				w.pull(ctx, c, of, from, bootstrapImage)
			}
		},
		func(c *chain) {
			if !of.isolated() { // OUTBOUND_COMMAND
				w.wayOut(ctx, c, of, from)
			}
		},
		func(c *chain) { w.apiServer(ctx, c, of, from) },
	)
}

// witness is the node to look from: one that failed, if there is one, with how it failed.
func (w *world) witness(of *cluster) (m machine, failed string) {
	for _, m := range of.machines {
		if m.off || m.Leaving {
			continue
		}
		if result, err := w.machine.Provision(m.ID); err == nil && result.Done && result.ExitCode != bootstrap.Success {
			return m, exited(m, result)
		}
	}
	for _, m := range of.machines {
		if _, there := w.guest(m); there && !m.off && !m.Leaving {
			return m, ""
		}
	}
	return machine{}, ""
}

func exited(m machine, result bootstrap.Result) string {
	return fmt.Sprintf("node %s: exit status %d, %s", m.Name, int(result.ExitCode), bootstrap.Describe(result.ExitCode).Name)
}

// metadata asks the metadata service as the node does.
func (w *world) metadata(ctx context.Context, c *chain, from machine) {
	if from.ID == "" {
		return
	}
	if err := w.machine.Metadata(ctx, from.ID); err != nil {
		c.broken(linkMetadata, "169.254.169.254", nil, "the instance metadata service does not answer node %s: %v. It is the process vnetservices: see `cloister status` and `cloister logs vnetservices`", from.Name, err)
		return
	}
	c.fine(linkMetadata, "169.254.169.254", "the instance metadata service answers node %s", from.Name)
}

// apiServer follows the nodes' way to the API server.
func (w *world) apiServer(ctx context.Context, c *chain, of *cluster, from machine) {
	c.service = linkServer
	access := of.Properties.APIServerAccessProfile
	switch {
	case access.EnablePrivateCluster && of.Properties.PrivateFQDN != "" && access.PrivateDNSZone != "none":
		label, zone, _ := strings.Cut(of.Properties.PrivateFQDN, ".")
		s := service{target: of.id, group: "management", zone: zone, vnet: of.vnet(), dns: w.resolverFor(ctx, of, from, of.vnet()), linked: !access.EnableVnetIntegration, reconcile: of.reconcile(), subnet: of.subnet(),
			hosts: []host{{fqdn: of.Properties.PrivateFQDN, record: label, member: "management"}}}
		if a, err := netip.ParseAddr(of.Cloister.EndpointAddress); err == nil && !s.linked {
			s.hosts[0].want = []netip.Addr{a}
		}
		w.names(ctx, c, s, func(c *chain, hosts []host, usable bool) {
			if usable {
				w.paths(ctx, c, of, from, hosts)
			}
		})
	case access.EnableVnetIntegration || access.EnablePrivateCluster:
		if a, err := netip.ParseAddr(of.Cloister.EndpointAddress); err == nil {
			w.path(ctx, c, of, from, linkServer, netip.AddrPortFrom(a, 443))
		}
	default:
		w.publicServer(ctx, c, of, from)
	}
}

// publicServer looks at an API server on the Internet: its nodes need a way out.
func (w *world) publicServer(ctx context.Context, c *chain, of *cluster, from machine) {
	a, err := netip.ParseAddr(of.Cloister.PublicAddress)
	g, there := w.guest(from)
	if err != nil || !there {
		return
	}
	to := netip.AddrPortFrom(a, 443)
	if err := w.machine.Connect(ctx, from.ID, to); err == nil {
		c.fine(linkServer, of.Properties.FQDN, "node %s reaches %s", from.Name, to)
		return
	}
	if refusal, refused := g.network.Refusal(g.nic.Address, a, "Tcp", to.Port()); refused {
		saw := w.refusal(c, of, g, refusal, "Tcp", to)
		var mend []string
		if of.Properties.NetworkProfile.OutboundType == "block" {
			mend = w.openWay(of)
		}
		c.broken(linkServer, of.Properties.FQDN, mend, "no connection from node %s to %s: %s", from.Name, to, saw)
		return
	}
	if g.network.WayOut(g.nic) == "" {
		c.broken(linkServer, of.Properties.FQDN, w.openWay(of), "the API server is public, at %s, and outbound type %s gives the nodes no way to it", a, of.Properties.NetworkProfile.OutboundType)
		return
	}
	c.broken(linkServer, of.Properties.FQDN, nil, "no connection from node %s to %s, by %s", from.Name, to, g.network.WayOut(g.nic))
}

// openWay gives a cluster that needs one a way out.
func (w *world) openWay(of *cluster) []string {
	if !of.isolated() {
		return []string{of.reconcile()}
	}
	return []string{az("aks", "update", "-g", of.id.ResourceGroup(), "-n", of.id.Name(), "--outbound-type", "loadBalancer")}
}

// generations finds nodes that are not what the cluster says: an update changes no node that there is.
func (w *world) generations(c *chain, of *cluster) {
	old := map[string][]string{}
	for _, m := range of.machines {
		if why := of.outdated(m); why != "" {
			old[why] = append(old[why], m.Name)
		}
	}
	switch {
	case len(of.machines) == 0:
	case len(old) == 0:
		c.fine(linkGeneration, of.id.String(), "every node is what the cluster says")
	default:
		var told []string
		for _, why := range slices.Sorted(maps.Keys(old)) {
			told = append(told, strings.Join(old[why], ", ")+": "+why)
		}
		c.broken(linkGeneration, of.id.String(), []string{of.reimage()}, "not reimaged since the last update: %s", strings.Join(told, "; "))
	}
}

// outdated is why a reimage would make another node of the machine; "" when it would not.
func (c *cluster) outdated(m machine) string {
	server := c.Cloister.RegistryServer
	switch {
	case m.off || m.Leaving || m.Phase != "":
		return ""
	case server != m.RegistryServer && server == "":
		return "the cluster's artifacts come from " + mcr
	case server != m.RegistryServer:
		return "the cluster's artifacts come from " + server
	case c.isolated() != (m.OutboundURL == ""):
		return "the cluster's outbound type is " + c.Properties.NetworkProfile.OutboundType
	case c.Properties.APIServerAccessProfile.EnableVnetIntegration && m.APIServer != "" && m.APIServer != c.Cloister.EndpointAddress:
		return "the API server is " + c.Cloister.EndpointAddress
	case !slices.Equal(c.nameservers, m.Nameservers) && len(c.nameservers) == 0:
		return "the virtual network names " + bootstrap.AzureDNS.String() + " as its DNS server"
	case !slices.Equal(c.nameservers, m.Nameservers):
		return "the virtual network names DNS server " + addresses(c.nameservers)
	}
	return ""
}

// diagnoseNode is diagnoseCluster from one node.
func (w *world) diagnoseNode(ctx context.Context, of *cluster, m machine) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: of.id.String() + "/nodes/" + m.Name, Kind: "node", State: "provisioning", Healthy: true}
	var c chain
	again := []string{of.reconcile()}
	result, err := w.machine.Provision(m.ID)
	switch {
	case m.off:
		d.State = "stopped"
		return c.finish(d)
	case err != nil:
		d.State, d.Healthy = err.Error(), false
	case result.Done && result.ExitCode != bootstrap.Success:
		d.State, d.Healthy = fmt.Sprintf("exit status %d, %s: %s", int(result.ExitCode), bootstrap.Describe(result.ExitCode).Name, result.Error), false
	case result.Done:
		d.State, again = "provisioned", nil
	}
	w.needs(ctx, &c, of, m)
	if why := of.outdated(m); why != "" {
		c.broken(linkGeneration, d.Subject, []string{of.reimagePool(m.pool)}, "not reimaged since the last update: %s", why)
	} else {
		c.fine(linkGeneration, d.Subject, "the node is what the cluster says")
	}
	return c.finish(d, again...)
}

func (c *cluster) reimagePool(name string) string {
	return az("aks", "nodepool", "upgrade", "-g", c.id.ResourceGroup(), "--cluster-name", c.id.Name(), "-n", name, "--node-image-only")
}

// waiting are the cluster's pods that wait for something; none when its API server does not tell.
func (w *world) waiting(ctx context.Context, of *cluster) []Pod {
	if of.Cloister.ClusterID == "" || of.Properties.PowerState.Code == "Stopped" {
		return nil
	}
	pods, err := w.machine.Pods(ctx, of.Cloister.ClusterID)
	if err != nil {
		return nil
	}
	return pods
}

func (p Pod) pullFails() bool {
	return p.Reason == "ErrImagePull" || p.Reason == "ImagePullBackOff" || p.Reason == "InvalidImageName"
}

// diagnosePods is about those of a cluster's pods that wait and that are asked for.
func (w *world) diagnosePods(ctx context.Context, of *cluster, asked func(Pod) bool) []adminapi.Diagnosis {
	pods := slices.DeleteFunc(w.waiting(ctx, of), func(p Pod) bool { return !asked(p) })
	return atOnce(pods, func(p Pod) adminapi.Diagnosis { return w.diagnosePod(ctx, of, p) })
}

// diagnosePod follows the way of the image that a pod waits for.
func (w *world) diagnosePod(ctx context.Context, of *cluster, p Pod) adminapi.Diagnosis {
	d := adminapi.Diagnosis{Subject: of.id.String() + "/pods/" + p.Namespace + "/" + p.Name, Kind: "pod", State: p.Reason}
	var c chain
	if !p.pullFails() {
		d.State = strings.TrimSuffix(p.Reason+": "+p.Message, ": ")
		return c.finish(d)
	}
	var node machine
	for _, m := range of.machines {
		if m.Name == p.Node {
			node = m
		}
	}
	host, repository := splitImage(p.Image)
	// What a node was provisioned with decides where it asks, whatever the cluster says now.
	asked := *of
	if node.ID != "" {
		asked.Cloister.RegistryServer = node.RegistryServer
	}
	switch {
	case host == mcr && node.RegistryServer == "" && node.ID != "":
		w.direct(ctx, &c, of, node, repository)
	case host == mcr:
		c.fine(linkImage, p.Image, "node %s asks %s for it", p.Node, node.RegistryServer)
		if why := of.outdated(node); why != "" {
			c.broken(linkGeneration, d.Subject, []string{of.reimagePool(node.pool)}, "node %s is not reimaged since the last update: %s", node.Name, why)
		}
		c.together(
			func(c *chain) { w.metadata(ctx, c, node) },
			func(c *chain) { w.pull(ctx, c, &asked, node, wanted{repository, true}) },
		)
	case host == strings.ToLower(registryHost(of.Cloister.RegistryServer)):
		c.fine(linkImage, p.Image, "it is of the cluster's own registry")
		w.pull(ctx, &c, of, node, wanted{repository, false})
	default:
		w.foreign(&c, of, node, p.Image, host)
	}
	return c.finish(d)
}

// direct is the way of a node that asks mcr.microsoft.com itself.
func (w *world) direct(ctx context.Context, c *chain, of *cluster, node machine, repository string) {
	c.fine(linkImage, mcr+"/"+repository, "node %s asks %s itself for it: it was provisioned without a registry", node.Name, mcr)
	if of.cached() {
		c.broken(linkGeneration, node.Name, []string{of.reimagePool(node.pool)}, "node %s is not reimaged since the last update: %s", node.Name, of.outdated(node))
		return
	}
	w.wayOut(ctx, c, of, node)
	if !c.isBroken(linkWayOut) {
		c.broken(linkUpstream, mcr+"/"+repository, nil, "%s is reached, and has no such image", mcr)
	}
}

// foreign tells of an image of a registry that nodes have no mirror of.
func (w *world) foreign(c *chain, of *cluster, node machine, image, host string) {
	if !of.isolated() {
		c.broken(linkImage, image, nil, "node %s asks %s itself for it, which does not answer or does not have it", node.Name, host)
		return
	}
	c.broken(linkImage, image, nil, "only %s is mirrored: node %s asks %s itself, to which outbound type %s leaves no way. Give the pod an image of %s, or one that lies in the cluster's registry%s",
		mcr, node.Name, host, of.Properties.NetworkProfile.OutboundType, mcr, registryNamed(of))
}

func registryNamed(of *cluster) string {
	if host := registryHost(of.Cloister.RegistryServer); host != "" {
		return " under " + host
	}
	return ""
}

func registryHost(server string) string {
	host, _, _ := strings.Cut(server, "/")
	return host
}

// splitImage takes an image's name apart as containerd does: what has no host is Docker Hub's.
func splitImage(image string) (host, repository string) {
	host, repository, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "docker.io", image
	}
	return strings.ToLower(host), repository
}
