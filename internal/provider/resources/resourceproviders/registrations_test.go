package resourceproviders

import (
	"testing"
	"time"

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
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	// One on the same store each time: what was set is stored.
	r := func() *Registrations { return &Registrations{store, func() time.Time { return now }} }
	want := func(subscription, namespace, state string, usable bool) {
		t.Helper()
		s, err1 := r().State(t.Context(), subscription, namespace)
		u, err2 := r().Registered(t.Context(), subscription, namespace)
		if err1 != nil || err2 != nil || s != state || u != usable {
			t.Errorf("%s in %s: %s, usable %v (%v, %v), want %s, %v", namespace, subscription, s, u, err1, err2, state, usable)
		}
	}
	set := func(registered bool) {
		t.Helper()
		if err := r().Set(t.Context(), "s", "microsoft.network", registered); err != nil {
			t.Fatal(err)
		}
	}
	want("s", "Microsoft.Network", Registered, true)
	set(true) // a refresh shows, and takes nothing away
	want("s", "Microsoft.Network", Registering, true)
	now = now.Add(settle)
	want("s", "Microsoft.Network", Registered, true)
	set(false)
	want("s", "Microsoft.Network", Unregistering, false)
	now = now.Add(settle)
	want("s", "Microsoft.Network", Unregistered, false)
	set(true)
	want("s", "Microsoft.Network", Registering, false)
	now = now.Add(settle / 2)
	set(true) // asked for again meanwhile, it takes no longer
	now = now.Add(settle / 2)
	want("s", "Microsoft.Network", Registered, true)
	want("other", "Microsoft.Network", Registered, true)
	want("s", "Microsoft.ContainerRegistry", Registered, true)
}
