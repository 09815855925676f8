package frontdoor

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/operation"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// longestWait bounds how long a request for an operation may be held open.
const longestWait = 60 * time.Second

func (s *server) operation(r *http.Request) (resourcestore.Operation, error) {
	p := callOf(r).segments
	subscription := ""
	if strings.EqualFold(p[0], "subscriptions") {
		subscription = p[1]
	}
	return s.operations.Get(r.Context(), subscription, p[len(p)-1])
}

// operationStatus answers what Azure-AsyncOperation names. Two parameters of ours let a client watch instead of
// poll: $wait=SECONDS holds the answer back until the operation has ended, and with $seen=N until it has more
// than N steps, which are then told, too.
func (s *server) operationStatus(w http.ResponseWriter, r *http.Request) error {
	o, err := s.operation(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	steps := q.Has("$wait")
	if steps {
		if o, err = s.wait(r, o, q); err != nil {
			return err
		}
	}
	status, err := s.operations.Show(r.Context(), o, steps)
	if err != nil {
		return err
	}
	if o.Status == resourcestore.InProgress {
		pending(w, r, o)
	}
	s.json(w, r, http.StatusOK, status)
	return nil
}

func (s *server) wait(r *http.Request, o resourcestore.Operation, q url.Values) (resourcestore.Operation, error) {
	seconds, err := strconv.ParseFloat(q.Get("$wait"), 64)
	if err != nil || !(seconds >= 0) {
		return o, armerror.New(armerror.InvalidParameter, "The $wait query parameter value '%s' is no number of seconds.", q.Get("$wait"))
	}
	seen := -1
	if q.Has("$seen") {
		if seen, err = strconv.Atoi(q.Get("$seen")); err != nil {
			return o, armerror.New(armerror.InvalidParameter, "The $seen query parameter value '%s' is no number of steps.", q.Get("$seen"))
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(seconds*float64(time.Second)), longestWait))
	defer cancel()
	return s.operations.Wait(ctx, o, seen)
}

// operationResult answers what Location names: 202 while the operation is in progress, then what the request
// itself would have answered.
func (s *server) operationResult(w http.ResponseWriter, r *http.Request) error {
	o, err := s.operation(r)
	if err != nil {
		return err
	}
	switch {
	case o.Status == resourcestore.InProgress:
		pending(w, r, o)
		s.write(w, r, http.StatusAccepted, nil)
		return nil
	case o.Status != resourcestore.Succeeded:
		return resourcemanager.OperationError(o)
	case len(o.Result) > 0 && !o.Writes():
		s.write(w, r, http.StatusOK, o.Result)
		return nil
	case o.Kind == "delete":
		s.write(w, r, http.StatusNoContent, nil)
		return nil
	}
	c := callOf(r)
	a, err := s.Manager.Do(r.Context(), resourcemanager.Request{Method: http.MethodGet, ID: o.Resource, APIVersion: c.apiVersion, Caller: c.principal})
	if err != nil {
		return err
	}
	return s.answer(w, r, a)
}

// history answers /cloister/operations?resource=ID: what was done to a resource, with the steps of each
// operation. Who may read the resource may read it; it stays when the resource is gone.
func (s *server) history(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceid.Parse(r.URL.Query().Get("resource"))
	if err != nil {
		return err
	}
	if id.IsZero() {
		return armerror.New(armerror.InvalidParameter, "The resource query parameter names no resource.")
	}
	if err := s.Manager.Authorize(r.Context(), callOf(r).principal, id.Type()+"/read", id); err != nil {
		return err
	}
	all, err := s.operations.History(r.Context(), id)
	if err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return err
	}
	s.json(w, r, http.StatusOK, map[string][]operation.Status{"value": all})
	return nil
}
