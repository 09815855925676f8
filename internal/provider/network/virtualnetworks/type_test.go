package virtualnetworks

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const id = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/vnet-netiso"

// create is what az network vnet create sends.
const create = `{"location": "eastus", "properties": {"addressSpace": {"addressPrefixes": ["192.168.0.0/16"]}, "enableDdosProtection": false, "enableVmProtection": false}}`

func TestRefusesBadAddressSpace(t *testing.T) {
	for prefixes, want := range map[string]string{
		`["10.0.0.0/16"]`:               "",
		`["10.0.0.0/16","10.1.0.0/16"]`: "",
		`[]`:                            "NetcfgInvalidVirtualNetworkSite@properties.addressSpace.addressPrefixes",
		`["10.0.0.0/160"]`:              "InvalidAddressPrefixFormat@properties.addressSpace.addressPrefixes[0]",
		`["10.0.0.5/16"]`:               "InvalidCIDRNotation@properties.addressSpace.addressPrefixes[0]",
		`["10.0.0.0/8","10.1.0.0/16"]`:  "NetcfgInvalidVirtualNetworkSite@properties.addressSpace.addressPrefixes[1]",
		`["240.0.0.0/8"]`:               "NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[0]",
		`["198.18.5.0/24"]`:             "NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[0]",
		`["169.254.1.0/24"]`:            "NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[0]",
		`["168.63.129.0/24"]`:           "NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[0]",
		`["10.0.0.0/30"]`:               "NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[0]",
		`["fd00::/48"]`:                 "NotSupported@properties.addressSpace.addressPrefixes[0]",
		`["x","224.0.0.0/8"]`:           "InvalidAddressPrefixFormat@properties.addressSpace.addressPrefixes[0] NetcfgInvalidIPAddressPrefix@properties.addressSpace.addressPrefixes[1]",
	} {
		body := `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":` + prefixes + `}}}`
		_, err := providertest.Prepare(t, providertest.New(), Spec(&providertest.World{}), id, "2024-05-01", body)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s: %q, want %q", prefixes, got, want)
		}
	}
}

func TestRefusesWhatIsNotThere(t *testing.T) {
	body := `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"enableDdosProtection":true,"dhcpOptions":{"dnsServers":["fd00::4"]},"encryption":{"enabled":true}}}`
	_, err := providertest.Prepare(t, providertest.New(), Spec(&providertest.World{}), id, "2024-05-01", body)
	if got := providertest.Codes(err); strings.Count(got, "NotSupported@") != 3 {
		t.Errorf("%s", got)
	}
}

func TestDNSServers(t *testing.T) {
	for servers, want := range map[string]string{
		`[]`:                               "",
		`["10.0.0.4"]`:                     "",
		`["10.0.0.4","168.63.129.16"]`:     "",
		`["8.8.8.8"]`:                      "",
		`[""]`:                             "NetcfgInvalidIPAddress@properties.dhcpOptions.dnsServers[0]",
		`["10.0.0.4","10.0.0.4;10.0.0.5"]`: "NetcfgInvalidIPAddress@properties.dhcpOptions.dnsServers[1]",
		`["10.0.0.4` + strings.Repeat(`","10.0.0.4`, 20) + `"]`: "DnsServersLimitReached@properties.dhcpOptions.dnsServers",
	} {
		body := `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"dhcpOptions":{"dnsServers":` + servers + `}}}`
		_, err := providertest.Prepare(t, providertest.New(), Spec(&providertest.World{}), id, "2024-05-01", body)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s: %q, want %q", servers, got, want)
		}
	}
}

// No prefix that overlaps a reserved range, and no two that overlap each other, are ever accepted.
func TestAddressSpaceProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 2000 {
		var texts []string
		for range 1 + r.IntN(3) {
			a := netip.AddrFrom4([4]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
			texts = append(texts, netip.PrefixFrom(a, r.IntN(33)).Masked().String())
		}
		p := Properties{AddressSpace: &AddressSpace{texts}}
		if len(validate(resourceid.MustParse(id), &p)) > 0 {
			continue
		}
		space := p.Space()
		for i, a := range space {
			if _, _, bad := ipam.Reserved(a); bad {
				t.Fatalf("accepted %s", a)
			}
			for _, b := range space[:i] {
				if a.Overlaps(b) {
					t.Fatalf("accepted %s and %s", a, b)
				}
			}
		}
	}
}

func TestKeepsItsNames(t *testing.T) {
	d := providertest.New()
	first, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2024-05-01", create)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Cloister.ID) != 10 || first.Properties.ResourceGUID == "" {
		t.Errorf("no names: %+v", first)
	}
	second, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2024-05-01", create)
	if err != nil || second.Cloister.ID != first.Cloister.ID || second.Properties.ResourceGUID != first.Properties.ResourceGUID {
		t.Errorf("a second PUT renames: %+v, %v", second, err)
	}
}

func TestAddressSpaceMustHoldTheSubnets(t *testing.T) {
	d := providertest.New()
	d.Put(t, id+"/subnets/a", `{"properties":{"addressPrefix":"192.168.1.0/24"}}`)
	d.Put(t, id+"/subnets/b", `{"properties":{"addressPrefixes":["10.2.0.0/24"]}}`)
	_, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2024-05-01", create)
	if got := providertest.Codes(err); got != "NetcfgInvalidSubnet@properties.addressSpace.addressPrefixes" {
		t.Errorf("%q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "Subnet 'b' is not valid in virtual network 'vnet-netiso'.") {
		t.Errorf("%v", err)
	}
}

func TestShowsSubnetsWithTheirUses(t *testing.T) {
	d := providertest.New()
	d.Put(t, id, create)
	d.Put(t, id+"/subnets/a", `{"properties":{"addressPrefix":"192.168.1.0/24","provisioningState":"Succeeded"},"cloister":{"x":1}}`)
	d.Put(t, strings.Replace(id, "virtualNetworks/vnet-netiso", "networkInterfaces/n", 1), fmt.Sprintf(`{"properties":{"ipConfigurations":[{"name":"c","properties":{"privateIPAddress":"192.168.1.4","subnet":{"id":%q}}}]}}`, strings.ToLower(id)+"/subnets/A"))
	m := providertest.Render(t, d, Spec(&providertest.World{}), id)
	if m.Properties.Subnets == nil || len(*m.Properties.Subnets) != 1 {
		t.Fatalf("subnets: %v", m.Properties.Subnets)
	}
	got := string((*m.Properties.Subnets)[0])
	for _, want := range []string{`"id":"` + id + `/subnets/a"`, `/networkInterfaces/n/ipConfigurations/c`, `"provisioningState":"Succeeded"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
	if strings.Contains(got, "cloister") {
		t.Errorf("shows Cloister's memory: %s", got)
	}
}

func TestDeleteRefusedWhileInUse(t *testing.T) {
	d := providertest.New()
	d.Put(t, strings.Replace(id, "virtualNetworks/vnet-netiso", "networkInterfaces/n", 1), fmt.Sprintf(`{"properties":{"ipConfigurations":[{"name":"c","properties":{"privateIPAddress":"192.168.1.4","subnet":{"id":%q}}}]}}`, id+"/subnets/a"))
	r := providertest.Request[Model](t, d, id, "2024-05-01", create)
	if got := providertest.Codes(prepareDelete(t.Context(), r)); got != "InUseSubnetCannotBeDeleted@"+id+"/subnets/a" {
		t.Errorf("%q", got)
	}
}
