package azcli

import (
	"net/netip"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const (
	vnetType     = "Microsoft.Network/virtualNetworks"
	subnetType   = vnetType + "/subnets"
	nsgType      = "Microsoft.Network/networkSecurityGroups"
	endpointType = "Microsoft.Network/privateEndpoints"
	zoneType     = "Microsoft.Network/privateDnsZones"
)

var argVNet = named("vnet-name", "", "The virtual network (VNet) name.")

func networkCommands() []command {
	vnet := resource{path: "network vnet", kind: vnetType, api: networkAPI, what: "a virtual network", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"NumSubnets", "length(subnets || `[]`)"}, {"Prefixes", "join(', ', addressSpace.addressPrefixes)"}, {"ProvisioningState", "provisioningState"}}}
	subnet := resource{path: "network vnet subnet", kind: subnetType, api: subnetAPI, what: "a subnet", parents: []arg{argVNet}, table: columns{
		{"AddressPrefix", "addressPrefix"}, {"Name", "name"}, {"DefaultOutboundAccess", "defaultOutboundAccess"}, {"PrivateEndpointNetworkPolicies", "privateEndpointNetworkPolicies"}, {"ProvisioningState", "provisioningState"}, {"ResourceGroup", "resourceGroup"}}}
	nic := resource{path: "network nic", kind: "Microsoft.Network/networkInterfaces", api: nicAPI, what: "a network interface", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"PrivateIp", "ipConfigurations[0].privateIPAddress"}, {"ProvisioningState", "provisioningState"}}}
	policies := arg{name: "private-endpoint-network-policies", help: "Manage network policies for private endpoints.", choices: []string{"Disabled", "Enabled", "NetworkSecurityGroupEnabled", "RouteTableEnabled"}}
	servers := arg{name: "dns-servers", help: "Space-separated list of DNS server IP addresses; null on update: Azure's DNS.", kind: many}
	created := policies
	created.def = "Disabled"
	subnetArgs := []arg{
		{name: "default-outbound-access", help: "Whether to allow the default outbound access of the subnet.", kind: truth},
		{name: "network-security-group", help: "Name or ID of a network security group (NSG).", also: []string{"--nsg"}},
		{name: "route-table", help: "Name or ID of a route table to associate with the subnet."},
		{name: "nat-gateway", help: "Name or ID of a NAT gateway to attach."},
		{name: "delegations", help: "Space-separated list of services to whom the subnet should be delegated.", kind: many},
	}
	all := append(append(vnet.common(), subnet.common()...), nic.common()...)
	all = append(all, command{path: "network vnet update", help: "Update a virtual network.", waits: true, target: vnet.target, args: vnet.args(argTags,
		arg{name: "address-prefixes", help: "Space-separated list of IP address prefixes for the VNet.", kind: many}, servers), on: changing(networkAPI, func(c *call, properties object) {
		if c.has("address-prefixes") {
			properties["addressSpace"] = object{"addressPrefixes": c.all("address-prefixes")}
		}
		switch {
		case c.get("dns-servers") == "null": // the empty string is sent, and refused (azure-cli#28294)
			delete(properties, "dhcpOptions")
		case c.said("dns-servers"):
			properties["dhcpOptions"] = object{"dnsServers": c.all("dns-servers")}
		}
	})})
	return append(all,
		command{path: "network vnet create", help: "Create a virtual network.", example: "-g demo -n vnet --address-prefixes 192.168.0.0/16", waits: true, args: vnet.args(argLocation, argTags,
			arg{name: "address-prefixes", help: "Space-separated list of IP address prefixes for the VNet.", kind: many, def: "10.0.0.0/16"},
			arg{name: "subnet-name", help: "Name of a new subnet to create within the VNet.", part: true},
			arg{name: "subnet-prefixes", help: "Space-separated list of address prefixes in CIDR format for the new subnet.", kind: many}, servers), run: vnetCreate},
		command{path: "network vnet subnet create", help: "Create a subnet.", example: "-g demo --vnet-name vnet -n aks --address-prefixes 192.168.1.0/24 --default-outbound-access false", waits: true,
			args: subnet.args(append(subnetArgs, created, arg{name: "address-prefixes", help: "Space-separated list of address prefixes in CIDR format.", kind: many, required: true, also: []string{"--address-prefix"}})...), run: subnetCreate},
		command{path: "network vnet subnet update", help: "Update a subnet.", waits: true, args: subnet.args(append(subnetArgs, policies)...), target: subnet.target, on: subnetUpdate},
	)
}

