package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v6"
)

// TestWaysOutBySDK gives a network its ways out by Microsoft's clients.
func TestWaysOutBySDK(t *testing.T) {
	i := install(t)
	ctx := t.Context()
	network, err := armnetwork.NewClientFactory(i.in.SubscriptionID, i.owner(), i.options())
	if err != nil {
		t.Fatal(err)
	}
	publicIP := func(name string) armnetwork.PublicIPAddress {
		begun, err := network.NewPublicIPAddressesClient().BeginCreateOrUpdate(ctx, "rg", name, armnetwork.PublicIPAddress{
			Location: to.Ptr("eastus"), SKU: &armnetwork.PublicIPAddressSKU{Name: to.Ptr(armnetwork.PublicIPAddressSKUNameStandard)},
			Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic)},
		}, nil)
		return finish(t, begun, err).PublicIPAddress
	}
	natIP, balancerIP := publicIP("nat-ip"), publicIP("lb-ip")
	if !strings.HasPrefix(*natIP.Properties.IPAddress, "198.19.") || *natIP.Properties.IPAddress == *balancerIP.Properties.IPAddress {
		t.Errorf("addresses %s and %s", *natIP.Properties.IPAddress, *balancerIP.Properties.IPAddress)
	}
	natBegun, err := network.NewNatGatewaysClient().BeginCreateOrUpdate(ctx, "rg", "nat", armnetwork.NatGateway{
		Location: to.Ptr("eastus"), SKU: &armnetwork.NatGatewaySKU{Name: to.Ptr(armnetwork.NatGatewaySKUNameStandard)},
		Properties: &armnetwork.NatGatewayPropertiesFormat{PublicIPAddresses: []*armnetwork.SubResource{{ID: natIP.ID}}, IdleTimeoutInMinutes: to.Ptr[int32](4)},
	}, nil)
	nat := finish(t, natBegun, err)
	tableBegun, err := network.NewRouteTablesClient().BeginCreateOrUpdate(ctx, "rg", "rt", armnetwork.RouteTable{Location: to.Ptr("eastus"), Properties: &armnetwork.RouteTablePropertiesFormat{}}, nil)
	table := finish(t, tableBegun, err)
	routeBegun, err := network.NewRoutesClient().BeginCreateOrUpdate(ctx, "rg", "rt", "out", armnetwork.Route{Properties: &armnetwork.RoutePropertiesFormat{
		AddressPrefix: to.Ptr("0.0.0.0/0"), NextHopType: to.Ptr(armnetwork.RouteNextHopTypeVirtualAppliance), NextHopIPAddress: to.Ptr("192.168.1.9"),
	}}, nil)
	finish(t, routeBegun, err)

	vnet := func(name, space string) string {
		begun, err := network.NewVirtualNetworksClient().BeginCreateOrUpdate(ctx, "rg", name, armnetwork.VirtualNetwork{Location: to.Ptr("eastus"), Properties: &armnetwork.VirtualNetworkPropertiesFormat{
			AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr(space)}},
		}}, nil)
		return *finish(t, begun, err).ID
	}
	spoke, hub := vnet("spoke", "192.168.0.0/16"), vnet("hub", "10.0.0.0/16")
	subnetBegun, err := network.NewSubnetsClient().BeginCreateOrUpdate(ctx, "rg", "spoke", "nodes", armnetwork.Subnet{Properties: &armnetwork.SubnetPropertiesFormat{
		AddressPrefix: to.Ptr("192.168.1.0/24"), NatGateway: &armnetwork.SubResource{ID: nat.ID}, RouteTable: &armnetwork.RouteTable{ID: table.ID},
	}}, nil)
	subnet := finish(t, subnetBegun, err)

	balancer := "/subscriptions/" + i.in.SubscriptionID + "/resourceGroups/rg/providers/Microsoft.Network/loadBalancers/lb"
	balancerBegun, err := network.NewLoadBalancersClient().BeginCreateOrUpdate(ctx, "rg", "lb", armnetwork.LoadBalancer{
		Location: to.Ptr("eastus"), SKU: &armnetwork.LoadBalancerSKU{Name: to.Ptr(armnetwork.LoadBalancerSKUNameStandard)},
		Properties: &armnetwork.LoadBalancerPropertiesFormat{
			FrontendIPConfigurations: []*armnetwork.FrontendIPConfiguration{{Name: to.Ptr("front"), Properties: &armnetwork.FrontendIPConfigurationPropertiesFormat{PublicIPAddress: &armnetwork.PublicIPAddress{ID: balancerIP.ID}}}},
			BackendAddressPools:      []*armnetwork.BackendAddressPool{{Name: to.Ptr("pool")}},
			OutboundRules: []*armnetwork.OutboundRule{{Name: to.Ptr("out"), Properties: &armnetwork.OutboundRulePropertiesFormat{
				Protocol: to.Ptr(armnetwork.LoadBalancerOutboundRuleProtocolAll), BackendAddressPool: &armnetwork.SubResource{ID: to.Ptr(balancer + "/backendAddressPools/pool")},
				FrontendIPConfigurations: []*armnetwork.SubResource{{ID: to.Ptr(balancer + "/frontendIPConfigurations/front")}},
			}}},
		},
	}, nil)
	finish(t, balancerBegun, err)
	nicBegun, err := network.NewInterfacesClient().BeginCreateOrUpdate(ctx, "rg", "nic", armnetwork.Interface{Location: to.Ptr("eastus"), Properties: &armnetwork.InterfacePropertiesFormat{
		EnableIPForwarding: to.Ptr(true),
		IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ipconfig1"), Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{
			Subnet: &armnetwork.Subnet{ID: subnet.ID}, PrivateIPAddress: to.Ptr("192.168.1.9"), PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic),
			LoadBalancerBackendAddressPools: []*armnetwork.BackendAddressPool{{ID: to.Ptr(balancer + "/backendAddressPools/pool")}},
		}}},
	}}, nil)
	finish(t, nicBegun, err)
	lb, err := network.NewLoadBalancersClient().Get(ctx, "rg", "lb", nil)
	if err != nil || len(lb.Properties.BackendAddressPools[0].Properties.BackendIPConfigurations) != 1 {
		t.Errorf("the pool's members: %v", err)
	}

	peer := func(from, remote string) armnetwork.VirtualNetworkPeering {
		begun, err := network.NewVirtualNetworkPeeringsClient().BeginCreateOrUpdate(ctx, "rg", from, "peer", armnetwork.VirtualNetworkPeering{Properties: &armnetwork.VirtualNetworkPeeringPropertiesFormat{
			AllowVirtualNetworkAccess: to.Ptr(true), RemoteVirtualNetwork: &armnetwork.SubResource{ID: to.Ptr(remote)},
		}}, nil)
		return finish(t, begun, err).VirtualNetworkPeering
	}
	if state := *peer("spoke", hub).Properties.PeeringState; state != armnetwork.VirtualNetworkPeeringStateInitiated {
		t.Errorf("one side alone is %s", state)
	}
	if state := *peer("hub", spoke).Properties.PeeringState; state != armnetwork.VirtualNetworkPeeringStateConnected {
		t.Errorf("both sides are %s", state)
	}

	_, err = network.NewPublicIPAddressesClient().BeginDelete(ctx, "rg", "nat-ip", nil)
	var refused *azcore.ResponseError
	if !errors.As(err, &refused) || refused.ErrorCode != "PublicIPAddressCannotBeDeleted" {
		t.Errorf("DELETE of an address in use: %v", err)
	}
}
