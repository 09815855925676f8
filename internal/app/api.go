package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/arm/reconcile"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/lib/settings"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/operationreport"
	"github.com/cloister-dev/cloister/internal/provider/resources/resourceproviders"
)

// Engines are what the resource types do their work with.
type Engines struct {
	World interface {
		// Sync returns when the machine agrees with the documents stored before the call.
		Sync(ctx context.Context) error
	}
	ControlPlane interface {
		managedclusters.ControlPlane
		agentpools.ControlPlane
	}
	Nodes    agentpools.Nodes
	Imports  registries.Imports
	Commands managedclusters.Commands
	// RegistrySize is how many bytes a registry holds.
	RegistrySize func(id resourceid.ID) (int64, error)
	// OccupiedRepositories is cacherules.Deps's.
	OccupiedRepositories func(registry resourceid.ID, source, target string) ([]string, error)
	// NodeRootfs is the file system that nodes are made from, AuthorityPEM what they trust.
	NodeRootfs, AuthorityPEM string
	// Reports is what operations on clusters tell along with how they ended.
	Reports operationreport.Source
	// InSteps is managedclusters.Deps's, AzureTiming agentpools.Deps's.
	InSteps, AzureTiming func() (bool, error)
	// Throttled tells whether too many requests are refused as Azure does; nil: they are not.
	Throttled func() (bool, error)
}

// API is an installation without its machine: documents, protocol, identities and roles.
type API struct {
	instance   Instance
	log        *slog.Logger
	keys       *identity.Keys
	issuer     *identity.Issuer
	store      resourcestore.Store
	manager    *resourcemanager.Manager
	reconciler *reconcile.Reconciler
	types      *resourcetype.Types
	// registrations says which resource providers the subscription is registered for.
	registrations *resourceproviders.Registrations
	directory     *directory
	access        *access
	settings      settings.Settings
	throttled     func() (bool, error)
}

// NewAPI joins the resource types with the store and the engines.
func NewAPI(in Instance, store resourcestore.Store, keys *identity.Keys, engines Engines, log *slog.Logger) (*API, error) {
	a := &API{instance: in, log: log, keys: keys, issuer: identity.NewIssuer(keys, nil), store: store, access: newAccess(store), registrations: resourceproviders.New(store), throttled: engines.Throttled}
	var err error
	if a.directory, err = newDirectory(in, store); err != nil {
		return nil, err
	}
	a.types = resourcetype.NewTypes(a.resourceTypes(engines)...)
	a.manager = resourcemanager.New(resourcemanager.Options{
		Store: store, Types: a.types, Authorizer: a.access, Directory: front{a}, Registration: a.registrations, Log: log,
	})
	aks := resourcetype.Principal{ObjectID: in.AKS.ObjectID, AppID: in.AKS.AppID, TenantID: in.TenantID, Name: in.AKS.Name}
	a.reconciler = reconcile.New(reconcile.Options{
		Store: store, Types: a.types, Manager: a.manager, Log: log,
		Principal: func(resourcetype.Definition) resourcetype.Principal { return aks },
	})
	return a, nil
}

// Handler answers ARM requests. Serve it over TLS.
func (a *API) Handler() http.Handler { return frontdoor.New(a.frontdoorOptions()) }

// Run makes the machine agree with the documents until ctx ends.
func (a *API) Run(ctx context.Context) error { return a.reconciler.Run(ctx) }

// Seed gives the installation's own principals their roles.
func (a *API) Seed(ctx context.Context) error {
	subscription := resourceid.MustParse("/subscriptions/" + a.instance.SubscriptionID)
	for _, x := range []struct{ principal, role string }{
		{a.instance.Administrator.ObjectID, roleOwner},
		{a.instance.User.ObjectID, roleOwner},
		{a.instance.AKS.ObjectID, roleContributor},
		{a.instance.AKS.ObjectID, roleUserAccessAdministrator},
	} {
		if x.principal == "" { // an installation of before there was a user, until its next `up`
			continue
		}
		if err := seedAssignment(ctx, a.store, subscription, x.principal, x.role); err != nil {
			return fmt.Errorf("assign the first roles: %w", err)
		}
	}
	return nil
}

// RegistryAccess is what principals may do in a registry (projection.Input.Access).
func (a *API) RegistryAccess(id resourceid.ID) map[string][]string { return a.access.registry(id) }
