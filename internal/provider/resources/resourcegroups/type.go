// Package resourcegroups is the resource type Microsoft.Resources/resourceGroups. What a group means to the
// resources in it, its deletion included, is the protocol's; this package holds the document.
//
// https://learn.microsoft.com/rest/api/resources/resource-groups
package resourcegroups

import (
	"context"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.Resources/resourceGroups"

// Model is the document of a resource group.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"`
	Properties *struct{}         `json:"properties,omitempty"`
}

// Type is the resource type; see Spec for its arguments.
func Type() resourcetype.Definition { return resourcetype.Define(Spec()) }

// Spec declares the type.
func Spec() resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: Name, SubscriptionLevel: true,
		Prepare: func(_ context.Context, r *resourcetype.Request[Model]) error {
			if r.Existing == nil || r.Model.ManagedBy == r.Existing.ManagedBy {
				return nil
			}
			// A PUT of tags alone, as az sends it, does not name the manager.
			if r.Model.ManagedBy == "" {
				r.Model.ManagedBy = r.Existing.ManagedBy
				return nil
			}
			return armerror.New("ResourceGroupManagedByMismatch", "The resource group '%s' is managed by '%s', which cannot be changed.", r.ID.Name(), r.Existing.ManagedBy).WithTarget("managedBy").WithStatus(409)
		},
	}
}
