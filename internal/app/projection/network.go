package projection

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/vnetservices"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/provider/managedidentity/userassignedidentities"
	"github.com/cloister-dev/cloister/internal/provider/network/networksecuritygroups/securityrules"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints"
)

func (b *builder) virtualNetworks() error {
	for _, r := range b.docs.Of("Microsoft.Network/virtualNetworks") {
		doc, err := documents.Decode[virtualNetwork](r)
		if err != nil {
			return err
		}
		n := &fabric.Network{ID: NetworkID(r.ID)}
		for _, s := range doc.Properties.AddressSpace.AddressPrefixes {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("read document %s: %w", r.ID, err)
			}
			n.Prefixes = append(n.Prefixes, p.Masked())
		}
		if err := b.peers(r.ID, n); err != nil {
			return err
		}
		for _, s := range b.docs.Under(r.ID, "Microsoft.Network/virtualNetworks/subnets") {
			doc, err := documents.Decode[subnet](s)
			if err != nil {
				return err
			}
			prefix, err := doc.prefix()
			if err != nil {
				return fmt.Errorf("read document %s: %w", s.ID, err)
			}
			rules, err := b.rules(doc.Properties.NetworkSecurityGroup, n)
			if err != nil {
				return err
			}
			outbound := doc.Properties.DefaultOutboundAccess
			sub := fabric.Subnet{
				Name: strings.ToLower(s.ID.Name()), Prefix: prefix, Rules: rules,
				// What is in a delegated subnet goes out as its service sees fit, and an API server does not.
				DefaultOutbound: (outbound == nil || *outbound) && !doc.isDelegated(),
			}
			if !doc.isDelegated() {
				if sub.NATGateway, err = b.natGateway(doc.Properties.NATGateway, n); err != nil {
					return err
				}
			}
			if sub.Routes, err = b.routes(doc.Properties.RouteTable); err != nil {
				return err
			}
			n.Subnets = append(n.Subnets, sub)
		}
		b.networks[r.ID.Key()] = n
		b.out.Services.Networks = append(b.out.Services.Networks, vnetservices.Network{ID: n.ID, NetNS: b.in.Layout.NetNS(n.NetNS())})
	}
	return nil
}

func (s subnet) prefix() (netip.Prefix, error) {
	text := s.Properties.AddressPrefix
	if text == "" && len(s.Properties.AddressPrefixes) > 0 {
		text = s.Properties.AddressPrefixes[0]
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// network is the VNet that a subnet lies in, and the subnet's name in it.
func (b *builder) network(subnet resourceid.ID) (*fabric.Network, string) {
	vnet, ok := subnet.Parent()
	if !ok {
		return nil, ""
	}
	return b.networks[vnet.Key()], strings.ToLower(subnet.Name())
}

// tags are the addresses that service tags stand for in this world, past those that depend on the network.
var tags = securityrules.Tags{
	"MicrosoftContainerRegistry": {host(AddressMCR)},
	"AzureResourceManager":       {host(AddressManagement)},
	"AzureActiveDirectory":       {host(AddressLogin), host(AddressGraph)},
	"AzureContainerRegistry":     {host(AddressRegistries)},
	"AzureCloud":                 {host(AddressMCR), host(AddressManagement), host(AddressLogin), host(AddressGraph), host(AddressRegistries), host(AddressDNS)},
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// rules are those of a network security group; nil without one.
func (b *builder) rules(group *documents.Ref, n *fabric.Network) ([]fabric.Rule, error) {
	if group == nil || group.ID.IsZero() {
		return nil, nil
	}
	out := []fabric.Rule{}
	for _, r := range b.docs.Under(group.ID, securityrules.Name) {
		doc, err := documents.Decode[securityrules.Model](r)
		if err != nil {
			return nil, err
		}
		e := doc.Effective(r.ID.Name(), n.VirtualNetwork(), tags)
		// A rule for a tag that stands for no address here can match nothing.
		if len(e.Sources) == 0 || len(e.Destinations) == 0 {
			continue
		}
		out = append(out, fabric.Rule{
			Name: e.Name, Priority: e.Priority, Direction: fabric.Direction(e.Direction), Allow: e.Allow, Protocol: e.Protocol,
			SourcePrefixes: anywhere(e.Sources), DestinationPrefixes: anywhere(e.Destinations),
			SourcePorts: ports(e.SourcePorts), DestinationPorts: ports(e.DestPorts),
		})
	}
	slices.SortFunc(out, func(a, c fabric.Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, c.Priority), cmp.Compare(a.Direction, c.Direction))
	})
	return out, nil
}

// anywhere is none for every address, which is how the fabric writes that.
func anywhere(list []netip.Prefix) []netip.Prefix {
	if slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return nil
	}
	return list
}

