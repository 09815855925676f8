// Package roleassignments is the resource type Microsoft.Authorization/roleAssignments: a principal holds a
// role on a scope and all that lies in it.
//
// https://learn.microsoft.com/rest/api/authorization/role-assignments
package roleassignments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/odatafilter"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/authorization/rolecheck"
)

// Name is the resource type.
const Name = "Microsoft.Authorization/roleAssignments"

const definitionsType = "Microsoft.Authorization/roleDefinitions"

// Model is the document of a role assignment.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a role assignment's.
type Properties struct {
	RoleDefinitionID string `json:"roleDefinitionId"`
	PrincipalID      string `json:"principalId"`
	PrincipalType    string `json:"principalType,omitempty"`
	Scope            string `json:"scope,omitempty"`
	Condition        string `json:"condition,omitempty"`
	Description      string `json:"description,omitempty"`
	CreatedOn        string `json:"createdOn,omitempty"`
	UpdatedOn        string `json:"updatedOn,omitempty"`
	CreatedBy        string `json:"createdBy,omitempty"`
	UpdatedBy        string `json:"updatedBy,omitempty"`
}

// Directory knows the principals of the tenant.
type Directory interface {
	// PrincipalType is ServicePrincipal, User or Group; false when there is no such principal.
	PrincipalType(ctx context.Context, objectID string) (string, bool, error)
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World, d Directory, roles func(id string) bool) resourcetype.Definition {
	return resourcetype.Define(Spec(w, d, roles))
}

// Spec declares the type. roles tells whether a role, named by its GUID, exists.
func Spec(w World, d Directory, roles func(id string) bool) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: Name, Placement: resourcetype.Inherited, Extension: true, NoState: true, Synchronous: true,
		Prepare: func(ctx context.Context, r *resourcetype.Request[Model]) error { return prepare(ctx, r, d, roles) },
		List: func(ctx context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			return List(ctx, r.Documents, r.Scope, r.Filter)
		},
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply role assignment %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model], d Directory, roles func(string) bool) error {
	p := &r.Model.Properties
	var problems []*armerror.Error
	add := func(target, code, format string, args ...any) {
		problems = append(problems, armerror.New(code, format, args...).WithTarget(target))
	}
	if _, err := uuid.Parse(r.ID.Name()); err != nil {
		add("name", "InvalidRoleAssignmentId", "The role assignment ID '%s' is not valid. The role assignment ID must be a GUID.", r.ID.Name())
	}
	if _, err := uuid.Parse(p.PrincipalID); err != nil {
		add("properties.principalId", "InvalidPrincipalId", "A valid principal ID must be provided for role assignment.")
	}
	role, err := resourceid.Parse(p.RoleDefinitionID)
	if err != nil || !role.Is(definitionsType) {
		add("properties.roleDefinitionId", "InvalidRoleDefinitionId", "The role definition ID '%s' is not valid. The role definition ID must be a GUID.", p.RoleDefinitionID)
	} else if !roles(role.Name()) {
		add("properties.roleDefinitionId", "RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist.", compact(role.Name()))
	}
	if p.Condition != "" {
		add("properties.condition", armerror.NotSupported, "Conditions of role assignments are not supported by Cloister.")
	}
	if !slices.Contains([]string{"", "User", "Group", "ServicePrincipal", "ForeignGroup", "Device"}, p.PrincipalType) {
		add("properties.principalType", "InvalidPrincipalType", "The principal type '%s' is not valid.", p.PrincipalType)
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}

	scope := r.ID.Scope()
	if old := r.Existing; old != nil {
		same := strings.EqualFold(old.Properties.PrincipalID, p.PrincipalID) && sameRole(old.Properties.RoleDefinitionID, p.RoleDefinitionID)
		if !same {
			return armerror.New("RoleAssignmentUpdateNotPermitted", "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.").WithStatus(409)
		}
	}
	kind, found, err := d.PrincipalType(ctx, p.PrincipalID)
	if err != nil {
		return fmt.Errorf("look up principal %s: %w", p.PrincipalID, err)
	}
	if !found {
		return armerror.New("PrincipalNotFound", "Principal %s does not exist in the directory %s. Check that you have the correct principal ID. If you are creating this principal and then immediately assigning a role, this error might be related to a replication delay. In this case, set the role assignment principalType property to a value, such as ServicePrincipal, User, or Group.  See https://aka.ms/docs-principaltype", compact(p.PrincipalID), r.Caller.TenantID).WithTarget("properties.principalId")
	}
	if p.PrincipalType != "" && p.PrincipalType != kind {
		return armerror.New("UnmatchedPrincipalType", "The PrincipalId '%s' has type '%s' , which is different from specified PrinciaplType '%s'.", compact(p.PrincipalID), kind, p.PrincipalType).WithTarget("properties.principalType")
	}
	p.PrincipalType = kind

	if err := refuseSecond(ctx, r, scope); err != nil {
		return err
	}
	now := time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z")
	p.Scope, p.CreatedOn, p.CreatedBy = scope.String(), now, r.Caller.ObjectID
	if r.Existing != nil {
		p.Scope, p.CreatedOn, p.CreatedBy = r.Existing.Properties.Scope, r.Existing.Properties.CreatedOn, r.Existing.Properties.CreatedBy
	}
	p.UpdatedOn, p.UpdatedBy = now, r.Caller.ObjectID
	return nil
}

