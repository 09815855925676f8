package azcli

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const (
	addressType    = "Microsoft.Network/publicIPAddresses"
	natType        = "Microsoft.Network/natGateways"
	routeTableType = "Microsoft.Network/routeTables"
	balancerType   = "Microsoft.Network/loadBalancers"
	nicType        = "Microsoft.Network/networkInterfaces"
)

// egressCommands are of what lets packets out of a virtual network, or leads them elsewhere.
func egressCommands() []command {
	var all []command
	for _, part := range [][]command{addressCommands(), natCommands(), routeCommands(), balancerCommands(), peeringCommands(), nicCommands()} {
		all = append(all, part...)
	}
	return all
}

func addressCommands() []command {
	address := resource{path: "network public-ip", kind: addressType, api: networkAPI, what: "a public IP address", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"Zones", "join(' ', zones || `[]`)"}, {"Address", "ipAddress"}, {"IdleTimeoutInMinutes", "idleTimeoutInMinutes"}, {"ProvisioningState", "provisioningState"}}}
	return append(address.common(), command{path: "network public-ip create", help: "Create a public IP address.", waits: true, example: "-g demo -n egress --sku Standard",
		args: address.args(argLocation, argTags,
			arg{name: "sku", help: "Name of a public IP address SKU.", choices: []string{"Basic", "Standard"}, def: "Standard"},
			arg{name: "allocation-method", help: "IP address allocation method.", choices: []string{"Dynamic", "Static"}},
			arg{name: "version", help: "IP address type.", choices: []string{"IPv4", "IPv6"}, def: "IPv4"},
			arg{name: "dns-name", help: "Globally unique DNS entry."},
			arg{name: "idle-timeout", help: "Idle timeout in minutes.", kind: number},
			arg{name: "zone", short: "z", help: "Space-separated list of availability zones into which to provision the resource.", kind: many}),
		run: func(c *call) (any, error) {
			method := orString(c.get("allocation-method"), "Static")
			properties := object{"publicIPAddressVersion": c.get("version"), "publicIPAllocationMethod": method}
			if c.has("idle-timeout") {
				properties["idleTimeoutInMinutes"] = c.integer("idle-timeout")
			}
			if d := c.get("dns-name"); d != "" {
				properties["dnsSettings"] = object{"domainNameLabel": d}
			}
			body, err := c.document(properties)
			if err != nil {
				return nil, err
			}
			body["sku"] = object{"name": c.get("sku")}
			if c.has("zone") {
				body["zones"] = c.all("zone")
			}
			doc, err := c.write(address.target(c), networkAPI, body)
			if doc == nil || err != nil {
				return nil, err
			}
			return object{"publicIp": doc}, nil
		}})
}

func natCommands() []command {
	gateway := resource{path: "network nat gateway", kind: natType, api: networkAPI, what: "a NAT gateway", asks: true, table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"IdleTimeoutInMinutes", "idleTimeoutInMinutes"}, {"ProvisioningState", "provisioningState"}}}
	settings := []arg{
		{name: "public-ip-addresses", help: "Space-separated list of public IP addresses (names or IDs) associated with the NAT gateway.", kind: many},
		{name: "idle-timeout", help: "The idle timeout of the NAT gateway, in minutes.", kind: number}, argTags,
	}
	change := func(c *call, properties object) {
		if c.has("idle-timeout") {
			properties["idleTimeoutInMinutes"] = c.integer("idle-timeout")
		}
		if c.has("public-ip-addresses") {
			var ids []any
			for _, a := range c.all("public-ip-addresses") {
				ids = append(ids, object{"id": c.idOrName(a, addressType)})
			}
			properties["publicIpAddresses"] = ids
		}
	}
	return append(gateway.common(),
		command{path: "network nat gateway create", help: "Create a NAT gateway.", waits: true, args: gateway.args(append(settings, argLocation)...), example: "-g demo -n nat --public-ip-addresses egress --idle-timeout 4", run: func(c *call) (any, error) {
			properties := object{}
			change(c, properties)
			body, err := c.document(properties)
			if err != nil {
				return nil, err
			}
			body["sku"] = object{"name": "Standard"}
			return c.write(gateway.target(c), networkAPI, body)
		}},
		command{path: "network nat gateway update", help: "Update a NAT gateway.", waits: true, args: gateway.args(settings...), target: gateway.target, on: changing(networkAPI, change)},
	)
}

// changing reads a document, changes its properties, and writes it back.
func changing(api string, change func(c *call, properties object)) func(c *call, id resourceid.ID) (any, error) {
	return func(c *call, id resourceid.ID) (any, error) {
		doc, err := c.c.get(c.ctx, id, api)
		if err != nil {
			return nil, err
		}
		properties, _ := doc["properties"].(map[string]any)
		if properties == nil {
			properties = object{}
		}
		change(c, properties)
		doc["properties"] = properties
		if t := c.tags(); t != nil {
			doc["tags"] = t
		}
		return c.write(id, api, doc)
	}
}

