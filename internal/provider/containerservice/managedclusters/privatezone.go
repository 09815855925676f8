package managedclusters

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// A private cluster's name is in a private DNS zone that AKS makes (system), in one of the user's, or in none: then its
// public name is the one that there is, and leads to the private address.
//
// https://learn.microsoft.com/azure/aks/private-clusters#configuration-options-for-private-dns
const (
	zoneSystem = "system"
	zoneNone   = "none"

	zoneType        = "Microsoft.Network/privateDnsZones"
	linkType        = zoneType + "/virtualNetworkLinks"
	zoneTarget      = accessPath + "privateDNSZone"
	subdomainTarget = "properties.fqdnSubdomain"
	joinVNet        = "Microsoft.Network/virtualNetworks/join/action"
)

// zoneActions are what AKS does in the user's zone as the cluster's identity. The first that it may not do is named.
var zoneActions = []string{zoneType + "/read", zoneType + "/write", linkType + "/write", zoneType + "/A/write"}

func (m *Model) zone() string {
	if a := m.Properties.APIServerAccessProfile; a != nil {
		return a.PrivateDNSZone
	}
	return ""
}

// noZone reports whether a private cluster has its public name only.
func (m *Model) noZone() bool { return m.isPrivate() && m.zone() == zoneNone }

// ownZone is the user's zone; zero for the other ways.
func (m *Model) ownZone() resourceid.ID {
	if z := m.zone(); z == "" || z == zoneSystem || z == zoneNone {
		return resourceid.ID{}
	}
	id, err := resourceid.Parse(m.zone())
	if err != nil {
		return resourceid.ID{} // validateZone has refused it
	}
	return id
}

// keepZone refuses to move a cluster's name.
func keepZone(m, old *Model) error {
	was, is := old.zone(), m.zone()
	if was == "" || strings.EqualFold(was, is) {
		return nil
	}
	if is == zoneNone {
		return armerror.New(codeUnsupported, "Changing apiServerAccessProfile.privateDNSZone of a cluster to 'none' is not supported by this version of Cloister.").WithTarget(zoneTarget)
	}
	return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property 'apiServerAccessProfile.privateDNSZone' is not allowed.").WithTarget(zoneTarget)
}

// label is what a name's first part can be.
var label = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// validateZone checks where the name of the API server is to be. The codes are of AKS's own list; the words are Azure's for a
// zone's ID alone.
func validateZone(ctx context.Context, r *resourcetype.Request[Model]) error {
	m, isNew := r.Model, r.Existing == nil
	if sub := m.Properties.FQDNSubdomain; sub != "" && isNew {
		refuse := func(format string, args ...any) error {
			return armerror.New(armerror.InvalidParameter, format, args...).WithTarget(subdomainTarget)
		}
		switch {
		case !m.isPrivate() || m.ownZone().IsZero():
			return refuse("fqdnSubdomain can only be set for a private cluster with a custom private DNS zone (apiServerAccessProfile.privateDNSZone).")
		case m.Properties.DNSPrefix != "":
			return refuse("dnsPrefix and fqdnSubdomain cannot be set together.")
		case !label.MatchString(sub):
			return refuse("fqdnSubdomain %q is invalid. It has 1 to 63 letters, digits and hyphens, and begins and ends with a letter or digit.", sub)
		}
	}
	switch z := m.zone(); {
	case !m.isPrivate():
		if isNew && z != "" {
			return armerror.New("InvalidPrivateDNSZoneMode", "Invalid private dns zone for public cluster. It should always be empty for public cluster").WithTarget(zoneTarget)
		}
		return nil
	case z == zoneSystem:
		return nil
	case z == zoneNone:
		if !isTrue(m.Properties.APIServerAccessProfile.EnablePrivateClusterPublicFQDN) {
			return armerror.New("NonePrivateDNSZonePublicFQDNDisabledError", "A private cluster whose privateDNSZone is 'none' has no name without its public FQDN: enablePrivateClusterPublicFQDN cannot be false.").WithTarget(accessPath + "enablePrivateClusterPublicFQDN")
		}
		return nil
	}
	zone := m.ownZone()
	if err := validateZoneName(m, zone); err != nil {
		return err
	}
	if m.Identity == nil || !strings.EqualFold(m.Identity.Type, "UserAssigned") {
		return armerror.New("SystemAssignedIdentityNotSupportedForCustomPrivateDNSZone", "A cluster with a custom private DNS zone needs a user-assigned identity, which is given its roles before the cluster is made.").WithTarget(zoneTarget)
	}
	if err := r.Documents.Get(ctx, zone, new(json.RawMessage)); errors.Is(err, resourcestore.ErrNotFound) {
		return armerror.New("PrivateDNSZoneResourceNotFoundError", "The private DNS zone %s was not found.", zone).WithTarget(zoneTarget)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", zone, err)
	}
	if isNew && m.Properties.FQDNSubdomain != "" {
		return subdomainFree(ctx, r, zone)
	}
	return nil
}

