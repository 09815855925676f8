package azcli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// Connection is how commands reach Azure Resource Manager.
type Connection struct {
	HTTP     *http.Client
	Endpoint string // such as http://cloister
	Graph    string // Microsoft Graph, such as http://graph.microsoft.com
	// Token is a bearer token for a resource: armResource or graphResource.
	Token        func(ctx context.Context, resource string) (string, error)
	Subscription string
	TenantID     string
	// Progress is told what is being waited for; it returns what notes the step under way, and what ends the notice.
	Progress func(what string) (note func(string), end func(error))

	trace   func(format string, args ...any) // of --debug
	warn    func(format string, args ...any)
	command string   // "aks update", and
	typed   []string // its arguments' names as they were typed, which az says with each request
}

// Resources that tokens are for.
const (
	armResource   = "https://management.azure.com/"
	graphResource = "https://graph.microsoft.com/"
)

// Error is ARM's answer to a request that failed.
type Error struct {
	Status  int
	Code    string
	Message string
	Body    json.RawMessage
}

func (e *Error) Error() string { return "(" + e.Code + ") " + e.Message }

// told is the error as az's libraries tell it: what it says, and again part by part.
func (e *Error) told() string {
	var fault struct{ Error odataError }
	if json.Unmarshal(e.Body, &fault) != nil || fault.Error.Code == "" {
		fault.Error = odataError{Code: e.Code, Message: e.Message}
	}
	return fault.Error.String()
}

// odataError is an error of OData version 4.
type odataError struct {
	Code, Message, Target string
	Details               []odataError
}

func (e odataError) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "(%s) %s\nCode: %s\nMessage: %s", e.Code, e.Message, e.Code, e.Message)
	if e.Target != "" {
		b.WriteString("\nTarget: " + e.Target)
	}
	if len(e.Details) > 0 {
		b.WriteString("\nException Details:")
		for _, d := range e.Details {
			b.WriteString("\t" + strings.ReplaceAll(d.String(), "\n", "\n\t"))
		}
	}
	return b.String()
}

// IsNotFound reports an answer of 404.
func IsNotFound(err error) bool {
	var e *Error
	return asError(err, &e) && e.Status == http.StatusNotFound
}

func asError(err error, e **Error) bool { return errors.As(err, e) }

// group is the resource group's ID.
func (c *Connection) group(name string) resourceid.ID { return resourceid.Group(c.Subscription, name) }

// location is the name of a location given by name or display name.
func (c *Connection) location(ctx context.Context, given string) (string, error) {
	if !strings.ContainsAny(given, " ") {
		return given, nil
	}
	all, err := c.list(ctx, "/subscriptions/"+c.Subscription+"/locations", subscriptionsAPI)
	if err != nil {
		return "", err
	}
	for _, l := range all {
		doc, _ := l.(map[string]any)
		name, _ := doc["name"].(string)
		if display, _ := doc["displayName"].(string); strings.EqualFold(display, given) {
			return name, nil
		}
	}
	return given, nil // the service says what is wrong with it
}

// subscription is the ID of a subscription given by ID or name.
func (c *Connection) subscription(ctx context.Context, given string) (string, error) {
	if _, err := uuid.Parse(given); err == nil {
		return given, nil
	}
	all, err := c.list(ctx, "/subscriptions", subscriptionsAPI)
	if err != nil {
		return "", err
	}
	for _, s := range all {
		doc, _ := s.(map[string]any)
		id, _ := doc["subscriptionId"].(string)
		if name, _ := doc["displayName"].(string); strings.EqualFold(name, given) {
			return id, nil
		}
	}
	return "", fmt.Errorf("The subscription of '%s' doesn't exist in cloud 'AzureCloud'.", given)
}

// send makes one request and returns the answer's header and body.
func (c *Connection) send(ctx context.Context, method, path, apiVersion string, body any) (http.Header, []byte, error) {
	_, header, data, err := c.exchange(ctx, method, path, apiVersion, body)
	return header, data, err
}

// exchange is send with the answer's status. Who is asked to wait waits, as az's libraries do.
func (c *Connection) exchange(ctx context.Context, method, path, apiVersion string, body any) (int, http.Header, []byte, error) {
	for try := 1; ; try++ {
		status, header, data, err := c.once(ctx, method, path, apiVersion, body)
		wait, asked := retryAfter(header)
		if status != http.StatusTooManyRequests || !asked || try == tries {
			return status, header, data, err
		}
		if c.warn != nil {
			c.warn("%v\nThe request is sent again in %.0f seconds.", err, wait.Seconds())
		}
		if err := sleep(ctx, wait); err != nil {
			return 0, nil, nil, err
		}
	}
}

