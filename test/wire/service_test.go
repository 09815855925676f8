// Package wire holds the service against Microsoft's own clients: the Azure SDK for Go, and raw requests
// where headers matter. The whole service runs in process.
package wire

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

const subscription = resourcetypetest.Subscription

type directory struct{}

func (directory) Tenants(context.Context) ([]frontdoor.Tenant, error) {
	return []frontdoor.Tenant{{ID: "tenant", DisplayName: "Test", DefaultDomain: "test.local"}}, nil
}

func (directory) Subscriptions(context.Context) ([]frontdoor.Subscription, error) {
	return []frontdoor.Subscription{{ID: subscription, DisplayName: "One", TenantID: "tenant"}}, nil
}

func (directory) Locations(context.Context) ([]resourcemanager.Location, error) {
	return []resourcemanager.Location{{Name: "eastus", DisplayName: "East US"}, {Name: "westus", DisplayName: "West US"}}, nil
}

type anyToken struct{}

func (anyToken) Authenticate(context.Context, string) (resourcetype.Principal, error) {
	return resourcetypetest.Caller, nil
}

type credential struct{}

func (credential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// start runs the service with the types and returns options for the SDK's clients.
func start(t *testing.T, definitions ...resourcetype.Definition) (*resourcetypetest.Harness, *arm.ClientOptions) {
	t.Helper()
	h := resourcetypetest.New(t, definitions...)
	server := httptest.NewTLSServer(frontdoor.New(frontdoor.Options{
		Manager: h.Manager, Types: h.Types, Store: h.Store, Timeline: h.Reconciler, Authenticator: anyToken{}, Directory: directory{},
		Metadata: func(r *http.Request) frontdoor.Metadata {
			return frontdoor.Metadata{Name: "Local", ResourceManager: "https://" + r.Host}
		},
	}))
	t.Cleanup(server.Close)
	return h, &arm.ClientOptions{ClientOptions: policy.ClientOptions{
		Cloud: cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: server.URL, Audience: server.URL},
		}},
		Transport: server.Client(),
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}}
}

// finish waits for a long-running operation. The service asks for a second between polls.
func finish[T any](t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
