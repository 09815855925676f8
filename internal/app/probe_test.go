package app

import (
	"context"
	"errors"
	"testing"
)

// A diagnosis that asks more than there are slots waits for one, and for no longer than its context.
func TestProbeSlots(t *testing.T) {
	p := newProbe(nil)
	var leave func()
	for range probesAtOnce {
		var err error
		if leave, err = p.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := p.enter(ended); !errors.Is(err, context.Canceled) {
		t.Fatalf("one more than the slots: %v, want that it waits until its context ends", err)
	}
	leave()
	if _, err := p.enter(t.Context()); err != nil {
		t.Errorf("a slot that was left: %v", err)
	}
}
