// Package roledefinitions is the resource type Microsoft.Authorization/roleDefinitions: the built-in roles,
// which are the same everywhere and stored nowhere.
//
// https://learn.microsoft.com/rest/api/authorization/role-definitions
package roledefinitions

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/odatafilter"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/authorization/rolecheck"
)

// Name is the resource type.
const Name = "Microsoft.Authorization/roleDefinitions"

// Model is the document of a role definition.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a role definition's.
type Properties struct {
	RoleName         string       `json:"roleName"`
	Type             string       `json:"type"` // BuiltInRole
	Description      string       `json:"description"`
	AssignableScopes []string     `json:"assignableScopes"`
	Permissions      []Permission `json:"permissions"`
}

// Permission is one block of what a role grants.
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// Type is the resource type; see Spec for its arguments.
func Type() resourcetype.Definition { return resourcetype.Define(Spec()) }

// Spec declares the type.
func Spec() resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: Name, Placement: resourcetype.Inherited, Extension: true, NoState: true, NoPut: true, NoDelete: true,
		Find: func(_ context.Context, id resourceid.ID, _ resourcetype.Reader) (resourcestore.Resource, error) {
			for _, r := range BuiltIn() {
				if strings.EqualFold(r.ID, id.Name()) {
					return document(id.Scope(), r)
				}
			}
			return resourcestore.Resource{}, resourcestore.ErrNotFound
		},
		List: func(_ context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			return List(r.Scope, r.Filter)
		},
	}
}

// document is a built-in role as seen from a scope. Azure names it in the scope's subscription, whatever
// resource of it was asked.
func document(scope resourceid.ID, r Role) (resourcestore.Resource, error) {
	full := func(p Permission) Permission {
		for _, l := range []*[]string{&p.Actions, &p.NotActions, &p.DataActions, &p.NotDataActions} {
			if *l == nil {
				*l = []string{}
			}
		}
		return p
	}
	body, err := json.Marshal(Model{Properties{
		RoleName: r.Name, Type: "BuiltInRole", Description: r.Description, AssignableScopes: []string{"/"}, Permissions: []Permission{full(r.Permission)},
	}})
	if err != nil {
		return resourcestore.Resource{}, fmt.Errorf("encode role %s: %w", r.Name, err)
	}
	return resourcestore.Resource{ID: ID(scope, r.ID), Body: body}, nil
}

// ID is the resource ID of a role in the subscription of a scope.
func ID(scope resourceid.ID, role string) resourceid.ID {
	var in resourceid.ID
	if s := scope.Subscription(); s != "" {
		in = resourceid.MustParse("/subscriptions/" + s)
	}
	return in.Resource(Name, role)
}

// List selects the roles that a $filter asks for; "" is all of them.
func List(scope resourceid.ID, filter string) ([]resourcestore.Resource, error) {
	parsed, err := odatafilter.Parse(filter)
	if err != nil {
		return nil, armerror.New("UnsupportedQuery", "The filter '%s' is not supported: %v.", filter, err).WithTarget("$filter")
	}
	keep := func(r Role) bool {
		return parsed.Match(odatafilter.Names{
			Value: func(name string) (string, bool) {
				switch strings.ToLower(name) {
				case "rolename":
					return r.Name, true
				case "type":
					return "BuiltInRole", true
				}
				return "", false
			},
			// Built-in roles can be assigned everywhere.
			Call: func(name string, _ []string) bool {
				return strings.EqualFold(name, "atScope") || strings.EqualFold(name, "atScopeAndBelow")
			},
		})
	}
	list := []resourcestore.Resource{}
	for _, r := range BuiltIn() {
		if !keep(r) {
			continue
		}
		d, err := document(scope, r)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID.Key() < list[j].ID.Key() })
	return list, nil
}

// Definitions are the roles as the evaluator takes them.
func Definitions() rolecheck.Definitions {
	var list []rolecheck.Definition
	for _, r := range BuiltIn() {
		list = append(list, rolecheck.Definition{ID: r.ID, Permissions: []rolecheck.Permission{rolecheck.Permission(r.Permission)}})
	}
	return rolecheck.Index(list)
}
