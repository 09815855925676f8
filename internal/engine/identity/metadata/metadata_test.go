package metadata

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

const tenant = "11111111-1111-1111-1111-111111111111"

var (
	kubelet = Identity{ClientID: "kc", PrincipalID: "kp", TenantID: tenant, ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/kubelet"}
	other   = Identity{ClientID: "oc", PrincipalID: "op", TenantID: tenant, ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/other"}
	guests  = map[string]Guest{
		"10.0.0.4": {
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.5")},
			Name:      "aks-nodepool1-12345678-vmss_0", ComputerName: "aks-nodepool1-12345678-vmss000000",
			ResourceID:     "/subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodepool1-12345678-vmss/virtualMachines/0",
			SubscriptionID: "s", ResourceGroup: "mc", Location: "westus2", VMSize: "Standard_D4s_v3",
			Subnet: netip.MustParsePrefix("10.0.0.0/24"), Tags: map[string]string{"b": "2", "a": "1"}, Identities: []Identity{kubelet},
		},
		"10.0.0.6": {Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.6")}, Name: "two", Identities: []Identity{kubelet, other}},
		"10.0.0.7": {Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Name: "none"},
	}
)

func server(t *testing.T) (*Server, *identity.Verifier) {
	keys, err := identity.OpenKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := New(func(a netip.Addr) (Guest, bool) { g, ok := guests[a.String()]; return g, ok }, identity.NewIssuer(keys, nil), slog.New(slog.DiscardHandler))
	return s, &identity.Verifier{Keys: keys, Issuers: []string{identity.V1Issuer(tenant)}, Audiences: []string{"https://containerregistry.azure.net"}}
}

func get(s *Server, source, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "http://169.254.169.254"+target, nil)
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(source), 40000).String()
	r.Header.Set("Metadata", "true")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// The request of cse_helpers.sh.
const tokenURL = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fcontainerregistry.azure.net"

func TestTokenIsOfTheGuestThatAsks(t *testing.T) {
	s, v := server(t)
	tests := []struct{ name, source, query, principal, description string }{
		{"the only identity", "10.0.0.4", "", "kp", ""},
		{"by client ID", "10.0.0.4", "&client_id=KC", "kp", ""},
		{"by object ID", "10.0.0.6", "&object_id=op", "op", ""},
		{"by resource ID", "10.0.0.6", "&mi_res_id=" + url.QueryEscape(strings.ToLower(other.ResourceID)), "op", ""},
		{"by resource ID, the older name", "10.0.0.6", "&msi_res_id=" + url.QueryEscape(kubelet.ResourceID), "kp", ""},
		{"another guest's identity", "10.0.0.4", "&client_id=oc", "", "Identity not found"},
		{"two and none named", "10.0.0.6", "", "", "Multiple user assigned identities exist"},
		{"contradiction", "10.0.0.6", "&client_id=kc&object_id=op", "", "Identity not found"},
		{"no identity", "10.0.0.7", "", "", "Identity not found"},
		{"unknown source", "10.0.0.99", "", "", "Identity not found"},
		{"mapped source", "::ffff:10.0.0.4", "", "kp", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := get(s, test.source, tokenURL+test.query)
			var got map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
			if test.principal == "" {
				if w.Code != 400 || got["error"] != "invalid_request" || !strings.HasPrefix(got["error_description"], test.description) {
					t.Fatalf("%d %v", w.Code, got)
				}
				return
			}
			if w.Code != 200 || got["token_type"] != "Bearer" || got["expires_in"] != "86399" || got["resource"] != "https://containerregistry.azure.net" {
				t.Fatalf("%d %v", w.Code, got)
			}
			c, err := v.Verify(got["access_token"])
			if err != nil {
				t.Fatal(err)
			}
			if c.ObjectID != test.principal || !strings.HasSuffix(c.ManagedIdentity, map[string]string{"kp": "kubelet", "op": "other"}[test.principal]) {
				t.Errorf("claims %+v", c)
			}
		})
	}
}

func TestRequestsMustBeMeant(t *testing.T) {
	s, _ := server(t)
	tests := []struct {
		name   string
		header []string
		target string
		status int
		text   string
	}{
		{"no header", []string{"Metadata", ""}, "/metadata/instance?api-version=2021-02-01", 400, "Required metadata header not specified"},
		{"forwarded", []string{"X-Forwarded-For", "1.2.3.4"}, "/metadata/instance?api-version=2021-02-01", 400, "X-Forwarded-For"},
		{"token, forwarded", []string{"X-Forwarded-For", "1.2.3.4"}, tokenURL, 400, "X-Forwarded-For"},
		{"no version", nil, "/metadata/instance", 400, "newest-versions"},
		{"odd version", nil, "/metadata/instance?api-version=latest", 400, "newest-versions"},
		{"no resource", nil, "/metadata/identity/oauth2/token?api-version=2018-02-01", 400, "'resource' is missing"},
		{"unknown path", nil, "/metadata/instance/compute/nothing?api-version=2021-02-01&format=text", 404, "Not found"},
		{"leaf as json", nil, "/metadata/instance/compute/name?api-version=2021-02-01", 400, "format=text"},
		{"below a leaf", nil, "/metadata/instance/compute/name/x?api-version=2021-02-01&format=text", 404, "Not found"},
		{"versions", nil, "/metadata/versions", 200, "2021-02-01"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := get(s, "10.0.0.4", test.target, test.header...)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	if w := get(s, "10.0.0.99", "/metadata/instance?api-version=2021-02-01"); w.Code != 404 {
		t.Errorf("a stranger got %d %s", w.Code, w.Body)
	}
}

func TestInstanceDocument(t *testing.T) {
	s, _ := server(t)
	w := get(s, "10.0.0.4", "/metadata/instance?api-version=2021-02-01&format=json")
	var got struct {
		Compute struct {
			Name, ResourceID, SubscriptionID, ResourceGroupName, Location, VMSize, VMScaleSetName, VMID, Tags, AzEnvironment string
			OSProfile                                                                                                        struct{ ComputerName string }
			TagsList                                                                                                         []struct{ Name, Value string }
		}
		Network struct {
			Interface []struct {
				IPv4 struct {
					IPAddress []struct{ PrivateIPAddress, PublicIPAddress string }
					Subnet    []struct{ Address, Prefix string }
				}
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	c := got.Compute
	if c.Name != "aks-nodepool1-12345678-vmss_0" || c.VMScaleSetName != "aks-nodepool1-12345678-vmss" || c.ResourceGroupName != "mc" ||
		c.Location != "westus2" || c.VMSize != "Standard_D4s_v3" || c.Tags != "a:1;b:2" || len(c.TagsList) != 2 ||
		c.OSProfile.ComputerName != "aks-nodepool1-12345678-vmss000000" || c.AzEnvironment != "AzurePublicCloud" || len(c.VMID) != 36 {
		t.Errorf("compute %+v", c)
	}
	i := got.Network.Interface
	if len(i) != 1 || len(i[0].IPv4.IPAddress) != 1 || i[0].IPv4.IPAddress[0].PrivateIPAddress != "10.0.0.4" ||
		len(i[0].IPv4.Subnet) != 1 || i[0].IPv4.Subnet[0].Address != "10.0.0.0" || i[0].IPv4.Subnet[0].Prefix != "24" {
		t.Errorf("network %+v", i)
	}
	for path, want := range map[string]string{
		"compute/location":   "westus2",
		"compute/tagsList/0": "name\nvalue",
		"network/interface/0/ipv4/ipAddress/0/privateIpAddress": "10.0.0.4",
		"": "compute/\nnetwork/",
	} {
		w := get(s, "10.0.0.4", "/metadata/instance/"+path+"?api-version=2021-02-01&format=text")
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
}
