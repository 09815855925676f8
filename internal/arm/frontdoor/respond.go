package frontdoor

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/operation"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// base is the address the client knows this service under.
func base(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// fail writes an error. What is no ARM error is told in the log only, under the correlation ID.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := armerror.As(err)
	if !ok && errors.Is(err, resourceid.ErrInvalid) {
		e, ok = armerror.New("InvalidResourceId", "%v", err), true
	}
	if !ok {
		c := callOf(r)
		s.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "correlation", c.correlation, "error", err)
		e = armerror.New(armerror.InternalServerError, "An unexpected error occurred. Please retry. If it persists, look for correlation ID '%s' in the log.", c.correlation)
	}
	w.Header().Set("x-ms-failure-cause", failureCause(e))
	s.json(w, r, e.HTTPStatus(), armerror.Body{Error: e})
}

func failureCause(e *armerror.Error) string {
	if e.HTTPStatus() >= http.StatusInternalServerError {
		return "service"
	}
	return "gateway"
}

// json writes a value as the answer.
func (s *server) json(w http.ResponseWriter, r *http.Request, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.Log.Error("encode an answer", "path", r.URL.Path, "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"error":{"code":"InternalServerError","message":"The answer could not be encoded."}}`)
	}
	s.write(w, r, status, b)
}

func (s *server) write(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// Nobody is left to tell when the client has hung up.
		_, _ = w.Write(body)
	}
}

// answer writes what the resource manager answered.
func (s *server) answer(w http.ResponseWriter, r *http.Request, a resourcemanager.Answer) error {
	if a.ETag != "" {
		w.Header().Set("ETag", a.ETag)
	}
	if a.Location != "" {
		w.Header().Set("Location", absolute(r, a.Location))
	}
	if a.Operation != nil {
		pending(w, r, *a.Operation)
	} else if a.Status == http.StatusAccepted {
		w.Header().Set("Retry-After", operation.RetryAfter)
	}
	s.write(w, r, a.Status, a.Body)
	return nil
}

// pending sets the headers that tell a client where to go on asking.
func pending(w http.ResponseWriter, r *http.Request, o resourcestore.Operation) {
	version := "?api-version=" + url.QueryEscape(o.APIVersion)
	w.Header().Set("Azure-AsyncOperation", base(r)+operation.Path(o, false)+version)
	w.Header().Set("Location", base(r)+operation.Path(o, true)+version)
	w.Header().Set("Retry-After", operation.RetryAfter)
}

// absolute completes a path with the host and api-version of the request.
func absolute(r *http.Request, location string) string {
	if !strings.HasPrefix(location, "/") {
		return location
	}
	if !strings.Contains(location, "api-version=") {
		sep := "?"
		if strings.Contains(location, "?") {
			sep = "&"
		}
		location += sep + "api-version=" + url.QueryEscape(callOf(r).apiVersion)
	}
	return base(r) + location
}

// page writes a page of a collection.
func (s *server) page(w http.ResponseWriter, r *http.Request, p resourcemanager.Page) error {
	if p.Answer != nil {
		return s.answer(w, r, *p.Answer)
	}
	out := struct {
		Value    []json.RawMessage `json:"value"`
		NextLink string            `json:"nextLink,omitempty"`
	}{Value: p.Items}
	if p.Next != "" {
		q := r.URL.Query()
		q.Set("$skiptoken", p.Next)
		out.NextLink = base(r) + r.URL.EscapedPath() + "?" + q.Encode()
	}
	s.json(w, r, http.StatusOK, out)
	return nil
}

// list writes a whole collection.
func (s *server) list(w http.ResponseWriter, r *http.Request, values []any) error {
	if values == nil {
		values = []any{}
	}
	s.json(w, r, http.StatusOK, map[string]any{"value": values})
	return nil
}
