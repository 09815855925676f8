package frontdoor

import (
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
)

// is compares path segments; "*" stands for any.
func is(segments []string, pattern ...string) bool {
	if len(segments) != len(pattern) {
		return false
	}
	for i, p := range pattern {
		if p != "*" && !strings.EqualFold(segments[i], p) {
			return false
		}
	}
	return true
}

// route finds what a path means. ARM's own paths come first; all others are a resource, a collection or an
// action, which their shape tells.
func (s *server) route(w http.ResponseWriter, r *http.Request) error {
	p := callOf(r).segments
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	only := func(allowed string, fn func(http.ResponseWriter, *http.Request) error) error {
		if !get && allowed == http.MethodGet || !get && r.Method != allowed || get && allowed != http.MethodGet {
			return methodNotAllowed(w, r, allowed)
		}
		return fn(w, r)
	}
	switch {
	case is(p, "tenants"):
		return only(http.MethodGet, s.tenants)
	case is(p, "subscriptions"):
		return only(http.MethodGet, s.subscriptions)
	case is(p, "subscriptions", "*"):
		return only(http.MethodGet, s.subscription)
	case is(p, "subscriptions", "*", "locations"):
		return only(http.MethodGet, s.locations)
	case is(p, "subscriptions", "*", "resources"), is(p, "subscriptions", "*", "resourceGroups", "*", "resources"):
		return only(http.MethodGet, s.resources)
	case is(p, "subscriptions", "*", "resourceGroups"):
		return only(http.MethodGet, s.groups)
	case is(p, "providers"), is(p, "subscriptions", "*", "providers"):
		return only(http.MethodGet, s.providers)
	case is(p, "providers", "*"), is(p, "subscriptions", "*", "providers", "*"):
		return only(http.MethodGet, s.provider)
	case is(p, "providers", "*", "operations"):
		return only(http.MethodGet, s.roleActions)
	case is(p, "subscriptions", "*", "providers", "*", "register"), is(p, "subscriptions", "*", "providers", "*", "unregister"):
		return only(http.MethodPost, s.register)
	case is(p, "subscriptions", "*", "providers", "*", "locations", "*", "operations", "*"),
		is(p, "subscriptions", "*", "providers", "*", "locations", "*", "operationStatuses", "*"),
		is(p, "providers", "*", "locations", "*", "operations", "*"):
		return only(http.MethodGet, s.operationStatus)
	case is(p, "subscriptions", "*", "providers", "*", "locations", "*", "operationResults", "*"),
		is(p, "providers", "*", "locations", "*", "operationResults", "*"):
		return only(http.MethodGet, s.operationResult)
	case is(p, "cloister", "operations"):
		return only(http.MethodGet, s.history)
	}
	return s.resource(w, r, p)
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request, allowed string) error {
	w.Header().Set("Allow", allowed)
	return armerror.New(armerror.MethodNotAllowed, "The requested resource does not support http method '%s'.", r.Method)
}

func noSuchPath(r *http.Request) error {
	return armerror.New(armerror.NotFound, "No HTTP resource was found that matches the request URI '%s'.", r.URL.Path)
}

// target is a path below /providers/NAMESPACE: types and names in turn.
type target struct {
	scope     []string // before /providers
	namespace string
	rest      []string
}

// locate splits a path at its last /providers/. "providers" directly after a namespace is a type there
// (Microsoft.Features/providers), and after a whole number of type and name it begins an extension.
func locate(p []string) (target, bool) {
	i := 0
	if len(p) > 1 && strings.EqualFold(p[0], "subscriptions") {
		i = 2
		if len(p) > 3 && strings.EqualFold(p[2], "resourceGroups") {
			i = 4
		}
	}
	for {
		if len(p) < i+3 || !strings.EqualFold(p[i], "providers") {
			return target{}, false
		}
		t := target{scope: p[:i], namespace: p[i+1]}
		start := i + 2
		end := start
		for end < len(p) && !(strings.EqualFold(p[end], "providers") && end > start && (end-start)%2 == 0) {
			end++
		}
		t.rest = p[start:end]
		if end == len(p) {
			return t, true
		}
		i = end
	}
}

// typeName is the type that n parts of the rest spell.
func (t target) typeName(n int) string {
	parts := []string{t.namespace}
	for i := 0; i < n; i += 2 {
		parts = append(parts, t.rest[i])
	}
	return strings.Join(parts, "/")
}

// resource answers requests on resources, collections and actions.
func (s *server) resource(w http.ResponseWriter, r *http.Request, p []string) error {
	group := is(p, "subscriptions", "*", "resourceGroups", "*") || is(p, "subscriptions", "*", "resourceGroups", "*", "*")
	t, ok := locate(p)
	if !ok && !group {
		return noSuchPath(r)
	}
	whole := len(t.rest)%2 == 0 // ends in a name
	if group {
		whole = len(p) == 4
	}
	if whole && r.Method != http.MethodPost {
		id, err := resourceid.Parse("/" + strings.Join(p, "/"))
		if err != nil {
			return err
		}
		return s.do(w, r, id, "")
	}
	last := p[len(p)-1]
	parent := "/" + strings.Join(p[:len(p)-1], "/")
	switch {
	case whole: // a POST on a resource itself
		d, known := s.Types.Lookup(t.typeName(len(t.rest)))
		if !known || d.Endpoint == nil {
			return methodNotAllowed(w, r, "GET, HEAD, PUT, PATCH, DELETE")
		}
		id, err := resourceid.Parse("/" + strings.Join(p, "/"))
		if err != nil {
			return err
		}
		return s.do(w, r, id, "")
	case r.Method == http.MethodPost && !s.endpoint(t):
		if len(t.rest) == 1 {
			return noSuchPath(r)
		}
		id, err := resourceid.Parse(parent)
		if err != nil {
			return err
		}
		return s.do(w, r, id, last)
	case group:
		return noSuchPath(r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		return methodNotAllowed(w, r, "GET, HEAD")
	}
	// A collection lies in its parent resource or, at the top of a type, in its scope.
	within := parent
	if len(t.rest) == 1 {
		within = "/" + strings.Join(t.scope, "/")
	}
	scope, err := resourceid.Parse(within)
	if err != nil {
		return err
	}
	c := callOf(r)
	page, err := s.Manager.Collect(r.Context(), resourcemanager.Collection{
		Method: r.Method, Scope: scope, Type: t.typeName(len(t.rest)), APIVersion: c.apiVersion, Query: r.URL.Query(), Caller: c.principal, Body: c.body,
	})
	if err != nil {
		return err
	}
	return s.page(w, r, page)
}

// endpoint reports whether the path is a whole Endpoint without its last name.
func (s *server) endpoint(t target) bool {
	d, ok := s.Types.Lookup(t.typeName(len(t.rest)))
	return ok && d.Endpoint != nil
}

// do has the resource manager execute the request.
func (s *server) do(w http.ResponseWriter, r *http.Request, id resourceid.ID, action string) error {
	c := callOf(r)
	a, err := s.Manager.Do(r.Context(), resourcemanager.Request{
		Method: r.Method, ID: id, Action: action, APIVersion: c.apiVersion, Query: r.URL.Query(), Caller: c.principal, Body: c.body,
		IfMatch: r.Header.Get("If-Match"), IfNoneMatch: ifNoneMatch(r), Arguments: arguments(r),
	})
	if err != nil {
		return err
	}
	return s.answer(w, r, a)
}

// ifNoneMatch is the precondition of a write. On a read it would only save a transfer.
func ifNoneMatch(r *http.Request) string {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return ""
	}
	return r.Header.Get("If-None-Match")
}
