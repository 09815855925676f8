// Package networkinterfaces is the resource type Microsoft.Network/networkInterfaces: addresses of a
// subnet held by a machine or by a private endpoint. It allocates them when the document is written.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/network-interfaces
package networkinterfaces

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
const Name = "Microsoft.Network/networkInterfaces"

const (
	privateEndpointsType = "Microsoft.Network/privateEndpoints"
	subnetsType          = "Microsoft.Network/virtualNetworks/subnets"
)

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// FirstParty tells whether a principal is one of Cloister's own services. Only they say which machine
// an interface belongs to.
type FirstParty func(resourcetype.Principal) bool

// Type is the resource type; see Spec for its arguments.
func Type(w World, own FirstParty) resourcetype.Definition { return resourcetype.Define(Spec(w, own)) }

// Spec declares the type.
func Spec(w World, own FirstParty) resourcetype.Spec[Model] {
	t := interfaces{own}
	return resourcetype.Spec[Model]{
		Name:          Name,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       t.prepare,
		PrepareDelete: t.prepareDelete,
		References:    references,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("network interface")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("bring up network interface %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

type interfaces struct{ own FirstParty }

// endpoint is what an interface needs to know of the private endpoint that holds it.
type endpoint struct {
	Properties struct {
		Subnet            *SubResource  `json:"subnet"`
		NetworkInterfaces []SubResource `json:"networkInterfaces"`
	} `json:"properties"`
	Cloister struct {
		Members []struct {
			IPConfiguration string   `json:"ipConfiguration"`
			Address         string   `json:"address"`
			GroupID         string   `json:"groupId"`
			Name            string   `json:"name"`
			FQDNs           []string `json:"fqdns"`
		} `json:"members"`
	} `json:"cloister"`
}

// subnet is what an interface needs to know of its subnet.
type subnet struct {
	Properties struct {
		AddressPrefix   string   `json:"addressPrefix"`
		AddressPrefixes []string `json:"addressPrefixes"`
	} `json:"properties"`
}

func (s subnet) prefix() (netip.Prefix, error) {
	if s.Properties.AddressPrefix == "" && len(s.Properties.AddressPrefixes) > 0 {
		return ipam.Parse(s.Properties.AddressPrefixes[0])
	}
	return ipam.Parse(s.Properties.AddressPrefix)
}

func (t interfaces) prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	if r.Existing != nil && r.Existing.Properties.PrivateEndpoint != nil {
		return keepEndpoints(r)
	}
	if p.PrivateEndpoint != nil {
		held, err := t.ofEndpoint(ctx, r)
		if err != nil || held {
			return err
		}
	}

	problems := validate(r.ID, p)
	more, err := egress(ctx, r)
	if err != nil {
		return err
	}
	if err := armerror.Join(append(problems, more...)); err != nil {
		return err
	}
	t.fill(r)
	return t.allocate(ctx, r)
}

// keepEndpoints lets a client change the tags, and nothing else, of a private endpoint's interface.
func keepEndpoints(r *resourcetype.Request[Model]) error {
	asked, had := r.Model.Properties, r.Existing.Properties
	changed := len(asked.IPConfigurations) != len(had.IPConfigurations)
	for i := range asked.IPConfigurations {
		if !changed {
			a, b := asked.IPConfigurations[i].Properties, had.IPConfigurations[i].Properties
			changed = a.PrivateIPAddress != "" && a.PrivateIPAddress != b.PrivateIPAddress || a.PublicIPAddress != nil
		}
	}
	if changed || asked.NetworkSecurityGroup != nil {
		return armerror.New("CannotModifyNicAttachedToPrivateEndpoint", "Network interface %s cannot be modified by user because it is attached to private endpoint %s.", r.ID, had.PrivateEndpoint.ID).WithTarget("properties")
	}
	r.Model.Properties, r.Model.Kind, r.Model.ManagedBy = had, r.Existing.Kind, r.Existing.ManagedBy
	return nil
}

// ofEndpoint fills in the interface of a private endpoint from the endpoint's document, which alone
// says what the interface is: whoever asks for it gets the same.
func (t interfaces) ofEndpoint(ctx context.Context, r *resourcetype.Request[Model]) (bool, error) {
	p := &r.Model.Properties
	id, err := resourceid.Parse(p.PrivateEndpoint.ID)
	if err != nil || !id.Is(privateEndpointsType) {
		p.PrivateEndpoint = nil
		return false, nil
	}
	var e endpoint
	if err := r.Documents.Get(ctx, id, &e); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return false, fmt.Errorf("read %s: %w", id, err)
	}
	named := false
	for _, n := range e.Properties.NetworkInterfaces {
		nic, err := resourceid.Parse(n.ID)
		named = named || err == nil && nic.Equal(r.ID)
	}
	if !named {
		p.PrivateEndpoint = nil // read-only for clients: not theirs to say
		return false, nil
	}
	p.IPConfigurations = nil
	for i, m := range e.Cloister.Members {
		primary := i == 0
		p.IPConfigurations = append(p.IPConfigurations, IPConfiguration{
			Name: m.IPConfiguration,
			Properties: IPConfigurationProperties{
				PrivateIPAddress: m.Address, PrivateIPAllocationMethod: "Dynamic", Subnet: e.Properties.Subnet, Primary: &primary,
				PrivateLinkConnectionProperties: &PrivateLinkConnectionProperties{GroupID: m.GroupID, RequiredMemberName: m.Name, FQDNs: m.FQDNs},
			},
		})
	}
	r.Model.ManagedBy = id.String()
	p.PrivateEndpoint = &SubResource{ID: id.String()}
	t.fill(r)
	return true, nil
}

// fill sets defaults and what is read-only.
func (t interfaces) fill(r *resourcetype.Request[Model]) {
	m, p := r.Model, &r.Model.Properties
	m.Kind = "Regular"
	if r.Existing != nil {
		p.ResourceGUID, p.MACAddress = r.Existing.Properties.ResourceGUID, r.Existing.Properties.MACAddress
	} else {
		none := ""
		p.ResourceGUID, p.MACAddress = uuid.NewString(), &none
	}
	if p.PrivateEndpoint == nil && !t.own(r.Caller) {
		m.ManagedBy, p.VirtualMachine = "", nil
		if r.Existing != nil {
			m.ManagedBy, p.VirtualMachine = r.Existing.ManagedBy, r.Existing.Properties.VirtualMachine
		}
	}
	p.NICType, p.AuxiliaryMode, p.AuxiliarySKU = "Standard", "None", "None"
	p.VNetEncryptionSupported, p.AllowPort25Out, p.Primary = false, false, nil
	p.HostedWorkloads, p.TapConfigurations = []string{}, []json.RawMessage{}
	p.DNSSettings = &DNSSettings{DNSServers: []string{}, AppliedDNSServers: []string{}}

	primary := 0
	for i := range p.IPConfigurations {
		if p.IPConfigurations[i].primary() {
			primary = i
		}
	}
	for i := range p.IPConfigurations {
		c := &p.IPConfigurations[i]
		first := i == primary
		c.ID, c.Type = r.ID.String()+"/ipConfigurations/"+c.Name, Name+"/ipConfigurations"
		c.Properties.Primary, c.Properties.PrivateIPAddressVersion, c.Properties.ProvisioningState = &first, "IPv4", resourcestore.Succeeded
		if c.Properties.PrivateIPAllocationMethod == "" {
			c.Properties.PrivateIPAllocationMethod = "Dynamic"
		}
	}
}

// allocate gives every IP configuration its address: the one it had, the one it asks for, or the next free.
func (t interfaces) allocate(ctx context.Context, r *resourcetype.Request[Model]) error {
	had := map[string]IPConfigurationProperties{}
	if r.Existing != nil {
		for _, c := range r.Existing.Properties.IPConfigurations {
			had[c.Name] = c.Properties
		}
	}
	all, err := subnetuse.All(ctx, r.Documents)
	if err != nil {
		return err
	}
	all = subnetuse.Except(all, r.ID)
	subnets := map[string]*ipam.Subnet{}
	var network string
	configs := r.Model.Properties.IPConfigurations
	var problems []*armerror.Error
	open := func(i int) (*ipam.Subnet, resourceid.ID, error) {
		property := fmt.Sprintf("properties.ipConfigurations[%d].properties.subnet.id", i)
		id := resourceid.MustParse(configs[i].Properties.Subnet.ID)
		vnet, _ := id.Parent()
		if network == "" {
			network = vnet.Key()
		} else if network != vnet.Key() {
			return nil, id, armerror.New("SubnetsNotInSameVnet", "Subnet %s is not in the same Virtual Network as the subnets of the other IP configurations of network interface %s.", id, r.ID).WithTarget(property)
		}
		if s := subnets[id.Key()]; s != nil {
			return s, id, nil
		}
		var doc subnet
		if err := r.Documents.Get(ctx, id, &doc); err != nil {
			if errors.Is(err, resourcestore.ErrNotFound) {
				return nil, id, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.ID).WithTarget(property)
			}
			return nil, id, fmt.Errorf("read %s: %w", id, err)
		}
		prefix, err := doc.prefix()
		if err != nil {
			return nil, id, fmt.Errorf("read %s: %w", id, err)
		}
		var used []netip.Addr
		for _, u := range all {
			if u.Subnet.Equal(id) {
				used = append(used, u.Address)
			}
		}
		subnets[id.Key()] = ipam.NewSubnet(prefix, used)
		return subnets[id.Key()], id, nil
	}

	// Addresses that are asked for, or kept, go first: a dynamic one must not take them.
	for _, dynamic := range []bool{false, true} {
		for i := range configs {
			c := &configs[i].Properties
			old, kept := had[configs[i].Name]
			kept = kept && old.Subnet != nil && resourceid.MustParse(old.Subnet.ID).Equal(resourceid.MustParse(c.Subnet.ID)) && c.PrivateIPAllocationMethod == "Dynamic"
			if dynamic != (c.PrivateIPAllocationMethod == "Dynamic" && !kept) {
				continue
			}
			s, id, err := open(i)
			if err != nil {
				if e, ok := armerror.As(err); ok {
					problems = append(problems, e)
					continue
				}
				return err
			}
			target := fmt.Sprintf("properties.ipConfigurations[%d].properties.privateIPAddress", i)
			if dynamic {
				a, err := s.Next()
				if err != nil {
					problems = append(problems, armerror.New("SubnetIsFull", "Subnet %s does not have enough capacity for %d IP addresses.", id.Name(), len(configs)).WithTarget(fmt.Sprintf("properties.ipConfigurations[%d].properties.subnet.id", i)))
					continue
				}
				c.PrivateIPAddress = a.String()
				continue
			}
			if kept {
				c.PrivateIPAddress = old.PrivateIPAddress
			}
			if e := take(s, c.PrivateIPAddress, id, configs[i].ID); e != nil {
				problems = append(problems, e.WithTarget(target))
			}
		}
	}
	return armerror.Join(problems)
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

func (t interfaces) prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := r.Model.Properties
	if p.PrivateEndpoint != nil {
		id, err := resourceid.Parse(p.PrivateEndpoint.ID)
		if err != nil {
			return nil
		}
		group := id.GroupID()
		list, err := r.Documents.List(ctx, group, privateEndpointsType)
		if err != nil {
			return fmt.Errorf("list private endpoints of %s: %w", group, err)
		}
		for _, e := range list {
			if e.ID.Equal(id) && !e.Deleting {
				return armerror.New("CannotDeleteNicAttachedToPrivateEndpoint", "Network interface %s cannot be deleted because it is attached to private endpoint %s. Delete the private endpoint to delete it.", r.ID, id)
			}
		}
		return nil
	}
	if p.VirtualMachine != nil && !t.own(r.Caller) {
		return armerror.New("NicInUse", "Network Interface %s is used by existing resource %s. In order to delete the network interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.", r.ID, p.VirtualMachine.ID)
	}
	return nil
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	add := func(property, text, linked string) {
		if id, err := resourceid.Parse(text); err == nil && !id.IsZero() {
			refs = append(refs, resourcetype.Reference{Property: property, ID: id, Linked: linked})
		}
	}
	// The endpoint's own subnet permission was checked when the endpoint was written.
	if m.Properties.PrivateEndpoint == nil {
		for i, c := range m.Properties.IPConfigurations {
			if c.Properties.Subnet != nil {
				add(fmt.Sprintf("properties.ipConfigurations[%d].properties.subnet.id", i), c.Properties.Subnet.ID, subnetsType+"/join/action")
			}
			if a := c.Properties.PublicIPAddress; a != nil {
				add(fmt.Sprintf("properties.ipConfigurations[%d].properties.publicIPAddress.id", i), a.ID, egressuse.PublicIPAddresses+"/join/action")
			}
			for j, p := range c.Properties.LoadBalancerBackendAddressPools {
				add(fmt.Sprintf("properties.ipConfigurations[%d].properties.loadBalancerBackendAddressPools[%d].id", i, j), p.ID, egressuse.BackendPools+"/join/action")
			}
		}
	}
	if s := m.Properties.NetworkSecurityGroup; s != nil {
		add("properties.networkSecurityGroup.id", s.ID, "Microsoft.Network/networkSecurityGroups/join/action")
	}
	return refs
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	if err := forgetPools(ctx, v); err != nil {
		return err
	}
	if v.Model.Properties.VirtualMachine != nil {
		primary := true
		v.Model.Properties.Primary = &primary
	}
	return nil
}
