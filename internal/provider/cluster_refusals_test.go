package provider_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// changed is a JSON body with values set at dotted paths; a nil value takes the property away. In a path that
// begins with "pool." the first agent pool is meant.
func changed(t *testing.T, body string, changes map[string]any) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	for path, value := range changes {
		at := doc
		if rest, ok := strings.CutPrefix(path, "pool."); ok {
			path = rest
			at = doc["properties"].(map[string]any)["agentPoolProfiles"].([]any)[0].(map[string]any)
		}
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			next, _ := at[p].(map[string]any)
			if next == nil {
				next = map[string]any{}
				at[p] = next
			}
			at = next
		}
		if last := parts[len(parts)-1]; value == nil {
			delete(at, last)
		} else {
			at[last] = value
		}
	}
	return doc
}

// wantRefusal holds an error's status, code, target and a part of its message.
func wantRefusal(t *testing.T, err error, status int, code, target, message string) {
	t.Helper()
	e := resourcetypetest.WantError(t, err, code)
	if e.HTTPStatus() != status || e.Target != target || !strings.Contains(e.Message, message) {
		t.Errorf("%d %s at %q: %s\nwant %d at %q: %s", e.HTTPStatus(), e.Code, e.Target, e.Message, status, target, message)
	}
}

const (
	isolation = "InvalidNetworkIsolatedClusterConfiguration"
	network   = "properties.networkProfile."
)

type refusal struct {
	name    string
	changes map[string]any
	code    string
	target  string
	message string
}

