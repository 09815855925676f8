package provider_test

import (
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

// Every type that clients write keeps what ARM promises of every resource.
func TestConformance(t *testing.T) {
	const network = "Microsoft.Network/"
	sub := "/subscriptions/" + resourcetypetest.Subscription
	for name, c := range map[string]func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case{
		"virtual network": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"virtualNetworks", "v2"), Body: `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"a","properties":{"addressPrefix":"10.0.0.0/24"}}]}}`}
		},
		"subnet": func(_ *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: p.vnet.Child("subnets", "snet-apiserver"), Body: `{"name":"snet-apiserver","properties":{"addressPrefix":"192.168.3.0/24","delegations":[{"name":"aks","properties":{"serviceName":"Microsoft.ContainerService/managedClusters"}}]}}`}
		},
		"network security group": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"networkSecurityGroups", "nsg"), Body: `{"location":"eastus","properties":{"securityRules":[` + rule + `]}}`}
		},
		"security rule": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			nsg := h.ID(network+"networkSecurityGroups", "nsg")
			h.Put(nsg, `{"location":"eastus"}`)
			return resourcetypetest.Case{ID: nsg.Child("securityRules", "deny"), Body: rule}
		},
		"network interface": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"networkInterfaces", "nic"), Body: `{"location":"eastus","properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"` + p.aks.String() + `"}}},{"name":"b","properties":{"primary":true,"subnet":{"id":"` + p.aks.String() + `"}}}]}}`}
		},
		"public IP address": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"publicIPAddresses", "ip"), Body: `{"location":"eastus","sku":{"name":"Standard"},"properties":{"publicIPAllocationMethod":"Static"}}`}
		},
		"NAT gateway": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			ip := h.ID(network+"publicIPAddresses", "ip")
			h.Put(ip, `{"location":"eastus","sku":{"name":"Standard"}}`)
			return resourcetypetest.Case{ID: h.ID(network+"natGateways", "nat"), Body: `{"location":"eastus","sku":{"name":"Standard"},"properties":{"idleTimeoutInMinutes":4,"publicIpAddresses":[{"id":"` + ip.String() + `"}]}}`}
		},
		"route table": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"routeTables", "rt"), Body: `{"location":"eastus","properties":{"disableBgpRoutePropagation":true,"routes":[` + userRoute + `]}}`}
		},
		"route": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			table := h.ID(network+"routeTables", "rt")
			h.Put(table, `{"location":"eastus"}`)
			return resourcetypetest.Case{ID: table.Child("routes", "out"), Body: userRoute}
		},
		"peering": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			hub := h.ID(network+"virtualNetworks", "hub")
			h.Put(hub, `{"location":"westus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}`)
			return resourcetypetest.Case{ID: p.vnet.Child("virtualNetworkPeerings", "to-hub"), Body: peeringTo(hub)}
		},
		"load balancer": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			ip := h.ID(network+"publicIPAddresses", "ip")
			h.Put(ip, `{"location":"eastus","sku":{"name":"Standard"}}`)
			id := h.ID(network+"loadBalancers", "kubernetes")
			return resourcetypetest.Case{ID: id, Body: balancer(id.String(), ip.String(), p.aks.String())}
		},
		"private endpoint": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"privateEndpoints", "pe2"), Body: `{"location":"eastus","properties":{"manualPrivateLinkServiceConnections":[{"name":"c","properties":{"groupIds":["registry"],"requestMessage":"please","privateLinkServiceId":"` + p.registry.String() + `"}}],"subnet":{"id":"` + p.acr.String() + `"}}}`}
		},
		"private DNS zone group": func(_ *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: p.endpoint.Child("privateDnsZoneGroups", "default"), Body: `{"properties":{"privateDnsZoneConfigs":[{"name":"acr","properties":{"privateDnsZoneId":"` + p.zone.String() + `"}}]}}`}
		},
		"private DNS zone": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID(network+"privateDnsZones", "corp.example"), Body: `{"location":"global"}`}
		},
		"virtual network link": func(h *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			zone := h.ID(network+"privateDnsZones", "corp.example")
			h.Put(zone, `{"location":"global"}`)
			return resourcetypetest.Case{ID: zone.Child("virtualNetworkLinks", "l"), Body: `{"location":"global","properties":{"registrationEnabled":false,"virtualNetwork":{"id":"` + p.vnet.String() + `"}}}`}
		},
		"A record set": func(_ *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: p.zone.Child("A", "a.b"), Body: `{"properties":{"ttl":60,"aRecords":[{"ipv4Address":"10.0.0.4"}],"metadata":{"k":"v"}}}`}
		},
		"registry": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID("Microsoft.ContainerRegistry/registries", "netisoReg02"), Body: `{"location":"East US","sku":{"name":"Premium"},"properties":{"dataEndpointEnabled":true}}`}
		},
		"cache rule": func(_ *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: p.registry.Child("cacheRules", "hello-world"), Body: `{"properties":{"sourceRepository":"mcr.microsoft.com/hello-world","targetRepository":"hello-world"}}`}
		},
		"user-assigned identity": func(h *resourcetypetest.Harness, _ parts) resourcetypetest.Case {
			return resourcetypetest.Case{ID: h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "id-2"), Body: `{"location":"eastus"}`}
		},
		"role assignment": func(_ *resourcetypetest.Harness, p parts) resourcetypetest.Case {
			return resourcetypetest.Case{
				ID:       p.registry.Resource("Microsoft.Authorization/roleAssignments", "58ab52d5-7b24-4913-8374-143ce3371a40"),
				Body:     `{"properties":{"principalId":"95a78de3-a160-489a-b7d1-8a9d963e7eda","roleDefinitionId":"` + sub + `/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d"}}`,
				Computed: []string{"properties.updatedOn"},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := resourcetypetest.New(t, definitions(true)...)
			resourcetypetest.Conformance(t, h, c(h, build(h)))
		})
	}
}

func peeringTo(remote resourceid.ID) string {
	return `{"properties":{"allowVirtualNetworkAccess":true,"allowForwardedTraffic":false,"remoteVirtualNetwork":{"id":"` + remote.String() + `"}}}`
}

// balancer is a load balancer with an outbound rule, as AKS makes it, and an internal frontend.
func balancer(id, publicIP, subnet string) string {
	return `{"location":"eastus","sku":{"name":"Standard"},"properties":{
		"frontendIPConfigurations":[{"name":"front","properties":{"publicIPAddress":{"id":"` + publicIP + `"}}},{"name":"inside","properties":{"subnet":{"id":"` + subnet + `"}}}],
		"backendAddressPools":[{"name":"aksOutboundBackendPool"}],
		"outboundRules":[{"name":"aksOutboundRule","properties":{"protocol":"All","allocatedOutboundPorts":0,"enableTcpReset":true,"idleTimeoutInMinutes":30,
			"frontendIPConfigurations":[{"id":"` + id + `/frontendIPConfigurations/front"}],"backendAddressPool":{"id":"` + id + `/backendAddressPools/aksOutboundBackendPool"}}}]}}`
}

const userRoute = `{"name":"out","properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"VirtualAppliance","nextHopIpAddress":"192.168.1.4"}}`

const rule = `{"name":"deny","properties":{"protocol":"*","sourcePortRange":"*","destinationPortRange":"*","sourceAddressPrefix":"*","destinationAddressPrefix":"Internet","access":"Deny","priority":100,"direction":"Outbound"}}`