func vnetCreate(c *call) (any, error) {
	properties := object{"addressSpace": object{"addressPrefixes": c.all("address-prefixes")}, "enableDdosProtection": false, "enableVmProtection": false}
	if name := c.get("subnet-name"); name != "" {
		subnet := object{"name": name, "properties": prefixes(subnetPrefixes(c), object{
			"privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"})}
		properties["subnets"] = []any{subnet}
	} else if c.has("subnet-prefixes") {
		return nil, usagef("usage error: --subnet-name NAME [--subnet-prefixes PREFIXES]")
	}
	if c.has("dns-servers") {
		properties["dhcpOptions"] = object{"dnsServers": c.all("dns-servers")}
	}
	body, err := c.document(properties)
	if err != nil {
		return nil, err
	}
	doc, err := c.write(c.group().Resource(vnetType, c.get("name")), networkAPI, body)
	if doc == nil || err != nil {
		return nil, err
	}
	return object{"newVNet": doc}, nil
}

// subnetPrefixes are those that were given for the new subnet, or what az takes then: the first /24 of the network.
func subnetPrefixes(c *call) []string {
	given := c.all("subnet-prefixes")
	if first, err := netip.ParsePrefix(c.get("address-prefixes")); len(given) == 0 && err == nil {
		return []string{netip.PrefixFrom(first.Addr(), max(24, first.Bits())).String()}
	}
	return given
}

// prefixes writes one prefix as addressPrefix and several as addressPrefixes, as az does.
func prefixes(given []string, into object) object {
	switch len(given) {
	case 0:
	case 1:
		into["addressPrefix"] = given[0]
	default:
		into["addressPrefixes"] = given
	}
	return into
}

func subnetCreate(c *call) (any, error) {
	properties := prefixes(c.all("address-prefixes"), object{"privateEndpointNetworkPolicies": c.get("private-endpoint-network-policies"), "privateLinkServiceNetworkPolicies": "Enabled"})
	subnetProperties(c, properties)
	id := c.group().Resource(subnetType, c.get("vnet-name"), c.get("name"))
	return c.write(id, subnetAPI, object{"name": c.get("name"), "properties": properties})
}

func subnetUpdate(c *call, id resourceid.ID) (any, error) {
	doc, err := c.c.get(c.ctx, id, subnetAPI)
	if err != nil {
		return nil, err
	}
	properties, _ := doc["properties"].(map[string]any)
	if properties == nil {
		properties = object{}
	}
	if p := c.get("private-endpoint-network-policies"); p != "" {
		properties["privateEndpointNetworkPolicies"] = p
	}
	subnetProperties(c, properties)
	doc["properties"] = properties
	return c.write(id, subnetAPI, doc)
}

func subnetProperties(c *call, properties object) {
	if c.has("default-outbound-access") {
		properties["defaultOutboundAccess"] = c.is("default-outbound-access")
	}
	for name, target := range map[string][2]string{"network-security-group": {"networkSecurityGroup", nsgType}, "route-table": {"routeTable", routeTableType}, "nat-gateway": {"natGateway", natType}} {
		switch {
		case c.cleared(name):
			delete(properties, target[0])
		case c.has(name):
			properties[target[0]] = object{"id": c.idOrName(c.get(name), target[1])}
		}
	}
	if c.has("delegations") {
		var all []any
		for _, d := range c.all("delegations") {
			all = append(all, object{"name": strings.ReplaceAll(d, "/", "."), "properties": object{"serviceName": d}})
		}
		properties["delegations"] = all
	}
}

