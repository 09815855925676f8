// Package loadbalancers is the resource type Microsoft.Network/loadBalancers, of which the outbound side is there:
// frontends, backend pools, and the outbound rules by which a pool's members get out.
//
// https://learn.microsoft.com/rest/api/load-balancer/load-balancers
// https://learn.microsoft.com/azure/load-balancer/outbound-rules
package loadbalancers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
)

// Name is the resource type.
const Name = egressuse.LoadBalancers

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
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:    "InvalidResourceName",
		NameMessage: "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:     prepare,
		References:  references,
		Render:      render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("load balancer")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	m := r.Model
	problems := validate(r.ID, m)
	var named []egressuse.Named
	for i, f := range m.Properties.FrontendIPConfigurations {
		if a := f.Properties.PublicIPAddress; a != nil {
			named = append(named, egressuse.Named{Property: fmt.Sprintf("properties.frontendIPConfigurations[%d].properties.publicIPAddress.id", i), ID: a.ID})
		}
	}
	more, err := egressuse.CheckPublicIPs(ctx, r.Documents, r.ID, m.Location, named)
	if err != nil {
		return err
	}
	gone, err := membersOfRemovedPools(ctx, r)
	if err != nil {
		return err
	}
	problems = append(append(problems, more...), gone...)
	if err := armerror.Join(problems); err != nil {
		return err
	}
	fill(r)
	return allocate(ctx, r)
}

// membersOfRemovedPools keeps pools that network interfaces name.
func membersOfRemovedPools(ctx context.Context, r *resourcetype.Request[Model]) ([]*armerror.Error, error) {
	if r.Existing == nil {
		return nil, nil
	}
	members, err := egressuse.Members(ctx, r.Documents, r.ID)
	if err != nil {
		return nil, err
	}
	for _, p := range r.Model.Properties.BackendAddressPools {
		delete(members, poolID(r.ID, p.Name).Key())
	}
	var problems []*armerror.Error
	for _, p := range r.Existing.Properties.BackendAddressPools {
		if in := members[poolID(r.ID, p.Name).Key()]; len(in) > 0 {
			problems = append(problems, armerror.New("InUseBackendAddressPoolCannotBeDeleted", "Backend address pool %s cannot be deleted: it is in use by %s.", p.Name, in[0].ID).WithTarget("properties.backendAddressPools"))
		}
	}
	return problems, nil
}

func poolID(balancer resourceid.ID, name string) resourceid.ID {
	return balancer.Child("backendAddressPools", name)
}

// Idle timeouts of outbound rules in minutes: Azure's default, and that of the rule that AKS makes. They are kept, and no
// others: the kernel's clock ends flows, whatever is said.
const (
	defaultIdle  = 4
	clustersIdle = 30
)

// fill sets defaults and what is read-only.
func fill(r *resourcetype.Request[Model]) {
	m, p := r.Model, &r.Model.Properties
	m.SKU = &SKU{Name: "Standard", Tier: "Regional"}
	p.ResourceGUID = uuid.NewString()
	if r.Existing != nil {
		p.ResourceGUID = r.Existing.Properties.ResourceGUID
	}
	for i := range p.FrontendIPConfigurations {
		f := &p.FrontendIPConfigurations[i]
		f.ID, f.Type = r.ID.String()+"/frontendIPConfigurations/"+f.Name, Name+"/frontendIPConfigurations"
		f.Properties.ProvisioningState, f.Properties.OutboundRules = resourcestore.Succeeded, nil
		f.Properties.PrivateIPAddressVersion = "IPv4"
		if f.Properties.PrivateIPAllocationMethod == "" || f.Properties.Subnet == nil {
			f.Properties.PrivateIPAllocationMethod = "Dynamic"
		}
	}
	for i := range p.BackendAddressPools {
		b := &p.BackendAddressPools[i]
		b.ID, b.Type = poolID(r.ID, b.Name).String(), egressuse.BackendPools
		b.Properties.ProvisioningState = resourcestore.Succeeded
		b.Properties.BackendIPConfigurations, b.Properties.OutboundRules, b.Properties.LoadBalancerBackendAddresses = nil, nil, nil
	}
	for i := range p.OutboundRules {
		o := &p.OutboundRules[i]
		o.ID, o.Type, o.Properties.ProvisioningState = r.ID.String()+"/outboundRules/"+o.Name, Name+"/outboundRules", resourcestore.Succeeded
		if o.Properties.IdleTimeoutInMinutes == 0 {
			o.Properties.IdleTimeoutInMinutes = defaultIdle
		}
	}
	none := []json.RawMessage{}
	p.LoadBalancingRules, p.Probes, p.InboundNATRules, p.InboundNATPools = none, none, none, none
	if p.FrontendIPConfigurations == nil {
		p.FrontendIPConfigurations = []Frontend{}
	}
	if p.BackendAddressPools == nil {
		p.BackendAddressPools = []Pool{}
	}
	if p.OutboundRules == nil {
		p.OutboundRules = []OutboundRule{}
	}
}

