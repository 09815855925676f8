package networkinterfaces

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

var configurationName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`)

// validate finds all that is wrong with the properties by themselves.
func validate(id resourceid.ID, p *Properties) []*armerror.Error {
	var problems []*armerror.Error
	add := func(target string, e *armerror.Error) { problems = append(problems, e.WithTarget(target)) }
	refuse := func(target, what string) {
		add(target, armerror.New(armerror.NotSupported, "%s of network interface '%s' is not supported by Cloister.", what, id.Name()))
	}
	if len(p.IPConfigurations) == 0 {
		add("properties.ipConfigurations", armerror.New("IpConfigurationsAreMissing", "Network interface %s must have one or more IP configurations.", id))
	}
	names, primaries := map[string]bool{}, 0
	for i := range p.IPConfigurations {
		c := &p.IPConfigurations[i]
		at := fmt.Sprintf("properties.ipConfigurations[%d]", i)
		if !configurationName.MatchString(c.Name) {
			add(at+".name", armerror.New("InvalidResourceName", "Resource name %s is invalid.", c.Name))
		}
		if names[strings.ToLower(c.Name)] {
			add(at+".name", armerror.New("DuplicateResourceName", "Resource %s has two child resources with the same name (%s).", id, c.Name))
		}
		names[strings.ToLower(c.Name)] = true
		if c.primary() {
			primaries++
		}
		q := &c.Properties
		if q.Subnet == nil {
			add(at+".properties.subnet", armerror.New("SubnetNotSpecified", "Subnet reference is missing in IP configuration %s of network interface %s.", c.Name, id))
		} else if s, err := resourceid.Parse(q.Subnet.ID); err != nil || !s.Is(subnetsType) {
			add(at+".properties.subnet.id", armerror.New("LinkedInvalidPropertyId", "Property id '%s' at path '%s' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", q.Subnet.ID, at+".properties.subnet.id"))
		}
		switch q.PrivateIPAllocationMethod {
		case "", "Dynamic":
		case "Static":
			if q.PrivateIPAddress == "" {
				add(at+".properties.privateIPAddress", armerror.New("PrivateIPAddressRequiredWhenAllocationMethodIsStatic", "IP configuration %s has allocation method Static but no private IP address.", c.Name))
			}
		default:
			add(at+".properties.privateIPAllocationMethod", armerror.New("InvalidRequestFormat", "Cannot parse the request: '%s' is not a value of privateIPAllocationMethod.", q.PrivateIPAllocationMethod))
		}
		if v := q.PrivateIPAddressVersion; v != "" && v != "IPv4" {
			refuse(at+".properties.privateIPAddressVersion", "An "+v+" address")
		}
		for j, pool := range q.LoadBalancerBackendAddressPools {
			if _, problem := egressuse.Parse(fmt.Sprintf("%s.properties.loadBalancerBackendAddressPools[%d].id", at, j), pool.ID, egressuse.BackendPools); problem != nil {
				problems = append(problems, problem)
			}
		}
		for _, unsupported := range []struct {
			property string
			n        int
		}{
			{"loadBalancerInboundNatRules", len(q.LoadBalancerInboundNATRules)},
			{"applicationGatewayBackendAddressPools", len(q.ApplicationGatewayBackendPools)}, {"applicationSecurityGroups", len(q.ApplicationSecurityGroups)},
		} {
			if unsupported.n > 0 {
				refuse(at+".properties."+unsupported.property, unsupported.property)
			}
		}
	}
	if primaries > 1 {
		add("properties.ipConfigurations", armerror.New("NetworkInterfaceHasMultiplePrimaryIPConfigurations", "Network interface %s has more than one primary IP configuration.", id))
	}
	if p.DNSSettings != nil && len(p.DNSSettings.DNSServers) > 0 {
		refuse("properties.dnsSettings.dnsServers", "A DNS server of its own: only Azure's DNS (168.63.129.16) is there; dnsServers")
	}
	if s := p.NetworkSecurityGroup; s != nil {
		if ref, err := resourceid.Parse(s.ID); err != nil || !ref.Is("Microsoft.Network/networkSecurityGroups") {
			add("properties.networkSecurityGroup.id", armerror.New("LinkedInvalidPropertyId", "Property id '%s' at path 'properties.networkSecurityGroup.id' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.", s.ID))
		}
	}
	return problems
}
