package frontdoor

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

const (
	group  = sub + "/resourceGroups/rg"
	things = group + "/providers/Microsoft.Test/things"
)

var limits = []Limit{
	{Operation: "Put", Method: "PUT", Type: "Microsoft.Test/things", Per: PerResource, Burst: 2, Refill: time.Minute},
	{Operation: "Get", Method: "GET", Type: "microsoft.test/THINGS", Per: PerResource, Burst: 3, Refill: time.Hour},
	{Operation: "ListGroup", Method: "GET", Type: "Microsoft.Test/things", List: true, Per: PerGroup, Burst: 1, Refill: time.Hour},
	{Operation: "ListAll", Method: "GET", Type: "Microsoft.Test/things", List: true, Per: PerSubscription, Burst: 2, Refill: time.Hour},
	{Operation: "Other", Type: "Microsoft.Test", Per: PerSubscription, Burst: 4, Refill: time.Hour},
}

// Each kind of request has its own bucket, and nothing but the requests that a limit is for is counted.
func TestThrottle(t *testing.T) {
	on, broken := true, error(nil)
	c, _ := serve(t, func(o *Options) {
		o.Throttling = func() (bool, error) { return on, broken }
		for _, l := range limits {
			l.Refusal = "%s of %s, %d seconds"
			o.Limits = append(o.Limits, l)
		}
	})
	const thing = `{"location":"eastus"}`
	// accepted tells how many of ten requests are not refused.
	accepted := func(method, path, body string) (n int, refused answer) {
		for range 10 {
			if a := c.do(method, path, body); a.status != http.StatusTooManyRequests {
				n++
			} else {
				refused = a
			}
		}
		return n, refused
	}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"PUT", things + "/a", thing, 2},
		{"PUT", things + "/b", thing, 2},
		{"PUT", strings.ToUpper(things) + "//A", thing, 0}, // the same thing
		{"GET", things + "/a", "", 3},
		{"HEAD", things + "/a", "", 0},
		{"GET", things, "", 1},
		{"GET", group + "x/providers/Microsoft.Test/things", "", 1},
		{"GET", sub + "/providers/Microsoft.Test/things", "", 2},
		{"DELETE", things + "/b", "", 4},
		{"GET", things + "/a/parts/p", "", 0}, // another of the namespace
		{"GET", group, "", 10},
		{"GET", "/subscriptions", "", 10},
		{"PUT", group + "/providers/Microsoft.Test/things/a/providers/Microsoft.Other/locks/l", thing, 10},
	} {
		if n, _ := accepted(tt.method, tt.path, tt.body); n != tt.want {
			t.Errorf("%s %s: %d of 10 were accepted, want %d", tt.method, tt.path, n, tt.want)
		}
	}
	_, refused := accepted("PUT", things+"/a", thing)
	if refused.code() != "Throttled" || refused.header.Get("Retry-After") != "60" || !strings.Contains(refused.text, "Put of "+strings.TrimPrefix(sub, "/subscriptions/")+", 60 seconds") {
		t.Errorf("refused by %v %s", refused.header, refused.text)
	}
	c.token = "nobody"
	if n, a := accepted("GET", things+"/c", ""); n != 10 || a.status != 0 {
		t.Errorf("who is nobody is throttled rather than refused: %s", a.text)
	}
	c.token = "good"
	if n, _ := accepted("GET", things+"/c", ""); n != 3 {
		t.Errorf("who is nobody has used up %d requests", 3-n)
	}
	on = false
	if n, _ := accepted("PUT", things+"/a", thing); n != 10 {
		t.Errorf("switched off, %d of 10 were accepted", n)
	}
	broken = errors.New("a secret")
	if a := c.do("GET", things+"/a", ""); a.status != http.StatusInternalServerError || strings.Contains(a.text, "secret") {
		t.Errorf("with settings that cannot be read: %d %s", a.status, a.text)
	}
}

// A bucket fills again, and no number of them takes more than so much memory.
func TestBuckets(t *testing.T) {
	now := time.Unix(0, 0)
	s := &throttles{limits: limits, now: func() time.Time { return now }, buckets: map[string]*rate.Limiter{}}
	take := func(name string) time.Duration {
		p := strings.Split(strings.TrimPrefix(things+"/"+name, "/"), "/")
		_, wait := s.take("PUT", &call{segments: p})
		return wait
	}
	take("a")
	take("a")
	for range 5 { // to be refused costs nothing
		if wait := take("a"); wait != time.Minute {
			t.Fatalf("an empty bucket has the next client wait %s", wait)
		}
	}
	now = now.Add(40 * time.Second)
	if wait := take("a"); wait != 20*time.Second {
		t.Errorf("after 40 s the next client waits %s", wait)
	}
	now = now.Add(20 * time.Second)
	if wait := take("a"); wait != 0 {
		t.Errorf("after a minute the next client waits %s", wait)
	}
	for i := range 3 * maxBuckets {
		take(fmt.Sprint("x", i))
	}
	if len(s.buckets) > maxBuckets+len(limits) {
		t.Errorf("%d buckets", len(s.buckets))
	}
	if take("a") == 0 {
		t.Error("many others have filled a bucket that is in use")
	}
	now = now.Add(time.Hour)
	take("y")
	if len(s.buckets) != 1 {
		t.Errorf("%d buckets are kept that are full", len(s.buckets)-1)
	}
}
