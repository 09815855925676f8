package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// TestClusterAnswer holds the document of the walkthrough's first cluster, made from the body that az sent,
// against testdata/cluster.json. Its properties and defaults are those of Azure's recorded answer.
func TestClusterAnswer(t *testing.T) {
	h, _, id := newAKS(t)
	answer, err := h.Do(http.MethodPut, id, "", create)
	if err != nil {
		t.Fatal(err)
	}
	var first resourcetypetest.Document
	if err := json.Unmarshal(answer.Body, &first); err != nil {
		t.Fatal(err)
	}
	if answer.Status != http.StatusCreated || first.State() != "Creating" || first.String("properties.agentPoolProfiles.0.provisioningState") != "Creating" {
		t.Errorf("the answer to PUT is %d %s", answer.Status, answer.Body)
	}
	if err := h.Finish(answer); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(h.Get(id), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ pattern, name string }{
		{`aks-manage-rg-netiso-222222-[a-z0-9]{8}\.hcp`, "aks-manage-rg-netiso-222222-<8>.hcp"},
		{`aks-manage-rg-netiso-222222-[a-z0-9]{8}\.[0-9a-f-]{36}\.privatelink`, "aks-manage-rg-netiso-222222-<8>.<guid>.privatelink"},
		{`registries/[0-9a-f]{32}"`, `registries/<32 hex>"`}, {`"[0-9a-f]{32}-priv`, `"<32 hex>-priv`}, {`"[0-9a-f]{24}"`, `"<24 hex>"`},
	} {
		p := regexp.MustCompile(v.pattern)
		if !p.Match(b) {
			t.Errorf("nothing in the answer matches %s", v.pattern)
		}
		b = p.ReplaceAll(b, []byte(v.name))
	}
	got := append(normal(b), '\n')
	file := filepath.Join("testdata", "cluster.json")
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
		t.Errorf("the cluster answers\n%s\nwant\n%s", got, want)
	}
}

// TestClusterUpdateChangesNothing sends back what was read, less what az leaves out because it is read-only.
func TestClusterUpdateChangesNothing(t *testing.T) {
	h, m, id := newAKS(t)
	before := h.Put(id, create)
	resources := inside(h)
	sent := h.Get(id)
	p := sent["properties"].(map[string]any)
	for _, readOnly := range []string{"provisioningState", "powerState", "currentKubernetesVersion", "fqdn", "privateFQDN", "azurePortalFQDN", "maxAgentPools", "privateLinkResources", "resourceUID"} {
		delete(p, readOnly)
	}
	after := h.Put(id, sent)
	for _, d := range []resourcetypetest.Document{before, after} {
		delete(d, "etag")
	}
	a, _ := json.Marshal(before)
	b, _ := json.Marshal(after)
	if !bytes.Equal(a, b) {
		t.Errorf("before %s\nafter %s", a, b)
	}
	if now := inside(h); !slices.Equal(now, resources) {
		t.Errorf("resources before %v\nafter %v", resources, now)
	}
	for _, n := range m.nodes {
		if n.runs != 1 {
			t.Errorf("node %s was provisioned %d times", n.Name, n.runs)
		}
	}
	// The same with the words that az leaves out when a user never said them.
	delete(p, "kubernetesVersion")
	delete(p["bootstrapProfile"].(map[string]any), "containerRegistryId")
	for _, n := range []string{"serviceCidr", "serviceCidrs", "dnsServiceIP"} {
		delete(p["networkProfile"].(map[string]any), n)
	}
	after = h.Put(id, sent)
	delete(after, "etag")
	if b, _ = json.Marshal(after); !bytes.Equal(a, b) {
		t.Errorf("before %s\nafter leaving out %s", a, b)
	}
}

// inside are all resources, without their groups.
func inside(h *resourcetypetest.Harness) []string {
	all, err := h.Manager.Documents().List(context.Background(), resourceid.ID{}, "")
	if err != nil {
		h.T.Fatal(err)
	}
	var out []string
	for _, r := range all {
		out = append(out, r.ID.String())
	}
	return out
}

