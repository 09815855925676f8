package wire

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	operationURL = regexp.MustCompile(`^https://127\.0\.0\.1:\d+/subscriptions/[0-9a-f-]{36}/providers/Microsoft\.ContainerService/locations/eastus/operations/[0-9a-f-]{36}\?api-version=\S+$`)
	resultURL    = regexp.MustCompile(`^https://127\.0\.0\.1:\d+/subscriptions/[0-9a-f-]{36}/providers/Microsoft\.ContainerService/locations/eastus/operation[rR]esults/[0-9a-f-]{36}\?api-version=\S+$`)
	seconds      = regexp.MustCompile(`^[1-9][0-9]*$`)
	guid         = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

func matches(t *testing.T, what, got string, p *regexp.Regexp) {
	t.Helper()
	if !p.MatchString(got) {
		t.Errorf("%s is %q", what, got)
	}
}

// TestClusterTranscript holds the headers and bodies of a cluster's requests, which clients follow.
func TestClusterTranscript(t *testing.T) {
	i := install(t)
	id := i.clusterID("Demo")
	created := i.want(http.StatusCreated, i.do(http.MethodPut, id, cluster("")))
	matches(t, "Azure-AsyncOperation", created.Header.Get("Azure-AsyncOperation"), operationURL)
	matches(t, "Retry-After", created.Header.Get("Retry-After"), seconds)
	matches(t, "x-ms-request-id", created.Header.Get("x-ms-request-id"), guid)
	matches(t, "x-ms-correlation-request-id", created.Header.Get("x-ms-correlation-request-id"), guid)
	if kind := created.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		t.Errorf("Content-Type %q", kind)
	}
	if created.at("properties.provisioningState") != "Creating" || created.at("name") != "Demo" || created.at("type") != "Microsoft.ContainerService/ManagedClusters" || created.at("cloister") != nil {
		t.Errorf("201 %s", created.body)
	}
	running := i.want(http.StatusOK, i.do(http.MethodGet, created.Header.Get("Azure-AsyncOperation"), ""))
	if s := running.at("status"); s != "InProgress" && s != "Succeeded" || running.at("startTime") == nil {
		t.Errorf("operation %s", running.body)
	}
	ended := i.settled(created)
	if ended.at("status") != "Succeeded" || ended.at("endTime") == nil || ended.at("error") != nil {
		t.Errorf("operation at its end %s", ended.body)
	}

	// Names in any case are one resource, which keeps the case it was made with.
	for _, path := range []string{id, strings.ToUpper(id), strings.ToLower(id)} {
		got := i.want(http.StatusOK, i.do(http.MethodGet, path, ""))
		if got.at("name") != "Demo" || got.at("id") != i.want(http.StatusOK, i.do(http.MethodGet, id, "")).at("id") {
			t.Errorf("GET %s: %v %v", path, got.at("name"), got.at("id"))
		}
	}

	// ETags.
	etag, _ := i.do(http.MethodGet, id, "").at("etag").(string)
	if etag == "" {
		t.Fatal("the cluster has no etag")
	}
	wantError(t, i.do(http.MethodPut, id, cluster(""), "If-Match", `"stale"`), http.StatusPreconditionFailed, "PreconditionFailed")
	wantError(t, i.do(http.MethodPut, id, cluster(""), "If-None-Match", "*"), http.StatusPreconditionFailed, "PreconditionFailed")
	updated := i.want(http.StatusOK, i.do(http.MethodPut, id, cluster(""), "If-Match", etag))
	if updated.at("properties.provisioningState") != "Updating" {
		t.Errorf("the answer to an update: %s", updated.body)
	}
	i.settled(updated)

	deleted := i.want(http.StatusAccepted, i.do(http.MethodDelete, id, ""))
	matches(t, "Azure-AsyncOperation", deleted.Header.Get("Azure-AsyncOperation"), operationURL)
	matches(t, "Location", deleted.Header.Get("Location"), resultURL)
	matches(t, "Retry-After", deleted.Header.Get("Retry-After"), seconds)
	if len(deleted.body) > 0 {
		t.Errorf("DELETE answers with %s", deleted.body)
	}
	if s := i.settled(deleted); s.at("status") != "Succeeded" {
		t.Errorf("delete: %s", s.body)
	}
	if a := i.do(http.MethodGet, deleted.Header.Get("Location"), ""); a.StatusCode != http.StatusNoContent && a.StatusCode != http.StatusOK {
		t.Errorf("the result of the delete: %d %s", a.StatusCode, a.body)
	}
	i.want(http.StatusNoContent, i.do(http.MethodDelete, id, ""))
}

