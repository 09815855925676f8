package subnets

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
	vnet  = group + "/providers/Microsoft.Network/virtualNetworks/vnet-netiso"
	aks   = vnet + "/subnets/snet-aks"
)

// Bodies that az network vnet subnet create sends.
const (
	createAKS = `{"name": "snet-aks", "properties": {"addressPrefix": "192.168.1.0/24", "defaultOutboundAccess": false, "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"}}`
	createACR = `{"name": "snet-acr", "properties": {"addressPrefix": "192.168.2.0/24", "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"}}`
)

func withNetwork(t *testing.T) *providertest.Documents {
	d := providertest.New()
	d.Put(t, vnet, `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["192.168.0.0/16"]}}}`)
	return d
}

func prepareOne(t *testing.T, d *providertest.Documents, name, version, body string) (*Model, error) {
	t.Helper()
	return providertest.Prepare(t, d, Spec(&providertest.World{}), vnet+"/subnets/"+name, version, body)
}

func TestAzCreates(t *testing.T) {
	d := withNetwork(t)
	m, err := prepareOne(t, d, "snet-aks", "2024-01-01", createAKS)
	if err != nil {
		t.Fatal(err)
	}
	if m.DefaultOutbound() {
		t.Error("the AKS subnet has default outbound access")
	}
	m, err = prepareOne(t, d, "snet-acr", "2024-01-01", createACR)
	if err != nil || !m.DefaultOutbound() || m.Properties.DefaultOutboundAccess != nil {
		t.Errorf("absent default outbound access in an old api-version: %+v, %v", m, err)
	}
	if p, err := m.Prefix(); err != nil || p.String() != "192.168.2.0/24" {
		t.Errorf("prefix %s, %v", p, err)
	}
}

func TestPrivateByDefaultSince2025(t *testing.T) {
	d := withNetwork(t)
	body := `{"properties":{"addressPrefix":"192.168.9.0/24"}}`
	m, err := prepareOne(t, d, "new", "2025-07-01", body)
	if err != nil || m.DefaultOutbound() {
		t.Fatalf("%+v, %v", m, err)
	}
	// What a subnet was made with stays when a later request does not speak of it.
	if m, err = prepareOne(t, d, "new", "2024-01-01", body); err != nil || m.DefaultOutbound() {
		t.Errorf("an update by an old api-version opened the subnet: %+v, %v", m, err)
	}
	if _, err = prepareOne(t, d, "old", "2024-01-01", `{"properties":{"addressPrefix":"192.168.8.0/24"}}`); err != nil {
		t.Fatal(err)
	}
	if m, err = prepareOne(t, d, "old", "2025-07-01", `{"properties":{"addressPrefix":"192.168.8.0/24"}}`); err != nil || !m.DefaultOutbound() {
		t.Errorf("an update by a new api-version closed the subnet: %+v, %v", m, err)
	}
}

func TestRefuses(t *testing.T) {
	for body, want := range map[string]string{
		`{"properties":{"addressPrefix":"10.0.0.0/24"}}`:      "NetcfgInvalidSubnet@properties.addressPrefix",
		`{"properties":{"addressPrefix":"192.168.0.0/15"}}`:   "NetcfgInvalidSubnet@properties.addressPrefix",
		`{"properties":{"addressPrefix":"192.168.0.0/30"}}`:   "NetcfgInvalidSubnet@properties.addressPrefix",
		`{"properties":{"addressPrefix":"192.168.1.128/25"}}`: "NetcfgSubnetRangesOverlap@properties.addressPrefix",
		`{"properties":{"addressPrefix":"192.168.1.0"}}`:      "InvalidAddressPrefixFormat@properties.addressPrefix",
		`{"properties":{"addressPrefix":"192.168.3.1/24"}}`:   "InvalidCIDRNotation@properties.addressPrefix",
		`{"properties":{}}`: "AddressPrefixStringCannotBeNullOrEmpty@properties.addressPrefix",
		`{"properties":{"addressPrefixes":["192.168.3.0/24","192.168.4.0/24"]}}`:                                                                              "NotSupported@properties.addressPrefixes",
		`{"properties":{"addressPrefix":"192.168.3.0/24","natGateway":{"id":"` + group + `/providers/Microsoft.Network/natGateways/n"}}}`:                     "InvalidResourceReference@properties.natGateway.id",
		`{"properties":{"addressPrefix":"192.168.3.0/24","networkSecurityGroup":{"id":"` + group + `/providers/Microsoft.Network/natGateways/n"}}}`:           "LinkedInvalidPropertyId@properties.networkSecurityGroup.id",
		`{"properties":{"addressPrefix":"192.168.3.0/24","delegations":[{"name":"d","properties":{"serviceName":"Microsoft.App/environments"}}]}}`:            "NotSupported@properties.delegations[0].properties.serviceName",
		`{"properties":{"addressPrefix":"192.168.3.0/24","serviceEndpoints":[{"service":"Microsoft.Storage"}],"privateEndpointNetworkPolicies":"Perhaps"}}`:   "InvalidRequestFormat@properties.privateEndpointNetworkPolicies NotSupported@properties.serviceEndpoints",
		`{"properties":{"addressPrefix":"192.168.3.0/24","networkSecurityGroup":{"id":"` + group + `/providers/Microsoft.Network/networkSecurityGroups/n"}}}`: "",
		`{"properties":{"addressPrefix":"192.168.3.0/24","networkSecurityGroup":{"id":"` + group + `/providers/Microsoft.Network/networkSecurityGroups/w"}}}`: "InvalidResourceReference@properties.networkSecurityGroup.id",
	} {
		d := withNetwork(t)
		d.Put(t, aks, createAKS)
		d.Put(t, group+"/providers/Microsoft.Network/networkSecurityGroups/n", `{"location":"eastus"}`)
		d.Put(t, group+"/providers/Microsoft.Network/networkSecurityGroups/w", `{"location":"westus"}`)
		_, err := prepareOne(t, d, "x", "2024-01-01", body)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s\n got %q\nwant %q", body, got, want)
		}
	}
	_, err := prepareOne(t, withNetwork(t), "snet-aks", "2024-01-01", `{"properties":{"addressPrefix":"10.0.0.0/24"}}`)
	if err == nil || !strings.HasSuffix(err.Error(), "Subnet 'snet-aks' is not valid in virtual network 'vnet-netiso'.") {
		t.Errorf("%v", err)
	}
}

