package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// policy is how AgentBaker's shell repeats a command: tries × (timeout per try, then sleep).
type policy struct {
	tries   int
	sleep   time.Duration
	timeout time.Duration
}

const (
	// defaultScale turns AKS's ten-minute waits into about eight seconds.
	defaultScale = 1.0 / 75
	// minBudget lets every wait survive what is only slow; maxBudget keeps the first failing step, whichever
	// it is, within ten seconds. They hold for the default scale only.
	minBudget = 5 * time.Second
	maxBudget = 8 * time.Second
	// scaledTimeout bounds one unanswered connection attempt. A SYN is sent again after a second.
	scaledTimeout = 2 * time.Second
	// startBudget is for a server that was reached and does not answer yet. AKS makes the control plane first and
	// then the nodes; here they start together, and a slow or busy machine may take minutes over an API server. That
	// is nothing the node's network could be blamed for. It holds for the default scale only.
	startBudget = 5 * time.Minute
)

// starting is the failure of a try whose packets came through to a server that does not answer yet.
type starting struct{ err error }

func (s *starting) Error() string { return s.err.Error() }
func (s *starting) Unwrap() error { return s.err }

// permanent ends a retry loop at once.
type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// retry runs fn until it succeeds, returns a permanent error, or the policy is used up. At scale 1 that
// is AKS's number of tries; otherwise it is a span of time, in which a change that mends the cause is noticed
// within a fraction of a second.
func (r *runner) retry(ctx context.Context, p policy, what string, fn func(context.Context) error) error {
	scale := r.config.RetryScale
	if scale == 0 {
		scale = defaultScale
	}
	azure := scale >= 1
	sleep, budget := p.sleep, time.Duration(0)
	if !azure {
		per := p.sleep
		if per == 0 {
			per = p.timeout
		}
		budget = time.Duration(float64(p.tries) * float64(per) * scale)
		if r.config.RetryScale == 0 {
			budget = min(max(budget, minBudget), maxBudget)
		}
		sleep = min(max(time.Duration(float64(per)*scale), 100*time.Millisecond), 500*time.Millisecond)
	}
	start, said := time.Now(), ""
	for try := 1; ; try++ {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if p, ok := errors.AsType[*permanent](err); ok {
			return p.err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		// Said once: the log's end is what the user is shown.
		if err.Error() != said {
			said = err.Error()
			r.logf("%s: try %d failed: %v", what, try, err)
		}
		limit := budget
		if _, ok := errors.AsType[*starting](err); ok && r.config.RetryScale == 0 {
			limit = startBudget
		}
		if azure && try >= p.tries || !azure && time.Since(start)+sleep >= limit {
			return fmt.Errorf("%s: gave up after %d tries in %s: %w", what, try, time.Since(start).Round(time.Millisecond), err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(sleep):
		}
	}
}

// connectTimeout bounds one attempt to connect under p.
func (r *runner) connectTimeout(p policy) time.Duration {
	if r.config.RetryScale >= 1 {
		return p.timeout
	}
	return scaledTimeout
}

// scaled is a wait that AKS does not have. It is never longer than it is by default.
func (r *runner) scaled(d time.Duration) time.Duration {
	if r.config.RetryScale > 0 {
		return time.Duration(float64(d) * min(r.config.RetryScale, 1))
	}
	return d
}
