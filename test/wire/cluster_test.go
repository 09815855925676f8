package wire

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/privatedns/armprivatedns"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

func sdkCluster() armcontainerservice.ManagedCluster {
	return armcontainerservice.ManagedCluster{
		Location: to.Ptr("eastus"), Identity: &armcontainerservice.ManagedClusterIdentity{Type: to.Ptr(armcontainerservice.ResourceIdentityTypeSystemAssigned)},
		Properties: &armcontainerservice.ManagedClusterProperties{
			KubernetesVersion: to.Ptr("1.30.3"),
			AgentPoolProfiles: []*armcontainerservice.ManagedClusterAgentPoolProfile{{
				Name: to.Ptr("nodepool1"), Count: to.Ptr[int32](2), Mode: to.Ptr(armcontainerservice.AgentPoolModeSystem), VMSize: to.Ptr("Standard_DS2_v2"),
			}},
			APIServerAccessProfile: &armcontainerservice.ManagedClusterAPIServerAccessProfile{EnablePrivateCluster: to.Ptr(true)},
			BootstrapProfile:       &armcontainerservice.ManagedClusterBootstrapProfile{ArtifactSource: to.Ptr(armcontainerservice.ArtifactSourceCache)},
			NetworkProfile: &armcontainerservice.NetworkProfile{
				NetworkPlugin: to.Ptr(armcontainerservice.NetworkPluginAzure), OutboundType: to.Ptr(armcontainerservice.OutboundTypeNone),
			},
		},
	}
}

