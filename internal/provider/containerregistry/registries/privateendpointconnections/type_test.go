package privateendpointconnections

import (
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group    = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
	id       = group + "/providers/Microsoft.ContainerRegistry/registries/netisoreg01/privateEndpointConnections/pe.1"
	pe       = group + "/providers/Microsoft.Network/privateEndpoints/pe"
	openBody = `{"properties":{"privateEndpoint":{"id":"` + pe + `"}}}`
)

func status(s string) string {
	return `{"properties":{"privateLinkServiceConnectionState":{"status":"` + s + `","description":"d"}}}`
}

func TestOnlyAPrivateEndpointMakesOne(t *testing.T) {
	for _, memory := range []string{"", `{"cloister":{"connection":"` + id + `x"}}`} {
		d := providertest.New()
		if memory != "" {
			d.Put(t, pe, memory)
		}
		for _, body := range []string{openBody, status("Approved"), `{"properties":{}}`} {
			_, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2023-07-01", body)
			if got := providertest.Codes(err); got != "ResourceNotFound@" {
				t.Errorf("%s: %q", body, got)
			}
		}
	}
}

func TestApproval(t *testing.T) {
	d := providertest.New()
	d.Put(t, pe, `{"cloister":{"connection":"`+strings.ToUpper(id)+`","description":"please"}}`)
	m, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2023-07-01", openBody)
	if err != nil || m.Approved() || m.Properties.State.Status != "Pending" || m.Properties.State.Description != "please" {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, c := range []struct {
		status string
		ok     bool
	}{{"perhaps", false}, {"approved", true}, {"Pending", false}, {"Rejected", true}, {"Approved", false}} {
		m, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2023-07-01", status(c.status))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.status, err)
		}
		if err == nil && (m.Properties.PrivateEndpoint.ID != pe || m.Approved() != (c.status == "approved")) {
			t.Errorf("%s: %+v", c.status, m.Properties)
		}
	}
}

func TestAutoApproval(t *testing.T) {
	d := providertest.New()
	d.Put(t, pe, `{"cloister":{"connection":"`+id+`","autoApproved":true}}`)
	m, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2023-07-01", openBody)
	if err != nil || !m.Approved() || m.Properties.State.Description != "Auto-Approved" {
		t.Errorf("%+v, %v", m, err)
	}
}
