package managedclusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Outbound types, as Azure spells them.
const (
	outboundLoadBalancer = "loadBalancer"
	outboundManagedNAT   = "managedNATGateway"
	outboundOwnNAT       = "userAssignedNATGateway"
	outboundRouting      = "userDefinedRouting"
	outboundNone         = "none"
	outboundBlock        = "block"
)

var outboundTypes = []string{outboundLoadBalancer, outboundManagedNAT, outboundOwnNAT, outboundRouting, outboundNone, outboundBlock}

// migrations are the changes of the outbound type that AKS allows in a VNet that it made.
//
// https://learn.microsoft.com/azure/aks/egress-outboundtype#supported-migration-paths-for-managed-virtual-network
var migrations = map[string][]string{
	outboundLoadBalancer: {outboundManagedNAT, outboundNone, outboundBlock},
	outboundManagedNAT:   {outboundNone, outboundBlock},
	outboundNone:         {outboundLoadBalancer, outboundManagedNAT, outboundBlock},
	outboundBlock:        {outboundLoadBalancer, outboundManagedNAT, outboundNone},
}

// ownMigrations are those in the user's VNet: every type that there is there, to every other.
var ownMigrations = []string{outboundLoadBalancer, outboundOwnNAT, outboundRouting, outboundNone}

// isolated reports whether the type grants no way out.
func isolated(outboundType string) bool {
	return outboundType == outboundNone || outboundType == outboundBlock
}

// fold is the spelling of a value that was written in any case; another value stays as it is.
func fold(value string, known ...string) string {
	if i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, value) }); i >= 0 {
		return known[i]
	}
	return value
}

// ownNetwork reports whether the nodes are in a VNet of the user's.
func ownNetwork(r *resourcetype.Request[Model]) bool {
	m := r.Model
	if r.Existing == nil {
		return slices.ContainsFunc(m.Properties.AgentPoolProfiles, func(p map[string]any) bool {
			s, _ := p["vnetSubnetID"].(string)
			return s != ""
		})
	}
	subnet, err := resourceid.Parse(m.Memory.SubnetID)
	return err == nil && m.Memory.SubnetID != "" && !nodeGroup(r.ID, m).Contains(subnet)
}

const outboundTarget = "properties.networkProfile.outboundType"

// validateOutbound holds the outbound type against the nodes' network and against the type that the cluster has.
// The codes are those of AKS's error list; the words of those without a link to a source are Cloister's.
func (t service) validateOutbound(ctx context.Context, r *resourcetype.Request[Model]) error {
	n := r.Model.Properties.NetworkProfile
	now, was := n.OutboundType, ""
	if r.Existing != nil && r.Existing.Properties.NetworkProfile != nil {
		was = r.Existing.Properties.NetworkProfile.OutboundType
	}
	refuse := func(code, format string, args ...any) error {
		return armerror.New(code, format, args...).WithTarget(outboundTarget)
	}
	if now == "managedNATGatewayV2" {
		return refuse(codeUnsupported, "networkProfile.outboundType %q is not supported by Cloister; use '%s'.", now, outboundManagedNAT)
	}
	if !slices.Contains(outboundTypes, now) {
		return refuse(codeOutboundType, "networkProfile.outboundType %q is not valid. Allowed values: %s.", now, strings.Join(outboundTypes, ", "))
	}
	own := ownNetwork(r)
	switch {
	case now == outboundManagedNAT && own:
		return refuse("ManagedNATGatewayWithCustomVNetNotAllowed", "Outbound type %s is not allowed with a custom virtual network; use '%s'.", now, outboundOwnNAT)
	case now == outboundOwnNAT && !own:
		return refuse("UserAssignedNATGatewayWithManagedVNetNotAllowed", "Outbound type %s is only allowed with a custom virtual network; use '%s'.", now, outboundManagedNAT)
	case now == outboundRouting && !own:
		return refuse(codeOutboundType, "Outbound type %s is only supported with a custom virtual network, whose subnet has a route table.", now)
	case now == outboundBlock && own:
		return refuse(codeOutboundType, "Outbound type %s is not supported with a custom virtual network; use '%s' and rules of your own in the subnet's network security group.", now, outboundNone)
	}
	if now == outboundBlock && was != outboundBlock {
		if err := requireFeature(ctx, r.Documents, r.ID.Subscription(), blockPreviewFlag, outboundTarget); err != nil {
			return err
		}
	}
	if was != "" && was != now {
		to := migrations[was]
		if own {
			to = ownMigrations
		}
		if !slices.Contains(to, now) {
			return refuse("UpdatingOutboundTypeNotAllowed", "Changing the outbound type from %s to %s is not allowed. Please refer to https://aka.ms/aks/outboundtype for more details", was, now)
		}
	}
	if isolates(r) {
		inSteps, err := t.InSteps()
		if err != nil {
			return err
		}
		if inSteps {
			return refuse(codeIsolation, "bootstrapProfile.artifactSource and networkProfile.outboundType cannot be changed in one update. Set artifactSource to 'Cache', reimage all node pools, and change the outbound type then")
		}
	}
	if err := validateProfiles(ctx, r.Documents, n); err != nil {
		return err
	}
	if now != outboundOwnNAT && now != outboundRouting {
		return nil
	}
	subnets, err := subnetsOf(ctx, r)
	if err != nil {
		return err
	}
	for _, id := range subnets {
		if err := validateWayOut(ctx, r.Documents, now, id); err != nil {
			return err
		}
	}
	return nil
}

