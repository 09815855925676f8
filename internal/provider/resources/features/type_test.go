package features

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

// The path that az sends.
const id = "/subscriptions/22222222-2222-2222-2222-222222222222/providers/Microsoft.Features/providers/Microsoft.ContainerService/features/NetworkIsolatedClusterPreview"

func TestRegistration(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	d := providertest.New()
	s := Spec(clock)
	parsed := resourceid.MustParse(id)
	if !parsed.Is(Name) || !ID(parsed.Subscription(), "Microsoft.ContainerService", "NetworkIsolatedClusterPreview").Equal(parsed) {
		t.Fatalf("%s is a %s", parsed, parsed.Type())
	}
	r, err := s.Find(t.Context(), parsed, d)
	if err != nil {
		t.Fatal(err)
	}
	d.Put(t, id, string(r.Body))
	if m := providertest.Render(t, d, s, id); m.Properties.State != NotRegistered || m.Name != "Microsoft.ContainerService/NetworkIsolatedClusterPreview" {
		t.Errorf("%+v", m)
	}
	post := func(action string) string {
		m := new(Model)
		if err := d.Get(t.Context(), parsed, m); err != nil {
			t.Fatal(err)
		}
		a, err := s.Actions[action].Handle(t.Context(), &resourcetype.ActionRequest[Model]{ID: parsed, Model: m, Documents: d})
		if err != nil {
			t.Fatal(err)
		}
		d.Put(t, id, m)
		b, _ := json.Marshal(a)
		return string(b)
	}
	want := `{"id":"` + id + `","name":"Microsoft.ContainerService/NetworkIsolatedClusterPreview","properties":{"state":"Registering"},"type":"Microsoft.Features/providers/features"}`
	if got := post("register"); got != want {
		t.Errorf("%s", got)
	}
	for _, c := range []struct {
		after time.Duration
		state string
	}{{time.Second, Registering}, {settle, Registered}, {time.Hour, Registered}} {
		now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(c.after)
		if m := providertest.Render(t, d, s, id); m.Properties.State != c.state {
			t.Errorf("after %s: %s", c.after, m.Properties.State)
		}
	}
	post("register")
	if m := providertest.Render(t, d, s, id); m.Properties.State != Registered {
		t.Errorf("registering again starts over: %s", m.Properties.State)
	}
	post("unregister")
	if m := providertest.Render(t, d, s, id); m.Properties.State != Unregistered {
		t.Errorf("%s", m.Properties.State)
	}
	list, err := All(clock).List(t.Context(), &resourcetype.ListRequest{Scope: resourceid.MustParse("/subscriptions/22222222-2222-2222-2222-222222222222"), Documents: d})
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestUnknownFeature(t *testing.T) {
	_, err := Spec(time.Now).Find(t.Context(), ID("s", "Microsoft.ContainerService", "Nonsense"), nil)
	if err == nil || err.Error() != "FeatureNotFound: The feature 'Nonsense' could not be found." {
		t.Errorf("%v", err)
	}
}