// validateZoneName holds a zone's name against those that AKS allows.
func validateZoneName(m *Model, zone resourceid.ID) error {
	forms := []string{"privatelink." + m.Location + ".azmk8s.io"}
	if m.isIntegrated() {
		forms = append([]string{"private." + m.Location + ".azmk8s.io"}, forms...)
	}
	if !zone.IsZero() && zone.Is(zoneType) {
		name := strings.ToLower(zone.Name())
		for _, form := range forms {
			subzone, under := strings.CutSuffix(name, "."+form)
			if name == form || under && subZone.MatchString(subzone) {
				return nil
			}
		}
	}
	allowed := strings.Join(forms, ",")
	for _, form := range forms {
		allowed += ",[a-zA-Z0-9-]{1,32}." + form
	}
	return armerror.New("InvalidPrivateDNSZoneResourceID", "Invalid private dns zone resource id '%s' for private cluster. It should be a valid resource id and the private dns zone name should be in either of these formats: '%s'.", m.zone(), allowed).WithTarget(zoneTarget)
}

var subZone = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// subdomainFree refuses a name that another has: in the zone, or of a cluster that is still to write it there.
func subdomainFree(ctx context.Context, r *resourcetype.Request[Model], zone resourceid.ID) error {
	taken := armerror.New("FQDNSubdomainRecordAlreadyExistsError", "The private DNS zone %s has a record %s already. Choose another fqdnSubdomain.", zone, r.Model.Properties.FQDNSubdomain).WithTarget(subdomainTarget)
	err := r.Documents.Get(ctx, zone.Child("A", r.Model.Properties.FQDNSubdomain), new(json.RawMessage))
	if err == nil {
		return taken
	} else if !errors.Is(err, resourcestore.ErrNotFound) {
		return fmt.Errorf("read the records of %s: %w", zone, err)
	}
	others, err := others(ctx, r.Documents, r.ID)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(others, func(o *Model) bool {
		return o.ownZone().Equal(zone) && strings.EqualFold(o.Properties.PrivateFQDN, r.Model.Properties.PrivateFQDN)
	}) {
		return taken
	}
	return nil
}

