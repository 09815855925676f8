package privateendpoints

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

var errDied = errors.New("died")

// mortal is a client, a store and a world that die before or after their n-th effect.
type mortal struct {
	*providertest.Documents
	t     *testing.T
	left  int  // effects until death; negative: immortal
	after bool // dies after the effect rather than before
	dead  bool
}

func (m *mortal) effect(do func()) error {
	if m.dead {
		return errDied
	}
	m.left--
	if m.left == 0 && !m.after {
		m.dead = true
		return errDied
	}
	do()
	if m.left == 0 {
		m.dead = true
		return errDied
	}
	return nil
}

func (m *mortal) Put(_ context.Context, id resourceid.ID, _ string, body any) (string, error) {
	return resourcestore.Succeeded, m.effect(func() { m.Documents.Put(m.t, id.String(), body) })
}

func (m *mortal) Delete(_ context.Context, id resourceid.ID) (bool, error) {
	return true, m.effect(func() { m.Remove(id.String()) })
}

func (m *mortal) Sync(context.Context) error { return m.effect(func() {}) }

// run is one life: it reads the stored document, as a process that starts does.
func (m *mortal) run(deleting bool) error {
	model := new(Model)
	if err := m.Get(m.t.Context(), resourceid.MustParse(id), model); err != nil {
		m.t.Fatal(err)
	}
	_, err := Spec(m, roles(true)).Reconcile(m.t.Context(), &resourcetype.Reconciliation[Model]{
		ID: resourceid.MustParse(id), Model: model, Deleting: deleting, Client: m, Step: func(string) {},
		Save: func(context.Context) error { return m.effect(func() { m.Documents.Put(m.t, id, model) }) },
	})
	return err
}

// Wherever the process dies, the next one makes the same interface and connection, and removes both.
func TestCrashEverywhere(t *testing.T) {
	died := 0
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			m := &mortal{Documents: documents(t), t: t, left: n, after: after}
			made, err := put(t, m.Documents, true, id, create)
			if err != nil {
				t.Fatal(err)
			}
			first := m.run(false)
			m.left, m.dead = -1, false
			if first != nil {
				died++
				if !errors.Is(first, errDied) {
					t.Fatalf("%d: %v", n, first)
				}
				if err := m.run(false); err != nil {
					t.Fatalf("the life after death %d: %v", n, err)
				}
			}
			var body json.RawMessage
			parts := []string{made.Properties.NetworkInterfaces[0].ID, made.Cloister.Connection}
			for _, p := range parts {
				if err := m.Get(t.Context(), resourceid.MustParse(p), &body); err != nil {
					t.Errorf("death %d: %s is not there: %v", n, p, err)
				}
			}
			m.left = n
			if m.run(true) != nil {
				m.left, m.dead = -1, false
				if err := m.run(true); err != nil {
					t.Fatalf("deletion after death %d: %v", n, err)
				}
			}
			for _, p := range parts {
				if m.Get(t.Context(), resourceid.MustParse(p), &body) == nil {
					t.Errorf("death %d: %s is left", n, p)
				}
			}
			if first == nil {
				break
			}
		}
	}
	if died < 6 {
		t.Errorf("only %d deaths were tried", died)
	}
}
