package frontdoor

import (
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
)

// apiVersion finds the api-version, whose name clients write in any case, and holds it to its form.
func (s *server) apiVersion(next http.Handler) http.Handler {
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		c := callOf(r)
		for name, values := range r.URL.Query() {
			if strings.EqualFold(name, "api-version") && len(values) > 0 {
				c.apiVersion = values[0]
			}
		}
		if len(c.segments) > 0 && strings.EqualFold(c.segments[0], "cloister") {
			next.ServeHTTP(w, r) // ours, not ARM's
			return nil
		}
		if err := resourcemanager.CheckAPIVersion(c.apiVersion); err != nil {
			return err
		}
		next.ServeHTTP(w, r)
		return nil
	})
}
