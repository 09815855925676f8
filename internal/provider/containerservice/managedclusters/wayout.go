package managedclusters

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

const (
	publicIPType = "Microsoft.Network/publicIPAddresses"
	nicType      = "Microsoft.Network/networkInterfaces"
)

// wayOut makes what the cluster's outbound type stands on, after it has taken away what another type stood on.
// While that is under way b.pending says so.
func (t service) wayOut(b *builder, r *resourcetype.Reconciliation[Model]) {
	n, mem := r.Model.Properties.NetworkProfile, r.Model.Memory
	w := wayOut{builder: b, r: r, group: nodeGroup(r.ID, r.Model), suffix: mem.Suffix}
	changed := mem.Outbound != n.OutboundType
	if changed && mem.Outbound != "" {
		w.remove(mem.Outbound)
		if b.err != nil || len(b.pending) > 0 {
			return
		}
	}
	if changed {
		mem.Outbound = n.OutboundType
		if b.err = r.Save(b.ctx); b.err != nil { // written down before anything of it is made
			return
		}
	}
	switch n.OutboundType {
	case outboundLoadBalancer:
		w.loadBalancer(n.LoadBalancer)
	case outboundManagedNAT:
		w.natGateway(n.NATGateway)
	case outboundBlock:
		w.block()
	}
	if changed && b.err == nil && len(b.pending) == 0 {
		b.err = t.World.Sync(b.ctx) // whoever is told that the update is done finds the packets going as it says
	}
}

// wayOut is one making or removal.
type wayOut struct {
	*builder
	r      *resourcetype.Reconciliation[Model]
	group  resourceid.ID
	suffix string
}

// remove takes away what was made for the outbound type.
func (w wayOut) remove(outboundType string) {
	switch outboundType {
	case outboundLoadBalancer:
		w.r.Model.Memory.BackendPools = nil
		if w.members(nil); w.err != nil || len(w.pending) > 0 {
			return
		}
		w.delete(w.balancerID())
		w.surplus(0)
	case outboundManagedNAT:
		w.subnet(nil)
		w.delete(w.gatewayID())
		w.surplus(0)
	case outboundBlock:
		for _, rule := range blockRules {
			w.delete(w.groupOfRules().Child("securityRules", rule.name))
		}
	}
}

// delete asks for the resource's deletion and remembers whether it is gone. What is still in use is waited for by
// doing nothing else: everything here is deleted in the order of its references.
func (w wayOut) delete(id resourceid.ID) {
	if w.err != nil || len(w.pending) > 0 {
		return
	}
	gone, err := w.client.Delete(w.ctx, id)
	if err != nil {
		w.err = fmt.Errorf("delete %s: %w", id, err)
	} else if !gone {
		w.pending = append(w.pending, id.String())
	}
}

func (w wayOut) balancerID() resourceid.ID {
	return w.group.Resource("Microsoft.Network/loadBalancers", "kubernetes")
}

func (w wayOut) gatewayID() resourceid.ID {
	return w.group.Resource("Microsoft.Network/natGateways", "aks-natgateway-"+w.suffix)
}

func (w wayOut) groupOfRules() resourceid.ID {
	return w.group.Resource("Microsoft.Network/networkSecurityGroups", "aks-agentpool-"+w.suffix+"-nsg")
}

// publicIPs makes as many public IP addresses as are wanted, and deletes those beyond. Their names are GUIDs, as AKS's.
func (w wayOut) publicIPs(count int) []reference {
	mem := w.r.Model.Memory
	for len(mem.OutboundIPs) < count {
		mem.OutboundIPs = append(mem.OutboundIPs, uuid.NewString())
	}
	if w.err == nil && count > 0 {
		w.err = w.r.Save(w.ctx)
	}
	var out []reference
	for _, name := range mem.OutboundIPs[:count] {
		id := w.group.Resource(publicIPType, name)
		w.put(id, networkAPI, object{
			"location": w.r.Model.Location, "sku": object{"name": "Standard", "tier": "Regional"},
			"tags":       object{"aks-managed-type": "aks-slb-managed-outbound-ip"},
			"properties": object{"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4", "idleTimeoutInMinutes": balancerIdle},
		})
		out = append(out, reference{id.String()})
	}
	return out
}

