package virtualnetworklinks

import (
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso"
	vnet  = group + "/providers/Microsoft.Network/virtualNetworks/vnet-netiso"
	zones = group + "/providers/Microsoft.Network/privateDnsZones/"
	// create is what az network private-dns link vnet create sends.
	create = `{"location": "global", "properties": {"registrationEnabled": false, "virtualNetwork": {"id": "` + vnet + `"}}}`
)

func TestOverlap(t *testing.T) {
	d := providertest.New()
	d.Put(t, vnet, `{}`)
	d.Put(t, vnet+"2", `{}`)
	for _, c := range []struct{ id, body, want string }{
		{zones + "privatelink.azurecr.io/virtualNetworkLinks/a", create, ""},
		{zones + "privatelink.azurecr.io/virtualNetworkLinks/a", create, ""}, // the same again
		{zones + "privatelink.azurecr.io/virtualNetworkLinks/b", create, "BadRequest@properties.virtualNetwork.id"},
		{zones + "privatelink.azurecr.io/virtualNetworkLinks/b", strings.Replace(create, "vnet-netiso", "vnet-netiso2", 1), ""},
		{strings.Replace(zones, "rg-netiso", "other", 1) + "Privatelink.azurecr.io/virtualNetworkLinks/c", strings.Replace(create, "vnet-netiso", "VNET-netiso", 1), "BadRequest@properties.virtualNetwork.id"},
		{zones + "eastus.privatelink.azurecr.io/virtualNetworkLinks/d", create, ""},
		{zones + "z.example/virtualNetworkLinks/e", strings.Replace(create, "vnet-netiso", "nowhere", 1), "BadRequest@properties.virtualNetwork.id"},
		{zones + "z.example/virtualNetworkLinks/f", strings.Replace(create, "false", "true", 1), "NotSupported@properties.registrationEnabled"},
		{zones + "z.example/virtualNetworkLinks/g", `{"location":"global","properties":{}}`, "BadRequest@properties.virtualNetwork"},
	} {
		_, err := providertest.Prepare(t, d, Spec(&providertest.World{}), c.id, "2024-06-01", c.body)
		if got := providertest.Codes(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.id, got, c.want)
		}
		if strings.HasSuffix(c.id, "/b") && err != nil && !strings.HasSuffix(err.Error(), "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with 'privatelink.azurecr.io' and 'privatelink.azurecr.io' zones.") {
			t.Errorf("%v", err)
		}
	}
	m := providertest.Render(t, d, Spec(&providertest.World{}), zones+"privatelink.azurecr.io/virtualNetworkLinks/a")
	if m.Properties.VirtualNetworkLinkState != "Completed" || m.Properties.ResolutionPolicy != "Default" {
		t.Errorf("%+v", m.Properties)
	}
}
