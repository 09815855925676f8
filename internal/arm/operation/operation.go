// Package operation shows asynchronous operations to clients: the status document behind
// Azure-AsyncOperation and the result behind Location (ARM RPC, "Asynchronous Operations"). It knows
// neither HTTP nor resource types.
package operation

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// RetryAfter is how long clients are asked to wait between polls. Absent or 0 means 30 s to the Azure CLI.
const RetryAfter = "1"

// Status is the document behind Azure-AsyncOperation.
type Status struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	ResourceID string               `json:"resourceId"`
	Status     string               `json:"status"`
	StartTime  time.Time            `json:"startTime"`
	EndTime    *time.Time           `json:"endTime,omitempty"`
	Error      json.RawMessage      `json:"error,omitempty"`
	Properties json.RawMessage      `json:"properties,omitempty"` // an action's result, or what a write reports
	Kind       string               `json:"kind,omitempty"`       // with the steps
	Steps      []resourcestore.Step `json:"steps,omitempty"`      // the timeline, for those who ask for it
}

// Timeline tells the steps of an operation so far.
type Timeline interface {
	Steps(ctx context.Context, operation string) ([]resourcestore.Step, error)
}

// Operations reads operations from a store.
type Operations struct {
	Store    resourcestore.Store
	Timeline Timeline // optional: the steps as stored
}

// Path is the path of the operation's status document or, with results, of its result.
func Path(o resourcestore.Operation, results bool) string {
	kind := "operations"
	if results {
		kind = "operationResults"
	}
	namespace := o.Resource.Namespace()
	if namespace == "" {
		namespace = "Microsoft.Resources"
	}
	path := "/providers/" + namespace + "/locations/" + url.PathEscape(o.Location) + "/" + kind + "/" + o.ID
	if s := o.Resource.Subscription(); s != "" {
		path = "/subscriptions/" + s + path
	}
	return path
}

// Get returns the operation if it lies in the subscription ("" for the tenant).
func (s Operations) Get(ctx context.Context, subscription, id string) (resourcestore.Operation, error) {
	o, err := s.Store.Operation(ctx, id)
	if errors.Is(err, resourcestore.ErrNotFound) || err == nil && !strings.EqualFold(o.Resource.Subscription(), subscription) {
		return o, armerror.New("OperationNotFound", "The operation '%s' could not be found.", id).WithStatus(404)
	}
	return o, err
}

// Wait returns the operation as soon as it has ended or has more than seen steps, at the latest when the
// context ends. seen below 0 waits for the end alone.
func (s Operations) Wait(ctx context.Context, o resourcestore.Operation, seen int) (resourcestore.Operation, error) {
	changed := make(chan struct{}, 1)
	stop := s.Store.Watch(func(events []resourcestore.Event) {
		for _, e := range events {
			if e.Operation == o.ID {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	})
	defer stop()
	for {
		now, err := s.Store.Operation(context.WithoutCancel(ctx), o.ID)
		if err != nil || now.Status != resourcestore.InProgress {
			return now, err
		}
		if seen >= 0 && len(now.Steps) > seen {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, nil
		}
	}
}

// Show is the operation's status document.
func (s Operations) Show(ctx context.Context, o resourcestore.Operation, steps bool) (Status, error) {
	out := Status{
		ID: Path(o, false), Name: o.ID, ResourceID: o.Resource.String(), Status: o.Status, StartTime: o.Start,
		Error: o.Error, Properties: o.Result,
	}
	if !o.End.IsZero() {
		out.EndTime = &o.End
	}
	if steps {
		out.Kind, out.Steps = o.Kind, o.Steps
		if s.Timeline != nil && o.Status == resourcestore.InProgress {
			var err error
			if out.Steps, err = s.Timeline.Steps(ctx, o.ID); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// History are the operations on a resource, with their steps, oldest first.
func (s Operations) History(ctx context.Context, id resourceid.ID) ([]Status, error) {
	all, err := s.Store.Operations(ctx, id, false)
	if err != nil {
		return nil, err
	}
	out := []Status{}
	for _, o := range all {
		st, err := s.Show(ctx, o, true)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}