func securityCommands() []command {
	nsg := resource{path: "network nsg", kind: nsgType, api: networkAPI, what: "a network security group", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"ProvisioningState", "provisioningState"}}}
	rule := resource{path: "network nsg rule", kind: nsgType + "/securityRules", api: networkAPI, what: "a network security group rule",
		parents: []arg{named("nsg-name", "", "Name of the network security group.")}, table: columns{
			{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Priority", "priority"},
			{"SourcePortRanges", "sourcePortRange || join(' ', sourcePortRanges)"}, {"SourceAddressPrefixes", "sourceAddressPrefix || join(' ', sourceAddressPrefixes)"},
			{"Access", "access"}, {"Protocol", "protocol"}, {"Direction", "direction"},
			{"DestinationPortRanges", "destinationPortRange || join(' ', destinationPortRanges)"}, {"DestinationAddressPrefixes", "destinationAddressPrefix || join(' ', destinationAddressPrefixes)"}}}
	matching := arg{kind: many, def: "*", help: "Space-separated list, or '*' to match all."}
	ranges := func(name, def string) arg { a := matching; a.name, a.def = name, def; return a }
	updated := rule.args(
		arg{name: "priority", help: "Rule priority, between 100 (highest) and 4096 (lowest).", kind: number},
		arg{name: "direction", help: "The direction of the rule.", choices: []string{"Inbound", "Outbound"}},
		arg{name: "access", help: "Whether traffic is allowed or denied.", choices: []string{"Allow", "Deny"}},
		arg{name: "protocol", help: "Network protocol this rule applies to.", choices: []string{"*", "Ah", "Esp", "Icmp", "Tcp", "Udp"}},
		ranges("source-address-prefixes", ""), ranges("source-port-ranges", ""), ranges("destination-address-prefixes", ""), ranges("destination-port-ranges", ""),
		arg{name: "description", help: "Rule description."})
	return append(append(nsg.common(), rule.common()...),
		command{path: "network nsg create", help: "Create a network security group.", args: nsg.args(argLocation, argTags), waits: true, run: func(c *call) (any, error) {
			body, err := c.document(nil)
			if err != nil {
				return nil, err
			}
			doc, err := c.write(nsg.target(c), networkAPI, body)
			if doc == nil || err != nil {
				return nil, err
			}
			return object{"NewNSG": doc}, nil
		}},
		command{path: "network nsg rule update", help: "Update a network security group rule.", waits: true, args: updated, target: rule.target, on: changing(networkAPI, ruleChange)},
		command{path: "network nsg rule create", help: "Create a network security group rule.", waits: true,
			example: "-g demo --nsg-name nsg -n deny-out --priority 100 --direction Outbound --access Deny --destination-port-ranges '*'",
			args: rule.args(
				arg{name: "priority", help: "Rule priority, between 100 (highest) and 4096 (lowest).", required: true, kind: number},
				arg{name: "direction", help: "The direction of the rule.", def: "Inbound", choices: []string{"Inbound", "Outbound"}},
				arg{name: "access", help: "Whether traffic is allowed or denied.", def: "Allow", choices: []string{"Allow", "Deny"}},
				arg{name: "protocol", help: "Network protocol this rule applies to.", def: "*", choices: []string{"*", "Ah", "Esp", "Icmp", "Tcp", "Udp"}},
				ranges("source-address-prefixes", "*"), ranges("source-port-ranges", "*"), ranges("destination-address-prefixes", "*"), ranges("destination-port-ranges", "80"),
				arg{name: "description", help: "Rule description."}),
			run: func(c *call) (any, error) { return c.write(rule.target(c), networkAPI, ruleDocument(c)) }},
	)
}

func ruleDocument(c *call) object {
	properties := object{}
	ruleChange(c, properties)
	return object{"properties": properties}
}

