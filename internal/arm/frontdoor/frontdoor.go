// Package frontdoor answers Azure Resource Manager's HTTP: middleware, one duty per file; routing by the
// shape of the path and the table of types; paging; and the only place that writes errors to clients.
// It knows no resource type, and decides nothing about resources: the resource manager does.
//
// It follows the ARM resource provider contract (Azure/azure-resource-manager-rpc) and what az and the
// SDKs were seen to need.
package frontdoor

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/cloister-dev/cloister/internal/arm/operation"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Authenticator knows whom a bearer token is from.
type Authenticator interface {
	// Authenticate returns the principal, or an error that wraps ErrTokenExpired when the token was valid once.
	// The error's text is not shown to the client.
	Authenticate(ctx context.Context, token string) (resourcetype.Principal, error)
}

// Tenant is an Entra tenant.
type Tenant struct {
	ID            string
	DisplayName   string
	DefaultDomain string
}

// Subscription is an Azure subscription.
type Subscription struct {
	ID          string
	DisplayName string
	TenantID    string
}

// Directory knows tenants, subscriptions and regions.
type Directory interface {
	Tenants(ctx context.Context) ([]Tenant, error)
	Subscriptions(ctx context.Context) ([]Subscription, error)
	Locations(ctx context.Context) ([]resourcemanager.Location, error)
}

// Registrar keeps which resource providers a subscription is registered for.
type Registrar interface {
	// State is Registered, NotRegistered, Registering or Unregistered.
	State(ctx context.Context, subscription, namespace string) (string, error)
	// Set registers or unregisters.
	Set(ctx context.Context, subscription, namespace string, registered bool) error
}

// Options are what the front door depends on.
type Options struct {
	Manager       *resourcemanager.Manager // required
	Types         *resourcetype.Types      // required
	Store         resourcestore.Store      // required
	Authenticator Authenticator            // required
	Directory     Directory                // required
	Timeline      operation.Timeline       // optional: steps of running operations
	Registrar     Registrar                // optional: every provider is registered
	Log           *slog.Logger             // optional
	// Throttling tells whether Limits hold; nil: they never do.
	Throttling func() (bool, error)
	Limits     []Limit
	// Metadata describes this cloud to clients that were given its address only. The request tells under
	// which name they know it.
	Metadata func(r *http.Request) Metadata // required
	// AuthorityURL is where tokens come from, for the WWW-Authenticate header.
	AuthorityURL string
	// Region is named in x-ms-routing-request-id; "LOCAL" by default.
	Region string
}

type server struct {
	Options
	operations operation.Operations
}

// New returns the handler.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Region == "" {
		o.Region = "LOCAL"
	}
	s := &server{Options: o, operations: operation.Operations{Store: o.Store, Timeline: o.Timeline}}
	var h http.Handler = s.handler(s.route)
	// From the inside out. Audit stands inside authentication, to know who it was, and outside of what may
	// still refuse the request.
	for _, wrap := range []func(http.Handler) http.Handler{
		s.apiVersion, s.body, s.contentType, s.throttle, s.audit, s.authenticate, s.public, s.panics, s.correlation,
	} {
		h = wrap(h)
	}
	return h
}

// call is what the middleware has found out about a request.
type call struct {
	segments    []string // of the path, unescaped, without empty ones
	principal   resourcetype.Principal
	body        []byte
	apiVersion  string
	correlation string
	request     string
}

type callKey struct{}

func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// handler turns a function that returns an error into a handler.
func (s *server) handler(fn func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := fn(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}