// What Azure refuses, with its code and words where a source has them (aks-behaviour 2 and 6), and what
// Cloister cannot do, is refused before anything is made.
func TestClusterRefusals(t *testing.T) {
	h, _, id := newAKS(t)
	p := build(h)
	h.Put(p.vnet.Child("subnets", "delegated"), `{"properties":{"addressPrefix":"192.168.9.0/24","delegations":[{"name":"a","properties":{"serviceName":"Microsoft.ContainerService/managedClusters"}}]}}`)
	h.Put(p.vnet.Child("subnets", "small"), `{"properties":{"addressPrefix":"192.168.10.0/26"}}`)
	basic := h.ID("Microsoft.ContainerRegistry/registries", "basicreg01")
	h.Put(basic, `{"location":"eastus","sku":{"name":"Basic"}}`)
	h.Put(resourceid.Group(resourcetypetest.Subscription, "MC_taken"), `{"location":"eastus"}`)
	before := inside(h)
	missing := h.ID("Microsoft.ContainerRegistry/registries", "nothere")
	for _, c := range []refusal{
		{"none with Direct", map[string]any{"properties.bootstrapProfile": nil}, isolation, "properties.bootstrapProfile.artifactSource", "When outbound type is none or block, bootstrapProfile.artifactSource must be 'Cache'"},
		{"block with Direct", map[string]any{network + "outboundType": "block", "properties.bootstrapProfile.artifactSource": "Direct"}, isolation, "properties.bootstrapProfile.artifactSource", "When outbound type is none or block, bootstrapProfile.artifactSource must be 'Cache'"},
		{"service principal", map[string]any{"properties.servicePrincipalProfile.clientId": "a", "properties.servicePrincipalProfile.secret": "b"}, "BootstrapArtifactSourceNotAllowed", "properties.bootstrapProfile.artifactSource", `When feature "ServicePrincipalCluster" is enabled, bootstrapProfile.artifactSource 'Cache' is not allowed`},
		{"source", map[string]any{"properties.bootstrapProfile.artifactSource": "Mirror"}, "InvalidBootstrapArtifactSource", "properties.bootstrapProfile.artifactSource", "Mirror"},
		{"old Kubernetes", map[string]any{"properties.kubernetesVersion": "1.29.4", "pool.orchestratorVersion": "1.29.4"}, isolation, "properties.kubernetesVersion", "1.30 or later; 1.29.4"},
		{"unknown Kubernetes", map[string]any{"properties.kubernetesVersion": "1.99.0"}, "K8sVersionNotSupported", "properties.kubernetesVersion", "Managed cluster demo is on version 1.99.0, which is not supported in this region."},
		{"nonsense Kubernetes", map[string]any{"properties.kubernetesVersion": "new"}, "K8sVersionNotSupported", "properties.kubernetesVersion", "az aks get-versions"},
		{"kubenet", map[string]any{network + "networkPlugin": "kubenet"}, isolation, network + "networkPlugin", "kubenet"},
		{"overlay", map[string]any{network + "networkPluginMode": "overlay"}, "NotSupported", network + "networkPluginMode", "overlay"},
		{"another plugin", map[string]any{network + "networkPlugin": "none"}, "NotSupported", network + "networkPlugin", "none"},
		{"outbound type", map[string]any{network + "outboundType": "tunnel"}, "UnsupportedOutboundType", network + "outboundType", "tunnel"},
		{"next NAT gateway", map[string]any{network + "outboundType": "managedNATGatewayV2"}, "NotSupported", network + "outboundType", "managedNATGateway"},
		{"NAT gateway in a VNet of one's own", map[string]any{network + "outboundType": "managedNATGateway", "pool.vnetSubnetID": p.aks.String()}, "ManagedNATGatewayWithCustomVNetNotAllowed", network + "outboundType", "custom virtual network"},
		{"NAT gateway of one's own in the managed VNet", map[string]any{network + "outboundType": "userAssignedNATGateway"}, "UserAssignedNATGatewayWithManagedVNetNotAllowed", network + "outboundType", "custom virtual network"},
		{"subnet without NAT gateway", map[string]any{network + "outboundType": "userAssignedNATGateway", "pool.vnetSubnetID": p.aks.String()}, "SubnetNotAssociatedWithNATGateway", network + "outboundType", "snet-aks"},
		{"routes in the managed VNet", map[string]any{network + "outboundType": "userDefinedRouting"}, "UnsupportedOutboundType", network + "outboundType", "custom virtual network"},
		{"subnet without routes", map[string]any{network + "outboundType": "userDefinedRouting", "pool.vnetSubnetID": p.aks.String()}, "ExistingRouteTableNotAssociatedWithSubnet", network + "outboundType", "An existing route table has not been associated with subnet"},
		{"load balancer of many addresses", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"managedOutboundIPs": map[string]any{"count": 101}}}, "InvalidLoadBalancerProfileManagedOutboundIPCount", network + "loadBalancerProfile.managedOutboundIPs.count", "between 1 and 100"},
		{"load balancer of no address", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"outboundIPs": map[string]any{"publicIPs": []any{}}}}, "InvalidLoadBalancerProfileOutboundIPs", network + "loadBalancerProfile.outboundIPs", "names no"},
		{"load balancer of what is no address", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"outboundIPs": map[string]any{"publicIPs": []any{map[string]any{"id": p.vnet.String()}}}}}, "InvalidLoadBalancerProfileOutboundIPs", network + "loadBalancerProfile.outboundIPs.publicIPs[0]", "not the resource ID"},
		{"load balancer of an address that is not there", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"outboundIPs": map[string]any{"publicIPs": []any{map[string]any{"id": h.ID("Microsoft.Network/publicIPAddresses", "nothere").String()}}}}}, "LoadBalancerProfileOutboundIPNotExist", network + "loadBalancerProfile.outboundIPs.publicIPs[0]", "nothere"},
		{"load balancer of both kinds of address", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"outboundIPs": map[string]any{"publicIPs": []any{map[string]any{"id": h.ID("Microsoft.Network/publicIPAddresses", "nothere").String()}}}, "managedOutboundIPs": map[string]any{"count": 1}}}, "InvalidLoadBalancerProfileOutboundIPs", network + "loadBalancerProfile.outboundIPs", "mutually exclusive"},
		{"load balancer of prefixes", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"outboundIPPrefixes": map[string]any{"publicIPPrefixes": []any{}}}}, "NotSupported", network + "loadBalancerProfile.outboundIPPrefixes", "outboundIPPrefixes"},
		{"members by address", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"backendPoolType": "nodeIP"}}, "NotSupported", network + "loadBalancerProfile.backendPoolType", "nodeIP"},
		{"rationed ports", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"allocatedOutboundPorts": 64}}, "NotSupported", network + "loadBalancerProfile.allocatedOutboundPorts", "allocatedOutboundPorts 64"},
		{"load balancer's idle timeout", map[string]any{network + "outboundType": "loadBalancer", network + "loadBalancerProfile": map[string]any{"idleTimeoutInMinutes": 4}}, "NotSupported", network + "loadBalancerProfile.idleTimeoutInMinutes", "is 30"},
		{"NAT gateway's idle timeout", map[string]any{network + "outboundType": "managedNATGateway", network + "natGatewayProfile": map[string]any{"idleTimeoutInMinutes": 30}}, "NotSupported", network + "natGatewayProfile.idleTimeoutInMinutes", "is 4"},
		{"NAT gateway of many addresses", map[string]any{network + "outboundType": "managedNATGateway", network + "natGatewayProfile": map[string]any{"managedOutboundIPProfile": map[string]any{"count": 17}}}, "InvalidNATGatewayProfileManagedOutboundIPCount", network + "natGatewayProfile.managedOutboundIPProfile.count", "between 1 and 16"},
		{"network policy", map[string]any{network + "networkPolicy": "calico"}, "NotSupported", network + "networkPolicy", "calico"},
		{"unmanaged channel", map[string]any{"properties.autoUpgradeProfile.nodeOSUpgradeChannel": "Unmanaged"}, isolation, "properties.autoUpgradeProfile.nodeOSUpgradeChannel", "Unmanaged"},
		{"unknown channel", map[string]any{"properties.autoUpgradeProfile.nodeOSUpgradeChannel": "Daily"}, "InvalidNodeOSUpgradeChannel", "properties.autoUpgradeProfile.nodeOSUpgradeChannel", "Daily"},
		{"IP ranges", map[string]any{"properties.apiServerAccessProfile.authorizedIPRanges": []string{"1.2.3.4/32"}}, "NotSupported", "properties.apiServerAccessProfile.authorizedIPRanges", "private cluster"},
		{"add-on", map[string]any{"properties.addonProfiles.omsagent.enabled": true}, "NotSupported", "properties.addonProfiles.omsagent", "omsagent"},
		{"Service range", map[string]any{network + "serviceCidr": "10.0.0.1/16"}, "InvalidServiceCidr", network + "serviceCidr", "10.0.0.1/16"},
		{"wide Service range", map[string]any{network + "serviceCidr": "10.0.0.0/8"}, "InvalidServiceCidr", network + "serviceCidr", "/12 to /28"},
		{"reserved Service range", map[string]any{network + "serviceCidr": "172.30.0.0/16"}, "InvalidServiceCidr", network + "serviceCidr", "172.30.0.0/16, which AKS reserves"},
		{"Service range over the managed subnet", map[string]any{network + "serviceCidr": "10.224.0.0/16"}, "ServiceCidrOverlapExistingSubnetsCidr", network + "serviceCidr", "The specified service CIDR 10.224.0.0/16 is conflicted with an existing subnet CIDR 10.224.0.0/16"},
		{"Service range over a subnet", map[string]any{network + "serviceCidr": "192.168.0.0/16", "pool.vnetSubnetID": p.aks.String()}, "ServiceCidrOverlapExistingSubnetsCidr", network + "serviceCidr", "192.168.1.0/24"},
		{"DNS address outside", map[string]any{network + "dnsServiceIP": "10.1.0.10"}, "DnsServiceIpOutOfServiceCidr", network + "dnsServiceIP", "10.1.0.10"},
		{"DNS address first", map[string]any{network + "dnsServiceIP": "10.0.0.1"}, "DnsServiceIpOutOfServiceCidr", network + "dnsServiceIP", "10.0.0.1"},
		{"registry and Direct", map[string]any{network + "outboundType": "loadBalancer", "properties.bootstrapProfile": map[string]any{"artifactSource": "Direct", "containerRegistryId": p.registry.String()}}, isolation, "properties.bootstrapProfile.containerRegistryId", "can only be set when"},
		{"no registry ID", map[string]any{"properties.bootstrapProfile.containerRegistryId": p.vnet.String()}, "InvalidBootstrapContainerRegistry", "properties.bootstrapProfile.containerRegistryId", "not the resource ID of a container registry"},
		{"missing registry", map[string]any{"properties.bootstrapProfile.containerRegistryId": missing.String()}, "ResourceNotFound", "properties.bootstrapProfile.containerRegistryId", "The Resource 'Microsoft.ContainerRegistry/registries/nothere' under resource group 'rg' was not found."},
		{"Basic registry", map[string]any{"properties.bootstrapProfile.containerRegistryId": basic.String()}, "InvalidBootstrapContainerRegistry", "properties.bootstrapProfile.containerRegistryId", "has SKU Basic"},
		{"no pool", map[string]any{"properties.agentPoolProfiles": nil}, "InvalidParameter", "properties.agentPoolProfiles", "System"},
		{"no System pool", map[string]any{"pool.mode": "User"}, "InvalidParameter", "properties.agentPoolProfiles", "System"},
		{"missing subnet", map[string]any{"pool.vnetSubnetID": p.vnet.Child("subnets", "nothere").String()}, "SubnetNotFound", "properties.vnetSubnetID", "nothere"},
		{"no subnet ID", map[string]any{"pool.vnetSubnetID": "snet"}, "InvalidParameter", "properties.vnetSubnetID", "snet"},
		{"delegated subnet", map[string]any{"pool.vnetSubnetID": p.vnet.Child("subnets", "delegated").String()}, "SubnetIsDelegated", "properties.vnetSubnetID", "cannot be used as it's a delegated subnet"},
		{"two identities", map[string]any{"identity.type": "UserAssigned"}, "InvalidUserAssignedIdentity", "identity.userAssignedIdentities", "exactly one"},
		{"missing identity", map[string]any{"identity": map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{h.ID("Microsoft.ManagedIdentity/userAssignedIdentities", "nobody").String(): map[string]any{}}}}, "ResourceNotFound", "", "nobody"},
		{"kubelet identity alone", map[string]any{"properties.identityProfile.kubeletidentity.resourceId": p.identity.String()}, "OnlySupportedOnUserAssignedMSICluster", "properties.identityProfile", "user assigned"},
		{"node resource group", map[string]any{"properties.nodeResourceGroup": "mc_TAKEN"}, "NodeResourceGroupAlreadyExists", "properties.nodeResourceGroup", "Node resource group 'mc_TAKEN' under subscription '" + resourcetypetest.Subscription + "' already exists, please provide a new one."},
		{"node resource group of the cluster", map[string]any{"properties.nodeResourceGroup": "RG"}, "NodeResourceGroupSameAsResourceGroup", "properties.nodeResourceGroup", "Node resource group 'RG' is the same as ResourceGroup 'rg', which is not allowed"},
		{"node resource group's name", map[string]any{"properties.nodeResourceGroup": "a/b"}, "InvalidParameter", "properties.nodeResourceGroup", "a/b"},
		{"nameless pool", map[string]any{"pool.name": nil}, "InvalidParameter", "properties.agentPoolProfiles[0].name", "agentPoolProfile.name is missing"},
		{"pool name", map[string]any{"pool.name": "NodePool"}, "InvalidParameter", "", "agentPoolProfile.name is invalid"},
		{"path as pool name", map[string]any{"pool.name": "a/b"}, "InvalidParameter", "", "agent pool name"},
		{"VM size", map[string]any{"pool.vmSize": "Standard_Z1"}, "VMSizeNotSupported", "properties.vmSize", "The VM size of Standard_Z1 is not supported"},
		{"Windows", map[string]any{"pool.osType": "Windows"}, isolation, "properties.osType", "Windows"},
		{"Windows in a cluster that is not isolated", map[string]any{"pool.osType": "Windows", network + "outboundType": "loadBalancer", "properties.bootstrapProfile.artifactSource": "Direct"}, "NotSupported", "properties.osType", "Windows"},
		{"small subnet", map[string]any{"pool.vnetSubnetID": p.vnet.Child("subnets", "small").String()}, "InsufficientSubnetSize", "agentPoolProfile.count", "Pre-allocated IPs 62 exceeds IPs available 59 in Subnet Cidr 192.168.10.0/26, Subnet Name small."},
	} {
		t.Run(c.name, func(t *testing.T) {
			status := http.StatusBadRequest
			if c.code == armerror.ResourceNotFound {
				status = http.StatusNotFound
			}
			_, err := h.TryPut(id, changed(t, create, c.changes))
			wantRefusal(t, err, status, c.code, c.target, c.message)
			if c.code == "NodeResourceGroupAlreadyExists" {
				return
			}
		})
	}
	if now := inside(h); len(now) != len(before) {
		t.Errorf("refused clusters left %v", now)
	}
	_, err := h.TryPut(h.ID(managedclusters.Name, "-demo"), create)
	wantRefusal(t, err, http.StatusBadRequest, "InvalidParameter", "", "The length must be between 1 and 63")
}

