package azcli

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func (s *service) sent() []string {
	var out []string
	for _, r := range s.requests() {
		out = append(out, r.Method+" "+r.Path[strings.LastIndexByte(r.Path, '/')+1:])
	}
	return out
}

// TestUpgradeAsks: az asks twice before it touches a node, and a "no" changes nothing and is no error.
func TestUpgradeAsks(t *testing.T) {
	for _, tt := range []struct {
		line     string
		terminal bool
		in       string
		status   int
		posts    int
	}{
		{"--node-image-only", true, "y\ny\n", 0, 2},
		{"--node-image-only", true, "y\nn\n", 0, 0},
		{"--node-image-only", true, "\n", 0, 0},
		{"--node-image-only", false, "", exitFailure, 0},
		{"--node-image-only --yes", false, "", 0, 2},
		{"--node-image-only --kubernetes-version 1.31.1 --yes", false, "", exitFailure, 0},
	} {
		s := newService(t)
		s.terminal, s.in = tt.terminal, tt.in
		pool := func(n string) any { return object{"name": n, "type": "VirtualMachineScaleSets"} }
		s.put(cluster+"x", object{"properties": object{"agentPoolProfiles": []any{pool("a"), pool("b")}}})
		status, _, complaint := s.az(strings.Fields("aks upgrade -g rg -n x " + tt.line)...)
		posts := 0
		for _, r := range s.requests() {
			if r.Method == http.MethodPost {
				posts++
			}
		}
		if status != tt.status || posts != tt.posts {
			t.Errorf("%s %q: exit status %d, %d pools\n%s", tt.line, tt.in, status, posts, complaint)
		}
		if tt.terminal && !strings.HasPrefix(complaint, "Kubernetes may be unavailable during cluster upgrades.\n Are you sure you want to perform this operation? (y/N): ") {
			t.Errorf("asked %q", complaint)
		}
	}
}

func TestUpgradeOfThePlaneAlone(t *testing.T) {
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{"kubernetesVersion": "1.30.3", "agentPoolProfiles": []any{object{"name": "a", "orchestratorVersion": "1.30.3"}}}})
	if status, _, complaint := s.az(strings.Fields("aks upgrade -g rg -n x --kubernetes-version 1.31.1 --control-plane-only --yes")...); status != 0 {
		t.Fatal(complaint)
	}
	for _, r := range s.requests() {
		if body, _ := r.Body.(map[string]any); r.Method == http.MethodPut {
			p := body["properties"].(map[string]any)
			if pool := p["agentPoolProfiles"].([]any)[0].(map[string]any); p["kubernetesVersion"] != "1.31.1" || pool["orchestratorVersion"] != "1.30.3" {
				t.Errorf("%v", p)
			}
		}
	}
}

func TestPoolPower(t *testing.T) {
	s := newService(t)
	s.put(cluster+"x/agentPools/p", object{"properties": object{"count": 2, "powerState": object{"code": "Running"}, "provisioningState": "Succeeded"}})
	if status, _, complaint := s.az(strings.Fields("aks nodepool stop -g rg --cluster-name x -n p")...); status != 0 {
		t.Fatal(complaint)
	}
	if status, _, complaint := s.az(strings.Fields("aks nodepool show -g rg --cluster-name x --nodepool-name p")...); status != 0 {
		t.Fatal(complaint)
	}
	if want := []string{"GET agentPools", "GET p", "PUT p", "GET p", "GET p"}; !slices.Equal(s.sent(), want) {
		t.Errorf("sent %v, want %v", s.sent(), want)
	}
	p := s.requests()[2].Body.(map[string]any)["properties"].(map[string]any)
	if p["powerState"].(map[string]any)["code"] != "Stopped" || p["provisioningState"] != nil {
		t.Errorf("%v", p)
	}
	if status, _, complaint := s.az(strings.Fields("aks nodepool stop -g rg --cluster-name x -n none")...); status == 0 || !strings.Contains(complaint, "Node pool none doesnt exist") {
		t.Error(complaint)
	}
}

