// Package resourcetypetest runs resource types on an in-memory store, for the tests of resource types:
// a Harness with the whole protocol but HTTP, and Conformance, which holds what is true of every type.
package resourcetypetest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/reconcile"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/memory"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// What every Harness has.
const (
	Subscription = "00000000-0000-0000-0000-000000000001"
	Group        = "rg"
	Location     = "eastus"
	APIVersion   = "2024-05-01"
)

// Caller is the principal that a Harness's requests come from.
var Caller = resourcetype.Principal{ObjectID: "0b1ec7", AppID: "app", TenantID: "tenant", Name: "tester"}

// Harness is an ARM service without HTTP for the types of one test, with resource group "rg" in eastus.
type Harness struct {
	T          testing.TB
	Store      resourcestore.Store
	Types      *resourcetype.Types
	Manager    *resourcemanager.Manager
	Reconciler *reconcile.Reconciler
	// Wait bounds how long Put and the like wait for an operation; 10 s.
	Wait time.Duration

	log    *slog.Logger
	mu     sync.Mutex
	denied map[string]bool
}

// New starts a service with the definitions. A stub stands in for resource groups unless they are defined.
func New(t testing.TB, definitions ...resourcetype.Definition) *Harness {
	t.Helper()
	return NewOn(t, memory.New(), definitions...)
}

// NewOn is New on a store that may hold documents already.
func NewOn(t testing.TB, store resourcestore.Store, definitions ...resourcetype.Definition) *Harness {
	t.Helper()
	h := NewIdle(t, store, definitions...)
	t.Cleanup(h.Start(store))
	return h
}

// NewIdle is NewOn without a reconciler: operations stay in progress until one is started.
func NewIdle(t testing.TB, store resourcestore.Store, definitions ...resourcetype.Definition) *Harness {
	t.Helper()
	groups := false
	for _, d := range definitions {
		groups = groups || strings.EqualFold(d.Name, resourcemanager.ResourceGroups)
	}
	if !groups {
		definitions = append(definitions, Stub(resourcemanager.ResourceGroups))
	}
	h := &Harness{T: t, Store: store, Types: resourcetype.NewTypes(definitions...), Wait: 10 * time.Second, denied: map[string]bool{}}
	h.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	h.Manager = h.manager(store)
	if _, err := store.Get(t.Context(), resourceid.Group(Subscription, Group)); errors.Is(err, resourcestore.ErrNotFound) {
		h.Put(h.Group(), map[string]any{"location": Location})
	}
	return h
}

func (h *Harness) manager(store resourcestore.Store) *resourcemanager.Manager {
	return resourcemanager.New(resourcemanager.Options{Store: store, Types: h.Types, Authorizer: h, Log: h.log})
}

// Start runs a reconciler over the store, which is the Harness's own or one that leads to it, until stop is called.
func (h *Harness) Start(store resourcestore.Store) (stop func()) {
	manager := h.Manager
	if store != h.Store {
		manager = h.manager(store)
	}
	r := reconcile.New(reconcile.Options{
		Store: store, Types: h.Types, Manager: manager, Log: h.log,
		Principal: func(d resourcetype.Definition) resourcetype.Principal {
			return resourcetype.Principal{ObjectID: "service:" + d.Namespace(), Name: d.Namespace()}
		},
		Backoff: func(n int) time.Duration { return time.Duration(n) * time.Millisecond },
	})
	h.Reconciler = r
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil && store == h.Store {
			h.T.Errorf("reconciler: %v", err)
		}
	}
}

// Model is a document without a type of its own.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties map[string]any    `json:"properties,omitempty"`
}

// Stub stands in for a type that the one under test points to: any document is accepted and done at once.
// Its placement is Regional for top-level types and Inherited for children; change it in the option functions.
func Stub(name string, options ...func(*resourcetype.Spec[Model])) resourcetype.Definition {
	s := resourcetype.Spec[Model]{Name: name}
	if strings.Count(name, "/") > 1 {
		s.Placement = resourcetype.Inherited
	}
	s.SubscriptionLevel = strings.EqualFold(name, resourcemanager.ResourceGroups)
	for _, o := range options {
		o(&s)
	}
	return resourcetype.Define(s)
}

