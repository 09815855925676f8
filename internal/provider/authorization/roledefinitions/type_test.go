package roledefinitions

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/provider/authorization/rolecheck"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

var scope = resourceid.MustParse("/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso/providers/Microsoft.ContainerRegistry/registries/netisoreg01")

func TestFilters(t *testing.T) {
	for filter, want := range map[string]int{
		"roleName eq 'AcrPull'": 1, "roleName eq 'acrpull'": 1, "roleName eq 'Network Contributor'": 1, "roleName eq 'Managed Identity Operator'": 1,
		"roleName eq 'None'": 0, "": len(BuiltIn()), "type eq 'CustomRole'": 0, "atScope() and roleName eq 'Owner'": 1,
	} {
		list, err := List(scope, filter)
		if err != nil || len(list) != want {
			t.Errorf("%q: %d, %v", filter, len(list), err)
		}
	}
	list, _ := List(scope, "roleName eq 'AcrPull'")
	if got := list[0].ID.String(); got != "/subscriptions/22222222-2222-2222-2222-222222222222/providers/Microsoft.Authorization/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d" {
		t.Errorf("%s", got)
	}
	if want := `{"properties":{"roleName":"AcrPull","type":"BuiltInRole","description":"acr pull","assignableScopes":["/"],"permissions":[{"actions":["Microsoft.ContainerRegistry/registries/pull/read"],"notActions":[],"dataActions":[],"notDataActions":[]}]}}`; string(list[0].Body) != want {
		t.Errorf("%s", list[0].Body)
	}
	if _, err := List(scope, "roleName eq "); providertest.Codes(err) != "UnsupportedQuery@$filter" {
		t.Errorf("%v", err)
	}
}

func TestFind(t *testing.T) {
	for _, id := range []resourceid.ID{ID(scope, AcrPull), ID(resourceid.ID{}, AcrPull)} {
		r, err := Spec().Find(t.Context(), id, nil)
		if err != nil || !r.ID.Equal(id) {
			t.Errorf("%s: %v, %v", id, r.ID, err)
		}
		var m Model
		if err := json.Unmarshal(r.Body, &m); err != nil || m.Properties.RoleName != "AcrPull" {
			t.Errorf("%s, %v", r.Body, err)
		}
	}
	if _, err := Spec().Find(t.Context(), ID(scope, uuid.NewString()), nil); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestBuiltInRoles(t *testing.T) {
	ids, names := map[string]bool{}, map[string]bool{}
	for _, r := range BuiltIn() {
		if _, err := uuid.Parse(r.ID); err != nil || ids[r.ID] || names[r.Name] {
			t.Errorf("%s %s: %v", r.ID, r.Name, err)
		}
		ids[r.ID], names[r.Name] = true, true
	}
	give := func(role string) []rolecheck.Assignment {
		return []rolecheck.Assignment{{Principal: "p", Role: role, Scope: scope}}
	}
	for _, c := range []struct {
		role, action string
		want         bool
	}{
		{Contributor, "Microsoft.Authorization/roleAssignments/write", false},
		{Contributor, "Microsoft.ContainerRegistry/registries/pull/read", true},
		{Owner, "Microsoft.Authorization/roleAssignments/write", true},
		{AcrPull, "Microsoft.ContainerRegistry/registries/pull/read", true},
		{AcrPull, "Microsoft.ContainerRegistry/registries/push/write", false},
		{AcrPull, "Microsoft.ContainerRegistry/registries/read", false},
		{NetworkContributor, "Microsoft.Network/virtualNetworks/subnets/join/action", true},
		{ManagedIdentityOperate, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action", true},
		{ManagedIdentityOperate, "Microsoft.ManagedIdentity/userAssignedIdentities/write", false},
	} {
		if got := rolecheck.Allowed(give(c.role), Definitions(), "p", c.action, scope); got != c.want {
			t.Errorf("%s %s: %v", c.role, c.action, got)
		}
	}
}
