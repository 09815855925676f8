// Package storetest is the contract of resourcestore.Store as tests, for every implementation.
package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

const subscription = "00000000-0000-0000-0000-000000000001"

func network(group, name string) resourceid.ID {
	return resourceid.Group(subscription, group).Resource("Microsoft.Test/networks", name)
}

func put(id resourceid.ID, revision int64, body string) resourcestore.Change {
	return resourcestore.Change{Put: &resourcestore.Resource{ID: id, Body: json.RawMessage(body)}, Revision: revision}
}

func remove(id resourceid.ID, revision int64) resourcestore.Change {
	return resourcestore.Change{Delete: &id, Revision: revision}
}

func operation(id string, on resourceid.ID, status string, start time.Time) resourcestore.Change {
	return resourcestore.Change{Operation: &resourcestore.Operation{ID: id, Resource: on, Kind: "create", Location: "eastus", APIVersion: "2024-05-01", Status: status, Start: start}}
}

// Run runs the suite. open makes a new, empty store.
func Run(t *testing.T, open func(t *testing.T) resourcestore.Store) {
	for _, c := range []struct {
		name string
		fn   func(*testing.T, resourcestore.Store)
	}{
		{"documents", documents}, {"list", list}, {"preconditions", preconditions}, {"atomic", atomic},
		{"operations", operations}, {"ended operations stay ended", ended}, {"watch", watch}, {"concurrent writers", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.fn(t, s)
		})
	}
}

func apply(t *testing.T, s resourcestore.Store, changes ...resourcestore.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes...); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s resourcestore.Store, id resourceid.ID) resourcestore.Resource {
	t.Helper()
	r, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func documents(t *testing.T, s resourcestore.Store) {
	id := network("rg", "Net")
	if _, err := s.Get(t.Context(), id); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Fatalf("Get of nothing: %v", err)
	}
	before := time.Now()
	body := `{"name": "Net",  "n": 12345678901234567890}`
	apply(t, s, put(id, 0, body))
	r := get(t, s, resourceid.MustParse(strings.ToUpper(id.String())))
	if r.ID.String() != id.String() || string(r.Body) != body || r.Revision != 1 || r.Deleting {
		t.Errorf("got %+v", r)
	}
	if r.Created.Before(before.Add(-time.Second)) || !r.Created.Equal(r.Changed) {
		t.Errorf("created %s, changed %s", r.Created, r.Changed)
	}
	tag := r.ETag()
	next := r
	next.Body, next.Deleting = json.RawMessage(`{}`), true
	apply(t, s, resourcestore.Change{Put: &next, Revision: 1})
	again := get(t, s, id)
	if again.Revision != 2 || !again.Deleting || string(again.Body) != `{}` || !again.Created.Equal(r.Created) || again.ETag() == tag {
		t.Errorf("after the second write: %+v", again)
	}
	r.Body[0] = 'x'
	if again := get(t, s, id); string(again.Body) != `{}` {
		t.Error("a caller can change what is stored")
	}
	apply(t, s, remove(id, 2))
	if _, err := s.Get(t.Context(), id); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Errorf("Get after the delete: %v", err)
	}
	apply(t, s, remove(id, resourcestore.Any))
	apply(t, s, put(id, 0, body))
	if reborn := get(t, s, id); reborn.Revision != 1 || reborn.ETag() == tag {
		t.Errorf("a document made anew has revision %d and the old one's tag", reborn.Revision)
	}
}

func list(t *testing.T, s resourcestore.Store) {
	a, b, longer := network("rg", "a"), network("rg", "B"), network("rg2", "a")
	child := a.Child("subnets", "s")
	grant := a.Resource("Microsoft.Authorization/roleAssignments", "g")
	for _, id := range []resourceid.ID{longer, b, child, grant, a} {
		apply(t, s, put(id, 0, `{}`))
	}
	for _, c := range []struct {
		filter resourcestore.Filter
		want   []resourceid.ID
	}{
		{resourcestore.Filter{}, []resourceid.ID{a, grant, child, b, longer}},
		{resourcestore.Filter{Under: resourceid.Group(subscription, "RG")}, []resourceid.ID{a, grant, child, b}},
		{resourcestore.Filter{Under: resourceid.Group(subscription, "rg"), Type: "microsoft.test/NETWORKS"}, []resourceid.ID{a, b}},
		{resourcestore.Filter{Under: a}, []resourceid.ID{grant, child}},
		{resourcestore.Filter{Type: "Microsoft.Test/networks/subnets"}, []resourceid.ID{child}},
		{resourcestore.Filter{Under: child}, nil},
	} {
		got, err := s.List(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var ids []resourceid.ID
		for _, r := range got {
			ids = append(ids, r.ID)
		}
		if !reflect.DeepEqual(ids, c.want) {
			t.Errorf("%+v lists\n%v, want\n%v", c.filter, ids, c.want)
		}
	}
}

func preconditions(t *testing.T, s resourcestore.Store) {
	id := network("rg", "n")
	refused := func(c resourcestore.Change) {
		t.Helper()
		if err := s.Apply(t.Context(), c); !errors.Is(err, resourcestore.ErrConflict) {
			t.Errorf("revision %d: %v, want ErrConflict", c.Revision, err)
		}
	}
	refused(put(id, 1, `{}`))
	refused(remove(id, 1))
	apply(t, s, put(id, 0, `{}`))
	refused(put(id, 0, `{}`))
	refused(put(id, 2, `{}`))
	refused(remove(id, 2))
	apply(t, s, put(id, resourcestore.Any, `{}`))
	apply(t, s, remove(id, 2))
}

func atomic(t *testing.T, s resourcestore.Store) {
	a, b := network("rg", "a"), network("rg", "b")
	err := s.Apply(t.Context(), put(a, 0, `{}`), operation("op", a, resourcestore.InProgress, time.Now()), put(b, 7, `{}`))
	if !errors.Is(err, resourcestore.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), a); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Error("half of a refused transaction was written")
	}
	if _, err := s.Operation(t.Context(), "op"); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Error("the operation of a refused transaction was written")
	}
}

