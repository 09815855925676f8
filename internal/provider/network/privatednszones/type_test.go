package privatednszones

import (
	"testing"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
	id    = group + "/providers/Microsoft.Network/privateDnsZones/privatelink.azurecr.io"
)

func TestCounts(t *testing.T) {
	d := providertest.New()
	if _, err := providertest.Prepare(t, d, Spec(&providertest.World{}), id, "2018-09-01", `{"location":"global"}`); err != nil {
		t.Fatal(err)
	}
	d.Put(t, id+"/SOA/@", `{}`)
	d.Put(t, id+"/A/a", `{}`)
	d.Put(t, id+"/virtualNetworkLinks/l", `{}`)
	p := providertest.Render(t, d, Spec(&providertest.World{}), id).Properties
	if *p.NumberOfRecordSets != 2 || *p.NumberOfVirtualNetworkLinks != 1 || p.MaxNumberOfRecordSets != 25000 || p.InternalID == "" {
		t.Errorf("%+v", p)
	}
}

func TestLinkedZoneStays(t *testing.T) {
	d := providertest.New()
	d.Put(t, group, `{}`)
	d.Put(t, id+"/virtualNetworkLinks/l", `{}`)
	r := providertest.Request[Model](t, d, id, "2018-09-01", `{}`)
	if got := providertest.Codes(prepareDelete(t.Context(), r)); got != "CannotDeleteResource@" {
		t.Errorf("%q", got)
	}
	d.Mark(group) // the whole group goes
	if err := prepareDelete(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{"privatelink.azurecr.io": true, "a.b": true, "local": false, "a..b": false, "-a.b": false, "*.b": false, "a.b.": false} {
		if zoneName.MatchString(name) != want {
			t.Errorf("%q", name)
		}
	}
}
