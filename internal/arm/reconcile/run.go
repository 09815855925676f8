package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// work is one run: the document and operation it is about.
type work struct {
	it         *item
	definition resourcetype.Definition
	resource   resourcestore.Resource
	operations []resourcestore.Operation // in progress, oldest first
	attempt    int
	followUp   bool // no request asked for this run
}

// operation is the newest one in progress, or nil.
func (w *work) operation() *resourcestore.Operation {
	if len(w.operations) == 0 {
		return nil
	}
	return &w.operations[len(w.operations)-1]
}

// run reconciles the resource once.
func (r *Reconciler) run(ctx context.Context, it *item) outcome {
	w, o, err := r.load(ctx, it)
	if w == nil || err != nil {
		if err != nil && ctx.Err() == nil {
			r.o.Log.Error("read what to reconcile", "resource", it.id.String(), "error", err)
			return outcome{wait: true, after: r.o.Backoff(1)}
		}
		return o
	}
	result, body, err := r.reconcile(ctx, w)
	switch {
	case ctx.Err() != nil, errors.Is(err, resourcestore.ErrConflict):
		// The process ends, or someone (a delete) has changed the document.
		return outcome{again: true, followUp: w.followUp}
	case err != nil:
		return r.failed(ctx, w, body, err)
	}
	return r.settle(ctx, w, result, body)
}

// load reads document and operations. A nil work means that there is nothing to do.
func (r *Reconciler) load(ctx context.Context, it *item) (*work, outcome, error) {
	operations, err := r.o.Store.Operations(ctx, it.id, true)
	if err != nil {
		return nil, outcome{}, err
	}
	resource, err := r.o.Store.Get(ctx, it.id)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return nil, outcome{}, r.endOrphans(ctx, operations)
	}
	if err != nil {
		return nil, outcome{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &work{it: it, resource: resource, operations: operations}
	it.revision = resource.Revision
	current := ""
	if op := w.operation(); op != nil {
		current = op.ID
	}
	if current != it.operation {
		it.operation, it.attempt, it.failures, it.steps = current, 0, 0, nil
		if op := w.operation(); op != nil {
			it.steps = op.Steps
		}
	}
	w.followUp, it.followUp = it.followUp, false
	if current == "" && !resource.Deleting && (!w.followUp || resourcetype.State(resource.Body) == resourcestore.Failed) {
		return nil, outcome{}, nil // what failed waits for a request
	}
	it.attempt++
	w.attempt = it.attempt
	var known bool
	w.definition, known = r.o.Types.Lookup(it.id.Type())
	if !known {
		w.definition = resourcetype.Definition{Name: it.id.Type(), NoState: true}
	}
	return w, outcome{}, nil
}

// endOrphans ends operations on a resource that is gone.
func (r *Reconciler) endOrphans(ctx context.Context, operations []resourcestore.Operation) error {
	for _, o := range operations {
		o.Status, o.End = resourcestore.Canceled, time.Now().UTC()
		if o.Kind == "delete" {
			o.Status = resourcestore.Succeeded
		}
		if err := r.o.Store.Apply(ctx, resourcestore.Change{Operation: &o}); err != nil {
			return err
		}
	}
	return nil
}

// reconcile runs the type's Reconcile. A panic in it is an error of this resource alone.
func (r *Reconciler) reconcile(ctx context.Context, w *work) (result resourcetype.Result, body json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.o.Log.Error("a reconcile panicked", "resource", w.it.id.String(), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the reconcile panicked: %v", p)
		}
	}()
	body = w.resource.Body
	if w.resource.Deleting {
		left, err := r.o.Manager.DeleteInside(ctx, w.it.id)
		if err != nil || left {
			if left && err == nil {
				r.step(ctx, w, "Deleting what is inside")
			}
			return resourcetype.Result{Waiting: true}, body, err
		}
	}
	if !w.definition.Reconciles {
		return resourcetype.Result{}, body, nil
	}
	since := time.Time{}
	if op := w.operation(); op != nil {
		since = op.Start
	}
	return w.definition.Reconcile(ctx, &resourcetype.Run{
		Resource:  w.resource,
		Client:    r.o.Manager.Client(r.o.Principal(w.definition), since),
		Save:      func(ctx context.Context, body json.RawMessage) error { return r.save(ctx, w, body) },
		Step:      func(name string) { r.step(ctx, w, name) },
		Attempt:   w.attempt,
		Requested: w.operation() != nil,
	})
}

