package wire

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
)

// statuses remembers what requests were answered with.
type statuses struct {
	client *http.Client
	mu     sync.Mutex
	seen   []int
	waits  []string
}

func (s *statuses) Do(r *http.Request) (*http.Response, error) {
	res, err := s.client.Do(r)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen = append(s.seen, res.StatusCode)
		if res.StatusCode == http.StatusTooManyRequests {
			s.waits = append(s.waits, res.Header.Get("Retry-After"))
		}
	}
	return res, err
}

// AKS's limits, when they are switched on: an SDK program that asks too often is refused with 429 and the seconds to wait, and its own
// retries get it what it asked for.
func TestThrottling(t *testing.T) {
	on := false
	i := install(t, func(e *engines) { e.Throttled = func() (bool, error) { return on, nil } })
	answers := &statuses{client: i.server.Client()}
	client := func(retries int32) *armcontainerservice.ManagedClustersClient {
		o := i.options()
		o.Transport, o.Retry = answers, policy.RetryOptions{MaxRetries: retries, RetryDelay: time.Millisecond}
		c, err := armcontainerservice.NewManagedClustersClient(i.in.SubscriptionID, i.owner(), o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	get := func(c *armcontainerservice.ManagedClustersClient) *azcore.ResponseError {
		_, err := c.Get(t.Context(), "rg", "demo", nil)
		var e *azcore.ResponseError
		if !errors.As(err, &e) {
			t.Fatalf("a cluster that there is not: %v", err)
		}
		return e
	}
	for range 100 {
		if e := get(client(-1)); e.StatusCode != http.StatusNotFound {
			t.Fatalf("throttled by default: %v", e)
		}
	}
	on = true
	refused := 0
	for range 70 {
		e := get(client(-1))
		if e.StatusCode == http.StatusTooManyRequests {
			refused++
			if e.ErrorCode != "Throttled" || e.RawResponse.Header.Get("Retry-After") != "1" {
				t.Errorf("refused by %v", e)
			}
		}
	}
	if refused == 0 || refused > 10 { // 60 at once, and one more each second
		t.Errorf("%d of 70 requests were refused", refused)
	}
	answers.seen, answers.waits = nil, nil
	for len(answers.waits) == 0 { // until one is refused, and asks again by itself
		if e := get(client(3)); e.StatusCode != http.StatusNotFound {
			t.Fatalf("the SDK gave up: %v", e)
		}
		if len(answers.seen) > 100 {
			t.Fatal("nothing is refused any more")
		}
	}
	// Writes: twenty, and one more each minute, for each cluster.
	put := func(name string) int {
		return i.do(http.MethodPut, i.group()+"/providers/Microsoft.ContainerService/managedClusters/"+name, `{"location":"mars"}`).StatusCode
	}
	for n := range 20 {
		if code := put("a"); code != http.StatusBadRequest {
			t.Fatalf("write %d: %d", n, code)
		}
	}
	if a, b := put("a"), put("b"); a != http.StatusTooManyRequests || b != http.StatusBadRequest {
		t.Errorf("write 21 of one and 1 of another: %d and %d", a, b)
	}
}
