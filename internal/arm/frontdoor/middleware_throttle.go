package frontdoor

import (
	"math"
	"net/http"
	"strconv"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// throttle refuses requests when it is told to.
func (s *server) throttle(next http.Handler) http.Handler {
	if s.Throttle == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := s.Throttle.Allow(r, callOf(r).principal); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			s.fail(w, r, armerror.New(armerror.TooManyRequests, "The request was throttled. Please retry after %d seconds.", int(math.Ceil(wait.Seconds()))))
			return
		}
		next.ServeHTTP(w, r)
	})
}