// TestCommandInvoke: by itself the command's output, in a form when one is asked for.
func TestCommandInvoke(t *testing.T) {
	for line, want := range map[string]string{
		"":                                "command started at S, finished at F with exitcode=0\nnode/one\n",
		" -o tsv --query [exitCode,logs]": "0\nnode/one\n",
		" -o table":                       "Exit code    Logs      Provisioning state    Reason    Started At\n-----------  --------  --------------------  --------  ------------\n0            node/one\n",
	} {
		s := newService(t)
		s.put(cluster+"x", object{"properties": object{}})
		status, out, complaint := s.az(strings.Fields("aks command invoke -g rg -n x -c ls" + line)...)
		if status != 0 || out != want {
			t.Errorf("%q: %d %s\n%s\nwant\n%s", line, status, complaint, out, want)
		}
	}
}

func TestVersionTables(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/providers/Microsoft.ContainerService/locations/eastus/kubernetesVersions", object{"values": []any{
		object{"version": "1.30", "capabilities": object{"supportPlan": []any{"KubernetesOfficial"}}, "patchVersions": object{"1.30.3": object{"upgrades": []any{"1.31.10", "1.31.9"}}}},
		object{"version": "1.31", "patchVersions": object{"1.31.10": object{}}},
	}})
	s.put(cluster+"x/upgradeProfiles/default", object{"properties": object{"controlPlaneProfile": object{"kubernetesVersion": "1.30.3", "upgrades": []any{object{"kubernetesVersion": "1.31.10"}}}}})
	for line, want := range map[string]string{
		"aks get-versions -l eastus -o table": "KubernetesVersion    Upgrades         SupportPlan\n-------------------  ---------------  ------------------\n" +
			"1.31.10              None available\n1.30.3               1.31.9, 1.31.10  KubernetesOfficial\n",
		"aks get-upgrades -g rg -n x -o table": "Name     ResourceGroup    MasterVersion    Upgrades\n-------  ---------------  ---------------  ----------\ndefault  rg               1.30.3           1.31.10\n",
	} {
		if status, out, complaint := s.az(strings.Fields(line)...); status != 0 || out != want {
			t.Errorf("%s: %s\n%s\nwant\n%s", line, complaint, out, want)
		}
	}
}

func TestRepositories(t *testing.T) {
	s := newService(t)
	s.paged = true
	id := "/subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.ContainerRegistry/registries/r"
	s.put(id, object{"properties": object{"loginServer": "r.azurecr.io"}})
	s.put("/subscriptions/"+subscription+"/resources/r", object{"id": id})
	for line, want := range map[string]string{
		"acr repository list -n r -o tsv":                          "a\nb\nc\n",
		"acr repository list -n r --top 2 -o tsv":                  "a\nb\n",
		"acr repository show-tags -n r --repository a -o tsv":      "v1\nv2\n",
		"acr repository show -n r -t a:v1 --query digest -o tsv":   "sha256:1\n",
		"acr login -n r --expose-token --query accessToken -o tsv": "R\n",
		"acr repository delete -n r -t a:v1 --yes":                 "",
	} {
		if status, out, complaint := s.az(strings.Fields(line)...); status != 0 || out != want {
			t.Errorf("%s: %d %s\n%s", line, status, complaint, out)
		}
	}
	if !slices.Contains(s.sent(), "DELETE sha256:1") {
		t.Error("the image was not deleted by its digest")
	}
	if status, _, complaint := s.az(strings.Fields("acr repository show -n r --repository none")...); status != exitNotFound || !strings.Contains(complaint, "NAME_UNKNOWN") {
		t.Errorf("%d %s", status, complaint)
	}
	s.private = true
	if status, _, complaint := s.az(strings.Fields("acr repository list -n r")...); status != exitFailure || !strings.Contains(complaint, "Looks like you don't have access to registry 'r.azurecr.io'") {
		t.Errorf("%d %s", status, complaint)
	}
}

