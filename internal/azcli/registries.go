package azcli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const registryType = "Microsoft.ContainerRegistry/registries"

func registryCommands() []command {
	registryName := named("registry", "r", "The name of the container registry.")
	table := columns{{"NAME", "name"}, {"RESOURCE GROUP", "resourceGroup"}, {"LOCATION", "location"}, {"SKU", "sku.name"}, {"LOGIN SERVER", "loginServer"}, {"CREATION DATE", "creationDate"}, {"ADMIN ENABLED", "adminUserEnabled"}}
	registry := resource{path: "acr", kind: registryType, api: registryAPI, what: "a container registry", asks: true, table: table}
	rule := resource{path: "acr cache", kind: registryType + "/cacheRules", api: cacheAPI, what: "a cache rule", parents: []arg{registryName}, asks: true, table: columns{
		{"NAME", "name"}, {"SOURCE", "sourceRepository"}, {"TARGET", "targetRepository"}, {"PROVISIONING STATE", "provisioningState"}}}
	connection := resource{path: "acr private-endpoint-connection", kind: registryType + "/privateEndpointConnections", api: registryAPI, what: "a private endpoint connection", parents: []arg{registryName}}
	sku := arg{name: "sku", help: "The SKU of the container registry.", choices: []string{"Basic", "Standard", "Premium"}}
	needed := sku
	needed.required = true
	settings := []arg{
		{name: "admin-enabled", help: "Indicates whether the admin user is enabled.", kind: truth},
		{name: "public-network-enabled", help: "Allow public network access for the container registry.", kind: truth},
		{name: "anonymous-pull-enabled", help: "Enable registry-wide pull from unauthenticated clients.", kind: truth},
		{name: "data-endpoint-enabled", help: "Enable dedicated data endpoint for client firewall configuration.", kind: truth},
		{name: "default-action", help: "Default action to apply when no rule matches. Only applicable to Premium SKU.", choices: []string{"Allow", "Deny"}},
	}
	var all []command
	for _, c := range append(registry.common(), rule.common()...) {
		switch c.path { // az finds a registry by its name alone
		case "acr show", "acr delete":
			on := c.on
			c.args = []arg{argName, optional(argGroup)}
			c.target, c.on = nil, nil
			c.run = func(c *call) (any, error) {
				id, err := findRegistry(c, c.get("name"))
				if err != nil {
					return nil, err
				}
				return on(c, id)
			}
		}
		all = append(all, c)
	}
	for _, c := range connection.common() {
		if !strings.HasSuffix(c.path, " delete") {
			all = append(all, c)
		}
	}
	decide := func(verb, status string) command {
		return command{path: "acr private-endpoint-connection " + verb, help: strings.ToUpper(verb[:1]) + verb[1:] + " a private endpoint connection request for a container registry.", waits: true,
			args: connection.args(arg{name: "description", help: "A comment."}), target: connection.target, on: func(c *call, id resourceid.ID) (any, error) {
				return c.write(id, registryAPI, object{"properties": object{"privateLinkServiceConnectionState": object{"status": status, "description": c.get("description")}}})
			}}
	}
	asARM := []arg{registryName, optional(argGroup)}
	return append(all,
		decide("approve", "Approved"), decide("reject", "Rejected"),
		command{path: "acr config authentication-as-arm show", help: "Show the configured 'Azure AD authenticate as ARM' policy.", args: asARM, run: func(c *call) (any, error) {
			_, doc, err := readRegistry(c)
			if err != nil {
				return nil, err
			}
			return authenticationAsARM(doc), nil
		}},
		command{path: "acr config authentication-as-arm update", help: "Update 'Azure AD authenticate as ARM' policy.", example: "-r myregistry --status enabled",
			args: append(asARM, arg{name: "status", help: "Indicates whether tokens for Azure Resource Manager are accepted by the registry.", choices: []string{"disabled", "enabled"}}),
			run: func(c *call) (any, error) {
				id, doc, err := readRegistry(c)
				if err != nil {
					return nil, err
				}
				// As az: all policies go back, with the one changed.
				properties, _ := doc["properties"].(map[string]any)
				policies, _ := properties["policies"].(map[string]any)
				if policies == nil {
					policies = object{}
				}
				if status := c.get("status"); status != "" {
					policies[policyAsARM] = object{"status": status}
				}
				written, err := c.c.long(c.ctx, http.MethodPatch, id, id.String(), registryAPI, object{"properties": object{"policies": policies}}, false)
				if err != nil {
					return nil, err
				}
				return authenticationAsARM(written), nil
			}},
		command{path: "acr create", help: "Create an Azure Container Registry.", example: "-g demo -n myregistry --sku Premium --public-network-enabled false", table: table,
			args: registry.args(append([]arg{needed, argLocation, argTags}, settings...)...), run: func(c *call) (any, error) {
				p := object{"adminUserEnabled": false, "anonymousPullEnabled": false}
				registrySettings(c, p)
				body, err := c.document(p)
				if err != nil {
					return nil, err
				}
				body["sku"] = object{"name": c.get("sku")}
				return c.write(registry.target(c), registryAPI, body)
			}},
		command{path: "acr update", help: "Update an Azure Container Registry.", table: table,
			args: []arg{argName, optional(argGroup), sku, argTags, settings[0], settings[1], settings[2], settings[3], settings[4]}, run: func(c *call) (any, error) {
				id, err := findRegistry(c, c.get("name"))
				if err != nil {
					return nil, err
				}
				if _, err := c.read(id, registryAPI); err != nil {
					return nil, err
				}
				body, p := object{}, object{}
				registrySettings(c, p)
				if len(p) > 0 {
					body["properties"] = p
				}
				if s := c.get("sku"); s != "" {
					body["sku"] = object{"name": s}
				}
				if t := c.tags(); t != nil {
					body["tags"] = t
				}
				return c.c.long(c.ctx, http.MethodPatch, id, id.String(), registryAPI, body, false)
			}},
		command{path: "acr check-name", help: "Check if an Azure Container Registry name is valid and available for use.", raw: true, args: []arg{argName}, run: func(c *call) (any, error) {
			_, data, err := c.c.send(c.ctx, http.MethodPost, "/subscriptions/"+c.c.Subscription+"/providers/Microsoft.ContainerRegistry/checkNameAvailability", registryAPI,
				object{"name": c.get("name"), "type": registryType, "autoGeneratedDomainNameLabelScope": "Unsecure"})
			if err != nil {
				return nil, err
			}
			return decode(data)
		}},
		command{path: "acr cache create", help: "Create a cache rule.", example: "-g demo -r myregistry -n mcr-cache --source-repo 'mcr.microsoft.com/*' --target-repo '*'",
			args: rule.args(
				arg{name: "source-repo", short: "s", help: "The full source repository path such as 'docker.io/library/ubuntu'.", required: true},
				arg{name: "target-repo", short: "t", help: "The target repository namespace such as 'ubuntu'.", required: true}),
			run: func(c *call) (any, error) {
				return c.write(rule.target(c), cacheAPI, object{"properties": object{"credentialSetResourceId": nil, "sourceRepository": c.get("source-repo"), "targetRepository": c.get("target-repo")}})
			}},
	)
}