// tries is how often a request is sent that is refused for their number. It is az's number.
const tries = 11

func retryAfter(h http.Header) (time.Duration, bool) {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	return time.Duration(seconds) * time.Second, err == nil && seconds >= 0
}

// once makes one request.
func (c *Connection) once(ctx context.Context, method, path, apiVersion string, body any) (int, http.Header, []byte, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, nil, err
		}
		reader = bytes.NewReader(data)
	}
	u := path
	if !strings.Contains(path, "://") {
		u = c.Endpoint + path
	}
	parsed, err := url.Parse(u)
	if err != nil {
		return 0, nil, nil, err
	}
	if apiVersion != "" {
		q := parsed.Query()
		q.Set("api-version", apiVersion)
		parsed.RawQuery = q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, parsed.String(), reader)
	if err != nil {
		return 0, nil, nil, err
	}
	resource := armResource
	if c.Graph != "" && strings.HasPrefix(u, c.Graph+"/v1.0/") {
		resource = graphResource
	}
	token, err := c.Token(ctx, resource)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.command != "" {
		req.Header.Set("CommandName", c.command)
		req.Header.Set("ParameterSetName", strings.Join(c.typed, " "))
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return 0, nil, nil, err
	}
	if c.trace != nil {
		c.trace("%s %s: %s, correlation %s", method, parsed.RequestURI(), resp.Status, resp.Header.Get("x-ms-correlation-request-id"))
	}
	if resp.StatusCode >= 400 {
		return resp.StatusCode, resp.Header, data, armError(resp.StatusCode, data)
	}
	return resp.StatusCode, resp.Header, data, nil
}

func armError(status int, data []byte) error {
	var fault struct {
		Error struct{ Code, Message string }
		Code  string
		Msg   string `json:"message"`
	}
	e := &Error{Status: status, Code: http.StatusText(status), Message: strings.TrimSpace(string(data)), Body: data}
	if json.Unmarshal(data, &fault) == nil {
		if fault.Error.Code != "" {
			e.Code, e.Message = fault.Error.Code, fault.Error.Message
		} else if fault.Code != "" {
			e.Code, e.Message = fault.Code, fault.Msg
		}
	}
	return e
}

// get reads one resource.
func (c *Connection) get(ctx context.Context, id resourceid.ID, apiVersion string) (map[string]any, error) {
	return c.getPath(ctx, id.String(), apiVersion)
}

func (c *Connection) getPath(ctx context.Context, path, apiVersion string) (map[string]any, error) {
	_, data, err := c.send(ctx, http.MethodGet, path, apiVersion, nil)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	return doc, json.Unmarshal(data, &doc)
}

