package managedclusters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// API versions with which AKS's own service calls the other providers.
const (
	resourcesAPI = "2024-11-01"
	networkAPI   = "2024-05-01"
	dnsAPI       = "2024-06-01"
	registryAPI  = "2025-04-01"
	identityAPI  = "2023-01-31"
	roleAPI      = "2022-04-01"
)

// acrPull is the built-in role's ID.
const acrPull = "7f951dda-4ed3-4680-a7ca-43fe172d538d"

type object = map[string]any

// managedRegistryID is the AKS-managed registry of the cluster.
func managedRegistryID(cluster resourceid.ID, m *Model) resourceid.ID {
	return nodeGroup(cluster, m).Resource("Microsoft.ContainerRegistry/registries", m.Memory.ManagedRegistry)
}

// registryID is the registry that new nodes bootstrap from; zero for Direct.
func registryID(cluster resourceid.ID, m *Model) resourceid.ID {
	b := m.Properties.BootstrapProfile
	switch {
	case b.ArtifactSource != "Cache":
		return resourceid.ID{}
	case b.ContainerRegistryID != "":
		return resourceid.MustParse(b.ContainerRegistryID)
	}
	return managedRegistryID(cluster, m)
}

// managedRegistry reports whether the registry is to be AKS's own, which is made, and made again, with the cluster.
func (m *Model) managedRegistry() bool {
	b := m.Properties.BootstrapProfile
	return b.ArtifactSource == "Cache" && (b.ContainerRegistryID == "" ||
		m.Memory.ManagedRegistry != "" && strings.HasSuffix(strings.ToLower(b.ContainerRegistryID), "/"+m.Memory.ManagedRegistry))
}

// builder puts documents in order and remembers whether all of them are done.
type builder struct {
	ctx     context.Context
	client  resourcetype.Client
	pending []string
	err     error
}

// put makes one document. After an error it does nothing, so that a list of puts reads as one.
func (b *builder) put(id resourceid.ID, apiVersion string, body any) {
	if b.err != nil {
		return
	}
	state, err := b.client.Put(b.ctx, id, apiVersion, body)
	if err != nil {
		b.err = fmt.Errorf("make %s: %w", id, err)
		return
	}
	switch state {
	case "Succeeded", "":
	case "Failed":
		b.err = fmt.Errorf("%s is in state Failed", id)
	default:
		b.pending = append(b.pending, id.String())
	}
}

// dropDisconnected deletes a private endpoint whose connection went with a registry that had the same name. It would
// never lead to the new one: a connection is made once, and belongs to the registry's owner from then on.
func (b *builder) dropDisconnected(endpoint, registry resourceid.ID) {
	if b.err != nil {
		return
	}
	var doc struct {
		Properties struct {
			ProvisioningState string `json:"provisioningState"`
		} `json:"properties"`
	}
	err := b.client.Get(b.ctx, endpoint, &doc)
	if errors.Is(err, resourcestore.ErrNotFound) || err == nil && doc.Properties.ProvisioningState != "Succeeded" {
		return
	}
	if err != nil {
		b.err = fmt.Errorf("read %s: %w", endpoint, err)
		return
	}
	connections, err := b.client.List(b.ctx, registry, "Microsoft.ContainerRegistry/registries/privateEndpointConnections")
	if err != nil {
		b.err = fmt.Errorf("list the connections of %s: %w", registry, err)
		return
	}
	if slices.ContainsFunc(connections, func(c resourcestore.Resource) bool { return strings.HasPrefix(c.ID.Name(), endpoint.Name()+".") }) {
		return
	}
	gone, err := b.client.Delete(b.ctx, endpoint)
	if err != nil {
		b.err = fmt.Errorf("delete %s, whose connection is gone: %w", endpoint, err)
	} else if !gone {
		b.pending = append(b.pending, endpoint.String())
	}
}

