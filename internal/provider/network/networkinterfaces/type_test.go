package networkinterfaces

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group  = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
	vnet   = group + "/providers/Microsoft.Network/virtualNetworks/v"
	snet   = vnet + "/subnets/s"
	nic    = group + "/providers/Microsoft.Network/networkInterfaces/"
	peID   = group + "/providers/Microsoft.Network/privateEndpoints/pe"
	peNIC  = nic + "pe.nic.6d7e1a9e-0000-4000-8000-000000000001"
	peBody = `{"location":"eastus","properties":{"subnet":{"id":"` + snet + `"},"networkInterfaces":[{"id":"` + peNIC + `"}]},
		"cloister":{"members":[
		{"groupId":"registry","name":"registry_data_eastus","fqdns":["r.eastus.data.azurecr.io"],"address":"10.0.0.4","ipConfiguration":"privateEndpointIpConfig.a"},
		{"groupId":"registry","name":"registry","fqdns":["r.azurecr.io"],"address":"10.0.0.5","ipConfiguration":"privateEndpointIpConfig.b"}]}}`
)

func spec(own bool) resourcetype.Spec[Model] {
	return Spec(&providertest.World{}, func(resourcetype.Principal) bool { return own })
}

func network(t *testing.T) *providertest.Documents {
	d := providertest.New()
	d.Put(t, vnet, `{"location":"eastus"}`)
	d.Put(t, snet, `{"properties":{"addressPrefix":"10.0.0.0/28"}}`)
	return d
}

func body(configs ...string) string {
	return `{"location":"eastus","properties":{"ipConfigurations":[` + strings.Join(configs, ",") + `]}}`
}

func config(name, address string) string {
	if address == "" {
		return fmt.Sprintf(`{"name":%q,"properties":{"subnet":{"id":%q}}}`, name, snet)
	}
	return fmt.Sprintf(`{"name":%q,"properties":{"privateIPAllocationMethod":"Static","privateIPAddress":%q,"subnet":{"id":%q}}}`, name, address, snet)
}

func addresses(m *Model) string {
	var s []string
	for _, a := range m.Addresses() {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

func TestAllocates(t *testing.T) {
	d := network(t)
	m, err := providertest.Prepare(t, d, spec(false), nic+"a", "2023-11-01", body(config("one", ""), config("two", "10.0.0.5"), config("three", "")))
	if err != nil {
		t.Fatal(err)
	}
	if got := addresses(m); got != "10.0.0.4 10.0.0.5 10.0.0.6" {
		t.Errorf("a static address was given away: %s", got)
	}
	// The next interface goes on behind; a repeated PUT keeps what it had.
	m, err = providertest.Prepare(t, d, spec(false), nic+"b", "2023-11-01", body(config("one", "")))
	if err != nil || addresses(m) != "10.0.0.7" {
		t.Fatalf("%v, %v", m, err)
	}
	d.Remove(nic + "a")
	m, err = providertest.Prepare(t, d, spec(false), nic+"b", "2023-11-01", body(config("one", ""), config("two", "")))
	if err != nil || addresses(m) != "10.0.0.7 10.0.0.4" {
		t.Errorf("%s, %v", addresses(m), err)
	}
	c := m.Properties.IPConfigurations[0]
	if c.ID != nic+"b/ipConfigurations/one" || !*c.Properties.Primary || *m.Properties.IPConfigurations[1].Properties.Primary || c.Properties.PrivateIPAllocationMethod != "Dynamic" {
		t.Errorf("%+v", c)
	}
}

func TestRefusesAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.3": "PrivateIPAddressInReservedRange", "10.0.0.15": "PrivateIPAddressInReservedRange", "10.0.1.4": "PrivateIPAddressNotInSubnet",
		"10.0.0.4": "PrivateIPAddressIsAllocated", "ten": "InvalidIPAddressFormat",
	} {
		d := network(t)
		d.Put(t, peID, peBody) // its interface is not made yet, and still its addresses are taken
		_, err := providertest.Prepare(t, d, spec(false), nic+"a", "2023-11-01", body(config("one", address)))
		if got := providertest.Codes(err); got != want+"@properties.ipConfigurations[0].properties.privateIPAddress" {
			t.Errorf("%s: %q", address, got)
		}
	}
	d := network(t)
	var many []string
	for i := range 12 {
		many = append(many, config(fmt.Sprintf("c%d", i), ""))
	}
	_, err := providertest.Prepare(t, d, spec(false), nic+"a", "2023-11-01", body(many...))
	if got := providertest.Codes(err); got != "SubnetIsFull@properties.ipConfigurations[11].properties.subnet.id" {
		t.Errorf("%q", got)
	}
}

