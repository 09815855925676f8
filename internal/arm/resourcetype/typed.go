package resourcetype

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// typed drives a Spec with models of its type.
type typed[M any] struct{ spec Spec[M] }

// document is a raw document and the model read from it, with what the model said when it was read.
type document[M any] struct {
	raw    map[string]any
	before map[string]any
	model  *M
}

func readDocument[M any](raw map[string]any) (*document[M], error) {
	model, err := decodeModel[M](raw)
	if err != nil {
		return nil, err
	}
	before, err := encoded(model)
	if err != nil {
		return nil, err
	}
	return &document[M]{raw, before, model}, nil
}

func storedDocument[M any](r resourcestore.Resource) (*document[M], error) {
	raw, err := object(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read the stored document %s: %w", r.ID, err)
	}
	d, err := readDocument[M](raw)
	if err != nil {
		// Not the caller's fault: what is stored was accepted once.
		return nil, fmt.Errorf("read the stored document %s: %s", r.ID, err)
	}
	return d, nil
}

// merge brings the model's changes into raw and reports whether there were any.
func (d *document[M]) merge() (changed bool, err error) {
	after, err := encoded(d.model)
	if err != nil {
		return false, err
	}
	changed = !reflect.DeepEqual(d.before, after)
	d.raw = mergeModel(d.raw, d.before, after)
	d.before = after
	return changed, nil
}

func (t *typed[M]) prepare(ctx context.Context, r *Draft, base map[string]any) (*Prepared, error) {
	doc, err := readDocument[M](base)
	if err != nil {
		return nil, err
	}
	q := &Request[M]{ID: r.ID, Caller: r.Caller, APIVersion: r.APIVersion, Model: doc.model, Documents: r.Documents, Arguments: r.Arguments}
	if err := json.Unmarshal(r.Sent, &q.Sent); err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	if r.Existing != nil {
		existing, err := storedDocument[M](*r.Existing)
		if err != nil {
			return nil, err
		}
		q.Existing = existing.model
	}
	if t.spec.Prepare != nil {
		if err := t.spec.Prepare(ctx, q); err != nil {
			return nil, err
		}
		doc.model = q.Model
	}
	if _, err := doc.merge(); err != nil {
		return nil, err
	}
	doc.raw["id"], doc.raw["name"] = base["id"], base["name"]
	if p, ok := doc.raw["properties"].(map[string]any); ok {
		delete(p, "provisioningState")
	}
	delete(doc.raw, "etag")
	body, err := json.Marshal(doc.raw)
	if err != nil {
		return nil, err
	}
	out := &Prepared{Body: body, Children: q.children}
	for _, gone := range q.removed {
		kept := false
		for _, c := range q.children {
			kept = kept || c.ID.Equal(gone)
		}
		if !kept {
			out.Removed = append(out.Removed, gone)
		}
	}
	return out, nil
}

func (t *typed[M]) prepareDelete(ctx context.Context, r *Draft) error {
	if t.spec.PrepareDelete == nil {
		return nil
	}
	existing, err := storedDocument[M](*r.Existing)
	if err != nil {
		return err
	}
	model, err := storedDocument[M](*r.Existing)
	if err != nil {
		return err
	}
	return t.spec.PrepareDelete(ctx, &Request[M]{
		ID: r.ID, Caller: r.Caller, APIVersion: r.APIVersion, Model: model.model, Existing: existing.model, Documents: r.Documents,
	})
}

func (t *typed[M]) references(body json.RawMessage) ([]Reference, error) {
	if t.spec.References == nil {
		return nil, nil
	}
	raw, err := object(body)
	if err != nil {
		return nil, err
	}
	m, err := decodeModel[M](raw)
	if err != nil {
		return nil, err
	}
	var out []Reference
	for _, r := range t.spec.References(m) {
		if !r.ID.IsZero() {
			out = append(out, r)
		}
	}
	return out, nil
}

func (t *typed[M]) show(ctx context.Context, r resourcestore.Resource, documents Reader) (map[string]any, int, error) {
	doc, err := storedDocument[M](r)
	if err != nil {
		return nil, 0, err
	}
	v := &View[M]{ID: r.ID, Model: doc.model, Documents: documents}
	if t.spec.Render != nil {
		if err := t.spec.Render(ctx, v); err != nil {
			return nil, 0, err
		}
		doc.model = v.Model
	}
	if _, err := doc.merge(); err != nil {
		return nil, 0, err
	}
	return doc.raw, v.Status, nil
}

func (t *typed[M]) reconcile(ctx context.Context, r *Run) (Result, json.RawMessage, error) {
	if t.spec.Reconcile == nil {
		return Result{}, r.Resource.Body, nil
	}
	doc, err := storedDocument[M](r.Resource)
	if err != nil {
		return Result{}, nil, err
	}
	q := &Reconciliation[M]{
		ID: r.Resource.ID, Model: doc.model, Deleting: r.Resource.Deleting, Client: r.Client, Step: r.Step, Attempt: r.Attempt, Requested: r.Requested,
	}
	merge := func() (bool, json.RawMessage, error) {
		doc.model = q.Model
		changed, err := doc.merge()
		if err != nil {
			return false, nil, err
		}
		body, err := json.Marshal(doc.raw)
		return changed, body, err
	}
	q.Save = func(ctx context.Context) error {
		changed, body, err := merge()
		if err != nil || !changed {
			return err
		}
		return r.Save(ctx, body)
	}
	result, err := t.spec.Reconcile(ctx, q)
	_, body, mergeErr := merge()
	if err == nil {
		err = mergeErr
	}
	return result, body, err
}

func (t *typed[M]) act(ctx context.Context, r *Deed) (any, json.RawMessage, error) {
	doc, err := storedDocument[M](r.Resource)
	if err != nil {
		return nil, nil, err
	}
	for name, a := range t.spec.Actions {
		if !strings.EqualFold(name, r.Name) {
			continue
		}
		q := &ActionRequest[M]{
			ID: r.Resource.ID, Name: name, Caller: r.Caller, APIVersion: r.APIVersion, Query: r.Query, Body: r.Body,
			Model: doc.model, Documents: r.Documents,
		}
		result, err := a.Handle(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		doc.model = q.Model
		changed, err := doc.merge()
		if err != nil || !changed {
			return result, nil, err
		}
		body, err := json.Marshal(doc.raw)
		return result, body, err
	}
	return nil, nil, fmt.Errorf("%s has no action %s", r.Resource.ID, r.Name)
}
