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

func roleCommands() []command {
	scope := arg{name: "scope", help: "Scope at which the role assignment or definition applies to.", required: true}
	table := columns{{"Principal", "principalName || principalId"}, {"Role", "roleDefinitionName"}, {"Scope", "scope"}}
	return []command{
		{path: "role assignment create", help: "Create a new role assignment.", table: table, example: "--role AcrPull --scope ID --assignee-object-id ID --assignee-principal-type ServicePrincipal", args: []arg{
			{name: "role", help: "Role name or ID.", required: true}, scope,
			{name: "assignee-object-id", help: "The assignee's object ID.", required: true},
			{name: "assignee-principal-type", help: "Principal type of the assignee.", choices: []string{"ForeignGroup", "Group", "ServicePrincipal", "User"}},
			{name: "name", short: "n", help: "A GUID for the role assignment. One is made when not given.", part: true},
			{name: "description", help: "Description of the role assignment."},
		}, run: func(c *call) (any, error) {
			at, err := scopeOf(c)
			if err != nil {
				return nil, err
			}
			p := object{"principalId": c.get("assignee-object-id")}
			if t := c.get("assignee-principal-type"); t != "" {
				p["principalType"] = t
			}
			if d := c.get("description"); d != "" {
				p["description"] = d
			}
			return c.assign(at, c.get("role"), c.get("name"), p)
		}},
		{path: "role assignment list", help: "List role assignments.", table: table, args: []arg{
			optional(scope), optional(argGroup),
			{name: "assignee", help: "Represent a user, group, or service principal by its object ID."},
			{name: "role", help: "Role name or ID."},
			{name: "all", help: "Show all assignments under the current subscription.", kind: flag},
		}, run: assignmentList},
		{path: "role assignment delete", help: "Delete role assignments.", args: []arg{{name: "ids", help: "Space-separated role assignment IDs.", kind: many, required: true}}, run: func(c *call) (any, error) {
			for _, s := range c.all("ids") {
				id, err := resourceid.Parse(s)
				if err != nil {
					return nil, fmt.Errorf("argument --ids: %w", err)
				}
				if _, err := c.remove(id, assignmentAPI); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
		{path: "role definition list", help: "List role definitions.", table: columns{{"Name", "roleName"}, {"Type", "type"}, {"Description", "description"}},
			args: []arg{{name: "name", short: "n", help: "The role's name or GUID."}, optional(scope)}, run: func(c *call) (any, error) {
				at := orString(c.get("scope"), "/subscriptions/"+c.c.Subscription)
				return c.definitions(at, c.get("name"))
			}},
	}
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

// assign gives a principal a role, by the role's name, GUID or ID. That it has it already is what was wanted.
func (c *call) assign(scope, role, name string, properties object) (any, error) {
	definition := role
	if _, err := uuid.Parse(role); err == nil {
		definition = "/subscriptions/" + c.c.Subscription + definitionsPath + "/" + role
	} else if !strings.HasPrefix(role, "/") {
		found, err := c.definitions(scope, role)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("Role '%s' doesn't exist.", role)
		}
		doc, _ := found[0].(map[string]any)
		definition, _ = doc["id"].(string)
	}
	properties["roleDefinitionId"] = definition
	p := scope + assignmentsPath + "/" + orString(name, uuid.NewString())
	id, err := resourceid.Parse(p)
	if err != nil {
		return nil, err
	}
	doc, err := c.c.long(c.ctx, http.MethodPut, id, p, assignmentAPI, object{"properties": properties}, false)
	if e := (*Error)(nil); err != nil && asError(err, &e) && e.Code == "RoleAssignmentExists" {
		all, err := c.c.list(c.ctx, scope+assignmentsPath+"?$filter="+url.QueryEscape("atScope()"), assignmentAPI)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			doc, _ := a.(map[string]any)
			have, _ := doc["properties"].(map[string]any)
			if equalText(have["principalId"], properties["principalId"]) && equalText(have["roleDefinitionId"], definition) {
				return doc, nil
			}
		}
	}
	return doc, err
}

func equalText(a, b any) bool { return strings.EqualFold(fmt.Sprint(a), fmt.Sprint(b)) }

// assignmentList shows assignments with the names of their roles.
func assignmentList(c *call) (any, error) {
	at := "/subscriptions/" + c.c.Subscription
	filter := "atScope()"
	if c.has("resource-group") {
		at = c.group().String()
	}
	if c.has("scope") {
		var err error
		if at, err = scopeOf(c); err != nil {
			return nil, err
		}
	}
	p := at + assignmentsPath
	if !c.is("all") {
		p += "?$filter=" + url.QueryEscape(filter)
	}
	all, err := c.c.list(c.ctx, p, assignmentAPI)
	if err != nil {
		return nil, err
	}
	definitions, err := c.definitions(at, "")
	if err != nil {
		return nil, err
	}
	names := map[string]any{}
	for _, d := range definitions {
		doc, _ := d.(map[string]any)
		p, _ := doc["properties"].(map[string]any)
		id, _ := doc["id"].(string)
		names[strings.ToLower(path.Base(id))] = p["roleName"]
	}
	out := []any{}
	for _, a := range all {
		doc, _ := a.(map[string]any)
		p, _ := doc["properties"].(map[string]any)
		if p == nil {
			continue
		}
		definition, _ := p["roleDefinitionId"].(string)
		role := names[strings.ToLower(path.Base(definition))]
		if w := c.get("assignee"); w != "" && !equalText(p["principalId"], w) {
			continue
		}
		if r := c.get("role"); r != "" && !equalText(role, r) && !strings.EqualFold(path.Base(definition), path.Base(r)) {
			continue
		}
		p["roleDefinitionName"] = role
		out = append(out, doc)
	}
	return out, nil
}
