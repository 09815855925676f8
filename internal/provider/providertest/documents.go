// Package providertest holds documents in memory for the tests of resource types. It knows no type.
package providertest

import (
	"context"
	"encoding/json"
	"sort"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Documents is a resourcetype.Reader over a map.
type Documents struct {
	stored map[string]resourcestore.Resource
}

var _ resourcetype.Reader = (*Documents)(nil)

// New holds nothing.
func New() *Documents { return &Documents{map[string]resourcestore.Resource{}} }

// Put stores a document: JSON text, or anything that marshals to it.
func (d *Documents) Put(t testing.TB, id string, doc any) {
	t.Helper()
	var body []byte
	if s, ok := doc.(string); ok {
		body = []byte(s)
	} else {
		var err error
		if body, err = json.Marshal(doc); err != nil {
			t.Fatalf("marshal %s: %v", id, err)
		}
	}
	parsed := resourceid.MustParse(id)
	d.stored[parsed.Key()] = resourcestore.Resource{ID: parsed, Body: body, Revision: 1}
}

// Mark says that a delete of the document was accepted.
func (d *Documents) Mark(id string) {
	k := resourceid.MustParse(id).Key()
	r := d.stored[k]
	r.Deleting = true
	d.stored[k] = r
}

// Remove takes a document away.
func (d *Documents) Remove(id string) { delete(d.stored, resourceid.MustParse(id).Key()) }

// Get implements resourcetype.Reader.
func (d *Documents) Get(_ context.Context, id resourceid.ID, model any) error {
	r, ok := d.stored[id.Key()]
	if !ok {
		return resourcestore.ErrNotFound
	}
	return json.Unmarshal(r.Body, model)
}

// List implements resourcetype.Reader.
func (d *Documents) List(_ context.Context, under resourceid.ID, kind string) ([]resourcestore.Resource, error) {
	var list []resourcestore.Resource
	for _, r := range d.stored {
		if r.ID.Is(kind) && under.Contains(r.ID) && !r.ID.Equal(under) {
			list = append(list, r)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID.Key() < list[j].ID.Key() })
	return list, nil
}

// Prepare runs a Spec's Prepare on a request body against the stored document and, when it is accepted,
// stores the model. It returns the model.
func Prepare[M any](t testing.TB, d *Documents, spec resourcetype.Spec[M], id, apiVersion, body string) (*M, error) {
	t.Helper()
	r := Request[M](t, d, id, apiVersion, body)
	if err := spec.Prepare(t.Context(), r); err != nil {
		return nil, err
	}
	d.Put(t, id, r.Model)
	return r.Model, nil
}

// Request is a request of the owner with that body.
func Request[M any](t testing.TB, d *Documents, id, apiVersion, body string) *resourcetype.Request[M] {
	t.Helper()
	r := &resourcetype.Request[M]{
		ID: resourceid.MustParse(id), APIVersion: apiVersion, Model: new(M), Documents: d,
		Caller: resourcetype.Principal{ObjectID: "00000000-0000-0000-0000-00000000000a", TenantID: "11111111-1111-1111-1111-111111111111", Name: "owner"},
	}
	if err := json.Unmarshal([]byte(body), r.Model); err != nil {
		t.Fatalf("body of %s: %v", id, err)
	}
	if err := json.Unmarshal([]byte(body), &r.Sent); err != nil {
		t.Fatalf("body of %s: %v", id, err)
	}
	var existing M
	if d.Get(t.Context(), r.ID, &existing) == nil {
		r.Existing = &existing
	}
	return r
}

// Render shows a stored document through a Spec.
func Render[M any](t testing.TB, d *Documents, spec resourcetype.Spec[M], id string) *M {
	t.Helper()
	v := &resourcetype.View[M]{ID: resourceid.MustParse(id), Model: new(M), Documents: d}
	if err := d.Get(t.Context(), v.ID, v.Model); err != nil {
		t.Fatalf("read %s: %v", id, err)
	}
	if spec.Render != nil {
		if err := spec.Render(t.Context(), v); err != nil {
			t.Fatalf("render %s: %v", id, err)
		}
	}
	return v.Model
}

// Codes are the codes of an error and its details with their targets, "code@target", "" for none.
func Codes(err error) string {
	if err == nil {
		return ""
	}
	e, ok := armerror.As(err)
	if !ok {
		return "not an ARM error: " + err.Error()
	}
	list := e.Details
	if len(list) == 0 {
		list = []*armerror.Error{e}
	}
	var codes []string
	for _, e := range list {
		codes = append(codes, e.Code+"@"+e.Target)
	}
	return strings.Join(codes, " ")
}

// World counts how often the machine was asked to agree, and answers with Err.
type World struct {
	Syncs int
	Err   error
}

// Sync implements every type's World.
func (w *World) Sync(context.Context) error { w.Syncs++; return w.Err }
