package resourcemanager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// delete answers DELETE: 204 when there is nothing, 200 when it is gone, 202 when it will be.
func (m *Manager) delete(ctx context.Context, d resourcetype.Definition, r Request) (Answer, error) {
	if err := m.Authorize(ctx, r.Caller, d.Name+"/delete", r.ID); err != nil {
		return Answer{}, err
	}
	if err := m.checkSubscription(ctx, d, r.ID, false); err != nil {
		return Answer{}, err
	}
	op, found, err := m.deleteDocument(ctx, d, r)
	if err != nil {
		return Answer{}, err
	}
	if !found {
		return Answer{Status: http.StatusNoContent}, nil
	}
	if d.Synchronous && op != nil && !r.internal {
		if op, err = m.await(ctx, *op); err != nil {
			return Answer{}, err
		}
	}
	if op == nil {
		return Answer{Status: http.StatusOK}, nil
	}
	return Answer{Status: http.StatusAccepted, Operation: op}, nil
}

func (m *Manager) deleteDocument(ctx context.Context, d resourcetype.Definition, r Request) (op *resourcestore.Operation, found bool, err error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	for try := 1; ; try++ {
		t := m.transaction(r)
		op, found, err = t.delete(ctx, d)
		if err == nil {
			err = t.commit(ctx)
		}
		if !errors.Is(err, resourcestore.ErrConflict) || try == attempts {
			return op, found, err
		}
	}
}

func (t *transaction) delete(ctx context.Context, d resourcetype.Definition) (*resourcestore.Operation, bool, error) {
	r := t.request
	existing, err := t.existing(ctx, r.ID)
	if err != nil {
		return nil, false, err
	}
	if existing == nil {
		if r.internal {
			return nil, false, nil
		}
		if group := r.ID.GroupID(); !group.IsZero() {
			if err := t.m.CheckGroup(ctx, group); err != nil {
				return nil, false, err
			}
		}
		return nil, false, nil
	}
	if err := checkPrecondition(r, existing); err != nil {
		return nil, true, err
	}
	if existing.Deleting {
		running, err := t.m.store.Operations(ctx, existing.ID, true)
		if err != nil {
			return nil, true, err
		}
		if len(running) > 0 {
			return &running[len(running)-1], true, nil
		}
	}
	if err := t.refused(ctx, *existing); err != nil {
		return nil, true, err
	}
	if err := t.prepareDelete(ctx, d, *existing); err != nil {
		return nil, true, err
	}
	op, err := t.remove(ctx, d, *existing)
	return op, true, err
}

// refused is how a delete ended that the same reconcile has asked for before: asking for it again and again
// would never end. The user's next request does so once.
func (t *transaction) refused(ctx context.Context, existing resourcestore.Resource) error {
	if !t.request.internal || t.request.retryBefore.IsZero() {
		return nil
	}
	all, err := t.m.store.Operations(ctx, existing.ID, false)
	if err != nil || len(all) == 0 {
		return err
	}
	if last := all[len(all)-1]; last.Kind == "delete" && last.Status == resourcestore.Failed && !last.Start.Before(t.request.retryBefore) {
		return OperationError(last)
	}
	return nil
}

func (t *transaction) prepareDelete(ctx context.Context, d resourcetype.Definition, existing resourcestore.Resource) error {
	return d.PrepareDelete(ctx, &resourcetype.Draft{
		ID: existing.ID, Caller: t.request.Caller, APIVersion: t.request.APIVersion, Existing: &existing, Documents: t.docs,
	})
}

// remove deletes the document and everything in it, at once where no type has work to do for it, and
// otherwise by an operation. What was in progress on the document is canceled.
func (t *transaction) remove(ctx context.Context, d resourcetype.Definition, existing resourcestore.Resource) (*resourcestore.Operation, error) {
	inside, err := t.docs.List(ctx, existing.ID, "")
	if err != nil {
		return nil, err
	}
	later := d.Reconciles || strings.EqualFold(d.Name, ResourceGroups)
	for _, c := range inside {
		cd, known := t.m.types.Lookup(c.ID.Type())
		later = later || known && cd.Reconciles || c.Deleting
	}
	if !later {
		for _, c := range slices.Backward(inside) { // children come after their parents in order of key
			t.gone(c)
		}
		t.gone(existing)
		return nil, t.cancel(ctx, existing.ID)
	}
	if err := t.cancel(ctx, existing.ID); err != nil {
		return nil, err
	}
	next := existing
	next.Deleting = true
	if !d.NoState {
		if next.Body, err = resourcetype.WithState(existing.Body, "Deleting"); err != nil {
			return nil, err
		}
	}
	op := begin(existing.ID, "delete", LocationOf(existing.Body), t.request.APIVersion)
	t.docs.pending[existing.ID.Key()] = &next
	t.changes = append(t.changes,
		resourcestore.Change{Put: &next, Revision: existing.Revision},
		resourcestore.Change{Operation: op})
	return op, nil
}

