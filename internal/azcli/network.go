package azcli

import (
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

type object = map[string]any

// crud are the commands that every resource type has: show, list, delete.
func crud(path, resourceType, apiVersion, what string) []command {
	id := func(c *call) resourceid.ID { return c.group().Resource(resourceType, c.get("name")) }
	return []command{
		{path + " show", "Get the details of " + what + ".", []arg{argGroup, argName}, func(c *call) (any, error) { return c.c.get(c.ctx, id(c), apiVersion) }},
		{path + " list", "List resources of the type.", []arg{optional(argGroup)}, func(c *call) (any, error) {
			scope := "/subscriptions/" + c.c.Subscription
			if c.has("resource-group") {
				scope = c.group().String()
			}
			return c.c.list(c.ctx, scope+"/providers/"+resourceType, apiVersion)
		}},
		{path + " delete", "Delete " + what + ".", []arg{argGroup, argName, argYes, argNoWait}, func(c *call) (any, error) {
			return c.c.remove(c.ctx, id(c), apiVersion, c.is("no-wait"))
		}},
	}
}

// body starts a document with location and tags.
func (c *call) body(properties object) (object, error) {
	location, err := c.location()
	if err != nil {
		return nil, err
	}
	b := object{"location": location, "properties": properties}
	if t := c.tags(); t != nil {
		b["tags"] = t
	}
	return b, nil
}

// idOrName is the ID of a resource given by either.
func (c *call) idOrName(value, resourceType string, parents ...string) string {
	if strings.HasPrefix(value, "/") {
		return value
	}
	return c.group().Resource(resourceType, append(parents, value)...).String()
}

func networkCommands() []command {
	vnetName := arg{name: "vnet-name", help: "The virtual network (VNet) name.", required: true}
	subnetArgs := []arg{argGroup, vnetName, argName}
	subnetID := func(c *call) resourceid.ID {
		return c.group().Resource("Microsoft.Network/virtualNetworks/subnets", c.get("vnet-name"), c.get("name"))
	}
	var all []command
	all = append(all, crud("network vnet", "Microsoft.Network/virtualNetworks", networkAPI, "a virtual network")...)
	all = append(all, crud("network nsg", "Microsoft.Network/networkSecurityGroups", networkAPI, "a network security group")...)
	all = append(all, crud("network private-endpoint", "Microsoft.Network/privateEndpoints", endpointAPI, "a private endpoint")...)
	for _, c := range crud("network nic", "Microsoft.Network/networkInterfaces", nicAPI, "a network interface") {
		if c.path != "network nic show" {
			all = append(all, c)
		}
	}
	return append(all,
		command{"network nic show", "Get the information of a network interface.", []arg{optional(argGroup), optional(argName), {name: "ids", help: "One or more resource IDs (space-delimited).", many: true}}, func(c *call) (any, error) {
			if s := c.get("ids"); s != "" {
				id, err := resourceid.Parse(s)
				if err != nil {
					return nil, err
				}
				return c.c.get(c.ctx, id, nicAPI)
			}
			return c.c.get(c.ctx, c.group().Resource("Microsoft.Network/networkInterfaces", c.get("name")), nicAPI)
		}},
		command{"network vnet create", "Create a virtual network.", []arg{argGroup, argName, argLocation, argTags,
			{name: "address-prefixes", help: "Space-separated list of IP address prefixes.", many: true, def: "10.0.0.0/16"},
			{name: "subnet-name", help: "Name of a subnet to create at once."}, {name: "subnet-prefixes", help: "Its address prefixes.", many: true}, argNoWait}, vnetCreate},
		command{"network vnet subnet create", "Create a subnet.", []arg{argGroup, vnetName, argName,
			{name: "address-prefixes", help: "Space-separated list of address prefixes in CIDR format.", many: true, required: true},
			{name: "default-outbound-access", help: "Whether to allow default outbound access for VMs in the subnet.", flag: true},
			{name: "network-security-group", help: "Name or ID of a network security group."},
			{name: "private-endpoint-network-policies", help: "Manage network policies for private endpoints.", def: "Disabled", choices: []string{"Disabled", "Enabled", "NetworkSecurityGroupEnabled", "RouteTableEnabled"}},
			{name: "delegations", help: "Space-separated list of services to whom the subnet should be delegated.", many: true}, argNoWait}, subnetCreate},
		command{"network vnet subnet show", "Show details of a subnet.", subnetArgs, func(c *call) (any, error) { return c.c.get(c.ctx, subnetID(c), subnetAPI) }},
		command{"network vnet subnet delete", "Delete a subnet.", append(subnetArgs, argNoWait), func(c *call) (any, error) {
			return c.c.remove(c.ctx, subnetID(c), subnetAPI, c.is("no-wait"))
		}},
		command{"network vnet subnet list", "List the subnets in a virtual network.", []arg{argGroup, vnetName}, func(c *call) (any, error) {
			vnet := c.group().Resource("Microsoft.Network/virtualNetworks", c.get("vnet-name"))
			return c.c.list(c.ctx, vnet.String()+"/subnets", subnetAPI)
		}},
		command{"network nsg create", "Create a network security group.", []arg{argGroup, argName, argLocation, argTags}, func(c *call) (any, error) {
			body, err := c.body(object{})
			if err != nil {
				return nil, err
			}
			doc, err := c.c.put(c.ctx, c.group().Resource("Microsoft.Network/networkSecurityGroups", c.get("name")), networkAPI, body, false)
			return object{"NewNSG": doc}, err
		}},
		command{"network nsg rule create", "Create a network security group rule.", ruleArgs(), ruleCreate},
		command{"network nsg rule list", "List all rules in a network security group.", []arg{argGroup, {name: "nsg-name", help: "Name of the network security group.", required: true}}, func(c *call) (any, error) {
			return c.c.list(c.ctx, c.group().Resource("Microsoft.Network/networkSecurityGroups", c.get("nsg-name")).String()+"/securityRules", networkAPI)
		}},
		command{"network nsg rule delete", "Delete a network security group rule.", []arg{argGroup, {name: "nsg-name", help: "Name of the network security group.", required: true}, argName}, func(c *call) (any, error) {
			return c.c.remove(c.ctx, c.group().Resource("Microsoft.Network/networkSecurityGroups/securityRules", c.get("nsg-name"), c.get("name")), networkAPI, false)
		}},
		command{"network private-endpoint create", "Create a private endpoint.", []arg{argGroup, argName, argLocation, argTags,
			{name: "subnet", help: "Name or ID of an existing subnet.", required: true}, {name: "vnet-name", help: "The virtual network of a subnet given by name."},
			{name: "private-connection-resource-id", help: "The resource ID of the private connect service to connect to.", required: true},
			{name: "group-id", help: "The ID of the group obtained from the remote resource.", required: true, many: true},
			{name: "connection-name", help: "Name of the private link service connection.", required: true},
			{name: "manual-request", help: "Use a manual request to establish the connection.", flag: true}, argNoWait}, endpointCreate},
	)
}

func vnetCreate(c *call) (any, error) {
	properties := object{"addressSpace": object{"addressPrefixes": c.all("address-prefixes")}, "enableDdosProtection": false, "enableVmProtection": false}
	if name := c.get("subnet-name"); name != "" {
		subnet := object{"name": name, "properties": object{"addressPrefix": c.get("subnet-prefixes")}}
		properties["subnets"] = []any{subnet}
	}
	body, err := c.body(properties)
	if err != nil {
		return nil, err
	}
	doc, err := c.c.put(c.ctx, c.group().Resource("Microsoft.Network/virtualNetworks", c.get("name")), networkAPI, body, c.is("no-wait"))
	return object{"newVNet": doc}, err
}

func subnetCreate(c *call) (any, error) {
	properties := object{"privateEndpointNetworkPolicies": c.get("private-endpoint-network-policies"), "privateLinkServiceNetworkPolicies": "Enabled"}
	if p := c.all("address-prefixes"); len(p) == 1 {
		properties["addressPrefix"] = p[0]
	} else {
		properties["addressPrefixes"] = p
	}
	if c.has("default-outbound-access") {
		properties["defaultOutboundAccess"] = c.is("default-outbound-access")
	}
	if n := c.get("network-security-group"); n != "" {
		properties["networkSecurityGroup"] = object{"id": c.idOrName(n, "Microsoft.Network/networkSecurityGroups")}
	}
	var delegations []any
	for _, d := range c.all("delegations") {
		delegations = append(delegations, object{"name": d, "properties": object{"serviceName": d}})
	}
	if delegations != nil {
		properties["delegations"] = delegations
	}
	id := c.group().Resource("Microsoft.Network/virtualNetworks/subnets", c.get("vnet-name"), c.get("name"))
	return c.c.put(c.ctx, id, subnetAPI, object{"name": c.get("name"), "properties": properties}, c.is("no-wait"))
}

func ruleArgs() []arg {
	return []arg{argGroup, {name: "nsg-name", help: "Name of the network security group.", required: true}, argName,
		{name: "priority", help: "Rule priority, between 100 (highest) and 4096 (lowest).", required: true},
		{name: "direction", help: "The direction of the rule.", def: "Inbound", choices: []string{"Inbound", "Outbound"}},
		{name: "access", help: "Whether to allow or deny.", def: "Allow", choices: []string{"Allow", "Deny"}},
		{name: "protocol", help: "Network protocol this rule applies to.", def: "*", choices: []string{"*", "Tcp", "Udp", "Icmp"}},
		{name: "source-address-prefixes", help: "CIDR prefixes or a service tag.", def: "*", many: true},
		{name: "source-port-ranges", help: "Ports or ranges.", def: "*", many: true},
		{name: "destination-address-prefixes", help: "CIDR prefixes or a service tag.", def: "*", many: true},
		{name: "destination-port-ranges", help: "Ports or ranges.", def: "80", many: true},
		{name: "description", help: "Rule description."}}
}

func ruleCreate(c *call) (any, error) {
	properties := object{"access": c.get("access"), "direction": c.get("direction"), "protocol": c.get("protocol"), "priority": number(c.get("priority"))}
	if d := c.get("description"); d != "" {
		properties["description"] = d
	}
	for name, key := range map[string]string{
		"source-address-prefixes": "sourceAddressPrefix", "destination-address-prefixes": "destinationAddressPrefix",
		"source-port-ranges": "sourcePortRange", "destination-port-ranges": "destinationPortRange",
	} {
		plural := key + "es"
		if strings.HasSuffix(key, "Range") {
			plural = key + "s"
		}
		if v := c.all(name); len(v) == 1 {
			properties[key] = v[0]
		} else {
			properties[plural] = v
		}
	}
	return c.c.put(c.ctx, c.group().Resource("Microsoft.Network/networkSecurityGroups/securityRules", c.get("nsg-name"), c.get("name")), networkAPI, object{"properties": properties}, false)
}

func endpointCreate(c *call) (any, error) {
	connection := object{"name": c.get("connection-name"), "properties": object{
		"groupIds": c.all("group-id"), "privateLinkServiceId": c.get("private-connection-resource-id"),
	}}
	properties := object{"subnet": object{"id": c.idOrName(c.get("subnet"), "Microsoft.Network/virtualNetworks/subnets", c.get("vnet-name"))}}
	if c.is("manual-request") {
		properties["manualPrivateLinkServiceConnections"] = []any{connection}
	} else {
		properties["privateLinkServiceConnections"] = []any{connection}
	}
	body, err := c.body(properties)
	if err != nil {
		return nil, err
	}
	return c.c.put(c.ctx, c.group().Resource("Microsoft.Network/privateEndpoints", c.get("name")), endpointAPI, body, c.is("no-wait"))
}

func dnsCommands() []command {
	zoneName := arg{name: "zone-name", short: "z", help: "The name of the private DNS zone.", required: true}
	recordName := arg{name: "record-set-name", help: "The name of the record set, relative to the name of the zone.", required: true}
	set := func(c *call, name string) resourceid.ID {
		return c.group().Resource("Microsoft.Network/privateDnsZones/A", c.get("zone-name"), c.get(name))
	}
	link := func(c *call) resourceid.ID {
		return c.group().Resource("Microsoft.Network/privateDnsZones/virtualNetworkLinks", c.get("zone-name"), c.get("name"))
	}
	all := crud("network private-dns zone", "Microsoft.Network/privateDnsZones", dnsAPI, "a private DNS zone")
	return append(all,
		command{"network private-dns zone create", "Create a private DNS zone.", []arg{argGroup, argName, argTags}, func(c *call) (any, error) {
			return c.c.put(c.ctx, c.group().Resource("Microsoft.Network/privateDnsZones", c.get("name")), dnsAPI, object{"location": "global"}, false)
		}},
		command{"network private-dns link vnet create", "Create a virtual network link to the zone.", []arg{argGroup, zoneName, argName,
			{name: "virtual-network", short: "v", help: "Name or ID of the virtual network.", required: true},
			{name: "registration-enabled", short: "e", help: "Auto-registration of virtual machine records.", required: true, flag: true}, argTags}, func(c *call) (any, error) {
			return c.c.put(c.ctx, link(c), linkAPI, object{"location": "global", "properties": object{
				"registrationEnabled": c.is("registration-enabled"),
				"virtualNetwork":      object{"id": c.idOrName(c.get("virtual-network"), "Microsoft.Network/virtualNetworks")},
			}}, false)
		}},
		command{"network private-dns link vnet show", "Get a virtual network link.", []arg{argGroup, zoneName, argName}, func(c *call) (any, error) { return c.c.get(c.ctx, link(c), linkAPI) }},
		command{"network private-dns link vnet list", "List the virtual network links of the zone.", []arg{argGroup, zoneName}, func(c *call) (any, error) {
			return c.c.list(c.ctx, c.group().Resource("Microsoft.Network/privateDnsZones", c.get("zone-name")).String()+"/virtualNetworkLinks", linkAPI)
		}},
		command{"network private-dns link vnet delete", "Delete a virtual network link.", []arg{argGroup, zoneName, argName, argYes}, func(c *call) (any, error) { return c.c.remove(c.ctx, link(c), linkAPI, false) }},
		command{"network private-dns record-set a create", "Create an A record set.", []arg{argGroup, zoneName, argName, {name: "ttl", help: "Record set TTL (time-to-live), in seconds.", def: "3600"}}, func(c *call) (any, error) {
			return c.c.put(c.ctx, set(c, "name"), dnsAPI, object{"properties": object{"ttl": number(c.get("ttl"))}}, false)
		}},
		command{"network private-dns record-set a add-record", "Add an A record.", []arg{argGroup, zoneName, recordName, {name: "ipv4-address", short: "a", help: "IPv4 address in string notation.", required: true}}, func(c *call) (any, error) {
			return addRecord(c, set(c, "record-set-name"))
		}},
		command{"network private-dns record-set a show", "Get an A record set.", []arg{argGroup, zoneName, argName}, func(c *call) (any, error) { return c.c.get(c.ctx, set(c, "name"), dnsAPI) }},
		command{"network private-dns record-set a list", "List all A record sets in a zone.", []arg{argGroup, zoneName}, func(c *call) (any, error) {
			return c.c.list(c.ctx, c.group().Resource("Microsoft.Network/privateDnsZones", c.get("zone-name")).String()+"/A", dnsAPI)
		}},
		command{"network private-dns record-set a delete", "Delete an A record set.", []arg{argGroup, zoneName, argName, argYes}, func(c *call) (any, error) { return c.c.remove(c.ctx, set(c, "name"), dnsAPI, false) }},
	)
}

// addRecord reads the set, or starts one, and writes it with one record more.
func addRecord(c *call, id resourceid.ID) (any, error) {
	doc, err := c.c.get(c.ctx, id, dnsAPI)
	if IsNotFound(err) {
		doc, err = object{"properties": object{"ttl": 3600.0}}, nil
	}
	if err != nil {
		return nil, err
	}
	properties, _ := doc["properties"].(map[string]any)
	records, _ := properties["aRecords"].([]any)
	for _, r := range records {
		if m, ok := r.(map[string]any); ok && m["ipv4Address"] == c.get("ipv4-address") {
			return doc, nil
		}
	}
	body := object{"properties": object{"ttl": properties["ttl"], "aRecords": append(records, object{"ipv4Address": c.get("ipv4-address")})}}
	return c.c.put(c.ctx, id, dnsAPI, body, false)
}
