// Package privatednszonegroups is the resource type Microsoft.Network/privateEndpoints/privateDnsZoneGroups:
// it keeps the A records of a private endpoint in private DNS zones.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/private-dns-zone-groups
package privatednszonegroups

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"

const (
	zonesType      = "Microsoft.Network/privateDnsZones"
	recordsVersion = "2020-06-01"
	recordTTL      = 10
	waitForParts   = 5 * time.Second
)

// Model is the document of a zone group.
type Model struct {
	Properties Properties `json:"properties"`
	Cloister   *Memory    `json:"cloister,omitempty"`
}

// Properties are a zone group's.
type Properties struct {
	Configs []Config `json:"privateDnsZoneConfigs"`
}

// Config names one zone.
type Config struct {
	Name       string           `json:"name"`
	Properties ConfigProperties `json:"properties"`
}

// ConfigProperties are a zone config's.
type ConfigProperties struct {
	PrivateDNSZoneID string      `json:"privateDnsZoneId"`
	RecordSets       []RecordSet `json:"recordSets,omitempty"` // only in answers
}

// RecordSet is what the group keeps in a zone.
type RecordSet struct {
	RecordType        string   `json:"recordType"`
	RecordSetName     string   `json:"recordSetName"`
	FQDN              string   `json:"fqdn"`
	TTL               int      `json:"ttl"`
	IPAddresses       []string `json:"ipAddresses"`
	ProvisioningState string   `json:"provisioningState"`
}

// Memory is what Cloister keeps of a zone group.
type Memory struct {
	Records []string `json:"records"` // resource IDs of the record sets the group wrote, written down before they are made
}

// Type is the resource type; see Spec for its arguments.
func Type() resourcetype.Definition { return resourcetype.Define(Spec()) }

// Spec declares the type. It needs no World: the record sets it writes have their own.
func Spec() resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:        Name,
		Placement:   resourcetype.Inherited,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:    "InvalidResourceName",
		NameMessage: "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:     prepare,
		References:  references,
		Render:      render,
		Reconcile:   reconcile,
	}
}

// endpoint is what a group needs to know of its private endpoint.
type endpoint struct {
	Cloister struct {
		Members []struct {
			FQDNs   []string `json:"fqdns"`
			Address string   `json:"address"`
		} `json:"members"`
	} `json:"cloister"`
}

// Relative is the name that a fully qualified name has in the zone: by the zone's own name, or, when that
// starts with privatelink., by the public name the zone stands for. "@" is the zone itself.
func Relative(zone, fqdn string) (string, bool) {
	zone, name := strings.ToLower(strings.TrimSuffix(zone, ".")), strings.ToLower(strings.TrimSuffix(fqdn, "."))
	for _, z := range []string{zone, strings.TrimPrefix(zone, "privatelink.")} {
		if name == z {
			return "@", true
		}
		if rest, ok := strings.CutSuffix(name, "."+z); ok {
			return rest, true
		}
	}
	return "", false
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	var problems []*armerror.Error
	if len(p.Configs) == 0 {
		problems = append(problems, armerror.New("InvalidRequestFormat", "Cannot parse the request: private DNS zone group %s has no zone.", r.ID.Name()).WithTarget("properties.privateDnsZoneConfigs"))
	}
	zones := map[string]bool{}
	for i := range p.Configs {
		c := &p.Configs[i]
		target := fmt.Sprintf("properties.privateDnsZoneConfigs[%d].properties.privateDnsZoneId", i)
		id, err := resourceid.Parse(c.Properties.PrivateDNSZoneID)
		if err != nil || !id.Is(zonesType) {
			problems = append(problems, armerror.New("LinkedInvalidPropertyId", "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", c.Properties.PrivateDNSZoneID, target).WithTarget(target))
			continue
		}
		if zones[strings.ToLower(id.Name())] {
			problems = append(problems, armerror.New("MultiplePrivateDnsZonesWithSameNameInPrivateDnsZoneGroup", "Private DNS zone group %s has zone %s twice.", r.ID, id.Name()).WithTarget(target))
		}
		zones[strings.ToLower(id.Name())] = true
		var stored struct{}
		if err := r.Documents.Get(ctx, id, &stored); errors.Is(err, resourcestore.ErrNotFound) {
			problems = append(problems, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.ID).WithTarget(target))
		} else if err != nil {
			return fmt.Errorf("read %s: %w", id, err)
		}
		c.Properties.RecordSets = nil
		if c.Name == "" {
			c.Name = strings.ReplaceAll(id.Name(), ".", "-")
		}
	}
	parent, _ := r.ID.Parent()
	siblings, err := r.Documents.List(ctx, parent, Name)
	if err != nil {
		return fmt.Errorf("list the zone groups of %s: %w", parent, err)
	}
	for _, s := range siblings {
		if !s.ID.Equal(r.ID) {
			problems = append(problems, armerror.New("PrivateEndpointCannotHaveMultiplePrivateDnsZoneGroups", "Private endpoint %s already has private DNS zone group %s.", parent, s.ID.Name()).WithTarget("name"))
		}
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}
	if r.Existing != nil {
		r.Model.Cloister = r.Existing.Cloister
	}
	return nil
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	for i, c := range m.Properties.Configs {
		if id, err := resourceid.Parse(c.Properties.PrivateDNSZoneID); err == nil {
			refs = append(refs, resourcetype.Reference{
				Property: fmt.Sprintf("properties.privateDnsZoneConfigs[%d].properties.privateDnsZoneId", i), ID: id, Linked: zonesType + "/join/action",
			})
		}
	}
	return refs
}

