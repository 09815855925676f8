package resourcemanager

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// client implements resourcetype.Client. Its writes are requests like any other; its reads are the
// service's own view of the store, cloister's memory included.
type client struct {
	*documents
	m           *Manager
	principal   resourcetype.Principal
	retryBefore time.Time
}

// Client acts as the principal. A document that failed before retryBefore is started again by a Put that
// changes nothing: a reconcile passes the start of its own operation, so that a request repeated by
// the user repeats what failed below, and only once.
func (m *Manager) Client(principal resourcetype.Principal, retryBefore time.Time) resourcetype.Client {
	return &client{documents: m.documents(), m: m, principal: principal, retryBefore: retryBefore}
}

// Put implements resourcetype.Client.
func (c *client) Put(ctx context.Context, id resourceid.ID, apiVersion string, body any) (string, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", id, err)
	}
	a, err := c.m.Do(ctx, Request{
		Method: http.MethodPut, ID: id, APIVersion: apiVersion, Caller: c.principal, Body: b, internal: true, retryBefore: c.retryBefore,
	})
	if err == nil && a.state == "" {
		a.state = resourcestore.Succeeded // a type that shows no state, and nothing in progress
	}
	return a.state, err
}

// Delete implements resourcetype.Client.
func (c *client) Delete(ctx context.Context, id resourceid.ID) (bool, error) {
	a, err := c.m.Do(ctx, Request{
		Method: http.MethodDelete, ID: id, APIVersion: "2024-11-01", Caller: c.principal, internal: true, retryBefore: c.retryBefore,
	})
	return err == nil && a.Status != http.StatusAccepted, err
}
