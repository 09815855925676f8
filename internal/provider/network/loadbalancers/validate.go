package loadbalancers

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

var partName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`)

type validation struct {
	id       resourceid.ID
	problems []*armerror.Error
}

func (v *validation) add(target string, e *armerror.Error) {
	v.problems = append(v.problems, e.WithTarget(target))
}

func (v *validation) refuse(target, what string) {
	v.add(target, armerror.New(armerror.NotSupported, "%s of load balancer '%s' is not supported by Cloister.", what, v.id.Name()))
}

// name checks a part's name among those of its list.
func (v *validation) name(target, name string, seen map[string]bool) {
	if !partName.MatchString(name) {
		v.add(target, armerror.New("InvalidResourceName", "Resource name %s is invalid.", name))
	}
	if seen[strings.ToLower(name)] {
		v.add(target, armerror.New("DuplicateResourceName", "Resource %s has two child resources with the same name (%s).", v.id, name))
	}
	seen[strings.ToLower(name)] = true
}

// part checks a reference to a part of the same load balancer.
func (v *validation) part(target string, link *egressuse.Link, kind string, there map[string]bool) {
	var text string
	if link != nil {
		text = link.ID
	}
	id, problem := egressuse.Parse(target, text, Name+"/"+kind)
	if problem != nil {
		v.problems = append(v.problems, problem)
		return
	}
	if parent, _ := id.Parent(); !parent.Equal(v.id) || !there[strings.ToLower(id.Name())] {
		v.add(target, armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, v.id))
	}
}

// validate finds all that is wrong with the document by itself.
func validate(id resourceid.ID, m *Model) []*armerror.Error {
	v := &validation{id: id}
	if s := m.SKU; s != nil {
		if s.Name != "" && !strings.EqualFold(s.Name, "Standard") {
			v.refuse("sku.name", "The SKU "+s.Name)
		}
		if s.Tier != "" && !strings.EqualFold(s.Tier, "Regional") {
			v.refuse("sku.tier", "The tier "+s.Tier)
		}
	}
	p := &m.Properties
	for _, unsupported := range []struct {
		property, what string
		n              int
	}{
		{"loadBalancingRules", "A load balancing rule", len(p.LoadBalancingRules)}, {"probes", "A probe", len(p.Probes)},
		{"inboundNatRules", "An inbound NAT rule", len(p.InboundNATRules)}, {"inboundNatPools", "An inbound NAT pool", len(p.InboundNATPools)},
	} {
		if unsupported.n > 0 {
			v.refuse("properties."+unsupported.property, unsupported.what)
		}
	}
	frontends, public := map[string]bool{}, map[string]bool{}
	for i := range p.FrontendIPConfigurations {
		f := &p.FrontendIPConfigurations[i]
		v.frontend(fmt.Sprintf("properties.frontendIPConfigurations[%d]", i), f, frontends)
		public[strings.ToLower(f.Name)] = f.Properties.PublicIPAddress != nil
	}
	pools := map[string]bool{}
	for i, b := range p.BackendAddressPools {
		at := fmt.Sprintf("properties.backendAddressPools[%d]", i)
		v.name(at+".name", b.Name, pools)
		if len(b.Properties.LoadBalancerBackendAddresses) > 0 {
			v.refuse(at+".properties.loadBalancerBackendAddresses", "A member by address: network interfaces name the pool; loadBalancerBackendAddresses")
		}
	}
	rules := map[string]bool{}
	for i := range p.OutboundRules {
		at := fmt.Sprintf("properties.outboundRules[%d]", i)
		o := &p.OutboundRules[i]
		v.name(at+".name", o.Name, rules)
		v.outbound(at+".properties", &o.Properties, frontends, public, pools)
	}
	return v.problems
}

func (v *validation) frontend(at string, f *Frontend, seen map[string]bool) {
	v.name(at+".name", f.Name, seen)
	p := &f.Properties
	at += ".properties"
	if p.PublicIPPrefix != nil {
		v.refuse(at+".publicIPPrefix", "A public IP prefix")
	}
	if p.GatewayLoadBalancer != nil {
		v.refuse(at+".gatewayLoadBalancer", "A gateway load balancer")
	}
	if p.PrivateIPAddressVersion != "" && p.PrivateIPAddressVersion != "IPv4" {
		v.refuse(at+".privateIPAddressVersion", "An "+p.PrivateIPAddressVersion+" address")
	}
	if p.PublicIPPrefix == nil && (p.PublicIPAddress == nil) == (p.Subnet == nil) {
		v.add(at, armerror.New("FrontendIPConfigurationMustHaveOneAddress", "Frontend IP configuration %s of load balancer %s must name either a public IP address or a subnet.", f.Name, v.id))
	}
	if p.Subnet != nil {
		if _, problem := egressuse.Parse(at+".subnet.id", p.Subnet.ID, egressuse.Subnets); problem != nil {
			v.problems = append(v.problems, problem)
		}
	}
	switch p.PrivateIPAllocationMethod {
	case "", "Dynamic":
	case "Static":
		if p.Subnet != nil && p.PrivateIPAddress == "" {
			v.add(at+".privateIPAddress", armerror.New("PrivateIPAddressRequiredWhenAllocationMethodIsStatic", "IP configuration %s has allocation method Static but no private IP address.", f.Name))
		}
	default:
		v.add(at+".privateIPAllocationMethod", armerror.New("InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of privateIPAllocationMethod.", p.PrivateIPAllocationMethod))
	}
}

func (v *validation) outbound(at string, p *OutboundRuleProperties, frontends, public, pools map[string]bool) {
	if len(p.FrontendIPConfigurations) == 0 {
		v.add(at+".frontendIPConfigurations", armerror.New("OutboundRuleMustHaveFrontendIPConfiguration", "An outbound rule of load balancer %s names no frontend IP configuration.", v.id))
	}
	for i := range p.FrontendIPConfigurations {
		target := fmt.Sprintf("%s.frontendIPConfigurations[%d].id", at, i)
		v.part(target, &p.FrontendIPConfigurations[i], "frontendIPConfigurations", frontends)
		if id, err := resourceid.Parse(p.FrontendIPConfigurations[i].ID); err == nil && frontends[strings.ToLower(id.Name())] && !public[strings.ToLower(id.Name())] {
			v.add(target, armerror.New("OutboundRuleFrontendMustBePublic", "Outbound rules of load balancer %s cannot use frontend IP configuration %s, which has no public IP address.", v.id, id.Name()))
		}
	}
	v.part(at+".backendAddressPool.id", p.BackendAddressPool, "backendAddressPools", pools)
	found := false
	for _, known := range []string{"All", "Tcp", "Udp"} {
		if strings.EqualFold(known, p.Protocol) {
			p.Protocol, found = known, true
		}
	}
	if !found {
		v.add(at+".protocol", armerror.New("InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of protocol.", p.Protocol))
	}
	if n := p.AllocatedOutboundPorts; n < 0 || n > 64000 || n%8 != 0 {
		v.add(at+".allocatedOutboundPorts", armerror.New("OutboundRuleInvalidAllocatedOutboundPorts", "allocatedOutboundPorts is %d. It must be a multiple of 8 between 0 and 64000.", n))
	} else if n != 0 {
		v.refuse(at+".allocatedOutboundPorts", fmt.Sprintf("An outbound rule with a share of %d ports", n))
	}
	if n := p.IdleTimeoutInMinutes; n != 0 && (n < 4 || n > 120) {
		v.add(at+".idleTimeoutInMinutes", armerror.New("IdleTimeoutOutOfRange", "The idle timeout of an outbound rule of load balancer '%s' is %d minutes. It must be between 4 and 120.", v.id.Name(), n))
	} else if n != 0 && n != defaultIdle && n != clustersIdle {
		v.refuse(at+".idleTimeoutInMinutes", fmt.Sprintf("An outbound rule with an idle timeout of %d minutes", n))
	}
}
