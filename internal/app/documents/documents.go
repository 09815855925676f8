// Package documents finds the documents of one moment: all that there are, by type, by ID, and by what they lie in. The
// projection and a diagnosis read the world through it. What is in a document it does not know: each reader has views of
// its own, which name what that reader goes by.
package documents

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// Index is all documents by type, in order of their IDs: whoever goes through it twice comes to the same.
type Index struct {
	byType map[string][]resourcestore.Resource
	byKey  map[string]resourcestore.Resource
}

// New indexes the documents.
func New(all []resourcestore.Resource) Index {
	x := Index{map[string][]resourcestore.Resource{}, map[string]resourcestore.Resource{}}
	all = slices.SortedFunc(slices.Values(all), func(a, b resourcestore.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
	for _, r := range all {
		t := strings.ToLower(r.ID.Type())
		x.byType[t] = append(x.byType[t], r)
		x.byKey[r.ID.Key()] = r
	}
	return x
}

// Of are the documents of a type.
func (x Index) Of(resourceType string) []resourcestore.Resource {
	return x.byType[strings.ToLower(resourceType)]
}

// Under are the documents of a type that lie in the resource.
func (x Index) Under(parent resourceid.ID, resourceType string) []resourcestore.Resource {
	var out []resourcestore.Resource
	for _, r := range x.Of(resourceType) {
		if parent.Contains(r.ID) {
			out = append(out, r)
		}
	}
	return out
}

// Find is the resource's document; false when there is none.
func (x Index) Find(id resourceid.ID) (resourcestore.Resource, bool) {
	r, ok := x.byKey[id.Key()]
	return r, ok
}

// Has reports whether there is such a resource.
func (x Index) Has(id resourceid.ID) bool {
	_, ok := x.Find(id)
	return ok
}

// Read reads a resource's document into a view of it; false when there is none, or none that can be read.
func (x Index) Read(id resourceid.ID, view any) bool {
	r, ok := x.Find(id)
	return ok && json.Unmarshal(r.Body, view) == nil
}

// Get implements resourcetype.Reader.
func (x Index) Get(_ context.Context, id resourceid.ID, model any) error {
	r, ok := x.Find(id)
	if !ok {
		return resourcestore.ErrNotFound
	}
	return json.Unmarshal(r.Body, model)
}

// List implements resourcetype.Reader.
func (x Index) List(_ context.Context, under resourceid.ID, resourceType string) ([]resourcestore.Resource, error) {
	return x.Under(under, resourceType), nil
}

// Decode reads a document into a view of it.
func Decode[V any](r resourcestore.Resource) (V, error) {
	var v V
	if err := json.Unmarshal(r.Body, &v); err != nil {
		return v, fmt.Errorf("read document %s: %w", r.ID, err)
	}
	return v, nil
}

// Ref is a reference to another resource.
type Ref struct {
	ID resourceid.ID `json:"id"`
}
