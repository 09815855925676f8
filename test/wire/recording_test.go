package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jmespath/go-jmespath"

	"github.com/cloister-dev/cloister/internal/azcli"
)

const recordings = "../../internal/azcli/testdata/"

// needs are what az cannot do without in an answer, by the path it asked for: a missing one is a traceback in the
// user's face, whatever else is right. Each is a JMESPath expression that must find something; "x || `[]`" allows nothing.
var needs = []struct {
	method, path string
	find         []string
}{
	{"GET PUT", `/managedClusters/[^/]+$`, []string{"id", "name", "type", "location", "identity.type", "properties.servicePrincipalProfile.clientId", "properties.networkProfile.outboundType",
		"properties.agentPoolProfiles[0].name", "properties.agentPoolProfiles[0].type", "properties.provisioningState", "properties.nodeResourceGroup", "properties.kubernetesVersion"}},
	{"GET", `/managedClusters$`, []string{"value[0].properties.servicePrincipalProfile", "value[0].properties.agentPoolProfiles[0].type"}},
	{"GET PUT", `/agentPools/[^/]+$`, []string{"id", "name", "properties.provisioningState", "properties.count", "properties.type", "properties.orchestratorVersion"}},
	{"POST", `/listCluster(User|Admin)Credential$`, []string{"kubeconfigs[0].name", "kubeconfigs[0].value"}},
	{"GET", `/kubernetesVersions$`, []string{"values[0].version", "values[0].patchVersions"}},
	{"GET", `/managedClusters/[^/]+/upgradeProfiles/default$`, []string{"name", "properties.controlPlaneProfile.kubernetesVersion", "properties.agentPoolProfiles[0].kubernetesVersion"}},
	{"GET PUT", `/resourcegroups/[^/]+$`, []string{"id", "name", "location", "properties.provisioningState"}},
	{"GET PUT PATCH", `/registries/[^/]+$`, []string{"id", "sku.name", "properties.loginServer", "properties.provisioningState", "properties.publicNetworkAccess"}},
	{"GET PUT", `/cacheRules/[^/]+$`, []string{"id", "properties.sourceRepository", "properties.targetRepository"}},
	{"POST", `/checkNameAvailability$`, []string{"to_string(nameAvailable)"}},
	{"GET PUT", `/userAssignedIdentities/[^/]+$`, []string{"id", "properties.principalId", "properties.clientId", "properties.tenantId"}},
	{"GET PUT", `/virtualNetworks/[^/]+$`, []string{"id", "properties.addressSpace.addressPrefixes[0]", "properties.provisioningState"}},
	{"GET PUT", `/subnets/[^/]+$`, []string{"id", "properties.addressPrefix", "properties.provisioningState"}},
	{"GET", `/privateEndpoints/[^/]+$`, []string{"properties.networkInterfaces[0].id", "properties.privateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.status"}},
	{"GET", `/networkInterfaces/myPrivateEndpoint[^/]*$`, []string{"properties.ipConfigurations[?properties.privateLinkConnectionProperties.requiredMemberName=='registry'].properties.privateIPAddress | [0]",
		"properties.ipConfigurations[?properties.privateLinkConnectionProperties.requiredMemberName=='registry_data_eastus'].properties.privateIPAddress | [0]"}},
	{"GET PUT", `/privateDnsZones/[^/]+$`, []string{"id", "properties.provisioningState"}},
	{"GET PUT", `/A/[^/]+$`, []string{"id", "etag", "properties.ttl", "to_string(properties.aRecords) | [?@ != 'null'] || properties.aRecords || 'set'"}},
	{"GET", `/roleDefinitions$`, []string{"value[0].id", "value[0].properties.roleName"}},
	{"PUT", `/roleAssignments/[^/]+$`, []string{"id", "properties.scope", "properties.roleDefinitionId", "properties.principalId"}},
	{"GET POST", `/features/[^/]+(/register)?$`, []string{"name", "properties.state"}},
	{"POST", `/providers/[^/]+/register$`, []string{"namespace", "registrationState"}},
	{"GET", `/locations$`, []string{"value[0].name", "value[0].displayName"}},
	{"GET", `/resources$`, []string{"value || `[]`"}},
}

// watched checks every answer against needs, and that what is waited for is not waited for half a minute.
type watched struct {
	t    *testing.T
	next http.RoundTripper
}