// TestErrorBodies are ARM's errors as clients read them.
func TestErrorBodies(t *testing.T) {
	i := install(t)
	id := i.clusterID("demo")
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, message      string
	}{
		"no cluster":         {http.MethodGet, id, "", 404, "ResourceNotFound", "The Resource 'Microsoft.ContainerService/managedClusters/demo' under resource group 'rg' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"},
		"no group":           {http.MethodGet, i.subscription() + "/resourceGroups/nope", "", 404, "ResourceGroupNotFound", "Resource group 'nope' could not be found."},
		"cluster in none":    {http.MethodPut, strings.Replace(id, "/rg/", "/nope/", 1), cluster(""), 404, "ResourceGroupNotFound", "nope"},
		"no version":         {http.MethodGet, id + "?no-version=1", "", 400, "MissingApiVersionParameter", "api-version"},
		"bad version":        {http.MethodGet, id + "?api-version=latest", "", 400, "InvalidApiVersionParameter", "latest"},
		"no type":            {http.MethodGet, i.group() + "/providers/Microsoft.ContainerService/fleets/x", "", 404, "InvalidResourceType", "fleets"},
		"no namespace":       {http.MethodGet, i.group() + "/providers/Microsoft.Quantum/x/y", "", 404, "InvalidResourceNamespace", "Microsoft.Quantum"},
		"no subscription":    {http.MethodPut, "/subscriptions/00000000-0000-0000-0000-00000000dead/resourceGroups/rg", `{"location":"eastus"}`, 403, "AuthorizationFailed", ""},
		"bad JSON":           {http.MethodPut, id, `{`, 400, "InvalidRequestContent", ""},
		"no location":        {http.MethodPut, id, `{}`, 400, "LocationRequired", ""},
		"unknown location":   {http.MethodPut, id, strings.Replace(cluster(""), "eastus", "moon", 1), 400, "LocationNotAvailableForResourceType", "moon"},
		"bad name":           {http.MethodPut, i.clusterID("-x"), cluster(""), 400, "InvalidParameter", "aks-naming-rules"},
		"pool of no cluster": {http.MethodPut, id + "/agentPools/p", `{"properties":{}}`, 404, "ParentResourceNotFound", "demo"},
		"isolation":          {http.MethodPut, id, strings.Replace(cluster(""), "Cache", "Direct", 1), 400, "InvalidNetworkIsolatedClusterConfiguration", "When outbound type is none or block, bootstrapProfile.artifactSource must be 'Cache'"},
		"action":             {http.MethodPost, id + "/explode", "", 404, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := i.do(c.method, c.path, c.body)
			if c.code == "" {
				c.code, _ = a.at("error.code").(string)
			}
			if message := wantError(t, a, c.status, c.code); !strings.Contains(message, c.message) {
				t.Errorf("%q is not in %q", c.message, message)
			}
		})
	}
}

// TestPaging follows nextLink over all pages of a list.
func TestPaging(t *testing.T) {
	i := install(t)
	for n := range 7 {
		i.put(fmt.Sprintf("%s/providers/Microsoft.Network/networkSecurityGroups/g%d", i.group(), n), `{"location":"eastus"}`)
	}
	seen := map[string]bool{}
	pages := 0
	for next := i.group() + "/providers/Microsoft.Network/networkSecurityGroups?$top=3"; next != ""; pages++ {
		a := i.want(http.StatusOK, i.do(http.MethodGet, next, ""))
		list, _ := a.at("value").([]any)
		for _, x := range list {
			seen[x.(map[string]any)["name"].(string)] = true
		}
		next, _ = a.at("nextLink").(string)
		if next != "" && (!strings.HasPrefix(next, i.server.URL+"/") || !strings.Contains(next, "api-version=")) {
			t.Fatalf("nextLink %q", next)
		}
		if pages > 5 {
			t.Fatal("the list does not end")
		}
	}
	if len(seen) != 7 || pages != 3 {
		t.Errorf("%d groups on %d pages, want 7 on 3", len(seen), pages)
	}
}

// A cluster whose node cannot reach the registry: the operation tells why, the resource is Failed, a repeated
// PUT mends it.
func TestFailedClusterTranscript(t *testing.T) {
	i := install(t)
	i.machine.failing = true
	id := i.clusterID("demo")
	ended := i.settled(i.want(http.StatusCreated, i.do(http.MethodPut, id, cluster(""))))
	message, _ := ended.at("error.message").(string)
	if ended.at("status") != "Failed" || ended.at("error.code") != "VMExtensionProvisioningError" || !strings.Contains(message, "exit status=211") {
		t.Errorf("the operation ended with %s", ended.body)
	}
	if state := i.do(http.MethodGet, id, "").at("properties.provisioningState"); state != "Failed" {
		t.Errorf("the cluster is %v", state)
	}
	if state := i.do(http.MethodGet, id+"/agentPools/nodepool1", "").at("properties.provisioningState"); state != "Failed" {
		t.Errorf("the pool is %v", state)
	}
	i.machine.mu.Lock()
	i.machine.failing = false
	i.machine.mu.Unlock()
	if s := i.settled(i.want(http.StatusOK, i.do(http.MethodPut, id, cluster("")))); s.at("status") != "Succeeded" {
		t.Errorf("repeated: %s", s.body)
	}
	// The whole group goes, the cluster and what it made with it.
	gone := i.want(http.StatusAccepted, i.do(http.MethodDelete, i.group(), ""))
	for deadline := time.Now().Add(20 * time.Second); i.do(http.MethodGet, gone.Header.Get("Location"), "").StatusCode == http.StatusAccepted; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the group's deletion does not end")
		}
	}
	wantError(t, i.do(http.MethodGet, i.group(), ""), http.StatusNotFound, "ResourceGroupNotFound")
	if left := i.machine.left(); left != "" {
		t.Errorf("left on the machine: %s", left)
	}
}
