// Package virtualnetworkpeerings is the resource type Microsoft.Network/virtualNetworks/virtualNetworkPeerings: one side
// of the join of two virtual networks, which is there when both sides are.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/virtual-network-peerings
package virtualnetworkpeerings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/vnetpeering"
)

// Name is the resource type.
const Name = vnetpeering.Name

const networksType = "Microsoft.Network/virtualNetworks"

// Model is the document of a peering.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a peering's.
type Properties struct {
	ResourceGUID              string        `json:"resourceGuid,omitempty"`
	AllowVirtualNetworkAccess *bool         `json:"allowVirtualNetworkAccess,omitempty"`
	AllowForwardedTraffic     bool          `json:"allowForwardedTraffic"`
	AllowGatewayTransit       bool          `json:"allowGatewayTransit"`
	UseRemoteGateways         bool          `json:"useRemoteGateways"`
	DoNotVerifyRemoteGateways bool          `json:"doNotVerifyRemoteGateways"`
	PeerCompleteVNets         *bool         `json:"peerCompleteVnets,omitempty"`
	EnableOnlyIPv6Peering     bool          `json:"enableOnlyIPv6Peering,omitempty"`
	LocalSubnetNames          []string      `json:"localSubnetNames,omitempty"`
	RemoteSubnetNames         []string      `json:"remoteSubnetNames,omitempty"`
	RemoteVirtualNetwork      *SubResource  `json:"remoteVirtualNetwork,omitempty"`
	RemoteAddressSpace        *AddressSpace `json:"remoteAddressSpace,omitempty"` // only in answers, as all that follow
	RemoteVNetAddressSpace    *AddressSpace `json:"remoteVirtualNetworkAddressSpace,omitempty"`
	PeeringState              string        `json:"peeringState,omitempty"`
	PeeringSyncLevel          string        `json:"peeringSyncLevel,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// AddressSpace is what a network spans.
type AddressSpace struct {
	AddressPrefixes []string `json:"addressPrefixes"`
}

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
		Name:        Name,
		Placement:   resourcetype.Inherited,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:    "InvalidResourceName",
		NameMessage: "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:     prepare,
		References:  references,
		Render:      render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("peering")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	parent, _ := r.ID.Parent()
	var exists struct{}
	if err := r.Documents.Get(ctx, parent, &exists); errors.Is(err, resourcestore.ErrNotFound) {
		return armerror.New(armerror.ParentResourceNotFound, "Can not perform requested operation on nested resource. Parent resource '%s' not found.", parent.Name())
	} else if err != nil {
		return fmt.Errorf("read %s: %w", parent, err)
	}
	problems := validate(r.ID, p)
	more, err := remote(ctx, r, parent)
	if err != nil {
		return err
	}
	if err := armerror.Join(append(problems, more...)); err != nil {
		return err
	}
	yes := true
	if p.AllowVirtualNetworkAccess == nil {
		p.AllowVirtualNetworkAccess = &yes
	}
	p.PeerCompleteVNets = &yes
	p.RemoteAddressSpace, p.RemoteVNetAddressSpace, p.PeeringState, p.PeeringSyncLevel = nil, nil, "", ""
	p.ResourceGUID = uuid.NewString()
	if r.Existing != nil {
		p.ResourceGUID = r.Existing.Properties.ResourceGUID
	}
	return nil
}

const remoteProperty = "properties.remoteVirtualNetwork.id"

// remote finds what is wrong with the network that is to be joined.
func remote(ctx context.Context, r *resourcetype.Request[Model], parent resourceid.ID) ([]*armerror.Error, error) {
	var text string
	if v := r.Model.Properties.RemoteVirtualNetwork; v != nil {
		text = v.ID
	}
	one := func(code, format string, args ...any) ([]*armerror.Error, error) {
		return []*armerror.Error{armerror.New(code, format, args...).WithTarget(remoteProperty)}, nil
	}
	id, err := resourceid.Parse(text)
	if err != nil || !id.Is(networksType) {
		return one("LinkedInvalidPropertyId", "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", text, remoteProperty)
	}
	if id.Equal(parent) {
		return one("PeeringToSelfNotAllowed", "Cannot create or update peering %s. A virtual network cannot be peered with itself.", r.ID)
	}
	if r.Existing != nil {
		if was, err := resourceid.Parse(r.Existing.Properties.RemoteVirtualNetwork.ID); err == nil && !was.Equal(id) {
			return one("ChangingRemoteVirtualNetworkNotAllowed", "Changing remote virtual network of peering %s from %s to %s is not allowed.", r.ID, was, id)
		}
	}
	var exists struct{}
	if err := r.Documents.Get(ctx, id, &exists); errors.Is(err, resourcestore.ErrNotFound) {
		return one(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.ID)
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	problems, err := vnetpeering.Check(ctx, r.Documents, r.ID, parent, id)
	for i, e := range problems {
		problems[i] = e.WithTarget(remoteProperty)
	}
	return problems, err
}

func validate(id resourceid.ID, p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	for _, unsupported := range []struct {
		asked          bool
		property, what string
	}{
		{p.AllowGatewayTransit, "allowGatewayTransit", "Gateway transit"},
		{p.UseRemoteGateways, "useRemoteGateways", "The use of remote gateways"},
		{p.EnableOnlyIPv6Peering, "enableOnlyIPv6Peering", "Peering of IPv6"},
		{p.PeerCompleteVNets != nil && !*p.PeerCompleteVNets, "peerCompleteVnets", "Peering of single subnets"},
		{len(p.LocalSubnetNames) > 0, "localSubnetNames", "Peering of single subnets"},
		{len(p.RemoteSubnetNames) > 0, "remoteSubnetNames", "Peering of single subnets"},
	} {
		if unsupported.asked {
			problems = append(problems, armerror.New(armerror.NotSupported, "%s of peering '%s' is not supported by Cloister.", unsupported.what, id.Name()).WithTarget("properties."+unsupported.property))
		}
	}
	return problems
}

func references(m *Model) []resourcetype.Reference {
	if m.Properties.RemoteVirtualNetwork == nil {
		return nil
	}
	id, err := resourceid.Parse(m.Properties.RemoteVirtualNetwork.ID)
	if err != nil {
		return nil
	}
	return []resourcetype.Reference{{Property: remoteProperty, ID: id, Linked: networksType + "/peer/action"}}
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	parent, _ := v.ID.Parent()
	all, err := vnetpeering.Of(ctx, v.Documents, parent)
	if err != nil {
		return err
	}
	for _, p := range all {
		if !p.ID.Equal(v.ID) {
			continue
		}
		fields, err := json.Marshal(p.Fields())
		if err != nil {
			return err
		}
		return json.Unmarshal(fields, &v.Model.Properties)
	}
	v.Model.Properties.PeeringState = "Disconnected" // it is being deleted
	return nil
}