// isolates reports whether the request changes the artifact source to Cache and takes the way out away, both at once.
func isolates(r *resourcetype.Request[Model]) bool {
	if r.Existing == nil {
		return false
	}
	was, now := r.Existing.Properties, r.Model.Properties
	return was.BootstrapProfile != nil && was.BootstrapProfile.ArtifactSource == "Direct" && now.BootstrapProfile.ArtifactSource == "Cache" && isolated(now.NetworkProfile.OutboundType)
}

// AKS's default idle timeouts in minutes, of a load balancer's rule and of a NAT gateway.
const (
	balancerIdle = 30
	gatewayIdle  = 4
)

// validateProfiles checks what the request says about the addresses that a cluster is seen with outside.
func validateProfiles(ctx context.Context, docs resourcetype.Reader, n *NetworkProfile) error {
	const at = "properties.networkProfile."
	if p := n.LoadBalancer; p != nil {
		switch {
		case n.OutboundType == outboundRouting && (p.ManagedOutboundIPs != nil || p.OutboundIPs != nil):
			return armerror.New("InvalidUserDefinedRoutingWithLoadBalancerProfile", "UserDefinedRouting and load balancer profile are mutually exclusive. Please refer to http://aka.ms/aks/outboundtype for more details").WithTarget("networkProfile.loadBalancerProfile")
		case p.BackendPoolType != "nodeIPConfiguration":
			return armerror.New(codeUnsupported, "networkProfile.loadBalancerProfile.backendPoolType %q is not supported by Cloister; use 'nodeIPConfiguration'.", p.BackendPoolType).WithTarget(at + "loadBalancerProfile.backendPoolType")
		case len(p.OutboundIPPrefixes) > 0 && string(p.OutboundIPPrefixes) != "null":
			return armerror.New(codeUnsupported, "networkProfile.loadBalancerProfile.outboundIPPrefixes is not supported by Cloister; use outboundIPs or managedOutboundIPs.").WithTarget(at + "loadBalancerProfile.outboundIPPrefixes")
		case p.ManagedOutboundIPs != nil && (p.ManagedOutboundIPs.Count < 1 || p.ManagedOutboundIPs.Count > 100):
			return armerror.New("InvalidLoadBalancerProfileManagedOutboundIPCount", "The managed outbound IP count %d is not between 1 and 100.", p.ManagedOutboundIPs.Count).WithTarget(at + "loadBalancerProfile.managedOutboundIPs.count")
		case p.AllocatedOutboundPorts != nil && *p.AllocatedOutboundPorts != 0:
			return armerror.New(codeUnsupported, "networkProfile.loadBalancerProfile.allocatedOutboundPorts %d is not supported by Cloister; ports are not rationed, which is 0.", *p.AllocatedOutboundPorts).WithTarget(at + "loadBalancerProfile.allocatedOutboundPorts")
		case p.IdleTimeoutInMinutes != nil && *p.IdleTimeoutInMinutes != balancerIdle:
			return armerror.New(codeUnsupported, "networkProfile.loadBalancerProfile.idleTimeoutInMinutes %d is not supported by Cloister; the one that there is is %d.", *p.IdleTimeoutInMinutes, balancerIdle).WithTarget(at + "loadBalancerProfile.idleTimeoutInMinutes")
		}
		if p.OutboundIPs != nil {
			if err := validateOwnIPs(ctx, docs, p, at+"loadBalancerProfile.outboundIPs"); err != nil {
				return err
			}
		}
	}
	if p := n.NATGateway; p != nil {
		if c := p.ManagedOutboundIPs; c != nil && (c.Count < 1 || c.Count > 16) {
			return armerror.New("InvalidNATGatewayProfileManagedOutboundIPCount", "The managed outbound IP count %d is not between 1 and 16.", c.Count).WithTarget(at + "natGatewayProfile.managedOutboundIPProfile.count")
		}
		if i := p.IdleTimeoutInMinutes; i != nil && (*i < 4 || *i > 120) {
			return armerror.New("InvalidNATGatewayProfileIdleTimeoutInMinutes", "The idle timeout of %d minutes is not between 4 and 120.", *i).WithTarget(at + "natGatewayProfile.idleTimeoutInMinutes")
		} else if i != nil && *i != gatewayIdle {
			return armerror.New(codeUnsupported, "networkProfile.natGatewayProfile.idleTimeoutInMinutes %d is not supported by Cloister; the one that there is is %d.", *i, gatewayIdle).WithTarget(at + "natGatewayProfile.idleTimeoutInMinutes")
		}
	}
	return nil
}

