package securityrules

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const nsg = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg/providers/Microsoft.Network/networkSecurityGroups/nsg"

func rule(change string) string {
	base := `"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"443","sourceAddressPrefix":"*","destinationAddressPrefix":"Internet","access":"Deny","priority":100,"direction":"Outbound"`
	return `{"properties":{` + base + change + `}}`
}

func TestRefuses(t *testing.T) {
	for change, want := range map[string]string{
		``:                                 "",
		`,"priority":99`:                   "SecurityRuleInvalidPriority@properties.priority",
		`,"priority":4097`:                 "SecurityRuleInvalidPriority@properties.priority",
		`,"priority":200`:                  "SecurityRuleConflict@properties.priority",
		`,"priority":200,"direction":"In"`: "SecurityRuleInvalidDirection@properties.direction",
		`,"protocol":"Esp"`:                "NotSupported@properties.protocol",
		`,"destinationPortRange":"70000"`:  "SecurityRuleInvalidPortRange@properties.destinationPortRange",
		`,"destinationPortRange":"90-80"`:  "SecurityRuleInvalidPortRange@properties.destinationPortRange",
		`,"destinationPortRange":""`:       "SecurityRuleParameterNotSpecified@properties.destinationPortRange",
		`,"destinationPortRange":"","destinationPortRanges":["80","x"]`: "SecurityRuleInvalidPortRange@properties.destinationPortRanges[1]",
		`,"destinationAddressPrefix":"10.0.0.1/8"`:                      "SecurityRuleInvalidAddressPrefix@properties.destinationAddressPrefix",
		`,"destinationAddressPrefix":"Nowhere"`:                         "SecurityRuleInvalidAddressPrefix@properties.destinationAddressPrefix",
		`,"destinationAddressPrefixes":["10.0.0.0/8"]`:                  "SecurityRuleParameterConflict@properties.destinationAddressPrefix",
		`,"sourceApplicationSecurityGroups":[{"id":"/a"}]`:              "NotSupported@properties.sourceApplicationSecurityGroups",
	} {
		d := providertest.New()
		d.Put(t, nsg+"/securityRules/other", rule(`,"priority":200`))
		d.Put(t, nsg+"x/securityRules/foreign", rule(``))
		_, err := providertest.Prepare(t, d, Spec(&providertest.World{}), nsg+"/securityRules/r", "2024-05-01", rule(change))
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s: %q, want %q", change, got, want)
		}
	}
}

func TestEnumerationsInAnyCase(t *testing.T) {
	m, err := providertest.Prepare(t, providertest.New(), Spec(&providertest.World{}), nsg+"/securityRules/r", "2024-05-01", rule(`,"protocol":"TCP","access":"deny","direction":"outbound"`))
	if err != nil || m.Properties.Protocol != "Tcp" || m.Properties.Access != "Deny" || m.Properties.Direction != "Outbound" {
		t.Errorf("%+v, %v", m, err)
	}
}

func matches(list []netip.Prefix, a string) bool {
	for _, p := range list {
		if p.Contains(netip.MustParseAddr(a)) {
			return true
		}
	}
	return false
}

func TestEffective(t *testing.T) {
	space := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("192.168.0.0/24")}
	m := &Model{Properties{
		Protocol: "Tcp", Access: "Allow", Priority: 100, Direction: "Outbound", SourceAddressPrefix: "VirtualNetwork",
		DestinationAddressPrefixes: []string{"Internet", "10.0.9.0/24", "MicrosoftContainerRegistry"}, SourcePortRange: "*", DestinationPortRanges: []string{"443", "8000-8001"},
	}}
	r := m.Effective("r", space, Tags{"microsoftContainerRegistry": {netip.MustParsePrefix("198.18.0.10/32")}})
	if !r.Allow || len(r.Sources) != 2 || r.DestPorts[1] != (PortRange{8000, 8001}) || r.SourcePorts[0] != (PortRange{0, 65535}) {
		t.Errorf("%+v", r)
	}
	for a, want := range map[string]bool{"8.8.8.8": true, "10.0.1.1": false, "10.0.9.1": true, "10.1.0.0": true, "192.168.0.9": false, "198.18.0.10": true} {
		if got := matches(r.Destinations, a); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

// Every address is in the space or outside of it, and never both.
func TestOutsideProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random := func() netip.Addr {
		return netip.AddrFrom4([4]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	}
	for range 100 {
		var space []netip.Prefix
		for range r.IntN(4) {
			space = append(space, netip.PrefixFrom(random(), 2+r.IntN(29)).Masked())
		}
		outside := Outside(space)
		for range 100 {
			a := random()
			if len(space) > 0 && r.IntN(2) == 0 {
				a = space[r.IntN(len(space))].Addr()
			}
			if matches(space, a.String()) == matches(outside, a.String()) {
				t.Fatalf("%s with %v and %v", a, space, outside)
			}
		}
	}
}

func TestDefaultsAreAzures(t *testing.T) {
	want := map[string]int{"AllowVnetInBound": 65000, "AllowAzureLoadBalancerInBound": 65001, "DenyAllInBound": 65500, "AllowVnetOutBound": 65000, "AllowInternetOutBound": 65001, "DenyAllOutBound": 65500}
	for _, d := range Defaults() {
		if want[d.Name] != d.Properties.Priority {
			t.Errorf("%s has priority %d", d.Name, d.Properties.Priority)
		}
		delete(want, d.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
