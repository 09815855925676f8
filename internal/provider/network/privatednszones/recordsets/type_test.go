package recordsets

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const zone = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso/providers/Microsoft.Network/privateDnsZones/privatelink.azurecr.io"

// The page's two steps: an empty record set, then its first record.
func TestAzCreatesAndAdds(t *testing.T) {
	d := providertest.New()
	id := zone + "/A/netisoreg01.eastus.data"
	if _, err := providertest.Prepare(t, d, A(&providertest.World{}), id, "2018-09-01", `{"properties":{"ttl":3600}}`); err != nil {
		t.Fatal(err)
	}
	shown, _ := json.Marshal(providertest.Render(t, d, A(&providertest.World{}), id))
	if want := `{"properties":{"ttl":3600,"fqdn":"netisoreg01.eastus.data.privatelink.azurecr.io.","isAutoRegistered":false,"aRecords":[]}}`; string(shown) != want {
		t.Errorf("%s", shown)
	}
	m, err := providertest.Prepare(t, d, A(&providertest.World{}), id, "2018-09-01", `{"etag":"W/\"1\"","properties":{"aRecords":[{"ipv4Address":"192.168.2.5"}],"ttl":3600}}`)
	if err != nil || len(m.Addresses()) != 1 || m.Addresses()[0].String() != "192.168.2.5" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestRefuses(t *testing.T) {
	var many []string
	for i := range 21 {
		many = append(many, fmt.Sprintf(`{"ipv4Address":"10.0.0.%d"}`, i))
	}
	for body, want := range map[string]string{
		`{"properties":{"ttl":0}}`: "BadRequest@properties.ttl",
		`{"properties":{"aRecords":[{"ipv4Address":"x"},{"ipv4Address":"fd00::1"},{"ipv4Address":"10.0.0.1"},{"ipv4Address":"10.0.0.1"}]}}`: "BadRequest@properties.aRecords[0].ipv4Address BadRequest@properties.aRecords[1].ipv4Address BadRequest@properties.aRecords[3].ipv4Address",
		`{"properties":{"aRecords":[` + strings.Join(many, ",") + `]}}`:                                                                     "BadRequest@properties.aRecords",
		`{"properties":{"soaRecord":{}}}`: "BadRequest@properties.soaRecord",
	} {
		_, err := providertest.Prepare(t, providertest.New(), A(&providertest.World{}), zone+"/A/n", "2018-09-01", body)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
	for _, s := range Unsupported() {
		_, err := providertest.Prepare(t, providertest.New(), s, zone+strings.TrimPrefix(s.Name, "Microsoft.Network/privateDnsZones")+"/n", "2018-09-01", `{}`)
		if err == nil || !strings.HasPrefix(err.Error(), "NotSupported: Record sets of type "+s.Name[strings.LastIndex(s.Name, "/")+1:]) {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"@": true, "*": true, "*.a": true, "netisoreg01": true, "a.b.c": true, "_tcp.x": true, "a-b": true,
		"": false, "a..b": false, ".a": false, "a.": false, "-a": false, "a*": false, "a.*": false, "a b": false, strings.Repeat("a", 64): false,
	} {
		if got := recordName.MatchString(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// Whatever name is accepted, no label of the full name is empty or longer than 63.
func TestNamesProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	const letters = "ab0-_.*@"
	for range 20000 {
		b := make([]byte, 1+r.IntN(80))
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		if !recordName.Match(b) {
			continue
		}
		for _, l := range strings.Split(string(b), ".") {
			if l == "" || len(l) > 63 || strings.HasPrefix(l, "-") || strings.HasSuffix(l, "-") {
				t.Fatalf("accepted %q", b)
			}
		}
	}
}

func TestAllOfAZone(t *testing.T) {
	d := providertest.New()
	d.Put(t, zone+"/SOA/@", `{}`)
	d.Put(t, zone+"/A/b", `{}`)
	d.Put(t, zone+"/A/a", `{}`)
	d.Put(t, zone+"x/A/a", `{}`)
	list, err := All().List(t.Context(), &resourcetype.ListRequest{Scope: resourceid.MustParse(zone), Documents: d})
	if err != nil || len(list) != 3 || list[0].ID.Name() != "a" || list[2].ID.Name() != "@" {
		t.Errorf("%v, %v", list, err)
	}
}
