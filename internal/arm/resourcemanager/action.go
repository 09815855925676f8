package resourcemanager

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// act answers POST on a resource.
func (m *Manager) act(ctx context.Context, d resourcetype.Definition, r Request) (Answer, error) {
	action, ok := d.Action(r.Action)
	if !ok {
		return Answer{}, armerror.New(armerror.NotFound, "The resource type '%s' has no action '%s'.", d.Name, r.Action)
	}
	if err := m.Authorize(ctx, r.Caller, action.Permission, r.ID); err != nil {
		return Answer{}, err
	}
	existing, err := m.find(ctx, d, r.ID)
	if err != nil {
		return Answer{}, err
	}
	if err := checkPrecondition(r, &existing); err != nil {
		return Answer{}, err
	}
	// Handle runs outside the lock: it may take as long as a command in a cluster takes.
	result, body, err := d.Act(ctx, &resourcetype.Deed{
		Resource: existing, Name: action.Name, Caller: r.Caller, APIVersion: r.APIVersion, Query: r.Query, Body: r.Body, Documents: m.documents(),
	})
	if err != nil {
		return Answer{}, err
	}
	var op *resourcestore.Operation
	if body != nil {
		if op, err = m.storeAction(ctx, d, r, existing, action, body); err != nil {
			return Answer{}, err
		}
	}
	if op != nil && result == nil {
		return Answer{Status: http.StatusAccepted, Operation: op}, nil
	}
	return respond(result)
}

// storeAction stores what an action changed, with the operation that the type's reconcile will do.
func (m *Manager) storeAction(ctx context.Context, d resourcetype.Definition, r Request, existing resourcestore.Resource, action resourcetype.ActionInfo, body json.RawMessage) (*resourcestore.Operation, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	t := m.transaction(r)
	if err := t.checkBusy(ctx, d, existing); err != nil {
		return nil, err
	}
	var op *resourcestore.Operation
	state := resourcestore.Succeeded
	if d.Reconciles {
		state = d.Updating
		if set := resourcetype.State(body); set != resourcetype.State(existing.Body) && !terminal(set) {
			state = set
		}
		op = begin(existing.ID, action.Name, LocationOf(body), r.APIVersion)
	}
	next := existing
	next.Body = body
	if !d.NoState {
		var err error
		if next.Body, err = resourcetype.WithState(body, state); err != nil {
			return nil, err
		}
	}
	t.changes = append(t.changes, resourcestore.Change{Put: &next, Revision: existing.Revision})
	if op != nil {
		t.changes = append(t.changes, resourcestore.Change{Operation: op})
	}
	if err := t.commit(ctx); err != nil {
		return nil, fmt.Errorf("store what the action %s changed: %w", action.Name, err)
	}
	return op, nil
}

// terminal states end a client's polling.
func terminal(state string) bool {
	return state == "" || state == resourcestore.Succeeded || state == resourcestore.Failed || state == resourcestore.Canceled
}

// respond is the answer for a result of an action or endpoint.
func respond(result any) (Answer, error) {
	if result == nil {
		return Answer{Status: http.StatusNoContent}, nil
	}
	a := Answer{Status: http.StatusOK}
	if r, ok := result.(*resourcetype.Response); ok {
		a.Location = r.Location
		if r.Status != 0 {
			a.Status = r.Status
		}
		if r.Body == nil {
			return a, nil
		}
		result = r.Body
	}
	body, err := json.Marshal(result)
	if err != nil {
		return Answer{}, fmt.Errorf("encode the result: %w", err)
	}
	a.Body = body
	return a, nil
}

// endpoint answers a request on an Endpoint from whoever has the permission over what it lies under: what came of a
// command is its cluster's.
func (m *Manager) endpoint(ctx context.Context, d resourcetype.Definition, method string, over resourceid.ID, r resourcetype.EndpointRequest) (Answer, error) {
	handle, permission := d.Endpoint.Get, d.Name+"/read"
	r.Method = http.MethodGet
	switch method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		r.Method = method
		handle, permission = d.Endpoint.Post, d.Name+"/action"
	default:
		handle = nil
	}
	if handle == nil {
		return Answer{}, notAllowed(method, d)
	}
	if d.Endpoint.Permission != "" {
		permission = d.Endpoint.Permission
	}
	if err := m.Authorize(ctx, r.Caller, permission, over); err != nil {
		return Answer{}, err
	}
	if err := m.checkScope(ctx, d, r.Scope); err != nil {
		return Answer{}, err
	}
	r.Documents = m.documents()
	result, err := handle(ctx, &r)
	if err != nil {
		return Answer{}, err
	}
	return respond(result)
}