// TestClusterBySDK lives a cluster's life through Microsoft's own client.
func TestClusterBySDK(t *testing.T) {
	i := install(t)
	ctx := t.Context()
	factory, err := armcontainerservice.NewClientFactory(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	clusters, pools := factory.NewManagedClustersClient(), factory.NewAgentPoolsClient()
	begun, err := clusters.BeginCreateOrUpdate(ctx, "rg", "demo", sdkCluster(), nil)
	c := finish(t, begun, err)
	p := c.Properties
	if *p.ProvisioningState != "Succeeded" || *p.PowerState.Code != "Running" || *p.AgentPoolProfiles[0].Count != 2 || *p.CurrentKubernetesVersion != "1.30.3" ||
		!strings.HasSuffix(*p.PrivateFQDN, ".privatelink.eastus.azmk8s.io") || *p.NodeResourceGroup != "MC_rg_demo_eastus" || *c.Type != "Microsoft.ContainerService/ManagedClusters" {
		t.Errorf("created %+v", p)
	}

	listed := 0
	for pager := clusters.NewListPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		listed += len(page.Value)
	}
	for pager := clusters.NewListByResourceGroupPager("RG", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		listed += len(page.Value)
	}
	if listed != 2 {
		t.Errorf("the subscription's and the group's list show %d clusters together, want 2", listed)
	}

	tags, err := clusters.BeginUpdateTags(ctx, "rg", "demo", armcontainerservice.TagsObject{Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	if tagged := finish(t, tags, err); *tagged.Tags["a"] != "b" || len(tagged.Properties.AgentPoolProfiles) != 1 {
		t.Errorf("tagged %+v", tagged.ManagedCluster)
	}
	credentials, err := clusters.ListClusterUserCredentials(ctx, "rg", "demo", nil)
	if err != nil || string(credentials.Kubeconfigs[0].Value) != "https://"+*p.PrivateFQDN+":443 admin=false" {
		t.Errorf("credentials %+v, %v", credentials.Kubeconfigs, err)
	}
	versions, err := clusters.ListKubernetesVersions(ctx, "eastus", nil)
	if err != nil || *versions.Values[0].Version != "1.30" || versions.Values[0].PatchVersions["1.30.3"] == nil {
		t.Errorf("versions %+v, %v", versions.Values, err)
	}
	profile, err := clusters.GetUpgradeProfile(ctx, "rg", "demo", nil)
	if err != nil || *profile.Properties.ControlPlaneProfile.KubernetesVersion != "1.30.3" || len(profile.Properties.AgentPoolProfiles) != 1 {
		t.Errorf("upgrade profile %+v, %v", profile.ManagedClusterUpgradeProfile, err)
	}

	added, err := pools.BeginCreateOrUpdate(ctx, "rg", "demo", "np2", armcontainerservice.AgentPool{Properties: &armcontainerservice.ManagedClusterAgentPoolProfileProperties{
		Count: to.Ptr[int32](1), Mode: to.Ptr(armcontainerservice.AgentPoolModeUser),
	}}, nil)
	if pool := finish(t, added, err); *pool.Properties.ProvisioningState != "Succeeded" || *pool.Properties.VMSize != "Standard_DS2_v2" {
		t.Errorf("pool %+v", pool.Properties)
	}
	removed, err := pools.BeginDelete(ctx, "rg", "demo", "np2", nil)
	finish(t, removed, err)

	// What AKS has made is there for the other clients.
	resources, err := armresources.NewClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for pager := resources.NewListByResourceGroupPager("MC_rg_demo_eastus", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Value {
			kinds[*r.Type]++
		}
	}
	for kind, want := range map[string]int{"Microsoft.Network/privateEndpoints": 2, "Microsoft.Network/virtualNetworks": 1, "Microsoft.ContainerRegistry/registries": 1, "Microsoft.Network/networkInterfaces": 4, "Microsoft.ManagedIdentity/userAssignedIdentities": 1} {
		if kinds[kind] != want {
			t.Errorf("%d of %s, want %d; all %v", kinds[kind], kind, want, kinds)
		}
	}
	endpoints, err := armnetwork.NewPrivateEndpointsClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := endpoints.Get(ctx, "MC_rg_demo_eastus", "kube-apiserver", nil)
	if err != nil || *endpoint.Properties.PrivateLinkServiceConnections[0].Properties.PrivateLinkServiceConnectionState.Status != "Approved" {
		t.Errorf("endpoint %+v, %v", endpoint.Properties, err)
	}
	zones, err := armprivatedns.NewPrivateZonesClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	zone, err := zones.Get(ctx, "MC_rg_demo_eastus", "privatelink.azurecr.io", nil)
	if err != nil || *zone.Properties.NumberOfVirtualNetworkLinks != 1 || *zone.Properties.NumberOfRecordSets != 3 {
		t.Errorf("zone %+v, %v", zone.Properties, err)
	}
	rules, err := armcontainerregistry.NewCacheRulesClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	id := *p.BootstrapProfile.ContainerRegistryID
	rule, err := rules.Get(ctx, "MC_rg_demo_eastus", id[strings.LastIndex(id, "/")+1:], "aks-managed-mcr", nil)
	if err != nil || *rule.Properties.SourceRepository != "mcr.microsoft.com/*" || *rule.Properties.TargetRepository != "aks-managed-repository/*" {
		t.Errorf("cache rule %+v, %v", rule.Properties, err)
	}

	deleted, err := clusters.BeginDelete(ctx, "rg", "demo", nil)
	finish(t, deleted, err)
	var response *azcore.ResponseError
	if _, err := clusters.Get(ctx, "rg", "demo", nil); !errors.As(err, &response) || response.StatusCode != http.StatusNotFound || response.ErrorCode != "ResourceNotFound" {
		t.Errorf("after its deletion: %v", err)
	}
	if left := i.machine.left(); left != "" {
		t.Errorf("left on the machine: %s", left)
	}
	groups, err := armresources.NewResourceGroupsClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	if there, err := groups.CheckExistence(ctx, "MC_rg_demo_eastus", nil); err != nil || there.Success {
		t.Errorf("the node resource group is there: %v, %v", there.Success, err)
	}
}

func TestFailedClusterBySDK(t *testing.T) {
	i := install(t)
	i.machine.failing = true
	clusters, err := armcontainerservice.NewManagedClustersClient(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	begun, err := clusters.BeginCreateOrUpdate(t.Context(), "rg", "demo", sdkCluster(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var response *azcore.ResponseError
	if _, err := begun.PollUntilDone(t.Context(), nil); !errors.As(err, &response) || response.ErrorCode != "VMExtensionProvisioningError" || !strings.Contains(err.Error(), "exit status=211") {
		t.Errorf("the poller ends with %v", err)
	}
	bad := sdkCluster()
	bad.Properties.BootstrapProfile = nil
	if _, err := clusters.BeginCreateOrUpdate(t.Context(), "rg", "bad", bad, nil); !errors.As(err, &response) || response.StatusCode != http.StatusBadRequest || response.ErrorCode != "InvalidNetworkIsolatedClusterConfiguration" {
		t.Errorf("a cluster without egress and Direct: %v", err)
	}
}
