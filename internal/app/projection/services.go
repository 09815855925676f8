package projection

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/vnetservices"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/registry"
)

// endpointTTL is that of the names behind private endpoints on Azure, in seconds.
const endpointTTL = 10

// RegistryPrefix begins the engine's ID of a registry, whenever it was made.
func RegistryPrefix(id resourceid.ID) string { return id.Key() + "@" }

// registries completes the registry engine's state, and publishes the registries' names.
func (b *builder) registries() error {
	for _, r := range b.docs.Of("Microsoft.ContainerRegistry/registries") {
		doc, err := documents.Decode[registryDocument](r)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(doc.Properties.LoginServer, ".")
		reg := registry.Registry{
			// A registry made again under its name is another one.
			ID:   RegistryPrefix(r.ID) + strconv.FormatInt(r.Created.UnixNano(), 36),
			Name: r.ID.Name(), LoginServer: doc.Properties.LoginServer, Region: doc.Location,
			DataEndpoint:  name + "." + doc.Location + ".data.azurecr.io",
			PublicAccess:  doc.Properties.PublicNetworkAccess != "Disabled",
			AnonymousPull: doc.Properties.AnonymousPullEnabled,
			Endpoints:     b.endpoints[r.ID.Key()],
			Access:        b.in.Access(r.ID),

			OnlyRegistryTokens: doc.Properties.Policies.AuthenticationAsARM.Status == "disabled",
		}
		if doc.Properties.AdminUserEnabled {
			reg.Admin = &registry.Admin{User: r.ID.Name()}
			for slot, generation := range doc.Memory.Regenerated {
				sum := sha256.Sum256([]byte(b.in.Password(r.ID, doc.Properties.CreationDate, slot, generation)))
				reg.Admin.Passwords = append(reg.Admin.Passwords, hex.EncodeToString(sum[:]))
			}
		}
		if rules := doc.Properties.NetworkRuleSet; rules != nil && rules.DefaultAction == "Deny" {
			reg.OnlyPrefixes = true
			for _, rule := range rules.IPRules {
				prefix, err := parsePrefix(rule.Value, r.ID)
				if err != nil {
					return err
				}
				reg.PublicPrefixes = append(reg.PublicPrefixes, prefix)
			}
		}
		for _, c := range b.docs.Under(r.ID, "Microsoft.ContainerRegistry/registries/cacheRules") {
			rule, err := documents.Decode[cacheRule](c)
			if err != nil {
				return err
			}
			reg.CacheRules = append(reg.CacheRules, registry.CacheRule{Name: c.ID.Name(), Source: rule.Properties.SourceRepository, Target: rule.Properties.TargetRepository})
		}
		b.out.Registry.Registries = append(b.out.Registry.Registries, reg)
		// A registry that has a private endpoint publishes the privatelink alias to everyone; where no linked
		// zone answers for it, the chain goes on to the public address.
		for _, host := range []string{reg.LoginServer, reg.DataEndpoint} {
			if len(reg.Endpoints) == 0 {
				b.public(host, "A", AddressRegistries.String())
				continue
			}
			alias := strings.TrimSuffix(host, ".azurecr.io") + ".privatelink.azurecr.io"
			b.public(host, "CNAME", alias)
			b.public(alias, "A", AddressRegistries.String())
		}
	}
	return nil
}

func (b *builder) public(name, recordType, value string) {
	b.out.Services.Public = append(b.out.Services.Public, vnetservices.Record{Name: name, Type: recordType, Value: value, TTL: endpointTTL})
}

