package resourcemanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	networks = "Microsoft.Test/networks"
	subnets  = "Microsoft.Test/networks/subnets"
	nics     = "Microsoft.Test/nics"
	join     = "Microsoft.Test/networks/subnets/join/action"
)

type network struct {
	Location   string `json:"location,omitempty"`
	Properties struct {
		Size    int                `json:"size,omitempty"`
		Subnets *[]json.RawMessage `json:"subnets,omitempty"`
	} `json:"properties"`
	Cloister struct {
		Serial int `json:"serial,omitempty"`
	} `json:"cloister"`
}

type nic struct {
	Location   string `json:"location,omitempty"`
	Properties struct {
		Subnet  string `json:"subnet,omitempty"`
		Address int    `json:"address,omitempty"`
	} `json:"properties"`
}

func used(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) error {
	all, err := docs.List(ctx, resourceid.ID{}, nics)
	if err != nil {
		return err
	}
	for _, r := range all {
		var n nic
		if err := json.Unmarshal(r.Body, &n); err != nil {
			return err
		}
		if s, err := resourceid.Parse(n.Properties.Subnet); err == nil && id.Contains(s) {
			return armerror.New("InUse", "%s is used by %s", id, r.ID).WithStatus(http.StatusConflict)
		}
	}
	return nil
}

// types are networks that carry subnets inline, and NICs that take the next free address of one.
func types() []resourcetype.Definition {
	inUse := func(ctx context.Context, id resourceid.ID, docs resourcetype.Reader) error {
		return used(ctx, docs, id)
	}
	return []resourcetype.Definition{
		resourcetype.Define(resourcetype.Spec[network]{
			Name: networks,
			Prepare: func(ctx context.Context, r *resourcetype.Request[network]) error {
				if r.Existing == nil {
					r.Model.Cloister.Serial = 7
				}
				if r.Model.Properties.Subnets == nil {
					return nil
				}
				sent := map[string]bool{}
				for _, raw := range *r.Model.Properties.Subnets {
					var s struct{ Name string }
					if err := json.Unmarshal(raw, &s); err != nil {
						return err
					}
					sent[s.Name] = true
					r.PutChild(r.ID.Child("subnets", s.Name), raw)
				}
				have, err := r.Documents.List(ctx, r.ID, subnets)
				for _, s := range have {
					if !sent[s.ID.Name()] {
						r.DeleteChild(s.ID)
					}
				}
				r.Model.Properties.Subnets = nil
				return err
			},
			PrepareDelete: func(ctx context.Context, r *resourcetype.Request[network]) error {
				return inUse(ctx, r.ID, r.Documents)
			},
		}),
		resourcetype.Define(resourcetype.Spec[network]{
			Name: subnets, Placement: resourcetype.Inherited,
			Prepare: func(ctx context.Context, r *resourcetype.Request[network]) error {
				parent, _ := r.ID.Parent()
				var n network
				if err := r.Documents.Get(ctx, parent, &n); err != nil {
					return fmt.Errorf("read the network: %w", err)
				}
				total := r.Model.Properties.Size
				siblings, err := r.Documents.List(ctx, parent, subnets)
				for _, s := range siblings {
					var m network
					if err := json.Unmarshal(s.Body, &m); err != nil {
						return err
					}
					if !s.ID.Equal(r.ID) {
						total += m.Properties.Size
					}
				}
				if total > n.Properties.Size {
					return armerror.New("TooBig", "the subnets need %d of %d", total, n.Properties.Size)
				}
				return err
			},
			PrepareDelete: func(ctx context.Context, r *resourcetype.Request[network]) error {
				return inUse(ctx, r.ID, r.Documents)
			},
		}),
		resourcetype.Define(resourcetype.Spec[nic]{
			Name: nics,
			Prepare: func(ctx context.Context, r *resourcetype.Request[nic]) error {
				all, err := r.Documents.List(ctx, resourceid.ID{}, nics)
				taken := map[int]bool{}
				for _, other := range all {
					var m nic
					if err := json.Unmarshal(other.Body, &m); err != nil {
						return err
					}
					taken[m.Properties.Address] = !other.ID.Equal(r.ID)
				}
				for r.Model.Properties.Address = 4; taken[r.Model.Properties.Address]; {
					r.Model.Properties.Address++
				}
				return err
			},
			References: func(m *nic) []resourcetype.Reference {
				id, err := resourceid.Parse(m.Properties.Subnet)
				if err != nil {
					return nil
				}
				return []resourcetype.Reference{{Property: "properties.subnet", ID: id, Linked: join}}
			},
		}),
	}
}

