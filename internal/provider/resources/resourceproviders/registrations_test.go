package resourceproviders

import (
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/memory"
)

var (
	_ frontdoor.Registrar          = (*Registrations)(nil)
	_ resourcemanager.Registration = (*Registrations)(nil)
)

func TestRegistrations(t *testing.T) {
	store := memory.New()
	r := New(store)
	registered := func(subscription, namespace string, want bool) {
		t.Helper()
		// A second one on the same store: what was set is stored.
		if got, err := New(store).Registered(t.Context(), subscription, namespace); err != nil || got != want {
			t.Errorf("%s in %s: %v, %v", namespace, subscription, got, err)
		}
	}
	registered("s", "Microsoft.Network", true)
	for _, on := range []bool{false, false, true} {
		if err := r.Set(t.Context(), "s", "microsoft.network", on); err != nil {
			t.Fatal(err)
		}
		registered("s", "Microsoft.Network", on)
		registered("other", "Microsoft.Network", true)
		registered("s", "Microsoft.ContainerRegistry", true)
	}
}
