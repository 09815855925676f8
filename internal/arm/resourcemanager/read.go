package resourcemanager

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// find reads a document, stored or built in, or explains why there is none.
func (m *Manager) find(ctx context.Context, d resourcetype.Definition, id resourceid.ID) (resourcestore.Resource, error) {
	r, err := m.store.Get(ctx, id)
	if errors.Is(err, resourcestore.ErrNotFound) && d.Find != nil {
		r, err = d.Find(ctx, id, m.documents())
	}
	if !errors.Is(err, resourcestore.ErrNotFound) {
		return r, err
	}
	if err := m.checkSubscription(ctx, d, id, false); err != nil {
		return r, err
	}
	if err := m.checkParents(ctx, d, id, m.documents(), false); err != nil {
		return r, err
	}
	return r, notFound(d, id)
}

// get answers GET and HEAD.
func (m *Manager) get(ctx context.Context, d resourcetype.Definition, r Request) (Answer, error) {
	if err := m.Authorize(ctx, r.Caller, d.Name+"/read", r.ID); err != nil {
		return Answer{}, err
	}
	resource, err := m.find(ctx, d, r.ID)
	if err != nil {
		return Answer{}, err
	}
	if r.Method == http.MethodHead {
		return Answer{Status: http.StatusNoContent}, nil
	}
	a := Answer{Status: http.StatusOK, state: resourcetype.State(resource.Body)}
	if resource.Revision > 0 {
		a.ETag = resource.ETag()
	}
	body, status, err := d.Show(ctx, resource, m.documents())
	if status != 0 {
		a.Status = status
	}
	a.Body = body
	return a, err
}

// Collection is a GET on a collection.
type Collection struct {
	Method     string        // GET by default; POST on an Endpoint
	Scope      resourceid.ID // what the collection lies in: a subscription, group, parent, extended resource or the tenant
	Type       string        // of its members
	APIVersion string
	Query      url.Values // $filter, $top, $skiptoken
	Caller     resourcetype.Principal
	Body       json.RawMessage // of a POST
}

// Page is a part of a collection.
type Page struct {
	Items []json.RawMessage
	Next  string // $skiptoken of the next page, "" on the last
	// Answer is set instead where the collection is an Endpoint.
	Answer *Answer
}

// Collect answers a GET on a collection.
func (m *Manager) Collect(ctx context.Context, c Collection) (Page, error) {
	namespace, rest, _ := strings.Cut(c.Type, "/")
	d, ok := m.types.Lookup(c.Type)
	if !ok {
		return Page{}, UnknownType(m.types, namespace, rest)
	}
	if err := CheckAPIVersion(c.APIVersion); err != nil {
		return Page{}, err
	}
	if d.Endpoint != nil {
		e := resourcetype.EndpointRequest{Scope: c.Scope, Caller: c.Caller, APIVersion: c.APIVersion, Query: c.Query, Body: c.Body}
		if c.Scope.Namespace() != "" && len(d.Types()) > 1 {
			e.Scope, e.Names = c.Scope.Scope(), c.Scope.Names()
		}
		a, err := m.endpoint(ctx, d, cmp.Or(c.Method, http.MethodGet), c.Scope, e)
		return Page{Answer: &a}, err
	}
	permitted := m.Authorize(ctx, c.Caller, d.Name+"/read", c.Scope)
	groups := strings.EqualFold(d.Name, ResourceGroups)
	if permitted != nil {
		if _, refused := armerror.As(permitted); !refused || !groups {
			return Page{}, permitted
		}
	}
	if err := m.checkScope(ctx, d, c.Scope); err != nil {
		return Page{}, err
	}
	resources, err := m.members(ctx, d, c)
	if err != nil {
		return Page{}, err
	}
	if permitted != nil {
		// Groups are shown to those who may read some of them.
		if resources, err = m.readable(ctx, c.Caller, resources); err != nil {
			return Page{}, err
		}
	}
	resources, next, err := page(resources, c.Query)
	if err != nil {
		return Page{}, err
	}
	p := Page{Items: []json.RawMessage{}, Next: next}
	for _, r := range resources {
		body, _, err := d.Show(ctx, r, m.documents())
		if err != nil {
			return Page{}, err
		}
		p.Items = append(p.Items, body)
	}
	return p, nil
}