// record is a record set to be kept.
type record struct {
	zone      resourceid.ID
	name      string
	fqdn      string
	addresses []string
}

func (r record) id() resourceid.ID { return r.zone.Child("A", r.name) }

// records are the record sets that follow from the endpoint's members and the zones, in order.
func records(m *Model, e endpoint) []record {
	var list []record
	for _, c := range m.Properties.Configs {
		zone, err := resourceid.Parse(c.Properties.PrivateDNSZoneID)
		if err != nil {
			continue
		}
		for _, member := range e.Cloister.Members {
			for _, fqdn := range member.FQDNs {
				name, ok := Relative(zone.Name(), fqdn)
				if !ok {
					continue
				}
				at := slices.IndexFunc(list, func(r record) bool { return r.zone.Equal(zone) && r.name == name })
				if at < 0 {
					list = append(list, record{zone: zone, name: name, fqdn: fqdn})
					at = len(list) - 1
				}
				list[at].addresses = append(list[at].addresses, member.Address)
			}
		}
	}
	return list
}

func reconcile(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	parent, _ := r.ID.Parent()
	var e endpoint
	if err := r.Client.Get(ctx, parent, &e); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return resourcetype.Result{}, fmt.Errorf("read %s: %w", parent, err)
	}
	var wanted []record
	if !r.Deleting {
		wanted = records(r.Model, e)
	}
	var ids []string
	for _, w := range wanted {
		ids = append(ids, w.id().String())
	}
	if r.Model.Cloister == nil {
		r.Model.Cloister = &Memory{}
	}
	// Written down before they are made, so that what is made is always found again for removal.
	had := r.Model.Cloister.Records
	r.Model.Cloister.Records = union(had, ids)
	if len(r.Model.Cloister.Records) != len(had) {
		if err := r.Save(ctx); err != nil {
			return resourcetype.Result{}, err
		}
	}
	for _, w := range wanted {
		r.Step("record " + w.name)
		addresses := []map[string]string{}
		for _, a := range w.addresses {
			addresses = append(addresses, map[string]string{"ipv4Address": a})
		}
		_, err := r.Client.Put(ctx, w.id(), recordsVersion, map[string]any{"properties": map[string]any{
			"ttl": recordTTL, "aRecords": addresses, "metadata": map[string]string{"creator": "created by private endpoint " + parent.Name()},
		}})
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("write record set %s: %w", w.id(), err)
		}
	}
	waiting := false
	for _, text := range r.Model.Cloister.Records {
		if slices.ContainsFunc(ids, func(s string) bool { return strings.EqualFold(s, text) }) {
			continue
		}
		id, err := resourceid.Parse(text)
		if err != nil {
			continue
		}
		gone, err := r.Client.Delete(ctx, id)
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("delete record set %s: %w", id, err)
		}
		waiting = waiting || !gone
	}
	if waiting {
		return resourcetype.Result{Waiting: true, Again: waitForParts}, nil
	}
	if len(r.Model.Cloister.Records) != len(ids) && !r.Deleting {
		r.Model.Cloister.Records = ids
		if err := r.Save(ctx); err != nil {
			return resourcetype.Result{}, err
		}
	}
	return resourcetype.Result{}, nil
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.ContainsFunc(all, func(t string) bool { return strings.EqualFold(s, t) }) {
			all = append(all, s)
		}
	}
	return all
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	parent, _ := v.ID.Parent()
	var e endpoint
	if err := v.Documents.Get(ctx, parent, &e); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return fmt.Errorf("read %s: %w", parent, err)
	}
	for i := range v.Model.Properties.Configs {
		c := &v.Model.Properties.Configs[i]
		c.Properties.RecordSets = []RecordSet{}
		for _, r := range records(&Model{Properties: Properties{Configs: []Config{*c}}}, e) {
			c.Properties.RecordSets = append(c.Properties.RecordSets, RecordSet{
				RecordType: "A", RecordSetName: r.name, FQDN: r.fqdn, TTL: recordTTL, IPAddresses: r.addresses, ProvisioningState: resourcestore.Succeeded,
			})
		}
	}
	return nil
}