// allocate gives internal frontends their addresses: the one they had, the one they ask for, or the next free.
func allocate(ctx context.Context, r *resourcetype.Request[Model]) error {
	had := map[string]FrontendProperties{}
	if r.Existing != nil {
		for _, f := range r.Existing.Properties.FrontendIPConfigurations {
			had[f.Name] = f.Properties
		}
	}
	all, err := subnetuse.All(ctx, r.Documents)
	if err != nil {
		return err
	}
	all = subnetuse.Except(all, r.ID)
	subnets := map[string]*ipam.Subnet{}
	var problems []*armerror.Error
	frontends := r.Model.Properties.FrontendIPConfigurations
	for _, dynamic := range []bool{false, true} {
		for i := range frontends {
			f := &frontends[i].Properties
			if f.Subnet == nil {
				f.PrivateIPAddress = ""
				continue
			}
			id := resourceid.MustParse(f.Subnet.ID)
			if old := had[frontends[i].Name]; f.PrivateIPAllocationMethod == "Dynamic" && !dynamic {
				f.PrivateIPAddress = ""
				if old.Subnet != nil && resourceid.MustParse(old.Subnet.ID).Equal(id) {
					f.PrivateIPAddress = old.PrivateIPAddress
				}
			}
			if (f.PrivateIPAddress == "") != dynamic {
				continue
			}
			at := fmt.Sprintf("properties.frontendIPConfigurations[%d].properties", i)
			s := subnets[id.Key()]
			if s == nil {
				var problem *armerror.Error
				if s, problem, err = open(ctx, r, id, all); err != nil {
					return err
				}
				if problem != nil {
					problems = append(problems, problem.WithTarget(at+".subnet.id"))
					continue
				}
				subnets[id.Key()] = s
			}
			if dynamic {
				a, err := s.Next()
				if err != nil {
					problems = append(problems, armerror.New("SubnetIsFull", "Subnet %s does not have enough capacity for %d IP addresses.", id.Name(), 1).WithTarget(at+".subnet.id"))
					continue
				}
				f.PrivateIPAddress = a.String()
			} else if e := take(s, f.PrivateIPAddress, id, frontends[i].ID); e != nil {
				problems = append(problems, e.WithTarget(at+".privateIPAddress"))
			}
		}
	}
	return armerror.Join(problems)
}

// open reads the subnet and what of it is used.
func open(ctx context.Context, r *resourcetype.Request[Model], id resourceid.ID, all []subnetuse.Use) (*ipam.Subnet, *armerror.Error, error) {
	var doc struct {
		Properties struct {
			AddressPrefix   string   `json:"addressPrefix"`
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"properties"`
	}
	if err := r.Documents.Get(ctx, id, &doc); err != nil {
		if errors.Is(err, resourcestore.ErrNotFound) {
			return nil, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.ID), nil
		}
		return nil, nil, fmt.Errorf("read %s: %w", id, err)
	}
	text := doc.Properties.AddressPrefix
	if text == "" && len(doc.Properties.AddressPrefixes) > 0 {
		text = doc.Properties.AddressPrefixes[0]
	}
	prefix, err := ipam.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", id, err)
	}
	var used []netip.Addr
	for _, u := range all {
		if u.Subnet.Equal(id) {
			used = append(used, u.Address)
		}
	}
	return ipam.NewSubnet(prefix, used), nil, nil
}

// take marks a wanted address as used, with Azure's words when it cannot be had.
func take(s *ipam.Subnet, text string, id resourceid.ID, config string) *armerror.Error {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return armerror.New("InvalidIPAddressFormat", "IP address %s is not formatted correctly.", text)
	}
	switch err := s.Take(a); {
	case errors.Is(err, ipam.ErrOutside):
		return armerror.New("PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix of %s.", a, id)
	case errors.Is(err, ipam.ErrReserved):
		return armerror.New("PrivateIPAddressInReservedRange", "Private static IP address %s falls within reserved IP range of subnet prefix of %s.", a, id)
	case err != nil:
		return armerror.New("PrivateIPAddressIsAllocated", "IP configuration %s is using the private IP address %s which is already allocated to another resource.", config, a)
	}
	return nil
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	add := func(property string, link *egressuse.Link, kind string) {
		if link == nil {
			return
		}
		if id, err := resourceid.Parse(link.ID); err == nil {
			refs = append(refs, resourcetype.Reference{Property: property, ID: id, Linked: kind + "/join/action"})
		}
	}
	for i, f := range m.Properties.FrontendIPConfigurations {
		at := fmt.Sprintf("properties.frontendIPConfigurations[%d].properties", i)
		add(at+".publicIPAddress.id", f.Properties.PublicIPAddress, egressuse.PublicIPAddresses)
		add(at+".subnet.id", f.Properties.Subnet, egressuse.Subnets)
	}
	return refs
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	members, err := egressuse.Members(ctx, v.Documents, v.ID)
	if err != nil {
		return err
	}
	p := &v.Model.Properties
	for i := range p.BackendAddressPools {
		b := &p.BackendAddressPools[i]
		id := poolID(v.ID, b.Name)
		b.Properties.BackendIPConfigurations = members[id.Key()]
		for _, o := range p.OutboundRules {
			if names(o.Properties.BackendAddressPool, id) {
				b.Properties.OutboundRules = append(b.Properties.OutboundRules, egressuse.Link{ID: o.ID})
			}
		}
	}
	for i := range p.FrontendIPConfigurations {
		f := &p.FrontendIPConfigurations[i]
		id := v.ID.Child("frontendIPConfigurations", f.Name)
		for _, o := range p.OutboundRules {
			for _, by := range o.Properties.FrontendIPConfigurations {
				if names(&by, id) {
					f.Properties.OutboundRules = append(f.Properties.OutboundRules, egressuse.Link{ID: o.ID})
				}
			}
		}
	}
	return nil
}

func names(link *egressuse.Link, id resourceid.ID) bool {
	if link == nil {
		return false
	}
	named, err := resourceid.Parse(link.ID)
	return err == nil && named.Equal(id)
}
