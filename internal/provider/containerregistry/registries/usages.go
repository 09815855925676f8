package registries

import (
	"context"
	"errors"
	"fmt"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Usage is one line of what a registry uses.
type Usage struct {
	Name         string `json:"name"`
	Limit        int64  `json:"limit"`
	CurrentValue int64  `json:"currentValue"`
	Unit         string `json:"unit"`
}

// included is the storage that comes with a SKU, and its webhooks, as of 2026-11:
// https://learn.microsoft.com/azure/container-registry/container-registry-skus. Cloister holds nobody to it.
var included = map[string]struct{ bytes, webhooks int64 }{"Basic": {10 << 30, 2}, "Standard": {100 << 30, 10}, "Premium": {500 << 30, 500}}

// listUsages is GET registries/NAME/listUsages: az acr show-usage.
func (d Deps) listUsages() resourcetype.Endpoint {
	return resourcetype.Endpoint{
		Name: Name + "/listUsages",
		Get: func(ctx context.Context, r *resourcetype.EndpointRequest) (any, error) {
			id := r.Scope.Resource(Name, r.Names[:1]...)
			var m Model
			if err := r.Documents.Get(ctx, id, &m); errors.Is(err, resourcestore.ErrNotFound) {
				return nil, armerror.New(armerror.ResourceNotFound, "The Resource '%s/%s' under resource group '%s' was not found.", Name, id.Name(), id.ResourceGroup())
			} else if err != nil {
				return nil, fmt.Errorf("read %s: %w", id, err)
			}
			size, err := d.Size(id)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", id, err)
			}
			limit := included[m.SKU.Name]
			return map[string]any{"value": []Usage{{"Size", limit.bytes, size, "Bytes"}, {"Webhooks", limit.webhooks, 0, "Count"}}}, nil
		},
	}
}
