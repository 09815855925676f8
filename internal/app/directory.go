package app

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/identity/authority"
)

// directory holds the principals of the tenant: the installation's own, and those that documents make
// (user-assigned identities, clusters' system-assigned ones).
type directory struct {
	instance Instance
	hash     string // of the administrator's secret
	password string // of the user's, hashed
	store    resourcestore.Store
}

func newDirectory(in Instance, store resourcestore.Store) (*directory, error) {
	hash, err := authority.HashSecret(in.Administrator.Secret)
	if err != nil {
		return nil, fmt.Errorf("hash the administrator's secret: %w", err)
	}
	password, err := authority.HashSecret(in.User.Password)
	if err != nil {
		return nil, fmt.Errorf("hash the user's password: %w", err)
	}
	return &directory{in, hash, password, store}, nil
}

// Principals implements authority.Directory.
func (d *directory) Principals(ctx context.Context) ([]authority.Principal, error) {
	a, k := d.instance.Administrator, d.instance.AKS
	out := []authority.Principal{
		{Type: authority.ServicePrincipal, ObjectID: a.ObjectID, AppID: a.AppID, DisplayName: a.Name, Secrets: []authority.Secret{{Hash: d.hash}}},
		{Type: authority.ServicePrincipal, ObjectID: k.ObjectID, AppID: k.AppID, DisplayName: k.Name},
	}
	if u := d.instance.User; u.ObjectID != "" {
		out = append(out, authority.Principal{Type: authority.User, ObjectID: u.ObjectID, UserPrincipalName: u.Name, DisplayName: "Cloister Administrator", Secrets: []authority.Secret{{Hash: d.password}}})
	}
	identities, err := d.store.List(ctx, resourcestore.Filter{Type: "Microsoft.ManagedIdentity/userAssignedIdentities"})
	if err != nil {
		return nil, err
	}
	for _, r := range identities {
		var doc struct {
			Properties struct{ ClientID, PrincipalID string }
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return nil, fmt.Errorf("read document %s: %w", r.ID, err)
		}
		out = append(out, managedIdentity(r.ID, doc.Properties.PrincipalID, doc.Properties.ClientID))
	}
	clusters, err := d.store.List(ctx, resourcestore.Filter{Type: "Microsoft.ContainerService/managedClusters"})
	if err != nil {
		return nil, err
	}
	for _, r := range clusters {
		var doc struct {
			Identity struct{ Type, PrincipalID string }
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return nil, fmt.Errorf("read document %s: %w", r.ID, err)
		}
		if doc.Identity.PrincipalID != "" {
			out = append(out, managedIdentity(r.ID, doc.Identity.PrincipalID, doc.Identity.PrincipalID))
		}
	}
	return out, nil
}

func managedIdentity(id resourceid.ID, object, app string) authority.Principal {
	return authority.Principal{Type: authority.ServicePrincipal, ObjectID: object, AppID: app, DisplayName: id.Name(), ManagedIdentity: id.String()}
}

// Principal implements authority.Directory.
func (d *directory) Principal(ctx context.Context, key string) (authority.Principal, error) {
	all, err := d.Principals(ctx)
	if err != nil {
		return authority.Principal{}, err
	}
	for _, p := range all {
		for _, known := range []string{p.ObjectID, p.AppID, p.UserPrincipalName} {
			if known != "" && strings.EqualFold(known, key) {
				return p, nil
			}
		}
	}
	return authority.Principal{}, fmt.Errorf("%w: %s", authority.ErrNotFound, key)
}