// save writes the document during a run.
func (r *Reconciler) save(ctx context.Context, w *work, body json.RawMessage) error {
	state := resourcetype.State(w.resource.Body)
	if set := resourcetype.State(body); w.operation() != nil && set != "" && set != resourcestore.Succeeded && set != resourcestore.Failed && set != resourcestore.Canceled {
		state = set
	}
	if w.definition.NoState {
		state = ""
	}
	body, err := resourcetype.WithState(body, state)
	if err != nil {
		return err
	}
	if bytes.Equal(body, w.resource.Body) {
		return nil
	}
	next := w.resource
	next.Body = body
	return r.put(ctx, w, next)
}

// put writes the document, and changes along with it.
func (r *Reconciler) put(ctx context.Context, w *work, next resourcestore.Resource, changes ...resourcestore.Change) error {
	r.mu.Lock()
	w.it.revision = w.resource.Revision + 1 // before the event comes, which must be known as our own
	r.mu.Unlock()
	changes = append([]resourcestore.Change{{Put: &next, Revision: w.resource.Revision}}, changes...)
	if err := r.o.Store.Apply(ctx, changes...); err != nil {
		return fmt.Errorf("store %s: %w", next.ID, err)
	}
	next.Revision = w.resource.Revision + 1
	w.resource = next
	return nil
}

// step records progress and writes it down at once: those who watch are woken by the store.
func (r *Reconciler) step(ctx context.Context, w *work, name string) {
	op := w.operation()
	if op == nil {
		return
	}
	now := time.Now().UTC()
	r.mu.Lock()
	it := w.it
	if n := len(it.steps); n > 0 && it.steps[n-1].Name == name {
		r.mu.Unlock()
		return
	}
	it.steps = append(it.steps, resourcestore.Step{Name: name, Start: now})
	r.mu.Unlock()
	r.persist(ctx, w)
}

// persist writes the steps down. They are for people to watch: an error here is no error of the work.
func (r *Reconciler) persist(ctx context.Context, w *work) {
	op := w.operation()
	if op == nil {
		return
	}
	r.mu.Lock()
	steps := append([]resourcestore.Step(nil), w.it.steps...)
	r.mu.Unlock()
	if len(steps) == len(op.Steps) {
		return
	}
	op.Steps = steps
	o := *op
	if err := r.o.Store.Apply(ctx, resourcestore.Change{Operation: &o}); err != nil && ctx.Err() == nil {
		r.o.Log.Warn("store the steps of an operation", "operation", o.ID, "error", err)
	}
}

// settle stores the outcome of a run without error.
func (r *Reconciler) settle(ctx context.Context, w *work, result resourcetype.Result, body json.RawMessage) outcome {
	if result.Waiting {
		if err := r.save(ctx, w, body); err != nil {
			return r.unstored(ctx, w, err)
		}
		r.persist(ctx, w)
		r.mu.Lock()
		w.it.failures = 0
		r.mu.Unlock()
		return outcome{wait: true, after: result.Again, followUp: w.followUp}
	}
	var err error
	switch {
	case w.resource.Deleting:
		changes := []resourcestore.Change{{Delete: &w.resource.ID, Revision: w.resource.Revision}}
		err = r.o.Store.Apply(ctx, append(changes, r.ended(w, resourcestore.Succeeded, nil)...)...)
	case w.operation() == nil:
		err = r.save(ctx, w, body)
	default:
		err = r.put(ctx, w, r.stated(w, body, resourcestore.Succeeded), r.reported(w, result, r.ended(w, resourcestore.Succeeded, nil))...)
	}
	if err != nil {
		return r.unstored(ctx, w, err)
	}
	r.done(w)
	if w.resource.Deleting {
		return outcome{}
	}
	return outcome{after: result.Again, followUp: result.Again > 0}
}

