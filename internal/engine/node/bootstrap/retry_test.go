package bootstrap

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestRetry has what is missing come at a time, and holds that a node with Azure's waits still takes it after minutes,
// and one with the shorter ones says within ten seconds that it does not come.
func TestRetry(t *testing.T) {
	pull := policy{tries: 119, sleep: 5 * time.Second, timeout: time.Minute}    // an artifact
	probe := policy{tries: 10, timeout: time.Minute}                            // the registry, whose tries follow at once
	lookup := policy{tries: 600, sleep: time.Second, timeout: 10 * time.Second} // the API server's name
	for _, tc := range []struct {
		name  string
		p     policy
		scale float64
		comes time.Duration // after which a try succeeds; 0: never
		fails bool
		most  time.Duration
	}{
		{"artifact, Azure's waits, late", pull, 1, 9 * time.Minute, false, 10 * time.Minute},
		{"artifact, Azure's waits, never", pull, 1, 0, true, 10 * time.Minute},
		{"name, Azure's waits, late", lookup, 1, 9 * time.Minute, false, 10 * time.Minute},
		{"artifact, late", pull, 0, 7 * time.Second, false, 8 * time.Second},
		{"artifact, never", pull, 0, 0, true, 10 * time.Second},
		{"registry, late", probe, 0, 7 * time.Second, false, 8 * time.Second},
		{"registry, never", probe, 0, 0, true, 10 * time.Second},
		{"name, late", lookup, 0, 7 * time.Second, false, 8 * time.Second},
		{"name, never", lookup, 0, 0, true, 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &runner{config: Config{RetryScale: tc.scale}, log: io.Discard}
				start := time.Now()
				err := r.retry(t.Context(), tc.p, "try", func(context.Context) error {
					if tc.comes == 0 || time.Since(start) < tc.comes {
						return errors.New("not there")
					}
					return nil
				})
				took := time.Since(start)
				if (err != nil) != tc.fails || took > tc.most {
					t.Errorf("%v after %s", err, took)
				}
				if tc.scale == 1 && tc.fails && took < 9*time.Minute {
					t.Errorf("gave up after %s", took)
				}
			})
		})
	}
}
