// Package features is the resource type Microsoft.Features/providers/features: preview features that a
// subscription registers for. A feature's state needs no one to change it: it follows from when it was asked for.
//
//	NotRegistered → register → Registering → (settle) → Registered → unregister → Unregistered
//
// https://learn.microsoft.com/rest/api/resources/features
package features

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type. A feature's names are its provider's namespace and its own.
const Name = "Microsoft.Features/providers/features"

// NameAll is the collection of all providers' features.
const NameAll = "Microsoft.Features/features"

// settle is how long a registration takes; in Azure it is minutes.
const settle = 2 * time.Second

// States of a feature.
const (
	NotRegistered = "NotRegistered"
	Registering   = "Registering"
	Registered    = "Registered"
	Unregistered  = "Unregistered"
)

// Model is the document of a feature.
type Model struct {
	Name       string     `json:"name,omitempty"`
	Properties Properties `json:"properties"`
	Cloister   *Memory    `json:"cloister,omitempty"`
}

// Properties are a feature's.
type Properties struct {
	State string `json:"state"`
}

// Memory is what Cloister keeps of a feature.
type Memory struct {
	Asked time.Time `json:"asked"` // when registration was asked for
}

// known are the features there are. Both are generally available in Azure by now, and asked for by the
// scripts of their preview.
var known = [][2]string{
	{"Microsoft.ContainerService", "EnableAPIServerVnetIntegrationPreview"},
	{"Microsoft.ContainerService", "NetworkIsolatedClusterPreview"},
}

// State is the feature's state at a time.
func (m *Model) State(now time.Time) string {
	if m.Properties.State == Registering && m.Cloister != nil && now.Sub(m.Cloister.Asked) >= settle {
		return Registered
	}
	return m.Properties.State
}

// ID is the feature's resource ID in a subscription.
func ID(subscription, namespace, feature string) resourceid.ID {
	return resourceid.MustParse("/subscriptions/"+subscription).Resource(Name, namespace, feature)
}

// Types are the resource type and the collection of all providers' features. now is the clock.
func Types(now func() time.Time) []resourcetype.Definition {
	return []resourcetype.Definition{resourcetype.Define(Spec(now)), resourcetype.Define(All(now))}
}

// Spec declares the type. now is the clock.
func Spec(now func() time.Time) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: Name, Placement: resourcetype.Inherited, SubscriptionLevel: true, NoState: true, NoPut: true, NoDelete: true,
		Find: find,
		List: func(ctx context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			return list(ctx, r.Documents, r.Scope, r.Scope.Name())
		},
		Render: func(_ context.Context, v *resourcetype.View[Model]) error {
			v.Model.Properties.State = v.Model.State(now())
			v.Model.Name = fullName(v.ID)
			return nil
		},
		Actions: map[string]resourcetype.Action[Model]{
			"register": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
				if s := r.Model.State(now()); s != Registered && s != Registering {
					r.Model.Properties.State = Registering
					r.Model.Cloister = &Memory{Asked: now().UTC()}
				}
				return answer(r.ID, r.Model.State(now())), nil
			}},
			"unregister": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
				r.Model.Properties.State, r.Model.Cloister = Unregistered, nil
				return answer(r.ID, Unregistered), nil
			}},
		},
	}
}

// All declares the collection of a subscription's features of all providers.
func All(now func() time.Time) resourcetype.Spec[Model] {
	s := Spec(now)
	s.Name, s.Find, s.Actions = NameAll, nil, nil
	s.List = func(ctx context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
		return list(ctx, r.Documents, r.Scope, "")
	}
	return s
}

// fullName is the name of a feature in its document: that of its provider is part of it.
func fullName(id resourceid.ID) string { return strings.Join(id.Names(), "/") }

func answer(id resourceid.ID, state string) any {
	return map[string]any{"id": id.String(), "name": fullName(id), "type": Name, "properties": map[string]any{"state": state}}
}

// find is a known feature that nobody registered yet, or FeatureNotFound.
func find(_ context.Context, id resourceid.ID, _ resourcetype.Reader) (resourcestore.Resource, error) {
	names := id.Names()
	for _, k := range known {
		if len(names) == 2 && strings.EqualFold(names[0], k[0]) && strings.EqualFold(names[1], k[1]) {
			body, err := json.Marshal(map[string]any{"type": Name, "properties": Properties{State: NotRegistered}})
			return resourcestore.Resource{ID: ID(id.Subscription(), k[0], k[1]), Body: body}, err
		}
	}
	return resourcestore.Resource{}, armerror.New("FeatureNotFound", "The feature '%s' could not be found.", id.Name()).WithStatus(404)
}

// list are the features of one provider, or of all for "".
func list(ctx context.Context, docs resourcetype.Reader, scope resourceid.ID, namespace string) ([]resourcestore.Resource, error) {
	features := []resourcestore.Resource{}
	for _, k := range known {
		if namespace != "" && !strings.EqualFold(namespace, k[0]) {
			continue
		}
		id := ID(scope.Subscription(), k[0], k[1])
		var body json.RawMessage
		err := docs.Get(ctx, id, &body)
		if err == nil {
			features = append(features, resourcestore.Resource{ID: id, Body: body})
			continue
		}
		absent, err := find(ctx, id, docs)
		if err != nil {
			return nil, fmt.Errorf("list features: %w", err)
		}
		features = append(features, absent)
	}
	return features, nil
}
