package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/app/public"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	memorystore "github.com/cloister-dev/cloister/internal/arm/resourcestore/memory"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// slowFabric holds each Set until it is told to go on.
type slowFabric struct {
	mu       sync.Mutex
	sets     []fabric.Config
	proceed  chan error
	blocking bool
}

func (f *slowFabric) Set(_ context.Context, c fabric.Config) error {
	f.mu.Lock()
	f.sets = append(f.sets, c)
	f.mu.Unlock()
	if f.blocking {
		return <-f.proceed
	}
	return nil
}

func (f *slowFabric) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sets)
}

func newWorld(t *testing.T, f *slowFabric) *World {
	t.Helper()
	dir := t.TempDir()
	l := layout.New(filepath.Join(dir, "data"), filepath.Join(dir, "cache"), "abc123")
	if err := os.MkdirAll(filepath.Dir(l.State("x")), 0o700); err != nil {
		t.Fatal(err)
	}
	return &World{
		layout: l, store: memorystore.New(), fabric: f, log: slog.New(slog.DiscardHandler), sessions: map[string]projection.Session{},
		input: func() (projection.Input, error) {
			return projection.Input{Layout: l, Access: func(resourceid.ID) map[string][]string { return nil }}, nil
		},
		public: func(projection.State) (public.Config, error) { return public.Config{}, nil },
	}
}

func write(t *testing.T, store resourcestore.Store, id, body string) {
	t.Helper()
	if err := store.Apply(t.Context(), resourcestore.Change{Put: &resourcestore.Resource{ID: resourceid.MustParse(id), Body: []byte(body)}, Revision: resourcestore.Any}); err != nil {
		t.Fatal(err)
	}
}

const testVNet = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v"

// Many who ask at the same time share a run, and each sees what it wrote before it asked.
func TestSyncCoalesces(t *testing.T) {
	f := &slowFabric{proceed: make(chan error), blocking: true}
	w := newWorld(t, f)
	synctest.Test(t, func(t *testing.T) {
		f.proceed = make(chan error)
		results := make(chan error, 11)
		ask := func() { results <- w.Sync(context.Background()) }
		go ask()
		synctest.Wait() // the first run is under way, without the network
		write(t, w.store, testVNet, `{"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}`)
		for range 10 {
			go ask()
		}
		synctest.Wait()
		if f.count() != 1 || len(results) != 0 {
			t.Fatalf("%d runs and %d answers while the first run works", f.count(), len(results))
		}
		f.proceed <- nil
		synctest.Wait()
		if len(results) != 1 || f.count() != 2 {
			t.Fatalf("%d answers and %d runs after the first", len(results), f.count())
		}
		f.proceed <- errors.New("the second failed")
		synctest.Wait()
		if len(results) != 11 || f.count() != 2 {
			t.Fatalf("%d answers of %d runs, want 11 of 2", len(results), f.count())
		}
		if len(f.sets[0].Networks) != 0 || len(f.sets[1].Networks) != 1 {
			t.Errorf("the runs saw %d and %d networks", len(f.sets[0].Networks), len(f.sets[1].Networks))
		}
		if err := <-results; err != nil {
			t.Errorf("the first run: %v", err)
		}
		for range 10 {
			if err := <-results; err == nil || !strings.Contains(err.Error(), "the second failed") {
				t.Errorf("the second run: %v", err)
			}
		}
	})
}

// One who gives up does not end the run that others wait for.
func TestSyncOutlivesItsAsker(t *testing.T) {
	f := &slowFabric{blocking: true}
	w := newWorld(t, f)
	synctest.Test(t, func(t *testing.T) {
		f.proceed = make(chan error)
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan error, 1)
		go func() { gone <- w.Sync(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the one who gave up: %v", err)
		}
		f.proceed <- nil
		synctest.Wait()
		later := make(chan error, 1)
		go func() { later <- w.Sync(context.Background()) }()
		synctest.Wait()
		f.proceed <- nil
		if err := <-later; err != nil || f.count() != 2 {
			t.Errorf("%v after %d runs", err, f.count())
		}
	})
}

// The files that the data plane watches are private, and touched only when what they say changes.
func TestStateFiles(t *testing.T) {
	w := newWorld(t, &slowFabric{})
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := map[string]os.FileInfo{}
	for _, name := range []string{ProcessRegistry, ProcessServices, ProcessPublic} {
		st, err := os.Stat(w.layout.State(name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, st.Mode())
		}
		before[name] = st
	}
	write(t, w.store, testVNet, `{"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}`)
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{ProcessRegistry: false, ProcessServices: true} {
		st, err := os.Stat(w.layout.State(name))
		if err != nil {
			t.Fatal(err)
		}
		if changed := !os.SameFile(st, before[name]); changed != want {
			t.Errorf("%s was written again: %v, want %v", name, changed, want)
		}
	}
}

// A document that cannot be read leaves everything as it was.
func TestUnreadableDocument(t *testing.T) {
	f := &slowFabric{}
	w := newWorld(t, f)
	write(t, w.store, testVNet, `{"properties":{"addressSpace":{"addressPrefixes":["nonsense"]}}}`)
	if err := w.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), testVNet) {
		t.Errorf("%v", err)
	}
	if f.count() != 0 {
		t.Error("the fabric was set")
	}
	if _, err := os.Stat(w.layout.State(ProcessServices)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a state file was written: %v", err)
	}
}
