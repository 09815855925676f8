package networksecuritygroups

import (
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg/providers/Microsoft.Network/"
	id    = group + "networkSecurityGroups/nsg"
)

func TestShowsRulesAndUsers(t *testing.T) {
	d := providertest.New()
	d.Put(t, id, `{"location":"eastus","properties":{"resourceGuid":"g"}}`)
	d.Put(t, id+"/securityRules/deny", `{"properties":{"priority":100},"cloister":{}}`)
	d.Put(t, group+"virtualNetworks/v/subnets/s", `{"properties":{"networkSecurityGroup":{"id":"`+strings.ToUpper(id)+`"}}}`)
	d.Put(t, group+"networkInterfaces/n", `{"properties":{"networkSecurityGroup":{"id":"`+id+`"}}}`)
	d.Put(t, group+"networkInterfaces/m", `{"properties":{"networkSecurityGroup":{"id":"`+id+`x"}}}`)
	spec := Spec(&providertest.World{}, []Rule{{"DenyAllInBound", map[string]any{"priority": 65500}}})
	p := providertest.Render(t, d, spec, id).Properties
	if len(*p.SecurityRules) != 1 || !strings.Contains(string((*p.SecurityRules)[0]), id+"/securityRules/deny") || strings.Contains(string((*p.SecurityRules)[0]), "cloister") {
		t.Errorf("rules: %s", *p.SecurityRules)
	}
	if len(p.DefaultSecurityRules) != 1 || !strings.Contains(string(p.DefaultSecurityRules[0]), `"provisioningState":"Succeeded"`) || !strings.Contains(string(p.DefaultSecurityRules[0]), id+"/defaultSecurityRules/DenyAllInBound") {
		t.Errorf("defaults: %s", p.DefaultSecurityRules)
	}
	if len(p.Subnets) != 1 || len(p.NetworkInterfaces) != 1 {
		t.Errorf("users: %v %v", p.Subnets, p.NetworkInterfaces)
	}
	del := providertest.Request[Model](t, d, id, "2024-05-01", `{}`)
	if got := providertest.Codes(spec.PrepareDelete(t.Context(), del)); got != "InUseNetworkSecurityGroupCannotBeDeleted@" {
		t.Errorf("%q", got)
	}
}

func TestRefusesNamelessRules(t *testing.T) {
	spec := Spec(&providertest.World{}, nil)
	_, err := providertest.Prepare(t, providertest.New(), spec, id, "2024-05-01", `{"location":"eastus","properties":{"securityRules":[{"properties":{}},{"name":"a"},{"name":"A"}]}}`)
	if got := providertest.Codes(err); got != "InvalidRequestFormat@properties.securityRules[0].name DuplicateResourceName@properties.securityRules[2].name" {
		t.Errorf("%q", got)
	}
	m, err := providertest.Prepare(t, providertest.New(), spec, id, "2024-05-01", `{"location":"eastus","properties":{"securityRules":[{"name":"a"}],"subnets":[{"id":"/x"}]}}`)
	if err != nil || m.Properties.SecurityRules != nil || m.Properties.Subnets != nil || m.Properties.ResourceGUID == "" {
		t.Errorf("%+v, %v", m, err)
	}
}