// build makes the documents in the node resource group, each of which is the real thing's own
// description: the private endpoint's address works because its document says so. It returns false
// while some of them are still being made.
func (t service) build(ctx context.Context, r *resourcetype.Reconciliation[Model]) (done bool, err error) {
	m, mem := r.Model, r.Model.Memory
	group := nodeGroup(r.ID, m)
	location := m.Location
	b := &builder{ctx: ctx, client: r.Client}

	b.put(group, resourcesAPI, object{"location": location, "managedBy": r.ID.String(), "tags": m.Tags})

	kubelet := m.kubeletIdentity()
	if kubelet.ResourceID == "" {
		id := group.Resource("Microsoft.ManagedIdentity/userAssignedIdentities", r.ID.Name()+"-agentpool")
		b.put(id, identityAPI, object{"location": location})
		kubelet.ResourceID = id.String()
	}

	nsg := group.Resource("Microsoft.Network/networkSecurityGroups", "aks-agentpool-"+mem.Suffix+"-nsg")
	b.put(nsg, networkAPI, object{"location": location})

	if mem.SubnetID == "" {
		vnet := group.Resource("Microsoft.Network/virtualNetworks", "aks-vnet-"+mem.Suffix)
		b.put(vnet, networkAPI, object{"location": location, "properties": object{
			"addressSpace": object{"addressPrefixes": []string{managedVNetPrefix.String()}},
		}})
		subnet := vnet.Child("subnets", "aks-subnet")
		b.put(subnet, networkAPI, object{"properties": managedSubnet(nsg)})
		if b.err == nil {
			mem.SubnetID = subnet.String()
		}
	}
	if b.err != nil {
		return false, b.err
	}
	if len(b.pending) > 0 {
		return false, nil
	}
	subnet := resourceid.MustParse(mem.SubnetID)
	vnet, _ := subnet.Parent()
	if t.wayOut(b, r); b.err != nil || len(b.pending) > 0 {
		return false, b.err
	}

	if _, known := m.Properties.IdentityProfile["kubeletidentity"]; !known {
		_, client, principal, err := identityOf(ctx, r.Client, kubelet.ResourceID)
		if err != nil {
			return false, err
		}
		kubelet.ClientID, kubelet.ObjectID = client, principal
		m.Properties.IdentityProfile = map[string]KubeletIdentity{"kubeletidentity": kubelet}
	}

	if m.managedRegistry() {
		if mem.ManagedRegistry == "" {
			mem.ManagedRegistry = randomHex(16)
		}
		if err := r.Save(ctx); err != nil { // its name is written down before it is made
			return false, err
		}
		t.buildRegistry(b, r, group, subnet, vnet, kubelet)
	}
	if b.err != nil || len(b.pending) > 0 {
		return false, b.err
	}
	if done, err = t.reach(b, r, group, subnet, vnet); err != nil || !done {
		return false, err
	}
	if t.dropRegistry(b, r); b.err != nil || len(b.pending) > 0 {
		return false, b.err
	}
	return true, t.resolveServer(ctx, r)
}

// buildRegistry makes the AKS-managed registry: Premium, closed, with the cache rule for MCR, its
// private endpoint, the zone that makes it resolvable, and the kubelet identity's AcrPull.
func (t service) buildRegistry(b *builder, r *resourcetype.Reconciliation[Model], group, subnet, vnet resourceid.ID, kubelet KubeletIdentity) {
	m, mem := r.Model, r.Model.Memory
	registry := managedRegistryID(r.ID, m)
	b.put(registry, registryAPI, object{"location": m.Location, "sku": object{"name": "Premium"}, "properties": object{
		"adminUserEnabled": false, "anonymousPullEnabled": false, "publicNetworkAccess": "Disabled",
		"networkRuleSet": object{"defaultAction": "Deny"},
	}})
	b.put(registry.Child("cacheRules", "aks-managed-mcr"), registryAPI, object{"properties": object{
		"sourceRepository": "mcr.microsoft.com/*", "targetRepository": "aks-managed-repository/*",
	}})
	endpoint := group.Resource("Microsoft.Network/privateEndpoints", "aks-bootstrap-acr-"+mem.Suffix)
	if b.dropDisconnected(endpoint, registry); len(b.pending) > 0 {
		return // what waits for the deletion is made after it
	}
	b.put(endpoint, networkAPI, privateEndpoint(m.Location, subnet, "bootstrap", registry, "registry"))
	zone := zoneAndLink(b, group, "privatelink.azurecr.io", vnet, mem.Suffix)
	assignment := registry.Resource("Microsoft.Authorization/roleAssignments", roleAssignmentName(registry, kubelet.ObjectID, acrPull))
	b.put(assignment, roleAPI, object{"properties": object{
		"roleDefinitionId": "/subscriptions/" + r.ID.Subscription() + "/providers/Microsoft.Authorization/roleDefinitions/" + acrPull,
		"principalId":      kubelet.ObjectID, "principalType": "ServicePrincipal",
	}})
	if b.err != nil || len(b.pending) > 0 {
		return
	}
	addresses, err := endpointAddresses(b.ctx, b.client, endpoint)
	if err != nil {
		b.err = err
		return
	}
	for fqdn, address := range addresses {
		name := strings.TrimSuffix(fqdn, ".azurecr.io")
		b.put(zone.Child("A", name), dnsAPI, record(address))
	}
}

