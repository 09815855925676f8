package frontdoor

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// panics makes a panic the failure of one request. http.ErrAbortHandler is how a handler hangs up, and passes.
func (s *server) panics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				s.fail(w, r, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		next.ServeHTTP(w, r)
	})
}
