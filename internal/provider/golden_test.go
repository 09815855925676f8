package provider_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

var update = flag.Bool("update", false, "write testdata/*.json from what the types answer now")

// TestAnswers holds what each resource of the walkthrough looks like to a client. The shapes follow answers
// of the real service; GUIDs, times and etags are numbered in order of appearance.
func TestAnswers(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	p := build(h)
	h.Put(p.zone.Child("A", "netisoreg01"), `{"properties": {"ttl": 3600}}`)
	h.Put(p.registry.Resource("Microsoft.Authorization/roleAssignments", "58ab52d5-7b24-4913-8374-143ce3371a40"),
		`{"properties": {"principalId": "95a78de3-a160-489a-b7d1-8a9d963e7eda", "principalType": "ServicePrincipal", "roleDefinitionId": "/subscriptions/`+resourcetypetest.Subscription+`/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d"}}`)
	out := waysOut(h, p)
	for name, id := range map[string]resourceid.ID{
		"publicipaddress": out.balancerIP, "natgateway": out.gateway, "routetable": out.table, "route": out.table.Child("routes", "out"), "loadbalancer": out.balancer, "nodeinterface": out.nic, "peering": out.vnet.Child("virtualNetworkPeerings", "back"),
		"resourcegroup": h.Group(), "virtualnetwork": p.vnet, "subnet": p.acr, "registry": p.registry, "cacherule": p.rule, "privateendpoint": p.endpoint,
		"networkinterface": resourceid.MustParse(h.Get(p.endpoint).String("properties.networkInterfaces.0.id")),
		"connection":       resourceid.MustParse(h.Get(p.registry).String("properties.privateEndpointConnections.0.id")),
		"privatednszone":   p.zone, "virtualnetworklink": p.link, "recordset": p.zone.Child("A", "netisoreg01"), "soa": p.zone.Child("SOA", "@"), "identity": p.identity,
		"roleassignment": p.registry.Resource("Microsoft.Authorization/roleAssignments", "58ab52d5-7b24-4913-8374-143ce3371a40"),
		"roledefinition": h.ID("Microsoft.Authorization/roleDefinitions", "7f951dda-4ed3-4680-a7ca-43fe172d538d"),
		"feature":        resourceid.MustParse("/subscriptions/" + resourcetypetest.Subscription + "/providers/Microsoft.Features/providers/Microsoft.ContainerService/features/NetworkIsolatedClusterPreview"),
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.MarshalIndent(h.Get(id), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got := append(normal(b), '\n')
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s answers\n%s\nwant\n%s", id, got, want)
			}
		})
	}
}

var variable = []struct {
	name    string
	pattern *regexp.Regexp
}{
	{"etag", regexp.MustCompile(`\\"[0-9a-f]{8}-[0-9a-f]+\\"`)},
	{"time", regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`)},
	{"guid", regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)},
	{"hex", regexp.MustCompile(`[0-9a-f]{32}`)},
}

// fixed are GUIDs that are the same in every run.
var fixed = regexp.MustCompile(`58ab52d5-7b24-4913-8374-143ce3371a40|95a78de3-a160-489a-b7d1-8a9d963e7eda|7f951dda-4ed3-4680-a7ca-43fe172d538d`)

// normal gives the values that differ between runs numbered names.
func normal(b []byte) []byte {
	for _, v := range variable {
		seen := map[string]string{}
		b = v.pattern.ReplaceAllFunc(b, func(m []byte) []byte {
			if fixed.Match(m) {
				return m
			}
			if seen[string(m)] == "" {
				seen[string(m)] = fmt.Sprintf("<%s-%d>", v.name, len(seen)+1)
			}
			return []byte(seen[string(m)])
		})
	}
	return b
}
