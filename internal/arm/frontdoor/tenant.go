package frontdoor

import (
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
)

func (s *server) tenants(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Directory.Tenants(r.Context())
	if err != nil {
		return err
	}
	var out []any
	for _, t := range all {
		out = append(out, map[string]any{
			"id": "/tenants/" + t.ID, "tenantId": t.ID, "displayName": t.DisplayName, "defaultDomain": t.DefaultDomain,
			"domains": []string{t.DefaultDomain}, "tenantType": "AAD", "tenantCategory": "Home",
		})
	}
	return s.list(w, r, out)
}

func showSubscription(t Subscription) map[string]any {
	return map[string]any{
		"id": "/subscriptions/" + t.ID, "subscriptionId": t.ID, "displayName": t.DisplayName, "tenantId": t.TenantID,
		"state": "Enabled", "authorizationSource": "RoleBased", "managedByTenants": []any{},
		"subscriptionPolicies": map[string]any{"locationPlacementId": "Public_2014-09-01", "quotaId": "PayAsYouGo_2014-09-01", "spendingLimit": "Off"},
	}
}

func (s *server) subscriptions(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Directory.Subscriptions(r.Context())
	if err != nil {
		return err
	}
	var out []any
	for _, t := range all {
		out = append(out, showSubscription(t))
	}
	return s.list(w, r, out)
}

func (s *server) subscription(w http.ResponseWriter, r *http.Request) error {
	id := callOf(r).segments[1]
	all, err := s.Directory.Subscriptions(r.Context())
	if err != nil {
		return err
	}
	for _, t := range all {
		if strings.EqualFold(t.ID, id) {
			s.json(w, r, http.StatusOK, showSubscription(t))
			return nil
		}
	}
	return armerror.New(armerror.SubscriptionNotFound, "The subscription '%s' could not be found.", id)
}

func (s *server) locations(w http.ResponseWriter, r *http.Request) error {
	subscription := callOf(r).segments[1]
	if err := s.Manager.CheckSubscription(r.Context(), subscription); err != nil {
		return err
	}
	all, err := s.Directory.Locations(r.Context())
	if err != nil {
		return err
	}
	var out []any
	for _, l := range all {
		out = append(out, map[string]any{
			"id": "/subscriptions/" + subscription + "/locations/" + l.Name, "name": l.Name, "type": "Region",
			"displayName": l.DisplayName, "regionalDisplayName": l.DisplayName,
			"metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended"},
		})
	}
	return s.list(w, r, out)
}

// collection is the request as one on a collection.
func collection(r *http.Request, scope resourceid.ID, resourceType string) resourcemanager.Collection {
	c := callOf(r)
	return resourcemanager.Collection{Method: r.Method, Scope: scope, Type: resourceType, APIVersion: c.apiVersion, Query: r.URL.Query(), Caller: c.principal}
}

func (s *server) resources(w http.ResponseWriter, r *http.Request) error {
	p := callOf(r).segments
	scope, err := resourceid.Parse("/" + strings.Join(p[:len(p)-1], "/"))
	if err != nil {
		return err
	}
	page, err := s.Manager.Resources(r.Context(), collection(r, scope, ""))
	if err != nil {
		return err
	}
	return s.page(w, r, page)
}

func (s *server) groups(w http.ResponseWriter, r *http.Request) error {
	scope, err := resourceid.Parse("/subscriptions/" + callOf(r).segments[1])
	if err != nil {
		return err
	}
	page, err := s.Manager.Collect(r.Context(), collection(r, scope, resourcemanager.ResourceGroups))
	if err != nil {
		return err
	}
	return s.page(w, r, page)
}
