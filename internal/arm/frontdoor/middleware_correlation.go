package frontdoor

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

// acceptable is what a client's own correlation ID may look like; it goes into the log and into headers.
var acceptable = regexp.MustCompile(`^[-\w.:]{1,64}$`)

// correlation gives the request its IDs and every answer the headers that ARM's answers have
// (ARM RPC, "Common API Request Details": x-ms-correlation-request-id is the client's where it sent one).
func (s *server) correlation(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{request: uuid.NewString(), correlation: r.Header.Get("x-ms-correlation-request-id")}
		if !acceptable.MatchString(c.correlation) {
			c.correlation = uuid.NewString()
		}
		h := w.Header()
		h.Set("x-ms-request-id", c.request)
		h.Set("x-ms-correlation-request-id", c.correlation)
		h.Set("x-ms-routing-request-id", strings.ToUpper(s.Region)+":"+time.Now().UTC().Format("20060102T150405Z")+":"+c.request)
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("Pragma", "no-cache")
		h.Set("Expires", "-1")
		if id := r.Header.Get("x-ms-client-request-id"); acceptable.MatchString(id) && strings.EqualFold(r.Header.Get("x-ms-return-client-request-id"), "true") {
			h.Set("x-ms-client-request-id", id)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}
