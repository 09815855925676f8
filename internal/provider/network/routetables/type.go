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
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
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
			return children(ctx, r)
		},
	}
}

// children waits for the routes: they were written with their parent and have operations of their own.
func children(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	list, err := r.Client.List(ctx, r.ID, routesType)
	if err != nil {
		return resourcetype.Result{}, fmt.Errorf("list the routes of %s: %w", r.ID, err)
	}
	for _, c := range list {
		switch state := resourcetype.State(c.Body); {
		case state == resourcestore.Failed && !r.Deleting:
			return resourcetype.Result{}, armerror.New("ChildResourceFailed", "The route %s could not be made; its own operation tells why.", c.ID)
		case c.Deleting || state != resourcestore.Succeeded:
			return resourcetype.Result{Waiting: true}, nil
		}
	}
	return resourcetype.Result{}, nil
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	var problems []*armerror.Error
	named := map[string]bool{}
	if p.Routes != nil {
		for i, raw := range *p.Routes {
			target := fmt.Sprintf("properties.routes[%d].name", i)
			var s struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(raw, &s); err != nil || s.Name == "" || strings.Contains(s.Name, "/") {
				problems = append(problems, armerror.New("InvalidRequestFormat", "Cannot parse the request: route %d of '%s' has no valid name.", i, r.ID.Name()).WithTarget(target))
				continue
			}
			id, err := resourceid.Parse(r.ID.String() + "/routes/" + s.Name)
			if err != nil {
				problems = append(problems, armerror.New("InvalidResourceName", "Resource name %s is invalid.", s.Name).WithTarget(target))
				continue
			}
			if named[id.Key()] {
				problems = append(problems, armerror.New("DuplicateResourceName", "Resource %s has two child resources with the same name (%s).", r.ID, s.Name).WithTarget(target))
				continue
			}
			named[id.Key()] = true
			r.PutChild(id, raw)
		}
	}
	if err := armerror.Join(problems); err != nil {
		return err
	}
	// As with security groups a PUT, which alone carries a location, is the whole truth of a table.
	stored, err := r.Documents.List(ctx, r.ID, routesType)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", r.ID, err)
	}
	if _, whole := r.Sent["location"]; whole || p.Routes != nil {
		for _, s := range stored {
			if !named[s.ID.Key()] {
				r.DeleteChild(s.ID)
			}
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
	stored, err := v.Documents.List(ctx, v.ID, routesType)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", v.ID, err)
	}
	routes := make([]json.RawMessage, 0, len(stored))
	for _, s := range stored {
		var doc map[string]any
		if err := json.Unmarshal(s.Body, &doc); err != nil {
			return fmt.Errorf("read %s: %w", s.ID, err)
		}
		delete(doc, "cloister")
		doc["id"], doc["name"], doc["type"], doc["etag"] = s.ID.String(), s.ID.Name(), routesType, s.ETag()
		raw, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		routes = append(routes, raw)
	}
	v.Model.Properties.Routes = &routes
	subnets, err := egressuse.SubnetsOf(ctx, v.Documents, v.ID)
	if err != nil {
		return err
	}
	for _, s := range subnets {
		v.Model.Properties.Subnets = append(v.Model.Properties.Subnets, egressuse.Link{ID: s.String()})
	}
	return nil
}
