// Package armerror is the one table of the errors that Cloister answers with: code, HTTP status and
// the body that ARM clients read (ARM RPC "Error response content", OData v4 error).
package armerror

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Error is an error as ARM tells it. It is what handlers and reconcilers return for anything a user
// can mend; any other error becomes InternalServerError without its details.
type Error struct {
	Status         int              `json:"-"` // HTTP status; 0 stands for the code's usual one
	Code           string           `json:"code"`
	Message        string           `json:"message"`
	Target         string           `json:"target,omitempty"`
	Details        []*Error         `json:"details,omitempty"`
	AdditionalInfo []AdditionalInfo `json:"additionalInfo,omitempty"`
}

// AdditionalInfo carries a typed explanation beside the message.
type AdditionalInfo struct {
	Type string          `json:"type"`
	Info json.RawMessage `json:"info"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// HTTPStatus is the status to answer with.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// New is an error of the code with a formatted message.
func New(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithStatus returns the error with another HTTP status than its code's usual one.
func (e *Error) WithStatus(status int) *Error { c := *e; c.Status = status; return &c }

// WithTarget returns the error pointing at a property, as a path such as properties.addressSpace.
func (e *Error) WithTarget(target string) *Error { c := *e; c.Target = target; return &c }

// As finds the Error in an error chain.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Body is the response body, {"error": …}.
type Body struct {
	Error *Error `json:"error"`
}

// Codes that the protocol itself answers with. A resource type's own codes stand in its directory.
const (
	InvalidRequestContent        = "InvalidRequestContent"
	InvalidResourceName          = "InvalidResourceName"
	InvalidResourceType          = "InvalidResourceType"
	InvalidResourceNamespace     = "InvalidResourceNamespace"
	InvalidResourceReference     = "InvalidResourceReference"
	InvalidAPIVersion            = "InvalidApiVersionParameter"
	MissingAPIVersion            = "MissingApiVersionParameter"
	InvalidAuthenticationToken   = "InvalidAuthenticationToken"
	ExpiredAuthenticationToken   = "ExpiredAuthenticationToken"
	AuthenticationFailed         = "AuthenticationFailed"
	AuthorizationFailed          = "AuthorizationFailed"
	LinkedAuthorizationFailed    = "LinkedAuthorizationFailed"
	SubscriptionNotFound         = "SubscriptionNotFound"
	ResourceGroupNotFound        = "ResourceGroupNotFound"
	ResourceNotFound             = "ResourceNotFound"
	ParentResourceNotFound       = "ParentResourceNotFound"
	NotFound                     = "NotFound"
	MethodNotAllowed             = "MethodNotAllowed"
	PreconditionFailed           = "PreconditionFailed"
	AnotherOperationInProgress   = "AnotherOperationInProgress"
	OperationNotAllowed          = "OperationNotAllowed"
	ResourceGroupBeingDeleted    = "ResourceGroupBeingDeleted"
	LocationRequired             = "LocationRequired"
	LocationNotAvailable         = "LocationNotAvailableForResourceType"
	InvalidResourceLocation      = "InvalidResourceLocation"
	MissingRegistration          = "MissingSubscriptionRegistration"
	RequestTooLarge              = "RequestEntityTooLarge"
	UnsupportedMediaType         = "UnsupportedMediaType"
	Throttled                    = "Throttled"
	InternalServerError          = "InternalServerError"
	NotSupported                 = "NotSupported"
	InvalidParameter             = "InvalidParameter"
	PropertyChangeNotAllowed     = "PropertyChangeNotAllowed"
	ReferencedResourceNotFound   = "ReferencedResourceNotFound"
	ResourceGroupInvalidLocation = "InvalidResourceGroupLocation"
)

var statuses = map[string]int{
	InvalidAuthenticationToken:   http.StatusUnauthorized,
	ExpiredAuthenticationToken:   http.StatusUnauthorized,
	AuthenticationFailed:         http.StatusUnauthorized,
	AuthorizationFailed:          http.StatusForbidden,
	LinkedAuthorizationFailed:    http.StatusForbidden,
	SubscriptionNotFound:         http.StatusNotFound,
	ResourceGroupNotFound:        http.StatusNotFound,
	ResourceNotFound:             http.StatusNotFound,
	ParentResourceNotFound:       http.StatusNotFound,
	NotFound:                     http.StatusNotFound,
	InvalidResourceNamespace:     http.StatusNotFound,
	InvalidResourceType:          http.StatusNotFound,
	MethodNotAllowed:             http.StatusMethodNotAllowed,
	PreconditionFailed:           http.StatusPreconditionFailed,
	AnotherOperationInProgress:   http.StatusConflict,
	OperationNotAllowed:          http.StatusConflict,
	ResourceGroupBeingDeleted:    http.StatusConflict,
	InvalidResourceLocation:      http.StatusConflict,
	ResourceGroupInvalidLocation: http.StatusConflict,
	MissingRegistration:          http.StatusConflict,
	RequestTooLarge:              http.StatusRequestEntityTooLarge,
	UnsupportedMediaType:         http.StatusUnsupportedMediaType,
	Throttled:                    http.StatusTooManyRequests,
	InternalServerError:          http.StatusInternalServerError,
}