// ports is none for every port: a rule that names ports speaks of TCP and UDP alone.
func ports(list []securityrules.PortRange) []fabric.PortRange {
	var out []fabric.PortRange
	for _, p := range list {
		if p.From == 0 && p.To == 65535 {
			return nil
		}
		out = append(out, fabric.PortRange{First: p.From, Last: p.To})
	}
	return out
}

// interfaces puts the network interfaces of machines into their VNets. Those of private endpoints have
// no guest, and one that nothing uses has none yet.
func (b *builder) interfaces() error {
	for _, r := range b.docs.Of("Microsoft.Network/networkInterfaces") {
		own, ok := b.machines[r.ID.Key()]
		if !ok {
			continue
		}
		nic, n, all, err := b.networkInterface(r, fabric.Guest{Name: "node-" + own.machine.ID, UIDBase: own.machine.UIDBase, UIDCount: uidCount})
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		n.NICs = append(n.NICs, nic)
		guest, err := b.guest(own, all, n, nic.Subnet)
		if err != nil {
			return err
		}
		services := b.serviceNetwork(n)
		services.Guests = append(services.Guests, guest)
	}
	return nil
}

// networkInterface is the document's interface with that guest behind it, its network, nil when there is none, and
// its addresses in the document's order.
func (b *builder) networkInterface(r resourcestore.Resource, guest fabric.Guest) (nic fabric.NIC, n *fabric.Network, all []netip.Addr, err error) {
	doc, err := documents.Decode[networkInterface](r)
	if err != nil {
		return nic, nil, nil, err
	}
	nic = fabric.NIC{ID: shortHash(r.ID.Key()), Interface: "eth0", Guest: guest, Forwarding: doc.Properties.EnableIPForwarding}
	for i, c := range doc.Properties.IPConfigurations {
		if c.Properties.Subnet == nil {
			continue
		}
		a, err := parseAddr(c.Properties.PrivateIPAddress, r.ID)
		if err != nil {
			return nic, nil, nil, err
		}
		all = append(all, a)
		in, subnet := b.network(c.Properties.Subnet.ID)
		if in == nil {
			continue
		}
		if err := b.waysOut(&nic, in, a, c.Properties.PublicIPAddress, c.Properties.Pools); err != nil {
			return nic, nil, nil, err
		}
		if primary := c.Properties.Primary; primary != nil && *primary || i == 0 && !nic.Address.IsValid() {
			if nic.Address.IsValid() {
				nic.Secondary = append(nic.Secondary, nic.Address)
			}
			nic.Address, n, nic.Subnet = a, in, subnet
			continue
		}
		nic.Secondary = append(nic.Secondary, a)
	}
	if n != nil {
		nic.Rules, err = b.rules(doc.Properties.NetworkSecurityGroup, n)
	}
	return nic, n, all, err
}

func (b *builder) serviceNetwork(n *fabric.Network) *vnetservices.Network {
	for i := range b.out.Services.Networks {
		if b.out.Services.Networks[i].ID == n.ID {
			return &b.out.Services.Networks[i]
		}
	}
	panic("a network of the fabric without its services") // both are made by virtualNetworks
}

