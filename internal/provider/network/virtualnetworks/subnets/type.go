// Package subnets is the resource type Microsoft.Network/virtualNetworks/subnets: a piece of a virtual
// network's address space, with the rules for what leaves and enters it. It reads the virtual network
// and its neighbours only as documents.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/subnets
package subnets

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
)

// Name is the resource type.
const Name = "Microsoft.Network/virtualNetworks/subnets"

// privateByDefault is the first api-version in which a subnet has no default outbound access unless it asks for it.
const privateByDefault = "2025-07-01"

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World) resourcetype.Definition { return resourcetype.Define(Spec(w)) }

// Spec declares the type.
func Spec(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:          Name,
		Placement:     resourcetype.Inherited,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		References:    references,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("subnet")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("bring up subnet %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

// network is what a subnet needs to know of its virtual network.
type network struct {
	Location   string `json:"location"`
	Properties struct {
		AddressSpace struct {
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"addressSpace"`
	} `json:"properties"`
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	parent, _ := r.ID.Parent()
	var vnet network
	if err := r.Documents.Get(ctx, parent, &vnet); err != nil {
		if errors.Is(err, resourcestore.ErrNotFound) {
			return armerror.New(armerror.ParentResourceNotFound, "Can not perform requested operation on nested resource. Parent resource '%s' not found.", parent.Name())
		}
		return fmt.Errorf("read %s: %w", parent, err)
	}

	prefix, problems := validate(r.ID, p, vnet.Properties.AddressSpace.AddressPrefixes)
	if prefix.IsValid() {
		siblings, err := r.Documents.List(ctx, parent, Name)
		if err != nil {
			return fmt.Errorf("list the subnets of %s: %w", parent, err)
		}
		problems = append(problems, overlaps(r.ID, prefix, siblings)...)
	}
	if r.Existing != nil && prefix.IsValid() {
		if old, err := r.Existing.Prefix(); err == nil && old != prefix {
			uses, err := subnetuse.Of(ctx, r.Documents, r.ID)
			if err != nil {
				return err
			}
			if len(uses) > 0 {
				problems = append(problems, armerror.New("InUsePrefixCannotBeDeleted", "IpPrefix %s on Subnet %s has active allocations and cannot be deleted.", old, r.ID.Name()).WithTarget("properties.addressPrefix"))
			}
		}
	}
	for _, ref := range references(r.Model) {
		var target struct {
			Location string `json:"location"`
		}
		err := r.Documents.Get(ctx, ref.ID, &target)
		if err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
			return fmt.Errorf("read %s: %w", ref.ID, err)
		}
		if err != nil || target.Location != "" && vnet.Location != "" && target.Location != vnet.Location {
			problems = append(problems, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", ref.ID, r.ID).WithTarget(ref.Property))
		}
	}
	elsewhere, err := gatewayElsewhere(ctx, r)
	if err != nil {
		return err
	}
	if err := armerror.Join(append(problems, elsewhere...)); err != nil {
		return err
	}

	fill(r, p)
	return nil
}

// gatewayElsewhere refuses a NAT gateway that subnets of another virtual network name: its addresses lead back to one.
func gatewayElsewhere(ctx context.Context, r *resourcetype.Request[Model]) ([]*armerror.Error, error) {
	if r.Model.Properties.NATGateway == nil {
		return nil, nil
	}
	id, err := resourceid.Parse(r.Model.Properties.NATGateway.ID)
	if err != nil {
		return nil, nil // refused already
	}
	users, err := egressuse.SubnetsOf(ctx, r.Documents, id)
	if err != nil {
		return nil, err
	}
	vnet, _ := r.ID.Parent()
	for _, u := range users {
		if !vnet.Contains(u) {
			return []*armerror.Error{armerror.New("NatGatewayInUseByAnotherVirtualNetwork", "NAT gateway %s cannot be used by subnet %s: subnet %s of another virtual network uses it.", id, r.ID, u).WithTarget("properties.natGateway.id")}, nil
		}
	}
	return nil, nil
}

// fill sets defaults and what is read-only.
func fill(r *resourcetype.Request[Model], p *Properties) {
	if p.PrivateEndpointNetworkPolicies == "" {
		p.PrivateEndpointNetworkPolicies = "Disabled"
	}
	if p.PrivateLinkServiceNetworkPolicies == "" {
		p.PrivateLinkServiceNetworkPolicies = "Enabled"
	}
	if p.DefaultOutboundAccess == nil {
		switch {
		case r.Existing != nil:
			p.DefaultOutboundAccess = r.Existing.Properties.DefaultOutboundAccess
		case r.APIVersion >= privateByDefault:
			private := false
			p.DefaultOutboundAccess = &private
		}
	}
	if p.Delegations == nil {
		p.Delegations = []Delegation{}
	}
	for i := range p.Delegations {
		d := &p.Delegations[i]
		d.ID = r.ID.String() + "/delegations/" + d.Name
		d.Type = Name + "/delegations"
		d.Properties.Actions = delegations[d.Properties.ServiceName]
		d.Properties.ProvisioningState = resourcestore.Succeeded
	}
	p.IPConfigurations, p.PrivateEndpoints, p.Purpose = nil, nil, ""
}

func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	uses, err := subnetuse.Of(ctx, r.Documents, r.ID)
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		return subnetuse.InUse(uses[0])
	}
	return nil
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	add := func(property string, s *SubResource, kind string) {
		if s == nil {
			return
		}
		if id, err := resourceid.Parse(s.ID); err == nil && id.Is(kind) {
			refs = append(refs, resourcetype.Reference{Property: property, ID: id, Linked: kind + "/join/action"})
		}
	}
	add("properties.networkSecurityGroup.id", m.Properties.NetworkSecurityGroup, "Microsoft.Network/networkSecurityGroups")
	add("properties.routeTable.id", m.Properties.RouteTable, "Microsoft.Network/routeTables")
	add("properties.natGateway.id", m.Properties.NATGateway, "Microsoft.Network/natGateways")
	return refs
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	uses, err := subnetuse.Of(ctx, v.Documents, v.ID)
	if err != nil {
		return err
	}
	ipConfigurations, privateEndpoints := subnetuse.Links(v.ID, uses)
	for _, l := range ipConfigurations {
		v.Model.Properties.IPConfigurations = append(v.Model.Properties.IPConfigurations, SubResource(l))
	}
	for _, l := range privateEndpoints {
		v.Model.Properties.PrivateEndpoints = append(v.Model.Properties.PrivateEndpoints, SubResource(l))
	}
	return nil
}
