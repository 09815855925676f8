package resourcemanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// resourcestoreReader is a resourcetype.Reader that also gives whole resources.
type resourcestoreReader interface {
	resourcetype.Reader
	resource(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error)
}

// documents reads the store as it will be when the transaction in hand is committed.
type documents struct {
	store   resourcestore.Store
	pending map[string]*resourcestore.Resource // by key; nil: will be gone
}

// Documents reads the stored documents of all types.
func (m *Manager) Documents() resourcetype.Reader { return m.documents() }

func (m *Manager) documents() *documents {
	return &documents{store: m.store, pending: map[string]*resourcestore.Resource{}}
}

func (d *documents) resource(ctx context.Context, id resourceid.ID) (resourcestore.Resource, error) {
	if r, ok := d.pending[id.Key()]; ok {
		if r == nil {
			return resourcestore.Resource{}, fmt.Errorf("%s: %w", id, resourcestore.ErrNotFound)
		}
		return *r, nil
	}
	return d.store.Get(ctx, id)
}

// Get implements resourcetype.Reader.
func (d *documents) Get(ctx context.Context, id resourceid.ID, model any) error {
	r, err := d.resource(ctx, id)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(r.Body, model); err != nil {
		return fmt.Errorf("read the document %s: %w", id, err)
	}
	return nil
}

// List implements resourcetype.Reader.
func (d *documents) List(ctx context.Context, under resourceid.ID, resourceType string) ([]resourcestore.Resource, error) {
	stored, err := d.store.List(ctx, resourcestore.Filter{Under: under, Type: resourceType})
	if err != nil || len(d.pending) == 0 {
		return stored, err
	}
	var out []resourcestore.Resource
	for _, r := range stored {
		if _, ok := d.pending[r.ID.Key()]; !ok {
			out = append(out, r)
		}
	}
	for _, r := range d.pending {
		if r != nil && under.Contains(r.ID) && !under.Equal(r.ID) && (resourceType == "" || r.ID.Is(resourceType)) {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b resourcestore.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
	return out, nil
}
