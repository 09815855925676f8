package frontdoor

import (
	"mime"
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// contentType refuses bodies that are not JSON.
func (s *server) contentType(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get("Content-Type")
		kind, params, err := mime.ParseMediaType(sent)
		json := err == nil && (kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json")) &&
			(params["charset"] == "" || strings.EqualFold(params["charset"], "utf-8"))
		if r.ContentLength != 0 && !json && r.Body != http.NoBody {
			s.fail(w, r, armerror.New(armerror.UnsupportedMediaType, "The content media type '%s' is not supported. Only 'application/json' is supported.", sent))
			return
		}
		next.ServeHTTP(w, r)
	})
}
