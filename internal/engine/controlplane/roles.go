package controlplane

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// defaultRoles are the roles and bindings that the API server of Kubernetes 1.30 makes in an empty cluster
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings), an object a line.
// A test compares them with what it makes.
//
//go:embed manifests/roles-1.30.json
var defaultRoles []byte

// makeDefaultRoles makes the default roles of a new cluster. The API server does so, too: it begins a second after
// it listens, and makes one after the other, for most of a second in which the controllers cannot start. In that
// first second all can be made at once, and the API server then finds them as they should be.
//
// What fails here is left to the API server, which is not ready before all of them are there.
func (e *Engine) makeDefaultRoles(ctx context.Context, id string) error {
	if err := e.waitAnswer(ctx, id, "/version"); err != nil {
		return err
	}
	if e.Ready(ctx, id) == nil {
		return nil
	}
	var roles []*unstructured.Unstructured
	if err := json.Unmarshal(defaultRoles, &roles); err != nil {
		return fmt.Errorf("read the default roles: %w", err)
	}
	config, err := e.Client(id)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, role := range roles {
		g.Go(func() error {
			resource, err := resourceFor(client, role)
			if err != nil {
				return err
			}
			_, err = resource.Create(ctx, role, meta.CreateOptions{})
			if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
				return nil // the API server was quicker, or its namespace is not there yet
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make the default roles: %w", err)
	}
	return nil
}
