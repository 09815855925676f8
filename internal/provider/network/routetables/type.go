// Package routetables is the resource type Microsoft.Network/routeTables: the next hops that a user chooses for what
// leaves the subnets that name the table. Its routes are documents of their own; the package shows them.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/route-tables
package routetables

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
	"github.com/cloister-dev/cloister/internal/provider/network/inlinechildren"
)

// Name is the resource type.
const Name = egressuse.RouteTables

const routesType = "Microsoft.Network/routeTables/routes"

// Model is the document of a route table.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are a route table's.
type Properties struct {
	ResourceGUID string `json:"resourceGuid,omitempty"`
	// DisableBGPRoutePropagation has no effect: there are no gateways, so no routes are ever learned.
	DisableBGPRoutePropagation bool               `json:"disableBgpRoutePropagation"`
	Routes                     *[]json.RawMessage `json:"routes,omitempty"`  // only in requests and answers
	Subnets                    []egressuse.Link   `json:"subnets,omitempty"` // only in answers
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World) resourcetype.Definition { return resourcetype.Define(Spec(w)) }

// Spec declares the type.
func Spec(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:          Name,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("routes")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return inlinechildren.Await(ctx, r, routesType)
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	// As with security groups a PUT, which alone carries a location, is the whole truth of a table.
	if _, whole := r.Sent["location"]; whole || p.Routes != nil {
		problems, err := inlinechildren.Put(ctx, r, routesType, p.Routes)
		if err == nil {
			err = armerror.Join(problems)
		}
		if err != nil {
			return err
		}
	}
	guid := uuid.NewString()
	if r.Existing != nil {
		guid = r.Existing.Properties.ResourceGUID
	}
	r.Model.Properties = Properties{ResourceGUID: guid, DisableBGPRoutePropagation: p.DisableBGPRoutePropagation}
	return nil
}

func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	subnets, err := egressuse.SubnetsOf(ctx, r.Documents, r.ID)
	if err != nil || len(subnets) == 0 {
		return err
	}
	return armerror.New("InUseRouteTableCannotBeDeleted", "Route table %s is in use and cannot be deleted. It is used by subnet %s.", r.ID.Name(), subnets[0])
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	routes, err := inlinechildren.Show(ctx, v.Documents, v.ID, routesType)
	if err != nil {
		return err
	}
	v.Model.Properties.Routes = &routes
	v.Model.Properties.Subnets, err = egressuse.SubnetLinks(ctx, v.Documents, v.ID)
	return err
}