// What a cluster is for life.
func TestClusterUpdateRefusals(t *testing.T) {
	h, _, id := newAKS(t)
	h.Put(id, create)
	was := h.Get(id)
	for _, c := range []refusal{
		{"prefix", map[string]any{"properties.dnsPrefix": "other"}, armerror.PropertyChangeNotAllowed, "properties.dnsPrefix", "Changing property 'properties.dnsPrefix' is not allowed."},
		{"group", map[string]any{"properties.nodeResourceGroup": "other"}, armerror.PropertyChangeNotAllowed, "properties.nodeResourceGroup", "not allowed"},
		{"Service range", map[string]any{network + "serviceCidr": "10.9.0.0/16", network + "dnsServiceIP": "10.9.0.10"}, armerror.PropertyChangeNotAllowed, network + "serviceCidr", "not allowed"},
		{"DNS address", map[string]any{network + "dnsServiceIP": "10.0.0.11"}, armerror.PropertyChangeNotAllowed, network + "dnsServiceIP", "not allowed"},
		{"Direct", map[string]any{"properties.bootstrapProfile.artifactSource": "Direct"}, isolation, "properties.bootstrapProfile.artifactSource", "must be 'Cache'"},
		{"VM size", map[string]any{"pool.vmSize": "Standard_D4s_v5"}, armerror.PropertyChangeNotAllowed, "properties.vmSize", "not allowed"},
		{"pods", map[string]any{"pool.maxPods": 40}, armerror.PropertyChangeNotAllowed, "properties.maxPods", "not allowed"},
		{"location", map[string]any{"location": "westus"}, armerror.InvalidResourceLocation, "", "eastus"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := h.TryPut(id, changed(t, create, c.changes))
			status := http.StatusBadRequest
			if c.code == armerror.InvalidResourceLocation {
				status = http.StatusConflict
			}
			wantRefusal(t, err, status, c.code, c.target, c.message)
		})
	}
	if now := h.Get(id); now.String("etag") != was.String("etag") {
		t.Errorf("refused updates changed the cluster: %v", now)
	}
}

