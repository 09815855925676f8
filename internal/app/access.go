package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roleassignments"
	"github.com/cloister-dev/cloister/internal/provider/authorization/rolecheck"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roledefinitions"
)

// Built-in roles that the installation assigns itself.
const (
	roleOwner                   = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	roleContributor             = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	roleUserAccessAdministrator = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"
)

// access answers role questions from the role assignments that are stored. It keeps them in memory until
// one is written.
type access struct {
	store       resourcestore.Store
	definitions rolecheck.Definitions
	cached      atomic.Pointer[[]rolecheck.Assignment]
}

func newAccess(store resourcestore.Store) *access {
	a := &access{store: store, definitions: roledefinitions.Definitions()}
	store.Watch(func(events []resourcestore.Event) {
		for _, e := range events {
			if e.ID.Is(roleassignments.Name) {
				a.cached.Store(nil)
				return
			}
		}
	})
	return a
}

func (a *access) assignments(ctx context.Context) ([]rolecheck.Assignment, error) {
	if cached := a.cached.Load(); cached != nil {
		return *cached, nil
	}
	all, err := a.store.List(ctx, resourcestore.Filter{Type: roleassignments.Name})
	if err != nil {
		return nil, err
	}
	out := make([]rolecheck.Assignment, 0, len(all))
	for _, r := range all {
		if r.Deleting {
			continue
		}
		var doc struct {
			Properties struct{ PrincipalID, RoleDefinitionID string }
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return nil, fmt.Errorf("read document %s: %w", r.ID, err)
		}
		out = append(out, rolecheck.Assignment{Principal: doc.Properties.PrincipalID, Role: path.Base(doc.Properties.RoleDefinitionID), Scope: r.ID.Scope()})
	}
	a.cached.Store(&out)
	return out, nil
}

// Authorize implements resourcemanager.Authorizer.
func (a *access) Authorize(ctx context.Context, p resourcetype.Principal, action string, scope resourceid.ID) (bool, error) {
	assignments, err := a.assignments(ctx)
	if err != nil {
		return false, err
	}
	return rolecheck.Allowed(assignments, a.definitions, p.ObjectID, action, scope), nil
}

// Allowed implements the providers' Authorizer.
func (a *access) Allowed(ctx context.Context, p resourcetype.Principal, action string, scope resourceid.ID) (bool, error) {
	return a.Authorize(ctx, p, action, scope)
}

// registry is what principals may do in a registry. AcrPull's actions are role actions, Repository
// Reader's are data actions (ABAC).
func (a *access) registry(id resourceid.ID) map[string][]string {
	assignments, err := a.assignments(context.Background())
	if err != nil {
		return nil
	}
	out := map[string][]string{}
	for _, x := range assignments {
		if _, done := out[x.Principal]; done || !x.Scope.Contains(id) {
			continue
		}
		for _, grant := range []struct {
			can, action string
			data        bool
		}{
			{registry.Pull, "Microsoft.ContainerRegistry/registries/pull/read", false},
			{registry.List, "Microsoft.ContainerRegistry/registries/pull/read", false},
			{registry.Push, "Microsoft.ContainerRegistry/registries/push/write", false},
			{registry.Delete, "Microsoft.ContainerRegistry/registries/artifacts/delete", false},
			{registry.Pull, "Microsoft.ContainerRegistry/registries/repositories/content/read", true},
			{registry.Push, "Microsoft.ContainerRegistry/registries/repositories/content/write", true},
			{registry.Delete, "Microsoft.ContainerRegistry/registries/repositories/content/delete", true},
			{registry.List, "Microsoft.ContainerRegistry/registries/catalog/read", true},
		} {
			check := rolecheck.Allowed
			if grant.data {
				check = rolecheck.DataAllowed
			}
			if check(assignments, a.definitions, x.Principal, grant.action, id) && !contains(out[x.Principal], grant.can) {
				out[x.Principal] = append(out[x.Principal], grant.can)
			}
		}
	}
	return out
}

// PrincipalType implements roleassignments.Directory.
func (d *directory) PrincipalType(ctx context.Context, objectID string) (string, bool, error) {
	p, err := d.Principal(ctx, objectID)
	if err != nil {
		return "", false, nil
	}
	return string(p.Type), strings.EqualFold(p.ObjectID, objectID), nil
}

// seedAssignment writes a role assignment that comes with the installation, once.
func seedAssignment(ctx context.Context, store resourcestore.Store, scope resourceid.ID, principal, role string) error {
	name := uuid.NewSHA1(uuid.NameSpaceURL, []byte(scope.String()+principal+role)).String()
	id := scope.Resource(roleassignments.Name, name)
	body, err := json.Marshal(map[string]any{
		"id": id.String(), "name": name, "type": roleassignments.Name,
		"properties": map[string]any{
			"scope": scope.String(), "principalId": principal, "principalType": "ServicePrincipal",
			"roleDefinitionId": scope.Resource("Microsoft.Authorization/roleDefinitions", role).String(),
		},
	})
	if err != nil {
		return err
	}
	err = store.Apply(ctx, resourcestore.Change{Put: &resourcestore.Resource{ID: id, Body: body}})
	if errors.Is(err, resourcestore.ErrConflict) { // it is there already
		return nil
	}
	return err
}

func equalFold(a, b string) bool { return strings.EqualFold(a, b) }
