// Package resourcemanager executes requests on resources as Azure Resource Manager does, without HTTP:
// it looks up the type, checks name, api-version, location, permissions and preconditions, lets the type
// prepare the document, and stores document and operation in one transaction. It knows no resource type
// but resource groups and subscriptions, which are part of the protocol, and it reconciles nothing.
//
// It follows the ARM resource provider contract (Azure/azure-resource-manager-rpc, v1.0).
package resourcemanager

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// ResourceGroups is the resource type of resource groups.
const ResourceGroups = "Microsoft.Resources/resourceGroups"

// Authorizer decides what a principal may do. It is asked about every request.
type Authorizer interface {
	// Authorize reports whether the principal has the role action on the scope.
	Authorize(ctx context.Context, principal resourcetype.Principal, action string, scope resourceid.ID) (bool, error)
}

// Registration knows which resource providers a subscription is registered for.
type Registration interface {
	Registered(ctx context.Context, subscription, namespace string) (bool, error)
}

// Location is a region.
type Location struct {
	Name        string // eastus
	DisplayName string // East US
}

// Directory knows the subscriptions and regions there are.
type Directory interface {
	// Subscription reports whether there is such a subscription.
	Subscription(ctx context.Context, id string) (bool, error)
	// Locations are the regions that regional resources can be in.
	Locations(ctx context.Context) ([]Location, error)
}

// Options are what a Manager depends on.
type Options struct {
	Store        resourcestore.Store // required
	Types        *resourcetype.Types // required
	Authorizer   Authorizer          // required
	Directory    Directory           // optional: any subscription, any location
	Registration Registration        // optional: every provider is registered
	Log          *slog.Logger        // optional
	// SynchronousWait is how long a request on a Synchronous type waits for its reconcile; 30 s by default.
	SynchronousWait time.Duration
}

// Manager is safe for concurrent use.
type Manager struct {
	store        resourcestore.Store
	types        *resourcetype.Types
	authorizer   Authorizer
	directory    Directory
	registration Registration
	log          *slog.Logger
	wait         time.Duration

	// writing is held from the first read of a write to its commit: what Prepare allocates (an address, a
	// name) is chosen by looking at other documents, and two must not choose the same.
	writing sync.Mutex
}

// New returns a Manager.
func New(o Options) *Manager {
	m := &Manager{
		store: o.Store, types: o.Types, authorizer: o.Authorizer, directory: o.Directory, registration: o.Registration,
		log: o.Log, wait: o.SynchronousWait,
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.wait == 0 {
		m.wait = 30 * time.Second
	}
	return m
}

// Request is one request on a resource.
type Request struct {
	Method      string // GET, HEAD, PUT, PATCH, DELETE or POST
	ID          resourceid.ID
	Action      string // of a POST
	APIVersion  string
	Query       url.Values
	Caller      resourcetype.Principal
	Body        json.RawMessage
	IfMatch     string
	IfNoneMatch string
	Arguments   []string // names of the command line's arguments, where the client says them

	// internal requests are made by a reconcile; see client.
	internal bool
	// retryBefore: an internal PUT starts a Failed resource again when it failed before this time, and an internal
	// DELETE asks again for what was refused before it.
	retryBefore time.Time
}

// Answer is what a request that succeeded is answered with.
type Answer struct {
	Status    int
	Body      json.RawMessage // nil for none
	ETag      string
	Location  string                   // of an action's Response
	Operation *resourcestore.Operation // set when the work goes on

	state string // provisioning state, for Client
}

// Do executes the request. Errors that the caller can mend are *armerror.Error.
func (m *Manager) Do(ctx context.Context, r Request) (Answer, error) {
	d, err := m.definition(r.ID)
	if err != nil {
		return Answer{}, err
	}
	if err := CheckAPIVersion(r.APIVersion); err != nil {
		return Answer{}, err
	}
	if d.Endpoint != nil {
		over := r.ID.Scope()
		if parent, ok := r.ID.Parent(); ok && len(r.ID.Names()) > 1 {
			over = parent
		}
		return m.endpoint(ctx, d, r.Method, over, resourcetype.EndpointRequest{
			Scope: r.ID.Scope(), Names: r.ID.Names(), Action: r.Action, Caller: r.Caller, APIVersion: r.APIVersion, Query: r.Query, Body: r.Body,
		})
	}
	r.ID = canonical(d, r.ID)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return m.get(ctx, d, r)
	case http.MethodPut, http.MethodPatch:
		if d.NoPut {
			return Answer{}, notAllowed(r.Method, d)
		}
		return m.write(ctx, d, r)
	case http.MethodDelete:
		if d.NoDelete {
			return Answer{}, notAllowed(r.Method, d)
		}
		return m.delete(ctx, d, r)
	case http.MethodPost:
		return m.act(ctx, d, r)
	}
	return Answer{}, notAllowed(r.Method, d)
}

func notAllowed(method string, d resourcetype.Definition) error {
	return armerror.New(armerror.MethodNotAllowed, "The HTTP method '%s' is not supported for resources of type '%s'.", method, d.Name)
}

// definition finds the type of a resource.
func (m *Manager) definition(id resourceid.ID) (resourcetype.Definition, error) {
	d, ok := m.types.Lookup(id.Type())
	if ok && m.levelFits(d, id) {
		return d, nil
	}
	if ok {
		return d, armerror.New(armerror.InvalidResourceType, "The resource type '%s' is not found at the scope '%s'.", strings.Join(d.Types(), "/"), id.Scope())
	}
	return d, UnknownType(m.types, id.Namespace(), strings.TrimPrefix(id.Type(), id.Namespace()+"/"))
}

// UnknownType is the error for a type that there is none of.
func UnknownType(types *resourcetype.Types, namespace, name string) error {
	ns, ok := types.Namespace(namespace)
	if !ok {
		return armerror.New(armerror.InvalidResourceNamespace, "The resource namespace '%s' is invalid.", namespace)
	}
	return armerror.New(armerror.InvalidResourceType, "The resource type '%s' could not be found in the namespace '%s'.", name, ns)
}

// levelFits: subscription-level types lie in a subscription, others in a resource group, extensions anywhere.
func (m *Manager) levelFits(d resourcetype.Definition, id resourceid.ID) bool {
	switch {
	case d.Extension, d.Endpoint != nil, strings.EqualFold(d.Name, ResourceGroups):
		return true
	case d.SubscriptionLevel:
		return id.Subscription() != "" && id.Scope().Equal(resourceid.MustParse("/subscriptions/"+id.Subscription()))
	}
	return id.ResourceGroup() != "" && id.Scope().Equal(id.GroupID())
}

// canonical spells the fixed words of an ID as ARM does and leaves names as the client wrote them. The
// scope of an extension is left alone: clients compare it exactly.
func canonical(d resourcetype.Definition, id resourceid.ID) resourceid.ID {
	switch {
	case d.Extension:
		return id
	case strings.EqualFold(d.Name, ResourceGroups):
		return resourceid.Group(id.Subscription(), id.ResourceGroup())
	case id.ResourceGroup() != "":
		return id.GroupID().Resource(d.Name, id.Names()...)
	}
	return resourceid.MustParse("/subscriptions/"+id.Subscription()).Resource(d.Name, id.Names()...)
}

// begin makes an operation that is in progress.
func begin(id resourceid.ID, kind, location, apiVersion string) *resourcestore.Operation {
	if location == "" {
		location = "global"
	}
	return &resourcestore.Operation{
		ID: uuid.NewString(), Resource: id, Kind: kind, Location: location, APIVersion: apiVersion,
		Status: resourcestore.InProgress, Start: time.Now().UTC(),
	}
}
