// Package resourceproviders keeps which resource providers a subscription is registered for. It is no
// resource type: ARM names a provider by a path that is no resource ID, and the front door answers it. The
// registrations are documents all the same, so that they are kept where everything is.
//
// https://learn.microsoft.com/azure/azure-resource-manager/management/resource-providers-and-types
package resourceproviders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// documentType is the type in the IDs of the documents; it is not served.
const documentType = "Microsoft.Resources/providerRegistrations"

// States of a registration. A subscription starts registered for every provider, so that nothing has to be
// registered first; unregistering is remembered.
const (
	Registered   = "Registered"
	Unregistered = "Unregistered"
)

// Store is where the documents are.
type Store interface {
	Get(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error)
	Apply(ctx context.Context, changes ...resourcestore.Change) error
}

// Registrations answers the front door and the resource manager.
type Registrations struct{ store Store }

// New keeps registrations in the store.
func New(s Store) *Registrations { return &Registrations{s} }

type document struct {
	Properties struct {
		RegistrationState string `json:"registrationState"`
	} `json:"properties"`
}

func id(subscription, namespace string) resourceid.ID {
	return resourceid.MustParse("/subscriptions/"+subscription).Resource(documentType, namespace)
}

// State is Registered or Unregistered.
func (r *Registrations) State(ctx context.Context, subscription, namespace string) (string, error) {
	stored, err := r.store.Get(ctx, id(subscription, namespace))
	if errors.Is(err, resourcestore.ErrNotFound) {
		return Registered, nil
	}
	var d document
	if err == nil {
		err = json.Unmarshal(stored.Body, &d)
	}
	if err != nil {
		return "", fmt.Errorf("read the registration of %s in %s: %w", namespace, subscription, err)
	}
	return d.Properties.RegistrationState, nil
}

// Set registers or unregisters.
func (r *Registrations) Set(ctx context.Context, subscription, namespace string, registered bool) error {
	var d document
	d.Properties.RegistrationState = Unregistered
	if registered {
		d.Properties.RegistrationState = Registered
	}
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	put := resourcestore.Resource{ID: id(subscription, namespace), Body: body}
	if err := r.store.Apply(ctx, resourcestore.Change{Put: &put, Revision: resourcestore.Any}); err != nil {
		return fmt.Errorf("store the registration of %s in %s: %w", namespace, subscription, err)
	}
	return nil
}

// Registered reports whether the subscription may use the provider.
func (r *Registrations) Registered(ctx context.Context, subscription, namespace string) (bool, error) {
	state, err := r.State(ctx, subscription, namespace)
	return state == Registered, err
}
