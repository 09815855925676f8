// Package userassignedidentities is the resource type Microsoft.ManagedIdentity/userAssignedIdentities: a
// service principal whose life is that of a resource.
//
// https://learn.microsoft.com/rest/api/managedidentity/user-assigned-identities
package userassignedidentities

import (
	"context"
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.ManagedIdentity/userAssignedIdentities"

// Model is the document of a user-assigned identity.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are an identity's; all are read-only.
type Properties struct {
	TenantID       string `json:"tenantId,omitempty"`
	PrincipalID    string `json:"principalId,omitempty"`
	ClientID       string `json:"clientId,omitempty"`
	IsolationScope string `json:"isolationScope,omitempty"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World, tenant string) resourcetype.Definition {
	return resourcetype.Define(Spec(w, tenant))
}

// Spec declares the type. Its identities are in the tenant.
func Spec(w World, tenant string) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:        Name,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,127}$`),
		NameCode:    "InvalidIdentityName",
		NameMessage: "The identity name is invalid. It has 3 to 128 letters, digits, underscores and hyphens, and begins with a letter or digit.",
		NoState:     true,
		Synchronous: true,
		// Machines lose an identity with its document.
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply identity %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
		Prepare: func(_ context.Context, r *resourcetype.Request[Model]) error {
			if r.Existing != nil {
				r.Model.Properties = r.Existing.Properties
				return nil
			}
			r.Model.Properties = Properties{TenantID: tenant, PrincipalID: uuid.NewString(), ClientID: uuid.NewString()}
			return nil
		},
	}
}
