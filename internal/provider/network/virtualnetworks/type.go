// Package virtualnetworks is the resource type Microsoft.Network/virtualNetworks: an address space in
// which subnets are cut. It knows no other type's package; subnets and peerings that a request
// carries inline are written as documents of their own.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/virtual-networks
package virtualnetworks

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/inlinechildren"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
	"github.com/cloister-dev/cloister/internal/provider/network/vnetpeering"
)

// Type names.
const (
	Name        = "Microsoft.Network/virtualNetworks"
	subnetsType = "Microsoft.Network/virtualNetworks/subnets"
)

// childTypes are those whose documents lie in a virtual network's.
var childTypes = []string{subnetsType, vnetpeering.Name}

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
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_]$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 64 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("network")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("bring up the network of %s: %w", r.ID, err)
			}
			return inlinechildren.Await(ctx, r, childTypes...)
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	problems := validate(r.ID, p)

	// A request without the property leaves the children alone; a list is the whole truth.
	if p.Subnets == nil {
		stored, err := r.Documents.List(ctx, r.ID, subnetsType)
		if err != nil {
			return fmt.Errorf("list the subnets of %s: %w", r.ID, err)
		}
		problems = append(problems, keepsSubnets(r.ID, p, stored)...)
	}
	for _, c := range []struct {
		kind string
		list *[]json.RawMessage
	}{{subnetsType, p.Subnets}, {vnetpeering.Name, p.Peerings}} {
		if c.list == nil {
			continue
		}
		more, err := inlinechildren.Put(ctx, r, c.kind, c.list)
		if err != nil {
			return err
		}
		problems = append(problems, more...)
	}
	if r.Existing != nil && p.AddressSpace != nil {
		problem, err := vnetpeering.CheckSpace(ctx, r.Documents, r.ID, p.AddressSpace.AddressPrefixes)
		if err != nil {
			return err
		}
		if problem != nil {
			problems = append(problems, problem.WithTarget("properties.addressSpace.addressPrefixes"))
		}
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}

	p.Subnets, p.Peerings = nil, nil
	if r.Existing != nil {
		p.ResourceGUID, r.Model.Cloister = r.Existing.Properties.ResourceGUID, r.Existing.Cloister
	} else {
		p.ResourceGUID = uuid.NewString()
		r.Model.Cloister = &Memory{ID: strings.ReplaceAll(uuid.NewString(), "-", "")[:10]}
	}
	return nil
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

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	stored, err := v.Documents.List(ctx, v.ID, subnetsType)
	if err != nil {
		return fmt.Errorf("list the subnets of %s: %w", v.ID, err)
	}
	uses, err := subnetuse.Of(ctx, v.Documents, v.ID)
	if err != nil {
		return err
	}
	subnets := make([]json.RawMessage, 0, len(stored))
	for _, s := range stored {
		shown, err := subnetuse.Show(s, uses)
		if err != nil {
			return err
		}
		subnets = append(subnets, shown)
	}
	v.Model.Properties.Subnets = &subnets
	joins, err := vnetpeering.Of(ctx, v.Documents, v.ID)
	if err != nil {
		return err
	}
	peerings := make([]json.RawMessage, 0, len(joins))
	for _, p := range joins {
		shown, err := p.Show()
		if err != nil {
			return err
		}
		peerings = append(peerings, shown)
	}
	v.Model.Properties.Peerings = &peerings
	return nil
}