// names publishes what is always there, and gives every network the zones that are linked to it.
func (b *builder) names() error {
	for name, a := range map[string]netip.Addr{
		"mcr.microsoft.com": AddressMCR, "management.azure.com": AddressManagement,
		"login.microsoftonline.com": AddressLogin, "login.windows.net": AddressLogin, "sts.windows.net": AddressLogin,
		"graph.microsoft.com": AddressGraph,
	} {
		b.public(name, "A", a.String())
	}
	for _, name := range b.in.ExtensionHosts {
		b.public(name, "A", AddressExtensions.String())
	}
	for _, z := range b.docs.Of("Microsoft.Network/privateDnsZones") {
		zone := vnetservices.Zone{Name: strings.ToLower(z.ID.Name())}
		for _, set := range b.docs.Under(z.ID, "Microsoft.Network/privateDnsZones/A") {
			doc, err := documents.Decode[aRecordSet](set)
			if err != nil {
				return err
			}
			for _, a := range doc.Properties.ARecords {
				zone.Records = append(zone.Records, vnetservices.Record{Name: strings.ToLower(set.ID.Name()), Type: "A", Value: a.IPv4Address, TTL: doc.Properties.TTL})
			}
		}
		for _, l := range b.docs.Under(z.ID, "Microsoft.Network/privateDnsZones/virtualNetworkLinks") {
			link, err := documents.Decode[virtualNetworkLink](l)
			if err != nil {
				return err
			}
			if n := b.networks[link.Properties.VirtualNetwork.ID.Key()]; n != nil {
				services := b.serviceNetwork(n)
				services.Zones = append(services.Zones, zone)
			}
		}
	}
	return nil
}

// clusters gives each cluster its leaf, its public name, its tunnel and the approver of its nodes' certificates.
func (b *builder) clusters() error {
	for _, r := range b.docs.Of("Microsoft.ContainerService/managedClusters") {
		doc, err := documents.Decode[managedCluster](r)
		if err != nil {
			return err
		}
		id := doc.Memory.ClusterID
		if id == "" || doc.Memory.Removed {
			continue
		}
		leaf := LeafOfCluster(id)
		if _, ok := b.leaves[leaf]; !ok {
			b.leaves[leaf] = nil
		}
		// The public name of a private cluster is only a name: it resolves to the private address.
		access := doc.Properties.APIServerAccessProfile
		if doc.private() && doc.Memory.EndpointAddress != "" && access != nil && access.EnablePrivateClusterPublicFQDN != nil && *access.EnablePrivateClusterPublicFQDN {
			b.public(doc.Properties.FQDN, "A", doc.Memory.EndpointAddress)
		}
		c := vnetservices.Cluster{
			ID: id, TunnelSocket: filepath.Join(b.in.Layout.Tunnel(id), "tunnel.sock"),
			ControlPlaneNetNS: b.in.Layout.NetNS(leaf), Server: "127.0.0.1:443",
			Kubeconfig: b.in.Layout.Approver(id),
		}
		if doc.integrated() {
			c.TunnelSocket = "" // the API server has an interface in the network
		}
		for _, own := range b.machines {
			if !own.cluster.ID.Equal(r.ID) {
				continue
			}
			node := vnetservices.ClusterNode{Name: own.machine.Name}
			doc, ok := b.docs.Find(own.machine.NIC)
			if !ok {
				continue
			}
			view, err := documents.Decode[networkInterface](doc)
			if err != nil {
				return err
			}
			for i, cfg := range view.Properties.IPConfigurations {
				a, err := parseAddr(cfg.Properties.PrivateIPAddress, doc.ID)
				if err != nil {
					return err
				}
				c.TunnelPrefixes = append(c.TunnelPrefixes, netip.PrefixFrom(a, 32))
				if i == 0 {
					node.Addresses = append(node.Addresses, a)
				}
				if cfg.Properties.Subnet != nil && c.NetworkNetNS == "" {
					if n, _ := b.network(cfg.Properties.Subnet.ID); n != nil {
						c.NetworkNetNS = b.in.Layout.NetNS(n.NetNS())
					}
				}
			}
			c.Nodes = append(c.Nodes, node)
		}
		if c.NetworkNetNS == "" { // no node yet
			continue
		}
		slices.SortFunc(c.Nodes, func(a, z vnetservices.ClusterNode) int { return compare(a.Name, z.Name) })
		slices.SortFunc(c.TunnelPrefixes, func(a, z netip.Prefix) int { return a.Addr().Compare(z.Addr()) })
		b.out.Services.Clusters = append(b.out.Services.Clusters, c)
	}
	return nil
}