func TestChildrenInOneTransaction(t *testing.T) {
	h := resourcetypetest.New(t, types()...)
	id := h.ID(networks, "n")
	body := func(size int, subnets ...string) string {
		return fmt.Sprintf(`{"location":"eastus","properties":{"size":%d,"subnets":[%s]}}`, size, strings.Join(subnets, ","))
	}
	_, err := h.TryPut(id, body(10, `{"name":"a","properties":{"size":6}}`, `{"name":"b","properties":{"size":6}}`))
	resourcetypetest.WantError(t, err, "TooBig")
	if h.Exists(id) || h.Exists(id.Child("subnets", "a")) {
		t.Error("half of a refused request was stored")
	}
	h.Put(id, body(10, `{"name":"a","properties":{"size":4,"extra":1},"cloister":{"serial":9}}`, `{"name":"b","properties":{"size":6}}`))
	a := h.Get(id.Child("subnets", "a"))
	if a.At("properties.extra") == nil || a.State() != "Succeeded" {
		t.Errorf("child: %v", a)
	}
	var stored network
	if h.Stored(id.Child("subnets", "a"), &stored); stored.Cloister.Serial != 0 {
		t.Error("an inline child wrote into cloister's memory")
	}
	tag := a.String("etag")
	h.Put(id, body(12, `{"name":"a","properties":{"size":4,"extra":1}}`))
	if h.Exists(id.Child("subnets", "b")) {
		t.Error("a child that the parent gave up is still there")
	}
	if got := h.Get(id.Child("subnets", "a")).String("etag"); got != tag {
		t.Error("a child that did not change was written again")
	}
	if h.Stored(id, &stored); stored.Cloister.Serial != 7 {
		t.Errorf("a PUT from outside lost cloister's memory: %+v", stored)
	}
	h.Put(h.ID(nics, "n"), map[string]any{"location": "eastus", "properties": map[string]any{"subnet": id.String() + "/subnets/a"}})
	_, err = h.TryPut(id, body(12))
	resourcetypetest.WantError(t, err, "InUse")
	resourcetypetest.WantError(t, h.Delete(id), "InUse")
	if !h.Exists(id.Child("subnets", "a")) {
		t.Error("a refused delete removed a child")
	}
}

