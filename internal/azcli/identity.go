package azcli

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const (
	identityType    = "Microsoft.ManagedIdentity/userAssignedIdentities"
	assignmentType  = "Microsoft.Authorization/roleAssignments"
	assignmentsPath = "/providers/" + assignmentType
	definitionsPath = "/providers/Microsoft.Authorization/roleDefinitions"
)

func identityCommands() []command {
	identity := resource{path: "identity", kind: identityType, api: identityAPI, what: "a user assigned identity", table: columns{
		{"ClientId", "clientId"}, {"Location", "location"}, {"Name", "name"}, {"PrincipalId", "principalId"}, {"ResourceGroup", "resourceGroup"}, {"TenantId", "tenantId"}}}
	return append(identity.common(), command{path: "identity create", help: "Create a user assigned identity.", args: identity.args(argLocation, argTags), table: identity.table, run: func(c *call) (any, error) {
		body, err := c.document(nil)
		if err != nil {
			return nil, err
		}
		return c.write(identity.target(c), identityAPI, body)
	}})
}

func scopeOf(c *call) (string, error) {
	s := strings.TrimSuffix(c.get("scope"), "/")
	if _, err := resourceid.Parse(s); err != nil {
		return "", fmt.Errorf("argument --scope: %w", err)
	}
	return s, nil
}

// definitions are the role definitions at the scope, or those of a name.
func (c *call) definitions(scope, name string) ([]any, error) {
	p := scope + definitionsPath
	if _, err := uuid.Parse(name); err == nil {
		doc, err := c.c.getPath(c.ctx, p+"/"+name, definitionAPI)
		return []any{doc}, err
	}
	if name != "" {
		p += "?$filter=" + url.QueryEscape("roleName eq '"+name+"'")
	}
	return c.c.list(c.ctx, p, definitionAPI)
}

// roleID is the ID of a role given by name, GUID or ID.
func (c *call) roleID(scope, role string) (string, error) {
	if strings.HasPrefix(role, "/") {
		return role, nil
	}
	if _, err := uuid.Parse(role); err == nil {
		return "/subscriptions/" + c.c.Subscription + definitionsPath + "/" + role, nil
	}
	found, err := c.definitions(scope, role)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("Role '%s' doesn't exist.", role)
	}
	doc, _ := found[0].(map[string]any)
	id, _ := doc["id"].(string)
	return id, nil
}

// assign gives a principal a role, by the role's name, GUID or ID. That it has it already is what was wanted.
func (c *call) assign(scope, role, name string, properties object) (any, error) {
	definition, err := c.roleID(scope, role)
	if err != nil {
		return nil, err
	}
	properties["roleDefinitionId"] = definition
	p := scope + assignmentsPath + "/" + orString(name, uuid.NewString())
	id, err := resourceid.Parse(p)
	if err != nil {
		return nil, err
	}
	doc, err := c.c.long(c.ctx, http.MethodPut, id, p, assignmentAPI, object{"properties": properties}, false)
	if e := (*Error)(nil); err == nil || !asError(err, &e) || e.Code != "RoleAssignmentExists" {
		return doc, err
	}
	principal, _ := properties["principalId"].(string)
	there, err := c.find(search{scope: scope, principal: principal, role: role})
	if err != nil || len(there) == 0 {
		return nil, err
	}
	return there[0], c.nameAssignments(scope, there)
}

func equalText(a, b any) bool { return strings.EqualFold(fmt.Sprint(a), fmt.Sprint(b)) }

// roleNames are the names of roles by their GUIDs.
func roleNames(definitions []any) map[string]any {
	names := map[string]any{}
	for _, d := range definitions {
		doc, _ := d.(map[string]any)
		p, _ := doc["properties"].(map[string]any)
		id, _ := doc["id"].(string)
		names[strings.ToLower(path.Base(id))] = p["roleName"]
	}
	return names
}
