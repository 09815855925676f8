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
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// documentType is the type in the IDs of the documents; it is not served.
const documentType = "Microsoft.Resources/providerRegistrations"

// States of a registration. A subscription starts registered for every provider, so that nothing has to be
// registered first; unregistering is remembered.
const (
	Registering   = "Registering"
	Registered    = "Registered"
	Unregistering = "Unregistering"
	Unregistered  = "Unregistered"
)

// settle is how long a change takes to show; in Azure it is minutes.
const settle = 2 * time.Second

// Store is where the documents are.
type Store interface {
	Get(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error)
	Apply(ctx context.Context, changes ...resourcestore.Change) error
}

// Registrations answers the front door and the resource manager.
type Registrations struct {
	store Store
	now   func() time.Time
}

// New keeps registrations in the store.
func New(s Store) *Registrations { return &Registrations{s, time.Now} }

type document struct {
	Properties struct {
		RegistrationState string    `json:"registrationState"` // what it is, or becomes
		Before            string    `json:"before,omitempty"`
		Asked             time.Time `json:"asked,omitzero"`
	} `json:"properties"`
}

func id(subscription, namespace string) resourceid.ID {
	return resourceid.MustParse("/subscriptions/"+subscription).Resource(documentType, namespace)
}

// State is the registration's state now.
func (r *Registrations) State(ctx context.Context, subscription, namespace string) (string, error) {
	d, err := r.read(ctx, subscription, namespace)
	if err != nil {
		return "", err
	}
	state := d.Properties.RegistrationState
	if r.now().Sub(d.Properties.Asked) >= settle {
		return state, nil
	}
	if state == Registered {
		return Registering, nil
	}
	return Unregistering, nil
}

func (r *Registrations) read(ctx context.Context, subscription, namespace string) (document, error) {
	d := document{}
	d.Properties.RegistrationState = Registered
	stored, err := r.store.Get(ctx, id(subscription, namespace))
	if errors.Is(err, resourcestore.ErrNotFound) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(stored.Body, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read the registration of %s in %s: %w", namespace, subscription, err)
	}
	return d, nil
}

// Set registers or unregisters. Registering what is registered refreshes it, as the page has it, and shows as that.
func (r *Registrations) Set(ctx context.Context, subscription, namespace string, registered bool) error {
	old, err := r.read(ctx, subscription, namespace)
	if err != nil {
		return err
	}
	var d document
	d.Properties.RegistrationState, d.Properties.Before, d.Properties.Asked = Unregistered, old.Properties.RegistrationState, r.now().UTC()
	if registered {
		d.Properties.RegistrationState = Registered
	}
	if was := old.Properties; was.RegistrationState == d.Properties.RegistrationState && r.now().Sub(was.Asked) < settle {
		return nil // it is under way
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

// Registered reports whether the subscription may use the provider: a refresh takes nothing away.
func (r *Registrations) Registered(ctx context.Context, subscription, namespace string) (bool, error) {
	d, err := r.read(ctx, subscription, namespace)
	if err != nil {
		return false, err
	}
	p := d.Properties
	return p.RegistrationState == Registered && (p.Before != Unregistered || r.now().Sub(p.Asked) >= settle), nil
}