func TestDelegationIsFilledIn(t *testing.T) {
	m, err := prepareOne(t, withNetwork(t), "api", "2024-01-01", `{"properties":{"addressPrefix":"192.168.3.0/24","delegations":[{"name":"aks","properties":{"serviceName":"Microsoft.ContainerService/managedClusters"}}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	d := m.Properties.Delegations[0]
	if d.ID != vnet+"/subnets/api/delegations/aks" || d.Properties.ProvisioningState != "Succeeded" || len(d.Properties.Actions) != 1 || !m.DelegatedTo("Microsoft.ContainerService/managedClusters") {
		t.Errorf("%+v", d)
	}
}

func TestUsesKeepTheSubnet(t *testing.T) {
	d := withNetwork(t)
	if _, err := prepareOne(t, d, "snet-aks", "2024-01-01", createAKS); err != nil {
		t.Fatal(err)
	}
	nic := group + "/providers/Microsoft.Network/networkInterfaces/n"
	pe := group + "/providers/Microsoft.Network/privateEndpoints/pe"
	d.Put(t, nic, `{"properties":{"privateEndpoint":{"id":"`+pe+`"},"ipConfigurations":[{"name":"c","properties":{"privateIPAddress":"192.168.1.4","subnet":{"id":"`+aks+`"}}}]}}`)
	m := providertest.Render(t, d, Spec(&providertest.World{}), aks)
	if len(m.Properties.IPConfigurations) != 1 || m.Properties.IPConfigurations[0].ID != nic+"/ipConfigurations/c" || len(m.Properties.PrivateEndpoints) != 1 || m.Properties.PrivateEndpoints[0].ID != pe {
		t.Errorf("%+v", m.Properties)
	}
	err := prepareDelete(t.Context(), providertest.Request[Model](t, d, aks, "2024-01-01", createAKS))
	want := "InUseSubnetCannotBeDeleted: Subnet snet-aks is in use by " + nic + "/ipConfigurations/c and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet."
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	_, err = prepareOne(t, d, "snet-aks", "2024-01-01", `{"properties":{"addressPrefix":"192.168.7.0/24"}}`)
	if got := providertest.Codes(err); got != "InUsePrefixCannotBeDeleted@properties.addressPrefix" {
		t.Errorf("%q", got)
	}
	d.Remove(nic)
	if err := prepareDelete(t.Context(), providertest.Request[Model](t, d, aks, "2024-01-01", createAKS)); err != nil {
		t.Errorf("an unused subnet cannot be deleted: %v", err)
	}
}

// Whatever subnets are asked for, those accepted lie in the network and apart from each other.
func TestSubnetsProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	d := withNetwork(t)
	var accepted []netip.Prefix
	for i := range 300 {
		a := netip.AddrFrom4([4]byte{192, 168 + byte(r.IntN(2)), byte(r.IntN(256)), byte(r.IntN(256))})
		p := netip.PrefixFrom(a, 15+r.IntN(17)).Masked()
		if _, err := prepareOne(t, d, "s"+strings.Repeat("x", i%7)+p.Addr().String(), "2024-01-01", `{"properties":{"addressPrefix":"`+p.String()+`"}}`); err == nil {
			accepted = append(accepted, p)
		}
	}
	if len(accepted) < 5 {
		t.Fatalf("only %d accepted", len(accepted))
	}
	for i, a := range accepted {
		if !ipam.Contains(netip.MustParsePrefix("192.168.0.0/16"), a) || a.Bits() > 29 {
			t.Errorf("accepted %s", a)
		}
		for _, b := range accepted[:i] {
			if a.Overlaps(b) && a != b {
				t.Errorf("accepted %s beside %s", a, b)
			}
		}
	}
}
