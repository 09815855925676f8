package frontdoor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sub = "/subscriptions/" + resourcetypetest.Subscription

// directory is one tenant with one subscription.
type directory struct{}

func (directory) Tenants(context.Context) ([]Tenant, error) {
	return []Tenant{{ID: "t", DisplayName: "Test", DefaultDomain: "test.local"}}, nil
}

func (directory) Subscriptions(context.Context) ([]Subscription, error) {
	return []Subscription{{ID: resourcetypetest.Subscription, DisplayName: "One", TenantID: "t"}}, nil
}

func (directory) Subscription(_ context.Context, id string) (bool, error) {
	return strings.EqualFold(id, resourcetypetest.Subscription), nil
}

func (directory) Locations(context.Context) ([]resourcemanager.Location, error) {
	return []resourcemanager.Location{{Name: "eastus", DisplayName: "East US"}}, nil
}

// tokens accepts "good" and remembers "old".
type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (resourcetype.Principal, error) {
	switch token {
	case "good":
		return resourcetypetest.Caller, nil
	case "old":
		return resourcetype.Principal{}, fmt.Errorf("verify: %w", ErrTokenExpired)
	}
	return resourcetype.Principal{}, errors.New("a secret reason")
}

type client struct {
	t       *testing.T
	url     string
	harness *resourcetypetest.Harness
	token   string
}

// gate holds the reconciles of Microsoft.Test/slow.
type gate chan struct{}

func serve(t *testing.T, change ...func(*Options)) (*client, gate) {
	t.Helper()
	open := make(gate)
	slow := resourcetype.Define(resourcetype.Spec[resourcetypetest.Model]{
		Name: "Microsoft.Test/slow",
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[resourcetypetest.Model]) (resourcetype.Result, error) {
			r.Step("Waiting at the gate")
			select {
			case <-open:
			case <-ctx.Done():
			}
			return resourcetype.Result{}, ctx.Err()
		},
		Actions: map[string]resourcetype.Action[resourcetypetest.Model]{
			"poke": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[resourcetypetest.Model]) (any, error) {
				return map[string]any{"poked": r.Query["by"], "body": r.Body}, nil
			}},
			"restart": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[resourcetypetest.Model]) (any, error) {
				r.Model.Properties = map[string]any{"restarted": true, "provisioningState": "Restarting"}
				return nil, nil
			}},
			"run": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[resourcetypetest.Model]) (any, error) {
				return &resourcetype.Response{Status: http.StatusAccepted, Location: r.ID.String() + "/results/1", Body: map[string]any{"id": "1"}}, nil
			}},
		},
	})
	versions := resourcetype.DefineEndpoint(resourcetype.Endpoint{
		Name: "Microsoft.Test/locations/versions",
		Get: func(_ context.Context, r *resourcetype.EndpointRequest) (any, error) {
			return map[string]any{"in": r.Names}, nil
		},
	})
	check := resourcetype.DefineEndpoint(resourcetype.Endpoint{
		Name: "Microsoft.Test/checkNameAvailability",
		Post: func(_ context.Context, r *resourcetype.EndpointRequest) (any, error) {
			return map[string]any{"nameAvailable": string(r.Body)}, nil
		},
	})
	// heard says what it was told of the command line, in its document and with its operation.
	heard := resourcetype.Define(resourcetype.Spec[resourcetypetest.Model]{
		Name: "Microsoft.Test/heard",
		Prepare: func(_ context.Context, r *resourcetype.Request[resourcetypetest.Model]) error {
			r.Model.Properties = map[string]any{"arguments": r.Arguments}
			return nil
		},
		Reconcile: func(_ context.Context, r *resourcetype.Reconciliation[resourcetypetest.Model]) (resourcetype.Result, error) {
			return resourcetype.Result{Report: map[string]any{"warnings": []string{r.ID.Name()}}}, nil
		},
		Actions: map[string]resourcetype.Action[resourcetypetest.Model]{
			"restart": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[resourcetypetest.Model]) (any, error) {
				r.Model.Properties["restarted"] = true
				return nil, nil
			}},
		},
	})
	h := resourcetypetest.New(t, slow, heard, versions, check, resourcetypetest.Stub("Microsoft.Test/things"), resourcetypetest.Stub("Microsoft.Test/things/parts"),
		resourcetypetest.Stub("Microsoft.Features/providers/features", func(s *resourcetype.Spec[resourcetypetest.Model]) { s.SubscriptionLevel = true }),
		resourcetypetest.Stub("Microsoft.Test/locks", func(s *resourcetype.Spec[resourcetypetest.Model]) {
			s.Extension, s.Placement = true, resourcetype.Inherited
		}))
	o := Options{
		Manager: h.Manager, Types: h.Types, Store: h.Store, Timeline: h.Reconciler, Authenticator: tokens{}, Directory: directory{},
		AuthorityURL: "https://login/t",
		Metadata: func(r *http.Request) Metadata {
			return Metadata{Name: "Local", ResourceManager: "http://" + r.Host, Authentication: Authentication{LoginEndpoint: "https://login/adfs", Audiences: []string{"https://arm/"}}}
		},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	server := httptest.NewServer(New(o))
	t.Cleanup(server.Close)
	return &client{t: t, url: server.URL, harness: h, token: "good"}, open
}

