package azcli

import (
	"net/http"
	"net/url"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const registryType = "Microsoft.ContainerRegistry/registries"

func registryCommands() []command {
	registry := arg{name: "registry", short: "r", help: "The name of the container registry.", required: true}
	rule := func(c *call) resourceid.ID {
		return c.group().Resource(registryType+"/cacheRules", c.get("registry"), c.get("name"))
	}
	all := crud("acr", registryType, registryAPI, "a container registry")
	return append(all,
		command{"acr create", "Create a container registry.", []arg{argGroup, argName, argLocation, argTags,
			{name: "sku", help: "The SKU of the container registry.", required: true, choices: []string{"Basic", "Standard", "Premium"}},
			{name: "admin-enabled", help: "Indicates whether the admin user is enabled.", flag: true},
			{name: "public-network-enabled", help: "Allow public network access.", flag: true},
			{name: "anonymous-pull-enabled", help: "Enable registry-wide pull from unauthenticated clients.", flag: true}}, func(c *call) (any, error) {
			location, err := c.location()
			if err != nil {
				return nil, err
			}
			p := object{"adminUserEnabled": c.is("admin-enabled"), "anonymousPullEnabled": c.is("anonymous-pull-enabled")}
			setPublic(c, p)
			return c.c.put(c.ctx, c.group().Resource(registryType, c.get("name")), registryAPI, object{"location": location, "sku": object{"name": c.get("sku")}, "properties": p}, false)
		}},
		command{"acr update", "Update a container registry.", []arg{argGroup, argName,
			{name: "sku", help: "The SKU of the container registry.", choices: []string{"Basic", "Standard", "Premium"}},
			{name: "public-network-enabled", help: "Allow public network access.", flag: true},
			{name: "anonymous-pull-enabled", help: "Enable registry-wide pull from unauthenticated clients.", flag: true}}, func(c *call) (any, error) {
			p := object{}
			if c.has("anonymous-pull-enabled") {
				p["anonymousPullEnabled"] = c.is("anonymous-pull-enabled")
			}
			setPublic(c, p)
			body := object{"properties": p}
			if s := c.get("sku"); s != "" {
				body["sku"] = object{"name": s}
			}
			id := c.group().Resource(registryType, c.get("name"))
			return c.c.long(c.ctx, http.MethodPatch, id, id.String(), registryAPI, body, false)
		}},
		command{"acr cache create", "Create a cache rule.", []arg{argGroup, registry, argName,
			{name: "source-repo", short: "s", help: "The full source repository path such as 'docker.io/library/ubuntu'.", required: true},
			{name: "target-repo", short: "t", help: "The target repository namespace such as 'ubuntu'.", required: true}}, func(c *call) (any, error) {
			return c.c.put(c.ctx, rule(c), cacheAPI, object{"properties": object{"credentialSetResourceId": nil, "sourceRepository": c.get("source-repo"), "targetRepository": c.get("target-repo")}}, false)
		}},
		command{"acr cache show", "Show a cache rule.", []arg{argGroup, registry, argName}, func(c *call) (any, error) { return c.c.get(c.ctx, rule(c), cacheAPI) }},
		command{"acr cache delete", "Delete a cache rule.", []arg{argGroup, registry, argName, argYes}, func(c *call) (any, error) { return c.c.remove(c.ctx, rule(c), cacheAPI, false) }},
		command{"acr cache list", "List the cache rules in a container registry.", []arg{argGroup, registry}, func(c *call) (any, error) {
			return c.c.list(c.ctx, c.group().Resource(registryType, c.get("registry")).String()+"/cacheRules", cacheAPI)
		}},
	)
}

// setPublic sends both properties that --public-network-enabled stands for.
func setPublic(c *call, p object) {
	if !c.has("public-network-enabled") {
		return
	}
	access, action := "Disabled", "Deny"
	if c.is("public-network-enabled") {
		access, action = "Enabled", "Allow"
	}
	p["publicNetworkAccess"], p["networkRuleSet"] = access, object{"defaultAction": action}
}

func identityCommands() []command {
	scope := arg{name: "scope", help: "Scope at which the role assignment applies to.", required: true}
	all := crud("identity", "Microsoft.ManagedIdentity/userAssignedIdentities", identityAPI, "a managed identity")
	return append(all,
		command{"identity create", "Create an identity.", []arg{argGroup, argName, argLocation, argTags}, func(c *call) (any, error) {
			location, err := c.location()
			if err != nil {
				return nil, err
			}
			return c.c.put(c.ctx, c.group().Resource("Microsoft.ManagedIdentity/userAssignedIdentities", c.get("name")), identityAPI, object{"location": location}, false)
		}},
		command{"role assignment create", "Create a new role assignment.", []arg{scope,
			{name: "role", help: "Role name or ID.", required: true}, {name: "assignee-object-id", help: "Object ID of the assignee.", required: true},
			{name: "assignee-principal-type", help: "Principal type of the assignee.", choices: []string{"ForeignGroup", "Group", "ServicePrincipal", "User"}}}, roleAssign},
		command{"role assignment list", "List role assignments.", []arg{optional(scope), optional(argGroup)}, func(c *call) (any, error) {
			at := c.get("scope")
			if at == "" {
				at = "/subscriptions/" + c.c.Subscription
			}
			if c.has("resource-group") {
				at = c.group().String()
			}
			return c.c.list(c.ctx, at+"/providers/Microsoft.Authorization/roleAssignments?$filter="+url.QueryEscape("atScope()"), assignmentAPI)
		}},
		command{"role assignment delete", "Delete role assignments.", []arg{{name: "ids", help: "Space-separated role assignment IDs.", many: true, required: true}}, func(c *call) (any, error) {
			for _, s := range c.all("ids") {
				id, err := resourceid.Parse(s)
				if err != nil {
					return nil, err
				}
				if _, err := c.c.remove(c.ctx, id, assignmentAPI, false); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
		command{"role definition list", "List role definitions.", []arg{{name: "name", short: "n", help: "Role definition name."}, optional(scope)}, func(c *call) (any, error) {
			path := "/subscriptions/" + c.c.Subscription + "/providers/Microsoft.Authorization/roleDefinitions"
			if n := c.get("name"); n != "" {
				path += "?$filter=" + url.QueryEscape("roleName eq '"+n+"'")
			}
			return c.c.list(c.ctx, path, definitionAPI)
		}},
	)
}

func roleAssign(c *call) (any, error) {
	scope, err := resourceid.Parse(c.get("scope"))
	if err != nil {
		return nil, err
	}
	role := c.get("role")
	definition := role
	if _, err := uuid.Parse(role); err == nil {
		definition = "/subscriptions/" + c.c.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + role
	} else if role[0] != '/' {
		found, err := c.c.list(c.ctx, scope.String()+"/providers/Microsoft.Authorization/roleDefinitions?$filter="+url.QueryEscape("roleName eq '"+role+"'"), definitionAPI)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, &Error{Code: "RoleDefinitionDoesNotExist", Message: "Role '" + role + "' doesn't exist."}
		}
		definition, _ = found[0].(map[string]any)["id"].(string)
	}
	p := object{"roleDefinitionId": definition, "principalId": c.get("assignee-object-id")}
	if t := c.get("assignee-principal-type"); t != "" {
		p["principalType"] = t
	}
	id := scope.Resource("Microsoft.Authorization/roleAssignments", uuid.NewString())
	return c.c.put(c.ctx, id, assignmentAPI, object{"properties": p}, false)
}