// list reads a collection, all pages of it.
func (c *Connection) list(ctx context.Context, path, apiVersion string) ([]any, error) {
	out := []any{}
	for path != "" {
		_, data, err := c.send(ctx, http.MethodGet, path, apiVersion, nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Value    []any  `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Value...)
		path, apiVersion = page.NextLink, ""
		path = pathOf(path)
	}
	return out, nil
}

// pathOf is the path and query of a link that the service gave: it is followed over the connection there is.
func pathOf(link string) string {
	u, err := url.Parse(link)
	if err != nil || link == "" {
		return link
	}
	return u.RequestURI()
}

// interrupted is a wait that was given up while the operation goes on.
type interrupted struct {
	id    resourceid.ID
	cause error
}

func (e *interrupted) Error() string {
	what := "The operation goes on in the service."
	if !errors.Is(e.cause, context.Canceled) {
		what = "The service does not answer any more (" + e.cause.Error() + "). It goes on with the operation when it runs again: `cloister up`."
	}
	look := "`cloister az resource show --ids " + e.id.String() + "`"
	if e.id.Is(clusterType) {
		name := e.id.ResourceGroup() + "/" + e.id.Name()
		look = "`cloister timeline " + name + "` or `cloister az aks show -g " + e.id.ResourceGroup() + " -n " + e.id.Name() + "`"
	} else if e.id.Is("Microsoft.Resources/resourceGroups") {
		look = "`cloister az group show -n " + e.id.Name() + "`"
	}
	return what + " Look at it with " + look + "."
}

func (e *interrupted) Unwrap() error { return e.cause }

// long makes a request and, unless told not to, follows its operation to the end; it returns the document
// that a PUT or PATCH leaves.
func (c *Connection) long(ctx context.Context, method string, id resourceid.ID, path, apiVersion string, body any, noWait bool) (any, error) {
	code, header, data, err := c.exchange(ctx, method, path, apiVersion, body)
	if err != nil {
		return nil, err
	}
	operation, location := header.Get("Azure-AsyncOperation"), header.Get("Location")
	switch {
	case noWait && (operation != "" || code == http.StatusAccepted):
		return nil, nil
	case operation == "" && code == http.StatusAccepted && location != "":
		return c.awaitLocation(ctx, pathOf(location))
	case operation == "":
		return decode(data)
	}
	note, end := func(string) {}, func(error) {}
	if c.Progress != nil {
		note, end = c.Progress(verb(method) + " " + id.Type() + " " + id.Name())
	}
	report, err := c.await(ctx, operation, note)
	var refused *Error
	if err != nil && !errors.As(err, &refused) {
		err = &interrupted{id, err}
	}
	end(err)
	c.tell(report)
	if err != nil || method != http.MethodPut && method != http.MethodPatch {
		return nil, err
	}
	return c.getPath(ctx, path, apiVersion)
}

func verb(method string) string {
	switch method {
	case http.MethodDelete:
		return "Deleting"
	case http.MethodPost:
		return "Running an action on"
	}
	return "Creating or updating"
}

const (
	// waitSeconds is how long one status request may hang until the operation ends: an extension of
	// Cloister's, which other servers ignore.
	waitSeconds = 30
	// patience is how long a service may be away while an operation is waited for: it can be restarted
	// at any time and then goes on where it was.
	patience = 20 * time.Second
	pause    = time.Second
)

// awaitLocation follows a Location until it no longer answers 202, and returns its last answer.
func (c *Connection) awaitLocation(ctx context.Context, path string) (any, error) {
	for {
		code, _, data, err := c.exchange(ctx, http.MethodGet, path, "", nil)
		if err != nil {
			return nil, err
		}
		if code != http.StatusAccepted {
			return decode(data)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// await follows an operation's status until it ends, telling each step that it takes. It returns what a write reports.
func (c *Connection) await(ctx context.Context, operation string, note func(string)) (report adminapi.WriteReport, err error) {
	u, err := url.Parse(operation)
	if err != nil {
		return report, err
	}
	seen, answered := 0, time.Now()
	for {
		q := u.Query()
		q.Set("$wait", strconv.Itoa(waitSeconds))
		q.Set("$seen", strconv.Itoa(seen))
		u.RawQuery = q.Encode()
		asked := time.Now()
		_, data, err := c.send(ctx, http.MethodGet, u.RequestURI(), "", nil)
		var refused *Error
		switch {
		case ctx.Err() != nil:
			return report, ctx.Err()
		case err != nil && (!errors.As(err, &refused) || refused.Status == http.StatusServiceUnavailable) && time.Since(answered) < patience:
			if err := sleep(ctx, pause); err != nil {
				return report, err
			}
			continue
		case err != nil:
			return report, err
		}
		answered = time.Now()
		var status struct {
			Status     string
			Error      struct{ Code, Message string }
			Steps      []struct{ Name string }
			Properties json.RawMessage
		}
		if err := json.Unmarshal(data, &status); err != nil {
			return report, err
		}
		switch status.Status {
		case "Succeeded":
			// What other operations have for properties is for whoever knows them.
			if json.Unmarshal(status.Properties, &report) != nil {
				report = adminapi.WriteReport{}
			}
			return report, nil
		case "Failed", "Canceled":
			return report, &Error{Code: status.Error.Code, Message: status.Error.Message, Body: data}
		}
		if steps := status.Steps; len(steps) > seen {
			seen = len(steps)
			note(steps[seen-1].Name)
		} else if time.Since(asked) < pause { // the server does not hold the answer back
			if err := sleep(ctx, pause); err != nil {
				return report, err
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func decode(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	var v any
	return v, json.Unmarshal(data, &v)
}
