// Package natgateways is the resource type Microsoft.Network/natGateways: the way out of the subnets that name it, by
// its public IP addresses, before every other way.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/nat-gateways
package natgateways

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

// Name is the resource type.
const Name = egressuse.NATGateways

// Model is the document of a NAT gateway.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	SKU        *SKU              `json:"sku,omitempty"`
	Properties Properties        `json:"properties"`
}

// SKU is a NAT gateway's.
type SKU struct {
	Name string `json:"name,omitempty"`
}

// Properties are a NAT gateway's.
type Properties struct {
	ResourceGUID         string            `json:"resourceGuid,omitempty"`
	IdleTimeoutInMinutes int               `json:"idleTimeoutInMinutes,omitempty"`
	PublicIPAddresses    []egressuse.Link  `json:"publicIpAddresses,omitempty"`
	PublicIPPrefixes     []json.RawMessage `json:"publicIpPrefixes,omitempty"`
	PublicIPAddressesV6  []json.RawMessage `json:"publicIpAddressesV6,omitempty"`
	PublicIPPrefixesV6   []json.RawMessage `json:"publicIpPrefixesV6,omitempty"`
	SourceVirtualNetwork *egressuse.Link   `json:"sourceVirtualNetwork,omitempty"`
	Subnets              []egressuse.Link  `json:"subnets,omitempty"` // only in answers
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
		Name:          Name,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		References:    references,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("NAT gateway")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

// defaultIdle is Azure's idle timeout in minutes, and the one that there is: the kernel's clock ends flows, and knows no other.
const defaultIdle = 4

// mostAddresses is how many public IP addresses Azure lets a NAT gateway have.
const mostAddresses = 16

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	m, p := r.Model, &r.Model.Properties
	problems := validate(r.ID, m)
	var named []egressuse.Named
	for i, a := range p.PublicIPAddresses {
		named = append(named, egressuse.Named{Property: fmt.Sprintf("properties.publicIpAddresses[%d].id", i), ID: a.ID})
	}
	more, err := egressuse.CheckPublicIPs(ctx, r.Documents, r.ID, m.Location, named)
	if err != nil {
		return err
	}
	if err := armerror.Join(append(problems, more...)); err != nil {
		return err
	}
	m.SKU = &SKU{Name: "Standard"}
	if p.IdleTimeoutInMinutes == 0 {
		p.IdleTimeoutInMinutes = defaultIdle
	}
	p.Subnets = nil
	p.ResourceGUID = uuid.NewString()
	if r.Existing != nil {
		p.ResourceGUID = r.Existing.Properties.ResourceGUID
	}
	return nil
}

func validate(id resourceid.ID, m *Model) []*armerror.Error {
	var problems []*armerror.Error
	add := func(target string, e *armerror.Error) { problems = append(problems, e.WithTarget(target)) }
	refuse := func(target, what string) {
		add(target, armerror.New(armerror.NotSupported, "%s of NAT gateway '%s' is not supported by Cloister.", what, id.Name()))
	}
	if s := m.SKU; s != nil && s.Name != "" && !strings.EqualFold(s.Name, "Standard") {
		refuse("sku.name", "The SKU "+s.Name)
	}
	p := &m.Properties
	if n := p.IdleTimeoutInMinutes; n != 0 && (n < 4 || n > 120) {
		add("properties.idleTimeoutInMinutes", armerror.New("IdleTimeoutOutOfRange", "The idle timeout of NAT gateway '%s' is %d minutes. It must be between 4 and 120.", id.Name(), n))
	} else if n != 0 && n != defaultIdle {
		refuse("properties.idleTimeoutInMinutes", fmt.Sprintf("An idle timeout of %d minutes", n))
	}
	if n := len(p.PublicIPAddresses); n > mostAddresses {
		add("properties.publicIpAddresses", armerror.New("NatGatewayPublicIpCountLimitReached", "NAT gateway '%s' has %d public IP addresses. %d is the most.", id.Name(), n, mostAddresses))
	}
	for _, unsupported := range []struct {
		property, what string
		n              int
	}{
		{"publicIpPrefixes", "A public IP prefix", len(p.PublicIPPrefixes)}, {"publicIpAddressesV6", "An IPv6 address", len(p.PublicIPAddressesV6)},
		{"publicIpPrefixesV6", "An IPv6 prefix", len(p.PublicIPPrefixesV6)},
	} {
		if unsupported.n > 0 {
			refuse("properties."+unsupported.property, unsupported.what)
		}
	}
	if p.SourceVirtualNetwork != nil {
		refuse("properties.sourceVirtualNetwork", "A source virtual network")
	}
	return problems
}

func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	subnets, err := egressuse.SubnetsOf(ctx, r.Documents, r.ID)
	if err != nil || len(subnets) == 0 {
		return err
	}
	return armerror.New("InUseNatGatewayCannotBeDeleted", "Nat Gateway %s is in use by subnet %s and cannot be deleted. Please remove the association with the subnet before you delete it.", r.ID, subnets[0])
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	for i, a := range m.Properties.PublicIPAddresses {
		if id, err := resourceid.Parse(a.ID); err == nil {
			refs = append(refs, resourcetype.Reference{Property: fmt.Sprintf("properties.publicIpAddresses[%d].id", i), ID: id, Linked: egressuse.PublicIPAddresses + "/join/action"})
		}
	}
	return refs
}

func render(ctx context.Context, v *resourcetype.View[Model]) (err error) {
	v.Model.Properties.Subnets, err = egressuse.SubnetLinks(ctx, v.Documents, v.ID)
	return err
}