// TestNodeResourceGroup holds what AKS makes for a cluster, by the names that its users and support know.
func TestNodeResourceGroup(t *testing.T) {
	h, m, id := newAKS(t)
	d := h.Put(id, create)
	group := resourceid.Group(resourcetypetest.Subscription, "MC_rg_demo_eastus")
	if d.String("properties.nodeResourceGroup") != group.Name() || h.Get(group).String("managedBy") != d.String("id") {
		t.Errorf("node resource group %s: %v", d.String("properties.nodeResourceGroup"), h.Get(group))
	}
	var got []string
	all, err := h.Manager.Documents().List(t.Context(), group, "")
	if err != nil {
		t.Fatal(err)
	}
	suffix := regexp.MustCompile(`[0-9]{8}`)
	hex := regexp.MustCompile(`[0-9a-f]{32}`)
	guid := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	prefix := regexp.MustCompile(`aks-manage-rg-netiso-222222-[a-z0-9]{8}`)
	for _, r := range all {
		s := strings.TrimPrefix(r.ID.String(), group.String()+"/providers/")
		for _, v := range []struct {
			p    *regexp.Regexp
			name string
		}{{guid, "GUID"}, {prefix, "NAME"}, {hex, "HEX"}, {suffix, "DIGITS"}} {
			s = v.p.ReplaceAllString(s, v.name)
		}
		got = append(got, s)
	}
	slices.Sort(got)
	want := []string{
		"Microsoft.ContainerRegistry/registries/HEX",
		"Microsoft.ContainerRegistry/registries/HEX/cacheRules/aks-managed-mcr",
		"Microsoft.ContainerRegistry/registries/HEX/privateEndpointConnections/aks-bootstrap-acr-DIGITS.HEX",
		"Microsoft.ContainerRegistry/registries/HEX/providers/Microsoft.Authorization/roleAssignments/GUID",
		"Microsoft.ManagedIdentity/userAssignedIdentities/demo-agentpool",
		"Microsoft.Network/networkInterfaces/aks-bootstrap-acr-DIGITS.nic.GUID",
		"Microsoft.Network/networkInterfaces/aks-nodepool1-DIGITS-vmss000000-nic",
		"Microsoft.Network/networkInterfaces/aks-nodepool1-DIGITS-vmss000001-nic",
		"Microsoft.Network/networkInterfaces/kube-apiserver.nic.GUID",
		"Microsoft.Network/networkSecurityGroups/aks-agentpool-DIGITS-nsg",
		"Microsoft.Network/privateDnsZones/GUID.privatelink.eastus.azmk8s.io",
		"Microsoft.Network/privateDnsZones/GUID.privatelink.eastus.azmk8s.io/A/NAME",
		"Microsoft.Network/privateDnsZones/GUID.privatelink.eastus.azmk8s.io/virtualNetworkLinks/aks-DIGITS",
		"Microsoft.Network/privateDnsZones/privatelink.azurecr.io",
		"Microsoft.Network/privateDnsZones/privatelink.azurecr.io/A/HEX",
		"Microsoft.Network/privateDnsZones/privatelink.azurecr.io/A/HEX.eastus.data",
		"Microsoft.Network/privateDnsZones/privatelink.azurecr.io/virtualNetworkLinks/aks-DIGITS",
		"Microsoft.Network/privateEndpoints/aks-bootstrap-acr-DIGITS",
		"Microsoft.Network/privateEndpoints/kube-apiserver",
		"Microsoft.Network/virtualNetworks/aks-vnet-DIGITS",
		"Microsoft.Network/virtualNetworks/aks-vnet-DIGITS/subnets/aks-subnet",
	}
	slices.Sort(want)
	got = slices.DeleteFunc(got, func(s string) bool { return strings.HasSuffix(s, "/SOA/@") })
	if !slices.Equal(got, want) {
		t.Errorf("the node resource group holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	registry := h.Get(resourceid.MustParse(d.String("properties.bootstrapProfile.containerRegistryId")))
	for path, want := range map[string]any{"sku.name": "Premium", "properties.publicNetworkAccess": "Disabled", "properties.anonymousPullEnabled": false, "properties.networkRuleSet.defaultAction": "Deny"} {
		if got := registry.At(path); got != want {
			t.Errorf("registry %s is %v, want %v", path, got, want)
		}
	}
	var subnet string
	for _, r := range all {
		if r.ID.Is("Microsoft.Network/virtualNetworks/subnets") {
			s := h.Get(r.ID)
			subnet = r.ID.String()
			if s.At("properties.defaultOutboundAccess") != false || s.String("properties.addressPrefix") != "10.224.0.0/16" {
				t.Errorf("the nodes' subnet is not private: %v", s)
			}
		}
		if r.ID.Is("Microsoft.Network/privateEndpoints") && !strings.EqualFold(h.Get(r.ID).String("properties.subnet.id"), subnet) && subnet != "" {
			t.Errorf("%s is not in the first pool's subnet", r.ID)
		}
	}
	// What a node is told leads to the registry with the prefix of the managed rule, and to the endpoint's name.
	if len(m.nodes) != 2 {
		t.Fatalf("%d nodes, want 2", len(m.nodes))
	}
	addresses := map[string]bool{}
	for _, n := range m.nodes {
		b := n.Bootstrap
		if b.RegistryServer != registry.String("properties.loginServer")+"/aks-managed-repository" || b.APIServerName != d.String("properties.privateFQDN") || b.OutboundURL != "" {
			t.Errorf("node %s bootstraps from %q with the API server %q and the probe %q", n.Name, b.RegistryServer, b.APIServerName, b.OutboundURL)
		}
		if k := d.String("properties.identityProfile.kubeletidentity.clientId"); k == "" || b.Identity.ClientID != k {
			t.Errorf("node %s has identity %q, want %q", n.Name, b.Identity.ClientID, k)
		}
		for _, r := range b.Pods.Ranges {
			for a := r.First; a.Compare(r.Last) <= 0; a = a.Next() {
				if addresses[a.String()] {
					t.Errorf("%s is given to two nodes", a)
				}
				addresses[a.String()] = true
			}
		}
		addresses[b.NodeAddress.String()] = true
	}
	if len(addresses) != 2*31 {
		t.Errorf("%d addresses of nodes and pods, want 62", len(addresses))
	}
	for _, p := range m.planes {
		if p.EndpointAddress.String() != "10.224.0.6" && p.EndpointAddress.String() != "10.224.0.4" || p.Nodes != 2 {
			t.Errorf("control plane %+v", p)
		}
	}
}

func TestClusterCredentials(t *testing.T) {
	h, _, id := newAKS(t)
	d := h.Put(id, create)
	for action, want := range map[string]string{"listClusterUserCredential": "clusterUser", "listClusterAdminCredential": "clusterAdmin"} {
		answer, err := h.Post(id, action, nil)
		if err != nil || answer.String("kubeconfigs.0.name") != want {
			t.Fatalf("%s: %v, %v", action, answer, err)
		}
		var list struct{ Kubeconfigs []struct{ Value []byte } }
		answer.Into(t, &list)
		var stored managedclusters.Model
		h.Stored(id, &stored)
		if got, want := string(list.Kubeconfigs[0].Value), fmt.Sprintf("%s https://%s:443 rg demo %v", stored.Memory.ClusterID, d.String("properties.privateFQDN"), want == "clusterAdmin"); got != want {
			t.Errorf("%s: %q, want %q", action, got, want)
		}
	}
}

func TestClusterTags(t *testing.T) {
	h, m, id := newAKS(t)
	h.Put(id, create)
	d, err := h.TryPatch(id, `{"tags": {"a": "b"}}`)
	if err != nil || d.String("tags.a") != "b" || d.State() != "Succeeded" || d.String("properties.agentPoolProfiles.0.mode") != "System" {
		t.Errorf("%v, %v", d, err)
	}
	if group := h.Get(resourceid.Group(resourcetypetest.Subscription, "MC_rg_demo_eastus")); group.String("tags.a") != "b" {
		t.Errorf("the node resource group has tags %v", group.At("tags"))
	}
	for _, n := range m.nodes {
		if n.runs != 1 {
			t.Errorf("node %s was provisioned %d times", n.Name, n.runs)
		}
	}
}