// checkScope finds what a collection lies in.
func (m *Manager) checkScope(ctx context.Context, d resourcetype.Definition, scope resourceid.ID) error {
	if err := m.checkSubscription(ctx, d, scope, false); err != nil {
		return err
	}
	if group := scope.GroupID(); !group.IsZero() {
		if err := m.CheckGroup(ctx, group); err != nil {
			return err
		}
	}
	if scope.Namespace() == "" {
		return nil
	}
	pd, known := m.types.Lookup(scope.Type())
	if !known || pd.Endpoint != nil {
		return nil
	}
	_, err := m.find(ctx, pd, scope)
	e, is := armerror.As(err)
	if is && e.Code == armerror.ResourceNotFound && !d.Extension {
		return armerror.New(armerror.ParentResourceNotFound, "Can not perform requested operation on nested resource. Parent resource '%s' not found.", scope.Name())
	}
	return err
}

func (m *Manager) members(ctx context.Context, d resourcetype.Definition, c Collection) ([]resourcestore.Resource, error) {
	filter := c.Query.Get("$filter")
	if d.List != nil {
		return d.List(ctx, &resourcetype.ListRequest{Scope: c.Scope, Type: d.Name, Filter: filter, Caller: c.Caller, Query: c.Query, Documents: m.documents()})
	}
	all, err := m.store.List(ctx, resourcestore.Filter{Under: c.Scope, Type: d.Name})
	if err != nil {
		return nil, err
	}
	match, err := matcher(filter)
	if err != nil {
		return nil, err
	}
	var out []resourcestore.Resource
	for _, r := range all {
		// Below a subscription or group come the resources of every depth; below a resource only its own.
		parent, _ := r.ID.Parent()
		if (c.Scope.Namespace() == "" || parent.Equal(c.Scope)) && match(r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// readable are the resources that the principal may read.
func (m *Manager) readable(ctx context.Context, p resourcetype.Principal, all []resourcestore.Resource) ([]resourcestore.Resource, error) {
	var out []resourcestore.Resource
	for _, r := range all {
		d, known := m.types.Lookup(r.ID.Type())
		if !known {
			continue
		}
		ok, err := m.authorizer.Authorize(ctx, p, roleAction(d.Name+"/read"), r.ID)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// pageSize is the most that one page holds.
const pageSize = 1000

// page cuts one page out of a list in order of key. The token is the key of the page's last item, so that
// it stays good when resources come and go.
func page(all []resourcestore.Resource, query url.Values) ([]resourcestore.Resource, string, error) {
	size := pageSize
	if top := query.Get("$top"); top != "" {
		n, err := positive(top)
		if err != nil {
			return nil, "", armerror.New("InvalidTopParameter", "The $top query parameter value '%s' is invalid.", top)
		}
		size = min(n, pageSize)
	}
	if token := query.Get("$skiptoken"); token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return nil, "", armerror.New("InvalidSkipToken", "The $skiptoken query parameter value is invalid.")
		}
		for len(all) > 0 && all[0].ID.Key() <= string(after) {
			all = all[1:]
		}
	}
	if len(all) <= size {
		return all, "", nil
	}
	return all[:size], base64.RawURLEncoding.EncodeToString([]byte(all[size-1].ID.Key())), nil
}

func positive(s string) (int, error) {
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' || n > 1<<20 {
			return 0, errors.New("not a number")
		}
		n = n*10 + int(c-'0')
	}
	if n == 0 {
		return 0, errors.New("not positive")
	}
	return n, nil
}

// Resources answers GET …/resources: what lies directly in groups, of all types, below the scope.
func (m *Manager) Resources(ctx context.Context, c Collection) (Page, error) {
	if err := CheckAPIVersion(c.APIVersion); err != nil {
		return Page{}, err
	}
	if err := m.CheckSubscription(ctx, c.Scope.Subscription()); err != nil {
		return Page{}, err
	}
	if group := c.Scope.GroupID(); !group.IsZero() {
		if err := m.CheckGroup(ctx, group); err != nil {
			return Page{}, err
		}
	}
	match, err := matcher(c.Query.Get("$filter"))
	if err != nil {
		return Page{}, err
	}
	expand, err := expansions(c.Query.Get("$expand"))
	if err != nil {
		return Page{}, err
	}
	all, err := m.store.List(ctx, resourcestore.Filter{Under: c.Scope})
	if err != nil {
		return Page{}, err
	}
	var chosen []resourcestore.Resource
	for _, r := range all {
		d, known := m.types.Lookup(r.ID.Type())
		if known && d.Placement != resourcetype.Inherited && !strings.EqualFold(d.Name, ResourceGroups) && match(r) {
			chosen = append(chosen, r)
		}
	}
	if chosen, err = m.readable(ctx, c.Caller, chosen); err != nil {
		return Page{}, err
	}
	// A subscription shows to each what he may read in it. A group refuses who may read nothing in it.
	if len(chosen) == 0 && !c.Scope.GroupID().IsZero() {
		if err := m.Authorize(ctx, c.Caller, ResourceGroups+"/resources/read", c.Scope); err != nil {
			return Page{}, err
		}
	}
	chosen, next, err := page(chosen, c.Query)
	if err != nil {
		return Page{}, err
	}
	p := Page{Items: []json.RawMessage{}, Next: next}
	for _, r := range chosen {
		var full, brief map[string]json.RawMessage
		if err := json.Unmarshal(r.Body, &full); err != nil {
			return Page{}, err
		}
		brief = map[string]json.RawMessage{}
		for _, k := range []string{"id", "name", "type", "location", "tags", "kind", "sku", "identity", "managedBy", "zones", "plan"} {
			if v, ok := full[k]; ok {
				brief[k] = v
			}
		}
		// A list of all types names what lies in another resource with that one's name: zone/link.
		if names := r.ID.Names(); len(names) > 1 {
			if brief["name"], err = json.Marshal(strings.Join(names, "/")); err != nil {
				return Page{}, err
			}
		}
		if err := expand(brief, r); err != nil {
			return Page{}, err
		}
		b, err := json.Marshal(brief)
		if err != nil {
			return Page{}, err
		}
		p.Items = append(p.Items, b)
	}
	return p, nil
}

// expansions read $expand: what ARM adds to each resource of a list when it is asked for.
// https://learn.microsoft.com/rest/api/resources/resources/list
func expansions(words string) (func(brief map[string]json.RawMessage, r resourcestore.Resource) error, error) {
	wanted := map[string]func(resourcestore.Resource) any{}
	for _, w := range strings.Split(words, ",") {
		switch strings.ToLower(strings.TrimSpace(w)) {
		case "":
		case "createdtime":
			wanted["createdTime"] = func(r resourcestore.Resource) any { return r.Created.UTC() }
		case "changedtime":
			wanted["changedTime"] = func(r resourcestore.Resource) any { return r.Changed.UTC() }
		case "provisioningstate":
			wanted["provisioningState"] = func(r resourcestore.Resource) any { return cmp.Or(resourcetype.State(r.Body), resourcestore.Succeeded) }
		default:
			return nil, armerror.New("InvalidExpandInQueryString", "Invalid $expand '%s' specified in the query string. It can hold 'createdTime', 'changedTime' and 'provisioningState'.", words)
		}
	}
	return func(brief map[string]json.RawMessage, r resourcestore.Resource) error {
		for k, value := range wanted {
			b, err := json.Marshal(value(r))
			if err != nil {
				return err
			}
			brief[k] = b
		}
		return nil
	}, nil
}
