package wire

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

// fakes are network types without a network: a virtual network takes a moment, and fails when told so.
func fakes() []resourcetype.Definition {
	type network = resourcetypetest.Model
	return []resourcetype.Definition{
		resourcetype.Define(resourcetype.Spec[network]{
			Name: "Microsoft.Network/virtualNetworks",
			Reconcile: func(_ context.Context, r *resourcetype.Reconciliation[network]) (resourcetype.Result, error) {
				if r.Model.Tags["fail"] != "" && !r.Deleting {
					return resourcetype.Result{}, armerror.New("FakeFailure", "it was told to fail")
				}
				if r.Attempt < 2 {
					return resourcetype.Result{Waiting: true, Again: 50 * time.Millisecond}, nil
				}
				return resourcetype.Result{}, nil
			},
		}),
		resourcetypetest.Stub("Microsoft.Network/virtualNetworks/subnets"),
	}
}

func TestResourceGroupsBySDK(t *testing.T) {
	h, options := start(t, fakes()...)
	client, err := armresources.NewResourceGroupsClient(subscription, credential{}, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if there, err := client.CheckExistence(ctx, "demo", nil); err != nil || there.Success {
		t.Errorf("existence before: %v, %v", there.Success, err)
	}
	g, err := client.CreateOrUpdate(ctx, "demo", armresources.ResourceGroup{Location: to.Ptr("eastus"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	if err != nil || *g.Name != "demo" || *g.Properties.ProvisioningState != "Succeeded" || *g.Tags["a"] != "b" {
		t.Fatalf("%+v, %v", g, err)
	}
	if there, err := client.CheckExistence(ctx, "DEMO", nil); err != nil || !there.Success {
		t.Errorf("existence after: %v, %v", there.Success, err)
	}
	for _, n := range []string{"x", "y", "z"} {
		if _, err := client.CreateOrUpdate(ctx, n, armresources.ResourceGroup{Location: to.Ptr("westus")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	pager := client.NewListPager(&armresources.ResourceGroupsClientListOptions{Top: to.Ptr[int32](2)})
	groups, pages := 0, 0
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		groups += len(page.Value)
		pages++
	}
	if groups != 5 || pages != 3 {
		t.Errorf("%d groups on %d pages, want 5 on 3", groups, pages)
	}
	h.Put(h.ID("Microsoft.Network/virtualNetworks", "inside"), map[string]any{"location": "eastus"})
	poller, err := client.BeginDelete(ctx, resourcetypetest.Group, nil)
	finish(t, poller, err)
	if h.Exists(h.Group()) || h.Exists(h.ID("Microsoft.Network/virtualNetworks", "inside")) {
		t.Error("the group or its content is still there")
	}
}

func TestVirtualNetworkBySDK(t *testing.T) {
	_, options := start(t, fakes()...)
	client, err := armnetwork.NewVirtualNetworksClient(subscription, credential{}, options)
	if err != nil {
		t.Fatal(err)
	}
	subnets, err := armnetwork.NewSubnetsClient(subscription, credential{}, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	network := armnetwork.VirtualNetwork{Location: to.Ptr("eastus"), Properties: &armnetwork.VirtualNetworkPropertiesFormat{
		AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("192.168.0.0/16")}},
	}}
	created, err := client.BeginCreateOrUpdate(ctx, "rg", "Net", network, nil)
	net := finish(t, created, err)
	if *net.Name != "Net" || *net.Properties.ProvisioningState != armnetwork.ProvisioningStateSucceeded || *net.Properties.AddressSpace.AddressPrefixes[0] != "192.168.0.0/16" {
		t.Errorf("created %+v", net.VirtualNetwork)
	}
	put, err := subnets.BeginCreateOrUpdate(ctx, "rg", "net", "s", armnetwork.Subnet{Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: to.Ptr("192.168.1.0/24")}}, nil)
	if s := finish(t, put, err); *s.Name != "s" {
		t.Errorf("subnet %+v", s.Subnet)
	}
	tagged, err := client.UpdateTags(ctx, "rg", "Net", armnetwork.TagsObject{Tags: map[string]*string{"t": to.Ptr("1")}}, nil)
	if err != nil || *tagged.Tags["t"] != "1" {
		t.Errorf("tags %+v, %v", tagged.Tags, err)
	}
	deleted, err := client.BeginDelete(ctx, "rg", "Net", nil)
	finish(t, deleted, err)
	var response *azcore.ResponseError
	if _, err := subnets.Get(ctx, "rg", "Net", "s", nil); !errors.As(err, &response) || response.StatusCode != http.StatusNotFound || response.ErrorCode != "ParentResourceNotFound" {
		t.Errorf("the subnet after its network: %v", err)
	}

	network.Tags = map[string]*string{"fail": to.Ptr("yes")}
	failing, err := client.BeginCreateOrUpdate(ctx, "rg", "Bad", network, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := failing.PollUntilDone(ctx, nil); !errors.As(err, &response) || response.ErrorCode != "FakeFailure" {
		t.Errorf("a failed operation: %v", err)
	}
}

func TestSubscriptionsAndResourcesBySDK(t *testing.T) {
	h, options := start(t, fakes()...)
	h.Put(h.ID("Microsoft.Network/virtualNetworks", "n"), map[string]any{"location": "eastus"})
	h.Put(h.ID("Microsoft.Network/virtualNetworks", "m"), map[string]any{"location": "eastus"})
	resources, err := armresources.NewClient(subscription, credential{}, options)
	if err != nil {
		t.Fatal(err)
	}
	pager := resources.NewListPager(&armresources.ClientListOptions{Filter: to.Ptr("resourceType eq 'Microsoft.Network/virtualNetworks' and name eq 'n'")})
	page, err := pager.NextPage(t.Context())
	if err != nil || len(page.Value) != 1 || *page.Value[0].Name != "n" {
		t.Errorf("resources %v, %v", page.Value, err)
	}
	if there, err := resources.CheckExistenceByID(t.Context(), *page.Value[0].ID, "2024-05-01", nil); err != nil || !there.Success {
		t.Errorf("existence by ID: %v", err)
	}
	providers, err := armresources.NewProvidersClient(subscription, credential{}, options)
	if err != nil {
		t.Fatal(err)
	}
	p, err := providers.Register(t.Context(), "Microsoft.Network", nil)
	if err != nil || *p.RegistrationState != "Registered" || len(p.ResourceTypes) != 2 {
		t.Errorf("provider %+v, %v", p.Provider, err)
	}
}
