// Package privatednszones is the resource type Microsoft.Network/privateDnsZones: a DNS zone that only
// the virtual networks linked to it see. Its record sets and links are documents of their own.
//
// https://learn.microsoft.com/rest/api/dns/privatedns/private-zones
package privatednszones

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
)

// Name is the resource type.
const Name = "Microsoft.Network/privateDnsZones"

const (
	linksType  = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"
	groupsType = "Microsoft.Resources/resourceGroups"
	soaType    = "Microsoft.Network/privateDnsZones/SOA"
)

// recordTypes are the types under a zone that count as record sets.
var recordTypes = []string{soaType, "Microsoft.Network/privateDnsZones/A"}

// Model is the document of a private DNS zone.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are a zone's; all are read-only.
type Properties struct {
	InternalID                                     string `json:"internalId,omitempty"`
	MaxNumberOfRecordSets                          int    `json:"maxNumberOfRecordSets,omitempty"`
	MaxNumberOfVirtualNetworkLinks                 int    `json:"maxNumberOfVirtualNetworkLinks,omitempty"`
	MaxNumberOfVirtualNetworkLinksWithRegistration int    `json:"maxNumberOfVirtualNetworkLinksWithRegistration,omitempty"`
	NumberOfRecordSets                             *int   `json:"numberOfRecordSets,omitempty"`
	NumberOfVirtualNetworkLinks                    *int   `json:"numberOfVirtualNetworkLinks,omitempty"`
	NumberOfVirtualNetworkLinksWithRegistration    *int   `json:"numberOfVirtualNetworkLinksWithRegistration,omitempty"`
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
		Placement:     resourcetype.Global,
		NameRule:      zoneName,
		NameCode:      "BadRequest",
		NameMessage:   "The domain name is invalid. The provided resource name must be a valid DNS name of 2 to 34 labels.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("private DNS zone")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("serve zone %s: %w", r.ID.Name(), err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)+$`)

func prepare(_ context.Context, r *resourcetype.Request[Model]) error {
	if name := r.ID.Name(); len(name) > 253 || strings.Count(name, ".") > 33 {
		return armerror.New("BadRequest", "The domain name '%s' is invalid. The provided resource name must be a valid DNS name of 2 to 34 labels.", name).WithTarget("name")
	}
	internal := uuid.NewString()
	if r.Existing != nil {
		internal = r.Existing.Properties.InternalID
	} else {
		r.PutChild(r.ID.Child("SOA", "@"), startOfAuthority)
	}
	r.Model.Properties = Properties{InternalID: internal}
	return nil
}

// startOfAuthority is what Azure gives every private zone.
var startOfAuthority = json.RawMessage(`{"properties":{"ttl":3600,"soaRecord":{"email":"azureprivatedns-host.microsoft.com","expireTime":2419200,"host":"azureprivatedns.net","minimumTtl":10,"refreshTime":3600,"retryTime":300,"serialNumber":1}}}`)

// prepareDelete refuses while networks see the zone, but for the end of the whole group, which takes the links along.
func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	group := r.ID.GroupID()
	groups, err := r.Documents.List(ctx, resourceid.MustParse("/subscriptions/"+r.ID.Subscription()), groupsType)
	if err != nil {
		return fmt.Errorf("list resource groups: %w", err)
	}
	for _, g := range groups {
		if g.Deleting && g.ID.Equal(group) {
			return nil
		}
	}
	links, err := r.Documents.List(ctx, r.ID, linksType)
	if err != nil {
		return fmt.Errorf("list the links of %s: %w", r.ID, err)
	}
	var ids []string
	for _, l := range links {
		if !l.Deleting {
			ids = append(ids, l.ID.String())
		}
	}
	if len(ids) > 0 {
		return armerror.New("CannotDeleteResource", "Cannot delete resource while nested resources exist. Some existing nested resource IDs include: '%s'. Please delete all nested resources before deleting this resource.", strings.Join(ids, ",")).WithStatus(409)
	}
	return nil
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	count := func(types ...string) (*int, error) {
		n := 0
		for _, t := range types {
			list, err := v.Documents.List(ctx, v.ID, t)
			if err != nil {
				return nil, fmt.Errorf("count %s of %s: %w", t, v.ID, err)
			}
			n += len(list)
		}
		return &n, nil
	}
	p := &v.Model.Properties
	var err error
	if p.NumberOfRecordSets, err = count(recordTypes...); err != nil {
		return err
	}
	if p.NumberOfVirtualNetworkLinks, err = count(linksType); err != nil {
		return err
	}
	none := 0
	p.NumberOfVirtualNetworkLinksWithRegistration = &none
	p.MaxNumberOfRecordSets, p.MaxNumberOfVirtualNetworkLinks, p.MaxNumberOfVirtualNetworkLinksWithRegistration = 25000, 1000, 100
	return nil
}
