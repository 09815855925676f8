package provider_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
	"github.com/cloister-dev/cloister/internal/provider/resources/resourceproviders"
)

type tenant struct{}

func (tenant) Tenants(context.Context) ([]frontdoor.Tenant, error) {
	return []frontdoor.Tenant{{ID: "11111111-1111-1111-1111-111111111111"}}, nil
}

func (tenant) Subscriptions(context.Context) ([]frontdoor.Subscription, error) {
	return []frontdoor.Subscription{{ID: "22222222-2222-2222-2222-222222222222", DisplayName: "One", TenantID: "11111111-1111-1111-1111-111111111111"}}, nil
}

func (tenant) Locations(context.Context) ([]resourcemanager.Location, error) {
	return []resourcemanager.Location{{Name: "eastus", DisplayName: "East US"}}, nil
}

func (tenant) Authenticate(context.Context, string) (resourcetype.Principal, error) {
	return resourcetypetest.Caller, nil
}

// TestWire replays what the Azure CLI sent for the walkthrough (testdata/az-wire.jsonl, in its order, clusters left
// out) and wants the statuses with which it went on.
func TestWire(t *testing.T) {
	h := resourcetypetest.New(t, definitions(true)...)
	door := httptest.NewTLSServer(frontdoor.New(frontdoor.Options{
		Manager: h.Manager, Types: h.Types, Store: h.Store, Authenticator: tenant{}, Directory: tenant{},
		Registrar: resourceproviders.New(h.Store), Log: slog.New(slog.DiscardHandler),
	}))
	defer door.Close()
	do := func(method, address string, body json.RawMessage) (*http.Response, []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer x")
		if body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
		resp, err := door.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	f, err := os.Open("testdata/az-wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, n := bufio.NewScanner(f), 0
	for lines.Scan() {
		var c struct {
			Command, Method, Path, APIVersion string
			Query                             map[string]string
			Body                              json.RawMessage
			Status                            int
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		n++
		q := url.Values{"api-version": {c.APIVersion}}
		for k, v := range c.Query {
			q.Set(k, v)
		}
		resp, body := do(c.Method, door.URL+c.Path+"?"+q.Encode(), c.Body)
		ok := resp.StatusCode == c.Status || c.Status/100 == 2 && (c.Method == "PUT" || c.Method == "PATCH" || c.Method == "DELETE") && resp.StatusCode/100 == 2
		if !ok {
			t.Errorf("%s: %s %s answers %d, want %d: %s", c.Command, c.Method, c.Path, resp.StatusCode, c.Status, body)
		}
		poll := resp.Header.Get("Azure-AsyncOperation")
		if poll == "" && resp.StatusCode == http.StatusAccepted {
			poll = resp.Header.Get("Location")
		}
		for deadline := time.Now().Add(10 * time.Second); poll != ""; time.Sleep(time.Millisecond) {
			resp, body := do(http.MethodGet, poll, nil)
			var o struct{ Status string }
			_ = json.Unmarshal(body, &o) // a Location's last answer has no body
			if resp.StatusCode != http.StatusAccepted && !strings.EqualFold(o.Status, "InProgress") {
				if o.Status == "Failed" {
					t.Errorf("%s: %s", c.Command, body)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is still going on: %s", c.Command, body)
			}
		}
	}
	if err := lines.Err(); err != nil || n < 60 {
		t.Fatalf("%d requests, %v", n, err)
	}
}