func TestRefusesBodies(t *testing.T) {
	for b, want := range map[string]string{
		`{"properties":{}}`: "IpConfigurationsAreMissing@properties.ipConfigurations",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{}}]}}`:                                                                                          "SubnetNotSpecified@properties.ipConfigurations[0].properties.subnet",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"` + vnet + `/subnets/none"}}}]}}`:                                               "InvalidResourceReference@properties.ipConfigurations[0].properties.subnet.id",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"` + vnet + `"}}}]}}`:                                                            "LinkedInvalidPropertyId@properties.ipConfigurations[0].properties.subnet.id",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{"privateIPAllocationMethod":"Static","subnet":{"id":"` + snet + `"}}}]}}`:                       "PrivateIPAddressRequiredWhenAllocationMethodIsStatic@properties.ipConfigurations[0].properties.privateIPAddress",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{"publicIPAddress":{"id":"x"},"subnet":{"id":"` + snet + `"}}}]}}`:                               "LinkedInvalidPropertyId@properties.ipConfigurations[0].properties.publicIPAddress.id",
		`{"properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"` + snet + `"}}},{"name":"A","properties":{"subnet":{"id":"` + snet + `"}}}]}}`: "DuplicateResourceName@properties.ipConfigurations[1].name",
	} {
		_, err := providertest.Prepare(t, network(t), spec(false), nic+"a", "2023-11-01", b)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s\n got %q\nwant %q", b, got, want)
		}
	}
}

func TestPrivateEndpointsInterface(t *testing.T) {
	d := network(t)
	d.Put(t, peID, peBody)
	m, err := providertest.Prepare(t, d, spec(false), peNIC, "2024-05-01", `{"location":"eastus","properties":{"privateEndpoint":{"id":"`+peID+`"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if addresses(m) != "10.0.0.4 10.0.0.5" || m.ManagedBy != peID || m.Kind != "Regular" || m.Properties.NICType != "Standard" || *m.Properties.MACAddress != "" {
		t.Errorf("%+v", m)
	}
	first := m.Properties.IPConfigurations[0]
	if !*first.Properties.Primary || first.Properties.PrivateLinkConnectionProperties.RequiredMemberName != "registry_data_eastus" || first.Properties.PrivateLinkConnectionProperties.FQDNs[0] != "r.eastus.data.azurecr.io" {
		t.Errorf("%+v", first)
	}
	// Clients may tag it, and neither change nor delete it.
	_, err = providertest.Prepare(t, d, spec(false), peNIC, "2024-05-01", `{"location":"eastus","tags":{"a":"b"},"properties":{}}`)
	if err == nil {
		t.Error("a PUT without the configurations was accepted")
	}
	stored := `{"location":"eastus","tags":{"a":"b"},"properties":{"ipConfigurations":[{"name":"privateEndpointIpConfig.a","properties":{}},{"name":"privateEndpointIpConfig.b","properties":{}}]}}`
	if m, err = providertest.Prepare(t, d, spec(false), peNIC, "2024-05-01", stored); err != nil || addresses(m) != "10.0.0.4 10.0.0.5" || m.Properties.PrivateEndpoint == nil {
		t.Errorf("%+v, %v", m, err)
	}
	del := providertest.Request[Model](t, d, peNIC, "2024-05-01", `{}`)
	del.Model = m
	if got := providertest.Codes(spec(false).PrepareDelete(t.Context(), del)); !strings.HasPrefix(got, "CannotDeleteNicAttachedToPrivateEndpoint") {
		t.Errorf("%q", got)
	}
	d.Mark(peID)
	if err := spec(false).PrepareDelete(t.Context(), del); err != nil {
		t.Errorf("the endpoint goes, its interface cannot: %v", err)
	}
}

// A client that claims a private endpoint gets an interface like any other.
func TestPrivateEndpointCannotBeClaimed(t *testing.T) {
	d := network(t)
	d.Put(t, peID, peBody)
	m, err := providertest.Prepare(t, d, spec(false), nic+"mine", "2024-05-01", `{"location":"eastus","managedBy":"x","properties":{"privateEndpoint":{"id":"`+peID+`"},"virtualMachine":{"id":"/vm"},"ipConfigurations":[`+config("a", "")+`]}}`)
	if err != nil || m.Properties.PrivateEndpoint != nil || m.ManagedBy != "" || m.Properties.VirtualMachine != nil || addresses(m) != "10.0.0.6" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestMachinesInterface(t *testing.T) {
	d := network(t)
	vm := `{"location":"eastus","managedBy":"/pool","properties":{"virtualMachine":{"id":"/vm"},"ipConfigurations":[` + config("a", "") + `]}}`
	m, err := providertest.Prepare(t, d, spec(true), nic+"n", "2024-05-01", vm)
	if err != nil || m.Properties.VirtualMachine == nil || m.ManagedBy != "/pool" {
		t.Fatalf("%+v, %v", m, err)
	}
	del := providertest.Request[Model](t, d, nic+"n", "2024-05-01", `{}`)
	del.Model = m
	if got := providertest.Codes(spec(false).PrepareDelete(t.Context(), del)); got != "NicInUse@" {
		t.Errorf("%q", got)
	}
	if err := spec(true).PrepareDelete(t.Context(), del); err != nil {
		t.Error(err)
	}
}
