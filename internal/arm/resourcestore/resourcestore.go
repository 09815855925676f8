// Package resourcestore keeps ARM documents and the operations on them. It knows no resource type.
//
// The documents are the only truth in Cloister: everything on the machine follows from them. A Store
// is used through one contract suite, storetest, whatever holds its bytes.
package resourcestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

var (
	// ErrNotFound is returned for a resource or operation that is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict is returned by Apply when a precondition does not hold; nothing was written then.
	ErrConflict = errors.New("the resource was changed meanwhile")
)

// Resource is one document.
type Resource struct {
	ID       resourceid.ID
	Body     json.RawMessage // the document, an object: id, name, type, location, tags, properties …
	Revision int64           // 1 at creation, one more with each write
	Deleting bool            // a delete was accepted; the document goes when its reconcile is done
	Created  time.Time
	Changed  time.Time
}

// ETag is the entity tag of this revision, in quotes as HTTP wants it.
func (r Resource) ETag() string {
	return fmt.Sprintf("\"%08x-%x\"", uint32(r.Revision), r.Changed.UnixNano())
}

// Operation statuses (ARM RPC, asynchronous operations).
const (
	InProgress = "InProgress"
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	Canceled   = "Canceled"
)

// Operation is one accepted asynchronous request.
type Operation struct {
	ID         string // a GUID
	Resource   resourceid.ID
	Kind       string // create, update, delete, or an action's name
	Location   string // the resource's, part of the status URL
	APIVersion string // of the request that started it
	Status     string
	Error      json.RawMessage // an armerror.Error, when Failed
	Result     json.RawMessage // an action's answer, or what a write reports, when Succeeded
	Steps      []Step          // the timeline, in order
	Start, End time.Time
}

// Writes tells whether the operation is a write's, whose result is the document.
func (o Operation) Writes() bool { return o.Kind == "create" || o.Kind == "update" }

// Replaced is what is stored when next is written over the operation: an end is final, so that a late
// report of progress does not revive what was canceled meanwhile.
func (o Operation) Replaced(next Operation) Operation {
	if o.Status != InProgress && next.Status == InProgress {
		o.Steps = next.Steps
		return o
	}
	return next
}

// Step is one turn of an operation's work.
type Step struct {
	Name  string    `json:"name"`
	Start time.Time `json:"start"`
}

// Change is one write of a transaction. Exactly one of Put, Delete and Operation is set.
type Change struct {
	Put       *Resource      // written with Revision one above the precondition's; Created and Changed are set by the store
	Delete    *resourceid.ID // removed; no error when it is gone already and Revision is Any
	Operation *Operation     // inserted or replaced by ID; one that ended stays as it is but for its Steps

	// Revision that Put or Delete expects to find: 0 none there, Any whatever is there.
	Revision int64
}

// Any as a Change's Revision sets no precondition.
const Any int64 = -1

// Filter selects resources. Empty fields do not restrict.
type Filter struct {
	Under resourceid.ID // the resource lies in this one, at any depth, and is not it
	Type  string        // full resource type, in any case
}

// Event tells that a committed transaction wrote or removed a resource, or wrote an operation on it.
type Event struct {
	ID        resourceid.ID
	Deleted   bool
	Operation string // the operation that was written; the document was not, then
}

// Store is safe for concurrent use. Everything Apply wrote survives the loss of power once it returned.
type Store interface {
	// Get returns the resource or ErrNotFound.
	Get(ctx context.Context, id resourceid.ID) (Resource, error)
	// List returns matching resources in order of their IDs' keys.
	List(ctx context.Context, f Filter) ([]Resource, error)
	// Apply writes all changes or none. It returns ErrConflict when a Revision does not match.
	Apply(ctx context.Context, changes ...Change) error
	// Operation returns the operation or ErrNotFound.
	Operation(ctx context.Context, id string) (Operation, error)
	// Operations returns those on the resource, or all when the ID is zero, in order of their start; with
	// inProgress only those.
	Operations(ctx context.Context, resource resourceid.ID, inProgress bool) ([]Operation, error)
	// Watch calls fn after each committed Apply of this process, in commit order, until cancel is called. fn must not block.
	Watch(fn func([]Event)) (cancel func())
	// Close releases the store.
	Close() error
}

// Target is the resource that the change writes or removes; false for a change of an operation.
func (c Change) Target() (resourceid.ID, bool) {
	switch {
	case c.Put != nil:
		return c.Put.ID, true
	case c.Delete != nil:
		return *c.Delete, true
	}
	return resourceid.ID{}, false
}
