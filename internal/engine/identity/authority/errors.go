package authority

import (
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// failure is an error that knows its answer.
type failure interface {
	error
	answer(now time.Time, r *http.Request) (status int, document any)
}

// oauthError is an error in Entra's shape: RFC 6749 section 5.2 with AADSTS codes.
type oauthError struct {
	status      int
	name        string
	code        int
	description string
}

func oauth(status int, name string, code int, format string, args ...any) *oauthError {
	return &oauthError{status: status, name: name, code: code, description: fmt.Sprintf(format, args...)}
}

func serverError() *oauthError {
	return oauth(http.StatusInternalServerError, "server_error", 90033, "A transient error has occurred. Please try again.")
}

func (e *oauthError) Error() string { return fmt.Sprintf("AADSTS%d: %s", e.code, e.description) }

func (e *oauthError) answer(now time.Time, r *http.Request) (int, any) {
	trace, correlation := uuid.NewString(), r.Header.Get("client-request-id")
	if !guid.MatchString(correlation) {
		correlation = uuid.NewString()
	}
	stamp := now.UTC().Format("2006-01-02 15:04:05Z")
	return e.status, map[string]any{
		"error": e.name,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			e.code, e.description, trace, correlation, stamp),
		"error_codes":    []int{e.code},
		"timestamp":      stamp,
		"trace_id":       trace,
		"correlation_id": correlation,
		"error_uri":      fmt.Sprintf("%s/error?code=%d", base(r), e.code),
	}
}

// graphError is an error in the shape of Microsoft Graph.
type graphError struct {
	status        int
	code, message string
}

func (e *graphError) Error() string { return e.code + ": " + e.message }

func (e *graphError) answer(now time.Time, r *http.Request) (int, any) {
	id := uuid.NewString()
	return e.status, map[string]any{"error": map[string]any{
		"code": e.code, "message": e.message,
		"innerError": map[string]string{"date": now.UTC().Format("2006-01-02T15:04:05"), "request-id": id, "client-request-id": id},
	}}
}
