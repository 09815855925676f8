package reconcile_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype/resourcetypetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const machines = "Microsoft.Test/machines"

type machine struct {
	Location   string `json:"location,omitempty"`
	Properties struct {
		Network string `json:"network,omitempty"`
		Ready   bool   `json:"ready,omitempty"`
	} `json:"properties"`
}

// define makes a type with the reconcile, that points to properties.network.
func define(reconcile func(context.Context, *resourcetype.Reconciliation[machine]) (resourcetype.Result, error)) resourcetype.Definition {
	return resourcetype.Define(resourcetype.Spec[machine]{
		Name: machines,
		References: func(m *machine) []resourcetype.Reference {
			id, err := resourceid.Parse(m.Properties.Network)
			if err != nil {
				return nil
			}
			return []resourcetype.Reference{{Property: "properties.network", ID: id}}
		},
		Reconcile: reconcile,
	})
}

var regional = map[string]any{"location": "eastus"}

func TestWaitingIsWokenByAReference(t *testing.T) {
	var runs atomic.Int64
	d := define(func(ctx context.Context, r *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		runs.Add(1)
		r.Step("Waiting for the network")
		var n machine
		err := r.Client.Get(ctx, resourceid.MustParse(r.Model.Properties.Network), &n)
		if errors.Is(err, resourcestore.ErrNotFound) || err == nil && !n.Properties.Ready {
			return resourcetype.Result{Waiting: true}, nil
		}
		r.Step("Done")
		return resourcetype.Result{}, err
	})
	h := resourcetypetest.New(t, d, resourcetypetest.Stub("Microsoft.Test/networks"))
	network, id := h.ID("Microsoft.Test/networks", "n"), h.ID(machines, "m")
	a, err := h.Do(http.MethodPut, id, "", map[string]any{"location": "eastus", "properties": map[string]any{"network": strings.ToUpper(network.String())}})
	if err != nil {
		t.Fatal(err)
	}
	h.Put(network, regional)
	h.Put(network, map[string]any{"location": "eastus", "properties": map[string]any{"ready": true}})
	if err := h.Finish(a); err != nil {
		t.Fatal(err)
	}
	if got := h.Get(id).State(); got != "Succeeded" {
		t.Errorf("state is %s", got)
	}
	steps, err := h.Reconciler.Steps(t.Context(), a.Operation.ID)
	if err != nil || len(steps) != 2 || steps[0].Name != "Waiting for the network" || steps[1].Name != "Done" {
		t.Errorf("steps are %v, %v", steps, err)
	}
	before := runs.Load()
	h.Put(network, map[string]any{"location": "eastus", "properties": map[string]any{"ready": true, "more": 1}})
	for range 1000 {
		if runs.Load() > before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("a change of what it points to does not run a resource that is done")
}

func TestErrors(t *testing.T) {
	var runs, heal atomic.Int64
	var final atomic.Bool
	d := define(func(context.Context, *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		switch runs.Add(1); {
		case heal.Load() != 0 && runs.Load() >= heal.Load():
			return resourcetype.Result{}, nil
		case final.Load():
			return resourcetype.Result{}, armerror.New("NoRoom", "there is no room")
		}
		return resourcetype.Result{}, errors.New("the disk is slow")
	})
	h := resourcetypetest.New(t, d)
	id := h.ID(machines, "m")

	_, err := h.TryPut(id, regional)
	resourcetypetest.WantError(t, err, armerror.InternalServerError)
	if runs.Load() != 6 || h.Get(id).State() != "Failed" {
		t.Errorf("%d runs, state %s; want 6, Failed", runs.Load(), h.Get(id).State())
	}

	runs.Store(0)
	final.Store(true)
	_, err = h.TryPut(id, regional)
	resourcetypetest.WantError(t, err, "NoRoom")
	if runs.Load() != 1 {
		t.Errorf("%d runs after a final error, want 1", runs.Load())
	}

	runs.Store(0)
	final.Store(false)
	heal.Store(3)
	if got := h.Put(id, regional).State(); got != "Succeeded" || runs.Load() != 3 {
		t.Errorf("state %s after %d runs, want Succeeded after 3: the same PUT must start a failed resource again", got, runs.Load())
	}
}

func TestDeletePreemptsAndIsCanceled(t *testing.T) {
	started := make(chan struct{}, 10)
	d := define(func(ctx context.Context, r *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		if r.Deleting {
			return resourcetype.Result{}, nil
		}
		started <- struct{}{}
		<-ctx.Done()
		return resourcetype.Result{}, ctx.Err()
	})
	h := resourcetypetest.New(t, d)
	id := h.ID(machines, "m")
	a, err := h.Do(http.MethodPut, id, "", regional)
	if err != nil {
		t.Fatal(err)
	}
	<-started
	_, err = h.Do(http.MethodPut, id, "", regional)
	resourcetypetest.WantError(t, err, armerror.AnotherOperationInProgress)
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
	if h.Exists(id) {
		t.Error("it is still there")
	}
	o, err := h.Store.Operation(t.Context(), a.Operation.ID)
	if err != nil || o.Status != resourcestore.Canceled {
		t.Errorf("the create ended as %s, %v; want Canceled", o.Status, err)
	}
}

func TestResumesWhatTheLastProcessLeft(t *testing.T) {
	h := resourcetypetest.New(t, define(func(context.Context, *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		return resourcetype.Result{Waiting: true}, nil
	}))
	id, gone := h.ID(machines, "m"), h.ID(machines, "gone")
	a, err := h.Do(http.MethodPut, id, "", regional)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Do(http.MethodPut, gone, "", regional); err != nil {
		t.Fatal(err)
	}
	del, err := h.Do(http.MethodDelete, gone, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	next := resourcetypetest.NewOn(t, h.Store, define(func(context.Context, *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		return resourcetype.Result{}, nil
	}))
	if err := errors.Join(next.Finish(a), next.Finish(del)); err != nil {
		t.Fatal(err)
	}
	if next.Get(id).State() != "Succeeded" || next.Exists(gone) {
		t.Error("a new process did not go on with what was in progress")
	}
}

func TestGroupDeletion(t *testing.T) {
	order := make(chan string, 10)
	d := define(func(_ context.Context, r *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		if r.Deleting {
			order <- r.ID.Name()
		}
		return resourcetype.Result{}, nil
	})
	h := resourcetypetest.New(t, d, resourcetypetest.Stub("Microsoft.Test/networks"), resourcetypetest.Stub("Microsoft.Test/networks/subnets"))
	network := h.ID("Microsoft.Test/networks", "n")
	h.Put(network, regional)
	subnet := h.ID("Microsoft.Test/networks/subnets", "n", "s")
	h.Put(subnet, map[string]any{})
	pointTo := func(id resourceid.ID) map[string]any {
		return map[string]any{"location": "eastus", "properties": map[string]any{"network": id.String()}}
	}
	// Names against the order of the list, so that only the references can give the right order.
	h.Put(h.ID(machines, "first"), pointTo(subnet))
	h.Put(h.ID(machines, "a-last"), regional)
	h.Put(h.ID(machines, "b-middle"), pointTo(h.ID(machines, "a-last")))
	h.Put(h.ID(machines, "c-first"), pointTo(h.ID(machines, "b-middle")))
	if err := h.Delete(h.Group()); err != nil {
		t.Fatal(err)
	}
	left, err := h.Store.List(t.Context(), resourcestore.Filter{})
	if err != nil || len(left) != 0 {
		t.Errorf("%d documents are left, %v", len(left), err)
	}
	close(order)
	var names []string
	for n := range order {
		if n != "first" {
			names = append(names, n)
		}
	}
	if !slices.Equal(names, []string{"c-first", "b-middle", "a-last"}) {
		t.Errorf("deleted in the order %v", names)
	}
}

func TestFailedChildIsRetriedOncePerRequest(t *testing.T) {
	const parts = machines + "/parts"
	var tries atomic.Int64
	var healed atomic.Bool
	parent := define(func(ctx context.Context, r *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
		if r.Deleting {
			return resourcetype.Result{}, nil
		}
		state, err := r.Client.Put(ctx, r.ID.Child("parts", "p"), "2024-01-01", map[string]any{"properties": map[string]any{"ready": true}})
		switch {
		case err != nil:
			return resourcetype.Result{}, err
		case state == "Failed":
			return resourcetype.Result{}, armerror.New("PartFailed", "the part failed")
		case state != "Succeeded":
			return resourcetype.Result{Waiting: true}, nil
		}
		return resourcetype.Result{}, nil
	})
	child := resourcetype.Define(resourcetype.Spec[machine]{
		Name: parts, Placement: resourcetype.Inherited,
		Reconcile: func(context.Context, *resourcetype.Reconciliation[machine]) (resourcetype.Result, error) {
			if tries.Add(1); healed.Load() {
				return resourcetype.Result{}, nil
			}
			return resourcetype.Result{}, armerror.New("Broken", "the part is broken")
		},
	})
	h := resourcetypetest.New(t, parent, child)
	id := h.ID(machines, "m")
	_, err := h.TryPut(id, regional)
	resourcetypetest.WantError(t, err, "PartFailed")
	if tries.Load() != 1 {
		t.Errorf("the part was tried %d times, want once", tries.Load())
	}
	_, err = h.TryPut(id, regional)
	resourcetypetest.WantError(t, err, "PartFailed")
	healed.Store(true)
	if got := h.Put(id, regional).State(); got != "Succeeded" || tries.Load() != 3 {
		t.Errorf("state %s after %d tries of the part, want Succeeded after 3", got, tries.Load())
	}
	if err := h.Delete(id); err != nil {
		t.Fatal(err)
	}
}