// others are the clusters beside this one that are not being deleted.
func others(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]*Model, error) {
	list, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return nil, fmt.Errorf("list the clusters: %w", err)
	}
	var out []*Model
	for _, c := range list {
		if c.ID.Equal(id) || c.Deleting {
			continue
		}
		m := new(Model)
		if err := json.Unmarshal(c.Body, m); err != nil {
			return nil, fmt.Errorf("read %s: %w", c.ID, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// authorizeZone checks that the cluster's identity may write into the user's zone and link the nodes' VNet to it.
func (t service) authorizeZone(ctx context.Context, r *resourcetype.Request[Model], who resourcetype.Principal) error {
	m := r.Model
	zone := m.ownZone()
	if !m.isPrivate() || zone.IsZero() {
		return nil
	}
	for _, action := range zoneActions {
		ok, err := t.Access.Allowed(ctx, who, action, zone)
		if err != nil {
			return err
		}
		if !ok {
			return armerror.New("CustomPrivateDNSZoneMissingPermissionError", "Service principal or user-assigned identity must be given permission to read and write to custom private dns zone %s. Check access result not allowed for action %s.", zone, action).WithTarget(zoneTarget)
		}
	}
	subnet, err := resourceid.Parse(m.Memory.SubnetID)
	if err != nil || m.Memory.SubnetID == "" || nodeGroup(r.ID, m).Contains(subnet) {
		return nil // a VNet of AKS's
	}
	vnet, _ := subnet.Parent()
	if linked, err := links(ctx, r.Documents, zone, vnet); err != nil || len(linked) > 0 {
		return err
	}
	ok, err := t.Access.Allowed(ctx, who, joinVNet, vnet)
	if err != nil || ok {
		return err
	}
	return armerror.New(armerror.LinkedAuthorizationFailed,
		"The client '%s' with object id '%s' has permission to perform action '%s/write' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s' (respectively) or the linked scope(s) are invalid. Give the cluster's identity the role Network Contributor on the virtual network.",
		or(who.AppID, who.ObjectID), who.ObjectID, linkType, zone.Child("virtualNetworkLinks", linkName(vnet)), joinVNet, vnet).WithTarget(zoneTarget)
}

// linkName is the name of the link that AKS makes: one for all clusters in the VNet whose names are in the zone.
func linkName(vnet resourceid.ID) string {
	sum := sha256.Sum256([]byte(vnet.Key()))
	return "aks-" + hex.EncodeToString(sum[:6])
}

// links are those of the zone to the VNet: there is at most one.
func links(ctx context.Context, docs resourcetype.Reader, zone, vnet resourceid.ID) ([]resourceid.ID, error) {
	list, err := docs.List(ctx, zone, linkType)
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", zone, err)
	}
	var out []resourceid.ID
	for _, l := range list {
		var doc struct {
			Properties struct {
				VirtualNetwork reference `json:"virtualNetwork"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(l.Body, &doc); err != nil {
			return nil, fmt.Errorf("read %s: %w", l.ID, err)
		}
		if to, err := resourceid.Parse(doc.Properties.VirtualNetwork.ID); err == nil && to.Equal(vnet) && !l.Deleting {
			out = append(out, l.ID)
		}
	}
	return out, nil
}

// giveName writes the API server's name into its zone, and lets the nodes' VNet see it.
func (t service) giveName(b *builder, m *Model, group, vnet resourceid.ID) {
	if m.noZone() {
		return // the public name is made from the cluster's own document
	}
	first, zoneName, _ := strings.Cut(m.Properties.PrivateFQDN, ".")
	zone := m.ownZone()
	if zone.IsZero() {
		zone = zoneAndLink(b, group, zoneName, vnet, m.Memory.Suffix)
	} else if b.err == nil {
		linked, err := links(b.ctx, b.client, zone, vnet)
		if b.err = err; err == nil && (len(linked) == 0 || linked[0].Name() == linkName(vnet)) {
			link(b, zone.Child("virtualNetworkLinks", linkName(vnet)), vnet)
		}
	}
	b.put(zone.Child("A", first), dnsAPI, record(m.Memory.EndpointAddress))
}

// leaveZone takes the cluster's record out of the user's zone, and the link that AKS made with the last cluster that
// needs it. It returns false while they are being deleted.
func (t service) leaveZone(ctx context.Context, r *resourcetype.Reconciliation[Model]) (bool, error) {
	m := r.Model
	zone := m.ownZone()
	if zone.IsZero() || m.Properties.PrivateFQDN == "" {
		return true, nil
	}
	first, _, _ := strings.Cut(m.Properties.PrivateFQDN, ".")
	made := []resourceid.ID{zone.Child("A", first)}
	if subnet, err := resourceid.Parse(m.Memory.SubnetID); err == nil && m.Memory.SubnetID != "" {
		vnet, _ := subnet.Parent()
		others, err := others(ctx, r.Client, r.ID)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(others, func(o *Model) bool {
			of, err := resourceid.Parse(o.Memory.SubnetID)
			return err == nil && o.Memory.SubnetID != "" && o.isPrivate() && o.ownZone().Equal(zone) && vnet.Contains(of)
		}) {
			made = append(made, zone.Child("virtualNetworkLinks", linkName(vnet)))
		}
	}
	gone := true
	for _, id := range made {
		if err := r.Client.Get(ctx, id, new(json.RawMessage)); errors.Is(err, resourcestore.ErrNotFound) {
			continue
		} else if err != nil {
			return false, fmt.Errorf("read %s: %w", id, err)
		}
		done, err := r.Client.Delete(ctx, id)
		if err != nil {
			return false, fmt.Errorf("delete %s: %w", id, err)
		}
		gone = gone && done
	}
	return gone, nil
}
