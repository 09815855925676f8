// Package reconcile makes the machine agree with the documents: it runs each type's Reconcile until the
// document is done, and ends the operations. It knows no HTTP and no resource type.
//
//	stored with an operation ──▶ run ──▶ done: Succeeded, operation Succeeded
//	                              │ ▲
//	                              ▼ │ what it references or holds changed, or Again passed
//	                            waiting
//	                     error ──▶ back-off, run again; after the last try, or for an *armerror.Error: Failed
//
// Nothing is kept in memory that a new process could not find out: at its start it goes on with every
// operation in progress and every document that is being deleted.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Manager is what reconciling needs of the resource manager.
type Manager interface {
	// Client acts as the principal; see resourcemanager.Manager.
	Client(principal resourcetype.Principal, retryBefore time.Time) resourcetype.Client
	// DeleteInside goes on with deleting what lies in a resource and reports whether anything is left.
	DeleteInside(ctx context.Context, id resourceid.ID) (left bool, err error)
}

// Options are what a Reconciler depends on.
type Options struct {
	Store   resourcestore.Store // required
	Types   *resourcetype.Types // required
	Manager Manager             // required
	// Principal is the first-party principal of a type's service; required.
	Principal func(resourcetype.Definition) resourcetype.Principal
	Log       *slog.Logger // optional
	// Tries is how often a run that ends in an error is made before the operation fails; 6 by default.
	Tries int
	// Backoff is the pause after the nth error in a row; 200 ms doubling to 5 s by default.
	Backoff func(n int) time.Duration
	// Parallel is how many resources are worked on at a time; 32 by default.
	Parallel int
}

// Reconciler runs reconciles. Use one per store.
type Reconciler struct {
	o     Options
	slots chan struct{}
	runs  sync.WaitGroup

	mu    sync.Mutex
	ctx   context.Context // of Run; nil before and after
	items map[string]*item
	graph *graph

	queueMu sync.Mutex
	queue   []resourcestore.Event
	queued  chan struct{}
}

// item is a resource that has work to do. Its fields are guarded by the Reconciler's mutex.
type item struct {
	id       resourceid.ID
	running  bool
	again    bool // something happened during the run: run again at once
	waiting  bool
	followUp bool // run though no operation is in progress
	cancel   context.CancelFunc
	timer    *time.Timer
	revision int64 // the last one that this item's runs have seen or written
	// operation is what the counters and steps below belong to.
	operation string
	attempt   int // runs
	failures  int // runs in a row that ended in an error
	steps     []resourcestore.Step
}

// New returns a Reconciler that does nothing until Run.
func New(o Options) *Reconciler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tries == 0 {
		o.Tries = 6
	}
	if o.Backoff == nil {
		o.Backoff = Backoff
	}
	if o.Parallel == 0 {
		o.Parallel = 32
	}
	return &Reconciler{o: o, slots: make(chan struct{}, o.Parallel), queued: make(chan struct{}, 1)}
}

// Backoff is 200 ms doubling to 5 s.
func Backoff(n int) time.Duration {
	d := 200 * time.Millisecond
	for ; n > 1 && d < 5*time.Second; n-- {
		d *= 2
	}
	return min(d, 5*time.Second)
}

// Name is the service's name.
func (r *Reconciler) Name() string { return "reconcile" }

// Run works until the context ends, and returns when no reconcile runs any more.
func (r *Reconciler) Run(ctx context.Context) error {
	stop := r.o.Store.Watch(r.enqueue)
	defer stop()
	runCtx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		r.mu.Lock()
		r.ctx = nil
		for _, it := range r.items {
			if it.timer != nil {
				it.timer.Stop()
			}
		}
		r.mu.Unlock()
		r.runs.Wait()
	}()
	r.mu.Lock()
	r.ctx, r.items, r.graph = runCtx, map[string]*item{}, newGraph(r.o.Types)
	r.mu.Unlock()
	if err := r.resume(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.queued:
		}
		r.queueMu.Lock()
		events := r.queue
		r.queue = nil
		r.queueMu.Unlock()
		for _, e := range events {
			if err := r.handle(ctx, e); err != nil && ctx.Err() == nil {
				r.o.Log.Error("handle a change", "resource", e.ID.String(), "error", err)
			}
		}
	}
}

// enqueue takes events from the store, whose watchers must not block.
func (r *Reconciler) enqueue(events []resourcestore.Event) {
	r.queueMu.Lock()
	r.queue = append(r.queue, events...)
	r.queueMu.Unlock()
	select {
	case r.queued <- struct{}{}:
	default:
	}
}

