// Package resourcetype lets a resource type be one declaration: a Spec, made into a Definition. From
// it the protocol derives routes, role actions, asynchronous operations, paging, the /providers and
// /operations lists and the reference documentation. The package knows no HTTP and no resource type.
//
// A document is stored as it was sent, as a JSON object, and read through one tolerant model per
// type. A property that the model does not know survives. Top-level key "cloister" of a model is
// Cloister's own memory of the resource (allocated addresses and the like): it is never accepted from
// a client and never shown to one.
package resourcetype

import (
	"context"
	"encoding/json"
	"regexp"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// Placement says what a resource's location must be.
type Placement int

// Where the resources of a type lie.
const (
	Regional  Placement = iota // a location is required and never changes
	Global                     // location is "global"
	Inherited                  // no location of its own: child and extension resources
)

// Spec declares a resource type with the model M of its documents. M is a struct with JSON tags whose
// fields may be id, name, location, tags, identity, sku, properties, cloister; every one with omitempty
// unless its absence breaks a client.
type Spec[M any] struct {
	// Name is the full type as Azure spells it: Microsoft.Network/virtualNetworks/subnets.
	Name      string
	Placement Placement
	// DisplayType, when set, is what the document's type property says where Azure's spelling there differs from Name.
	DisplayType string
	// NameRule is what the last name must match; nil accepts what ARM accepts anywhere.
	NameRule *regexp.Regexp
	// NameCode and NameMessage are the error when it does not; InvalidResourceName and a general text by default.
	NameCode, NameMessage string
	// Extension is true when the type extends any other resource (role assignments).
	Extension bool
	// SubscriptionLevel is true when resources lie in the subscription rather than in a resource group.
	SubscriptionLevel bool

	// Prepare turns the request's model into the document to be stored: it validates, fills in defaults,
	// keeps what is read-only from Existing, and allocates names and addresses. It returns an
	// *armerror.Error for what the user can mend. It may look at other documents and must change nothing
	// but the request.
	Prepare func(ctx context.Context, r *Request[M]) error
	// PrepareDelete refuses a delete (in use) by an *armerror.Error. Nil allows it.
	PrepareDelete func(ctx context.Context, r *Request[M]) error
	// References names the other resources that the document points to. They wake its reconcile when
	// they change, and Linked permissions are demanded of the caller.
	References func(m *M) []Reference
	// Render fills in what the answer shows and the document does not hold (children, connections).
	Render func(ctx context.Context, v *View[M]) error
	// Reconcile makes the machine agree with the document. Nil: the document is done when stored.
	Reconcile func(ctx context.Context, r *Reconciliation[M]) (Result, error)
	// Synchronous types answer PUT and DELETE without an operation though they have a Reconcile, which then runs before the answer.
	Synchronous bool
	// Creating, Updating, Deleting override the provisioningState shown meanwhile ("Creating", "Updating", "Deleting").
	Creating, Updating string
	// Actions are POST /ID/NAME.
	Actions map[string]Action[M]
	// Find answers for documents that are not stored (built-in ones); asked when the store has none. It
	// returns resourcestore.ErrNotFound when there is no such document either.
	Find func(ctx context.Context, id resourceid.ID, documents Reader) (resourcestore.Resource, error)
	// List selects what a GET on a collection of the type shows. Nil shows the stored documents of the
	// type directly in the scope (or anywhere below a group or subscription).
	List func(ctx context.Context, r *ListRequest) ([]resourcestore.Resource, error)
	// BusyCode is the error of a write while an operation is in progress; AnotherOperationInProgress by default.
	BusyCode string
	// NoState is true for types whose documents have no properties.provisioningState.
	NoState bool
	// NoPut, NoDelete: the type cannot be written, or deleted, by clients (405).
	NoPut, NoDelete bool
}

// Reference is one resource ID in a document.
type Reference struct {
	Property string // path, properties.subnet.id
	ID       resourceid.ID
	Linked   string // role action the caller needs on it, such as Microsoft.Network/virtualNetworks/subnets/join/action; "" for none
}

// Principal is who makes a request.
type Principal struct {
	ObjectID string
	AppID    string
	TenantID string
	Name     string
}

// Request is a PUT, PATCH or DELETE before anything is stored.
type Request[M any] struct {
	ID         resourceid.ID
	Caller     Principal
	APIVersion string
	// Model is the document asked for; with PATCH already merged over the existing one. Prepare changes it in place.
	Model *M
	// Existing is the stored document, nil when the request creates.
	Existing *M
	// Sent is the body as it came, for rules on presence (null and absent differ); nil on DELETE.
	Sent map[string]json.RawMessage
	// Documents reads other documents, those of this same request included.
	Documents Reader
	// Arguments are the names of the arguments, such as --tags or -g, of the command line that made the request, where
	// the client says them, as az does. They are what was typed, so a name may be cut short. They tell what a client
	// kept to itself, and are no part of what is asked for.
	Arguments []string

	children []ChildDocument
	removed  []resourceid.ID
}

// ChildDocument is a document to be written in the same transaction as its parent.
type ChildDocument struct {
	ID   resourceid.ID
	Body any
}

// PutChild has a child resource written with this one in one transaction, through its own type's Prepare.
// It serves documents that carry their children inline (subnets of a virtual network).
func (r *Request[M]) PutChild(id resourceid.ID, body any) {
	r.children = append(r.children, ChildDocument{id, body})
}

// DeleteChild has a child resource deleted together with this write. PutChild for the same ID wins.
func (r *Request[M]) DeleteChild(id resourceid.ID) { r.removed = append(r.removed, id) }

// View is a document about to be shown.
type View[M any] struct {
	ID        resourceid.ID
	Model     *M
	Documents Reader
	// Status is the HTTP status of a GET's answer; 0 stands for 200. Results of commands answer 202 until they are there.
	Status int
}

// ListRequest is a GET on a collection.
type ListRequest struct {
	Scope     resourceid.ID // what the collection lies in
	Type      string
	Filter    string // $filter as sent
	Caller    Principal
	Query     map[string][]string
	Documents Reader
}

// Reader reads documents of any type, as stored.
type Reader interface {
	// Get reads the document into model; resourcestore.ErrNotFound when there is none.
	Get(ctx context.Context, id resourceid.ID, model any) error
	// List returns the documents of the type under a resource, at any depth, in order of ID. A zero ID means everywhere.
	List(ctx context.Context, under resourceid.ID, resourceType string) ([]resourcestore.Resource, error)
}

// Client acts on resources as the first-party principal of a type's service, through the same
// validation, role checks and store as any client. It does not wait for operations: the caller's
// reconcile is woken when a resource that it references, or that lies under it, changes.
type Client interface {
	Reader
	// Put creates or updates; body is marshalled to JSON. It does nothing when the stored document already has
	// every property of body. It returns the document's provisioning state.
	Put(ctx context.Context, id resourceid.ID, apiVersion string, body any) (state string, err error)
	// Delete asks for deletion; no error when there is nothing. It returns true when the resource is gone, and
	// the error of a deletion that was asked for since the reconcile's operation began and failed.
	Delete(ctx context.Context, id resourceid.ID) (gone bool, err error)
}

// Reconciliation is one run of a type's Reconcile. Runs for one resource never overlap. A run may be
// ended at any line by the end of the process and is then started again.
type Reconciliation[M any] struct {
	ID       resourceid.ID
	Model    *M
	Deleting bool
	Client   Client
	// Save writes Model's changes down now: a name must be stored before the thing it names is made.
	Save func(ctx context.Context) error
	// Step records progress in the operation for those who watch it. It is cheap; call it at each turn.
	Step func(name string)
	// Attempt counts the runs since the document last changed or was last done, from 1.
	Attempt int
	// Requested tells that an operation is in progress: somebody asked for this run, and waits for its outcome. Without,
	// something that the document refers to has changed since it was done.
	Requested bool
}

// Result tells what is to happen after a Reconcile without error.
type Result struct {
	// Waiting: not done; run again when a referenced resource or a child changes, or after Again.
	Waiting bool
	// Again is the longest time to wait, 0 for no limit. Without Waiting, a done resource is run again then.
	Again time.Duration
	// Report, when it is not nil, is shown with the PUT or PATCH that this run completes, as JSON: the properties of
	// its operation.
	Report any
}

// Errors of Reconcile: an *armerror.Error is final, and fails the operation with it until the next
// request. Any other error is tried again with back-off, and fails the operation after the last try.

// Action is a POST on a resource.
type Action[M any] struct {
	// Permission overrides the role action, TYPE/NAME/action.
	Permission string
	// Handle answers the request: 200 with the result as JSON, or what a *Response says. A nil result
	// answers 204, or 202 with an operation when the model was changed: the type's Reconcile then does the
	// work. A provisioningState that Handle sets is shown meanwhile.
	Handle func(ctx context.Context, r *ActionRequest[M]) (result any, err error)
}

// ActionRequest is a POST on a resource.
type ActionRequest[M any] struct {
	ID         resourceid.ID
	Name       string
	Caller     Principal
	APIVersion string
	Query      map[string][]string
	Body       json.RawMessage
	Model      *M // changes are stored when Handle returns without error
	Documents  Reader
}

// Response is an action's result with a status of its own. A Location that starts with a slash is
// completed with the host and api-version of the request.
type Response struct {
	Status   int
	Location string
	Body     any
}

// EndpointRequest is a request to an Endpoint.
type EndpointRequest struct {
	Method     string        // GET or POST
	Scope      resourceid.ID // subscription, resource group, resource or tenant before /providers/
	Names      []string      // one per part of the type; one fewer when the collection itself was asked for
	Action     string        // POST: what follows the last name
	Caller     Principal
	APIVersion string
	Query      map[string][]string
	Body       json.RawMessage
	Documents  Reader
}

// Endpoint declares a path that answers without documents of its own: lists of versions of a location,
// upgrade profiles, name checks.
type Endpoint struct {
	// Name is the path's type, Microsoft.ContainerService/locations/kubernetesVersions.
	Name string
	// Permission is the role action demanded; NAME/read for GET and NAME/action for POST by default.
	Permission string
	// Get and Post answer with a value, or a *Response; nil: 405.
	Get, Post func(ctx context.Context, r *EndpointRequest) (any, error)
}
