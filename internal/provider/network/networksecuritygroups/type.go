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
	"github.com/cloister-dev/cloister/internal/provider/network/inlinechildren"
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
			return inlinechildren.Await(ctx, r, rulesType)
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	// A PUT (it alone carries a location) is the whole truth of a group: rules it does not name go, unlike
	// the subnets of a network.
	if _, whole := r.Sent["location"]; whole || p.SecurityRules != nil {
		problems, err := inlinechildren.Put(ctx, r, rulesType, p.SecurityRules)
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
	rules, err := inlinechildren.Show(ctx, v.Documents, v.ID, rulesType)
	if err != nil {
		return err
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