// refuseSecond: clients name assignments by random GUIDs, so a repetition is told by its content.
func refuseSecond(ctx context.Context, r *resourcetype.Request[Model], scope resourceid.ID) error {
	all, err := stored(ctx, r.Documents)
	if err != nil {
		return err
	}
	p := r.Model.Properties
	for _, a := range all {
		if !a.id.Equal(r.ID) && a.id.Scope().Equal(scope) && strings.EqualFold(a.model.Properties.PrincipalID, p.PrincipalID) && sameRole(a.model.Properties.RoleDefinitionID, p.RoleDefinitionID) {
			return armerror.New("RoleAssignmentExists", "The role assignment already exists. The ID of the conflicting role assignment is %s.", compact(a.id.Name())).WithStatus(409)
		}
	}
	return nil
}

func sameRole(a, b string) bool {
	x, err1 := resourceid.Parse(a)
	y, err2 := resourceid.Parse(b)
	return err1 == nil && err2 == nil && strings.EqualFold(x.Name(), y.Name())
}

// compact is a GUID as these errors print it.
func compact(guid string) string { return strings.ToLower(strings.ReplaceAll(guid, "-", "")) }

type assignment struct {
	id       resourceid.ID
	model    Model
	resource resourcestore.Resource
}

func stored(ctx context.Context, docs resourcetype.Reader) ([]assignment, error) {
	list, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return nil, fmt.Errorf("list role assignments: %w", err)
	}
	var all []assignment
	for _, r := range list {
		a := assignment{id: r.ID, resource: r}
		if err := json.Unmarshal(r.Body, &a.model); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// List selects the assignments that a GET on the scope's collection shows: those that act on the scope and,
// without atScope(), those in it.
func List(ctx context.Context, docs resourcetype.Reader, scope resourceid.ID, filter string) ([]resourcestore.Resource, error) {
	parsed, err := odatafilter.Parse(filter)
	if err != nil {
		return nil, armerror.New("UnsupportedQuery", "The filter '%s' is not supported: %v.", filter, err).WithTarget("$filter")
	}
	_, atScope := parsed.Call("atScope")
	all, err := stored(ctx, docs)
	if err != nil {
		return nil, err
	}
	list := []resourcestore.Resource{}
	for _, a := range all {
		at := a.id.Scope()
		if !at.Contains(scope) && (atScope || !scope.Contains(at)) {
			continue
		}
		if !parsed.Match(names(a.model.Properties)) {
			continue
		}
		list = append(list, a.resource)
	}
	return list, nil
}

// names are what a $filter may ask of an assignment. Groups have no members here, so assignedTo asks for the
// principal itself.
func names(p Properties) odatafilter.Names {
	return odatafilter.Names{
		Value: func(name string) (string, bool) {
			switch strings.ToLower(name) {
			case "principalid":
				return p.PrincipalID, true
			case "roledefinitionid":
				return p.RoleDefinitionID, true
			case "principaltype":
				return p.PrincipalType, true
			}
			return "", false
		},
		Call: func(name string, args []string) bool {
			return strings.EqualFold(name, "atScope") || strings.EqualFold(name, "assignedTo") && len(args) == 1 && strings.EqualFold(args[0], p.PrincipalID)
		},
	}
}

// Assignments are all stored assignments as the evaluator takes them.
func Assignments(ctx context.Context, docs resourcetype.Reader) ([]rolecheck.Assignment, error) {
	all, err := stored(ctx, docs)
	if err != nil {
		return nil, err
	}
	var list []rolecheck.Assignment
	for _, a := range all {
		role, err := resourceid.Parse(a.model.Properties.RoleDefinitionID)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("role of %s", a.id), err)
		}
		list = append(list, rolecheck.Assignment{Principal: a.model.Properties.PrincipalID, Role: role.Name(), Scope: a.id.Scope()})
	}
	return list, nil
}