// ruleChange writes what was said of a rule. One value has a property of its own, several share a list.
func ruleChange(c *call, properties object) {
	for _, name := range []string{"access", "direction", "protocol", "description"} {
		if v := c.get(name); v != "" {
			properties[name] = v
		}
	}
	if c.has("priority") {
		properties["priority"] = c.integer("priority")
	}
	for name, key := range map[string][2]string{
		"source-address-prefixes":      {"sourceAddressPrefix", "sourceAddressPrefixes"},
		"destination-address-prefixes": {"destinationAddressPrefix", "destinationAddressPrefixes"},
		"source-port-ranges":           {"sourcePortRange", "sourcePortRanges"},
		"destination-port-ranges":      {"destinationPortRange", "destinationPortRanges"},
	} {
		if !c.has(name) {
			continue
		}
		delete(properties, key[0])
		delete(properties, key[1])
		if given := c.all(name); len(given) == 1 {
			properties[key[0]] = given[0]
		} else {
			properties[key[1]] = given
		}
	}
}

func endpointCommands() []command {
	endpoint := resource{path: "network private-endpoint", kind: endpointType, api: endpointAPI, what: "a private endpoint", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"ProvisioningState", "provisioningState"}}}
	group := resource{path: "network private-endpoint dns-zone-group", kind: endpointType + "/privateDnsZoneGroups", api: zoneGroupAPI, what: "a private endpoint DNS zone group",
		parents: []arg{named("endpoint-name", "", "Name of the private endpoint.")}}
	return append(append(endpoint.common(), group.common()...),
		command{path: "network private-endpoint create", help: "Create a private endpoint.", waits: true,
			example: "-g demo -n pe --vnet-name vnet --subnet acr --private-connection-resource-id ID --group-id registry --connection-name registry",
			args: endpoint.args(argLocation, argTags,
				arg{name: "subnet", help: "Name or ID of an existing subnet.", required: true},
				arg{name: "vnet-name", help: "The virtual network (VNet) of a subnet given by name.", part: true},
				arg{name: "private-connection-resource-id", help: "The resource ID of the private connect service to connect to.", required: true},
				arg{name: "group-id", help: "The ID of the group obtained from the remote resource that this private endpoint should connect to.", kind: many, also: []string{"--group-ids"}},
				arg{name: "connection-name", help: "Name of the private link service connection.", required: true},
				arg{name: "request-message", help: "A message passed to the owner of the remote resource with this connection request."},
				arg{name: "manual-request", help: "Use manual request to establish the connection.", kind: truth}),
			run: endpointCreate},
		command{path: "network private-endpoint dns-zone-group create", help: "Create a private endpoint DNS zone group.", waits: true,
			args: group.args(
				arg{name: "private-dns-zone", help: "Name or ID of the private DNS zone.", required: true},
				arg{name: "zone-name", help: "Name of the private DNS zone configuration.", required: true}),
			run: func(c *call) (any, error) {
				return c.write(group.target(c), zoneGroupAPI, object{"name": c.get("name"), "properties": object{"privateDnsZoneConfigs": []any{
					object{"name": c.get("zone-name"), "properties": object{"privateDnsZoneId": c.idOrName(c.get("private-dns-zone"), zoneType)}},
				}}})
			}},
	)
}

func endpointCreate(c *call) (any, error) {
	if !strings.HasPrefix(c.get("subnet"), "/") && !c.has("vnet-name") {
		return nil, usagef("usage error: --subnet ID | --subnet NAME --vnet-name NAME")
	}
	link := object{"privateLinkServiceId": c.get("private-connection-resource-id")}
	if c.has("group-id") {
		link["groupIds"] = c.all("group-id")
	}
	if m := c.get("request-message"); m != "" {
		link["requestMessage"] = m
	}
	connection := object{"name": c.get("connection-name"), "properties": link}
	properties := object{"subnet": object{"id": c.idOrName(c.get("subnet"), subnetType, c.get("vnet-name"))}}
	if c.is("manual-request") {
		properties["manualPrivateLinkServiceConnections"] = []any{connection}
	} else {
		properties["privateLinkServiceConnections"] = []any{connection}
	}
	body, err := c.document(properties)
	if err != nil {
		return nil, err
	}
	return c.write(c.group().Resource(endpointType, c.get("name")), endpointAPI, body)
}
