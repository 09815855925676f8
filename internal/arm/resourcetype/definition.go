package resourcetype

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// Definition is a resource type as the protocol drives it, its model hidden. Make one with Define or
// DefineEndpoint.
type Definition struct {
	Name                     string
	Placement                Placement
	DisplayType              string // never empty
	NameRule                 *regexp.Regexp
	NameCode, NameMessage    string
	Extension                bool
	SubscriptionLevel        bool
	Synchronous              bool
	NoState, NoPut, NoDelete bool
	Creating, Updating, Busy string                                                                                        // never empty
	Reconciles               bool                                                                                          // the type has a Reconcile
	Actions                  []ActionInfo                                                                                  // of the type, in no order
	Endpoint                 *Endpoint                                                                                     // set for an Endpoint, which has no documents
	List                     func(ctx context.Context, r *ListRequest) ([]resourcestore.Resource, error)                   // may be nil
	Find                     func(ctx context.Context, id resourceid.ID, documents Reader) (resourcestore.Resource, error) // may be nil

	model modelled
}

// ActionInfo is what the protocol needs to know of an Action.
type ActionInfo struct {
	Name       string
	Permission string
}

// modelled is the part of a type that knows its model.
type modelled interface {
	prepare(ctx context.Context, d *Draft, base map[string]any) (*Prepared, error)
	prepareDelete(ctx context.Context, d *Draft) error
	references(body json.RawMessage) ([]Reference, error)
	show(ctx context.Context, r resourcestore.Resource, documents Reader) (map[string]any, int, error)
	reconcile(ctx context.Context, r *Run) (Result, json.RawMessage, error)
	act(ctx context.Context, d *Deed) (any, json.RawMessage, error)
}

// Namespace is the resource provider's namespace.
func (d Definition) Namespace() string { return d.Name[:strings.IndexByte(d.Name, '/')] }

// Types are the parts of the type below the namespace.
func (d Definition) Types() []string { return strings.Split(d.Name, "/")[1:] }

// Action finds an action by name, in any case.
func (d Definition) Action(name string) (ActionInfo, bool) {
	for _, a := range d.Actions {
		if strings.EqualFold(a.Name, name) {
			return a, true
		}
	}
	return ActionInfo{}, false
}

var typeName = regexp.MustCompile(`^[A-Za-z0-9]+(\.[A-Za-z0-9]+)+(/[A-Za-z0-9]+)+$`)

// Define makes a Definition. It panics on a Spec that can never work.
func Define[M any](s Spec[M]) Definition {
	d := Definition{
		Name: s.Name, Placement: s.Placement, DisplayType: s.DisplayType, NameRule: s.NameRule,
		NameCode: s.NameCode, NameMessage: s.NameMessage, Extension: s.Extension, SubscriptionLevel: s.SubscriptionLevel,
		Synchronous: s.Synchronous, NoState: s.NoState, NoPut: s.NoPut, NoDelete: s.NoDelete,
		Creating: s.Creating, Updating: s.Updating, Busy: s.BusyCode,
		Reconciles: s.Reconcile != nil, List: s.List, Find: s.Find, model: &typed[M]{s},
	}
	impossible := func(format string, args ...any) {
		panic("resourcetype: " + s.Name + ": " + fmt.Sprintf(format, args...))
	}
	if !typeName.MatchString(s.Name) {
		impossible("%q is no resource type", s.Name)
	}
	checkModel(reflect.TypeFor[M](), impossible)
	if s.Synchronous && s.Reconcile == nil {
		impossible("Synchronous without a Reconcile means nothing")
	}
	if s.Extension && s.SubscriptionLevel {
		impossible("an extension has no level of its own")
	}
	if (s.Creating != "" || s.Updating != "") && (s.NoState || s.Reconcile == nil) {
		impossible("a state that is never shown")
	}
	seen := map[string]bool{}
	for name, a := range s.Actions {
		if name == "" || strings.Contains(name, "/") || seen[strings.ToLower(name)] {
			impossible("action %q", name)
		}
		seen[strings.ToLower(name)] = true
		if a.Handle == nil {
			impossible("action %s has no Handle", name)
		}
		p := a.Permission
		if p == "" {
			p = s.Name + "/" + name + "/action"
		}
		d.Actions = append(d.Actions, ActionInfo{Name: name, Permission: p})
	}
	d.fill()
	return d
}

// DefineEndpoint makes a Definition of an Endpoint. It panics on one that can never work.
func DefineEndpoint(e Endpoint) Definition {
	if !typeName.MatchString(e.Name) || e.Get == nil && e.Post == nil {
		panic("resourcetype: impossible endpoint " + e.Name)
	}
	d := Definition{Name: e.Name, Placement: Inherited, Endpoint: &e, NoPut: true, NoDelete: true, NoState: true}
	d.fill()
	return d
}

