// Package azcli is the Azure CLI's commands for a machine without the Azure CLI: `cloister az …`. Names,
// arguments, defaults and output are az's; every command is a client of the public API and nothing more.
//
// Written after the command reference, https://learn.microsoft.com/cli/azure/reference-index, and what
// az 2.74 sends. An argument or command that is not here is refused with an error that says so.
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
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// Connection is how commands reach Azure Resource Manager.
type Connection struct {
	HTTP         *http.Client
	Endpoint     string // such as http://cloister
	Token        func(ctx context.Context) (string, error)
	Subscription string
	TenantID     string
	// Progress is told what is being waited for; it returns what notes the step under way, and what ends the notice.
	Progress func(what string) (note func(string), end func(error))
}

// Error is ARM's answer to a request that failed.
type Error struct {
	Status  int
	Code    string
	Message string
	Body    json.RawMessage
}

func (e *Error) Error() string { return "(" + e.Code + ") " + e.Message }

// IsNotFound reports an answer of 404.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// group is the resource group's ID.
func (c *Connection) group(name string) resourceid.ID { return resourceid.Group(c.Subscription, name) }

// send makes one request and returns the response with its body read.
func (c *Connection) send(ctx context.Context, method, path, apiVersion string, body any) (*http.Response, []byte, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, nil, err
		}
		reader = bytes.NewReader(data)
	}
	u := path
	if !strings.Contains(path, "://") {
		u = c.Endpoint + path
	}
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, nil, err
	}
	if apiVersion != "" {
		q := parsed.Query()
		q.Set("api-version", apiVersion)
		parsed.RawQuery = q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, parsed.String(), reader)
	if err != nil {
		return nil, nil, err
	}
	token, err := c.Token(ctx)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 400 {
		return resp, data, armError(resp.StatusCode, data)
	}
	return resp, data, nil
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
	_, data, err := c.send(ctx, http.MethodGet, id.String(), apiVersion, nil)
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
		if u, err := url.Parse(path); err == nil && path != "" {
			path = u.RequestURI()
		}
	}
	return out, nil
}

// put creates or updates a resource and, unless told not to, waits for it; it returns the document at the end.
func (c *Connection) put(ctx context.Context, id resourceid.ID, apiVersion string, body any, noWait bool) (any, error) {
	return c.long(ctx, http.MethodPut, id, id.String(), apiVersion, body, noWait)
}

// remove deletes a resource and waits until it is gone.
func (c *Connection) remove(ctx context.Context, id resourceid.ID, apiVersion string, noWait bool) (any, error) {
	_, err := c.long(ctx, http.MethodDelete, id, id.String(), apiVersion, nil, noWait)
	return nil, err
}

// long makes a request and follows its operation to the end.
func (c *Connection) long(ctx context.Context, method string, id resourceid.ID, path, apiVersion string, body any, noWait bool) (any, error) {
	resp, data, err := c.send(ctx, method, path, apiVersion, body)
	if err != nil {
		return nil, err
	}
	operation := resp.Header.Get("Azure-AsyncOperation")
	if operation == "" || noWait {
		return decode(data)
	}
	note, end := func(string) {}, func(error) {}
	if c.Progress != nil {
		note, end = c.Progress(verb(method) + " " + id.Type() + " " + id.Name())
	}
	err = c.await(ctx, operation, note)
	end(err)
	if err != nil {
		return nil, err
	}
	if method != http.MethodPut && method != http.MethodPatch {
		return nil, nil
	}
	return c.get(ctx, id, apiVersion)
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

// waitSeconds is how long one status request may hang until the operation ends: an extension of
// Cloister's, which other servers ignore.
const waitSeconds = 30

// await follows an operation's status until it ends, telling each step that it takes.
func (c *Connection) await(ctx context.Context, operation string, note func(string)) error {
	u, err := url.Parse(operation)
	if err != nil {
		return err
	}
	seen := 0
	for {
		q := u.Query()
		q.Set("$wait", fmt.Sprint(waitSeconds))
		q.Set("$seen", fmt.Sprint(seen))
		u.RawQuery = q.Encode()
		asked := time.Now()
		_, data, err := c.send(ctx, http.MethodGet, u.RequestURI(), "", nil)
		if err != nil {
			return err
		}
		var status struct {
			Status string
			Error  struct{ Code, Message string }
			Steps  []struct{ Name string }
		}
		if err := json.Unmarshal(data, &status); err != nil {
			return err
		}
		switch status.Status {
		case "Succeeded":
			return nil
		case "Failed", "Canceled":
			return &Error{Code: status.Error.Code, Message: status.Error.Message, Body: data}
		}
		if steps := status.Steps; len(steps) > seen {
			seen = len(steps)
			note(steps[seen-1].Name)
		} else if time.Since(asked) < time.Second { // the server does not hold the answer back
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func decode(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	var v any
	return v, json.Unmarshal(data, &v)
}
