package wire

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/msi/armmsi"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/privatedns/armprivatedns"
)

// TestWalkthroughBySDK does the walkthrough's own network, registry and identities by Microsoft's clients: what
// Terraform and programs do.
func TestWalkthroughBySDK(t *testing.T) {
	i := install(t)
	ctx, sub := t.Context(), i.in.SubscriptionID
	network, err := armnetwork.NewClientFactory(sub, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	dns, err := armprivatedns.NewClientFactory(sub, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := armcontainerregistry.NewClientFactory(sub, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}

	group, err := network.NewSecurityGroupsClient().BeginCreateOrUpdate(ctx, "rg", "nsg", armnetwork.SecurityGroup{Location: to.Ptr("eastus"), Properties: &armnetwork.SecurityGroupPropertiesFormat{
		SecurityRules: []*armnetwork.SecurityRule{{Name: to.Ptr("block"), Properties: &armnetwork.SecurityRulePropertiesFormat{
			Access: to.Ptr(armnetwork.SecurityRuleAccessDeny), Direction: to.Ptr(armnetwork.SecurityRuleDirectionOutbound), Priority: to.Ptr[int32](100), Protocol: to.Ptr(armnetwork.SecurityRuleProtocolAsterisk),
			SourceAddressPrefix: to.Ptr("*"), SourcePortRange: to.Ptr("*"), DestinationAddressPrefix: to.Ptr("Internet"), DestinationPortRange: to.Ptr("*"),
		}}},
	}}, nil)
	nsg := finish(t, group, err)
	if len(nsg.Properties.DefaultSecurityRules) != 6 || len(nsg.Properties.SecurityRules) != 1 {
		t.Errorf("security group %+v", nsg.Properties)
	}
	made, err := network.NewVirtualNetworksClient().BeginCreateOrUpdate(ctx, "rg", "vnet", armnetwork.VirtualNetwork{Location: to.Ptr("eastus"), Properties: &armnetwork.VirtualNetworkPropertiesFormat{
		AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("192.168.0.0/16")}},
	}}, nil)
	vnet := finish(t, made, err)
	subnet := func(name, prefix string) string {
		begun, err := network.NewSubnetsClient().BeginCreateOrUpdate(ctx, "rg", "vnet", name, armnetwork.Subnet{Properties: &armnetwork.SubnetPropertiesFormat{
			AddressPrefix: to.Ptr(prefix), DefaultOutboundAccess: to.Ptr(false), NetworkSecurityGroup: &armnetwork.SecurityGroup{ID: nsg.ID},
			PrivateEndpointNetworkPolicies: to.Ptr(armnetwork.VirtualNetworkPrivateEndpointNetworkPoliciesDisabled),
		}}, nil)
		return *finish(t, begun, err).ID
	}
	endpoints, _ := subnet("snet-acr", "192.168.2.0/24"), subnet("snet-aks", "192.168.1.0/24")

	begun, err := registry.NewRegistriesClient().BeginCreate(ctx, "rg", "netisoreg01", armcontainerregistry.Registry{
		Location: to.Ptr("eastus"), SKU: &armcontainerregistry.SKU{Name: to.Ptr(armcontainerregistry.SKUNamePremium)},
		Properties: &armcontainerregistry.RegistryProperties{PublicNetworkAccess: to.Ptr(armcontainerregistry.PublicNetworkAccessDisabled)},
	}, nil)
	acr := finish(t, begun, err)
	if *acr.Properties.LoginServer != "netisoreg01.azurecr.io" || *acr.SKU.Tier != armcontainerregistry.SKUTierPremium {
		t.Errorf("registry %+v", acr.Properties)
	}
	cached, err := registry.NewCacheRulesClient().BeginCreate(ctx, "rg", "netisoreg01", "aks-managed-mcr", armcontainerregistry.CacheRule{Properties: &armcontainerregistry.CacheRuleProperties{
		SourceRepository: to.Ptr("mcr.microsoft.com/*"), TargetRepository: to.Ptr("aks-managed-repository/*"),
	}}, nil)
	finish(t, cached, err)

	linked, err := network.NewPrivateEndpointsClient().BeginCreateOrUpdate(ctx, "rg", "pe", armnetwork.PrivateEndpoint{Location: to.Ptr("eastus"), Properties: &armnetwork.PrivateEndpointProperties{
		Subnet: &armnetwork.Subnet{ID: to.Ptr(endpoints)},
		PrivateLinkServiceConnections: []*armnetwork.PrivateLinkServiceConnection{{Name: to.Ptr("c"), Properties: &armnetwork.PrivateLinkServiceConnectionProperties{
			PrivateLinkServiceID: acr.ID, GroupIDs: []*string{to.Ptr("registry")},
		}}},
	}}, nil)
	endpoint := finish(t, linked, err)
	id := *endpoint.Properties.NetworkInterfaces[0].ID
	nic, err := network.NewInterfacesClient().Get(ctx, "rg", id[strings.LastIndex(id, "/")+1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{}
	for _, c := range nic.Properties.IPConfigurations {
		addresses[*c.Properties.PrivateLinkConnectionProperties.RequiredMemberName] = *c.Properties.PrivateIPAddress
	}
	if addresses["registry_data_eastus"] != "192.168.2.4" || addresses["registry"] != "192.168.2.5" {
		t.Errorf("addresses %v", addresses)
	}

	zone, err := dns.NewPrivateZonesClient().BeginCreateOrUpdate(ctx, "rg", "privatelink.azurecr.io", armprivatedns.PrivateZone{Location: to.Ptr("global")}, nil)
	finish(t, zone, err)
	link, err := dns.NewVirtualNetworkLinksClient().BeginCreateOrUpdate(ctx, "rg", "privatelink.azurecr.io", "link", armprivatedns.VirtualNetworkLink{Location: to.Ptr("global"), Properties: &armprivatedns.VirtualNetworkLinkProperties{
		RegistrationEnabled: to.Ptr(false), VirtualNetwork: &armprivatedns.SubResource{ID: vnet.ID},
	}}, nil)
	finish(t, link, err)
	record, err := dns.NewRecordSetsClient().CreateOrUpdate(ctx, "rg", "privatelink.azurecr.io", armprivatedns.RecordTypeA, "netisoreg01", armprivatedns.RecordSet{Properties: &armprivatedns.RecordSetProperties{
		TTL: to.Ptr[int64](3600), ARecords: []*armprivatedns.ARecord{{IPv4Address: to.Ptr(addresses["registry"])}},
	}}, nil)
	if err != nil || *record.Properties.Fqdn != "netisoreg01.privatelink.azurecr.io." {
		t.Errorf("record %+v, %v", record.Properties, err)
	}

	identities, err := armmsi.NewUserAssignedIdentitiesClient(sub, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	kubelet, err := identities.CreateOrUpdate(ctx, "rg", "id-kubelet", armmsi.Identity{Location: to.Ptr("eastus")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	assignments, err := armauthorization.NewRoleAssignmentsClient(sub, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	properties := &armauthorization.RoleAssignmentProperties{
		PrincipalID: kubelet.Properties.PrincipalID, PrincipalType: to.Ptr(armauthorization.PrincipalTypeServicePrincipal),
		RoleDefinitionID: to.Ptr(i.subscription() + "/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d"),
	}
	assigned, err := assignments.Create(ctx, *acr.ID, "58ab52d5-7b24-4913-8374-143ce3371a40", armauthorization.RoleAssignmentCreateParameters{Properties: properties}, nil)
	if err != nil || *assigned.Properties.Scope != *acr.ID {
		t.Errorf("assignment %+v, %v", assigned.Properties, err)
	}
	var response *azcore.ResponseError
	if _, err = assignments.Create(ctx, *acr.ID, "58ab52d5-7b24-4913-8374-143ce3371a41", armauthorization.RoleAssignmentCreateParameters{Properties: properties}, nil); !errors.As(err, &response) || response.StatusCode != http.StatusConflict || response.ErrorCode != "RoleAssignmentExists" {
		t.Errorf("the same assignment by another name: %v", err)
	}

	// In use: refused until what uses it is gone.
	if _, err := network.NewVirtualNetworksClient().BeginDelete(ctx, "rg", "vnet", nil); !errors.As(err, &response) || response.ErrorCode != "InUseSubnetCannotBeDeleted" && response.ErrorCode != "InUseVirtualNetworkCannotBeDeleted" {
		t.Errorf("deleting the network in use: %v", err)
	}
}
