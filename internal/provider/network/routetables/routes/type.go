// Package routes is the resource type Microsoft.Network/routeTables/routes: one prefix and where packets to it go.
//
// https://learn.microsoft.com/azure/virtual-network/virtual-networks-udr-overview
package routes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// Name is the resource type.
const Name = "Microsoft.Network/routeTables/routes"

// Next hop types.
const (
	VnetLocal        = "VnetLocal"
	Internet         = "Internet"
	VirtualAppliance = "VirtualAppliance"
	None             = "None"
)

// Model is the document of a route.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a route's.
type Properties struct {
	AddressPrefix    string `json:"addressPrefix"`
	NextHopType      string `json:"nextHopType"`
	NextHopIPAddress string `json:"nextHopIpAddress,omitempty"`
	HasBGPOverride   *bool  `json:"hasBgpOverride,omitempty"` // only in answers
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
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("route")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply route %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	prefix, problems := validate(r.ID.Name(), p)
	parent, _ := r.ID.Parent()
	siblings, err := r.Documents.List(ctx, parent, Name)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", parent, err)
	}
	for _, s := range siblings {
		var m Model
		if s.ID.Equal(r.ID) || json.Unmarshal(s.Body, &m) != nil {
			continue
		}
		if other, err := ipam.Parse(m.Properties.AddressPrefix); err == nil && prefix.IsValid() && other == prefix {
			problems = append(problems, armerror.New("RouteConflict", "Route %s conflicts with route %s. Routes cannot have the same AddressPrefix.", r.ID.Name(), s.ID.Name()).WithTarget("properties.addressPrefix"))
		}
	}
	overrides := false
	p.HasBGPOverride = &overrides
	return armerror.Join(problems)
}

func validate(name string, p *Properties) (netip.Prefix, []*armerror.Error) {
	var problems []*armerror.Error
	add := func(target, code, format string, args ...any) {
		problems = append(problems, armerror.New(code, format, args...).WithTarget("properties."+target))
	}
	prefix, err := ipam.Parse(p.AddressPrefix)
	switch {
	case errors.Is(err, ipam.ErrFamily):
		add("addressPrefix", armerror.NotSupported, "The IPv6 address prefix %s of route '%s' is not supported by Cloister.", p.AddressPrefix, name)
	case errors.Is(err, ipam.ErrHostBits):
		add("addressPrefix", "InvalidCIDRNotation", "The address prefix %s in route %s has an invalid CIDR notation. For the given prefix length, the address prefix should be %s.", p.AddressPrefix, name, prefix)
	case err != nil && regexp.MustCompile(`^[A-Za-z]+(\.[A-Za-z0-9]+)?$`).MatchString(p.AddressPrefix):
		add("addressPrefix", armerror.NotSupported, "The service tag %s as the address prefix of route '%s' is not supported by Cloister.", p.AddressPrefix, name)
	case err != nil:
		add("addressPrefix", "InvalidAddressPrefixFormat", "Address prefix %s of route %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", p.AddressPrefix, name)
	}
	if err != nil {
		prefix = netip.Prefix{}
	}
	found := false
	for _, known := range []string{VnetLocal, Internet, VirtualAppliance, None} {
		if strings.EqualFold(known, p.NextHopType) {
			p.NextHopType, found = known, true
		}
	}
	switch {
	case strings.EqualFold(p.NextHopType, "VirtualNetworkGateway"):
		add("nextHopType", armerror.NotSupported, "The next hop type VirtualNetworkGateway of route '%s' is not supported by Cloister: there are no gateways.", name)
	case !found:
		add("nextHopType", "InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of nextHopType.", p.NextHopType)
	case p.NextHopType == VirtualAppliance:
		if a, err := netip.ParseAddr(p.NextHopIPAddress); err != nil || !a.Is4() {
			add("nextHopIpAddress", "InvalidNextHopIpAddress", "Route '%s' has next hop type VirtualAppliance, and '%s' is not the IPv4 address of one.", name, p.NextHopIPAddress)
		}
	case p.NextHopIPAddress != "":
		add("nextHopIpAddress", "InvalidNextHopIpAddress", "Route '%s' has a next hop IP address, which is only allowed with next hop type VirtualAppliance.", name)
	}
	return prefix, problems
}