// surplus deletes the public IP addresses that nothing refers to any more.
func (w wayOut) surplus(count int) {
	mem := w.r.Model.Memory
	for len(mem.OutboundIPs) > count && w.err == nil && len(w.pending) == 0 {
		last := len(mem.OutboundIPs) - 1
		if w.delete(w.group.Resource(publicIPType, mem.OutboundIPs[last])); w.err == nil && len(w.pending) == 0 {
			mem.OutboundIPs = mem.OutboundIPs[:last]
		}
	}
}

// loadBalancer makes the load balancer "kubernetes" with the outbound rule that AKS gives it, and has the nodes join it.
func (w wayOut) loadBalancer(p *LoadBalancerProfile) {
	m := w.r.Model
	count := 0
	if p.ManagedOutboundIPs != nil && p.OutboundIPs == nil {
		count = p.ManagedOutboundIPs.Count
	}
	ips := w.publicIPs(count)
	if p.OutboundIPs != nil {
		ips = p.OutboundIPs.PublicIPs
	}
	if w.err != nil || len(w.pending) > 0 {
		return
	}
	id := w.balancerID()
	sub := func(kind, name string) object { return object{"id": id.String() + "/" + kind + "/" + name} }
	frontends, refs := []object{}, []object{}
	for _, ip := range ips {
		name := resourceid.MustParse(ip.ID).Name()
		frontends = append(frontends, object{"name": name, "properties": object{"publicIPAddress": object{"id": ip.ID}}})
		refs = append(refs, sub("frontendIPConfigurations", name))
	}
	w.put(id, networkAPI, object{"location": m.Location, "sku": object{"name": "Standard", "tier": "Regional"}, "properties": object{
		"frontendIPConfigurations": frontends,
		"backendAddressPools":      []object{{"name": backendServices}, {"name": backendOutbound}},
		"outboundRules": []object{{"name": "aksOutboundRule", "properties": object{
			"frontendIPConfigurations": refs, "backendAddressPool": sub("backendAddressPools", backendOutbound),
			"protocol": "All", "idleTimeoutInMinutes": balancerIdle, "allocatedOutboundPorts": 0, "enableTcpReset": true,
		}}},
	}})
	if w.err != nil || len(w.pending) > 0 {
		return
	}
	m.Memory.BackendPools = []string{id.String() + "/backendAddressPools/" + backendServices, id.String() + "/backendAddressPools/" + backendOutbound}
	p.EffectiveOutboundIPs = ips
	w.members(m.Memory.BackendPools)
	w.surplus(count)
}

// The backend pools of AKS's load balancer: one for Services, one for the outbound rule.
const (
	backendServices = "kubernetes"
	backendOutbound = "aksOutboundBackendPool"
)

// members has every node that there is be a member of the backend pools and of no others. New nodes join by themselves.
func (w wayOut) members(pools []string) {
	if w.err != nil {
		return
	}
	nics, err := w.client.List(w.ctx, w.group, nicType)
	if err != nil {
		w.err = fmt.Errorf("list the network interfaces in %s: %w", w.group, err)
		return
	}
	refs := []reference{}
	for _, p := range pools {
		refs = append(refs, reference{p})
	}
	for _, nic := range nics {
		if !strings.HasPrefix(nic.ID.Name(), "aks-") || !strings.HasSuffix(nic.ID.Name(), "-nic") {
			continue // a private endpoint's
		}
		var doc struct {
			Location   string `json:"location"`
			Properties struct {
				IPConfigurations []map[string]any `json:"ipConfigurations"`
			} `json:"properties"`
		}
		if err := w.client.Get(w.ctx, nic.ID, &doc); err != nil {
			w.err = fmt.Errorf("read %s: %w", nic.ID, err)
			return
		}
		for _, c := range doc.Properties.IPConfigurations {
			if p, ok := c["properties"].(map[string]any); ok && p["primary"] == true {
				p["loadBalancerBackendAddressPools"] = refs // pods leave by their node's address
			}
		}
		w.put(nic.ID, networkAPI, object{"location": doc.Location, "properties": object{"ipConfigurations": doc.Properties.IPConfigurations}})
	}
}

