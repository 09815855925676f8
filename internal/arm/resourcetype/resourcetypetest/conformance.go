package resourcetypetest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
)

// Case is a resource to be conformant.
type Case struct {
	ID   resourceid.ID // of the resource; its parents must exist in the harness
	Body any           // of a PUT that succeeds
	// Computed are paths, such as properties.creationDate, that may differ between two equal PUTs.
	Computed []string
	// NoExtra is set for a type that refuses unknown properties.
	NoExtra bool
}

// Conformance holds what is true of every resource type that clients can write and delete.
func Conformance(t *testing.T, h *Harness, c Case) {
	t.Helper()
	d, ok := h.Types.Lookup(c.ID.Type())
	if !ok {
		t.Fatalf("%s is not defined in the harness", c.ID.Type())
	}
	same := func(a, b Document) bool {
		a, b = clone(t, a), clone(t, b)
		for _, p := range append([]string{"etag", "properties.provisioningState"}, c.Computed...) {
			erase(a, p)
			erase(b, p)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return string(x) == string(y)
	}
	if h.Exists(c.ID) {
		t.Fatalf("%s exists before the test", c.ID)
	}
	if _, err := h.TryGet(c.ID); err == nil {
		t.Error("GET of what is not there succeeds")
	}

	body := clone(t, c.Body)
	if !c.NoExtra {
		body["unknownToAnyModel"] = map[string]any{"kept": []any{"as", "sent"}}
		p, _ := body["properties"].(map[string]any)
		if p == nil {
			p = map[string]any{}
		}
		p["unknownToAnyModel"] = map[string]any{"n": 12345678901234567}
		body["properties"] = p
	}
	body["cloister"] = map[string]any{"forged": true}
	a, err := h.Do(http.MethodPut, c.ID, "", body)
	if err != nil {
		t.Fatalf("PUT: %v", err)
	}
	if a.Status != http.StatusCreated {
		t.Errorf("the first PUT answers %d, want 201", a.Status)
	}
	if err := h.Finish(a); err != nil {
		t.Fatalf("PUT: %v", err)
	}
	first := h.Get(c.ID)
	if got := first.String("id"); !strings.EqualFold(got, c.ID.String()) {
		t.Errorf("id is %q, want %q", got, c.ID)
	}
	if first.String("name") != c.ID.Name() {
		t.Errorf("name is %q, want %q", first.String("name"), c.ID.Name())
	}
	if first.String("type") != d.DisplayType {
		t.Errorf("type is %q, want %q", first.String("type"), d.DisplayType)
	}
	if !d.NoState && first.State() != "Succeeded" {
		t.Errorf("provisioningState is %q after success", first.State())
	}
	if first.At("cloister") != nil {
		t.Error("cloister's memory is shown to clients")
	}
	stored, err := h.Store.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if document(t, stored.Body).At("cloister.forged") != nil {
		t.Error("a client wrote into cloister's memory")
	}
	if !c.NoExtra && (first.At("unknownToAnyModel.kept.1") != "sent" || !strings.Contains(string(stored.Body), "12345678901234567")) {
		t.Errorf("unknown properties were lost: %s", stored.Body)
	}

	t.Run("repeated PUT", func(t *testing.T) {
		a, err := h.Do(http.MethodPut, c.ID, "", body)
		if err == nil {
			err = h.Finish(a)
		}
		if err != nil {
			t.Fatalf("PUT again: %v", err)
		}
		if a.Status != http.StatusOK {
			t.Errorf("the second PUT answers %d, want 200", a.Status)
		}
		if again := h.Get(c.ID); !same(first, again) {
			t.Errorf("the same PUT made another document:\n%v\n%v", first, again)
		}
	})
	t.Run("PUT of what GET showed", func(t *testing.T) {
		back, err := h.TryPut(c.ID, h.Get(c.ID))
		if err != nil {
			t.Fatalf("PUT: %v", err)
		}
		if !same(first, back) {
			t.Errorf("writing back what was read changed the document:\n%v\n%v", first, back)
		}
	})
	t.Run("any case and api-version", func(t *testing.T) {
		for _, id := range []string{strings.ToLower(c.ID.String()), strings.ToUpper(c.ID.String())} {
			other := h.Get(resourceid.MustParse(id))
			if !same(first, other) || other.String("id") != first.String("id") {
				t.Errorf("GET %s shows another document: %v", id, other)
			}
		}
		for _, v := range []string{"2015-01-01", "2031-12-31-preview"} {
			a, err := h.Manager.Do(t.Context(), requestOf(http.MethodGet, c.ID, v))
			if err != nil || !same(first, document(t, a.Body)) {
				t.Errorf("api-version %s shows another document: %v %s", v, err, a.Body)
			}
		}
	})
	t.Run("PATCH", func(t *testing.T) {
		patched, err := h.TryPatch(c.ID, map[string]any{"tags": map[string]any{"patched": "yes"}})
		if err != nil {
			t.Fatalf("PATCH: %v", err)
		}
		if patched.At("tags.patched") != "yes" {
			t.Errorf("tags are %v", patched.At("tags"))
		}
		want, got := clone(t, first), clone(t, patched)
		delete(want, "tags")
		delete(got, "tags")
		if !same(want, got) {
			t.Errorf("a PATCH of tags changed more:\n%v\n%v", first, patched)
		}
	})
	t.Run("list", func(t *testing.T) {
		scope, _ := c.ID.Parent()
		found := 0
		for _, item := range h.List(scope, d.Name, "") {
			if strings.EqualFold(item.String("id"), c.ID.String()) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("the list of %s in %s has the resource %d times", d.Name, scope, found)
		}
	})
	if d.NoDelete {
		return
	}
	t.Run("DELETE", func(t *testing.T) {
		if err := h.Delete(c.ID); err != nil {
			t.Fatalf("DELETE: %v", err)
		}
		if h.Exists(c.ID) {
			t.Error("it is still there")
		}
		a, err := h.Do(http.MethodDelete, c.ID, "", nil)
		if err != nil || a.Status != http.StatusNoContent {
			t.Errorf("DELETE of what is gone answers %d, %v; want 204", a.Status, err)
		}
		if _, err := h.TryPut(c.ID, c.Body); err != nil {
			t.Errorf("PUT after DELETE: %v", err)
		}
		if err := h.Delete(c.ID); err != nil {
			t.Errorf("DELETE again: %v", err)
		}
	})
}

func requestOf(method string, id resourceid.ID, apiVersion string) resourcemanager.Request {
	return resourcemanager.Request{Method: method, ID: id, APIVersion: apiVersion, Caller: Caller}
}

func clone(t testing.TB, v any) Document {
	t.Helper()
	b, err := json.Marshal(v)
	if s, ok := v.(string); ok {
		b, err = []byte(s), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return document(t, b)
}

// erase removes the value at a dotted path.
func erase(d map[string]any, path string) {
	head, rest, more := strings.Cut(path, ".")
	if !more {
		delete(d, head)
		return
	}
	if v, ok := d[head].(map[string]any); ok {
		erase(v, rest)
	}
}
