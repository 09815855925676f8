package frontdoor

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// public splits the path and answers what needs no token: the description of this cloud.
func (s *server) public(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r)
		// Doubled slashes are common: clients join an endpoint that ends in one with a path that begins with one.
		for p := range strings.SplitSeq(r.URL.EscapedPath(), "/") {
			if p == "" {
				continue
			}
			segment, err := url.PathUnescape(p)
			if err != nil || strings.ContainsAny(segment, "/\\") {
				s.fail(w, r, armerror.New(armerror.InvalidResourceName, "The path segment '%s' is invalid.", p))
				return
			}
			c.segments = append(c.segments, segment)
		}
		if len(c.segments) == 2 && strings.EqualFold(c.segments[0], "metadata") && strings.EqualFold(c.segments[1], "endpoints") {
			s.metadata(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
