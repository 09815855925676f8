package privatednszonegroups

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
	pe    = group + "/providers/Microsoft.Network/privateEndpoints/pe"
	zone  = group + "/providers/Microsoft.Network/privateDnsZones/privatelink.azurecr.io"
	id    = pe + "/privateDnsZoneGroups/default"
	body  = `{"properties":{"privateDnsZoneConfigs":[{"name":"acr","properties":{"privateDnsZoneId":"` + zone + `"}}]}}`
)

func TestRelative(t *testing.T) {
	for _, c := range []struct{ zone, fqdn, want string }{
		{"privatelink.azurecr.io", "r.azurecr.io", "r"}, {"privatelink.azurecr.io", "R.eastus.data.azurecr.io.", "r.eastus.data"},
		{"privatelink.azurecr.io", "r.privatelink.azurecr.io", "r"}, {"g.privatelink.eastus.azmk8s.io", "c.g.privatelink.eastus.azmk8s.io", "c"},
		{"privatelink.azurecr.io", "r.example.com", ""}, {"azurecr.io", "xazurecr.io", ""}, {"a.io", "a.io", "@"},
	} {
		if got, _ := Relative(c.zone, c.fqdn); got != c.want {
			t.Errorf("%s in %s: %q", c.fqdn, c.zone, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	d := providertest.New()
	d.Put(t, zone, `{}`)
	d.Put(t, pe+"/privateDnsZoneGroups/other", body)
	for b, want := range map[string]string{
		`{"properties":{}}`:                         "InvalidRequestFormat@properties.privateDnsZoneConfigs PrivateEndpointCannotHaveMultiplePrivateDnsZoneGroups@name",
		strings.Replace(body, "azurecr", "none", 1): "InvalidResourceReference@properties.privateDnsZoneConfigs[0].properties.privateDnsZoneId PrivateEndpointCannotHaveMultiplePrivateDnsZoneGroups@name",
	} {
		_, err := providertest.Prepare(t, d, Spec(), id, "2024-05-01", b)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s: %q", b, got)
		}
	}
}

type client struct {
	*providertest.Documents
	t *testing.T
}

func (c client) Put(_ context.Context, id resourceid.ID, _ string, body any) (string, error) {
	c.Documents.Put(c.t, id.String(), body)
	return "Succeeded", nil
}

func (c client) Delete(_ context.Context, id resourceid.ID) (bool, error) {
	c.Remove(id.String())
	return true, nil
}

func TestKeepsRecords(t *testing.T) {
	d := providertest.New()
	d.Put(t, zone, `{}`)
	d.Put(t, pe, `{"cloister":{"members":[{"fqdns":["r.eastus.data.azurecr.io"],"address":"10.0.0.4"},{"fqdns":["r.azurecr.io"],"address":"10.0.0.5"}]}}`)
	m, err := providertest.Prepare(t, d, Spec(), id, "2024-05-01", body)
	if err != nil {
		t.Fatal(err)
	}
	saved := 0
	r := &resourcetype.Reconciliation[Model]{
		ID: resourceid.MustParse(id), Model: m, Client: client{d, t}, Step: func(string) {}, Save: func(context.Context) error { saved++; return nil },
	}
	if _, err := Spec().Reconcile(t.Context(), r); err != nil || saved != 1 {
		t.Fatalf("%v, saved %d times", err, saved)
	}
	var record json.RawMessage
	if err := d.Get(t.Context(), resourceid.MustParse(zone+"/A/r.eastus.data"), &record); err != nil || !strings.Contains(string(record), `"aRecords":[{"ipv4Address":"10.0.0.4"}]`) || !strings.Contains(string(record), `"ttl":10`) {
		t.Errorf("%s, %v", record, err)
	}
	d.Put(t, id, m)
	shown := providertest.Render(t, d, Spec(), id)
	if sets := shown.Properties.Configs[0].Properties.RecordSets; len(sets) != 2 || sets[1].RecordSetName != "r" || sets[1].IPAddresses[0] != "10.0.0.5" {
		t.Errorf("%+v", sets)
	}
	r.Deleting = true
	if _, err := Spec().Reconcile(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"r", "r.eastus.data"} {
		if d.Get(t.Context(), resourceid.MustParse(zone+"/A/"+name), &record) == nil {
			t.Errorf("record %s is left", name)
		}
	}
}
