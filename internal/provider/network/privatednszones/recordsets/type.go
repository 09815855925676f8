// Package recordsets is the resource types Microsoft.Network/privateDnsZones/A and SOA, and the refusal of
// the other record types. They share their model, as they do in Azure's API.
//
// https://learn.microsoft.com/rest/api/dns/privatedns/record-sets
package recordsets

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"sort"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Type names.
const (
	NameA   = "Microsoft.Network/privateDnsZones/A"
	NameSOA = "Microsoft.Network/privateDnsZones/SOA"
	NameAll = "Microsoft.Network/privateDnsZones/ALL"
)

// Model is the document of a record set.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a record set's.
type Properties struct {
	TTL              *int64            `json:"ttl,omitempty"`
	Metadata         map[string]string `json:"metadata,omitempty"`
	FQDN             string            `json:"fqdn,omitempty"`
	IsAutoRegistered *bool             `json:"isAutoRegistered,omitempty"`
	// ARecords is [] for an empty A record set: az fails on an absent list.
	ARecords  *[]ARecord `json:"aRecords,omitempty"`
	SOARecord *SOARecord `json:"soaRecord,omitempty"`
}

// ARecord is one IPv4 address.
type ARecord struct {
	IPv4Address string `json:"ipv4Address"`
}

// SOARecord is a zone's start of authority.
type SOARecord struct {
	Host         string `json:"host,omitempty"`
	Email        string `json:"email,omitempty"`
	SerialNumber int64  `json:"serialNumber,omitempty"`
	RefreshTime  int64  `json:"refreshTime,omitempty"`
	RetryTime    int64  `json:"retryTime,omitempty"`
	ExpireTime   int64  `json:"expireTime,omitempty"`
	MinimumTTL   int64  `json:"minimumTtl,omitempty"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Addresses are an A record set's.
func (m *Model) Addresses() []netip.Addr {
	var list []netip.Addr
	if m.Properties.ARecords != nil {
		for _, r := range *m.Properties.ARecords {
			if a, err := netip.ParseAddr(r.IPv4Address); err == nil {
				list = append(list, a)
			}
		}
	}
	return list
}

// Types are the resource types of all record types, and the collection of a zone's record sets.
func Types(w World) []resourcetype.Definition {
	list := []resourcetype.Definition{resourcetype.Define(A(w)), resourcetype.Define(SOA(w)), resourcetype.Define(All())}
	for _, s := range Unsupported() {
		list = append(list, resourcetype.Define(s))
	}
	return list
}

// A declares the A record sets. Writing one is done when the networks linked to the zone answer with it.
func A(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: NameA, Placement: resourcetype.Inherited, NoState: true, Synchronous: true,
		NameRule: recordName, NameCode: "BadRequest", NameMessage: nameMessage,
		Prepare: prepareA, Render: render, Reconcile: reconcile(w),
	}
}

// SOA declares the start of authority, which exists as long as its zone does.
func SOA(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: NameSOA, Placement: resourcetype.Inherited, NoState: true, Synchronous: true, NoDelete: true,
		NameRule: regexp.MustCompile(`^@$`), NameCode: "BadRequest", NameMessage: "The SOA record set is always named '@'.",
		Prepare: prepareSOA, Render: render, Reconcile: reconcile(w),
	}
}

// Unsupported declares the record types that Azure has and Cloister refuses.
func Unsupported() []resourcetype.Spec[Model] {
	var list []resourcetype.Spec[Model]
	for _, kind := range []string{"AAAA", "CNAME", "MX", "PTR", "SRV", "TXT"} {
		list = append(list, resourcetype.Spec[Model]{
			Name: "Microsoft.Network/privateDnsZones/" + kind, Placement: resourcetype.Inherited, NoState: true,
			NameRule: recordName, NameCode: "BadRequest", NameMessage: nameMessage,
			Prepare: func(context.Context, *resourcetype.Request[Model]) error {
				return armerror.New(armerror.NotSupported, "Record sets of type %s are not supported by Cloister; A record sets are.", kind)
			},
		})
	}
	return list
}

// All declares the collection that shows every record set of a zone.
func All() resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: NameAll, Placement: resourcetype.Inherited, NoState: true, NoPut: true, NoDelete: true,
		List: func(ctx context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			var all []resourcestore.Resource
			for _, t := range []string{NameSOA, NameA} {
				list, err := r.Documents.List(ctx, r.Scope, t)
				if err != nil {
					return nil, fmt.Errorf("list %s: %w", t, err)
				}
				all = append(all, list...)
			}
			sort.Slice(all, func(i, j int) bool { return all[i].ID.Key() < all[j].ID.Key() })
			return all, nil
		},
		Render: render,
	}
}

const nameMessage = "The record set name is invalid. It must be '@', or labels of 1 to 63 letters, digits, underscores and hyphens parted by dots, the first of which may be '*'."

var recordName = regexp.MustCompile(`^(@|(\*|[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*)$`)

func reconcile(w World) func(context.Context, *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	return func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
		if err := w.Sync(ctx); err != nil {
			return resourcetype.Result{}, fmt.Errorf("serve record set %s: %w", r.ID, err)
		}
		return resourcetype.Result{}, nil
	}
}

const defaultTTL = 3600

func prepareA(_ context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	problems := common(r, p)
	if p.SOARecord != nil {
		problems = append(problems, armerror.New("BadRequest", "A record set of type A cannot have a soaRecord.").WithTarget("properties.soaRecord"))
	}
	// A PUT without the list keeps none: the list is the record set.
	if p.ARecords == nil {
		p.ARecords = &[]ARecord{}
	}
	if len(*p.ARecords) > 20 {
		problems = append(problems, armerror.New("BadRequest", "The record set '%s' has %d records; it can have 20.", r.ID.Name(), len(*p.ARecords)).WithTarget("properties.aRecords"))
	}
	seen := map[netip.Addr]bool{}
	for i, rec := range *p.ARecords {
		target := fmt.Sprintf("properties.aRecords[%d].ipv4Address", i)
		a, err := netip.ParseAddr(rec.IPv4Address)
		if err != nil || !a.Is4() {
			problems = append(problems, armerror.New("BadRequest", "The value '%s' is not a valid IPv4 address.", rec.IPv4Address).WithTarget(target))
			continue
		}
		if seen[a] {
			problems = append(problems, armerror.New("BadRequest", "The record set '%s' has the address %s twice.", r.ID.Name(), a).WithTarget(target))
		}
		seen[a] = true
	}
	return armerror.Join(problems)
}

func prepareSOA(_ context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	problems := common(r, p)
	if p.SOARecord == nil {
		problems = append(problems, armerror.New("BadRequest", "The SOA record is missing.").WithTarget("properties.soaRecord"))
	} else {
		// Host and serial number are Azure's.
		p.SOARecord.Host, p.SOARecord.SerialNumber = "azureprivatedns.net", 1
	}
	p.ARecords = nil
	return armerror.Join(problems)
}

func common(r *resourcetype.Request[Model], p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	if p.TTL == nil {
		ttl := int64(defaultTTL)
		p.TTL = &ttl
	}
	if *p.TTL < 1 || *p.TTL > 2147483647 {
		problems = append(problems, armerror.New("BadRequest", "The time to live %d of record set '%s' is not between 1 and 2147483647.", *p.TTL, r.ID.Name()).WithTarget("properties.ttl"))
	}
	if zone, ok := r.ID.Parent(); ok && len(r.ID.Name())+1+len(zone.Name()) > 253 {
		problems = append(problems, armerror.New("BadRequest", "The record set name '%s' is invalid: with its zone it is longer than 253 characters.", r.ID.Name()).WithTarget("name"))
	}
	p.FQDN, p.IsAutoRegistered = "", nil
	return problems
}

func render(_ context.Context, v *resourcetype.View[Model]) error {
	p := &v.Model.Properties
	zone, _ := v.ID.Parent()
	p.FQDN = zone.Name() + "."
	if name := v.ID.Name(); name != "@" {
		p.FQDN = strings.ToLower(name) + "." + p.FQDN
	}
	auto := false
	p.IsAutoRegistered = &auto
	return nil
}
