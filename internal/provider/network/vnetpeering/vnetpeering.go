// Package vnetpeering answers, from the stored documents, which virtual networks are joined. A virtual network, its
// peerings and the projection need the same answer, and no type may know another. The package writes nothing.
//
// https://learn.microsoft.com/azure/virtual-network/virtual-network-peering-overview
package vnetpeering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// Name is the type of peerings.
const Name = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"

// Peering is one side of a join.
type Peering struct {
	ID                resourceid.ID
	Network, Remote   resourceid.ID
	Access, Forwarded bool
	Connected         bool // the other side is there too
	RemoteSpace       []string
	resource          resourcestore.Resource
}

type document struct {
	Properties struct {
		AllowVirtualNetworkAccess *bool `json:"allowVirtualNetworkAccess"`
		AllowForwardedTraffic     bool  `json:"allowForwardedTraffic"`
		RemoteVirtualNetwork      struct {
			ID string `json:"id"`
		} `json:"remoteVirtualNetwork"`
	} `json:"properties"`
}

// Of are the peerings of a virtual network.
func Of(ctx context.Context, docs resourcetype.Reader, network resourceid.ID) ([]Peering, error) {
	list, err := docs.List(ctx, network, Name)
	if err != nil {
		return nil, fmt.Errorf("list the peerings of %s: %w", network, err)
	}
	var out []Peering
	for _, r := range list {
		var d document
		if err := json.Unmarshal(r.Body, &d); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		remote, err := resourceid.Parse(d.Properties.RemoteVirtualNetwork.ID)
		if err != nil || r.Deleting {
			continue
		}
		p := Peering{ID: r.ID, Network: network, Remote: remote, Access: d.Properties.AllowVirtualNetworkAccess == nil || *d.Properties.AllowVirtualNetworkAccess, Forwarded: d.Properties.AllowForwardedTraffic, resource: r}
		if p.Connected, err = names(ctx, docs, remote, network); err != nil {
			return nil, err
		}
		if p.RemoteSpace, err = Space(ctx, docs, remote); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// names tells whether a virtual network has a peering to another.
func names(ctx context.Context, docs resourcetype.Reader, network, other resourceid.ID) (bool, error) {
	list, err := docs.List(ctx, network, Name)
	if err != nil {
		return false, fmt.Errorf("list the peerings of %s: %w", network, err)
	}
	for _, r := range list {
		var d document
		if err := json.Unmarshal(r.Body, &d); err != nil {
			return false, fmt.Errorf("read %s: %w", r.ID, err)
		}
		if remote, err := resourceid.Parse(d.Properties.RemoteVirtualNetwork.ID); err == nil && remote.Equal(other) && !r.Deleting {
			return true, nil
		}
	}
	return false, nil
}

// State is what the peering's answer shows.
func (p Peering) State() string {
	if p.Connected {
		return "Connected"
	}
	return "Initiated"
}

// Space is the address space of a virtual network, none when it is not there.
func Space(ctx context.Context, docs resourcetype.Reader, network resourceid.ID) ([]string, error) {
	var vnet struct {
		Properties struct {
			AddressSpace struct {
				AddressPrefixes []string `json:"addressPrefixes"`
			} `json:"addressSpace"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, network, &vnet); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return nil, fmt.Errorf("read %s: %w", network, err)
	}
	return vnet.Properties.AddressSpace.AddressPrefixes, nil
}

// Overlap are the first prefixes of two address spaces that overlap.
func Overlap(a, b []string) (netip.Prefix, netip.Prefix, bool) {
	for _, s := range a {
		for _, t := range b {
			p, err1 := ipam.Parse(s)
			q, err2 := ipam.Parse(t)
			if err1 == nil && err2 == nil && p.Overlaps(q) {
				return p, q, true
			}
		}
	}
	return netip.Prefix{}, netip.Prefix{}, false
}

// CheckSpace refuses an address space that overlaps that of a network which this one is joined to, or is about to be.
// A network's peers must not overlap each other either.
func CheckSpace(ctx context.Context, docs resourcetype.Reader, network resourceid.ID, space []string) (*armerror.Error, error) {
	peerings, err := Of(ctx, docs, network)
	if err != nil {
		return nil, err
	}
	for _, p := range peerings {
		if a, b, overlap := Overlap(space, p.RemoteSpace); overlap {
			return overlapping(p.ID, network, p.Remote, a, b), nil
		}
		others, err := Of(ctx, docs, p.Remote)
		if err != nil {
			return nil, err
		}
		for _, o := range others {
			if a, b, overlap := Overlap(space, o.RemoteSpace); overlap && !o.Remote.Equal(network) {
				return alreadyPeered(p.ID, p.Remote, network, o.Remote, a, b), nil
			}
		}
	}
	return nil, nil
}

// Check refuses a join of two networks whose addresses, or whose peers' addresses, would be two networks'.
func Check(ctx context.Context, docs resourcetype.Reader, peering, network, remote resourceid.ID) ([]*armerror.Error, error) {
	mine, err := Space(ctx, docs, network)
	if err != nil {
		return nil, err
	}
	theirs, err := Space(ctx, docs, remote)
	if err != nil {
		return nil, err
	}
	if a, b, overlap := Overlap(mine, theirs); overlap {
		return []*armerror.Error{overlapping(peering, network, remote, a, b)}, nil
	}
	peers, err := Of(ctx, docs, network)
	if err != nil {
		return nil, err
	}
	var problems []*armerror.Error
	for _, p := range peers {
		switch a, b, overlap := Overlap(theirs, p.RemoteSpace); {
		case p.ID.Equal(peering):
		case p.Remote.Equal(remote):
			problems = append(problems, armerror.New("AnotherPeeringAlreadyReferencesRemoteVnet", "Cannot create or update peering %s. Peering %s of virtual network %s already references remote virtual network %s.", peering, p.ID.Name(), network, remote))
		case overlap:
			problems = append(problems, alreadyPeered(peering, network, remote, p.Remote, a, b))
		}
	}
	return problems, nil
}

func overlapping(peering, network, remote resourceid.ID, a, b netip.Prefix) *armerror.Error {
	return armerror.New("VnetAddressSpacesOverlap", "Cannot create or update peering %s. Virtual networks %s and %s cannot be peered because their address spaces overlap. Overlapping address prefixes: %s, %s", peering, network, remote, a, b)
}

func alreadyPeered(peering, network, remote, other resourceid.ID, a, b netip.Prefix) *armerror.Error {
	return armerror.New("VnetAddressSpaceOverlapsWithAlreadyPeeredVnet", "Cannot create or update peering %s. Address space of virtual network %s overlaps with address space of virtual network %s, which is already peered with virtual network %s. Overlapping address prefixes: %s, %s", peering, remote, other, network, a, b)
}

// Fields are the read-only properties of the peering's answer.
func (p Peering) Fields() map[string]any {
	space := map[string]any{"addressPrefixes": append([]string{}, p.RemoteSpace...)}
	return map[string]any{
		"peeringState": p.State(), "peeringSyncLevel": "FullyInSync", "remoteAddressSpace": space, "remoteVirtualNetworkAddressSpace": space,
	}
}

// Show is the peering as it stands in its virtual network's answer.
func (p Peering) Show() (json.RawMessage, error) {
	var doc map[string]any
	if err := json.Unmarshal(p.resource.Body, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", p.ID, err)
	}
	delete(doc, "cloister")
	doc["id"], doc["name"], doc["type"], doc["etag"] = p.ID.String(), p.ID.Name(), Name, p.resource.ETag()
	if properties, ok := doc["properties"].(map[string]any); ok {
		for k, v := range p.Fields() {
			properties[k] = v
		}
	}
	return json.Marshal(doc)
}
