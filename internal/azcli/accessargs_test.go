package azcli

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// lastPut is the document that was last sent.
func (s *service) lastPut(t *testing.T) map[string]any {
	t.Helper()
	for _, r := range slices.Backward(s.requests()) {
		if r.Method == http.MethodPut {
			return r.Body.(map[string]any)
		}
	}
	t.Fatal("nothing was sent")
	return nil
}

// TestPrivateZoneArguments: what az sends for a private DNS zone, and what it refuses by itself.
func TestPrivateZoneArguments(t *testing.T) {
	const zone = "/subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.Network/privateDnsZones/privatelink.eastus.azmk8s.io"
	for _, tt := range []struct {
		arguments, complaint string
		sent                 map[string]any
	}{
		{"--enable-private-cluster --private-dns-zone " + zone + " --fqdn-subdomain shop", "", map[string]any{"fqdnSubdomain": "shop", "dnsPrefix": nil}},
		{"--enable-private-cluster --private-dns-zone " + zone, "", map[string]any{"fqdnSubdomain": nil, "dnsPrefix": "x-rg-" + subscription[:6]}},
		{"--enable-private-cluster --private-dns-zone none", "", map[string]any{}},
		{"--enable-private-cluster --private-dns-zone system --fqdn-subdomain shop", "--fqdn-subdomain should only be used for private cluster with custom private dns zone", nil},
		{"--enable-private-cluster --fqdn-subdomain shop", "--fqdn-subdomain should only be used for private cluster with custom private dns zone", nil},
		{"--enable-private-cluster --private-dns-zone zone", "zone is not a valid Azure resource ID.", nil},
		{"--private-dns-zone " + zone, "Invalid private dns zone for public cluster.", nil},
		{"--enable-private-cluster --private-dns-zone " + zone + " --fqdn-subdomain shop --dns-name-prefix p", "--dns-name-prefix and --fqdn-subdomain cannot be used at same time", nil},
	} {
		s := newService(t)
		s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
		status, _, complaint := s.az(strings.Fields("aks create -g rg -n x -o none " + tt.arguments)...)
		if (status != 0) != (tt.complaint != "") || !strings.Contains(complaint, tt.complaint) {
			t.Errorf("%s: %d %s", tt.arguments, status, complaint)
		}
		if tt.sent == nil {
			continue
		}
		p := s.lastPut(t)["properties"].(map[string]any)
		for k, v := range tt.sent {
			if p[k] != v {
				t.Errorf("%s: sent %s %v, want %v", tt.arguments, k, p[k], v)
			}
		}
	}
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{"agentPoolProfiles": []any{}, "apiServerAccessProfile": object{"enablePrivateCluster": true, "privateDNSZone": "none"}}})
	if status, _, complaint := s.az(strings.Fields("aks update -g rg -n x --disable-public-fqdn")...); status == 0 || !strings.Contains(complaint, "cannot be applied for none mode private dns zone cluster") {
		t.Errorf("%d %s", status, complaint)
	}
}

// TestServicePrincipal: a cluster with one has no identity beside it.
func TestServicePrincipal(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
	if status, _, complaint := s.az(strings.Fields("aks create -g rg -n x -o none --service-principal app --client-secret s --node-os-upgrade-channel None")...); status != 0 {
		t.Fatal(complaint)
	}
	sent := s.lastPut(t)
	p := sent["properties"].(map[string]any)
	principal, _ := p["servicePrincipalProfile"].(map[string]any)
	channel, _ := p["autoUpgradeProfile"].(map[string]any)
	if sent["identity"] != nil || principal["clientId"] != "app" || principal["secret"] != "s" || channel["nodeOSUpgradeChannel"] != "None" {
		t.Errorf("sent %v", sent)
	}
	if status, _, complaint := s.az(strings.Fields("aks create -g rg -n y --service-principal app")...); status == 0 || !strings.Contains(complaint, "--client-secret is required") {
		t.Errorf("%d %s", status, complaint)
	}
}
