// Package securityrules is the resource type Microsoft.Network/networkSecurityGroups/securityRules, and
// what a rule means: which flows it matches, once the service tags in it are turned into prefixes.
//
// https://learn.microsoft.com/azure/virtual-network/network-security-groups-overview
package securityrules

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Name is the resource type.
const Name = "Microsoft.Network/networkSecurityGroups/securityRules"

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
		Name:        Name,
		Placement:   resourcetype.Inherited,
		NameRule:    regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:    "InvalidResourceName",
		NameMessage: "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:     prepare,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("security rule")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply security rule %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	p := &r.Model.Properties
	problems := validate(p)
	parent, _ := r.ID.Parent()
	siblings, err := r.Documents.List(ctx, parent, Name)
	if err != nil {
		return fmt.Errorf("list the rules of %s: %w", parent, err)
	}
	problems = append(problems, conflicts(r.ID, p, siblings)...)
	if err := armerror.Join(problems); err != nil {
		return err
	}
	for _, list := range []*[]string{&p.SourcePortRanges, &p.DestinationPortRanges, &p.SourceAddressPrefixes, &p.DestinationAddressPrefixes} {
		if *list == nil {
			*list = []string{}
		}
	}
	return nil
}

func conflicts(id resourceid.ID, p *Properties, siblings []resourcestore.Resource) []*armerror.Error {
	var problems []*armerror.Error
	for _, s := range siblings {
		var m Model
		if s.ID.Equal(id) || json.Unmarshal(s.Body, &m) != nil {
			continue
		}
		if m.Properties.Priority == p.Priority && strings.EqualFold(m.Properties.Direction, p.Direction) {
			problems = append(problems, armerror.New("SecurityRuleConflict", "Security rule %s conflicts with rule %s. Rules cannot have the same Priority and Direction.", id.Name(), s.ID.Name()).WithTarget("properties.priority"))
		}
	}
	return problems
}
