package azcli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

func directoryCommands() []command {
	table := columns{{"DisplayName", "displayName"}, {"Id", "id"}, {"AppId", "appId"}, {"CreatedDateTime", "createdDateTime"}}
	return []command{
		{path: "ad signed-in-user show", help: "Get the details for the currently logged-in user.", raw: true, run: func(c *call) (any, error) {
			return c.c.getPath(c.ctx, c.c.Graph+"/v1.0/me", "")
		}},
		{path: "ad sp show", help: "Get the details of a service principal.", raw: true, args: []arg{{name: "id", help: "Service principal name, or object id.", required: true}}, run: func(c *call) (any, error) {
			found, err := c.principals("servicePrincipals", "servicePrincipalNames/any(c:c eq '"+quoted(c.get("id"))+"')")
			if err != nil {
				return nil, err
			}
			if len(found) == 1 {
				return found[0], nil
			}
			return c.c.getPath(c.ctx, c.c.Graph+"/v1.0/servicePrincipals/"+url.PathEscape(c.get("id")), "")
		}},
		{path: "ad sp list", help: "List service principals.", raw: true, table: table, args: []arg{
			{name: "display-name", help: "Object's display name or its prefix."}, {name: "spn", help: "Service principal name."}, {name: "filter", help: "OData filter, e.g. --filter \"displayname eq 'test'\"."},
			{name: "all", help: "List all entities, expect long delay if under a big organization.", kind: flag}}, run: func(c *call) (any, error) {
			var filters []string
			if d := c.get("display-name"); d != "" {
				filters = append(filters, "startswith(displayName,'"+quoted(d)+"')")
			}
			if s := c.get("spn"); s != "" {
				filters = append(filters, "servicePrincipalNames/any(c:c eq '"+quoted(s)+"')")
			}
			if f := c.get("filter"); f != "" {
				filters = append(filters, f)
			}
			return c.principals("servicePrincipals", strings.Join(filters, " and "))
		}},
	}
}

// quoted is text within an OData literal.
func quoted(s string) string { return strings.ReplaceAll(s, "'", "''") }

// principals are the directory's objects of a kind that match a filter.
func (c *call) principals(kind, filter string) ([]any, error) {
	p := c.c.Graph + "/v1.0/" + kind
	if filter != "" {
		p += "?$filter=" + url.QueryEscape(filter)
	}
	_, data, err := c.c.send(c.ctx, http.MethodGet, p, "", nil)
	if err != nil {
		return nil, err
	}
	var page struct{ Value []any }
	if err := json.Unmarshal(data, &page); err != nil {
		return nil, err
	}
	return append([]any{}, page.Value...), nil
}

// byIDs are the directory's objects of these IDs; those that are not there are left out.
func (c *call) byIDs(ids []string) ([]any, error) {
	_, data, err := c.c.send(c.ctx, http.MethodPost, c.c.Graph+"/v1.0/directoryObjects/getByIds", "",
		object{"ids": ids, "types": []string{"user", "group", "servicePrincipal", "directoryObjectPartnerReference"}})
	if err != nil {
		return nil, err
	}
	var page struct{ Value []any }
	return page.Value, errors.Join(json.Unmarshal(data, &page))
}

// assignee is the object ID of --assignee: a user's name, an application's ID or URI, or an object ID.
func (c *call) assignee(given string) (objectID, kind string, err error) {
	set, kind, filter := "servicePrincipals", "ServicePrincipal", "servicePrincipalNames/any(c:c eq '"+quoted(given)+"')"
	if strings.Contains(given, "@") {
		set, kind, filter = "users", "User", "userPrincipalName eq '"+quoted(given)+"'"
	}
	found, err := c.principals(set, filter)
	if err != nil {
		return "", "", err
	}
	if len(found) > 0 {
		doc, _ := found[0].(map[string]any)
		id, _ := doc["id"].(string)
		return id, kind, nil
	}
	if _, err := uuid.Parse(given); err == nil {
		objects, err := c.byIDs([]string{given})
		if err != nil {
			return "", "", err
		}
		if len(objects) > 0 {
			doc, _ := objects[0].(map[string]any)
			id, _ := doc["id"].(string)
			return id, principalKind(doc), nil
		}
	}
	return "", "", fmt.Errorf("Cannot find user or service principal in graph database for '%s'. If the assignee is an appId, make sure the corresponding service principal is created with 'az ad sp create --id %s'.", given, given)
}