func privateEndpoint(location string, subnet resourceid.ID, connection string, target resourceid.ID, group string) object {
	return object{"location": location, "properties": object{
		"subnet": object{"id": subnet.String()},
		"privateLinkServiceConnections": []object{{"name": connection, "properties": object{
			"privateLinkServiceId": target.String(), "groupIds": []string{group},
		}}},
	}}
}

// zoneAndLink makes a private DNS zone and links the VNet to it.
func zoneAndLink(b *builder, group resourceid.ID, name string, vnet resourceid.ID, suffix string) resourceid.ID {
	zone := group.Resource(zoneType, name)
	b.put(zone, dnsAPI, object{"location": "global"})
	link(b, zone.Child("virtualNetworkLinks", "aks-"+suffix), vnet)
	return zone
}

// link lets the VNet see the link's zone.
func link(b *builder, id, vnet resourceid.ID) {
	if b.err != nil {
		return
	}
	b.put(id, dnsAPI, object{"location": "global", "properties": object{
		"registrationEnabled": false, "virtualNetwork": object{"id": vnet.String()},
	}})
	// A VNet of the user's that has a zone of the name already; AKS says so with this code.
	if e, refused := armerror.As(b.err); refused && e.Code == "BadRequest" {
		zone, _ := id.Parent()
		b.err = armerror.New("CreateOrUpdateVirtualNetworkLinkFailed", "Reconcile private dns failed. Details: Create or update virtual network link failed. Subscription: %s; resource group: %s; private dns zone: %s; virtual network link: %s. Message: %s",
			zone.Subscription(), zone.ResourceGroup(), zone.Name(), id.Name(), e.Message)
	}
}

// record is an A record of one address. Private endpoints' records live ten seconds on Azure.
func record(address string) object {
	return object{"properties": object{"ttl": 10, "aRecords": []object{{"ipv4Address": address}}}}
}

// endpointAddresses maps the names that a private endpoint serves to its addresses, which its network
// interface holds: with a zone group attached an endpoint's own customDnsConfigs is empty on Azure.
func endpointAddresses(ctx context.Context, docs resourcetype.Reader, endpoint resourceid.ID) (map[string]string, error) {
	var doc struct {
		Properties struct {
			NetworkInterfaces []struct {
				ID resourceid.ID `json:"id"`
			} `json:"networkInterfaces"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, endpoint, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", endpoint, err)
	}
	addresses := map[string]string{}
	for _, n := range doc.Properties.NetworkInterfaces {
		var nic struct {
			Properties struct {
				IPConfigurations []struct {
					Properties struct {
						PrivateIPAddress string `json:"privateIPAddress"`
						PrivateLink      struct {
							FQDNs []string `json:"fqdns"`
						} `json:"privateLinkConnectionProperties"`
					} `json:"properties"`
				} `json:"ipConfigurations"`
			} `json:"properties"`
		}
		if err := docs.Get(ctx, n.ID, &nic); err != nil {
			return nil, fmt.Errorf("read the network interface of %s: %w", endpoint, err)
		}
		for _, c := range nic.Properties.IPConfigurations {
			for _, fqdn := range c.Properties.PrivateLink.FQDNs {
				addresses[fqdn] = c.Properties.PrivateIPAddress
			}
		}
	}
	return addresses, nil
}

// resolveServer computes the registry server that new nodes are given. A rule whose target is
// aks-managed-repository/* means the prefixed server of today's recipe; otherwise the bare one of the
// walkthrough's.
func (t service) resolveServer(ctx context.Context, r *resourcetype.Reconciliation[Model]) error {
	m := r.Model
	id := registryID(r.ID, m)
	m.Memory.RegistryServer = ""
	if id.IsZero() {
		return nil
	}
	m.Properties.BootstrapProfile.ContainerRegistryID = id.String()
	var registry struct {
		Properties struct {
			LoginServer string `json:"loginServer"`
		} `json:"properties"`
	}
	if err := r.Client.Get(ctx, id, &registry); err != nil {
		return fmt.Errorf("read the bootstrap registry %s: %w", id, err)
	}
	m.Memory.RegistryServer = registry.Properties.LoginServer
	rules, err := r.Client.List(ctx, id, "Microsoft.ContainerRegistry/registries/cacheRules")
	if err != nil {
		return err
	}
	for _, rule := range rules {
		var doc struct {
			Properties struct {
				TargetRepository string `json:"targetRepository"`
			} `json:"properties"`
		}
		if err := r.Client.Get(ctx, rule.ID, &doc); err != nil {
			return err
		}
		if doc.Properties.TargetRepository == "aks-managed-repository/*" {
			m.Memory.RegistryServer += "/aks-managed-repository"
			break
		}
	}
	return nil
}
