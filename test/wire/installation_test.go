package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/cloister-dev/cloister/internal/app"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/sqlite"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/registry"
)

// installation is a whole Cloister in process: its real resource types, store, roles and tokens, on a machine that
// runs nothing.
type installation struct {
	t       *testing.T
	in      app.Instance
	api     *app.API
	store   resourcestore.Store
	machine *machine
	imports registry.Imports
	keys    *identity.Keys
	issuer  *identity.Issuer
	server  *httptest.Server
}

type engines = app.Engines

// install starts one with resource group rg in eastus.
func install(t *testing.T, change ...func(*engines)) *installation {
	t.Helper()
	dir := t.TempDir()
	in, err := app.EnsureInstance(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := identity.OpenKeys(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(context.Background(), filepath.Join(dir, "cloister.db"))
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine()
	imports := registry.Imports{Dir: filepath.Join(dir, "registry")}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	no := func() (bool, error) { return false, nil }
	with := engines{World: m, ControlPlane: control{m}, Nodes: nodes{m}, Imports: imports, RegistrySize: func(resourceid.ID) (int64, error) { return 4711, nil }, OccupiedRepositories: func(resourceid.ID, string, string) ([]string, error) { return nil, nil }, NodeRootfs: "/rootfs", AuthorityPEM: "authority", InSteps: no, AzureTiming: no}
	for _, c := range change {
		c(&with)
	}
	api, err := app.NewAPI(in, store, keys, with, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if err := api.Seed(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- api.Run(ctx) }()
	i := &installation{t: t, in: in, api: api, store: store, machine: m, imports: imports, keys: keys, issuer: identity.NewIssuer(keys, nil), server: httptest.NewTLSServer(api.Handler())}
	t.Cleanup(func() {
		i.server.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	i.want(http.StatusCreated, i.do(http.MethodPut, i.group(), `{"location":"East US"}`))
	return i
}

func (i *installation) subscription() string { return "/subscriptions/" + i.in.SubscriptionID }
func (i *installation) group() string        { return i.subscription() + "/resourceGroups/rg" }

// token of a principal for an audience, valid for that long.
func (i *installation) token(object, audience string, life time.Duration) string {
	i.t.Helper()
	token, err := i.issuer.Issue(identity.Claims{TenantID: i.in.TenantID, ObjectID: object, AppID: object, Audience: audience, Lifetime: life})
	if err != nil {
		i.t.Fatal(err)
	}
	return token.Value
}

const management = "https://management.azure.com/"

// principal is a credential of one principal for the SDK.
type principal struct {
	i      *installation
	object string
}

func (p principal) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: p.i.token(p.object, management, time.Hour), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func (i *installation) owner() principal { return principal{i, i.in.Administrator.ObjectID} }

// options are what the SDK's clients need to talk to it.
func (i *installation) options() *arm.ClientOptions {
	return &arm.ClientOptions{ClientOptions: policy.ClientOptions{
		Cloud: cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: i.server.URL, Audience: management},
		}},
		Transport: i.server.Client(),
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}}
}

// answer is a response that has been read.
type answer struct {
	*http.Response
	body []byte
}

// at is a value in the body, by dotted path.
func (a answer) at(path string) any {
	var v any
	if json.Unmarshal(a.body, &v) != nil {
		return nil
	}
	for p := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

// do sends a request as the owner of the subscription. Pairs of headers replace those that are there; an empty
// value takes one away.
func (i *installation) do(method, path, body string, headers ...string) answer {
	i.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = i.server.URL + path
		if !strings.Contains(path, "api-version=") && !strings.Contains(path, "no-version") {
			separator := "?"
			if strings.Contains(path, "?") {
				separator = "&"
			}
			path += separator + "api-version=2024-05-01"
		}
	}
	r, err := http.NewRequestWithContext(i.t.Context(), method, path, bytes.NewReader([]byte(body)))
	if err != nil {
		i.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+i.token(i.in.Administrator.ObjectID, management, time.Hour))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for n := 0; n+1 < len(headers); n += 2 {
		r.Header.Del(headers[n])
		if headers[n+1] != "" {
			r.Header.Set(headers[n], headers[n+1])
		}
	}
	response, err := i.server.Client().Do(r)
	if err != nil {
		i.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		i.t.Fatal(err)
	}
	return answer{response, b}
}

func (i *installation) want(status int, a answer) answer {
	i.t.Helper()
	if a.StatusCode != status {
		i.t.Fatalf("%s %s answers %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	return a
}

// settled waits for an answer's operation, by its own watch, and returns its last status.
func (i *installation) settled(a answer) answer {
	i.t.Helper()
	address := a.Header.Get("Azure-AsyncOperation")
	for deadline := time.Now().Add(20 * time.Second); ; {
		s := i.want(http.StatusOK, i.do(http.MethodGet, address+"&$wait=5", ""))
		if s.at("status") != "InProgress" {
			return s
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("still in progress: %s", s.body)
		}
	}
}

// put creates or updates and waits until that has succeeded.
func (i *installation) put(path, body string) {
	i.t.Helper()
	a := i.do(http.MethodPut, path, body)
	if a.StatusCode != http.StatusOK && a.StatusCode != http.StatusCreated {
		i.t.Fatalf("PUT %s answers %d: %s", path, a.StatusCode, a.body)
	}
	if a.Header.Get("Azure-AsyncOperation") == "" {
		return
	}
	if s := i.settled(a); s.at("status") != "Succeeded" {
		i.t.Fatalf("PUT %s: %s", path, s.body)
	}
}

const clusterBody = `{"identity": {"type": "SystemAssigned"}, "location": "eastus", "properties": {"agentPoolProfiles": [{"count": 1, "mode": "System", "name": "nodepool1"SUBNET}],
	"apiServerAccessProfile": {"enablePrivateCluster": true}, "bootstrapProfile": {"artifactSource": "Cache"}, "kubernetesVersion": "1.30.3",
	"networkProfile": {"networkPlugin": "azure", "outboundType": "none"}}}`

// cluster is the body of a cluster in the subnet, or in a managed network for "".
func cluster(subnet string) string {
	if subnet != "" {
		subnet = `,"vnetSubnetID":"` + subnet + `"`
	}
	return strings.Replace(clusterBody, "SUBNET", subnet, 1)
}

func (i *installation) clusterID(name string) string {
	return i.group() + "/providers/Microsoft.ContainerService/managedClusters/" + name
}