func principalKind(doc map[string]any) string {
	if strings.HasSuffix(fmt.Sprint(doc["@odata.type"]), ".user") {
		return "User"
	}
	return "ServicePrincipal"
}

func roleCommands() []command {
	scope := arg{name: "scope", help: "Scope at which the role assignment or definition applies to, e.g., /subscriptions/ID or the ID of a resource."}
	at := scope
	at.required = true
	table := columns{{"Principal", "principalName || principalId"}, {"Role", "roleDefinitionName"}, {"Scope", "scope"}}
	role := arg{name: "role", help: "Role name or id."}
	needed := role
	needed.required = true
	assignee := arg{name: "assignee", help: "Represent a user, group, or service principal. Supported format: object id, user sign-in name, or service principal name."}
	objectID := arg{name: "assignee-object-id", help: "The assignee's object ID. Use this parameter in place of '--assignee' to bypass Graph permission issues."}
	inherited := arg{name: "include-inherited", help: "Include assignments applied on parent scopes.", kind: flag}
	search := []arg{scope, optional(argGroup), assignee, objectID, role, inherited}
	return []command{
		{path: "role assignment create", help: "Create a new role assignment for a user, group, or service principal.", table: table, example: "--role AcrPull --scope ID --assignee-object-id ID --assignee-principal-type ServicePrincipal",
			args: []arg{needed, at, assignee, objectID,
				{name: "assignee-principal-type", help: "Use with --assignee-object-id to avoid errors caused by propagation latency in Microsoft Graph.", choices: []string{"ForeignGroup", "Group", "ServicePrincipal", "User"}},
				{name: "name", short: "n", help: "A GUID for the role assignment. It must be unique and different for each role assignment. One is made when not given.", part: true},
				{name: "description", help: "Description of role assignment."}}, run: assignmentCreate},
		{path: "role assignment list", help: "List role assignments. Without --all or a scope, those at the subscription.", table: table,
			args: append(slices.Clone(search), arg{name: "all", help: "Show all assignments under the current subscription.", kind: flag},
				arg{name: "include-groups", help: "Include extra assignments to the groups of which the user is a member (transitively). There are no groups here.", kind: flag}), run: assignmentList},
		{path: "role assignment delete", help: "Delete role assignments.", run: assignmentDelete,
			args: append(slices.Clone(search), arg{name: "ids", help: "Space-separated role assignment ids.", kind: many}, arg{name: "yes", short: "y", help: "Continue to delete all assignments under the subscription.", kind: flag})},
		{path: "role definition list", help: "List role definitions.", table: columns{{"Name", "roleName"}, {"Type", "type"}, {"Description", "description"}},
			args: []arg{{name: "name", short: "n", help: "The role's name or GUID."}, scope, optional(argGroup)}, run: func(c *call) (any, error) {
				scope, err := c.roleScope()
				if err != nil {
					return nil, err
				}
				return c.definitions(scope, c.get("name"))
			}},
	}
}

// roleScope is what --scope or --resource-group says, or the subscription.
func (c *call) roleScope() (string, error) {
	switch {
	case c.has("scope"):
		return scopeOf(c)
	case c.has("resource-group"):
		return c.group().String(), nil
	}
	return "/subscriptions/" + c.c.Subscription, nil
}

func assignmentCreate(c *call) (any, error) {
	switch {
	case c.has("assignee") && c.has("assignee-object-id"):
		return nil, usagef("usage error: --assignee STRING | --assignee-object-id GUID")
	case !c.has("assignee") && !c.has("assignee-object-id"):
		return nil, usagef("usage error: --assignee STRING | --assignee-object-id GUID")
	case c.has("assignee-principal-type") && !c.has("assignee-object-id"):
		return nil, usagef("usage error: --assignee-object-id GUID --assignee-principal-type TYPE")
	}
	at, err := scopeOf(c)
	if err != nil {
		return nil, err
	}
	p := object{"principalId": c.get("assignee-object-id")}
	if t := c.get("assignee-principal-type"); t != "" {
		p["principalType"] = t
	}
	if a := c.get("assignee"); a != "" {
		if p["principalId"], p["principalType"], err = c.assignee(a); err != nil {
			return nil, err
		}
	}
	if d := c.get("description"); d != "" {
		p["description"] = d
	}
	return c.assign(at, c.get("role"), c.get("name"), p)
}

