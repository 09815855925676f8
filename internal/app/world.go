package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/app/public"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// World keeps the machine's networks and data-plane processes in agreement with the documents. Providers
// call Sync after their documents have changed.
type World struct {
	layout layout.Layout
	store  resourcestore.Store
	public func(projection.State) (public.Config, error)
	fabric interface {
		Set(context.Context, fabric.Config) error
	}
	input func() (projection.Input, error) // all but Documents and Sessions
	log   *slog.Logger

	mu       sync.Mutex
	running  *run
	next     *run // asked for while running: it starts after, and sees what its askers wrote
	sessions map[string]projection.Session
	leaves   map[string]netip.Addr // first service-side address of each leaf, as last applied
}

type run struct {
	done chan struct{}
	err  error
}

// Sync returns when the machine agrees with the documents as they are now, or says why it cannot. Calls
// at the same time share one run.
func (w *World) Sync(ctx context.Context) error {
	w.mu.Lock()
	var r *run
	switch {
	case w.running == nil:
		r = &run{done: make(chan struct{})}
		w.running = r
		go w.work(r)
	case w.next == nil:
		r = &run{done: make(chan struct{})}
		w.next = r
	default:
		r = w.next
	}
	w.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *World) work(r *run) {
	for r != nil {
		// The caller's context does not end a run that others wait for too.
		r.err = w.apply(context.Background())
		if r.err != nil {
			w.log.Error("the machine does not agree with the documents", "error", r.err)
		}
		close(r.done)
		w.mu.Lock()
		r, w.next = w.next, nil
		w.running = r
		w.mu.Unlock()
	}
}

// apply projects all documents and hands the state to the engines. Registries come first: an address
// that starts to answer must find its registry there.
func (w *World) apply(ctx context.Context) error {
	_, state, err := w.project(ctx)
	if err != nil {
		return err
	}
	outside, err := w.public(state)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		name  string
		value any
	}{{ProcessRegistry, state.Registry}, {ProcessServices, state.Services}, {ProcessPublic, outside}} {
		if err := w.write(s.name, s.value); err != nil {
			return fmt.Errorf("write the state of %s: %w", s.name, err)
		}
	}
	if err := w.fabric.Set(ctx, state.Fabric); err != nil {
		return fmt.Errorf("set up the networks: %w", err)
	}
	leaves := map[string]netip.Addr{}
	for _, l := range state.Fabric.Leaves {
		if len(l.Addresses) > 0 {
			leaves[l.Name] = l.Addresses[0]
		}
	}
	w.mu.Lock()
	w.leaves = leaves
	w.mu.Unlock()
	return nil
}

// project computes the whole desired state from the documents and sessions that there are.
func (w *World) project(ctx context.Context) ([]resourcestore.Resource, projection.State, error) {
	documents, err := w.store.List(ctx, resourcestore.Filter{})
	if err != nil {
		return nil, projection.State{}, err
	}
	in, err := w.input()
	if err != nil {
		return nil, projection.State{}, err
	}
	in.Documents = documents
	w.mu.Lock()
	for _, s := range w.sessions {
		in.Sessions = append(in.Sessions, s)
	}
	w.mu.Unlock()
	state, err := projection.Project(in)
	return documents, state, err
}

// LeafAddress is the service-side address of a leaf.
func (w *World) LeafAddress(name string) (netip.Addr, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.leaves[name]
	return a, ok
}

// write replaces a state file when its content differs: the process that watches it need not look then.
func (w *World) write(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	path := w.layout.State(name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return atomicfile.Write(path, data, 0o600)
}

// keep adds a session. Its namespace is made by the next Sync.
func (w *World) keep(s projection.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions[s.Name] = s
}

// RemoveSession ends a session and takes its namespace away.
func (w *World) RemoveSession(ctx context.Context, name string) error {
	w.mu.Lock()
	delete(w.sessions, name)
	w.mu.Unlock()
	return w.Sync(ctx)
}

// Sessions are those there are.
func (w *World) Sessions() []projection.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []projection.Session
	for _, s := range w.sessions {
		out = append(out, s)
	}
	return out
}