// validateOwnIPs checks the public IP addresses that the user has the load balancer go out by.
func validateOwnIPs(ctx context.Context, docs resourcetype.Reader, p *LoadBalancerProfile, target string) error {
	const code = "InvalidLoadBalancerProfileOutboundIPs"
	switch {
	case len(p.OutboundIPs.PublicIPs) == 0:
		return armerror.New(code, "loadBalancerProfile.outboundIPs names no public IP address.").WithTarget(target)
	case p.ManagedOutboundIPs != nil:
		return armerror.New(code, "loadBalancerProfile.outboundIPs and loadBalancerProfile.managedOutboundIPs are mutually exclusive.").WithTarget(target)
	}
	for i, ip := range p.OutboundIPs.PublicIPs {
		at := fmt.Sprintf("%s.publicIPs[%d]", target, i)
		id, err := resourceid.Parse(ip.ID)
		if err != nil || !id.Is(publicIPType) {
			return armerror.New(code, "%q is not the resource ID of a public IP address.", ip.ID).WithTarget(at)
		}
		switch err := docs.Get(ctx, id, new(json.RawMessage)); {
		case errors.Is(err, resourcestore.ErrNotFound):
			return armerror.New("LoadBalancerProfileOutboundIPNotExist", "The public IP address %s does not exist.", ip.ID).WithTarget(at)
		case err != nil:
			return fmt.Errorf("read %s: %w", ip.ID, err)
		}
	}
	return nil
}