func routeCommands() []command {
	table := resource{path: "network route-table", kind: routeTableType, api: networkAPI, what: "a route table", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"DisableBgpRoutePropagation", "disableBgpRoutePropagation"}, {"ProvisioningState", "provisioningState"}}}
	route := resource{path: "network route-table route", kind: routeTableType + "/routes", api: networkAPI, what: "a route", parents: []arg{named("route-table-name", "", "Name of the route table.")}, table: columns{
		{"AddressPrefix", "addressPrefix"}, {"Name", "name"}, {"NextHopIpAddress", "nextHopIpAddress"}, {"NextHopType", "nextHopType"}, {"ProvisioningState", "provisioningState"}, {"ResourceGroup", "resourceGroup"}}}
	bgp := arg{name: "disable-bgp-route-propagation", help: "Whether to disable the routes learned by BGP on that route table.", kind: truth}
	settings := []arg{
		{name: "address-prefix", help: "The destination CIDR to which the route applies."},
		{name: "next-hop-type", help: "The type of Azure hop the packet should be sent to.", choices: []string{"Internet", "None", "VirtualAppliance", "VirtualNetworkGateway", "VnetLocal"}},
		{name: "next-hop-ip-address", help: "The IP address packets should be forwarded to when using the VirtualAppliance hop type."},
	}
	created := []arg{settings[0], settings[1], settings[2]}
	created[0].required, created[1].required = true, true
	change := func(c *call, properties object) {
		for name, key := range map[string]string{"address-prefix": "addressPrefix", "next-hop-type": "nextHopType", "next-hop-ip-address": "nextHopIpAddress"} {
			if v := c.get(name); v != "" {
				properties[key] = v
			}
		}
	}
	propagation := func(c *call, properties object) {
		if c.has("disable-bgp-route-propagation") {
			properties["disableBgpRoutePropagation"] = c.is("disable-bgp-route-propagation")
		}
	}
	return append(append(table.common(), route.common()...),
		command{path: "network route-table create", help: "Create a route table.", waits: true, args: table.args(argLocation, argTags, bgp), example: "-g demo -n through-firewall", run: func(c *call) (any, error) {
			properties := object{}
			propagation(c, properties)
			if len(properties) == 0 {
				properties = nil
			}
			body, err := c.document(properties)
			if err != nil {
				return nil, err
			}
			return c.write(table.target(c), networkAPI, body)
		}},
		command{path: "network route-table update", help: "Update a route table.", waits: true, args: table.args(argTags, bgp), target: table.target, on: changing(networkAPI, propagation)},
		command{path: "network route-table route create", help: "Create a route in a route table.", waits: true, args: route.args(created...),
			example: "-g demo --route-table-name through-firewall -n default --address-prefix 0.0.0.0/0 --next-hop-type VirtualAppliance --next-hop-ip-address 192.168.9.4", run: func(c *call) (any, error) {
				properties := object{}
				change(c, properties)
				return c.write(route.target(c), networkAPI, object{"name": c.get("name"), "properties": properties})
			}},
		command{path: "network route-table route update", help: "Update a route in a route table.", waits: true, args: route.args(settings...), target: route.target, on: changing(networkAPI, change)},
	)
}

func balancerCommands() []command {
	balancer := resource{path: "network lb", kind: balancerType, api: networkAPI, what: "a load balancer", table: columns{
		{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"ProvisioningState", "provisioningState"}}}
	parents := []arg{argGroup, {name: "lb-name", help: "The load balancer name.", required: true, part: true}}
	table := columns{{"AllocatedOutboundPorts", "allocatedOutboundPorts"}, {"EnableTcpReset", "enableTcpReset"}, {"IdleTimeoutInMinutes", "idleTimeoutInMinutes"}, {"Name", "name"}, {"Protocol", "protocol"}, {"ProvisioningState", "provisioningState"}, {"ResourceGroup", "resourceGroup"}}
	// az reads the load balancer and shows the part of it that is asked for.
	rules := func(c *call) ([]any, error) {
		doc, err := c.c.get(c.ctx, c.group().Resource(balancerType, c.get("lb-name")), networkAPI)
		if err != nil {
			return nil, err
		}
		p, _ := doc["properties"].(map[string]any)
		all, _ := p["outboundRules"].([]any)
		return append([]any{}, all...), nil
	}
	all := []command{
		{path: "network lb outbound-rule list", help: "List outbound rules of a load balancer.", args: parents, table: table, run: func(c *call) (any, error) { return rules(c) }},
		{path: "network lb outbound-rule show", help: "Show the details of an outbound rule of a load balancer.", args: append(append([]arg{}, parents...), argName), table: table, run: func(c *call) (any, error) {
			all, err := rules(c)
			if err != nil {
				return nil, err
			}
			for _, r := range all {
				if m, _ := r.(map[string]any); m != nil && equalText(m["name"], c.get("name")) {
					return m, nil
				}
			}
			return nil, &Error{Status: http.StatusNotFound, Code: "ResourceNotFound", Message: fmt.Sprintf("The outbound rule '%s' of load balancer '%s' was not found.", c.get("name"), c.get("lb-name"))}
		}},
	}
	return append(all, balancer.common()...)
}