func (w watched) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "graph" { // az asks for names, and does without
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"value":[]}`)), Request: r}, nil
	}
	resp, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	what := r.Method + " " + r.URL.Path
	if resp.Header.Get("Azure-AsyncOperation") != "" || resp.StatusCode == http.StatusAccepted {
		// None, or 0, is a pause of 30 seconds to az.
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
			w.t.Errorf("%s: Retry-After %q", what, resp.Header.Get("Retry-After"))
		}
	}
	if resp.StatusCode/100 == 2 && len(body) > 0 {
		w.check(what, r, body)
	}
	return resp, nil
}

func (w watched) check(what string, r *http.Request, body []byte) {
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		w.t.Errorf("%s: %v in %s", what, err, body)
		return
	}
	for _, n := range needs {
		if ok, _ := regexp.MatchString(`(?i)`+n.path, r.URL.Path); !ok || !strings.Contains(" "+n.method+" ", " "+r.Method+" ") {
			continue
		}
		for _, find := range n.find {
			found, err := jmespath.Search(find, doc)
			if err != nil {
				w.t.Fatalf("%s: %v", find, err)
			}
			if found == nil || found == "" || found == "null" {
				w.t.Errorf("%s has no %s: %.600s", what, find, body)
			}
		}
	}
	if m, _ := doc.(map[string]any); strings.Contains(r.URL.Path, "/A/") {
		p, _ := m["properties"].(map[string]any)
		if _, list := p["aRecords"].([]any); !list {
			w.t.Errorf("%s: aRecords is no list: %s", what, body)
		}
	}
}

type ended int

func (e ended) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// az runs one of the built-in commands against the installation.
func (i *installation) az(line string) (status int, out, complaint string) {
	i.t.Helper()
	client := *i.server.Client()
	client.Transport = watched{i.t, client.Transport}
	var stdout, stderr bytes.Buffer
	root := azcli.New(azcli.Options{
		Connect: func(context.Context) (*azcli.Connection, error) {
			return &azcli.Connection{HTTP: &client, Endpoint: i.server.URL, Graph: "https://graph", Subscription: i.in.SubscriptionID, TenantID: i.in.TenantID,
				Token: func(context.Context, string) (string, error) {
					return i.token(i.in.Administrator.ObjectID, management, 1e12), nil
				}}, nil
		},
		Out: &stdout, Err: &stderr, In: strings.NewReader(""), Exit: func(status int) error { return ended(status) },
	})
	words := strings.Fields(line)
	for n, w := range words {
		words[n] = strings.ReplaceAll(strings.ReplaceAll(w, "+", " "), "KEY", "ssh-rsa AAAA...")
	}
	root.SetArgs(words)
	err := root.ExecuteContext(i.t.Context())
	var e ended
	if errors.As(err, &e) {
		status = int(e)
	} else if err != nil {
		i.t.Fatal(err)
	}
	return status, stdout.String(), stderr.String()
}

// TestRecording runs what az was recorded with, in the recording's order, against the whole service. That each command
// sends what az sent is internal/azcli's test; here the service gives each the answer that it goes on with.
func TestRecording(t *testing.T) {
	i := install(t)
	lines := map[string]string{}
	data, err := os.ReadFile(recordings + "commands.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if name, command, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && line[0] != '#' {
			lines[name] = command
		}
	}
	recording, err := os.ReadFile(recordings + "az-wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	i.want(http.StatusCreated, i.do(http.MethodPut, i.subscription()+"/resourceGroups/rg-demo", `{"location":"eastus"}`))
	replace := func(line string) string {
		for _, identity := range []struct{ recorded, name string }{{"95a78de3-a160-489a-b7d1-8a9d963e7eda", "id-kubelet"}, {"a7d5345c-162c-4a4b-99d6-d52373bb8e81", "id-controlplane"}} {
			if strings.Contains(line, identity.recorded) {
				id := i.subscription() + "/resourceGroups/rg-netiso/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + identity.name
				principal, _ := i.do(http.MethodGet, id, "").at("properties.principalId").(string)
				line = strings.ReplaceAll(line, identity.recorded, principal)
			}
		}
		if strings.Contains(line, "networkInterfaces/") {
			endpoint := i.do(http.MethodGet, i.subscription()+"/resourceGroups/rg-netiso/providers/Microsoft.Network/privateEndpoints/myPrivateEndpoint", "")
			nics, _ := endpoint.at("properties.networkInterfaces").([]any)
			id, _ := nics[0].(map[string]any)["id"].(string)
			line = regexp.MustCompile(`\S*networkInterfaces/\S*`).ReplaceAllString(line, id)
		}
		// The newer version that is there, which a pool may not have before its cluster.
		newer := "1.31.0"
		if strings.HasPrefix(line, "aks nodepool ") {
			newer = "1.30.3"
		}
		line = strings.ReplaceAll(line, "1.30.4", newer)
		return strings.ReplaceAll(line, "/subscriptions/22222222-2222-2222-2222-222222222222", i.subscription())
	}
	done := map[string]bool{}
	for line := range strings.Lines(string(recording)) {
		var r struct{ Command string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		command, known := lines[r.Command]
		if done[r.Command] || !known || elsewhere[r.Command] != "" {
			continue
		}
		done[r.Command] = true
		status, _, complaint := i.az(replace(command))
		if strings.HasPrefix(r.Command, "feature register") { // the page has its reader look until it is done
			i.az(strings.Replace(command, "register", "show", 1))
			time.Sleep(2100 * time.Millisecond)
		}
		want := 0
		if r.Command == "aks show missing" {
			want = 3
		}
		if strings.HasSuffix(command, " --no-wait") { // as whoever recorded it did
			i.az("aks nodepool wait -g rg-netiso --cluster-name aks-existing -n np2 --updated")
		}
		if status != want {
			t.Errorf("%s: az %s: exit status %d: %s", r.Command, command, status, complaint)
		}
	}
	if len(done) < 60 {
		t.Errorf("only %d commands were run", len(done))
	}
}

// elsewhere are commands that this service in process cannot serve, and what holds them.
var elsewhere = map[string]string{
	"acr login --expose-token": "the registry is a process of its own; test/e2e",
	"acr repository list":      "as above",
	"aks command invoke":       "what runs it is no part of this; test/e2e",
	"role assignee appid":      "az asks the directory; internal/engine/identity/authority",
	"R aks attach-acr":         "recorded with another registry",
	"acr import":               "recorded as refused",
}