func TestPoolRefusals(t *testing.T) {
	h, _, id := newAKS(t)
	h.Put(id, create)
	pool := func(name string) resourceid.ID { return id.Child("agentPools", name) }
	for _, c := range []refusal{
		{"count", map[string]any{"count": 1001}, "InvalidParameter", "properties.count", "0 to 1000"},
		{"negative", map[string]any{"count": -1}, "InvalidParameter", "properties.count", "-1"},
		{"empty System pool", map[string]any{"count": 0, "mode": "System"}, "InvalidParameter", "properties.count", "A System pool has 1 to 1000"},
		{"few pods", map[string]any{"maxPods": 5}, "InvalidParameter", "properties.maxPods", "between 10 and 250"},
		{"many pods", map[string]any{"maxPods": 251}, "InvalidParameter", "properties.maxPods", "between 10 and 250"},
		{"mode", map[string]any{"mode": "Gateway"}, "NotSupported", "properties.mode", "Gateway"},
		{"type", map[string]any{"type": "AvailabilitySet"}, "NotSupported", "properties.type", "AvailabilitySet"},
		{"SKU", map[string]any{"osSKU": "AzureLinux"}, "NotSupported", "properties.osSKU", "AzureLinux"},
		{"autoscaler", map[string]any{"enableAutoScaling": true}, "NotSupported", "properties.enableAutoScaling", "autoscaler"},
		{"public IP", map[string]any{"enableNodePublicIP": true}, "NotSupported", "properties.enableNodePublicIP", "public IP"},
		{"FIPS", map[string]any{"enableFIPS": true}, "NotSupported", "properties.enableFIPS", "FIPS"},
		{"Spot", map[string]any{"scaleSetPriority": "Spot"}, "NotSupported", "properties.scaleSetPriority", "Spot"},
		{"zones", map[string]any{"availabilityZones": []string{"1"}}, "NotSupported", "properties.availabilityZones", "zones"},
		{"newer than the cluster", map[string]any{"orchestratorVersion": "1.31.0"}, "NodePoolMcVersionIncompatible", "properties.orchestratorVersion", "Node pool version 1.31.0 and control plane version 1.30.3 are incompatible."},
		{"subnet", map[string]any{"vnetSubnetID": "snet"}, "InvalidParameter", "properties.vnetSubnetID", "snet"},
		{"count of text", map[string]any{"count": "three"}, "InvalidRequestContent", "", "count"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := h.TryPut(pool("np2"), map[string]any{"properties": c.changes})
			wantRefusal(t, err, http.StatusBadRequest, c.code, c.target, c.message)
		})
	}
	_, err := h.TryPut(pool("averylongname"), `{"properties":{}}`)
	wantRefusal(t, err, http.StatusBadRequest, "InvalidParameter", "", "agentPoolProfile.name is invalid")
	err = h.Delete(pool("nodepool1"))
	wantRefusal(t, err, http.StatusConflict, "OperationNotAllowed", "", "at least one system agent pool")
	if _, err := h.TryPut(h.ID(agentpools.Name, "nobody", "np"), `{"properties":{}}`); err == nil {
		t.Error("a pool without a cluster is accepted")
	} else {
		wantRefusal(t, err, http.StatusNotFound, armerror.ParentResourceNotFound, "", "nobody")
	}
}