func peeringCommands() []command {
	peering := resource{path: "network vnet peering", kind: vnetType + "/virtualNetworkPeerings", api: networkAPI, what: "a peering", parents: []arg{argVNet}, table: columns{
		{"AllowForwardedTraffic", "allowForwardedTraffic"}, {"AllowGatewayTransit", "allowGatewayTransit"}, {"AllowVirtualNetworkAccess", "allowVirtualNetworkAccess"}, {"Name", "name"},
		{"PeeringState", "peeringState"}, {"PeeringSyncLevel", "peeringSyncLevel"}, {"ProvisioningState", "provisioningState"}, {"ResourceGroup", "resourceGroup"}, {"UseRemoteGateways", "useRemoteGateways"}}}
	settings := []arg{
		{name: "allow-vnet-access", help: "Allows VMs in the remote VNet to access all VMs in the local VNet.", kind: truth},
		{name: "allow-forwarded-traffic", help: "Allows forwarded traffic from the local VNet to the remote VNet.", kind: truth},
		{name: "allow-gateway-transit", help: "Allows gateway link to be used in the remote VNet.", kind: truth},
		{name: "use-remote-gateways", help: "Allows VNet to use the remote VNet's gateway.", kind: truth},
	}
	keys := map[string]string{"allow-vnet-access": "allowVirtualNetworkAccess", "allow-forwarded-traffic": "allowForwardedTraffic", "allow-gateway-transit": "allowGatewayTransit", "use-remote-gateways": "useRemoteGateways"}
	change := func(c *call, properties object) {
		for name, key := range keys {
			if c.has(name) {
				properties[key] = c.is(name)
			}
		}
	}
	return append(peering.common(),
		command{path: "network vnet peering create", help: "Create a virtual network peering connection. Both virtual networks need one to each other.", waits: true,
			example: "-g demo --vnet-name spoke -n to-hub --remote-vnet hub --allow-vnet-access",
			args:    peering.args(append(settings, arg{name: "remote-vnet", help: "Name or ID of the remote VNet.", required: true})...), run: func(c *call) (any, error) {
				properties := object{"remoteVirtualNetwork": object{"id": c.idOrName(c.get("remote-vnet"), vnetType)}}
				change(c, properties)
				return c.write(peering.target(c), networkAPI, object{"properties": properties})
			}},
		command{path: "network vnet peering update", help: "Update a peering.", waits: true, args: peering.args(settings...), target: peering.target, on: changing(networkAPI, change)},
	)
}

func nicCommands() []command {
	nic := resource{path: "network nic", kind: nicType, api: nicAPI}
	forwarding := arg{name: "ip-forwarding", help: "Indicates whether IP forwarding is enabled on this network interface, as an appliance needs it.", kind: truth}
	group := arg{name: "network-security-group", help: "Name or ID of an existing network security group.", also: []string{"--nsg"}}
	change := func(c *call, properties object) {
		if c.has("ip-forwarding") {
			properties["enableIPForwarding"] = c.is("ip-forwarding")
		}
		if g := c.get("network-security-group"); g != "" {
			properties["networkSecurityGroup"] = object{"id": c.idOrName(g, nsgType)}
		}
	}
	return []command{
		{path: "network nic create", help: "Create a network interface.", waits: true, example: "-g demo -n appliance --vnet-name hub --subnet firewall --ip-forwarding true",
			args: nic.args(argLocation, argTags, forwarding, group,
				arg{name: "subnet", help: "Name or ID of an existing subnet. If name specified, please also specify --vnet-name.", required: true},
				arg{name: "vnet-name", help: "Name of the virtual network.", part: true},
				arg{name: "private-ip-address", help: "Static private IP address to use."}),
			run: func(c *call) (any, error) {
				if !strings.HasPrefix(c.get("subnet"), "/") && !c.has("vnet-name") {
					return nil, usagef("usage error: --subnet ID | --subnet NAME --vnet-name NAME")
				}
				configuration := object{"privateIPAllocationMethod": "Dynamic", "privateIPAddressVersion": "IPv4", "subnet": object{"id": c.idOrName(c.get("subnet"), subnetType, c.get("vnet-name"))}}
				if a := c.get("private-ip-address"); a != "" {
					configuration["privateIPAddress"], configuration["privateIPAllocationMethod"] = a, "Static"
				}
				properties := object{"ipConfigurations": []any{object{"name": "ipconfig1", "properties": configuration}}}
				change(c, properties)
				body, err := c.document(properties)
				if err != nil {
					return nil, err
				}
				doc, err := c.write(nic.target(c), nicAPI, body)
				if doc == nil || err != nil {
					return nil, err
				}
				return object{"NewNIC": doc}, nil
			}},
		{path: "network nic update", help: "Update a network interface.", waits: true, args: nic.args(argTags, forwarding, group), target: nic.target, on: changing(nicAPI, change)},
	}
}
