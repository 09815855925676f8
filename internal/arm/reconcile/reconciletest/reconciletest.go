// Package reconciletest proves that a type's Reconcile can die anywhere: CrashEverywhere ends the process
// before and after each thing it does, starts it again and checks that it converges.
package reconciletest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/memory"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

// Scenario is one request whose work may die.
type Scenario struct {
	// Definitions are the types, made once: what their fakes of the machine hold outlives a crash, as the
	// machine does. Fakes do their effects in process.Effect.
	Definitions func(process *Process) []resourcetype.Definition
	// Setup makes what must be there before; it runs to its end and does not die. Optional.
	Setup func(h *resourcetypetest.Harness)
	// Act makes the request, as by h.Do.
	Act func(h *resourcetypetest.Harness) (resourcemanager.Answer, error)
	// Check holds the outcome: what must be there, and nothing left over.
	Check func(t *testing.T, h *resourcetypetest.Harness)
}

// ErrDead is what everything returns to a process that has died.
var ErrDead = errors.New("the process has died")

// most bounds the effects of a Scenario; one that has more does not converge.
const most = 1000

// Process is a process that may die at an effect.
type Process struct {
	mu    sync.Mutex
	left  int  // effects until it dies; below 0: it does not
	after bool // it dies after the effect rather than before
	dead  bool
	died  chan struct{}
}

// Effect does something to the machine, or dies before or after it.
func (p *Process) Effect(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return ErrDead
	}
	if p.left > 0 {
		p.left--
	}
	if p.left != 0 {
		return do()
	}
	if p.after {
		_ = do() // nobody is left to be told
	}
	p.dead = true
	close(p.died)
	return ErrDead
}

func (p *Process) arm(effects int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.after, p.dead, p.died = effects, after, false, make(chan struct{})
}

func (p *Process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// mortal is a process's way to the store. Writing a document is an effect.
type mortal struct {
	resourcestore.Store
	process *Process
}

func (m mortal) Apply(ctx context.Context, changes ...resourcestore.Change) error {
	for _, c := range changes {
		if c.Operation == nil {
			return m.process.Effect(func() error { return m.Store.Apply(ctx, changes...) })
		}
	}
	if m.process.isDead() {
		return ErrDead
	}
	return m.Store.Apply(ctx, changes...)
}

func (m mortal) Get(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error) {
	if m.process.isDead() {
		return resourcestore.Resource{}, ErrDead
	}
	return m.Store.Get(ctx, id)
}

func (m mortal) List(ctx context.Context, f resourcestore.Filter) ([]resourcestore.Resource, error) {
	if m.process.isDead() {
		return nil, ErrDead
	}
	return m.Store.List(ctx, f)
}

// CrashEverywhere runs the scenario again and again, each time dying one effect later, until it is through
// without dying.
func CrashEverywhere(t *testing.T, scenario func(t *testing.T) Scenario) {
	t.Helper()
	for _, after := range []bool{false, true} {
		n := 1
		for ; n <= most; n++ {
			if !crash(t, scenario(t), n, after) {
				break
			}
		}
		switch {
		case t.Failed():
			return
		case n > most:
			t.Fatalf("there are more than %d effects", most)
		case n == 1:
			t.Fatal("the scenario has no effect to die at")
		}
	}
}

// crash runs the scenario once and reports whether it died.
func crash(t *testing.T, s Scenario, n int, after bool) (died bool) {
	t.Helper()
	where := "before"
	if after {
		where = "after"
	}
	p := &Process{}
	p.arm(-1, false)
	store := memory.New()
	h := resourcetypetest.NewIdle(t, store, s.Definitions(p)...)
	if s.Setup != nil {
		stop := h.Start(store)
		s.Setup(h)
		stop()
	}
	p.arm(n, after)
	stop := h.Start(mortal{store, p})
	a, err := s.Act(h)
	if err != nil {
		stop()
		t.Fatalf("the request: %v", err)
	}
	died = await(t, h, store, p)
	stop()
	if died {
		p.arm(-1, false)
		again := h.Start(mortal{store, p})
		await(t, h, store, p)
		again()
	}
	if err := h.Finish(a); err != nil {
		t.Errorf("died %s effect %d: the operation ended with %v", where, n, err)
	}
	if s.Check != nil {
		s.Check(t, h)
	}
	if t.Failed() {
		t.Fatalf("this was after dying %s effect %d", where, n)
	}
	return died
}

// await returns when no operation is in progress any more, or when the process has died.
func await(t *testing.T, h *resourcetypetest.Harness, store resourcestore.Store, p *Process) (died bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	cancel := store.Watch(func([]resourcestore.Event) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	deadline := time.After(h.Wait)
	for {
		running, err := store.Operations(context.Background(), resourceid.ID{}, true)
		if err != nil {
			t.Fatal(err)
		}
		if p.isDead() {
			return true
		}
		if len(running) == 0 {
			return false
		}
		select {
		case <-changed:
		case <-p.died:
			return true
		case <-deadline:
			t.Fatalf("the operation %s on %s does not end; steps %v", running[0].Kind, running[0].Resource, running[0].Steps)
		}
	}
}
