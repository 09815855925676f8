package frontdoor

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// ErrTokenExpired is wrapped by an Authenticator's error when the token was valid once.
var ErrTokenExpired = errors.New("the access token has expired")

// authenticate finds out who makes the request (RFC 6750).
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(code, message string) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization_uri=%q, error="invalid_token", error_description=%q`, s.AuthorityURL, message))
			s.fail(w, r, armerror.New(code, "%s", message))
		}
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		switch {
		case r.Header.Get("Authorization") == "":
			refuse(armerror.AuthenticationFailed, "Authentication failed. The 'Authorization' header is missing.")
			return
		case !ok || !strings.EqualFold(scheme, "Bearer"):
			refuse(armerror.AuthenticationFailed, "Authentication failed. The 'Authorization' header is provided in an invalid format.")
			return
		}
		p, err := s.Authenticator.Authenticate(r.Context(), strings.TrimSpace(token))
		if err != nil {
			c := callOf(r)
			s.Log.Info("a token was refused", "correlation", c.correlation, "error", err)
			if errors.Is(err, ErrTokenExpired) {
				refuse(armerror.ExpiredAuthenticationToken, "The access token expiry UTC time is earlier than the current UTC time.")
				return
			}
			refuse(armerror.InvalidAuthenticationToken, "The access token is invalid.")
			return
		}
		callOf(r).principal = p
		next.ServeHTTP(w, r)
	})
}
