// Package subnetuse answers, from the stored documents, who uses which address of a subnet. Several
// types of Microsoft.Network need the same answer (to allocate, to refuse a delete, to show
// ipConfigurations), and none of them may know another, so each document is read through only the
// properties that matter here. The package writes nothing.
package subnetuse

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Use is one address taken in a subnet.
type Use struct {
	Subnet          resourceid.ID
	Address         netip.Addr
	Owner           resourceid.ID // the network interface or load balancer, or the private endpoint whose interface is not yet made
	IPConfiguration string        // resource ID of the IP configuration, "" for such an endpoint
	PrivateEndpoint resourceid.ID // set for the addresses of a private endpoint
}

type subResource struct {
	ID string `json:"id"`
}

type networkInterface struct {
	Properties struct {
		PrivateEndpoint  *subResource `json:"privateEndpoint"`
		IPConfigurations []struct {
			Name       string `json:"name"`
			Properties struct {
				PrivateIPAddress string       `json:"privateIPAddress"`
				Subnet           *subResource `json:"subnet"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
	} `json:"properties"`
}

type loadBalancer struct {
	Properties struct {
		FrontendIPConfigurations []struct {
			Name       string `json:"name"`
			Properties struct {
				PrivateIPAddress string       `json:"privateIPAddress"`
				Subnet           *subResource `json:"subnet"`
			} `json:"properties"`
		} `json:"frontendIPConfigurations"`
	} `json:"properties"`
}

type privateEndpoint struct {
	Properties struct {
		Subnet *subResource `json:"subnet"`
	} `json:"properties"`
	Cloister struct {
		Members []struct {
			Address string `json:"address"`
		} `json:"members"`
	} `json:"cloister"`
}

// All returns every use of every subnet, in order of subnet and address.
func All(ctx context.Context, docs resourcetype.Reader) ([]Use, error) {
	var uses []Use
	taken := map[string]bool{} // subnet key and address, so that an endpoint and its interface count once
	add := func(subnet *subResource, address string, u Use) {
		if subnet == nil {
			return
		}
		id, err := resourceid.Parse(subnet.ID)
		if err != nil {
			return
		}
		a, err := netip.ParseAddr(address)
		if err != nil || taken[id.Key()+" "+a.String()] {
			return
		}
		taken[id.Key()+" "+a.String()] = true
		u.Subnet, u.Address = id, a
		uses = append(uses, u)
	}

	nics, err := docs.List(ctx, resourceid.ID{}, "Microsoft.Network/networkInterfaces")
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, r := range nics {
		var n networkInterface
		if err := json.Unmarshal(r.Body, &n); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		var endpoint resourceid.ID
		if n.Properties.PrivateEndpoint != nil {
			if endpoint, err = resourceid.Parse(n.Properties.PrivateEndpoint.ID); err != nil {
				return nil, fmt.Errorf("read %s: %w", r.ID, err)
			}
		}
		for _, c := range n.Properties.IPConfigurations {
			add(c.Properties.Subnet, c.Properties.PrivateIPAddress, Use{
				Owner: r.ID, IPConfiguration: r.ID.String() + "/ipConfigurations/" + c.Name, PrivateEndpoint: endpoint,
			})
		}
	}

	balancers, err := docs.List(ctx, resourceid.ID{}, "Microsoft.Network/loadBalancers")
	if err != nil {
		return nil, fmt.Errorf("list load balancers: %w", err)
	}
	for _, r := range balancers {
		var b loadBalancer
		if err := json.Unmarshal(r.Body, &b); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		for _, f := range b.Properties.FrontendIPConfigurations {
			add(f.Properties.Subnet, f.Properties.PrivateIPAddress, Use{Owner: r.ID, IPConfiguration: r.ID.String() + "/frontendIPConfigurations/" + f.Name})
		}
	}

	endpoints, err := docs.List(ctx, resourceid.ID{}, "Microsoft.Network/privateEndpoints")
	if err != nil {
		return nil, fmt.Errorf("list private endpoints: %w", err)
	}
	for _, r := range endpoints {
		var e privateEndpoint
		if err := json.Unmarshal(r.Body, &e); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		for _, m := range e.Cloister.Members {
			add(e.Properties.Subnet, m.Address, Use{Owner: r.ID, PrivateEndpoint: r.ID})
		}
	}
	sort.SliceStable(uses, func(i, j int) bool {
		if a, b := uses[i].Subnet.Key(), uses[j].Subnet.Key(); a != b {
			return a < b
		}
		return uses[i].Address.Less(uses[j].Address)
	})
	return uses, nil
}

// Of returns the uses of one subnet, or of all subnets of a virtual network, in order of address.
func Of(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]Use, error) {
	all, err := All(ctx, docs)
	if err != nil {
		return nil, err
	}
	var uses []Use
	for _, u := range all {
		if id.Contains(u.Subnet) {
			uses = append(uses, u)
		}
	}
	return uses, nil
}

// Except leaves out what the owner itself uses, be it an interface or a private endpoint.
func Except(uses []Use, owner resourceid.ID) []Use {
	var others []Use
	for _, u := range uses {
		if !u.Owner.Equal(owner) && !(strings.EqualFold(u.PrivateEndpoint.String(), owner.String()) && !owner.IsZero()) {
			others = append(others, u)
		}
	}
	return others
}

// Addresses are the addresses of the uses.
func Addresses(uses []Use) []netip.Addr {
	var list []netip.Addr
	for _, u := range uses {
		list = append(list, u.Address)
	}
	return list
}

// InUse is the error of deleting a subnet of which an address is used.
func InUse(u Use) error {
	by := u.IPConfiguration
	if by == "" {
		by = u.Owner.String()
	}
	return armerror.New("InUseSubnetCannotBeDeleted",
		"Subnet %s is in use by %s and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.",
		u.Subnet.Name(), by).WithTarget(u.Subnet.String())
}

// Link points to a resource.
type Link struct {
	ID string `json:"id"`
}

// Links are what a subnet's answer shows of its uses.
func Links(subnet resourceid.ID, uses []Use) (ipConfigurations, privateEndpoints []Link) {
	seen := map[string]bool{}
	for _, u := range uses {
		if !u.Subnet.Equal(subnet) {
			continue
		}
		if u.IPConfiguration != "" {
			ipConfigurations = append(ipConfigurations, Link{u.IPConfiguration})
		}
		if !u.PrivateEndpoint.IsZero() && !seen[u.PrivateEndpoint.Key()] {
			seen[u.PrivateEndpoint.Key()] = true
			privateEndpoints = append(privateEndpoints, Link{u.PrivateEndpoint.String()})
		}
	}
	return ipConfigurations, privateEndpoints
}

// Show is a stored subnet as it stands in its virtual network's answer.
func Show(s resourcestore.Resource, uses []Use) (json.RawMessage, error) {
	var doc map[string]any
	if err := json.Unmarshal(s.Body, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.ID, err)
	}
	delete(doc, "cloister")
	doc["id"], doc["name"], doc["type"], doc["etag"] = s.ID.String(), s.ID.Name(), "Microsoft.Network/virtualNetworks/subnets", s.ETag()
	if p, ok := doc["properties"].(map[string]any); ok {
		ipConfigurations, privateEndpoints := Links(s.ID, uses)
		if len(ipConfigurations) > 0 {
			p["ipConfigurations"] = ipConfigurations
		}
		if len(privateEndpoints) > 0 {
			p["privateEndpoints"] = privateEndpoints
		}
	}
	return json.Marshal(doc)
}