// Authorize implements resourcemanager.Authorizer: everything is allowed but what Deny named.
func (h *Harness) Authorize(_ context.Context, _ resourcetype.Principal, action string, _ resourceid.ID) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.denied[strings.ToLower(action)], nil
}

// Deny takes a role action away from everyone.
func (h *Harness) Deny(action string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.denied[strings.ToLower(action)] = true
}

// Allow gives it back.
func (h *Harness) Allow(action string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.denied, strings.ToLower(action))
}

// Group is the ID of resource group "rg".
func (h *Harness) Group() resourceid.ID { return resourceid.Group(Subscription, Group) }

// ID is the resource of the type and names in group "rg", or in the subscription for a type that lies there.
func (h *Harness) ID(resourceType string, names ...string) resourceid.ID {
	if d, ok := h.Types.Lookup(resourceType); ok && d.SubscriptionLevel {
		return resourceid.MustParse("/subscriptions/"+Subscription).Resource(resourceType, names...)
	}
	return h.Group().Resource(resourceType, names...)
}

// Document is a JSON object.
type Document map[string]any

// At is the value at a dotted path, nil when there is none; numbers are array indexes: properties.subnets.0.id.
func (d Document) At(path string) any {
	var v any = map[string]any(d)
	for p := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			i := 0
			for _, c := range p {
				i = i*10 + int(c-'0')
			}
			if i < 0 || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// String is the text at a path, "" when there is none.
func (d Document) String(path string) string { s, _ := d.At(path).(string); return s }

// State is properties.provisioningState.
func (d Document) State() string { return d.String("properties.provisioningState") }

// Into reads the document into a model.
func (d Document) Into(t testing.TB, model any) {
	t.Helper()
	b, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(b, model)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func document(t testing.TB, b json.RawMessage) Document {
	t.Helper()
	var d Document
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return d
}

// Do makes a request as Caller and does not wait for its operation. body may be nil, JSON as []byte or
// json.RawMessage, or any value to be marshalled.
func (h *Harness) Do(method string, id resourceid.ID, action string, body any) (resourcemanager.Answer, error) {
	h.T.Helper()
	r := resourcemanager.Request{Method: method, ID: id, Action: action, APIVersion: APIVersion, Caller: Caller, Query: url.Values{}}
	switch b := body.(type) {
	case nil:
	case json.RawMessage:
		r.Body = b
	case []byte:
		r.Body = b
	case string:
		r.Body = json.RawMessage(b)
	default:
		j, err := json.Marshal(body)
		if err != nil {
			h.T.Fatal(err)
		}
		r.Body = j
	}
	return h.Manager.Do(context.WithoutCancel(h.T.Context()), r)
}

// Until waits until ok, which is asked again whenever something was written.
func (h *Harness) Until(what string, ok func() bool) {
	h.T.Helper()
	changed := make(chan struct{}, 1)
	stop := h.Store.Watch(func([]resourcestore.Event) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	deadline := time.After(h.Wait)
	for !ok() {
		select {
		case <-changed:
		case <-deadline:
			h.T.Fatalf("after %s it is still not so that %s", h.Wait, what)
		}
	}
}

// Finish waits for an answer's operation and returns the error that it ended with.
func (h *Harness) Finish(a resourcemanager.Answer) error {
	h.T.Helper()
	if a.Operation == nil {
		return nil
	}
	changed := make(chan struct{}, 1)
	stop := h.Store.Watch(func([]resourcestore.Event) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	deadline := time.After(h.Wait)
	for {
		o, err := h.Store.Operation(context.Background(), a.Operation.ID)
		if err != nil {
			h.T.Fatal(err)
		}
		switch o.Status {
		case resourcestore.InProgress:
		case resourcestore.Succeeded:
			return nil
		default:
			return resourcemanager.OperationError(o)
		}
		select {
		case <-changed:
		case <-deadline:
			r, _ := h.Store.Get(context.Background(), o.Resource)
			h.T.Fatalf("operation %s on %s is still in progress after %s; steps %v; document %s", o.Kind, o.Resource, h.Wait, o.Steps, r.Body)
		}
	}
}

func (h *Harness) finished(method string, id resourceid.ID, action string, body any) (Document, error) {
	h.T.Helper()
	a, err := h.Do(method, id, action, body)
	if err == nil {
		err = h.Finish(a)
	}
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		return document(h.T, a.Body), nil
	}
	return h.Get(id), nil
}

// TryPut creates or updates, waits until that is done, and returns the document as clients see it.
func (h *Harness) TryPut(id resourceid.ID, body any) (Document, error) {
	h.T.Helper()
	return h.finished(http.MethodPut, id, "", body)
}

// Put is TryPut that must succeed.
func (h *Harness) Put(id resourceid.ID, body any) Document {
	h.T.Helper()
	d, err := h.TryPut(id, body)
	if err != nil {
		h.T.Fatalf("PUT %s: %v", id, err)
	}
	return d
}

// TryPatch merges into the document and waits.
func (h *Harness) TryPatch(id resourceid.ID, body any) (Document, error) {
	h.T.Helper()
	return h.finished(http.MethodPatch, id, "", body)
}

// Post runs an action and waits.
func (h *Harness) Post(id resourceid.ID, action string, body any) (Document, error) {
	h.T.Helper()
	return h.finished(http.MethodPost, id, action, body)
}

// TryGet reads the document as clients see it.
func (h *Harness) TryGet(id resourceid.ID) (Document, error) {
	h.T.Helper()
	a, err := h.Do(http.MethodGet, id, "", nil)
	if err != nil {
		return nil, err
	}
	return document(h.T, a.Body), nil
}

// Get is TryGet that must succeed.
func (h *Harness) Get(id resourceid.ID) Document {
	h.T.Helper()
	d, err := h.TryGet(id)
	if err != nil {
		h.T.Fatalf("GET %s: %v", id, err)
	}
	return d
}

// Delete deletes and waits until the document is gone.
func (h *Harness) Delete(id resourceid.ID) error {
	h.T.Helper()
	a, err := h.Do(http.MethodDelete, id, "", nil)
	if err == nil {
		err = h.Finish(a)
	}
	return err
}

// Exists reports whether there is such a document.
func (h *Harness) Exists(id resourceid.ID) bool {
	h.T.Helper()
	_, err := h.Store.Get(context.Background(), id)
	if err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		h.T.Fatal(err)
	}
	return err == nil
}

// Stored reads the document as it is stored, cloister's memory included, into model.
func (h *Harness) Stored(id resourceid.ID, model any) {
	h.T.Helper()
	if err := h.Manager.Documents().Get(context.Background(), id, model); err != nil {
		h.T.Fatal(err)
	}
}

// List is a GET on a collection: all pages.
func (h *Harness) List(scope resourceid.ID, resourceType, filter string) []Document {
	h.T.Helper()
	c := resourcemanager.Collection{Scope: scope, Type: resourceType, APIVersion: APIVersion, Caller: Caller, Query: url.Values{"$filter": {filter}}}
	var out []Document
	for {
		p, err := h.Manager.Collect(context.Background(), c)
		if err != nil {
			h.T.Fatalf("list %s in %s: %v", resourceType, scope, err)
		}
		if p.Answer != nil {
			return append(out, document(h.T, p.Answer.Body))
		}
		for _, b := range p.Items {
			out = append(out, document(h.T, b))
		}
		if p.Next == "" {
			return out
		}
		c.Query.Set("$skiptoken", p.Next)
	}
}

// Seed stores a document as it is, past every rule: a neighbour in a state of the test's choice.
func (h *Harness) Seed(id resourceid.ID, body any) {
	h.T.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		h.T.Fatal(err)
	}
	if err := h.Store.Apply(context.Background(), resourcestore.Change{Put: &resourcestore.Resource{ID: id, Body: b}, Revision: resourcestore.Any}); err != nil {
		h.T.Fatal(err)
	}
}

// WantError fails the test unless err is an ARM error of the code.
func WantError(t testing.TB, err error, code string) *armerror.Error {
	t.Helper()
	e, ok := armerror.As(err)
	if !ok || e.Code != code {
		t.Fatalf("error is %v, want %s", err, code)
	}
	return e
}
