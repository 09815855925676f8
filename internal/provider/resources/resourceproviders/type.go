// Package resourceproviders keeps which resource providers a subscription is registered for. ARM names a
// provider by a path that is no resource ID (/subscriptions/S/providers/NAMESPACE), so the document lies at
// /subscriptions/S/providers/Microsoft.Resources/providers/NAMESPACE and whoever routes requests maps one to the other.
//
// https://learn.microsoft.com/rest/api/resources/providers
package resourceproviders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the type of the documents.
const Name = "Microsoft.Resources/providers"

// States of a registration. A subscription starts registered for every provider, so that nothing has to be
// registered first; unregistering is remembered.
const (
	Registered   = "Registered"
	Unregistered = "Unregistered"
)

// Model is the document of a registration.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a registration's.
type Properties struct {
	Namespace         string `json:"namespace"`
	RegistrationState string `json:"registrationState"`
}

// Provider is a resource provider as ARM answers it.
type Provider struct {
	ID                 string         `json:"id"`
	Namespace          string         `json:"namespace"`
	RegistrationState  string         `json:"registrationState"`
	RegistrationPolicy string         `json:"registrationPolicy"`
	ResourceTypes      []ProviderType `json:"resourceTypes"`
}

// ProviderType is a resource type of a provider.
type ProviderType struct {
	ResourceType string   `json:"resourceType"`
	Locations    []string `json:"locations"`
	APIVersions  []string `json:"apiVersions"`
}

// ID is the registration's document in a subscription.
func ID(subscription, namespace string) resourceid.ID {
	return resourceid.MustParse("/subscriptions/"+subscription).Resource(Name, namespace)
}

// Type is the resource type; see Spec for its arguments.
func Type(namespaces []string) resourcetype.Definition { return resourcetype.Define(Spec(namespaces)) }

// Spec declares the type of the documents. namespaces are the providers there are, as Azure spells them.
func Spec(namespaces []string) resourcetype.Spec[Model] {
	spelled := func(namespace string) (string, bool) {
		for _, n := range namespaces {
			if strings.EqualFold(n, namespace) {
				return n, true
			}
		}
		return "", false
	}
	set := func(state string) resourcetype.Action[Model] {
		return resourcetype.Action[Model]{
			Permission: "Microsoft.Resources/subscriptions/providers/register/action",
			Handle: func(_ context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
				r.Model.Properties.RegistrationState = state
				return answer(r.ID.Subscription(), r.Model.Properties), nil
			},
		}
	}
	return resourcetype.Spec[Model]{
		Name: Name, Placement: resourcetype.Inherited, SubscriptionLevel: true, NoState: true, NoPut: true, NoDelete: true,
		Find: func(_ context.Context, id resourceid.ID, _ resourcetype.Reader) (resourcestore.Resource, error) {
			n, ok := spelled(id.Name())
			if !ok {
				return resourcestore.Resource{}, armerror.New(armerror.InvalidResourceNamespace, "The resource namespace '%s' is invalid.", id.Name())
			}
			body, err := json.Marshal(Model{Properties{Namespace: n, RegistrationState: Registered}})
			return resourcestore.Resource{ID: ID(id.Subscription(), n), Body: body}, err
		},
		Actions: map[string]resourcetype.Action[Model]{"register": set(Registered), "unregister": set(Unregistered)},
	}
}

func answer(subscription string, p Properties) Provider {
	return Provider{
		ID: "/subscriptions/" + subscription + "/providers/" + p.Namespace, Namespace: p.Namespace, RegistrationState: p.RegistrationState,
		RegistrationPolicy: "RegistrationRequired", ResourceTypes: []ProviderType{},
	}
}

// Get is the registration of one provider, without its resource types.
func Get(ctx context.Context, docs resourcetype.Reader, subscription, namespace string) (Provider, error) {
	var m Model
	err := docs.Get(ctx, ID(subscription, namespace), &m)
	switch {
	case errors.Is(err, resourcestore.ErrNotFound):
		m.Properties = Properties{Namespace: namespace, RegistrationState: Registered}
	case err != nil:
		return Provider{}, fmt.Errorf("read the registration of %s: %w", namespace, err)
	}
	return answer(subscription, m.Properties), nil
}

// IsRegistered reports whether the subscription may use the provider.
func IsRegistered(ctx context.Context, docs resourcetype.Reader, subscription, namespace string) (bool, error) {
	p, err := Get(ctx, docs, subscription, namespace)
	return p.RegistrationState == Registered, err
}
