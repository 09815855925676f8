package frontdoor

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// maxBody is ARM's limit on a request.
const maxBody = 4 << 20

// body reads the request's body, up to a limit.
func (s *server) body(next http.Handler) http.Handler {
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return armerror.New(armerror.RequestTooLarge, "The request content size exceeds the maximum size of '%d MB'.", maxBody>>20)
		}
		if err != nil {
			return fmt.Errorf("read the request's body: %w", err)
		}
		callOf(r).body = b
		next.ServeHTTP(w, r)
		return nil
	})
}
