package roleassignments

import (
	"context"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/authorization/rolecheck"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	sub      = "/subscriptions/22222222-2222-2222-2222-222222222222"
	group    = sub + "/resourceGroups/rg-netiso"
	registry = group + "/providers/Microsoft.ContainerRegistry/registries/netisoreg01"
	acrPull  = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
	kubelet  = "95a78de3-a160-489a-b7d1-8a9d963e7eda"
	name     = "58ab52d5-7b24-4913-8374-143ce3371a40"
	create   = `{"properties": {"principalId": "` + kubelet + `", "principalType": "ServicePrincipal", "roleDefinitionId": "` + sub + `/providers/Microsoft.Authorization/roleDefinitions/` + acrPull + `"}}`
)

type directory map[string]string

func (d directory) PrincipalType(_ context.Context, id string) (string, bool, error) {
	kind, ok := d[id]
	return kind, ok, nil
}

func spec() resourcetype.Spec[Model] {
	return Spec(&providertest.World{}, directory{kubelet: "ServicePrincipal", "a7d5345c-162c-4a4b-99d6-d52373bb8e81": "ServicePrincipal"}, func(id string) bool { return strings.EqualFold(id, acrPull) })
}

func at(scope, name string) string {
	return strings.TrimSuffix(scope, "/") + "/providers/Microsoft.Authorization/roleAssignments/" + name
}

func TestCreateAndRepeat(t *testing.T) {
	d := providertest.New()
	m, err := providertest.Prepare(t, d, spec(), at(registry, name), "2022-04-01", create)
	if err != nil {
		t.Fatal(err)
	}
	p := m.Properties
	if p.Scope != registry || p.PrincipalType != "ServicePrincipal" || p.CreatedOn == "" || p.CreatedBy != "00000000-0000-0000-0000-00000000000a" {
		t.Errorf("%+v", p)
	}
	if again, err := providertest.Prepare(t, d, spec(), at(registry, name), "2022-04-01", create); err != nil || again.Properties.CreatedOn != p.CreatedOn {
		t.Errorf("%v, %v", again, err)
	}
	// az names each try by a new GUID.
	_, err = providertest.Prepare(t, d, spec(), at(strings.ToLower(registry), "0d53d8f5-7dc2-477d-96f6-08f00c3c4c34"), "2022-04-01", create)
	e, ok := armerror.As(err)
	if !ok || e.HTTPStatus() != 409 || e.Error() != "RoleAssignmentExists: The role assignment already exists. The ID of the conflicting role assignment is 58ab52d57b2449138374143ce3371a40." {
		t.Errorf("%v", err)
	}
	// On another scope it is another assignment.
	if _, err = providertest.Prepare(t, d, spec(), at(group, "0d53d8f5-7dc2-477d-96f6-08f00c3c4c34"), "2022-04-01", create); err != nil {
		t.Error(err)
	}
	_, err = providertest.Prepare(t, d, spec(), at(registry, name), "2022-04-01", strings.Replace(create, kubelet, "a7d5345c-162c-4a4b-99d6-d52373bb8e81", 1))
	if got := providertest.Codes(err); got != "RoleAssignmentUpdateNotPermitted@" {
		t.Errorf("%q", got)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"x", create, "InvalidRoleAssignmentId@name"},
		{name, strings.Replace(create, acrPull, name, 1), "RoleDefinitionDoesNotExist@properties.roleDefinitionId"},
		{name, `{"properties":{"principalId":"x","roleDefinitionId":"y"}}`, "InvalidPrincipalId@properties.principalId InvalidRoleDefinitionId@properties.roleDefinitionId"},
		{name, strings.Replace(create, kubelet, name, 1), "PrincipalNotFound@properties.principalId"},
		{name, strings.Replace(create, `"ServicePrincipal"`, `"User"`, 1), "UnmatchedPrincipalType@properties.principalType"},
		{name, strings.Replace(create, `"principalId"`, `"condition": "x", "principalId"`, 1), "NotSupported@properties.condition"},
		{name, strings.Replace(create, `"principalType": "ServicePrincipal", `, ``, 1), ""},
	} {
		_, err := providertest.Prepare(t, providertest.New(), spec(), at(registry, c.name), "2022-04-01", c.body)
		if got := providertest.Codes(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.body, got, c.want)
		}
	}
}

func TestList(t *testing.T) {
	d := providertest.New()
	for i, scope := range []string{"/", sub, group, registry, registry + "x", sub + "/resourceGroups/other"} {
		principal := kubelet
		if i%2 == 1 {
			principal = "a7d5345c-162c-4a4b-99d6-d52373bb8e81"
		}
		d.Put(t, at(scope, name), strings.Replace(create, kubelet, principal, 1))
	}
	for _, c := range []struct {
		scope, filter string
		want          int
	}{
		{registry, "atScope()", 4}, {strings.ToUpper(registry), "atScope()", 4}, {registry, "", 4}, {group, "atScope()", 3}, {group, "", 5}, {sub, "", 6},
		{registry, "atScope() and assignedTo('" + kubelet + "')", 2}, {registry, "principalId eq '" + kubelet + "'", 2}, {registry, "assignedTo('" + name + "')", 0}, {registry, "createdBy eq 'x'", 0},
	} {
		list, err := List(t.Context(), d, resourceid.MustParse(c.scope), c.filter)
		if err != nil || len(list) != c.want {
			t.Errorf("%s %q: %d, %v", c.scope, c.filter, len(list), err)
		}
	}
	if _, err := List(t.Context(), d, resourceid.MustParse(sub), "principalId eq"); providertest.Codes(err) != "UnsupportedQuery@$filter" {
		t.Errorf("%v", err)
	}
}

func TestAssignments(t *testing.T) {
	d := providertest.New()
	d.Put(t, at(registry, name), create)
	list, err := Assignments(t.Context(), d)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	definitions := rolecheck.Index([]rolecheck.Definition{{ID: acrPull, Permissions: []rolecheck.Permission{{Actions: []string{"Microsoft.ContainerRegistry/registries/pull/read"}}}}})
	const pull = "Microsoft.ContainerRegistry/registries/pull/read"
	if !rolecheck.Allowed(list, definitions, kubelet, pull, resourceid.MustParse(registry)) || rolecheck.Allowed(list, definitions, kubelet, pull, resourceid.MustParse(group)) {
		t.Errorf("%v", list)
	}
}
