package resourceproviders

import (
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

func TestRegistration(t *testing.T) {
	d := providertest.New()
	s := Spec([]string{"Microsoft.Network"})
	id := ID("s", "microsoft.network")
	r, err := s.Find(t.Context(), id, d)
	if err != nil || r.ID.Name() != "Microsoft.Network" {
		t.Fatalf("%v, %v", r, err)
	}
	if ok, err := IsRegistered(t.Context(), d, "s", "Microsoft.Network"); err != nil || !ok {
		t.Errorf("a new subscription is not registered: %v", err)
	}
	for _, c := range []struct {
		action string
		want   bool
	}{{"unregister", false}, {"register", true}} {
		m := &Model{Properties{Namespace: "Microsoft.Network", RegistrationState: Registered}}
		a, err := s.Actions[c.action].Handle(t.Context(), &resourcetype.ActionRequest[Model]{ID: r.ID, Model: m})
		if err != nil || (a.(Provider).RegistrationState == Registered) != c.want || a.(Provider).ID != "/subscriptions/s/providers/Microsoft.Network" {
			t.Errorf("%+v, %v", a, err)
		}
		d.Put(t, r.ID.String(), m)
		if ok, err := IsRegistered(t.Context(), d, "s", "Microsoft.Network"); err != nil || ok != c.want {
			t.Errorf("after %s: %v, %v", c.action, ok, err)
		}
	}
	if _, err := s.Find(t.Context(), ID("s", "Microsoft.None"), d); providertest.Codes(err) != "InvalidResourceNamespace@" {
		t.Errorf("%v", err)
	}
}