// guest is what the metadata service tells a node about itself, and whose tokens it gives it.
func (b *builder) guest(own owner, addresses []netip.Addr, n *fabric.Network, subnet string) (vnetservices.Guest, error) {
	cluster, err := documents.Decode[managedCluster](own.cluster)
	if err != nil {
		return vnetservices.Guest{}, err
	}
	scaleSet := own.machine.Name[:strings.LastIndex(own.machine.Name, "vmss")+len("vmss")]
	group := resourceid.Group(own.pool.ID.Subscription(), cluster.Properties.NodeResourceGroup)
	instance, _ := strconv.ParseInt(strings.TrimPrefix(own.machine.Name, scaleSet), 36, 64)
	g := vnetservices.Guest{
		Addresses: addresses, Name: scaleSet + "_" + strconv.FormatInt(instance, 10), ComputerName: own.machine.Name, Tags: cluster.Tags,
		ResourceID:     group.Resource("Microsoft.Compute/virtualMachineScaleSets/virtualMachines", scaleSet, strconv.FormatInt(instance, 10)).String(),
		SubscriptionID: own.pool.ID.Subscription(), ResourceGroup: cluster.Properties.NodeResourceGroup,
		Location: cluster.Location, VMSize: own.vmSize,
	}
	if i := slices.IndexFunc(n.Subnets, func(s fabric.Subnet) bool { return s.Name == subnet }); i >= 0 {
		g.Subnet = n.Subnets[i].Prefix
	}
	k := cluster.Properties.IdentityProfile["kubeletidentity"]
	if there, err := b.exists(k.ResourceID, k.ClientID); err != nil {
		return g, err
	} else if there {
		g.Identities = append(g.Identities, vnetservices.Identity{ClientID: k.ClientID, PrincipalID: k.ObjectID, TenantID: b.in.TenantID, ResourceID: k.ResourceID})
	}
	return g, nil
}

// exists reports whether there is still an identity of the client ID: one that was deleted leaves the machines that had it,
// and one of the same name after it is another.
func (b *builder) exists(id, clientID string) (bool, error) {
	parsed, err := resourceid.Parse(id)
	if err != nil {
		return false, nil // a cluster that has none yet
	}
	r, ok := b.docs.Find(parsed)
	if !ok {
		return false, nil
	}
	identity, err := documents.Decode[userassignedidentities.Model](r)
	return err == nil && strings.EqualFold(identity.Properties.ClientID, clientID), err
}

