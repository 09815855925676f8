package azcli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	subscription = "22222222-2222-2222-2222-222222222222"
	demoGroup    = "/subscriptions/" + subscription + "/resourceGroups/rg-demo"
	prefix       = "/subscriptions/" + subscription + "/resourceGroups/rg-netiso/providers/"
)

// recorded are the commands of testdata/commands.txt by their names in the recording.
func recorded(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/commands.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, command, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && line[0] != '#' {
			all[name] = command
		}
	}
	return all
}

// request is one line of the recording.
type request struct {
	Command    string
	Method     string
	Path       string
	APIVersion string
	Body       any
	Status     int
}

func (r request) String() string {
	body := ""
	if r.Body != nil {
		data, _ := json.MarshalIndent(r.Body, "", "  ")
		body = "\n" + string(data)
	}
	return r.Method + " " + guid.ReplaceAllString(r.Path, "roleAssignments/GUID") + " " + r.APIVersion + body
}

var guid = regexp.MustCompile(`roleAssignments/[0-9a-f-]{36}$`)

func recording(t *testing.T) map[string][]request {
	t.Helper()
	f, err := os.Open("testdata/az-wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]request{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all[r.Command] = append(all[r.Command], r)
	}
	return all
}

// TestWire runs the commands of the recording, and compares what they send with what az sent.
func TestWire(t *testing.T) {
	all := recording(t)
	for name, line := range recorded(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := all[name]
			if len(want) == 0 {
				t.Fatal("there is no such command in the recording")
			}
			s := newService(t)
			s.seed(name, want)
			words := strings.Fields(line)
			for i, w := range words {
				words[i] = strings.ReplaceAll(strings.ReplaceAll(w, "+", " "), "KEY", "ssh-rsa AAAA...")
			}
			status, _, complaint := s.az(words...)
			if missing := name == "aks show missing"; missing && status != exitNotFound || !missing && status != 0 {
				t.Errorf("exit status %d: %s", status, complaint)
			}
			var sent, expected []string
			for _, r := range s.requests() {
				sent = append(sent, r.String())
			}
			for _, r := range want {
				expected = append(expected, r.String())
			}
			if diff := cmp.Diff(expected, sent); diff != "" {
				t.Errorf("az sends (-), this sends (+):\n%s", diff)
			}
		})
	}
}

// TestWireIsWhole fails for a recorded command that is not tried: every one is of the walkthrough or beside it.
func TestWireIsWhole(t *testing.T) {
	twins := regexp.MustCompile(`^(aks show|aks nodepool list|identity show|identity create|nic show|subnet show|acr show)`)
	commands := recorded(t)
	for name := range recording(t) {
		if _, ok := commands[name]; !ok && !twins.MatchString(name) {
			t.Errorf("%q is recorded, and not compared", name)
		}
	}
}

// seed puts what a command reads into the service: what was there when it was recorded.
func (s *service) seed(name string, want []request) {
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg-netiso", object{"location": "eastus"})
	for n, p := range map[string]object{
		"id-controlplane": {"principalId": "a7d5345c-162c-4a4b-99d6-d52373bb8e81", "clientId": "c"},
		"id-kubelet":      {"principalId": "95a78de3-a160-489a-b7d1-8a9d963e7eda", "clientId": "916c3300-7e9d-47b2-801a-325b071c0eca"},
	} {
		s.put(prefix+"Microsoft.ManagedIdentity/userAssignedIdentities/"+n, object{"properties": p})
	}
	made := map[string]bool{}
	for _, r := range want {
		made[r.Path] = made[r.Path] || r.Method == http.MethodPut && r.Status == http.StatusCreated
	}
	for _, r := range want {
		switch {
		case made[r.Path] && !strings.Contains(name, "add-record"):
		case r.Method == http.MethodGet && r.Status == http.StatusOK && !s.has(r.Path) && !strings.HasSuffix(r.Path, "s"):
			s.put(r.Path, object{"properties": object{}})
		case r.Method == http.MethodPut && r.Status == http.StatusOK:
			s.put(r.Path, before(name, r))
		}
	}
	s.put(demoGroup, object{"location": "eastus"})
	switch name {
	case "aks upgrade node-image-only (aks-existing)":
		s.put(prefix+"Microsoft.ContainerService/managedClusters/aks-existing", object{"properties": object{"agentPoolProfiles": []any{object{"name": "nodepool1", "type": "VirtualMachineScaleSets"}}}})
	case "acr login --expose-token", "acr repository list", "acr import", "R aks attach-acr":
		for id, n := range map[string]string{prefix + "Microsoft.ContainerRegistry/registries/netisoreg01": "netisoreg01",
			demoGroup + "/providers/Microsoft.ContainerRegistry/registries/demoreg01": "demoreg01", demoGroup + "/providers/Microsoft.ContainerRegistry/registries/attreg1": "attreg1"} {
			s.put(id, object{"properties": object{"loginServer": n + ".azurecr.io"}})
			s.put("/subscriptions/"+subscription+"/resources/"+n, object{"id": id})
		}
	case "role assignment list", "role assignment create again (exists)":
		s.put(prefix+"Microsoft.ContainerRegistry/registries/netisoreg01/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": prefix + "Microsoft.ContainerRegistry/registries/netisoreg01", "principalId": "95a78de3-a160-489a-b7d1-8a9d963e7eda",
			"roleDefinitionId": "/subscriptions/" + subscription + "/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d"}})
	case "role assignee appid":
		s.principals = []any{object{"id": "33333333-3333-3333-3333-333333333333", "appId": "spapp"}}
	case "group create display location":
		s.put("/subscriptions/"+subscription+"/locations/eastus", object{"displayName": "East US"})
	}
	if name == "role assignment create again (exists)" {
		s.refuse = func(r *http.Request) (int, string) {
			if r.Method == http.MethodPut {
				return http.StatusConflict, `{"error":{"code":"RoleAssignmentExists","message":"The role assignment already exists."}}`
			}
			return 0, ""
		}
	}
	if strings.HasPrefix(name, "aks nodepool delete") {
		s.put(prefix+"Microsoft.ContainerService/managedClusters/aks-existing/agentPools/np2", object{"properties": object{}})
	}
	if strings.Contains(name, "BYO, API server") { // made for the cluster before
		s.put(prefix+"Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-aks/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": prefix + "Microsoft.Network/virtualNetworks/vnet-netiso/subnets/snet-aks", "roleDefinitionId": "/x/" + networkContributor}})
		s.put(strings.ToLower(prefix+"Microsoft.ManagedIdentity/userAssignedIdentities/id-kubelet")+"/providers/Microsoft.Authorization/roleAssignments/1", object{"properties": object{
			"scope": "", "roleDefinitionId": "/x/" + managedIdentityOperator}})
	}
}

