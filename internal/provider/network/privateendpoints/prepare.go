package privateendpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
)

// waitForParts is how long a delete waits before it looks again, should no event wake it.
const waitForParts = 5 * time.Second

func (e endpoints) prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	subnet, service, problems := validate(r.ID, p)
	if err := armerror.Join(problems); err != nil {
		return err
	}
	connections := p.Connections()
	t, problem := find(service, connections[0].Properties.GroupIDs)
	if problem != nil {
		return problem.WithTarget(strings.TrimSuffix(connectionID, "privateLinkServiceId") + "groupIds")
	}

	if r.Existing != nil && r.Existing.Cloister != nil {
		return e.update(ctx, r, t, subnet, service)
	}
	members, err := t.members(ctx, r.Documents, service)
	if err != nil {
		return err
	}
	if err := allocate(ctx, r, subnet, members); err != nil {
		return err
	}
	memory := &Memory{Members: members, Description: connections[0].Properties.RequestMessage}
	if len(p.PrivateLinkServiceConnections) > 0 {
		if memory.AutoApproved, err = e.roles.Allowed(ctx, r.Caller, t.approve, service); err != nil {
			return fmt.Errorf("check whether %s may approve on %s: %w", r.Caller.ObjectID, service, err)
		}
	}
	if t.connections != "" {
		memory.Connection = service.Child(t.connections, connectionName(r.ID.Name())).String()
	}
	r.Model.Cloister = memory
	p.ResourceGUID = uuid.NewString()
	nic := p.CustomNetworkInterfaceName
	if nic == "" {
		nic = r.ID.Name() + ".nic." + uuid.NewString()
	}
	p.NetworkInterfaces = []SubResource{{r.ID.Scope().Resource(interfacesType, nic).String()}}
	fill(r)
	return nil
}

// update keeps what was allocated. Subnet and target never change.
func (e endpoints) update(ctx context.Context, r *resourcetype.Request[Model], t target, subnet, service resourceid.ID) error {
	p, old := &r.Model.Properties, &r.Existing.Properties
	var problems []*armerror.Error
	fixed := func(property string, same bool) {
		if !same {
			problems = append(problems, armerror.New(armerror.PropertyChangeNotAllowed, "Property '%s' of private endpoint %s cannot be changed.", property, r.ID).WithTarget(property))
		}
	}
	had := old.Connections()
	fixed("properties.subnet.id", old.Subnet != nil && strings.EqualFold(old.Subnet.ID, subnet.String()))
	fixed(connectionID, len(had) == 1 && strings.EqualFold(had[0].Properties.PrivateLinkServiceID, service.String()))
	fixed("properties.customNetworkInterfaceName", p.CustomNetworkInterfaceName == "" || p.CustomNetworkInterfaceName == old.CustomNetworkInterfaceName)
	if err := armerror.Join(problems); err != nil {
		return err
	}
	// The target's names may have come since: a private cluster gets its name while it is made.
	memory := *r.Existing.Cloister
	memory.Members = slices.Clone(memory.Members)
	if now, err := t.members(ctx, r.Documents, service); err == nil {
		for i := range memory.Members {
			for _, m := range now {
				if m.Name == memory.Members[i].Name {
					memory.Members[i].FQDNs = m.FQDNs
				}
			}
		}
	}
	r.Model.Cloister = &memory
	p.ResourceGUID, p.NetworkInterfaces, p.CustomNetworkInterfaceName, p.IPConfigurations = old.ResourceGUID, old.NetworkInterfaces, old.CustomNetworkInterfaceName, old.IPConfigurations
	fill(r)
	return nil
}

// fill sets defaults and what is read-only.
func fill(r *resourcetype.Request[Model]) {
	p := &r.Model.Properties
	p.CustomDNSConfigs = nil
	for _, kind := range []struct {
		list *[]Connection
		name string
	}{{&p.PrivateLinkServiceConnections, "privateLinkServiceConnections"}, {&p.ManualPrivateLinkServiceConnections, "manualPrivateLinkServiceConnections"}} {
		if *kind.list == nil {
			*kind.list = []Connection{}
		}
		for i := range *kind.list {
			c := &(*kind.list)[i]
			c.ID, c.Type = r.ID.String()+"/"+kind.name+"/"+c.Name, Name+"/"+kind.name
			c.Properties.ProvisioningState, c.Properties.State = resourcestore.Succeeded, nil
		}
	}
	if p.IPConfigurations == nil {
		p.IPConfigurations = []IPConfiguration{}
	}
}

// validate finds all that is wrong with the properties by themselves; without problems it returns the
// subnet and the resource to connect to.
func validate(id resourceid.ID, p *Properties) (subnet, service resourceid.ID, problems []*armerror.Error) {
	add := func(target, code, format string, args ...any) {
		problems = append(problems, armerror.New(code, format, args...).WithTarget(target))
	}
	const notAnID = "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'."
	var err error
	if p.Subnet == nil || p.Subnet.ID == "" {
		add("properties.subnet", "SubnetNotSpecified", "Subnet reference is missing in private endpoint %s.", id)
	} else if subnet, err = resourceid.Parse(p.Subnet.ID); err != nil || !subnet.Is(subnetsType) {
		add("properties.subnet.id", "LinkedInvalidPropertyId", notAnID, p.Subnet.ID, "properties.subnet.id")
	}
	connections := p.Connections()
	if len(connections) != 1 {
		add("properties.privateLinkServiceConnections", "InvalidPrivateEndpointConnections", "Private endpoint %s must have exactly one private link service connection.", id)
	} else {
		c := connections[0].Properties
		if service, err = resourceid.Parse(c.PrivateLinkServiceID); err != nil || service.ResourceGroup() == "" {
			add(connectionID, "LinkedInvalidPropertyId", notAnID, c.PrivateLinkServiceID, connectionID)
		}
		if connections[0].Name == "" {
			add("properties.privateLinkServiceConnections[0].name", "InvalidRequestFormat", "Cannot parse the request: the private link service connection of %s has no name.", id)
		}
		if len(c.RequestMessage) > 140 {
			add("properties.privateLinkServiceConnections[0].properties.requestMessage", "InvalidRequestFormat", "Cannot parse the request: requestMessage is longer than 140 characters.")
		}
	}
	if len(p.ApplicationSecurityGroups) > 0 {
		add("properties.applicationSecurityGroups", armerror.NotSupported, "Application security groups are not supported by Cloister.")
	}
	return subnet, service, problems
}