func operations(t *testing.T, s resourcestore.Store) {
	a, b := network("rg", "a"), network("rg", "b")
	start := time.Now().UTC().Truncate(time.Microsecond)
	full := resourcestore.Operation{
		ID: "full", Resource: a, Kind: "create", Location: "eastus", APIVersion: "2024-05-01", Status: resourcestore.Failed,
		Error: json.RawMessage(`{"code":"X"}`), Result: json.RawMessage(`[1]`), Steps: []resourcestore.Step{{Name: "one", Start: start}},
		Start: start, End: start.Add(time.Second),
	}
	apply(t, s, resourcestore.Change{Operation: &full}, operation("later", a, resourcestore.InProgress, start.Add(2*time.Second)))
	apply(t, s, operation("earlier", b, resourcestore.InProgress, start.Add(-time.Second)))
	got, err := s.Operation(t.Context(), "full")
	if err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, full)
	}
	for _, c := range []struct {
		on         resourceid.ID
		inProgress bool
		want       string
	}{
		{resourceid.ID{}, false, "earlier full later"},
		{resourceid.ID{}, true, "earlier later"},
		{resourceid.MustParse(strings.ToUpper(a.String())), false, "full later"},
		{a, true, "later"},
		{network("rg", "c"), false, ""},
	} {
		got, err := s.Operations(t.Context(), c.on, c.inProgress)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, o := range got {
			ids = append(ids, o.ID)
		}
		if strings.Join(ids, " ") != c.want {
			t.Errorf("operations on %s, in progress %v: %v, want %s", c.on, c.inProgress, ids, c.want)
		}
	}
}

func ended(t *testing.T, s resourcestore.Store) {
	a := network("rg", "a")
	start := time.Now()
	apply(t, s, operation("op", a, resourcestore.InProgress, start))
	apply(t, s, operation("op", a, resourcestore.Canceled, start))
	late := operation("op", a, resourcestore.InProgress, start)
	late.Operation.Steps = []resourcestore.Step{{Name: "late"}}
	apply(t, s, late)
	o, err := s.Operation(t.Context(), "op")
	if err != nil || o.Status != resourcestore.Canceled || len(o.Steps) != 1 {
		t.Errorf("a late report of progress made the operation %+v, %v", o, err)
	}
}

func watch(t *testing.T, s resourcestore.Store) {
	var mu sync.Mutex
	var seen []string
	cancel := s.Watch(func(events []resourcestore.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			seen = append(seen, fmt.Sprint(e.ID.Name(), e.Deleted, e.Operation))
			// A watcher finds what it is told of.
			_, err := s.Get(t.Context(), e.ID)
			if e.Operation == "" && e.Deleted != errors.Is(err, resourcestore.ErrNotFound) {
				t.Errorf("event %+v came when Get said %v", e, err)
			}
		}
	})
	a, b := network("rg", "a"), network("rg", "b")
	apply(t, s, put(a, 0, `{}`), operation("op", a, resourcestore.InProgress, time.Now()))
	if err := s.Apply(t.Context(), put(a, 9, `{}`)); err == nil {
		t.Fatal("no conflict")
	}
	apply(t, s, put(b, 0, `{}`))
	apply(t, s, remove(a, 1))
	apply(t, s, remove(a, resourcestore.Any))
	cancel()
	apply(t, s, remove(b, 1))
	mu.Lock()
	defer mu.Unlock()
	if want := "[afalse afalseop bfalse atrue]"; fmt.Sprint(seen) != want {
		t.Errorf("seen %v, want %v", seen, want)
	}
}

func concurrent(t *testing.T, s resourcestore.Store) {
	id := network("rg", "counter")
	apply(t, s, put(id, 0, `0`))
	var mu sync.Mutex
	var revisions []int64
	cancel := s.Watch(func([]resourcestore.Event) {
		r, err := s.Get(t.Context(), id)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		revisions = append(revisions, r.Revision)
		mu.Unlock()
	})
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for done := 0; done < 10; {
				r, err := s.Get(t.Context(), id)
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				_ = json.Unmarshal(r.Body, &n)
				err = s.Apply(t.Context(), put(id, r.Revision, fmt.Sprint(n+1)))
				switch {
				case err == nil:
					done++
				case !errors.Is(err, resourcestore.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r := get(t, s, id); string(r.Body) != "40" || r.Revision != 41 {
		t.Errorf("40 increments made %s at revision %d", r.Body, r.Revision)
	}
	for i, r := range revisions {
		if r != int64(i)+2 {
			t.Fatalf("watchers saw revisions %v: not each commit, in order", revisions)
		}
	}
}