// TestRoleAssignments: what is shown and deleted is what lies at the scope, by a principal's name or object ID.
func TestRoleAssignments(t *testing.T) {
	s := newService(t)
	at := "/subscriptions/" + subscription + "/resourceGroups/rg"
	for n, a := range map[string][2]string{"1": {at, "o1"}, "2": {"/subscriptions/" + subscription, "o1"}, "3": {at, "o2"}} {
		s.put(at+"/providers/Microsoft.Authorization/roleAssignments/"+n, object{"id": a[0] + "/providers/Microsoft.Authorization/roleAssignments/" + n,
			"properties": object{"scope": a[0], "principalId": a[1], "roleDefinitionId": "/x/acrpull"}})
	}
	s.principals = []any{object{"id": "o1", "appId": "app", "servicePrincipalNames": []string{"app"}}}
	for line, want := range map[string]string{
		"role assignment list -g rg --query [].principalName -o tsv|sort":                  "\napp\n",
		"role assignment list -g rg --include-inherited --query length(@)":                 "3\n",
		"role assignment list -g rg --assignee app --query [].principalId -o tsv":          "o1\n",
		"role assignment list -g rg --assignee-object-id o2 --query [].principalId -o tsv": "o2\n",
		"role assignment list --all -g rg":                                                 "",
	} {
		words, sorted := strings.CutSuffix(line, "|sort")
		_, out, _ := s.az(strings.Fields(words)...)
		if sorted {
			lines := strings.SplitAfter(out, "\n")
			slices.Sort(lines)
			out = strings.Join(lines, "")
		}
		if out != want {
			t.Errorf("%s: %q, want %q", line, out, want)
		}
	}
	if status, _, complaint := s.az(strings.Fields("role assignment delete -g rg --assignee app")...); status != 0 {
		t.Fatal(complaint)
	}
	var deleted []string
	for _, r := range s.requests() {
		if r.Method == http.MethodDelete {
			deleted = append(deleted, r.Path)
		}
	}
	if len(deleted) != 1 || !strings.HasSuffix(deleted[0], "/roleAssignments/1") {
		t.Errorf("deleted %v", deleted)
	}
	if status, _, complaint := s.az(strings.Fields("role assignment list -g rg --assignee nobody")...); status != exitFailure || !strings.Contains(complaint, "Cannot find user or service principal in graph database for 'nobody'") {
		t.Errorf("%d %s", status, complaint)
	}
}

// TestStrangers: an argument of az's that is not supported is told from one that is misspelled.
func TestStrangers(t *testing.T) {
	s := newService(t)
	for line, want := range map[string]string{
		"aks create -g rg -n x --enable-addons monitoring": "argument --enable-addons: az has it, and Cloister does not support it.",
		"aks create -g rg -n x --outbond-type none":        "Did you mean '--outbound-type' ?",
		"aks nodpool list": "Did you mean 'nodepool' ?",
	} {
		if status, _, complaint := s.az(strings.Fields(line)...); status != exitUsage || !strings.Contains(complaint, want) {
			t.Errorf("%s: %d %s", line, status, complaint)
		}
	}
	for path, names := range notSupported {
		i := slices.IndexFunc(commands(), func(c command) bool { return c.path == path })
		if i < 0 {
			t.Errorf("there is no command %s", path)
			continue
		}
		for _, a := range commands()[i].known() {
			if slices.Contains(names, a.name) {
				t.Errorf("%s --%s is both there and not supported", path, a.name)
			}
		}
	}
}

// TestPageRunsAsItStands: what the page says of extensions is an answer, not an error.
func TestPageRunsAsItStands(t *testing.T) {
	s := newService(t)
	for _, line := range []string{"extension add --name aks-preview", "extension update --name aks-preview"} {
		if status, out, complaint := s.az(strings.Fields(line)...); status != 0 || out != "" || !strings.Contains(complaint, "built in") {
			t.Errorf("%s: %d %q %q", line, status, out, complaint)
		}
	}
	if status, _, _ := s.az("extension", "add", "--name", "k8s-extension"); status == 0 {
		t.Error("an extension that is not there was added")
	}
	if status, _, complaint := s.az("login", "--service-principal", "-u", "x", "-p", "y"); status == 0 || !strings.Contains(complaint, "cloister shell") {
		t.Error("a login as somebody else was let pass: " + complaint)
	}
	if len(s.requests()) > 0 {
		t.Errorf("asked the service: %v", s.sent())
	}
}

func TestModelNames(t *testing.T) {
	for given, want := range map[string]string{
		"privateFQDN": "privateFqdn", "vnetSubnetID": "vnetSubnetId", "authorizedIPRanges": "authorizedIpRanges", "managedOutboundIPs": "managedOutboundIPs",
		"managedOutboundIPProfile": "managedOutboundIpProfile", "osSKU": "osSku", "eTag": "eTag", "privateDNSZone": "privateDnsZone", "osDiskSizeGB": "osDiskSizeGb", "name": "name",
	} {
		if got := modelName(given); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
	kept := modelNames(object{"tags": object{"costID": "1"}, "nodeLabels": object{"aID": "b"}}).(object)
	if kept["tags"].(object)["costID"] != "1" || kept["nodeLabels"].(object)["aID"] != "b" {
		t.Errorf("the user's own keys were changed: %v", kept)
	}
}