type answer struct {
	status int
	header http.Header
	text   string
	body   resourcetypetest.Document
}

// do makes a request; the path gets an api-version unless it has a query, and may be absolute.
func (c *client) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	if !strings.Contains(path, "?") {
		path += "?api-version=2024-05-01"
	}
	if strings.HasPrefix(path, "/") {
		path = c.url + path
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, text: string(b)}
	if len(b) > 0 && b[0] == '{' {
		if err := json.Unmarshal(b, &a.body); err != nil {
			c.t.Fatalf("%s: %v", b, err)
		}
	}
	return a
}

func (a answer) code() string { return a.body.String("error.code") }

func TestErrors(t *testing.T) {
	c, _ := serve(t)
	group := sub + "/resourceGroups/rg"
	thing := group + "/providers/Microsoft.Test/things/t"
	for _, x := range []struct {
		method, path, body string
		status             int
		code, message      string
	}{
		{"GET", "/", "", 404, "NotFound", ""},
		{"GET", "/nonsense", "", 404, "NotFound", ""},
		{"GET", sub + "/nonsense", "", 404, "NotFound", ""},
		{"GET", thing + "?", "", 400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests."},
		{"GET", thing + "?api-version=latest", "", 400, "InvalidApiVersionParameter", ""},
		{"GET", thing + "?api-version=2024-13-01", "", 400, "InvalidApiVersionParameter", ""},
		{"GET", thing, "", 404, "ResourceNotFound", "The Resource 'Microsoft.Test/things/t' under resource group 'rg' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"},
		{"HEAD", thing, "", 404, "", ""},
		{"GET", group + "x", "", 404, "ResourceGroupNotFound", "Resource group 'rgx' could not be found."},
		{"GET", sub + "/resourceGroups/rgx/providers/Microsoft.Test/things", "", 404, "ResourceGroupNotFound", ""},
		{"PUT", sub + "/resourceGroups/rgx/providers/Microsoft.Test/things/t", `{"location":"eastus"}`, 404, "ResourceGroupNotFound", ""},
		{"DELETE", group + "x", "", 404, "ResourceGroupNotFound", ""},
		{"GET", thing + "/parts/p", "", 404, "ParentResourceNotFound", ""},
		{"GET", thing + "/parts", "", 404, "ParentResourceNotFound", ""},
		{"PUT", thing + "/parts/p", `{}`, 404, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource 't' not found."},
		{"PUT", thing, `{}`, 400, "LocationRequired", "The location property is required for this definition."},
		{"PUT", thing, `[]`, 400, "InvalidRequestContent", ""},
		{"PUT", thing, `{"location":"eastus"} x`, 400, "InvalidRequestContent", ""},
		{"PUT", thing, ``, 400, "InvalidRequestContent", ""},
		{"PUT", thing, `{"location":"eastus","properties":"text"}`, 400, "InvalidRequestContent", ""},
		{"PUT", group + "/providers/Microsoft.Test/things/a%26b", `{"location":"eastus"}`, 400, "InvalidResourceName", ""},
		{"PATCH", thing, `{}`, 404, "ResourceNotFound", ""},
		{"POST", thing, ``, 405, "MethodNotAllowed", ""},
		{"POST", thing + "/dance", ``, 404, "NotFound", ""},
		{"PUT", group + "/providers/Microsoft.Test/things", `{}`, 405, "MethodNotAllowed", ""},
		{"BREW", thing, ``, 405, "MethodNotAllowed", ""},
		{"GET", group + "/providers/Microsoft.Test/nothings/n", "", 404, "InvalidResourceType", "The resource type 'nothings' could not be found in the namespace 'Microsoft.Test'."},
		{"GET", group + "/providers/Microsoft.Test/nothings", "", 404, "InvalidResourceType", ""},
		{"GET", group + "/providers/Microsoft.None/x/y", "", 404, "InvalidResourceNamespace", "The resource namespace 'Microsoft.None' is invalid."},
		{"GET", sub + "/providers/Microsoft.Test/things/t", "", 404, "InvalidResourceType", ""},
		{"GET", sub + "/providers/Microsoft.None", "", 404, "InvalidResourceNamespace", ""},
		{"GET", group + "/providers/Microsoft.Test/things?api-version=2024-05-01&$top=-1", "", 400, "InvalidTopParameter", ""},
		{"GET", group + "/providers/Microsoft.Test/things?api-version=2024-05-01&$filter=name+eq", "", 400, "InvalidFilterInQueryString", ""},
		{"GET", "/subscriptions/other", "", 404, "SubscriptionNotFound", "The subscription 'other' could not be found."},
		{"POST", "/tenants", "", 405, "MethodNotAllowed", ""},
		{"GET", sub + "/providers/Microsoft.Test/locations/eastus/operations/none", "", 404, "OperationNotFound", ""},
	} {
		a := c.do(x.method, x.path, x.body)
		if a.status != x.status || a.code() != x.code || x.message != "" && a.body.String("error.message") != x.message {
			t.Errorf("%s %s %s answers %d %s, want %d %s %q", x.method, x.path, x.body, a.status, a.text, x.status, x.code, x.message)
		}
	}
	if a := c.do("PUT", thing, strings.Repeat(" ", maxBody+1)); a.status != http.StatusRequestEntityTooLarge || a.code() != "RequestEntityTooLarge" {
		t.Errorf("a body over the limit answers %d %s", a.status, a.text)
	}
	if a := c.do("PUT", thing, `location=eastus`, "Content-Type", "application/x-www-form-urlencoded"); a.status != http.StatusUnsupportedMediaType {
		t.Errorf("a form answers %d %s", a.status, a.text)
	}
}

func TestAuthentication(t *testing.T) {
	c, _ := serve(t)
	for _, x := range []struct{ header, code string }{
		{"", "AuthenticationFailed"}, {"Basic eDp5", "AuthenticationFailed"}, {"Bearer", "AuthenticationFailed"},
		{"Bearer bad", "InvalidAuthenticationToken"}, {"Bearer old", "ExpiredAuthenticationToken"},
	} {
		c.token = ""
		var h []string
		if x.header != "" {
			h = []string{"Authorization", x.header}
		}
		a := c.do("GET", "/subscriptions", "", h...)
		if a.status != http.StatusUnauthorized || a.code() != x.code || strings.Contains(a.text, "secret") {
			t.Errorf("%q answers %d %s, want 401 %s", x.header, a.status, a.text, x.code)
		}
		if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer authorization_uri="https://login/t", error="invalid_token"`) {
			t.Errorf("%q: WWW-Authenticate is %s", x.header, got)
		}
	}
}

func TestMetadata(t *testing.T) {
	c, _ := serve(t)
	c.token = ""
	one := c.do("GET", "//metadata/endpoints?api-version=2022-09-01", "")
	if one.body.String("name") != "Local" || one.body.String("authentication.audiences.0") != "https://arm/" || one.body.At("suffixes") == nil {
		t.Errorf("2022-09-01 answers %s", one.text)
	}
	if list := c.do("GET", "/metadata/endpoints?api-version=2019-05-01", ""); !strings.HasPrefix(list.text, `[{"name":"Local"`) {
		t.Errorf("2019-05-01 answers %s", list.text)
	}
	if old := c.do("GET", "/metadata/endpoints?api-version=2015-01-01", ""); old.body.String("authentication.loginEndpoint") == "" {
		t.Errorf("2015-01-01 answers %s", old.text)
	}
}

func TestLifeOfAResource(t *testing.T) {
	c, _ := serve(t)
	group := sub + "/resourcegroups/New"
	if a := c.do("HEAD", group, ""); a.status != 404 {
		t.Errorf("HEAD of no group: %d", a.status)
	}
	a := c.do("PUT", group, `{"location":"East US"}`)
	if a.status != 201 || a.body.String("id") != sub+"/resourceGroups/New" || a.body.String("location") != "eastus" || a.body.State() != "Succeeded" {
		t.Errorf("PUT of a group: %d %s", a.status, a.text)
	}
	if a := c.do("PUT", group, `{"location":"eastus"}`); a.status != 200 {
		t.Errorf("PUT again: %d", a.status)
	}
	if a := c.do("HEAD", "//SUBSCRIPTIONS/"+resourcetypetest.Subscription+"//resourceGROUPS/new", ""); a.status != 204 || a.text != "" {
		t.Errorf("HEAD of a group: %d %q", a.status, a.text)
	}
	thing := sub + "/resourceGroups/New/providers/microsoft.test/THINGS/MyThing"
	a = c.do("PUT", thing, `{"location":"eastus","properties":{"new":1}}`)
	if a.status != 201 || a.body.String("id") != sub+"/resourceGroups/New/providers/Microsoft.Test/things/MyThing" || a.header.Get("Azure-AsyncOperation") != "" {
		t.Errorf("PUT: %d %s", a.status, a.text)
	}
	tag := a.header.Get("ETag")
	if tag == "" || tag != a.body.String("etag") {
		t.Errorf("ETag %q, in the body %q", tag, a.body.String("etag"))
	}
	if a := c.do("PUT", thing, `{"location":"westus"}`); a.status != 409 || a.code() != "InvalidResourceLocation" {
		t.Errorf("PUT elsewhere: %d %s", a.status, a.text)
	}
	if a := c.do("PUT", thing, `{"location":"eastus"}`, "If-None-Match", "*"); a.status != 412 || a.code() != "PreconditionFailed" {
		t.Errorf("If-None-Match: %d %s", a.status, a.text)
	}
	if a := c.do("PUT", thing, `{"location":"eastus"}`, "If-Match", tag); a.status != 200 {
		t.Errorf("If-Match: %d %s", a.status, a.text)
	}
	if a := c.do("PUT", thing, `{"location":"eastus","tags":{"a":"b"}}`, "If-Match", tag); a.status != 412 {
		t.Errorf("If-Match of an old tag: %d %s", a.status, a.text)
	}
	if a := c.do("DELETE", thing, "", "If-Match", tag); a.status != 412 {
		t.Errorf("DELETE If-Match of an old tag: %d %s", a.status, a.text)
	}
	if a := c.do("DELETE", thing, ""); a.status != 200 {
		t.Errorf("DELETE: %d %s", a.status, a.text)
	}
	if a := c.do("DELETE", thing, ""); a.status != 204 {
		t.Errorf("DELETE again: %d %s", a.status, a.text)
	}
	lock := sub + "/resourceGroups/New/providers/Microsoft.Test/locks/l"
	if a := c.do("PUT", lock, `{}`); a.status != 201 {
		t.Errorf("PUT of an extension: %d %s", a.status, a.text)
	}
	a = c.do("DELETE", group, "")
	if a.status != 202 || a.header.Get("Location") == "" || a.header.Get("Azure-AsyncOperation") == "" || a.header.Get("Retry-After") != "1" {
		t.Fatalf("DELETE of a group: %d %v", a.status, a.header)
	}
	if done := c.do("GET", a.header.Get("Azure-AsyncOperation")+"&$wait=10", ""); done.body.String("status") != "Succeeded" {
		t.Errorf("the operation: %s", done.text)
	}
	if done := c.do("GET", a.header.Get("Location"), ""); done.status != 204 {
		t.Errorf("the result: %d %s", done.status, done.text)
	}
	if a := c.do("GET", lock, ""); a.status != 404 || a.code() != "ResourceGroupNotFound" {
		t.Errorf("what was in the group: %d %s", a.status, a.text)
	}
}

func TestAsyncOperation(t *testing.T) {
	c, open := serve(t)
	slow := sub + "/resourceGroups/rg/providers/Microsoft.Test/slow/s"
	a := c.do("PUT", slow, `{"location":"eastus"}`)
	if a.status != 201 || a.body.State() != "Creating" {
		t.Fatalf("PUT: %d %s", a.status, a.text)
	}
	status, location := a.header.Get("Azure-AsyncOperation"), a.header.Get("Location")
	if !strings.HasPrefix(status, c.url+sub+"/providers/Microsoft.Test/locations/eastus/operations/") || !strings.HasSuffix(status, "?api-version=2024-05-01") {
		t.Errorf("Azure-AsyncOperation is %s", status)
	}
	poll := c.do("GET", status, "")
	if poll.status != 200 || poll.body.String("status") != "InProgress" || poll.header.Get("Retry-After") != "1" || poll.body.String("startTime") == "" {
		t.Errorf("poll: %d %v %s", poll.status, poll.header, poll.text)
	}
	if poll := c.do("GET", location, ""); poll.status != 202 || poll.header.Get("Retry-After") != "1" || poll.header.Get("Location") != location {
		t.Errorf("poll of the result: %d %v", poll.status, poll.header)
	}
	if watch := c.do("GET", status+"&$wait=10&$seen=0", ""); watch.body.String("steps.0.name") != "Waiting at the gate" {
		t.Errorf("watch for the first step: %s", watch.text)
	}
	if a := c.do("PUT", slow, `{"location":"eastus"}`); a.status != 409 || a.code() != "AnotherOperationInProgress" {
		t.Errorf("PUT meanwhile: %d %s", a.status, a.text)
	}
	watched := make(chan answer)
	go func() { watched <- c.do("GET", status+"&$wait=30", "") }()
	select {
	case a := <-watched:
		t.Errorf("the watch ended before the operation: %s", a.text)
	case <-time.After(20 * time.Millisecond):
	}
	close(open)
	done := <-watched
	if done.body.String("status") != "Succeeded" || done.body.String("endTime") == "" || done.header.Get("Retry-After") != "" {
		t.Errorf("the watch: %s", done.text)
	}
	if result := c.do("GET", location, ""); result.status != 200 || result.body.State() != "Succeeded" || result.body.String("name") != "s" {
		t.Errorf("the result: %d %s", result.status, result.text)
	}
	if a := c.do("POST", slow+"/poke?api-version=2024-05-01&by=me", `{"x":1}`); a.status != 200 || a.body.String("poked.0") != "me" || a.body.At("body.x") == nil {
		t.Errorf("action: %d %s", a.status, a.text)
	}
	if a := c.do("POST", slow+"/RESTART", ""); a.status != 202 || a.header.Get("Azure-AsyncOperation") == "" {
		t.Errorf("action with work: %d %s", a.status, a.text)
	} else if done := c.do("GET", a.header.Get("Azure-AsyncOperation")+"&$wait=10", ""); done.body.String("status") != "Succeeded" {
		t.Errorf("its operation: %s", done.text)
	}
	if a := c.do("POST", slow+"/run", ""); a.status != 202 || a.header.Get("Location") != c.url+slow+"/results/1?api-version=2024-05-01" || a.body.String("id") != "1" || a.header.Get("Retry-After") != "1" {
		t.Errorf("action with a place to look: %d %v %s", a.status, a.header, a.text)
	}
	history := c.do("GET", "/cloister/operations?resource="+slow, "")
	if history.body.String("value.0.kind") != "create" || history.body.String("value.1.kind") != "restart" {
		t.Errorf("history: %s", history.text)
	}
	if other := c.do("GET", strings.Replace(status, resourcetypetest.Subscription, "other", 1), ""); other.status != 404 {
		t.Errorf("an operation is shown in another subscription: %d", other.status)
	}
}

func TestCollections(t *testing.T) {
	c, _ := serve(t)
	things := sub + "/resourceGroups/rg/providers/Microsoft.Test/things"
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		if a := c.do("PUT", things+"/"+n, fmt.Sprintf(`{"location":"eastus","tags":{"n":%q}}`, n)); a.status != 201 {
			t.Fatal(a.text)
		}
	}
	c.do("PUT", things+"/a/parts/p", `{}`)
	c.do("PUT", things+"/b/parts/p", `{}`)
	names := func(path string) string {
		t.Helper()
		var out []string
		for pages := 0; path != "" && pages < 10; pages++ {
			a := c.do("GET", path, "")
			items, ok := a.body.At("value").([]any)
			if a.status != 200 || !ok {
				t.Fatalf("GET %s: %d %s", path, a.status, a.text)
			}
			for _, i := range items {
				out = append(out, resourcetypetest.Document(i.(map[string]any)).String("name"))
			}
			path = a.body.String("nextLink")
		}
		return strings.Join(out, " ")
	}
	q := "?api-version=2024-05-01&"
	for path, want := range map[string]string{
		things:                                   "a b c d e",
		things + q + "$top=2":                    "a b c d e",
		sub + "/providers/microsoft.test/THINGS": "a b c d e",
		things + "/a/parts":                      "p",
		things + "/c/parts":                      "",
		sub + "/resources":                       "a b c d e",
		sub + "/resources" + q + "$top=3":        "a b c d e",
		sub + "/resources" + q + "$filter=resourceType%20eq%20'Microsoft.Test/Things'%20and%20name%20eq%20'b'": "b",
		sub + "/resources" + q + "$filter=tagName%20eq%20'n'%20and%20tagValue%20eq%20'd'":                      "d",
		sub + "/resources" + q + "$filter=substringof('C',name)":                                               "c",
		sub + "/resources" + q + "$filter=resourceType%20eq%20'Microsoft.Other/x'":                             "",
		sub + "/resourceGroups/RG/resources":                                                                   "a b c d e",
		sub + "/resourcegroups":                                                                                "rg",
		"/subscriptions":                                                                                       "",
		sub + "/locations":                                                                                     "eastus",
	} {
		if got := names(path); got != want {
			t.Errorf("GET %s lists %q, want %q", path, got, want)
		}
	}
	bare := c.do("GET", sub+"/resources"+q+"$top=1", "").body
	full := c.do("GET", sub+"/resources"+q+"$top=1&$expand=createdTime,changedTime,provisioningState", "").body
	if bare.At("value.0.createdTime") != nil || full.String("value.0.createdTime") == "" || full.String("value.0.changedTime") == "" || full.String("value.0.provisioningState") != "Succeeded" {
		t.Errorf("expanded: %v", full)
	}
	if a := c.do("GET", sub+"/resources"+q+"$expand=secrets", ""); a.status != 400 {
		t.Errorf("an unknown expansion: %d %s", a.status, a.text)
	}
}

func TestProvidersAndEndpoints(t *testing.T) {
	c, _ := serve(t)
	p := c.do("GET", sub+"/providers/microsoft.TEST", "")
	if p.body.String("namespace") != "Microsoft.Test" || p.body.String("registrationState") != "Registered" || p.body.String("resourceTypes.0.resourceType") == "" {
		t.Errorf("provider: %s", p.text)
	}
	if a := c.do("POST", sub+"/providers/Microsoft.Test/register", ""); a.status != 200 || a.body.String("registrationState") != "Registered" {
		t.Errorf("register: %d %s", a.status, a.text)
	}
	if a := c.do("GET", "/providers/Microsoft.Test/operations", ""); !strings.Contains(a.text, `"Microsoft.Test/slow/poke/action"`) || !strings.Contains(a.text, `"Microsoft.Test/things/parts/write"`) {
		t.Errorf("role actions: %s", a.text)
	}
	if a := c.do("GET", sub+"/providers/Microsoft.Test/locations/eastus/versions", ""); a.body.String("in.0") != "eastus" {
		t.Errorf("endpoint: %s", a.text)
	}
	if a := c.do("POST", sub+"/providers/Microsoft.Test/checkNameAvailability", `{"name":"x"}`); a.body.String("nameAvailable") != `{"name":"x"}` {
		t.Errorf("name check: %d %s", a.status, a.text)
	}
	feature := sub + "/providers/Microsoft.Features/providers/Microsoft.Test/features/F"
	if a := c.do("PUT", feature, `{}`); a.status != 201 || a.body.String("id") != feature {
		t.Errorf("a type named providers: %d %s", a.status, a.text)
	}
	if a := c.do("GET", "/tenants", ""); a.body.String("value.0.tenantId") != "t" {
		t.Errorf("tenants: %s", a.text)
	}
	if a := c.do("GET", sub, ""); a.body.String("subscriptionId") != resourcetypetest.Subscription || a.body.String("state") != "Enabled" {
		t.Errorf("subscription: %s", a.text)
	}
}

func TestHeaders(t *testing.T) {
	c, _ := serve(t)
	a := c.do("GET", "/subscriptions", "", "x-ms-client-request-id", "mine", "x-ms-return-client-request-id", "true", "x-ms-correlation-request-id", "cor-1")
	for name, want := range map[string]string{"x-ms-client-request-id": "mine", "x-ms-correlation-request-id": "cor-1", "Content-Type": "application/json; charset=utf-8"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if a.header.Get("x-ms-request-id") == "" || !strings.HasPrefix(a.header.Get("x-ms-routing-request-id"), "LOCAL:") {
		t.Errorf("headers %v", a.header)
	}
	if got := c.do("GET", "/subscriptions", "", "x-ms-correlation-request-id", "a b\"").header.Get("x-ms-correlation-request-id"); strings.Contains(got, "\"") {
		t.Errorf("a bad correlation ID is echoed: %s", got)
	}
}

func TestPanicAndUnknownErrors(t *testing.T) {
	c, _ := serve(t, func(o *Options) { o.Directory = broken{} })
	for _, path := range []string{"/subscriptions", "/tenants"} {
		a := c.do("GET", path, "")
		if a.status != 500 || a.code() != "InternalServerError" || strings.Contains(a.text, "secret") || !strings.Contains(a.text, a.header.Get("x-ms-correlation-request-id")) {
			t.Errorf("GET %s: %d %s", path, a.status, a.text)
		}
	}
}

type broken struct{ directory }

func (broken) Tenants(context.Context) ([]Tenant, error) { panic("a secret") }

func (broken) Subscriptions(context.Context) ([]Subscription, error) {
	return nil, errors.New("a secret")
}

// No path, method or body makes the service fail, and every answer is well formed.
func FuzzRequest(f *testing.F) {
	group := sub + "/resourceGroups/rg"
	f.Add("GET", group+"/providers/Microsoft.Test/things/x", "api-version=2024-05-01", "")
	f.Add("PUT", group+"/providers/Microsoft.Test/things/x", "api-version=2024-05-01", `{"location":"eastus","properties":{"a":[{"name":1}]}}`)
	f.Add("PATCH", group+"//providers/microsoft.test/things/x/parts/%2F", "api-version=2024-05-01", `{}`)
	f.Add("POST", sub+"/providers/Microsoft.Features/providers/a/features/b/register", "api-version=2024-05-01&$top=0", ``)
	f.Add("GET", sub+"/resources", "api-version=2024-05-01&$filter=a%20eq%20'b'&$skiptoken=AAAA", ``)
	f.Add("DELETE", "/providers/providers/providers/providers", "api-version=2024-05-01", `[`)
	f.Add("GET", "/cloister/operations", "resource=/subscriptions/x", ``)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://host/", strings.NewReader(body))
		if err != nil || strings.Contains(query, "$wait") {
			return
		}
		r.URL.Path, r.URL.RawQuery = path, query
		r.Header.Set("Authorization", "Bearer good")
		r.Header.Set("Content-Type", "application/json")
		h := resourcetypetest.New(t, resourcetypetest.Stub("Microsoft.Test/things"), resourcetypetest.Stub("Microsoft.Test/things/parts"))
		w := httptest.NewRecorder()
		New(Options{
			Manager: h.Manager, Types: h.Types, Store: h.Store, Timeline: h.Reconciler, Authenticator: tokens{}, Directory: directory{},
			Metadata: func(*http.Request) Metadata { return Metadata{} },
		}).ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s?%s %q answers %d %s", method, path, query, body, w.Code, w.Body)
		}
		if b := w.Body.Bytes(); len(b) > 0 && !json.Valid(b) {
			t.Fatalf("%s %s answers %d %q", method, path, w.Code, b)
		}
		if w.Code >= 400 && method != http.MethodHead && !strings.Contains(w.Body.String(), `"error":{"code":`) {
			t.Fatalf("%s %s answers %d without an error: %s", method, path, w.Code, w.Body)
		}
	})
}
