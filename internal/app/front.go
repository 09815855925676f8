package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// socketClient speaks HTTP on the installation's socket.
func socketClient(l layout.Layout) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.ServeSocket())
	}}}
}

// front is what the front door needs to know of the installation.
type front struct{ *API }

func (a *API) frontdoorOptions() frontdoor.Options {
	return frontdoor.Options{
		Manager: a.manager, Types: a.types, Store: a.store, Authenticator: front{a}, Directory: front{a}, Registrar: a.registrations,
		Timeline: a.reconciler, Log: a.log, Metadata: a.metadata, AuthorityURL: "https://login.microsoftonline.com/" + a.instance.TenantID,
		Throttling: a.throttled, Limits: throttling,
	}
}

// metadata describes the cloud that an installation is to the client.
func (a *API) metadata(r *http.Request) frontdoor.Metadata {
	if a.settings.Names(r.Host) {
		return cloud(r.Host)
	}
	return publicCloud()
}

// publicCloud is what an installation is to those inside.
func publicCloud() frontdoor.Metadata {
	return frontdoor.Metadata{
		Name: "AzureCloud", Portal: "https://portal.azure.com",
		Authentication: frontdoor.Authentication{
			LoginEndpoint: "https://login.microsoftonline.com", Tenant: "common", IdentityProvider: "AAD",
			Audiences: []string{"https://management.core.windows.net/", "https://management.azure.com/"},
		},
		ResourceManager: "https://management.azure.com/", GraphAudience: "https://graph.windows.net/",
		MicrosoftGraphResourceID: "https://graph.microsoft.com/", Suffixes: map[string]string{"acrLoginServer": "azurecr.io"},
	}
}

// Authenticate implements frontdoor.Authenticator.
func (f front) Authenticate(_ context.Context, token string) (resourcetype.Principal, error) {
	v := identity.Verifier{
		Keys:      f.keys,
		Issuers:   []string{identity.V1Issuer(f.instance.TenantID), identity.V2Issuer(f.instance.TenantID)},
		Audiences: []string{"https://management.azure.com/", "https://management.core.windows.net/"},
	}
	c, err := v.Verify(token)
	if errors.Is(err, identity.ErrExpired) {
		err = errors.Join(frontdoor.ErrTokenExpired, err)
	}
	if err != nil {
		return resourcetype.Principal{}, err
	}
	return resourcetype.Principal{ObjectID: c.ObjectID, AppID: c.AppID, TenantID: c.TenantID, Name: c.Name}, nil
}

// Tenants implements frontdoor.Directory.
func (f front) Tenants(context.Context) ([]frontdoor.Tenant, error) {
	return []frontdoor.Tenant{{ID: f.instance.TenantID, DisplayName: "Cloister", DefaultDomain: tenantDomain}}, nil
}

// Subscriptions implements frontdoor.Directory.
func (f front) Subscriptions(context.Context) ([]frontdoor.Subscription, error) {
	return []frontdoor.Subscription{{ID: f.instance.SubscriptionID, DisplayName: "Cloister", TenantID: f.instance.TenantID}}, nil
}

// Subscription implements resourcemanager.Directory.
func (f front) Subscription(_ context.Context, id string) (bool, error) {
	return equalFold(id, f.instance.SubscriptionID), nil
}

// Locations implements both Directories.
func (f front) Locations(context.Context) ([]resourcemanager.Location, error) { return locations, nil }

// timeline is the last operation on the resource, with those of what lies in it, as one list of steps.
func (s *Service) timeline(ctx context.Context, id resourceid.ID) (adminapi.Timeline, error) {
	operations, err := s.store.Operations(ctx, id, false)
	if err != nil {
		return adminapi.Timeline{}, err
	}
	if len(operations) == 0 {
		return adminapi.Timeline{}, resourcestore.ErrNotFound
	}
	last := operations[len(operations)-1]
	t := adminapi.Timeline{Operation: last.Kind, Status: last.Status, Start: last.Start}
	if !last.End.IsZero() {
		t.End = &last.End
	}
	if err := s.addSteps(ctx, &t, last); err != nil {
		return t, err
	}
	children, err := s.store.List(ctx, resourcestore.Filter{Under: id, Type: "Microsoft.ContainerService/managedClusters/agentPools"})
	if err != nil {
		return t, err
	}
	for _, c := range children {
		operations, err := s.store.Operations(ctx, c.ID, false)
		if err != nil {
			return t, err
		}
		if len(operations) == 0 || operations[len(operations)-1].Start.Before(last.Start.Add(-time.Second)) {
			continue
		}
		if err := s.addSteps(ctx, &t, operations[len(operations)-1]); err != nil {
			return t, err
		}
		if err := s.addNodeEvents(ctx, &t, c.ID); err != nil {
			return t, err
		}
	}
	slices.SortFunc(t.Steps, func(a, b adminapi.TimelineStep) int { return a.Start.Compare(b.Start) })
	return t, nil
}

// addSteps adds an operation's steps, each ending where the next begins. A reconcile runs again whenever
// something it waits for has changed, and passes through its first steps quickly then: of the steps of
// one name the longest tells where the time went.
func (s *Service) addSteps(ctx context.Context, t *adminapi.Timeline, o resourcestore.Operation) error {
	steps, err := s.reconciler.Steps(ctx, o.ID)
	if err != nil {
		return err
	}
	end := o.End
	if end.IsZero() {
		end = time.Now()
	}
	longest := map[string]adminapi.TimelineStep{}
	for i, step := range steps {
		stop := end
		if i+1 < len(steps) {
			stop = steps[i+1].Start
		}
		known, ok := longest[step.Name]
		if !ok || stop.Sub(step.Start) > known.End.Sub(known.Start) {
			longest[step.Name] = adminapi.TimelineStep{Name: step.Name, Start: step.Start, End: &stop}
		}
	}
	for _, step := range longest {
		t.Steps = append(t.Steps, step)
	}
	return nil
}

// addNodeEvents adds what the pool's first node has recorded of its bootstrap.
func (s *Service) addNodeEvents(ctx context.Context, t *adminapi.Timeline, pool resourceid.ID) error {
	cluster, _ := pool.Parent()
	machines, err := s.machines(ctx, cluster)
	if err != nil {
		return err
	}
	for _, m := range machines {
		if m.pool != pool.Name() {
			continue
		}
		events, err := s.nodes.Events(m.ID)
		if err != nil {
			return err
		}
		for _, e := range events {
			end := e.End
			t.Steps = append(t.Steps, adminapi.TimelineStep{Name: "  " + m.Name + " " + strings.TrimPrefix(e.Step, "AKS.CSE."), Start: e.Start, End: &end})
		}
		return nil
	}
	return nil
}
