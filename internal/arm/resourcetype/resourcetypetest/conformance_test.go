package resourcetypetest

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type widget struct {
	Properties struct {
		Size  int    `json:"size,omitempty"`
		Shape string `json:"shape,omitempty"`
	} `json:"properties"`
	Cloister struct {
		Made bool `json:"made,omitempty"`
	} `json:"cloister"`
}

func widgets() resourcetype.Definition {
	return resourcetype.Define(resourcetype.Spec[widget]{
		Name: "Microsoft.Test/widgets",
		Prepare: func(_ context.Context, r *resourcetype.Request[widget]) error {
			if r.Model.Properties.Shape == "" {
				r.Model.Properties.Shape = "round"
			}
			return nil
		},
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[widget]) (resourcetype.Result, error) {
			r.Model.Cloister.Made = true
			return resourcetype.Result{}, r.Save(ctx)
		},
	})
}

func TestConformance(t *testing.T) {
	t.Run("stub", func(t *testing.T) {
		h := New(t, Stub("Microsoft.Test/things"))
		Conformance(t, h, Case{ID: h.ID("Microsoft.Test/things", "Thing1"), Body: map[string]any{"location": "East US"}})
	})
	t.Run("child", func(t *testing.T) {
		h := New(t, Stub("Microsoft.Test/things"), Stub("Microsoft.Test/things/parts"))
		h.Put(h.ID("Microsoft.Test/things", "t"), map[string]any{"location": "eastus"})
		Conformance(t, h, Case{ID: h.ID("Microsoft.Test/things/parts", "t", "p"), Body: map[string]any{"properties": map[string]any{"a": 1}}})
	})
	t.Run("reconciled", func(t *testing.T) {
		h := New(t, widgets())
		id := h.ID("Microsoft.Test/widgets", "w")
		Conformance(t, h, Case{ID: id, Body: map[string]any{"location": "eastus", "properties": map[string]any{"size": 3}}})
		d := h.Put(id, map[string]any{"location": "eastus"})
		if d.String("properties.shape") != "round" {
			t.Errorf("no default in %v", d)
		}
		var m widget
		h.Stored(id, &m)
		if !m.Cloister.Made {
			t.Error("what Save wrote is not stored")
		}
	})
}
