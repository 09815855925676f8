// Package egressuse answers, from the stored documents, what uses a public IP address, a NAT gateway, a route table
// or a backend pool. The types that hold those, and the types that name them, need the same answer (to refuse a delete,
// to refuse a second user, to show what is attached), and none of them may know another. The package writes nothing.
package egressuse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Names of the types.
const (
	PublicIPAddresses = "Microsoft.Network/publicIPAddresses"
	NATGateways       = "Microsoft.Network/natGateways"
	RouteTables       = "Microsoft.Network/routeTables"
	LoadBalancers     = "Microsoft.Network/loadBalancers"
	BackendPools      = "Microsoft.Network/loadBalancers/backendAddressPools"
	NetworkInterfaces = "Microsoft.Network/networkInterfaces"
	Subnets           = "Microsoft.Network/virtualNetworks/subnets"
)

// Link points to a resource.
type Link struct {
	ID string `json:"id"`
}

// Use is one use of a public IP address.
type Use struct {
	PublicIP  resourceid.ID
	Owner     resourceid.ID // the network interface, load balancer or NAT gateway
	Reference string        // what the address's answer shows: an IP configuration, or the NAT gateway itself
}

type configuration struct {
	Name       string `json:"name"`
	Properties struct {
		PublicIPAddress                 *Link  `json:"publicIPAddress"`
		LoadBalancerBackendAddressPools []Link `json:"loadBalancerBackendAddressPools"`
	} `json:"properties"`
}

type document struct {
	Properties struct {
		IPConfigurations         []configuration `json:"ipConfigurations"`
		FrontendIPConfigurations []configuration `json:"frontendIPConfigurations"`
		PublicIPAddresses        []Link          `json:"publicIpAddresses"`
		NATGateway               *Link           `json:"natGateway"`
		RouteTable               *Link           `json:"routeTable"`
	} `json:"properties"`
}

// each calls fn for every document of the type that is not being deleted.
func each(ctx context.Context, docs resourcetype.Reader, kind string, fn func(resourceid.ID, *document)) error {
	list, err := docs.List(ctx, resourceid.ID{}, kind)
	if err != nil {
		return fmt.Errorf("list %s: %w", kind, err)
	}
	for _, r := range list {
		if r.Deleting {
			continue
		}
		var d document
		if err := json.Unmarshal(r.Body, &d); err != nil {
			return fmt.Errorf("read %s: %w", r.ID, err)
		}
		fn(r.ID, &d)
	}
	return nil
}

// OfPublicIPs are the uses of all public IP addresses.
func OfPublicIPs(ctx context.Context, docs resourcetype.Reader) ([]Use, error) {
	var uses []Use
	add := func(owner resourceid.ID, link *Link, reference string) {
		if link == nil {
			return
		}
		if id, err := resourceid.Parse(link.ID); err == nil {
			uses = append(uses, Use{id, owner, reference})
		}
	}
	err := each(ctx, docs, NetworkInterfaces, func(id resourceid.ID, d *document) {
		for _, c := range d.Properties.IPConfigurations {
			add(id, c.Properties.PublicIPAddress, id.String()+"/ipConfigurations/"+c.Name)
		}
	})
	if err == nil {
		err = each(ctx, docs, LoadBalancers, func(id resourceid.ID, d *document) {
			for _, c := range d.Properties.FrontendIPConfigurations {
				add(id, c.Properties.PublicIPAddress, id.String()+"/frontendIPConfigurations/"+c.Name)
			}
		})
	}
	if err == nil {
		err = each(ctx, docs, NATGateways, func(id resourceid.ID, d *document) {
			for i := range d.Properties.PublicIPAddresses {
				add(id, &d.Properties.PublicIPAddresses[i], id.String())
			}
		})
	}
	return uses, err
}

// SubnetsOf are the subnets whose natGateway or routeTable is the resource.
func SubnetsOf(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]resourceid.ID, error) {
	var subnets []resourceid.ID
	err := each(ctx, docs, Subnets, func(subnet resourceid.ID, d *document) {
		for _, link := range []*Link{d.Properties.NATGateway, d.Properties.RouteTable} {
			if link != nil && strings.EqualFold(link.ID, id.String()) {
				subnets = append(subnets, subnet)
			}
		}
	})
	return subnets, err
}

// SubnetLinks are SubnetsOf as the resource's answer shows them.
func SubnetLinks(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]Link, error) {
	subnets, err := SubnetsOf(ctx, docs, id)
	var links []Link
	for _, s := range subnets {
		links = append(links, Link{ID: s.String()})
	}
	return links, err
}

// Members are the IP configurations of network interfaces in each backend pool of a load balancer, by the pool's key.
func Members(ctx context.Context, docs resourcetype.Reader, balancer resourceid.ID) (map[string][]Link, error) {
	members := map[string][]Link{}
	err := each(ctx, docs, NetworkInterfaces, func(id resourceid.ID, d *document) {
		for _, c := range d.Properties.IPConfigurations {
			for _, p := range c.Properties.LoadBalancerBackendAddressPools {
				pool, err := resourceid.Parse(p.ID)
				if err == nil && balancer.Contains(pool) {
					members[pool.Key()] = append(members[pool.Key()], Link{id.String() + "/ipConfigurations/" + c.Name})
				}
			}
		}
	})
	return members, err
}

// Named is a reference from a document's property to a public IP address, to be checked.
type Named struct{ Property, ID string }

// CheckPublicIPs finds what is wrong with a resource's references to public IP addresses: that they are none, are not
// there, lie elsewhere, or belong to another resource already.
func CheckPublicIPs(ctx context.Context, docs resourcetype.Reader, owner resourceid.ID, location string, named []Named) ([]*armerror.Error, error) {
	if len(named) == 0 {
		return nil, nil
	}
	uses, err := OfPublicIPs(ctx, docs)
	if err != nil {
		return nil, err
	}
	var problems []*armerror.Error
	seen := map[string]string{}
	for _, n := range named {
		id, problem := Parse(n.Property, n.ID, PublicIPAddresses)
		if problem == nil {
			problem, err = Exists(ctx, docs, owner, location, n.Property, id)
		}
		if err != nil {
			return nil, err
		}
		if problem != nil {
			problems = append(problems, problem)
			continue
		}
		by := seen[id.Key()]
		for _, u := range uses {
			if u.PublicIP.Equal(id) && !u.Owner.Equal(owner) {
				by = u.Reference
			}
		}
		seen[id.Key()] = n.Property
		if by != "" {
			problems = append(problems, armerror.New("PublicIPAddressInUse", "Resource %s is referencing public IP address %s that is already allocated to resource %s.", owner, id, by).WithTarget(n.Property))
		}
	}
	return problems, nil
}

// Parse reads a reference to a resource of the type.
func Parse(property, text, kind string) (resourceid.ID, *armerror.Error) {
	id, err := resourceid.Parse(text)
	if err != nil || !id.Is(kind) {
		return id, armerror.New("LinkedInvalidPropertyId", "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", text, property).WithTarget(property)
	}
	return id, nil
}

// Exists finds that a referenced resource is not there, or lies in another region.
func Exists(ctx context.Context, docs resourcetype.Reader, owner resourceid.ID, location, property string, id resourceid.ID) (*armerror.Error, error) {
	var target struct {
		Location string `json:"location"`
	}
	err := docs.Get(ctx, id, &target)
	if err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	if err != nil || target.Location != "" && location != "" && target.Location != location {
		return armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, owner).WithTarget(property), nil
	}
	return nil, nil
}