const policyAsARM = "azureADAuthenticationAsArmPolicy"

// readRegistry is the registry that a command names by --registry.
func readRegistry(c *call) (resourceid.ID, map[string]any, error) {
	id, err := findRegistry(c, c.get("registry"))
	if err != nil {
		return id, nil, err
	}
	doc, err := c.c.get(c.ctx, id, registryAPI)
	return id, doc, err
}

func authenticationAsARM(registry any) any {
	for _, part := range []string{"properties", "policies", policyAsARM} {
		m, _ := registry.(map[string]any)
		registry = m[part]
	}
	return registry
}

// registrySettings are the properties that were asked for.
func registrySettings(c *call, p object) {
	for name, property := range map[string]string{"admin-enabled": "adminUserEnabled", "anonymous-pull-enabled": "anonymousPullEnabled", "data-endpoint-enabled": "dataEndpointEnabled"} {
		if c.has(name) {
			p[property] = c.is(name)
		}
	}
	if action := c.get("default-action"); action != "" {
		p["networkRuleSet"] = object{"defaultAction": action}
	}
	// As az: turning it off denies as well, turning it on takes that back only where --default-action says so.
	switch {
	case !c.has("public-network-enabled"):
	case c.is("public-network-enabled"):
		p["publicNetworkAccess"] = "Enabled"
	default:
		p["publicNetworkAccess"], p["networkRuleSet"] = "Disabled", object{"defaultAction": "Deny"}
	}
}

// findRegistry is the registry in the group, or the one of the name when no group is said.
func findRegistry(c *call, name string) (resourceid.ID, error) {
	if c.has("resource-group") {
		return c.group().Resource(registryType, name), nil
	}
	return c.registryNamed(name)
}

// registryNamed is the subscription's registry of the name, which no other has.
func (c *call) registryNamed(name string) (resourceid.ID, error) {
	all, err := c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/resources?$filter="+url.QueryEscape("resourceType eq '"+registryType+"'"), resourcesAPI)
	if err != nil {
		return resourceid.ID{}, err
	}
	for _, r := range all {
		doc, _ := r.(map[string]any)
		if n, _ := doc["name"].(string); strings.EqualFold(n, name) {
			s, _ := doc["id"].(string)
			return resourceid.Parse(s)
		}
	}
	return resourceid.ID{}, &Error{Status: http.StatusNotFound, Code: "ResourceNotFound",
		Message: fmt.Sprintf("The resource with name '%s' and type '%s' could not be found in subscription '%s'.", name, registryType, c.c.Subscription)}
}