// natGateway makes the NAT gateway of the outbound type managedNATGateway, and puts it on the managed subnet.
func (w wayOut) natGateway(p *NATGatewayProfile) {
	ips := w.publicIPs(p.ManagedOutboundIPs.Count)
	if w.err != nil || len(w.pending) > 0 {
		return
	}
	id := w.gatewayID()
	w.put(id, networkAPI, object{"location": w.r.Model.Location, "sku": object{"name": "Standard"}, "properties": object{
		"publicIpAddresses": ips, "idleTimeoutInMinutes": *p.IdleTimeoutInMinutes,
	}})
	if w.err != nil || len(w.pending) > 0 {
		return
	}
	w.subnet(object{"id": id.String()})
	p.EffectiveOutboundIPs = ips
	w.surplus(p.ManagedOutboundIPs.Count)
}

// subnet puts the NAT gateway on the managed subnet, or takes it off.
func (w wayOut) subnet(gateway any) {
	body := managedSubnet(w.groupOfRules())
	body["natGateway"] = gateway
	w.put(resourceid.MustParse(w.r.Model.Memory.SubnetID), networkAPI, object{"properties": body})
}

// managedSubnet is the subnet of the VNet that AKS makes. Since 2026-03-31 it is private.
func managedSubnet(nsg resourceid.ID) object {
	return object{
		"addressPrefix": managedSubnetPrefix.String(), "defaultOutboundAccess": false,
		"privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled",
		"networkSecurityGroup": object{"id": nsg.String()},
	}
}

// blockRules keep the nodes of the outbound type block in their VNet. No source shows AKS's own; names and priorities
// are those with which AgentBaker's tests imitate them. A rule of the user's with a lower number comes first.
var blockRules = []struct {
	name, source, destination, access string
	priority                          int
}{
	{"AllowVnetOutBound", "VirtualNetwork", "VirtualNetwork", "Allow", 2000},
	{"block-all-outbound", "*", "*", "Deny", 2001},
}

func (w wayOut) block() {
	for _, rule := range blockRules {
		w.put(w.groupOfRules().Child("securityRules", rule.name), networkAPI, object{"properties": object{
			"description": "Made by Cloister for outbound type block",
			"direction":   "Outbound", "access": rule.access, "priority": rule.priority, "protocol": "*",
			"sourceAddressPrefix": rule.source, "sourcePortRange": "*", "destinationAddressPrefix": rule.destination, "destinationPortRange": "*",
		}})
	}
}

// dropRegistry takes the AKS-managed registry away with all that was made for it, once neither the cluster nor any
// node is configured with it. Nodes are until they are reimaged.
func (t service) dropRegistry(b *builder, r *resourcetype.Reconciliation[Model]) {
	m, mem := r.Model, r.Model.Memory
	if b.err != nil || mem.ManagedRegistry == "" || m.managedRegistry() {
		return
	}
	pools, err := t.registryPools(b.ctx, r)
	if err != nil {
		b.err = err
		return
	}
	if len(pools) > 0 {
		mem.RegistryPools = pools
		return
	}
	w := wayOut{builder: b, r: r, group: nodeGroup(r.ID, m), suffix: mem.Suffix}
	zone := w.group.Resource("Microsoft.Network/privateDnsZones", "privatelink.azurecr.io")
	w.delete(w.group.Resource("Microsoft.Network/privateEndpoints", "aks-bootstrap-acr-"+mem.Suffix))
	w.delete(zone.Child("virtualNetworkLinks", "aks-"+mem.Suffix))
	w.delete(zone)
	w.delete(managedRegistryID(r.ID, m))
	if b.err == nil && len(b.pending) == 0 {
		mem.ManagedRegistry, mem.RegistryPools = "", nil
	}
}

// registryPools are the pools with a node, or a model for the next one, that was provisioned with the managed registry.
func (t service) registryPools(ctx context.Context, r *resourcetype.Reconciliation[Model]) ([]string, error) {
	pools, err := r.Client.List(ctx, r.ID, poolType)
	if err != nil {
		return nil, fmt.Errorf("list the agent pools of %s: %w", r.ID, err)
	}
	var out []string
	for _, p := range pools {
		var v poolView
		if err := r.Client.Get(ctx, p.ID, &v); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ID, err)
		}
		uses := func(m nodeModel) bool { return strings.HasPrefix(m.RegistryServer, r.Model.Memory.ManagedRegistry+".") }
		if v.Memory.Model != nil && uses(*v.Memory.Model) || slices.ContainsFunc(v.Memory.Machines, uses) {
			out = append(out, p.ID.Name())
		}
	}
	return out, nil
}