// before is a document that a recorded PUT changed: with read-only properties, and other values where the
// command has its own.
func before(name string, r request) object {
	data, _ := json.Marshal(r.Body)
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		panic(err)
	}
	doc["id"], doc["name"], doc["systemData"] = r.Path, "x", object{}
	p, _ := doc["properties"].(map[string]any)
	p["provisioningState"] = "Succeeded"
	switch {
	case strings.Contains(name, "nodepool scale"):
		p["count"] = 1
		maps.Copy(p, object{"currentOrchestratorVersion": "1", "nodeImageVersion": "2", "eTag": "3"})
	case strings.Contains(name, "nodepool upgrade"):
		p["orchestratorVersion"] = "1.30.3"
	case strings.Contains(name, "nodepool update"):
		delete(p, "nodeLabels")
	case strings.Contains(name, "record-set"):
		p["aRecords"], p["fqdn"] = []any{}, "x"
	default:
		maps.Copy(p, object{"fqdn": "x", "privateFQDN": "y", "powerState": object{"code": "Running"}, "maxAgentPools": 100, "currentKubernetesVersion": "1", "azurePortalFQDN": "z", "resourceUID": "u"})
		identity, _ := doc["identity"].(map[string]any)
		identity["principalId"], identity["tenantId"] = "p", "t"
		if all, ok := identity["userAssignedIdentities"].(map[string]any); ok {
			for id := range all {
				all[id] = object{"clientId": "c", "principalId": "p"}
			}
		}
		pool := p["agentPoolProfiles"].([]any)[0].(map[string]any)
		maps.Copy(pool, object{"provisioningState": "Succeeded", "nodeImageVersion": "n", "eTag": "e", "currentOrchestratorVersion": "1"})
		if name == "aks scale" || name == "aks upgrade --kubernetes-version" {
			pool["count"], p["kubernetesVersion"], pool["orchestratorVersion"] = 3, "", ""
			if name != "aks scale" {
				pool["count"] = 2
			}
			p["servicePrincipalProfile"] = object{"clientId": "msi"}
			break
		}
		p["bootstrapProfile"] = object{"artifactSource": "Direct", "containerRegistryId": "old"}
		if network := p["networkProfile"].(map[string]any); name != "aks update (new ACR id)" && network["outboundType"] == "none" {
			network["outboundType"], network["loadBalancerProfile"] = "loadBalancer", object{"managedOutboundIPs": object{"count": 1}}
		}
	}
	return doc
}

// TestWalkthroughNeedsNoKey is the difference from az: no SSH key, no question.
func TestWalkthroughNeedsNoKey(t *testing.T) {
	s := newService(t)
	s.seed("", nil)
	status, _, complaint := s.az(strings.Fields("aks create -g rg-netiso -n a --network-plugin azure --enable-private-cluster")...)
	if status != 0 {
		t.Fatal(complaint)
	}
	for _, r := range s.requests() {
		if strings.Contains(fmt.Sprint(r.Body), "linuxProfile") {
			t.Error("a Linux profile was sent without a key")
		}
	}
}
