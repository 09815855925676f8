// Package rolecheck evaluates Azure role assignments: whether a principal may do an action on a scope. It
// is pure, and knows neither documents nor requests.
//
// https://learn.microsoft.com/azure/role-based-access-control/overview, "How Azure RBAC determines if a user
// has access to a resource", and role-definitions
package rolecheck

import (
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// Permission is one block of a role definition.
type Permission struct {
	Actions        []string
	NotActions     []string
	DataActions    []string
	NotDataActions []string
}

// Definition is a role. ID is the last name of its resource ID, a GUID.
type Definition struct {
	ID          string
	Permissions []Permission
}

// Assignment gives a role to a principal on a scope and all that lies in it. Role is the last name of the
// role definition's resource ID.
type Assignment struct {
	Principal string
	Role      string
	Scope     resourceid.ID
}

// Definitions are found by their ID in lower case.
type Definitions map[string]Definition

// Index makes Definitions.
func Index(list []Definition) Definitions {
	m := Definitions{}
	for _, d := range list {
		m[strings.ToLower(d.ID)] = d
	}
	return m
}

// Allowed reports whether an assignment lets the principal do the action on the scope.
func Allowed(assignments []Assignment, definitions Definitions, principal, action string, scope resourceid.ID) bool {
	return allowed(assignments, definitions, principal, scope, func(p Permission) bool { return grants(p.Actions, p.NotActions, action) })
}

// DataAllowed is Allowed for a data action.
func DataAllowed(assignments []Assignment, definitions Definitions, principal, action string, scope resourceid.ID) bool {
	return allowed(assignments, definitions, principal, scope, func(p Permission) bool { return grants(p.DataActions, p.NotDataActions, action) })
}

// What one assignment's notActions take away, another assignment may still grant: they are no denial.
func allowed(assignments []Assignment, definitions Definitions, principal string, scope resourceid.ID, grants func(Permission) bool) bool {
	for _, a := range assignments {
		if !strings.EqualFold(a.Principal, principal) || !a.Scope.Contains(scope) {
			continue
		}
		for _, p := range definitions[strings.ToLower(a.Role)].Permissions {
			if grants(p) {
				return true
			}
		}
	}
	return false
}

func grants(actions, not []string, action string) bool {
	return anyMatches(actions, action) && !anyMatches(not, action)
}

func anyMatches(patterns []string, action string) bool {
	for _, p := range patterns {
		if Matches(p, action) {
			return true
		}
	}
	return false
}

// Matches reports whether an action's name fits a pattern, in any case; each * in it stands for any text, slashes
// included. A whole segment /*/ also stands for nothing: Managed Identity Operator holds
// userAssignedIdentities/*/assign/action, and that is what lets it userAssignedIdentities/assign/action.
func Matches(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	if before, after, ok := strings.Cut(pattern, "/*/"); ok && Matches(before+"/"+after, action) {
		return true
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == action
	}
	rest, ok := strings.CutPrefix(action, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, p)
		if at < 0 {
			return false
		}
		rest = rest[at+len(p):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