// search is what the arguments of list and delete mean.
type search struct {
	scope     string
	all       bool // of the subscription, wherever they are
	inherited bool
	principal string
	role      string
}

func (c *call) search() (search, error) {
	scope, err := c.roleScope()
	if err != nil {
		return search{}, err
	}
	s := search{scope: scope, all: c.is("all"), inherited: c.is("include-inherited"), principal: c.get("assignee-object-id"), role: c.get("role")}
	if a := c.get("assignee"); a != "" {
		s.principal, _, err = c.assignee(a)
	}
	return s, err
}

// find are the assignments searched for. What one filter of the service cannot say is left out here, as az does.
func (c *call) find(s search) ([]any, error) {
	filter := ""
	switch {
	case !s.all:
		filter = "?$filter=" + url.QueryEscape("atScope()")
	case s.principal != "":
		filter = "?$filter=" + url.QueryEscape("principalId eq '"+s.principal+"'")
	}
	found, err := c.c.list(c.ctx, s.scope+assignmentsPath+filter, assignmentAPI)
	if err != nil {
		return nil, err
	}
	role := ""
	if s.role != "" {
		if role, err = c.roleID(s.scope, s.role); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(found, func(a any) bool {
		at, of := assignment(a)
		return !s.all && !s.inherited && !strings.EqualFold(at, s.scope) ||
			s.principal != "" && !strings.EqualFold(principalOf(a), s.principal) || role != "" && path.Base(of) != strings.ToLower(path.Base(role))
	}), nil
}

// assignmentList shows assignments with the names of their roles and principals.
func assignmentList(c *call) (any, error) {
	if c.is("all") && (c.has("scope") || c.has("resource-group")) {
		return nil, errors.New("group or scope are not required when --all is used")
	}
	what, err := c.search()
	if err != nil {
		return nil, err
	}
	all, err := c.find(what)
	if err != nil {
		return nil, err
	}
	return all, c.nameAssignments(what.scope, all)
}

// nameAssignments adds the names of roles and principals.
func (c *call) nameAssignments(scope string, all []any) error {
	if len(all) == 0 {
		return nil
	}
	definitions, err := c.definitions(scope, "")
	if err != nil {
		return err
	}
	roles := roleNames(definitions)
	var ids []string
	for _, a := range all {
		if id := principalOf(a); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	names := map[string]any{}
	objects, err := c.byIDs(ids)
	if err != nil {
		c.warn("Failed to query Microsoft Graph for the names of principals: %v", err)
	}
	for _, o := range objects {
		doc, _ := o.(map[string]any)
		id, _ := doc["id"].(string)
		name := doc["userPrincipalName"]
		if spns, _ := doc["servicePrincipalNames"].([]any); name == nil && len(spns) > 0 {
			name = spns[0]
		}
		names[id] = name
	}
	for _, a := range all {
		doc, _ := a.(map[string]any)
		p, _ := doc["properties"].(map[string]any)
		_, role := assignment(a)
		p["roleDefinitionName"] = roles[path.Base(role)]
		p["principalName"] = names[principalOf(a)]
		if p["principalName"] == nil {
			p["principalName"] = ""
		}
	}
	return nil
}

func principalOf(a any) string {
	doc, _ := a.(map[string]any)
	p, _ := doc["properties"].(map[string]any)
	id, _ := p["principalId"].(string)
	return id
}

func assignmentDelete(c *call) (any, error) {
	narrowed := c.has("assignee") || c.has("assignee-object-id") || c.has("role") || c.has("resource-group") || c.has("scope")
	ids := c.all("ids")
	switch {
	case len(ids) > 0 && (narrowed || c.is("include-inherited")):
		return nil, errors.New("When assignment ids are used, other parameter values are not required")
	case len(ids) == 0:
		if !narrowed {
			if yes, err := c.yes("This will delete all role assignments under the subscription. Are you sure?"); err != nil || !yes {
				return nil, err
			}
		}
		what, err := c.search()
		if err != nil {
			return nil, err
		}
		found, err := c.find(what)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, errors.New("No matched assignments were found to delete")
		}
		for _, a := range found {
			doc, _ := a.(map[string]any)
			id, _ := doc["id"].(string)
			ids = append(ids, id)
		}
	}
	for _, s := range ids {
		id, err := resourceid.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("argument --ids: %w", err)
		}
		if _, err := c.remove(id, assignmentAPI); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