// done resets what is counted for one operation.
func (r *Reconciler) done(w *work) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.it.attempt, w.it.failures = 0, 0
}

// stated is the document with a state.
func (r *Reconciler) stated(w *work, body json.RawMessage, state string) resourcestore.Resource {
	next := w.resource
	if w.definition.NoState {
		state = ""
	}
	next.Body = body
	if b, err := resourcetype.WithState(body, state); err == nil {
		next.Body = b
	}
	return next
}

// ended are the changes that end the operations in progress.
func (r *Reconciler) ended(w *work, status string, e *armerror.Error) []resourcestore.Change {
	r.mu.Lock()
	steps := append([]resourcestore.Step(nil), w.it.steps...)
	r.mu.Unlock()
	var out []resourcestore.Change
	for i, o := range w.operations {
		o.Status, o.End = status, time.Now().UTC()
		if i == len(w.operations)-1 {
			o.Steps = steps
		}
		if e != nil {
			o.Error, _ = json.Marshal(e)
		}
		out = append(out, resourcestore.Change{Operation: &o})
	}
	return out
}

// reported adds what the run reports to the writes among the operations that it ends. An action's result is the answer
// that its client waits for, and stays what it is.
func (r *Reconciler) reported(w *work, result resourcetype.Result, ended []resourcestore.Change) []resourcestore.Change {
	if result.Report == nil {
		return ended
	}
	report, err := json.Marshal(result.Report)
	if err != nil {
		r.o.Log.Error("encode what a reconcile reports", "resource", w.it.id.String(), "error", err)
		return ended
	}
	for _, c := range ended {
		if c.Operation.Writes() {
			c.Operation.Result = report
		}
	}
	return ended
}

// unstored decides what comes after the outcome could not be stored.
func (r *Reconciler) unstored(ctx context.Context, w *work, err error) outcome {
	if errors.Is(err, resourcestore.ErrConflict) || ctx.Err() != nil {
		return outcome{again: true, followUp: w.followUp}
	}
	r.o.Log.Error("store the outcome of a reconcile", "resource", w.it.id.String(), "error", err)
	return outcome{wait: true, after: r.o.Backoff(1), followUp: w.followUp}
}

// failed tries again or gives up. A document without an operation in progress keeps its state: the user
// was told once that it is there.
func (r *Reconciler) failed(ctx context.Context, w *work, body json.RawMessage, cause error) outcome {
	r.mu.Lock()
	w.it.failures++
	failures := w.it.failures
	r.mu.Unlock()
	final, is := armerror.As(cause)
	log := r.o.Log.With("resource", w.it.id.String(), "error", cause)
	if !is && failures < r.o.Tries {
		log.Warn("a reconcile failed and is tried again", "failures", failures)
		r.persist(ctx, w)
		return outcome{wait: true, after: r.o.Backoff(failures), followUp: w.followUp}
	}
	log.Error("a reconcile failed")
	if !is {
		final = armerror.New(armerror.InternalServerError, "The operation failed after %d attempts: %v", failures, cause)
	}
	if w.operation() == nil && !w.resource.Deleting {
		r.done(w)
		return outcome{}
	}
	if body == nil {
		body = w.resource.Body
	}
	state := resourcestore.Failed
	if !w.definition.Reconciles {
		state = resourcestore.Succeeded // a group that could not be emptied is a group still
	}
	next := r.stated(w, body, state)
	next.Deleting = false
	if err := r.put(ctx, w, next, r.ended(w, resourcestore.Failed, final)...); err != nil {
		return r.unstored(ctx, w, err)
	}
	r.done(w)
	return outcome{}
}
