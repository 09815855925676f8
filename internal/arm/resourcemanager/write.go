package resourcemanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// attempts bounds how often a transaction is tried again that lost against the Save of a reconcile.
const attempts = 8

// transaction collects the changes of one request. Documents read through it see them already.
type transaction struct {
	m       *Manager
	request Request
	docs    *documents
	changes []resourcestore.Change
	// depth bounds children that have children.
	depth int
}

func (m *Manager) transaction(r Request) *transaction {
	return &transaction{m: m, request: r, docs: m.documents()}
}

func (t *transaction) existing(ctx context.Context, id resourceid.ID) (*resourcestore.Resource, error) {
	r, err := t.docs.resource(ctx, id)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func (t *transaction) commit(ctx context.Context) error {
	if len(t.changes) == 0 {
		return nil
	}
	return t.m.store.Apply(ctx, t.changes...)
}

// write answers PUT and PATCH.
func (m *Manager) write(ctx context.Context, d resourcetype.Definition, r Request) (Answer, error) {
	if err := m.Authorize(ctx, r.Caller, d.Name+"/write", r.ID); err != nil {
		return Answer{}, err
	}
	if err := m.checkSubscription(ctx, d, r.ID, !r.internal); err != nil {
		return Answer{}, err
	}
	if err := checkName(d, r.ID); err != nil {
		return Answer{}, err
	}
	w, err := m.writeDocument(ctx, d, r)
	if err != nil {
		return Answer{}, err
	}
	if d.Synchronous && w.operation != nil && !r.internal {
		if w.operation, err = m.await(ctx, *w.operation); err != nil {
			return Answer{}, err
		}
	}
	a := Answer{Status: http.StatusOK, Operation: w.operation, state: w.state}
	if w.created {
		a.Status = http.StatusCreated
	}
	if r.internal {
		return a, nil
	}
	now, err := m.store.Get(ctx, w.id)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return Answer{}, notFound(d, w.id) // deleted again meanwhile
	}
	if err != nil {
		return Answer{}, fmt.Errorf("read back %s: %w", w.id, err)
	}
	a.ETag = now.ETag()
	a.Body, _, err = d.Show(ctx, now, m.documents())
	return a, err
}

// written is the outcome of a write.
type written struct {
	id        resourceid.ID
	created   bool
	operation *resourcestore.Operation
	state     string
}

func (m *Manager) writeDocument(ctx context.Context, d resourcetype.Definition, r Request) (written, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	for try := 1; ; try++ {
		t := m.transaction(r)
		w, err := t.write(ctx, d)
		if err == nil {
			err = t.commit(ctx)
		}
		if !errors.Is(err, resourcestore.ErrConflict) || try == attempts {
			return w, err
		}
	}
}

func (t *transaction) write(ctx context.Context, d resourcetype.Definition) (written, error) {
	m, r := t.m, t.request
	existing, err := t.existing(ctx, r.ID)
	if err != nil {
		return written{}, err
	}
	if err := m.checkParents(ctx, d, r.ID, t.docs, true); err != nil {
		return written{}, err
	}
	if existing == nil && r.Method == http.MethodPatch {
		return written{}, notFound(d, r.ID)
	}
	if existing != nil {
		r.ID = existing.ID
		t.request.ID = existing.ID
	}
	if err := checkPrecondition(r, existing); err != nil {
		return written{}, err
	}
	w := written{id: r.ID, created: existing == nil}
	if existing != nil {
		w.state = resourcetype.State(existing.Body)
		err := t.checkBusy(ctx, d, *existing)
		if _, is := armerror.As(err); is && r.internal {
			// A reconcile asks again when this one is done; to fail it for that would be wrong.
			return t.inProgress(w, d, existing), nil
		}
		if err != nil {
			return written{}, err
		}
		if r.internal && !t.retries(*existing) && resourcetype.Contains(existing.Body, r.Body) {
			return w, nil
		}
	}
	location, err := m.checkLocation(ctx, d, r, existing)
	if err != nil {
		return written{}, err
	}
	p, err := t.put(ctx, d, &resourcetype.Draft{
		ID: r.ID, Caller: r.Caller, APIVersion: r.APIVersion, Sent: r.Body, Patch: r.Method == http.MethodPatch,
		Location: location, Existing: existing, Documents: t.docs, Arguments: r.Arguments,
	})
	if err != nil {
		return written{}, err
	}
	if p.operation != nil || p.changed {
		w.state = p.state
	}
	w.operation = p.operation
	return w, nil
}

func (t *transaction) inProgress(w written, d resourcetype.Definition, existing *resourcestore.Resource) written {
	if w.state == "" || w.state == resourcestore.Succeeded {
		w.state = d.Updating
	}
	if existing.Deleting {
		w.state = "Deleting"
	}
	return w
}

// retries: an internal PUT starts a document again that failed before the reconcile's own operation began.
func (t *transaction) retries(existing resourcestore.Resource) bool {
	return resourcetype.State(existing.Body) == resourcestore.Failed && existing.Changed.Before(t.request.retryBefore)
}

// checkBusy refuses a write while the document is being deleted or worked on.
func (t *transaction) checkBusy(ctx context.Context, d resourcetype.Definition, existing resourcestore.Resource) error {
	if existing.Deleting && strings.EqualFold(d.Name, ResourceGroups) {
		return armerror.New(armerror.ResourceGroupBeingDeleted, "The resource group '%s' is in deprovisioning state and cannot perform this operation.", existing.ID.ResourceGroup())
	}
	running, err := t.m.store.Operations(ctx, existing.ID, true)
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return busy(d, existing.ID, running[len(running)-1])
	}
	return nil
}

// put is the outcome for one document of the transaction.
type put struct {
	changed   bool
	state     string
	operation *resourcestore.Operation
}