// subnetsOf are the subnets of all pools: those of the request, and those that are there.
func subnetsOf(ctx context.Context, r *resourcetype.Request[Model]) ([]string, error) {
	var out []string
	add := func(s string) {
		if s != "" && !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, s) }) {
			out = append(out, s)
		}
	}
	for _, p := range r.Model.Properties.AgentPoolProfiles {
		s, _ := p["vnetSubnetID"].(string)
		add(s)
	}
	pools, err := r.Documents.List(ctx, r.ID, poolType)
	if err != nil {
		return nil, fmt.Errorf("list the agent pools of %s: %w", r.ID, err)
	}
	for _, p := range pools {
		var doc struct {
			Properties struct {
				VnetSubnetID string `json:"vnetSubnetID"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(p.Body, &doc); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ID, err)
		}
		add(doc.Properties.VnetSubnetID)
	}
	return out, nil
}

// validateWayOut checks that the subnet has what the user says its way out is. A subnet that is not there is the
// pools' to refuse.
func validateWayOut(ctx context.Context, docs resourcetype.Reader, outboundType, id string) error {
	refuse := func(code, format string, args ...any) error {
		return armerror.New(code, format, args...).WithTarget(outboundTarget)
	}
	parsed, err := resourceid.Parse(id)
	if err != nil {
		return nil
	}
	var subnet struct {
		Properties struct {
			NATGateway *reference `json:"natGateway"`
			RouteTable *reference `json:"routeTable"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, parsed, &subnet); errors.Is(err, resourcestore.ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	if outboundType == outboundOwnNAT {
		if subnet.Properties.NATGateway == nil {
			return refuse("SubnetNotAssociatedWithNATGateway", "Subnet %s is not associated with a NAT gateway. Please refer to https://aka.ms/aks/nat-gateway for more details", id)
		}
		return validateNATGateway(ctx, docs, subnet.Properties.NATGateway.ID)
	}
	if subnet.Properties.RouteTable == nil {
		return refuse("ExistingRouteTableNotAssociatedWithSubnet", "An existing route table has not been associated with subnet %s. Please update the route table association", id)
	}
	return validateRoutes(ctx, docs, subnet.Properties.RouteTable.ID)
}

func validateNATGateway(ctx context.Context, docs resourcetype.Reader, id string) error {
	parsed, err := resourceid.Parse(id)
	if err != nil {
		return armerror.New("InvalidNATGatewayResourceID", "%q is not the resource ID of a NAT gateway.", id).WithTarget(outboundTarget)
	}
	var gateway struct {
		Properties struct {
			PublicIPAddresses []reference `json:"publicIpAddresses"`
			PublicIPPrefixes  []reference `json:"publicIpPrefixes"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, parsed, &gateway); err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	if len(gateway.Properties.PublicIPAddresses)+len(gateway.Properties.PublicIPPrefixes) == 0 {
		return armerror.New("NATGatewayNotAssociatedWithPublicIPOrIPPrefix", "NAT gateway %s is not associated with any public IP address or IP prefix.", id).WithTarget(outboundTarget)
	}
	return nil
}

// validateRoutes checks for the default route that leads to an appliance or a gateway: with any other, nodes would
// go out unseen.
func validateRoutes(ctx context.Context, docs resourcetype.Reader, id string) error {
	parsed, err := resourceid.Parse(id)
	if err != nil {
		return fmt.Errorf("read the ID of a route table: %w", err)
	}
	routes, err := docs.List(ctx, parsed, "Microsoft.Network/routeTables/routes")
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", id, err)
	}
	for _, route := range routes {
		var doc struct {
			Properties struct {
				AddressPrefix string `json:"addressPrefix"`
				NextHopType   string `json:"nextHopType"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(route.Body, &doc); err != nil {
			return fmt.Errorf("read %s: %w", route.ID, err)
		}
		if doc.Properties.AddressPrefix != "0.0.0.0/0" {
			continue
		}
		if h := doc.Properties.NextHopType; h != "VirtualAppliance" && h != "VirtualNetworkGateway" {
			return armerror.New("RouteTableInvalidNextHop", "Default route 0.0.0.0/0 has a next hop of %s but only next hops of VirtualAppliance or VirtualNetworkGateway are allowed. Please see http://aka.ms/aks/outboundtype for more details", h).WithTarget(outboundTarget)
		}
		return nil
	}
	return armerror.New("RouteTableMissingDefaultRouteError", "Route table %s has no route for 0.0.0.0/0. Please see http://aka.ms/aks/outboundtype for more details", id).WithTarget(outboundTarget)
}