// allocate gives each member its address in the subnet and its number on the service's side.
func allocate(ctx context.Context, r *resourcetype.Request[Model], subnet resourceid.ID, members []Member) error {
	var doc struct {
		Properties struct {
			AddressPrefix   string   `json:"addressPrefix"`
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"properties"`
	}
	missing := armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", subnet, r.ID).WithTarget("properties.subnet.id")
	if err := r.Documents.Get(ctx, subnet, &doc); errors.Is(err, resourcestore.ErrNotFound) {
		return missing
	} else if err != nil {
		return fmt.Errorf("read %s: %w", subnet, err)
	}
	vnet, _ := subnet.Parent()
	var network struct {
		Location string `json:"location"`
	}
	if err := r.Documents.Get(ctx, vnet, &network); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return fmt.Errorf("read %s: %w", vnet, err)
	}
	if network.Location != "" && r.Model.Location != "" && network.Location != r.Model.Location {
		return missing
	}
	text := doc.Properties.AddressPrefix
	if text == "" && len(doc.Properties.AddressPrefixes) > 0 {
		text = doc.Properties.AddressPrefixes[0]
	}
	prefix, err := ipam.Parse(text)
	if err != nil {
		return fmt.Errorf("prefix of %s: %w", subnet, err)
	}
	uses, err := subnetuse.Of(ctx, r.Documents, subnet)
	if err != nil {
		return err
	}
	free := ipam.NewSubnet(prefix, subnetuse.Addresses(subnetuse.Except(uses, r.ID)))

	asked, problems := static(r.Model.Properties.IPConfigurations, members, free, subnet)
	if err := armerror.Join(problems); err != nil {
		return err
	}
	next, err := serviceIndexes(ctx, r.Documents)
	if err != nil {
		return err
	}
	for i := range members {
		m := &members[i]
		if c, ok := asked[m.Name]; ok {
			m.Address, m.IPConfiguration = c.Properties.PrivateIPAddress, c.Name
		} else {
			a, err := free.Next()
			if err != nil {
				return armerror.New("SubnetIsFull", "Subnet %s with address prefix %s does not have enough capacity for %d IP addresses.", subnet.Name(), prefix, len(members)).WithTarget("properties.subnet.id")
			}
			m.Address, m.IPConfiguration = a.String(), "privateEndpointIpConfig."+uuid.NewString()
		}
		m.ServiceIndex = next()
	}
	return nil
}

// static takes the addresses that the request asks for, by member.
func static(configs []IPConfiguration, members []Member, free *ipam.Subnet, subnet resourceid.ID) (map[string]IPConfiguration, []*armerror.Error) {
	asked := map[string]IPConfiguration{}
	var problems []*armerror.Error
	for i, c := range configs {
		at := fmt.Sprintf("properties.ipConfigurations[%d].properties.", i)
		add := func(property, code, format string, args ...any) {
			problems = append(problems, armerror.New(code, format, args...).WithTarget(at+property))
		}
		known := slices.ContainsFunc(members, func(m Member) bool {
			return m.Name == c.Properties.MemberName && m.GroupID == c.Properties.GroupID
		})
		if _, twice := asked[c.Properties.MemberName]; !known || twice {
			add("memberName", "InvalidPrivateEndpointIPConfiguration", "Member '%s' of group '%s' is not a member of the private link resource, or is given twice.", c.Properties.MemberName, c.Properties.GroupID)
			continue
		}
		asked[c.Properties.MemberName] = c
		a, err := netip.ParseAddr(c.Properties.PrivateIPAddress)
		if err != nil {
			add("privateIPAddress", "InvalidIPAddressFormat", "IP address %s is not formatted correctly.", c.Properties.PrivateIPAddress)
			continue
		}
		switch err := free.Take(a); {
		case errors.Is(err, ipam.ErrOutside):
			add("privateIPAddress", "PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix of %s.", a, subnet)
		case errors.Is(err, ipam.ErrReserved):
			add("privateIPAddress", "PrivateIPAddressInReservedRange", "Private static IP address %s falls within reserved IP range of subnet prefix of %s.", a, subnet)
		case err != nil:
			add("privateIPAddress", "PrivateIPAddressIsAllocated", "IP configuration %s is using the private IP address %s which is already allocated to another resource.", c.Name, a)
		}
	}
	return asked, problems
}

// serviceIndexes hands out the lowest numbers that no member of any endpoint has.
func serviceIndexes(ctx context.Context, docs resourcetype.Reader) (func() int, error) {
	list, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return nil, fmt.Errorf("list private endpoints: %w", err)
	}
	used := map[int]bool{}
	for _, r := range list {
		var m Model
		if err := json.Unmarshal(r.Body, &m); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		if m.Cloister != nil {
			for _, member := range m.Cloister.Members {
				used[member.ServiceIndex] = true
			}
		}
	}
	last := 0
	return func() int {
		for last++; used[last]; last++ {
		}
		return last
	}, nil
}
