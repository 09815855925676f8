// Package virtualnetworklinks is the resource type Microsoft.Network/privateDnsZones/virtualNetworkLinks:
// it lets a virtual network see a private DNS zone.
//
// https://learn.microsoft.com/rest/api/dns/privatedns/virtual-network-links
package virtualnetworklinks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"

const networksType = "Microsoft.Network/virtualNetworks"

// Model is the document of a virtual network link.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are a link's.
type Properties struct {
	VirtualNetwork          *SubResource `json:"virtualNetwork,omitempty"`
	RegistrationEnabled     bool         `json:"registrationEnabled"`
	ResolutionPolicy        string       `json:"resolutionPolicy,omitempty"`
	VirtualNetworkLinkState string       `json:"virtualNetworkLinkState,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
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
		Placement:   resourcetype.Global,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:    "BadRequest",
		NameMessage: "The virtual network link name is invalid. It has 1 to 80 letters, digits, underscores, periods and hyphens, begins with a letter or digit and ends with a letter, digit or underscore.",
		Prepare:     prepare,
		References:  references,
		Render: func(_ context.Context, v *resourcetype.View[Model]) error {
			v.Model.Properties.VirtualNetworkLinkState = "Completed"
			return nil
		},
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("virtual network link")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("link %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

// Network is the linked virtual network.
func (m *Model) Network() (resourceid.ID, error) {
	if m.Properties.VirtualNetwork == nil {
		return resourceid.ID{}, fmt.Errorf("no virtual network: %w", resourceid.ErrInvalid)
	}
	return resourceid.Parse(m.Properties.VirtualNetwork.ID)
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	var problems []*armerror.Error
	add := func(target string, e *armerror.Error) { problems = append(problems, e.WithTarget(target)) }
	if p.RegistrationEnabled {
		add("properties.registrationEnabled", armerror.New(armerror.NotSupported, "Auto registration of virtual machines in private DNS zones is not supported by Cloister."))
	}
	switch p.ResolutionPolicy {
	case "":
		p.ResolutionPolicy = "Default"
	case "Default":
	case "NxDomainRedirect":
		add("properties.resolutionPolicy", armerror.New(armerror.NotSupported, "The resolution policy NxDomainRedirect is not supported by Cloister."))
	default:
		add("properties.resolutionPolicy", armerror.New("BadRequest", "The resolution policy '%s' is invalid. Allowed values: Default, NxDomainRedirect.", p.ResolutionPolicy))
	}
	network, err := r.Model.Network()
	switch {
	case p.VirtualNetwork == nil:
		add("properties.virtualNetwork", armerror.New("BadRequest", "The virtual network of virtual network link '%s' is missing.", r.ID.Name()))
	case err != nil || !network.Is(networksType):
		add("properties.virtualNetwork.id", armerror.New("BadRequest", "The virtual network resource ID '%s' is invalid.", p.VirtualNetwork.ID))
	default:
		if r.Existing != nil {
			if old, err := r.Existing.Network(); err == nil && !old.Equal(network) {
				add("properties.virtualNetwork.id", armerror.New("BadRequest", "The virtual network of virtual network link '%s' cannot be changed.", r.ID.Name()))
				break
			}
		} else {
			var stored struct{}
			if err := r.Documents.Get(ctx, network, &stored); errors.Is(err, resourcestore.ErrNotFound) {
				add("properties.virtualNetwork.id", armerror.New("BadRequest", "The virtual network resource '%s' does not exist.", network))
				break
			} else if err != nil {
				return fmt.Errorf("read %s: %w", network, err)
			}
		}
		e, err := overlap(ctx, r.Documents, r.ID, network)
		if err != nil {
			return err
		}
		if e != nil {
			add("properties.virtualNetwork.id", e)
		}
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}
	p.VirtualNetworkLinkState = ""
	return nil
}

// overlap refuses a second zone of the same name for a virtual network. Nested names (contoso.com beside
// a.contoso.com) are no overlap for Azure: the longer one answers.
func overlap(ctx context.Context, docs resourcetype.Reader, id, network resourceid.ID) (*armerror.Error, error) {
	links, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return nil, fmt.Errorf("list virtual network links: %w", err)
	}
	zone, _ := id.Parent()
	for _, l := range links {
		var m Model
		if l.ID.Equal(id) || json.Unmarshal(l.Body, &m) != nil {
			continue
		}
		other, _ := l.ID.Parent()
		linked, err := m.Network()
		if err == nil && linked.Equal(network) && strings.EqualFold(other.Name(), zone.Name()) {
			return armerror.New("BadRequest", "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with '%s' and '%s' zones.", zone.Name(), other.Name()), nil
		}
	}
	return nil, nil
}

func references(m *Model) []resourcetype.Reference {
	id, err := m.Network()
	if err != nil {
		return nil
	}
	return []resourcetype.Reference{{Property: "properties.virtualNetwork.id", ID: id, Linked: "Microsoft.Network/virtualNetworks/join/action"}}
}