func TestAllocationIsSerial(t *testing.T) {
	h := resourcetypetest.New(t, types()...)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := h.Do(http.MethodPut, h.ID(nics, fmt.Sprint("n", i)), "", map[string]any{"location": "eastus"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var addresses []int
	for i := range 20 {
		var n nic
		h.Stored(h.ID(nics, fmt.Sprint("n", i)), &n)
		addresses = append(addresses, n.Properties.Address)
	}
	slices.Sort(addresses)
	if len(slices.Compact(addresses)) != 20 {
		t.Errorf("two requests at a time got one address: %v", addresses)
	}
}

func TestPermissions(t *testing.T) {
	h := resourcetypetest.New(t, types()...)
	net, id := h.ID(networks, "n"), h.ID(nics, "x")
	h.Put(net, map[string]any{"location": "eastus", "properties": map[string]any{"size": 1}})
	body := map[string]any{"location": "eastus", "properties": map[string]any{"subnet": net.String() + "/subnets/s"}}

	h.Deny(join)
	_, err := h.TryPut(id, body)
	e := resourcetypetest.WantError(t, err, armerror.LinkedAuthorizationFailed)
	want := fmt.Sprintf("The client 'tester' with object id '0b1ec7' has permission to perform action 'Microsoft.Test/nics/write' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s/subnets/s' (respectively) or the linked scope(s) are invalid.", id, join, net)
	if e.Message != want || e.HTTPStatus() != http.StatusForbidden || h.Exists(id) {
		t.Errorf("%d %s\nwant %s", e.HTTPStatus(), e.Message, want)
	}
	h.Allow(join)
	h.Put(id, body)

	for _, c := range []struct{ denied, method string }{
		{nics + "/read", http.MethodGet}, {nics + "/write", http.MethodPut}, {nics + "/write", http.MethodPatch}, {nics + "/delete", http.MethodDelete},
	} {
		h.Deny(c.denied)
		_, err := h.Do(c.method, id, "", body)
		e := resourcetypetest.WantError(t, err, armerror.AuthorizationFailed)
		if e.HTTPStatus() != http.StatusForbidden || !strings.Contains(e.Message, "'"+c.denied+"' over scope '"+id.String()+"'") {
			t.Errorf("%s: %d %s", c.method, e.HTTPStatus(), e.Message)
		}
		h.Allow(c.denied)
	}
	// A reconcile's client is held to roles as well.
	h.Deny(nics + "/write")
	_, err = h.Manager.Client(resourcetypetest.Caller, time.Time{}).Put(t.Context(), id, "2024-01-01", map[string]any{"location": "eastus", "properties": map[string]any{"x": 1}})
	resourcetypetest.WantError(t, err, armerror.AuthorizationFailed)
	h.Deny(nics + "/delete")
	_, err = h.Manager.Client(resourcetypetest.Caller, time.Time{}).Delete(t.Context(), id)
	resourcetypetest.WantError(t, err, armerror.AuthorizationFailed)
	// Nobody is told of resources they may not read.
	h.Deny(nics + "/read")
	p, err := h.Manager.Resources(t.Context(), resourcemanager.Collection{Scope: h.Group(), APIVersion: "2024-01-01", Caller: resourcetypetest.Caller})
	if err != nil || len(p.Items) != 1 {
		t.Errorf("%d resources are shown, %v; want the network alone", len(p.Items), err)
	}
	// Who may read nothing in a group is told so, but of the subscription he sees what there is for him: nothing.
	h.Deny(networks + "/read")
	h.Deny("Microsoft.Resources/subscriptions/resourceGroups/resources/read")
	_, err = h.Manager.Resources(t.Context(), resourcemanager.Collection{Scope: h.Group(), APIVersion: "2024-01-01", Caller: resourcetypetest.Caller})
	resourcetypetest.WantError(t, err, armerror.AuthorizationFailed)
	p, err = h.Manager.Resources(t.Context(), resourcemanager.Collection{Scope: resourceid.MustParse("/subscriptions/" + resourcetypetest.Subscription), APIVersion: "2024-01-01", Caller: resourcetypetest.Caller})
	if err != nil || len(p.Items) != 0 {
		t.Errorf("%d resources are shown, %v", len(p.Items), err)
	}
}

func TestClient(t *testing.T) {
	h := resourcetypetest.New(t, types()...)
	c := h.Manager.Client(resourcetypetest.Caller, time.Time{})
	id := h.ID(networks, "n")
	body := map[string]any{"location": "eastus", "properties": map[string]any{"size": 3}}
	for range 3 {
		if state, err := c.Put(t.Context(), id, "2024-01-01", body); err != nil || state != "Succeeded" {
			t.Fatalf("%s, %v", state, err)
		}
	}
	r, err := h.Store.Get(t.Context(), id)
	if err != nil || r.Revision != 1 {
		t.Errorf("three equal Puts made revision %d, %v", r.Revision, err)
	}
	var n network
	if err := c.Get(t.Context(), id, &n); err != nil || n.Cloister.Serial != 7 {
		t.Errorf("a reconcile does not see cloister's memory: %+v, %v", n, err)
	}
	if gone, err := c.Delete(t.Context(), id); err != nil || !gone {
		t.Errorf("Delete: %v, %v", gone, err)
	}
	if gone, err := c.Delete(t.Context(), id); err != nil || !gone {
		t.Errorf("Delete of nothing: %v, %v", gone, err)
	}
	if err := c.Get(t.Context(), id, &n); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Errorf("Get of nothing: %v", err)
	}
}

func TestGroupDeletionRefused(t *testing.T) {
	h := resourcetypetest.New(t, types()...)
	net := h.ID(networks, "n")
	h.Put(net, map[string]any{"location": "eastus", "properties": map[string]any{"size": 1}})
	h.Put(h.ID(networks, "free"), map[string]any{"location": "eastus"})
	other := resourceid.Group(resourcetypetest.Subscription, "other")
	h.Put(other, map[string]any{"location": "eastus"})
	outside := other.Resource(nics, "outside")
	h.Put(outside, map[string]any{"location": "eastus", "properties": map[string]any{"subnet": net.String() + "/subnets/s"}})
	e := resourcetypetest.WantError(t, h.Delete(h.Group()), "ResourceGroupDeletionBlocked")
	if len(e.Details) != 1 || e.Details[0].Code != "InUse" {
		t.Errorf("details %v", e.Details)
	}
	if !h.Exists(net) || h.Exists(h.ID(networks, "free")) || h.Get(h.Group()).State() != "Succeeded" {
		t.Errorf("the group after a delete that was blocked: %v", h.Get(h.Group()))
	}
	h.Put(h.ID(networks, "again"), map[string]any{"location": "eastus"})
	if err := h.Delete(outside); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(h.Group()); err != nil {
		t.Errorf("the delete again: %v", err)
	}
}

// clouds is a directory with one subscription, registered for nothing but what is named.
type clouds struct{ registered string }

func (clouds) Subscription(_ context.Context, id string) (bool, error) {
	return id == resourcetypetest.Subscription, nil
}

func (clouds) Locations(context.Context) ([]resourcemanager.Location, error) {
	return []resourcemanager.Location{{Name: "eastus", DisplayName: "East US"}, {Name: "westus", DisplayName: "West US"}}, nil
}

func (c clouds) Registered(_ context.Context, _, namespace string) (bool, error) {
	return namespace == c.registered, nil
}

func TestDirectoryAndRegistration(t *testing.T) {
	h := resourcetypetest.New(t, append(types(), resourcetypetest.Stub("Microsoft.Test/zones", func(s *resourcetype.Spec[resourcetypetest.Model]) {
		s.Placement = resourcetype.Global
	}))...)
	m := func(c clouds) *resourcemanager.Manager {
		return resourcemanager.New(resourcemanager.Options{Store: h.Store, Types: h.Types, Authorizer: h, Directory: c, Registration: c})
	}
	put := func(m *resourcemanager.Manager, id resourceid.ID, location string) error {
		_, err := m.Do(t.Context(), resourcemanager.Request{Method: http.MethodPut, ID: id, APIVersion: "2024-01-01", Caller: resourcetypetest.Caller, Body: json.RawMessage(`{"location":"` + location + `"}`)})
		return err
	}
	all := m(clouds{"Microsoft.Test"})
	net := h.ID(networks, "n")
	e := resourcetypetest.WantError(t, put(all, net, "mars"), armerror.LocationNotAvailable)
	if e.Message != "The provided location 'mars' is not available for resource type 'Microsoft.Test/networks'. List of available regions for the resource type is 'eastus,westus'." {
		t.Error(e.Message)
	}
	if err := put(all, net, "West US"); err != nil || h.Get(net).String("location") != "westus" {
		t.Errorf("%v, %v", err, h.Get(net))
	}
	resourcetypetest.WantError(t, put(all, net, "eastus"), armerror.InvalidResourceLocation)
	resourcetypetest.WantError(t, put(all, h.ID("Microsoft.Test/zones", "z"), "eastus"), armerror.LocationNotAvailable)
	if err := put(all, h.ID("Microsoft.Test/zones", "z"), "Global"); err != nil {
		t.Error(err)
	}
	resourcetypetest.WantError(t, put(all, resourceid.Group("other", "g").Resource(networks, "n"), "eastus"), armerror.SubscriptionNotFound)
	e = resourcetypetest.WantError(t, put(m(clouds{}), net, "westus"), armerror.MissingRegistration)
	if e.HTTPStatus() != http.StatusConflict || !strings.HasPrefix(e.Message, "The subscription is not registered to use namespace 'Microsoft.Test'.") || len(e.Details) != 1 || e.Details[0].Target != "Microsoft.Test" {
		t.Errorf("%+v", e)
	}
}

func TestFindListAndSynchronous(t *testing.T) {
	builtIn := resourceid.MustParse("/providers/Microsoft.Test/roles/reader")
	roles := resourcetype.Define(resourcetype.Spec[resourcetypetest.Model]{
		Name: "Microsoft.Test/roles", Extension: true, Placement: resourcetype.Inherited, NoPut: true, NoDelete: true,
		Find: func(_ context.Context, id resourceid.ID, _ resourcetype.Reader) (resourcestore.Resource, error) {
			if !strings.EqualFold(id.Name(), "reader") {
				return resourcestore.Resource{}, resourcestore.ErrNotFound
			}
			return resourcestore.Resource{ID: id, Body: json.RawMessage(`{"properties":{"roleName":"Reader"}}`)}, nil
		},
		List: func(_ context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			if r.Filter != "" && r.Filter != "roleName eq 'Reader'" {
				return nil, nil
			}
			return []resourcestore.Resource{{ID: builtIn, Body: json.RawMessage(`{"properties":{"roleName":"Reader"}}`)}}, nil
		},
		Actions: map[string]resourcetype.Action[resourcetypetest.Model]{"tag": {Handle: func(_ context.Context, r *resourcetype.ActionRequest[resourcetypetest.Model]) (any, error) {
			r.Model.Tags = map[string]string{"a": "b"}
			return nil, nil
		}}},
	})
	quick := resourcetype.Define(resourcetype.Spec[resourcetypetest.Model]{
		Name: "Microsoft.Test/quick", Synchronous: true,
		Reconcile: func(_ context.Context, r *resourcetype.Reconciliation[resourcetypetest.Model]) (resourcetype.Result, error) {
			if r.Model.Tags["fail"] != "" && !r.Deleting {
				return resourcetype.Result{}, armerror.New("Told", "it was told to fail")
			}
			return resourcetype.Result{}, nil
		},
	})
	h := resourcetypetest.New(t, roles, quick)
	if got := h.Get(h.Group().Resource("Microsoft.Test/roles", "Reader")); got.String("properties.roleName") != "Reader" || got.At("etag") != nil {
		t.Errorf("a document that is not stored: %v", got)
	}
	_, err := h.TryGet(h.Group().Resource("Microsoft.Test/roles", "none"))
	resourcetypetest.WantError(t, err, armerror.ResourceNotFound)
	if n := len(h.List(h.Group(), "Microsoft.Test/roles", "roleName eq 'Reader'")); n != 1 {
		t.Errorf("%d roles", n)
	}
	_, err = h.TryPut(builtIn, map[string]any{})
	resourcetypetest.WantError(t, err, armerror.MethodNotAllowed)
	resourcetypetest.WantError(t, h.Delete(builtIn), armerror.MethodNotAllowed)
	if _, err := h.Post(builtIn, "tag", nil); err != nil {
		t.Fatal(err)
	}
	if got := h.Get(builtIn); got.String("tags.a") != "b" || got.String("properties.roleName") != "Reader" || got.String("name") != "reader" {
		t.Errorf("a built-in document after an action: %v", got)
	}

	id := h.ID("Microsoft.Test/quick", "q")
	a, err := h.Do(http.MethodPut, id, "", map[string]any{"location": "eastus"})
	if err != nil || a.Operation != nil || a.Status != http.StatusCreated || h.Get(id).State() != "Succeeded" {
		t.Errorf("PUT of a synchronous type: %+v, %v", a, err)
	}
	_, err = h.Do(http.MethodPut, id, "", map[string]any{"location": "eastus", "tags": map[string]string{"fail": "1"}})
	resourcetypetest.WantError(t, err, "Told")
	if a, err := h.Do(http.MethodDelete, id, "", nil); err != nil || a.Operation != nil || a.Status != http.StatusOK || h.Exists(id) {
		t.Errorf("DELETE of a synchronous type: %+v, %v", a, err)
	}
}
