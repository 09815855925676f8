package frontdoor

import (
	"context"
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// versions are what the provider lists name. Every date is accepted; az takes the newest from here when it is
// given none.
var versions = []string{"2025-03-01", "2024-11-01", "2024-05-01", "2023-01-31", "2022-04-01"}

// namespaces are all resource providers, in order of name.
func (s *server) namespaces() []string {
	var out []string
	for _, d := range s.Types.All() {
		if len(out) == 0 || !strings.EqualFold(out[len(out)-1], d.Namespace()) {
			out = append(out, d.Namespace())
		}
	}
	return out
}

func (s *server) showProvider(ctx context.Context, subscription, namespace string) (map[string]any, error) {
	state := "Registered"
	if s.Registrar != nil && subscription != "" {
		var err error
		if state, err = s.Registrar.State(ctx, subscription, namespace); err != nil {
			return nil, err
		}
	}
	regions, err := s.Directory.Locations(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range regions {
		names = append(names, l.DisplayName)
	}
	var types []any
	for _, d := range s.Types.All() {
		if !strings.EqualFold(d.Namespace(), namespace) {
			continue
		}
		in := names
		switch d.Placement {
		case resourcetype.Global:
			in = []string{"global"}
		case resourcetype.Inherited:
			in = []string{}
		}
		types = append(types, map[string]any{
			"resourceType": strings.Join(d.Types(), "/"), "locations": in, "apiVersions": versions, "defaultApiVersion": versions[0], "capabilities": capabilities(d),
		})
	}
	out := map[string]any{"namespace": namespace, "registrationState": state, "registrationPolicy": "RegistrationRequired", "resourceTypes": types}
	out["id"] = "/providers/" + namespace
	if subscription != "" {
		out["id"] = "/subscriptions/" + subscription + "/providers/" + namespace
	}
	return out, nil
}

func capabilities(d resourcetype.Definition) string {
	if d.Placement == resourcetype.Inherited {
		return "None"
	}
	return "SupportsTags, SupportsLocation"
}

// subscriptionOf is the subscription in the path, which must exist, or "".
func (s *server) subscriptionOf(r *http.Request) (string, error) {
	p := callOf(r).segments
	if !strings.EqualFold(p[0], "subscriptions") {
		return "", nil
	}
	return p[1], s.Manager.CheckSubscription(r.Context(), p[1])
}

func (s *server) providers(w http.ResponseWriter, r *http.Request) error {
	subscription, err := s.subscriptionOf(r)
	if err != nil {
		return err
	}
	var out []any
	for _, n := range s.namespaces() {
		p, err := s.showProvider(r.Context(), subscription, n)
		if err != nil {
			return err
		}
		out = append(out, p)
	}
	return s.list(w, r, out)
}

// namespace finds the resource provider that a path segment names.
func (s *server) namespace(segment string) (string, error) {
	n, ok := s.Types.Namespace(segment)
	if !ok {
		return "", armerror.New(armerror.InvalidResourceNamespace, "The resource namespace '%s' is invalid.", segment)
	}
	return n, nil
}

func (s *server) provider(w http.ResponseWriter, r *http.Request) error {
	subscription, err := s.subscriptionOf(r)
	if err != nil {
		return err
	}
	p := callOf(r).segments
	n, err := s.namespace(p[len(p)-1])
	if err != nil {
		return err
	}
	out, err := s.showProvider(r.Context(), subscription, n)
	if err != nil {
		return err
	}
	s.json(w, r, http.StatusOK, out)
	return nil
}

// register answers POST …/providers/NAMESPACE/register and …/unregister.
func (s *server) register(w http.ResponseWriter, r *http.Request) error {
	subscription, err := s.subscriptionOf(r)
	if err != nil {
		return err
	}
	p := callOf(r).segments
	n, err := s.namespace(p[3])
	if err != nil {
		return err
	}
	verb := strings.ToLower(p[4])
	if err := s.Manager.Authorize(r.Context(), callOf(r).principal, n+"/"+verb+"/action", resourceid.MustParse("/subscriptions/"+subscription)); err != nil {
		return err
	}
	if s.Registrar != nil {
		if err := s.Registrar.Set(r.Context(), subscription, n, verb == "register"); err != nil {
			return err
		}
	}
	out, err := s.showProvider(r.Context(), subscription, n)
	if err != nil {
		return err
	}
	s.json(w, r, http.StatusOK, out)
	return nil
}

// roleActions answers /providers/NAMESPACE/operations: what roles can grant.
func (s *server) roleActions(w http.ResponseWriter, r *http.Request) error {
	n, err := s.namespace(callOf(r).segments[1])
	if err != nil {
		return err
	}
	var out []any
	for _, d := range s.Types.All() {
		if !strings.EqualFold(d.Namespace(), n) {
			continue
		}
		resource := strings.Join(d.Types(), "/")
		add := func(name, verb string) {
			out = append(out, map[string]any{
				"name": name, "isDataAction": false, "origin": "user,system",
				"display": map[string]any{"provider": n, "resource": resource, "operation": verb + " " + resource, "description": verb + " " + resource},
			})
		}
		add(d.Name+"/read", "Read")
		if !d.NoPut {
			add(d.Name+"/write", "Create or update")
		}
		if !d.NoDelete {
			add(d.Name+"/delete", "Delete")
		}
		for _, a := range d.Actions {
			add(a.Permission, a.Name)
		}
	}
	return s.list(w, r, out)
}
