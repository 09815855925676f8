// Package networksecuritygroups is the resource type Microsoft.Network/networkSecurityGroups. Its rules
// are documents of their own; the package shows them, and the default rules, in the group's answer.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/network-security-groups
package networksecuritygroups

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
)

// Name is the resource type.
const Name = "Microsoft.Network/networkSecurityGroups"

const (
	rulesType      = "Microsoft.Network/networkSecurityGroups/securityRules"
	interfacesType = "Microsoft.Network/networkInterfaces"
	subnetsType    = "Microsoft.Network/virtualNetworks/subnets"
)

// Model is the document of a network security group.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are a network security group's.
type Properties struct {
	ResourceGUID         string             `json:"resourceGuid,omitempty"`
	SecurityRules        *[]json.RawMessage `json:"securityRules,omitempty"`        // only in requests and answers
	DefaultSecurityRules []json.RawMessage  `json:"defaultSecurityRules,omitempty"` // only in answers, as all that follow
	Subnets              []SubResource      `json:"subnets,omitempty"`
	NetworkInterfaces    []SubResource      `json:"networkInterfaces,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Rule is a rule as the group's answer shows it.
type Rule struct {
	Name       string
	Properties any
}

// Type is the resource type; see Spec for its arguments.
func Type(w World, defaults []Rule) resourcetype.Definition {
	return resourcetype.Define(Spec(w, defaults))
}

// Spec declares the type. defaults are the rules that every group ends with.
func Spec(w World, defaults []Rule) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:          Name,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		Render: func(ctx context.Context, v *resourcetype.View[Model]) error {
			return render(ctx, v, defaults)
		},
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("security rules")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return children(ctx, r)
		},
	}
}

// children waits for the security rules: they were written with their parent and have operations of their own.
func children(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
	list, err := r.Client.List(ctx, r.ID, rulesType)
	if err != nil {
		return resourcetype.Result{}, fmt.Errorf("list the security rules of %s: %w", r.ID, err)
	}
	for _, c := range list {
		switch state := resourcetype.State(c.Body); {
		case state == resourcestore.Failed && !r.Deleting:
			return resourcetype.Result{}, armerror.New("ChildResourceFailed", "The security rule %s could not be made; its own operation tells why.", c.ID)
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
	if p.SecurityRules != nil {
		for i, raw := range *p.SecurityRules {
			target := fmt.Sprintf("properties.securityRules[%d].name", i)
			var s struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(raw, &s); err != nil || s.Name == "" || strings.Contains(s.Name, "/") {
				problems = append(problems, armerror.New("InvalidRequestFormat", "Cannot parse the request: security rule %d of '%s' has no valid name.", i, r.ID.Name()).WithTarget(target))
				continue
			}
			id, err := resourceid.Parse(r.ID.String() + "/securityRules/" + s.Name)
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
	// A PUT (it alone carries a location) is the whole truth of a group: rules it does not name go, unlike
	// the subnets of a network.
	stored, err := r.Documents.List(ctx, r.ID, rulesType)
	if err != nil {
		return fmt.Errorf("list the rules of %s: %w", r.ID, err)
	}
	if _, whole := r.Sent["location"]; whole || p.SecurityRules != nil {
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
	r.Model.Properties = Properties{ResourceGUID: guid}
	return nil
}

// users are the subnets and interfaces that name the group.
func users(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) (subnets, interfaces []SubResource, err error) {
	find := func(kind string) ([]SubResource, error) {
		list, err := docs.List(ctx, resourceid.ID{}, kind)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind, err)
		}
		var found []SubResource
		for _, r := range list {
			var d struct {
				Properties struct {
					NetworkSecurityGroup *SubResource `json:"networkSecurityGroup"`
				} `json:"properties"`
			}
			if json.Unmarshal(r.Body, &d) == nil && d.Properties.NetworkSecurityGroup != nil && strings.EqualFold(d.Properties.NetworkSecurityGroup.ID, id.String()) {
				found = append(found, SubResource{r.ID.String()})
			}
		}
		return found, nil
	}
	if subnets, err = find(subnetsType); err == nil {
		interfaces, err = find(interfacesType)
	}
	return subnets, interfaces, err
}

func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	subnets, interfaces, err := users(ctx, r.Documents, r.ID)
	if err != nil {
		return err
	}
	var by []string
	for _, s := range append(subnets, interfaces...) {
		by = append(by, s.ID)
	}
	if len(by) > 0 {
		return armerror.New("InUseNetworkSecurityGroupCannotBeDeleted", "Network security group %s cannot be deleted because it is in use by the following resources: %s. In order to delete the Network security group, remove the association with the resource(s). To learn how to do this, see aka.ms/deletensg.", r.ID, strings.Join(by, ", "))
	}
	return nil
}

func render(ctx context.Context, v *resourcetype.View[Model], defaults []Rule) error {
	stored, err := v.Documents.List(ctx, v.ID, rulesType)
	if err != nil {
		return fmt.Errorf("list the rules of %s: %w", v.ID, err)
	}
	rules := make([]json.RawMessage, 0, len(stored))
	for _, s := range stored {
		var doc map[string]any
		if err := json.Unmarshal(s.Body, &doc); err != nil {
			return fmt.Errorf("read %s: %w", s.ID, err)
		}
		delete(doc, "cloister")
		doc["id"], doc["name"], doc["type"], doc["etag"] = s.ID.String(), s.ID.Name(), rulesType, s.ETag()
		raw, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		rules = append(rules, raw)
	}
	p := &v.Model.Properties
	p.SecurityRules = &rules
	for _, d := range defaults {
		body, err := json.Marshal(d.Properties)
		if err != nil {
			return err
		}
		var properties map[string]any
		if err := json.Unmarshal(body, &properties); err != nil {
			return err
		}
		properties["provisioningState"] = resourcestore.Succeeded
		raw, err := json.Marshal(map[string]any{
			"id": v.ID.String() + "/defaultSecurityRules/" + d.Name, "name": d.Name, "type": Name + "/defaultSecurityRules", "properties": properties,
		})
		if err != nil {
			return err
		}
		p.DefaultSecurityRules = append(p.DefaultSecurityRules, raw)
	}
	p.Subnets, p.NetworkInterfaces, err = users(ctx, v.Documents, v.ID)
	return err
}
