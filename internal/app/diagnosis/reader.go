package diagnosis

import (
	"context"
	"encoding/json"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// reader gives documents to what providers compute from them.
func (w *world) reader() resourcetype.Reader { return documentReader{w.docs} }

type documentReader struct{ docs documents }

// Get implements resourcetype.Reader.
func (d documentReader) Get(_ context.Context, id resourceid.ID, model any) error {
	r, ok := d.docs.byKey[id.Key()]
	if !ok {
		return resourcestore.ErrNotFound
	}
	return json.Unmarshal(r.Body, model)
}

// List implements resourcetype.Reader.
func (d documentReader) List(_ context.Context, under resourceid.ID, kind string) ([]resourcestore.Resource, error) {
	return d.docs.under(under, kind), nil
}