func (d *Definition) fill() {
	for at, text := range map[*string]string{
		&d.DisplayType: d.Name, &d.Creating: "Creating", &d.Updating: "Updating", &d.Busy: armerror.AnotherOperationInProgress,
	} {
		if *at == "" {
			*at = text
		}
	}
}

var modelKeys = map[string]bool{
	"id": true, "name": true, "type": true, "location": true, "tags": true, "identity": true, "sku": true, "kind": true, "zones": true,
	"managedBy": true, "extendedLocation": true, "plan": true, "properties": true, "cloister": true, "etag": true,
}

func checkModel(m reflect.Type, impossible func(string, ...any)) {
	if m.Kind() != reflect.Struct {
		impossible("the model %s is not a struct", m)
	}
	for i := range m.NumField() {
		f := m.Field(i)
		if f.Anonymous || !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !modelKeys[name] {
			impossible("the model's field %s has the JSON name %q, which is no part of a document's envelope", f.Name, name)
		}
	}
}

// Draft is a PUT, PATCH or DELETE of a document, before it is one.
type Draft struct {
	ID         resourceid.ID
	Caller     Principal
	APIVersion string
	Sent       json.RawMessage // nil on DELETE
	Patch      bool
	Location   string // replaces the one sent, when not empty
	Existing   *resourcestore.Resource
	Documents  Reader
	Arguments  []string
}

// Prepared is a document ready to be stored. It has no provisioning state yet.
type Prepared struct {
	Body     json.RawMessage
	Children []ChildDocument
	Removed  []resourceid.ID
}

// Prepare makes the document that a PUT or PATCH asks for.
func (d Definition) Prepare(ctx context.Context, r *Draft) (*Prepared, error) {
	base, err := ParseBody(r.Sent)
	if err != nil {
		return nil, err
	}
	var existing map[string]any
	if r.Existing != nil {
		if existing, err = object(r.Existing.Body); err != nil {
			return nil, fmt.Errorf("read the stored document %s: %w", r.ID, err)
		}
	}
	if r.Patch {
		if p, ok := existing["properties"].(map[string]any); ok {
			delete(p, "provisioningState")
		}
		base = mergePatch(existing, base, true)
	}
	delete(base, "cloister")
	if memory, ok := existing["cloister"]; ok {
		base["cloister"] = memory
	}
	base["id"], base["name"], base["type"] = r.ID.String(), r.ID.Name(), d.DisplayType
	if r.Location != "" {
		base["location"] = r.Location
	}
	return d.model.prepare(ctx, r, base)
}

// PrepareDelete asks the type whether the document may go.
func (d Definition) PrepareDelete(ctx context.Context, r *Draft) error {
	return d.model.prepareDelete(ctx, r)
}

// References are the resources that a stored document points to.
func (d Definition) References(body json.RawMessage) ([]Reference, error) {
	if d.model == nil {
		return nil, nil
	}
	return d.model.references(body)
}

// Show is the document as clients see it, and the HTTP status of a GET.
func (d Definition) Show(ctx context.Context, r resourcestore.Resource, documents Reader) (json.RawMessage, int, error) {
	m, status, err := d.model.show(ctx, r, documents)
	if err != nil {
		return nil, 0, err
	}
	delete(m, "cloister")
	m["id"] = r.ID.String()
	if name, _ := m["name"].(string); name == "" {
		m["name"] = r.ID.Name() // some types' Render shows a composed one
	}
	if _, ok := m["type"]; !ok {
		m["type"] = d.DisplayType
	}
	if r.Revision > 0 {
		m["etag"] = r.ETag()
	}
	b, err := json.Marshal(m)
	return b, status, err
}

// Run is one run of a Reconcile.
type Run struct {
	Resource resourcestore.Resource
	Client   Client
	Save     func(ctx context.Context, body json.RawMessage) error
	Step     func(name string)
	Attempt  int
	// Requested is Reconciliation.Requested.
	Requested bool
}

// Reconcile runs the type's Reconcile. It returns the document with the changes that were made to the
// model and not saved, also along with an error.
func (d Definition) Reconcile(ctx context.Context, r *Run) (Result, json.RawMessage, error) {
	return d.model.reconcile(ctx, r)
}

// Deed is a POST on a document.
type Deed struct {
	Resource   resourcestore.Resource
	Name       string
	Caller     Principal
	APIVersion string
	Query      map[string][]string
	Body       json.RawMessage
	Documents  Reader
}

// Act runs an action. It returns its result and the document with the changes that were made to the model,
// nil when there were none.
func (d Definition) Act(ctx context.Context, r *Deed) (any, json.RawMessage, error) {
	result, body, err := d.model.act(ctx, r)
	if err != nil || r.Resource.Revision > 0 || body == nil {
		return result, body, err
	}
	// A document that was not stored until now gets its envelope.
	m, err := object(body)
	if err != nil {
		return nil, nil, err
	}
	m["id"], m["name"], m["type"] = r.Resource.ID.String(), r.Resource.ID.Name(), d.DisplayType
	body, err = json.Marshal(m)
	return result, body, err
}
