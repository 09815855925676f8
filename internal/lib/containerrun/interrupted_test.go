package containerrun_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/containerrun"
)

// A service that dies in the middle of a start leaves containerd in the middle of it. The next service
// starts the container all the same, and one that is to be removed goes, whatever the moment was.
func TestStartAfterOneThatWasCutOff(t *testing.T) {
	_, d, c := start(t)
	if err := c.Ensure(t.Context(), host("warm", "sleep 1000")); err != nil { // loads what the first start loads
		t.Fatal(err)
	}
	cut := func(id string, after time.Duration) {
		dying, err := containerrun.New(d.RunOptions())
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		_ = dying.Ensure(ctx, host(id, "sleep 1000"))
		if err := dying.Close(); err != nil {
			t.Error(err)
		}
	}
	// Several at once, as when a control plane starts: containerd is slow then, and is caught at every step.
	const moments, step = 40, 4 * time.Millisecond
	for first := 0; first < moments; first += 4 {
		var wg sync.WaitGroup
		for i := first; i < first+4; i++ {
			wg.Go(func() {
				id := fmt.Sprintf("cut-%d", i)
				cut(id, time.Duration(i+1)*step)
				if i%2 == 1 {
					if err := c.Remove(t.Context(), id, 0); err != nil {
						t.Errorf("removed %v after the start began: %v", time.Duration(i+1)*step, err)
					}
					return
				}
				begin := time.Now()
				if err := c.Ensure(t.Context(), host(id, "sleep 1000")); err != nil {
					t.Errorf("started again %v after the start began: %v", time.Duration(i+1)*step, err)
					return
				}
				if s, err := c.Status(t.Context(), id); err != nil || !s.Running {
					t.Errorf("%s: %+v, %v", id, s, err)
				}
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("%s took %v", id, took)
				}
				if err := c.Remove(t.Context(), id, 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
