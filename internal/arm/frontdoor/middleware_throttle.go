package frontdoor

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// Limit bounds requests of one kind by a bucket: Burst of them at once, and one more each Refill.
type Limit struct {
	Operation string // what the refusal calls them
	// Refusal is its message, a format of Operation, the subscription and the seconds to wait.
	Refusal string
	Method  string // GET, which HEAD is too; "" is any
	// Type is their resource type, or a namespace with everything in it.
	Type string
	List bool // they ask for a collection rather than for a resource
	Per  Scope
	// Burst and Refill are the bucket.
	Burst  int
	Refill time.Duration
}

// Scope is what has a bucket of its own.
type Scope int

// Scopes of limits. Each principal has buckets of its own in each: who may do nothing there uses up nobody's.
const (
	PerSubscription Scope = iota
	PerGroup
	PerResource
)

// maxBuckets bounds the memory that buckets take. Whoever asks for more different things than that shares one with all others.
const maxBuckets = 4096

// throttles are the buckets of a server.
type throttles struct {
	limits []Limit
	now    func() time.Time

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	swept   time.Time
}

// throttle refuses requests of which there were too many. The first limit that fits a request counts it.
func (s *server) throttle(next http.Handler) http.Handler {
	if s.Throttling == nil {
		return next
	}
	t := &throttles{limits: s.Limits, now: time.Now, buckets: map[string]*rate.Limiter{}}
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		on, err := s.Throttling()
		if err != nil {
			return fmt.Errorf("read whether requests are throttled: %w", err)
		}
		if on {
			if limit, wait := t.take(r.Method, callOf(r)); wait > 0 {
				seconds := int(math.Ceil(wait.Seconds()))
				w.Header().Set("Retry-After", strconv.Itoa(seconds))
				return armerror.New(armerror.Throttled, "%s", fmt.Sprintf(limit.Refusal, limit.Operation, subscriptionOf(callOf(r).segments), seconds))
			}
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// take takes the request from its bucket. It returns how long the bucket is empty, and takes nothing then.
func (t *throttles) take(method string, c *call) (Limit, time.Duration) {
	at, ok := locate(c.segments)
	if !ok {
		return Limit{}, 0
	}
	for i, limit := range t.limits {
		key, fits := limit.key(method, c, at)
		if !fits {
			continue
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		now := t.now()
		reservation := t.bucket(limit, strconv.Itoa(i)+" "+key, now).ReserveN(now, 1)
		wait := reservation.DelayFrom(now)
		if wait > 0 {
			reservation.CancelAt(now)
		}
		return limit, wait
	}
	return Limit{}, 0
}

// bucket is that of the key. What is full says nothing and may be forgotten.
func (t *throttles) bucket(limit Limit, key string, now time.Time) *rate.Limiter {
	if b, ok := t.buckets[key]; ok {
		return b
	}
	if len(t.buckets) >= maxBuckets && now.Sub(t.swept) > time.Second {
		t.swept = now
		for k, b := range t.buckets {
			if b.TokensAt(now) >= float64(b.Burst()) {
				delete(t.buckets, k)
			}
		}
	}
	if len(t.buckets) >= maxBuckets {
		key = limit.Operation
		if b, ok := t.buckets[key]; ok {
			return b
		}
	}
	b := rate.NewLimiter(rate.Every(limit.Refill), limit.Burst)
	t.buckets[key] = b
	return b
}

// key names the bucket that the request is taken from, if it is the limit's.
func (l Limit) key(method string, c *call, at target) (string, bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	whole := len(at.rest)%2 == 0
	named := at.typeName(len(at.rest))
	switch {
	case l.Method != "" && l.Method != method:
		return "", false
	case !strings.Contains(l.Type, "/"):
		if !strings.EqualFold(at.namespace, l.Type) {
			return "", false
		}
	case !strings.EqualFold(named, l.Type) || l.List == whole:
		return "", false
	case l.List && (l.Per == PerGroup) != (len(at.scope) == 4):
		return "", false
	}
	within := c.segments
	switch l.Per {
	case PerSubscription:
		within = within[:min(2, len(within))]
	case PerGroup:
		within = within[:min(4, len(within))]
	}
	return c.principal.ObjectID + " " + strings.ToLower(strings.Join(within, "/")), true
}

func subscriptionOf(segments []string) string {
	if len(segments) > 1 && strings.EqualFold(segments[0], "subscriptions") {
		return segments[1]
	}
	return ""
}