// resume goes on with what the last process left.
func (r *Reconciler) resume(ctx context.Context) error {
	all, err := r.o.Store.List(ctx, resourcestore.Filter{})
	if err != nil {
		return err
	}
	r.mu.Lock()
	for _, d := range all {
		r.graph.put(d)
	}
	r.mu.Unlock()
	unfinished, err := r.o.Store.Operations(ctx, resourceid.ID{}, true)
	if err != nil {
		return err
	}
	for _, o := range unfinished {
		r.wake(o.Resource, false)
	}
	for _, d := range all {
		if d.Deleting {
			r.wake(d.ID, false)
		}
	}
	return nil
}

// handle starts and wakes what an event concerns.
func (r *Reconciler) handle(ctx context.Context, e resourcestore.Event) error {
	if e.Operation != "" {
		o, err := r.o.Store.Operation(ctx, e.Operation)
		if err != nil || o.Status != resourcestore.InProgress {
			return err
		}
		r.mu.Lock()
		it := r.items[e.ID.Key()]
		known := it != nil && it.operation == o.ID
		r.mu.Unlock()
		if !known {
			r.wake(e.ID, false)
		}
		return nil
	}
	var doc *resourcestore.Resource
	if !e.Deleted {
		d, err := r.o.Store.Get(ctx, e.ID)
		switch {
		case err == nil:
			doc = &d
		case !errors.Is(err, resourcestore.ErrNotFound): // gone again already: its own event follows
			return err
		}
	}
	r.mu.Lock()
	var changed bool
	if doc != nil {
		changed = r.graph.put(*doc)
	} else {
		changed = r.graph.remove(e.ID)
	}
	var wake, follow []resourceid.ID
	if it := r.items[e.ID.Key()]; it != nil && (doc == nil || doc.Revision != it.revision) {
		// Someone else wrote it. A delete does not wait for what it makes needless.
		if it.running && it.cancel != nil && (doc == nil || doc.Deleting) {
			it.cancel()
		}
		wake = append(wake, it.id)
	}
	for key, it := range r.items {
		if key != e.ID.Key() && (it.running || it.waiting) && r.graph.related(it.id, e.ID) {
			wake = append(wake, it.id)
		}
	}
	if changed {
		follow = r.graph.referrers(e.ID)
	}
	r.mu.Unlock()
	for _, id := range wake {
		r.wake(id, false)
	}
	for _, id := range follow {
		r.wake(id, true)
	}
	return nil
}

// wake has the resource run, once more if it is running now. followUp runs it even when it is done.
func (r *Reconciler) wake(id resourceid.ID, followUp bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	it := r.items[id.Key()]
	if it == nil {
		it = &item{id: id}
		r.items[id.Key()] = it
	}
	it.followUp = it.followUp || followUp
	if it.running {
		it.again = true
		return
	}
	r.start(it)
}

// start begins a run. The caller holds the mutex.
func (r *Reconciler) start(it *item) {
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
	it.running, it.waiting, it.again = true, false, false
	ctx, cancel := context.WithCancel(r.ctx)
	it.cancel = cancel
	r.runs.Add(1)
	go func() {
		defer r.runs.Done()
		defer cancel()
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			r.finished(it, outcome{again: true})
			return
		}
		o := r.run(ctx, it)
		<-r.slots
		r.finished(it, o)
	}()
}

// outcome of a run: idle when nothing else is set.
type outcome struct {
	again bool          // run again at once
	wait  bool          // run when something changes
	after time.Duration // run after this, when not 0
	// followUp: the next run is to be made though no operation is in progress.
	followUp bool
}

// finished decides what comes after a run.
func (r *Reconciler) finished(it *item, o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it.running, it.cancel = false, nil
	if r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	it.followUp = it.followUp || o.followUp
	switch {
	case o.again || it.again:
		r.start(it)
	case o.wait || o.after > 0:
		it.waiting = o.wait
		if o.after > 0 {
			it.timer = time.AfterFunc(o.after, func() { r.wake(it.id, false) })
		}
	default:
		delete(r.items, it.id.Key())
	}
}

// Steps is the timeline of an operation.
func (r *Reconciler) Steps(ctx context.Context, operation string) ([]resourcestore.Step, error) {
	r.mu.Lock()
	for _, it := range r.items {
		if it.operation == operation {
			defer r.mu.Unlock()
			return append([]resourcestore.Step(nil), it.steps...), nil
		}
	}
	r.mu.Unlock()
	o, err := r.o.Store.Operation(ctx, operation)
	return o.Steps, err
}
