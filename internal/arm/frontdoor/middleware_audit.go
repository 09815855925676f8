package frontdoor

import (
	"net/http"
	"time"
)

// recorder remembers the status that was written.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// audit logs who did what. Reads are logged at debug level: az polls.
func (s *server) audit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		c := callOf(r)
		log := s.Log.Info
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			log = s.Log.Debug
		}
		log("request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "duration", time.Since(start),
			"principal", c.principal.ObjectID, "app", c.principal.AppID, "command", r.Header.Get("CommandName"),
			"correlation", c.correlation, "request", c.request)
	})
}
