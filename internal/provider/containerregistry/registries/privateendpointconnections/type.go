// Package privateendpointconnections is the resource type
// Microsoft.ContainerRegistry/registries/privateEndpointConnections: the owner's side of a private endpoint,
// on which it is approved or rejected. A private endpoint's reconcile makes it; clients only change it.
//
// https://learn.microsoft.com/rest/api/containerregistry/private-endpoint-connections
package privateendpointconnections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.ContainerRegistry/registries/privateEndpointConnections"

const endpointsType = "Microsoft.Network/privateEndpoints"

// Model is the document of a private endpoint connection.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a private endpoint connection's.
type Properties struct {
	PrivateEndpoint *SubResource `json:"privateEndpoint,omitempty"`
	State           *State       `json:"privateLinkServiceConnectionState,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// State is how far the connection is.
type State struct {
	Status          string `json:"status"`
	Description     string `json:"description"`
	ActionsRequired string `json:"actionsRequired"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World) resourcetype.Definition { return resourcetype.Define(Spec(w)) }

// Spec declares the type.
func Spec(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:      Name,
		Placement: resourcetype.Inherited,
		Prepare:   prepare,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply private endpoint connection %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

// Approved reports whether packets may pass.
func (m *Model) Approved() bool {
	return m.Properties.State != nil && m.Properties.State.Status == "Approved"
}

// endpoint is what a connection needs to know of its private endpoint.
type endpoint struct {
	Cloister struct {
		Connection   string `json:"connection"`
		AutoApproved bool   `json:"autoApproved"`
		Description  string `json:"description"`
	} `json:"cloister"`
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	if r.Existing == nil {
		return open(ctx, r)
	}
	p.PrivateEndpoint = r.Existing.Properties.PrivateEndpoint
	old := r.Existing.Properties.State
	if p.State == nil {
		p.State = old
		return nil
	}
	const target = "properties.privateLinkServiceConnectionState.status"
	allowed := []string{"Approved", "Rejected", "Pending", "Disconnected"}
	at := slices.IndexFunc(allowed, func(a string) bool { return strings.EqualFold(a, p.State.Status) })
	if at < 0 {
		return armerror.New("InvalidParameter", "The connection status '%s' is invalid. Allowed values: %s.", p.State.Status, strings.Join(allowed, ", ")).WithTarget(target)
	}
	p.State.Status = allowed[at]
	// Pending goes to Approved or Rejected, Approved to Rejected; Rejected and Disconnected are the end.
	if old != nil && old.Status != p.State.Status && (p.State.Status == "Pending" || old.Status == "Rejected" || old.Status == "Disconnected") {
		return armerror.New("PrivateEndpointConnectionStateTransitionNotAllowed", "The private endpoint connection %s cannot go from %s to %s.", r.ID.Name(), old.Status, p.State.Status).WithTarget(target)
	}
	if p.State.ActionsRequired == "" {
		p.State.ActionsRequired = "None"
	}
	return nil
}

// open makes the connection that a private endpoint's document names; nothing else makes one.
func open(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	notFound := armerror.New(armerror.ResourceNotFound, "The private endpoint connection '%s' does not exist. It is made by a private endpoint to the registry.", r.ID.Name())
	if p.PrivateEndpoint == nil {
		return notFound
	}
	id, err := resourceid.Parse(p.PrivateEndpoint.ID)
	if err != nil || !id.Is(endpointsType) {
		return notFound
	}
	var e endpoint
	if err := r.Documents.Get(ctx, id, &e); errors.Is(err, resourcestore.ErrNotFound) {
		return notFound
	} else if err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	if !strings.EqualFold(e.Cloister.Connection, r.ID.String()) {
		return notFound
	}
	p.PrivateEndpoint = &SubResource{id.String()}
	p.State = &State{Status: "Pending", Description: e.Cloister.Description, ActionsRequired: "None"}
	if e.Cloister.AutoApproved {
		p.State = &State{Status: "Approved", Description: "Auto-Approved", ActionsRequired: "None"}
	}
	return nil
}