// privateEndpoints joins approved endpoints' addresses to the services behind them.
func (b *builder) privateEndpoints() error {
	for _, r := range b.docs.Of(privateendpoints.Name) {
		doc, err := documents.Decode[privateendpoints.Model](r)
		if err != nil {
			return err
		}
		if doc.Properties.Subnet == nil || doc.Cloister == nil {
			continue
		}
		subnet, err := resourceid.Parse(doc.Properties.Subnet.ID)
		if err != nil {
			return fmt.Errorf("read document %s: %w", r.ID, err)
		}
		state, err := privateendpoints.ConnectionState(context.Background(), b.docs, &doc)
		if err != nil {
			return err
		}
		n, in := b.network(subnet)
		if n == nil || state.Status != privateendpoints.Approved {
			continue
		}
		guarded, err := b.guarded(subnet, in)
		if err != nil {
			return err
		}
		for _, c := range doc.Properties.Connections() {
			target, err := resourceid.Parse(c.Properties.PrivateLinkServiceID)
			if err != nil {
				return fmt.Errorf("read document %s: %w", r.ID, err)
			}
			leaf, err := b.leafOf(target)
			if err != nil {
				return err
			}
			if leaf == "" {
				continue
			}
			for _, m := range doc.Cloister.Members {
				if err := b.member(r.ID, m, n, guarded, target, leaf); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// leafOf is the namespace that a private link's target is served from; "" when there is no such resource.
func (b *builder) leafOf(target resourceid.ID) (string, error) {
	r, exists := b.docs.Find(target)
	switch {
	case !exists:
		return "", nil
	case target.Is("Microsoft.ContainerRegistry/registries"):
		return LeafRegistry, nil
	case target.Is("Microsoft.ContainerService/managedClusters"):
		cluster, err := documents.Decode[managedCluster](r)
		if err != nil || cluster.Memory.Removed {
			return "", err
		}
		return LeafOfCluster(cluster.Memory.ClusterID), nil
	}
	return "", nil
}

// guarded is the name of an endpoint's subnet if the subnet's security group is for private endpoints, too.
func (b *builder) guarded(id resourceid.ID, name string) (string, error) {
	r, exists := b.docs.Find(id)
	if !exists {
		return "", nil
	}
	s, err := documents.Decode[subnet](r)
	if err != nil {
		return "", err
	}
	if p := s.Properties.EndpointPolicies; p == "Enabled" || p == "NetworkSecurityGroupEnabled" {
		return name, nil
	}
	return "", nil
}

func (b *builder) member(endpoint resourceid.ID, m privateendpoints.Member, n *fabric.Network, guarded string, target resourceid.ID, leaf string) error {
	a, err := parseAddr(m.Address, endpoint)
	if err != nil {
		return err
	}
	service := serviceAddress(m.ServiceIndex)
	b.leaves[leaf] = append(b.leaves[leaf], service)
	n.Endpoints = append(n.Endpoints, fabric.Endpoint{
		ID: shortHash(endpoint.Key() + "|" + target.Key() + "|" + m.Name), Address: a, Ports: []uint16{443}, ServiceAddress: service, Leaf: leaf, Guarded: guarded,
	})
	if leaf == LeafRegistry {
		b.endpoints[target.Key()] = append(b.endpoints[target.Key()], registry.Endpoint{ServiceAddress: service, Member: m.Name})
	}
	return nil
}

// sessions puts jump boxes and workstations in their places. One whose network is gone is left out, and so is
// one whose address a document has since given to another.
func (b *builder) sessions() error {
	for _, s := range b.in.Sessions {
		if s.Network.IsZero() {
			b.out.Fabric.Workstations = append(b.out.Fabric.Workstations, fabric.Workstation{Name: s.Name, Address: s.Address})
			continue
		}
		if !s.Interface.IsZero() {
			if err := b.sessionAt(s); err != nil {
				return err
			}
			continue
		}
		n := b.networks[s.Network.Key()]
		if n == nil || !slices.ContainsFunc(n.Subnets, func(sub fabric.Subnet) bool { return sub.Name == s.Subnet && sub.Prefix.Contains(s.Address) }) {
			continue
		}
		if taken(n, s.Address) {
			continue
		}
		n.NICs = append(n.NICs, fabric.NIC{ID: shortHash(s.Name), Subnet: s.Subnet, Address: s.Address, Interface: "eth0", Guest: fabric.Guest{Name: s.Name}})
		if err := b.jumpBox(s, []netip.Addr{s.Address}, n); err != nil {
			return err
		}
	}
	return nil
}

// sessionAt puts a jump box behind the network interface that it was made for, while that is nobody else's.
func (b *builder) sessionAt(s Session) error {
	r, there := b.docs.Find(s.Interface)
	if _, machine := b.machines[s.Interface.Key()]; !there || machine {
		return nil
	}
	nic, n, all, err := b.networkInterface(r, fabric.Guest{Name: s.Name})
	if err != nil || n == nil || slices.ContainsFunc(all, func(a netip.Addr) bool { return taken(n, a) }) {
		return err
	}
	n.NICs = append(n.NICs, nic)
	return b.jumpBox(s, all, n)
}

// jumpBox is what the metadata service tells a jump box that has identities: that it is a virtual machine. The others it does not
// know. An identity that was deleted meanwhile is no more.
func (b *builder) jumpBox(s Session, addresses []netip.Addr, n *fabric.Network) error {
	if len(s.Identities) == 0 {
		return nil
	}
	group := resourceid.Group(s.Network.Subscription(), s.Network.ResourceGroup())
	g := vnetservices.Guest{
		Addresses: addresses, Name: s.Name, ResourceID: group.Resource("Microsoft.Compute/virtualMachines", s.Name).String(),
		SubscriptionID: s.Network.Subscription(), ResourceGroup: s.Network.ResourceGroup(),
	}
	if network, there := b.docs.Find(s.Network); there {
		of, err := documents.Decode[struct{ Location string }](network)
		if err != nil {
			return err
		}
		g.Location = of.Location
	}
	for _, id := range s.Identities {
		r, there := b.docs.Find(id)
		if !there {
			continue
		}
		of, err := documents.Decode[userassignedidentities.Model](r)
		if err != nil {
			return err
		}
		g.Identities = append(g.Identities, vnetservices.Identity{ClientID: of.Properties.ClientID, PrincipalID: of.Properties.PrincipalID, TenantID: b.in.TenantID, ResourceID: id.String()})
	}
	services := b.serviceNetwork(n)
	services.Guests = append(services.Guests, g)
	return nil
}

func taken(n *fabric.Network, a netip.Addr) bool {
	return slices.ContainsFunc(n.NICs, func(nic fabric.NIC) bool { return nic.Address == a || slices.Contains(nic.Secondary, a) }) ||
		slices.ContainsFunc(n.Endpoints, func(e fabric.Endpoint) bool { return e.Address == a })
}
