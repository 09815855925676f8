package managedclusters

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// featureSettles is how long a feature is Registering (type Microsoft.Features/providers/features).
const featureSettles = 2 * time.Second

// requireFeature refuses with Azure's words unless the subscription is registered for the preview feature, named
// NAMESPACE/FEATURE.
func requireFeature(ctx context.Context, docs resourcetype.Reader, subscription, flag, target string) error {
	namespace, name, _ := strings.Cut(flag, "/")
	id := resourceid.MustParse("/subscriptions/"+subscription).Resource("Microsoft.Features/providers/features", namespace, name)
	var doc struct {
		Properties struct {
			State string `json:"state"`
		} `json:"properties"`
		Memory struct {
			Asked time.Time `json:"asked"`
		} `json:"cloister"`
	}
	if err := docs.Get(ctx, id, &doc); err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
		return fmt.Errorf("read %s: %w", id, err)
	}
	switch doc.Properties.State {
	case "Registered":
		return nil
	case "Registering":
		if time.Since(doc.Memory.Asked) >= featureSettles {
			return nil
		}
	}
	return armerror.New(codeFeature, "Preview feature %s not registered.", flag).WithTarget(target)
}