// put prepares a document and its children and adds them to the transaction.
func (t *transaction) put(ctx context.Context, d resourcetype.Definition, draft *resourcetype.Draft) (put, error) {
	prepared, err := d.Prepare(ctx, draft)
	if err != nil {
		return put{}, err
	}
	if err := t.m.authorizeLinked(ctx, draft.Caller, d, draft.ID, prepared.Body); err != nil {
		return put{}, err
	}
	next := resourcestore.Resource{ID: draft.ID, Body: prepared.Body}
	change := resourcestore.Change{Put: &next}
	if e := draft.Existing; e != nil {
		next.Revision, next.Created, next.Changed = e.Revision, e.Created, e.Changed
		change.Revision = e.Revision
	}
	t.docs.pending[draft.ID.Key()] = &next

	childChanged, err := t.children(ctx, draft, prepared)
	if err != nil {
		return put{}, err
	}
	same := draft.Existing != nil && resourcetype.Equal(draft.Existing.Body, prepared.Body)
	idle := draft.Existing == nil || resourcetype.State(draft.Existing.Body) == resourcestore.Succeeded || d.NoState
	top := t.depth == 0 && !t.request.internal
	switch {
	case same && !childChanged && !d.Reconciles && idle,
		same && !childChanged && !top && !t.retriesDraft(draft):
		// Nothing to do. Whoever repeats a PUT from outside asks for a new reconcile, though.
		t.docs.pending[draft.ID.Key()] = draft.Existing
		return put{}, nil
	}
	out := put{changed: true, state: resourcestore.Succeeded}
	if d.Reconciles {
		kind := "create"
		out.state = d.Creating
		if draft.Existing != nil {
			kind, out.state = "update", d.Updating
		}
		out.operation = begin(draft.ID, kind, LocationOf(prepared.Body), draft.APIVersion)
	}
	if !d.NoState {
		if next.Body, err = resourcetype.WithState(prepared.Body, out.state); err != nil {
			return put{}, err
		}
	}
	t.changes = append(t.changes, change)
	if out.operation != nil {
		t.changes = append(t.changes, resourcestore.Change{Operation: out.operation})
	}
	return out, nil
}

func (t *transaction) retriesDraft(draft *resourcetype.Draft) bool {
	return draft.Existing != nil && t.retries(*draft.Existing)
}

// children adds the child documents that a Prepare asked for and removes those it gave up.
func (t *transaction) children(ctx context.Context, draft *resourcetype.Draft, prepared *resourcetype.Prepared) (changed bool, err error) {
	if t.depth > 4 {
		return false, fmt.Errorf("%s has children more than four levels deep", draft.ID)
	}
	t.depth++
	defer func() { t.depth-- }()
	for _, c := range prepared.Children {
		d, err := t.m.definition(c.ID)
		if err != nil {
			return false, err
		}
		body, err := json.Marshal(c.Body)
		if err != nil {
			return false, fmt.Errorf("encode %s: %w", c.ID, err)
		}
		if err := checkName(d, c.ID); err != nil {
			return false, err
		}
		id := canonical(d, c.ID)
		existing, err := t.existing(ctx, id)
		if err != nil {
			return false, err
		}
		child := &resourcetype.Draft{ID: id, Caller: draft.Caller, APIVersion: draft.APIVersion, Sent: body, Existing: existing, Documents: t.docs}
		if existing != nil {
			child.ID = existing.ID
		}
		p, err := t.put(ctx, d, child)
		if err != nil {
			return false, err
		}
		if p.changed && existing != nil {
			if err := t.checkBusy(ctx, d, *existing); err != nil {
				return false, err
			}
		}
		changed = changed || p.changed
	}
	for _, id := range prepared.Removed {
		d, err := t.m.definition(id)
		if err != nil {
			return false, err
		}
		existing, err := t.existing(ctx, canonical(d, id))
		if err != nil {
			return false, err
		}
		if existing == nil || existing.Deleting {
			continue
		}
		if err := t.prepareDelete(ctx, d, *existing); err != nil {
			return false, err
		}
		if _, err := t.remove(ctx, d, *existing); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// await waits for an operation of a Synchronous type, whose error becomes the answer. It returns nil when the
// operation is done and the operation when it takes longer than anyone should wait.
func (m *Manager) await(ctx context.Context, o resourcestore.Operation) (*resourcestore.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	woken := make(chan struct{}, 1)
	stop := m.store.Watch(func(events []resourcestore.Event) {
		for _, e := range events {
			if e.Operation == o.ID {
				select {
				case woken <- struct{}{}:
				default:
				}
			}
		}
	})
	defer stop()
	for {
		now, err := m.store.Operation(context.WithoutCancel(ctx), o.ID)
		switch {
		case err != nil:
			return nil, err
		case now.Status == resourcestore.Succeeded:
			return nil, nil
		case now.Status != resourcestore.InProgress:
			return nil, OperationError(now)
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return &now, nil
		}
	}
}

// OperationError is the error that an operation ended with.
func OperationError(o resourcestore.Operation) error {
	e := new(armerror.Error)
	if json.Unmarshal(o.Error, e) != nil || e.Code == "" {
		e = armerror.New("OperationFailed", "The operation ended as %s.", o.Status)
	}
	if o.Status == resourcestore.Canceled {
		return e.WithStatus(http.StatusConflict)
	}
	return e
}

// end marks an operation as ended.
func end(o resourcestore.Operation, status string, e *armerror.Error) resourcestore.Operation {
	o.Status, o.End = status, time.Now().UTC()
	if e != nil {
		// An armerror.Error holds nothing that cannot be encoded.
		o.Error, _ = json.Marshal(e)
	}
	return o
}