func (t *transaction) gone(r resourcestore.Resource) {
	t.docs.pending[r.ID.Key()] = nil
	t.changes = append(t.changes, resourcestore.Change{Delete: &r.ID, Revision: r.Revision})
}

func (t *transaction) cancel(ctx context.Context, id resourceid.ID) error {
	running, err := t.m.store.Operations(ctx, id, true)
	if err != nil {
		return err
	}
	for _, o := range running {
		o = end(o, resourcestore.Canceled, armerror.New("OperationPreempted", "The operation was canceled by a delete of the resource."))
		t.changes = append(t.changes, resourcestore.Change{Operation: &o})
	}
	return nil
}

// DeleteInside goes on with deleting what lies in a resource or group that is being deleted. It starts
// what can be started now and reports whether anything is left; call it again when something there
// has changed. What others point to goes after them, role assignments and other extensions of the
// resource itself go last. It returns an *armerror.Error when what is left cannot go.
func (m *Manager) DeleteInside(ctx context.Context, id resourceid.ID) (left bool, err error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	inside, err := m.store.List(ctx, resourcestore.Filter{Under: id})
	if err != nil || len(inside) == 0 {
		return false, err
	}
	waiting := false // for something that is being deleted
	for _, r := range inside {
		waiting = waiting || r.Deleting
	}
	ready, err := m.ready(id, inside)
	if err != nil {
		return true, err
	}
	if len(ready) == 0 && !waiting {
		// They point to each other in a ring: begin anywhere.
		ready = outermost(inside)[:1]
	}
	var refused []*armerror.Error
	for _, r := range ready {
		started, err := m.deleteInside(ctx, id, r)
		if e, is := armerror.As(err); is {
			refused = append(refused, e)
			continue
		}
		if err != nil {
			return true, err
		}
		waiting = waiting || started
	}
	if waiting {
		return true, nil
	}
	if len(refused) > 0 && len(refused) == len(ready) {
		e := armerror.New("ResourceGroupDeletionBlocked", "Deletion of '%s' failed as resources in it could not be deleted: %s", id.Name(), refused[0].Message).WithStatus(http.StatusConflict)
		e.Details = refused
		return true, e
	}
	// Something went at once, and others may be ready now.
	rest, err := m.store.List(ctx, resourcestore.Filter{Under: id})
	return len(rest) > 0, err
}

// deleteInside deletes one resource and reports whether that goes on.
func (m *Manager) deleteInside(ctx context.Context, in resourceid.ID, r resourcestore.Resource) (started bool, err error) {
	d, known := m.types.Lookup(r.ID.Type())
	for try := 1; ; try++ {
		t := m.transaction(Request{ID: r.ID, APIVersion: "2024-11-01", internal: true})
		existing, err := t.existing(ctx, r.ID)
		if err != nil || existing == nil || existing.Deleting {
			return existing != nil, err
		}
		// A group's content is asked one by one; a parent has answered for its children in its own PrepareDelete.
		if known && in.Is(ResourceGroups) {
			if err := t.prepareDelete(ctx, d, *existing); err != nil {
				return false, err
			}
		}
		var op *resourcestore.Operation
		if known {
			op, err = t.remove(ctx, d, *existing)
		} else {
			t.gone(*existing)
		}
		if err == nil {
			err = t.commit(ctx)
		}
		if !errors.Is(err, resourcestore.ErrConflict) || try == attempts {
			return op != nil, err
		}
	}
}

// outermost are the resources that lie in no other of the list, in its order.
func outermost(inside []resourcestore.Resource) []resourcestore.Resource {
	var out []resourcestore.Resource
	for _, r := range inside { // a parent comes before its children
		if len(out) == 0 || !slices.ContainsFunc(out, func(o resourcestore.Resource) bool { return o.ID.Contains(r.ID) }) {
			out = append(out, r)
		}
	}
	return out
}

// ready are the outermost resources that nothing else in the list points to and that are not being
// deleted yet.
func (m *Manager) ready(id resourceid.ID, inside []resourcestore.Resource) ([]resourcestore.Resource, error) {
	type reference struct{ from, to resourceid.ID }
	var references []reference
	for _, r := range inside {
		d, known := m.types.Lookup(r.ID.Type())
		if !known {
			continue
		}
		refs, err := d.References(r.Body)
		if err != nil {
			return nil, fmt.Errorf("find the references of %s: %w", r.ID, err)
		}
		for _, to := range refs {
			references = append(references, reference{r.ID, to.ID})
		}
	}
	var ready, last []resourcestore.Resource
	others := false
	for _, r := range outermost(inside) {
		d, known := m.types.Lookup(r.ID.Type())
		extension := known && d.Extension
		others = others || !extension
		if r.Deleting || slices.ContainsFunc(references, func(ref reference) bool {
			return r.ID.Contains(ref.to) && !r.ID.Contains(ref.from)
		}) {
			continue
		}
		if extension && r.ID.Scope().Equal(id) {
			last = append(last, r)
			continue
		}
		ready = append(ready, r)
	}
	if !others {
		ready = append(ready, last...)
	}
	return ready, nil
}
