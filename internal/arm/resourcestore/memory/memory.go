// Package memory is a resource store in memory, for tests and for trying things out.
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// Store implements resourcestore.Store.
type Store struct {
	mu         sync.RWMutex
	resources  map[string]resourcestore.Resource
	operations map[string]resourcestore.Operation
	started    []string // operation IDs in order of insertion

	// notify is held from commit to notification, so that watchers see commits in order. It is taken
	// before mu and never while mu is held; a watcher may read the store.
	notify   sync.Mutex
	watchMu  sync.Mutex
	watchers map[int]func([]resourcestore.Event)
	next     int
}

// New returns an empty store.
func New() *Store {
	return &Store{
		resources:  map[string]resourcestore.Resource{},
		operations: map[string]resourcestore.Operation{},
		watchers:   map[int]func([]resourcestore.Event){},
	}
}

// Get implements resourcestore.Store.
func (s *Store) Get(_ context.Context, id resourceid.ID) (resourcestore.Resource, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.resources[id.Key()]
	if !ok {
		return resourcestore.Resource{}, fmt.Errorf("%s: %w", id, resourcestore.ErrNotFound)
	}
	return copied(r), nil
}

// copied keeps callers from sharing the bytes of a body.
func copied(r resourcestore.Resource) resourcestore.Resource {
	r.Body = slices.Clone(r.Body)
	return r
}

// List implements resourcestore.Store.
func (s *Store) List(_ context.Context, f resourcestore.Filter) ([]resourcestore.Resource, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prefix := f.Under.Key()
	if prefix != "/" {
		prefix += "/"
	}
	var keys []string
	for k, r := range s.resources {
		if strings.HasPrefix(k, prefix) && (f.Type == "" || r.ID.Is(f.Type)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var out []resourcestore.Resource
	for _, k := range keys {
		out = append(out, copied(s.resources[k]))
	}
	return out, nil
}

// Apply implements resourcestore.Store.
func (s *Store) Apply(_ context.Context, changes ...resourcestore.Change) error {
	s.notify.Lock()
	defer s.notify.Unlock()
	events, err := s.commit(changes)
	if err != nil || len(events) == 0 {
		return err
	}
	s.watchMu.Lock()
	var fns []func([]resourcestore.Event)
	for _, n := range slices.Sorted(maps.Keys(s.watchers)) {
		fns = append(fns, s.watchers[n])
	}
	s.watchMu.Unlock()
	for _, fn := range fns {
		fn(slices.Clone(events))
	}
	return nil
}

func (s *Store) commit(changes []resourcestore.Change) ([]resourcestore.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		id, has := c.Target()
		if !has || c.Revision == resourcestore.Any {
			continue
		}
		if found := s.resources[id.Key()].Revision; found != c.Revision {
			return nil, fmt.Errorf("%s has revision %d, expected %d: %w", id, found, c.Revision, resourcestore.ErrConflict)
		}
	}
	now := time.Now().UTC()
	var events []resourcestore.Event
	for _, c := range changes {
		switch {
		case c.Put != nil:
			r := copied(*c.Put)
			have, ok := s.resources[r.ID.Key()]
			r.Revision, r.Created, r.Changed = have.Revision+1, now, now
			if ok {
				r.Created = have.Created
			}
			s.resources[r.ID.Key()] = r
			events = append(events, resourcestore.Event{ID: r.ID})
		case c.Delete != nil:
			if _, ok := s.resources[c.Delete.Key()]; ok {
				delete(s.resources, c.Delete.Key())
				events = append(events, resourcestore.Event{ID: *c.Delete, Deleted: true})
			}
		case c.Operation != nil:
			o := *c.Operation
			o.Steps = slices.Clone(o.Steps)
			if have, ok := s.operations[o.ID]; ok {
				o = have.Replaced(o)
			} else {
				s.started = append(s.started, o.ID)
			}
			s.operations[o.ID] = o
			events = append(events, resourcestore.Event{ID: o.Resource, Operation: o.ID})
		}
	}
	return events, nil
}

// Operation implements resourcestore.Store.
func (s *Store) Operation(_ context.Context, id string) (resourcestore.Operation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.operations[id]
	if !ok {
		return resourcestore.Operation{}, fmt.Errorf("operation %s: %w", id, resourcestore.ErrNotFound)
	}
	return o, nil
}

// Operations implements resourcestore.Store.
func (s *Store) Operations(_ context.Context, resource resourceid.ID, inProgress bool) ([]resourcestore.Operation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []resourcestore.Operation
	for _, id := range s.started {
		o := s.operations[id]
		if (resource.IsZero() || o.Resource.Equal(resource)) && (!inProgress || o.Status == resourcestore.InProgress) {
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b resourcestore.Operation) int { return a.Start.Compare(b.Start) })
	return out, nil
}

// Watch implements resourcestore.Store.
func (s *Store) Watch(fn func([]resourcestore.Event)) (cancel func()) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	n := s.next
	s.next++
	s.watchers[n] = fn
	return func() {
		s.watchMu.Lock()
		defer s.watchMu.Unlock()
		delete(s.watchers, n)
	}
}

// Close implements resourcestore.Store.
func (s *Store) Close() error { return nil }
