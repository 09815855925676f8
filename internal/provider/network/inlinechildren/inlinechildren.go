// Package inlinechildren serves documents that carry their children inline, as a security group carries its rules: the
// children are documents of their own, written with their parent and shown in its answer.
package inlinechildren

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Put writes the children of a type that a request carries, and deletes the others; nil carries none. The list is in the property named
// like the last part of the type, which is routes of Microsoft.Network/routeTables/routes.
func Put[M any](ctx context.Context, r *resourcetype.Request[M], childType string, list *[]json.RawMessage) ([]*armerror.Error, error) {
	property := path.Base(childType)
	var problems []*armerror.Error
	named := map[string]bool{}
	if list == nil {
		list = new([]json.RawMessage)
	}
	for i, raw := range *list {
		var child struct {
			Name string `json:"name"`
		}
		add := func(code, format string, args ...any) {
			problems = append(problems, armerror.New(code, format, args...).WithTarget(fmt.Sprintf("properties.%s[%d].name", property, i)))
		}
		if err := json.Unmarshal(raw, &child); err != nil || child.Name == "" {
			add("InvalidRequestFormat", "Cannot parse the request: %s %d of '%s' has no name.", property, i, r.ID.Name())
			continue
		}
		id, err := resourceid.Parse(r.ID.String() + "/" + property + "/" + child.Name)
		switch {
		case err != nil || strings.Contains(child.Name, "/"):
			add("InvalidResourceName", "Resource name %s is invalid.", child.Name)
		case named[id.Key()]:
			add("DuplicateResourceName", "Resource %s has two child resources with the same name (%s).", r.ID, child.Name)
		default:
			named[id.Key()] = true
			r.PutChild(id, raw)
		}
	}
	stored, err := r.Documents.List(ctx, r.ID, childType)
	if err != nil {
		return nil, fmt.Errorf("list the %s of %s: %w", property, r.ID, err)
	}
	for _, s := range stored {
		if !named[s.ID.Key()] {
			r.DeleteChild(s.ID)
		}
	}
	return problems, nil
}

// Await is done when the children are: they were written with their parent and have operations of their own.
func Await[M any](ctx context.Context, r *resourcetype.Reconciliation[M], childTypes ...string) (resourcetype.Result, error) {
	for _, childType := range childTypes {
		list, err := r.Client.List(ctx, r.ID, childType)
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("list the %s of %s: %w", path.Base(childType), r.ID, err)
		}
		for _, c := range list {
			switch state := resourcetype.State(c.Body); {
			case state == resourcestore.Failed && !r.Deleting:
				return resourcetype.Result{}, armerror.New("ChildResourceFailed", "%s could not be made; its own operation tells why.", c.ID)
			case c.Deleting || state != resourcestore.Succeeded:
				return resourcetype.Result{Waiting: true}, nil
			}
		}
	}
	return resourcetype.Result{}, nil
}

// Show are the children as their parent's answer has them.
func Show(ctx context.Context, docs resourcetype.Reader, parent resourceid.ID, childType string) ([]json.RawMessage, error) {
	stored, err := docs.List(ctx, parent, childType)
	if err != nil {
		return nil, fmt.Errorf("list the %s of %s: %w", path.Base(childType), parent, err)
	}
	shown := make([]json.RawMessage, 0, len(stored))
	for _, s := range stored {
		var doc map[string]any
		if err := json.Unmarshal(s.Body, &doc); err != nil {
			return nil, fmt.Errorf("read %s: %w", s.ID, err)
		}
		delete(doc, "cloister")
		doc["id"], doc["name"], doc["type"], doc["etag"] = s.ID.String(), s.ID.Name(), childType, s.ETag()
		raw, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		shown = append(shown, raw)
	}
	return shown, nil
}
