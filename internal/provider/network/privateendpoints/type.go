// Package privateendpoints is the resource type Microsoft.Network/privateEndpoints: addresses in a subnet
// that stand for one resource of Azure. Its network interface and, under the target, the connection to be
// approved are documents of their own, written by its reconcile.
//
//	written (addresses, names allocated) → interface → connection (Approved or Pending) → machine in agreement
//
// https://learn.microsoft.com/rest/api/virtualnetwork/private-endpoints
package privateendpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.Network/privateEndpoints"

const (
	interfacesType = "Microsoft.Network/networkInterfaces"
	subnetsType    = "Microsoft.Network/virtualNetworks/subnets"
	zoneGroupsType = "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"

	interfacesVersion  = "2024-05-01"
	connectionsVersion = "2023-07-01"
)

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Authorizer answers role questions.
type Authorizer interface {
	// Allowed tells whether the principal may do the role action on the scope.
	Allowed(ctx context.Context, principal resourcetype.Principal, action string, scope resourceid.ID) (bool, error)
}

// Type is the resource type; see Spec for its arguments.
func Type(w World, roles Authorizer) resourcetype.Definition {
	return resourcetype.Define(Spec(w, roles))
}

// Spec declares the type.
func Spec(w World, roles Authorizer) resourcetype.Spec[Model] {
	e := endpoints{w, roles}
	return resourcetype.Spec[Model]{
		Name:        Name,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_])?$`),
		NameCode:    "InvalidResourceName",
		NameMessage: "Resource name is invalid. The name can be up to 64 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:     e.prepare,
		References:  references,
		Render:      render,
		Reconcile:   e.reconcile,
	}
}

type endpoints struct {
	world World
	roles Authorizer
}

func references(m *Model) []resourcetype.Reference {
	var refs []resourcetype.Reference
	add := func(property, text, linked string) {
		if id, err := resourceid.Parse(text); err == nil && !id.IsZero() {
			refs = append(refs, resourcetype.Reference{Property: property, ID: id, Linked: linked})
		}
	}
	if m.Properties.Subnet != nil {
		add("properties.subnet.id", m.Properties.Subnet.ID, subnetsType+"/join/action")
	}
	// No permission on the target is demanded: without one the connection waits for approval.
	for _, c := range m.Properties.Connections() {
		add(connectionID, c.Properties.PrivateLinkServiceID, "")
	}
	// The endpoint's own parts count as what it points to: they change its answer, and go after it.
	if m.Cloister != nil && m.Cloister.Connection != "" {
		add("cloister.connection", m.Cloister.Connection, "")
	}
	for i, n := range m.Properties.NetworkInterfaces {
		add(fmt.Sprintf("properties.networkInterfaces[%d].id", i), n.ID, "")
	}
	return refs
}

// reconcile writes the interface and the connection, then waits for the machine.
func (e endpoints) reconcile(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	memory := r.Model.Cloister
	if memory == nil {
		return resourcetype.Result{}, nil
	}
	if r.Deleting {
		return e.remove(ctx, r)
	}
	waiting := false
	for _, n := range r.Model.Properties.NetworkInterfaces {
		id, err := resourceid.Parse(n.ID)
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("network interface of %s: %w", r.ID, err)
		}
		r.Step("network interface")
		state, err := r.Client.Put(ctx, id, interfacesVersion, map[string]any{
			"location":   r.Model.Location,
			"properties": map[string]any{"privateEndpoint": SubResource{r.ID.String()}},
		})
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("write network interface %s: %w", id, err)
		}
		switch state {
		case resourcestore.Succeeded:
		case resourcestore.Failed:
			return resourcetype.Result{}, armerror.New("NetworkInterfaceFailed", "The network interface %s of private endpoint %s could not be made.", id, r.ID)
		default:
			waiting = true
		}
	}
	if memory.Connection != "" && !memory.ConnectionMade {
		r.Step("connection")
		if err := e.connect(ctx, r); err != nil {
			return resourcetype.Result{}, err
		}
	}
	if waiting {
		return resourcetype.Result{Waiting: true, Again: waitForParts}, nil
	}
	r.Step("private link")
	if err := e.world.Sync(ctx); err != nil {
		return resourcetype.Result{}, fmt.Errorf("connect private endpoint %s: %w", r.ID, err)
	}
	return resourcetype.Result{}, nil
}

// connect writes the connection under the target once. After that it belongs to the target's owner, who
// approves, rejects and removes it.
func (e endpoints) connect(ctx context.Context, r *resourcetype.Reconciliation[Model]) error {
	id, err := resourceid.Parse(r.Model.Cloister.Connection)
	if err != nil {
		return fmt.Errorf("connection of %s: %w", r.ID, err)
	}
	var stored json.RawMessage
	err = r.Client.Get(ctx, id, &stored)
	if errors.Is(err, resourcestore.ErrNotFound) {
		_, err = r.Client.Put(ctx, id, connectionsVersion, map[string]any{"properties": map[string]any{"privateEndpoint": SubResource{r.ID.String()}}})
	}
	if err != nil {
		return fmt.Errorf("write connection %s: %w", id, err)
	}
	r.Model.Cloister.ConnectionMade = true
	return r.Save(ctx)
}

func (e endpoints) remove(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	var ids []string
	if r.Model.Cloister.Connection != "" {
		ids = append(ids, r.Model.Cloister.Connection)
	}
	for _, n := range r.Model.Properties.NetworkInterfaces {
		ids = append(ids, n.ID)
	}
	waiting := false
	for _, text := range ids {
		id, err := resourceid.Parse(text)
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("remove %s: %w", r.ID, err)
		}
		gone, err := r.Client.Delete(ctx, id)
		if err != nil {
			return resourcetype.Result{}, fmt.Errorf("delete %s: %w", id, err)
		}
		waiting = waiting || !gone
	}
	if waiting {
		return resourcetype.Result{Waiting: true, Again: waitForParts}, nil
	}
	if err := e.world.Sync(ctx); err != nil {
		return resourcetype.Result{}, fmt.Errorf("disconnect private endpoint %s: %w", r.ID, err)
	}
	return resourcetype.Result{}, nil
}

// ConnectionState reads how far the endpoint's connection is: on the connection under the target, or in the
// endpoint's memory where the target's type has no connections.
func ConnectionState(ctx context.Context, docs resourcetype.Reader, m *Model) (State, error) {
	memory := m.Cloister
	own := State{Status: Pending, Description: "", ActionsRequired: "None"}
	if memory == nil {
		return own, nil
	}
	own.Description = memory.Description
	if memory.AutoApproved {
		own.Status, own.Description = Approved, "Auto-Approved"
	}
	if memory.Connection == "" || !memory.ConnectionMade {
		return own, nil
	}
	id, err := resourceid.Parse(memory.Connection)
	if err != nil {
		return own, fmt.Errorf("connection: %w", err)
	}
	var c struct {
		Properties struct {
			State State `json:"privateLinkServiceConnectionState"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, id, &c); errors.Is(err, resourcestore.ErrNotFound) {
		return State{Status: Disconnected, Description: "The connection was removed on the side of the private link resource.", ActionsRequired: "None"}, nil
	} else if err != nil {
		return own, fmt.Errorf("read %s: %w", id, err)
	}
	return c.Properties.State, nil
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	p := &v.Model.Properties
	state, err := ConnectionState(ctx, v.Documents, v.Model)
	if err != nil {
		return err
	}
	for _, list := range [][]Connection{p.PrivateLinkServiceConnections, p.ManualPrivateLinkServiceConnections} {
		for i := range list {
			s := state
			list[i].Properties.State = &s
		}
	}
	// The names are a zone group's business once there is one.
	groups, err := v.Documents.List(ctx, v.ID, zoneGroupsType)
	if err != nil {
		return fmt.Errorf("list the zone groups of %s: %w", v.ID, err)
	}
	configs := []CustomDNSConfig{}
	if len(groups) == 0 && v.Model.Cloister != nil {
		for _, m := range v.Model.Cloister.Members {
			for _, name := range m.FQDNs {
				configs = append(configs, CustomDNSConfig{FQDN: name, IPAddresses: []string{m.Address}})
			}
		}
	}
	p.CustomDNSConfigs = &configs
	return nil
}

// connectionName is Azure's name of a connection under its target.
func connectionName(endpoint string) string {
	return endpoint + "." + strings.ReplaceAll(uuid.NewString(), "-", "")
}
