package documents_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

var _ resourcetype.Reader = documents.Index{}

const (
	zoneType = "Microsoft.Network/privateDnsZones"
	linkType = zoneType + "/virtualNetworkLinks"
)

var group = resourceid.Group("11111111-1111-1111-1111-111111111111", "rg")

func document(id resourceid.ID, body string) resourcestore.Resource {
	return resourcestore.Resource{ID: id, Body: json.RawMessage(body)}
}

// IDs are found in whatever casing they are written, and lists come in order of IDs whatever order they were given in.
func TestIndex(t *testing.T) {
	a, b := group.Resource(zoneType, "a.example"), group.Resource(zoneType, "b.example")
	x := documents.New([]resourcestore.Resource{
		document(b.Child("virtualNetworkLinks", "second"), `{}`), document(b, `{"location":"global"}`), document(a, `{"location":7}`), document(b.Child("virtualNetworkLinks", "First"), `{}`),
	})
	names := func(list []resourcestore.Resource) string {
		var out []string
		for _, r := range list {
			out = append(out, r.ID.Name())
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ what, got, want string }{
		{"zones", names(x.Of(strings.ToUpper(zoneType))), "a.example b.example"},
		{"links of b", names(x.Under(b, linkType)), "First second"},
		{"links of a", names(x.Under(a, linkType)), ""},
		{"links in the group", names(x.Under(group, linkType)), "First second"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	if shouted := resourceid.MustParse(strings.ToUpper(b.String())); !x.Has(shouted) {
		t.Errorf("%s is not found", shouted)
	}
	if x.Has(resourceid.ID{}) || x.Has(group.Resource(zoneType, "c.example")) {
		t.Error("what is not there is found")
	}
}

func TestViews(t *testing.T) {
	good, bad, missing := group.Resource(zoneType, "good.example"), group.Resource(zoneType, "bad.example"), group.Resource(zoneType, "missing.example")
	x := documents.New([]resourcestore.Resource{document(good, `{"location":"global"}`), document(bad, `{"location":7}`)})
	type view struct{ Location string }
	var v view
	if !x.Read(good, &v) || v.Location != "global" {
		t.Errorf("read %+v", v)
	}
	if x.Read(bad, &v) || x.Read(missing, &v) {
		t.Error("what cannot be read was read")
	}
	if err := x.Get(t.Context(), missing, &v); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Errorf("get what is not there: %v", err)
	}
	r, _ := x.Find(bad)
	if _, err := documents.Decode[view](r); err == nil || !strings.Contains(err.Error(), bad.String()) {
		t.Errorf("decode a document that is no view: %v; want its ID named", err)
	}
}
