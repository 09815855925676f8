// Package privatelinkresources is the resource type Microsoft.ContainerRegistry/registries/privateLinkResources:
// what private endpoints can connect to in a registry. It follows from the registry and is stored nowhere.
//
// https://learn.microsoft.com/rest/api/containerregistry/registries/list-private-link-resources
package privatelinkresources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.ContainerRegistry/registries/privateLinkResources"

// group is the only private link resource of a registry.
const group = "registry"

// Model is the document of a private link resource.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a private link resource's.
type Properties struct {
	GroupID           string   `json:"groupId"`
	RequiredMembers   []string `json:"requiredMembers"`
	RequiredZoneNames []string `json:"requiredZoneNames"`
}

// Type is the resource type; see Spec.
func Type() resourcetype.Definition { return resourcetype.Define(Spec()) }

// Spec declares the type.
func Spec() resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name: Name, Placement: resourcetype.Inherited, NoState: true, NoPut: true, NoDelete: true,
		Find: func(ctx context.Context, id resourceid.ID, docs resourcetype.Reader) (resourcestore.Resource, error) {
			if !strings.EqualFold(id.Name(), group) {
				return resourcestore.Resource{}, resourcestore.ErrNotFound
			}
			registry, _ := id.Parent()
			return of(ctx, registry, docs)
		},
		List: func(ctx context.Context, r *resourcetype.ListRequest) ([]resourcestore.Resource, error) {
			one, err := of(ctx, r.Scope, r.Documents)
			if errors.Is(err, resourcestore.ErrNotFound) {
				return nil, nil
			}
			return []resourcestore.Resource{one}, err
		},
	}
}

// of is a registry's private link resource; only Premium registries have one.
func of(ctx context.Context, registry resourceid.ID, docs resourcetype.Reader) (resourcestore.Resource, error) {
	var r struct {
		Location string `json:"location"`
		SKU      struct {
			Name string `json:"name"`
		} `json:"sku"`
	}
	if err := docs.Get(ctx, registry, &r); err != nil {
		return resourcestore.Resource{}, fmt.Errorf("read %s: %w", registry, err)
	}
	if r.SKU.Name != "Premium" {
		return resourcestore.Resource{}, resourcestore.ErrNotFound
	}
	body, err := json.Marshal(Model{Properties{
		GroupID: group, RequiredMembers: []string{"registry", "registry_data_" + r.Location}, RequiredZoneNames: []string{"privatelink.azurecr.io"},
	}})
	return resourcestore.Resource{ID: registry.Child("privateLinkResources", group), Body: body}, err
}
