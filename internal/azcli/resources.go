package azcli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

func accountCommands() []command {
	table := columns{{"Name", "name"}, {"CloudName", "environmentName"}, {"SubscriptionId", "id"}, {"TenantId", "tenantId"}, {"State", "state"}, {"IsDefault", "isDefault"}}
	return []command{
		{path: "account show", help: "Get the details of a subscription.", raw: true, table: table, run: func(c *call) (any, error) {
			doc, err := c.c.getPath(c.ctx, "/subscriptions/"+c.c.Subscription, subscriptionsAPI)
			return account(doc), err
		}},
		{path: "account list", help: "Get a list of subscriptions for the logged in account.", raw: true, table: table, args: []arg{{name: "all", help: "List all subscriptions from all clouds.", kind: flag}, {name: "refresh", help: "Retrieve up-to-date subscriptions from server.", kind: flag}}, run: func(c *call) (any, error) { return accounts(c) }},
		{path: "account list-locations", help: "List supported regions for the current subscription.", raw: true,
			table: columns{{"DisplayName", "displayName"}, {"Name", "name"}, {"RegionalDisplayName", "regionalDisplayName"}},
			run: func(c *call) (any, error) {
				return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/locations", subscriptionsAPI)
			}},
	}
}

func accounts(c *call) ([]any, error) {
	all, err := c.c.list(c.ctx, "/subscriptions", subscriptionsAPI)
	for i := range all {
		doc, _ := all[i].(map[string]any)
		all[i] = account(doc)
	}
	return all, err
}

// account is a subscription in the shape of az's profile.
func account(doc map[string]any) any {
	return object{
		"environmentName": "AzureCloud", "id": doc["subscriptionId"], "name": doc["displayName"], "state": doc["state"],
		"tenantId": doc["tenantId"], "homeTenantId": doc["tenantId"], "isDefault": true, "managedByTenants": []any{},
	}
}

// argGroupName is --name of the group commands, which az also takes as -g.
var argGroupName = arg{name: "name", short: "n", help: "Name of the resource group.", required: true, part: true, also: []string{"--resource-group", "-g"}}

func groupCommands() []command {
	table := columns{{"Name", "name"}, {"Location", "location"}, {"Status", "properties.provisioningState"}}
	return []command{
		{path: "group create", help: "Create a new resource group.", example: "-l eastus -n demo", raw: true, table: table,
			args: []arg{argGroupName, {name: "location", short: "l", help: "Location.", required: true}, argTags},
			run: func(c *call) (any, error) {
				body, err := c.document(nil)
				if err != nil {
					return nil, err
				}
				id := c.c.group(c.get("name"))
				return c.c.long(c.ctx, http.MethodPut, id, c.groupPath(c.get("name")), resourcesAPI, body, false)
			}},
		{path: "group show", help: "Get a resource group.", args: []arg{argGroupName}, raw: true, table: table, run: func(c *call) (any, error) {
			return c.c.getPath(c.ctx, c.groupPath(c.get("name")), resourcesAPI)
		}},
		{path: "group list", help: "List resource groups.", raw: true, table: table, args: []arg{{name: "tag", help: "A single tag in 'key[=value]' format."}}, run: func(c *call) (any, error) {
			path := "/subscriptions/" + c.c.Subscription + "/resourcegroups"
			if t := c.get("tag"); t != "" {
				path += "?$filter=" + url.QueryEscape(tagFilter(t))
			}
			return c.c.list(c.ctx, path, resourcesAPI)
		}},
		{path: "group exists", help: "Check if a resource group exists.", args: []arg{argGroupName}, run: func(c *call) (any, error) {
			_, _, err := c.c.send(c.ctx, http.MethodHead, c.groupPath(c.get("name")), resourcesAPI, nil)
			if IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		}},
		{path: "group update", help: "Update a resource group: its tags.", args: []arg{argGroupName, argTags}, raw: true, table: table, run: func(c *call) (any, error) {
			doc, err := c.c.getPath(c.ctx, c.groupPath(c.get("name")), resourcesAPI)
			if err != nil {
				return nil, err
			}
			body := object{"location": doc["location"], "tags": doc["tags"]}
			if t := c.tags(); t != nil {
				body["tags"] = t
			}
			return c.c.long(c.ctx, http.MethodPut, c.c.group(c.get("name")), c.groupPath(c.get("name")), resourcesAPI, body, false)
		}},
		{path: "group wait", help: "Place the CLI in a waiting state until a condition of the resource group is met.", args: append([]arg{argGroupName}, waitArgs...), run: func(c *call) (any, error) {
			return waitAt(c, c.c.group(c.get("name")), resourcesAPI)
		}},
		{path: "group delete", help: "Delete a resource group and everything in it.", args: []arg{argGroupName}, confirm: sure, waits: true, run: func(c *call) (any, error) {
			_, err := c.c.long(c.ctx, http.MethodDelete, c.c.group(c.get("name")), c.groupPath(c.get("name")), resourcesAPI, nil, c.is("no-wait"))
			return nil, err
		}},
	}
}

func resourceCommands() []command {
	version := arg{name: "api-version", help: "The api-version to use. One that Cloister's types accept when not given."}
	kind := arg{name: "resource-type", help: "The resource type, such as Microsoft.Network/virtualNetworks, or without the namespace when --namespace is given."}
	one := []arg{{name: "ids", help: "One or more resource IDs (space-delimited). If provided, no other 'Resource Id' arguments should be specified.", kind: many}, version, kind,
		optional(argGroup), optional(argName), {name: "namespace", help: "Provider namespace (Ex: 'Microsoft.Provider')."}, {name: "parent", help: "The parent path (Ex: 'resA/myA/resB/myB')."}}
	table := columns{{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"Type", "type"}, {"Status", "provisioningState"}}
	each := func(c *call, do func(id resourceid.ID, version string) (any, error)) (any, error) {
		ids, err := resourceIDs(c)
		if err != nil {
			return nil, err
		}
		var out []any
		for _, id := range ids {
			doc, err := do(id, orString(c.get("api-version"), aksAPI))
			if err != nil {
				return nil, err
			}
			if doc != nil {
				out = append(out, doc)
			}
		}
		switch len(out) {
		case 0:
			return nil, nil
		case 1:
			return out[0], nil
		}
		return out, nil
	}
	return []command{
		{path: "resource list", help: "List resources.", raw: true, table: table, example: "-g demo -o table",
			args: []arg{optional(argGroup), kind, optional(argName), {name: "namespace", help: "Provider namespace (Ex: 'Microsoft.Provider')."},
				{name: "location", short: "l", help: "Location."}, {name: "tag", help: "A single tag in 'key[=value]' format."}}, run: resourceList},
		{path: "resource show", help: "Get the details of a resource.", raw: true, args: one, table: table, run: func(c *call) (any, error) {
			return each(c, func(id resourceid.ID, version string) (any, error) { return c.read(id, version) })
		}},
		{path: "resource delete", help: "Delete a resource.", args: one, waits: true, run: func(c *call) (any, error) {
			return each(c, c.remove)
		}},
		{path: "resource wait", help: "Place the CLI in a waiting state until a condition of a resource is met.", args: append(append([]arg{}, one...), waitArgs...), run: func(c *call) (any, error) {
			return each(c, func(id resourceid.ID, version string) (any, error) { return waitAt(c, id, version) })
		}},
		{path: "rest", help: "Invoke a custom request.", raw: true, example: "--method get --url /subscriptions/{subscriptionId}/resources?api-version=2024-11-01",
			args: []arg{
				{name: "url", short: "u", help: "Request URL. One that starts with a slash is of Azure Resource Manager; {subscriptionId} is filled in.", required: true, also: []string{"--uri"}},
				{name: "method", short: "m", help: "HTTP request method.", def: "get", choices: []string{"delete", "get", "head", "options", "patch", "post", "put"}},
				{name: "url-parameters", help: "Query parameters in the URL: key=value.", kind: many, also: []string{"--uri-parameters"}},
				{name: "body", short: "b", help: "Request body. Use @{file} to load from a file."},
			}, run: rest},
	}
}

// resourceIDs are the resources that --ids name, or the one that group, type and name do.
func resourceIDs(c *call) ([]resourceid.ID, error) {
	var out []resourceid.ID
	for _, s := range c.all("ids") {
		id, err := resourceid.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("argument --ids: %w", err)
		}
		out = append(out, id)
	}
	if len(out) > 0 {
		return out, nil
	}
	if !c.has("name") || !c.has("resource-type") || !c.has("resource-group") {
		return nil, usagef("usage error: --ids ID [ID ...] | --resource-group NAME --name NAME --resource-type TYPE [--namespace NAMESPACE] [--parent PATH]")
	}
	namespace, kind := c.get("namespace"), c.get("resource-type")
	if namespace == "" {
		var ok bool
		if namespace, kind, ok = strings.Cut(kind, "/"); !ok {
			return nil, usagef("Resource type must contain the namespace, or --namespace must be given.")
		}
	}
	path := c.group().String() + "/providers/" + namespace
	if p := strings.Trim(c.get("parent"), "/"); p != "" {
		path += "/" + p
	}
	id, err := resourceid.Parse(path + "/" + kind + "/" + c.get("name"))
	return []resourceid.ID{id}, err
}

// tagFilter is the filter of --tag key[=value].
func tagFilter(tag string) string {
	key, v, valued := strings.Cut(tag, "=")
	filter := "tagname eq '" + quoted(key) + "'"
	if valued {
		filter += " and tagvalue eq '" + quoted(v) + "'"
	}
	return filter
}

func resourceList(c *call) (any, error) {
	var filters []string
	if g := c.get("resource-group"); g != "" {
		if _, err := c.readGroup(); err != nil { // az says so when there is no such group
			return nil, err
		}
	}
	if t := c.get("tag"); t != "" {
		if c.has("resource-group") || c.has("name") || c.has("resource-type") || c.has("location") || c.has("namespace") {
			return nil, errors.New("you cannot use '--tag' with '--resource-group', '--namespace', '--resource-type', '--name' or '--location'")
		}
		filters = append(filters, tagFilter(t))
	}
	if n := c.get("name"); n != "" {
		filters = append(filters, "name eq '"+quoted(n)+"'")
	}
	if l := c.get("location"); l != "" {
		filters = append(filters, "location eq '"+quoted(l)+"'")
	}
	if g := c.get("resource-group"); g != "" {
		filters = append(filters, "resourceGroup eq '"+g+"'")
	}
	if t := c.get("resource-type"); t != "" {
		if n := c.get("namespace"); n != "" {
			t = n + "/" + t
		}
		filters = append(filters, "resourceType eq '"+quoted(t)+"'")
	} else if c.has("namespace") {
		return nil, usagef("usage error: --namespace NAMESPACE --resource-type TYPE")
	}
	path := "/subscriptions/" + c.c.Subscription + "/resources?$expand=createdTime,changedTime,provisioningState"
	if len(filters) > 0 {
		path += "&$filter=" + url.QueryEscape(strings.Join(filters, " and "))
	}
	return c.c.list(c.ctx, path, resourcesAPI)
}

func rest(c *call) (any, error) {
	var body any
	if b := c.get("body"); b != "" {
		data := []byte(b)
		if file, ok := strings.CutPrefix(b, "@"); ok {
			var err error
			if data, err = os.ReadFile(file); err != nil {
				return nil, err
			}
		}
		if !json.Valid(data) {
			return nil, errors.New("argument --body: not JSON")
		}
		body = json.RawMessage(data)
	}
	target := strings.ReplaceAll(c.get("url"), "{subscriptionId}", c.c.Subscription)
	if u, err := url.Parse(target); err == nil && strings.EqualFold(u.Host, "management.azure.com") {
		target = u.RequestURI() // which is this service
	} else if err == nil && strings.EqualFold(u.Host, "graph.microsoft.com") && c.c.Graph != "" {
		target = c.c.Graph + u.RequestURI()
	} else if !strings.HasPrefix(target, "/") {
		return nil, fmt.Errorf("argument --url: %q is not of Azure Resource Manager; `cloister shell` runs the Azure CLI itself, which reaches all of Cloister", target)
	}
	for k, v := range pairs(c.all("url-parameters")) {
		sign := "?"
		if strings.Contains(target, "?") {
			sign = "&"
		}
		target += sign + url.QueryEscape(k) + "=" + url.QueryEscape(v)
	}
	_, data, err := c.c.send(c.ctx, strings.ToUpper(c.get("method")), target, "", body)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

func featureCommands() []command {
	args := []arg{named("namespace", "", "The resource namespace."), named("name", "n", "The feature name.")}
	table := columns{{"Name", "name"}, {"RegistrationState", "properties.state"}}
	send := func(method, suffix string) func(c *call) (any, error) {
		return func(c *call) (any, error) {
			path := "/subscriptions/" + c.c.Subscription + "/providers/Microsoft.Features/providers/" + c.get("namespace") + "/features/" + c.get("name") + suffix
			_, data, err := c.c.send(c.ctx, method, path, featuresAPI, nil)
			if err != nil {
				return nil, err
			}
			if suffix == "/register" {
				c.warn("Once the feature '%s' is registered, invoking 'az provider register -n %s' is required to get the change propagated", c.get("name"), c.get("namespace"))
			}
			return decode(data)
		}
	}
	return []command{
		{path: "feature register", help: "Register a preview feature.", args: args, raw: true, table: table, run: send(http.MethodPost, "/register"),
			example: "--namespace Microsoft.ContainerService --name NetworkIsolatedClusterPreview"},
		{path: "feature unregister", help: "Unregister a preview feature.", args: args, raw: true, table: table, run: send(http.MethodPost, "/unregister")},
		{path: "feature show", help: "Get the preview feature with the specified name.", args: args, raw: true, table: table, run: send(http.MethodGet, "")},
		{path: "feature list", help: "List preview features.", raw: true, table: table, args: []arg{optional(args[0])}, run: func(c *call) (any, error) {
			path := "/subscriptions/" + c.c.Subscription + "/providers/Microsoft.Features"
			if n := c.get("namespace"); n != "" {
				path += "/providers/" + n
			}
			return c.c.list(c.ctx, path+"/features", featuresAPI)
		}},
	}
}

func providerCommands() []command {
	namespace := named("namespace", "n", "The resource provider namespace.")
	wait := arg{name: "wait", help: "Wait for the registration to finish.", kind: flag}
	table := columns{{"Namespace", "namespace"}, {"RegistrationPolicy", "registrationPolicy"}, {"RegistrationState", "registrationState"}}
	post := func(verb string) func(c *call) (any, error) {
		return func(c *call) (any, error) {
			path := "/subscriptions/" + c.c.Subscription + "/providers/" + c.get("namespace")
			_, data, err := c.c.send(c.ctx, http.MethodPost, path+"/"+verb, resourcesAPI, nil)
			if err != nil {
				return nil, err
			}
			doc, err := decode(data)
			m, _ := doc.(map[string]any)
			for c.is("wait") && err == nil && (equalText(m["registrationState"], "Registering") || equalText(m["registrationState"], "Unregistering")) {
				if err := sleep(c.ctx, pause); err != nil {
					return nil, err
				}
				m, err = c.c.getPath(c.ctx, path, resourcesAPI)
			}
			if state, _ := m["registrationState"].(string); err == nil && strings.HasSuffix(state, "ing") {
				c.warn("%s is still on-going. You can monitor using 'az provider show -n %s'", state, c.get("namespace"))
			}
			return nil, err
		}
	}
	return []command{
		{path: "provider register", help: "Register a provider.", args: []arg{namespace, wait}, run: post("register")},
		{path: "provider unregister", help: "Unregister a provider.", args: []arg{namespace, wait}, run: post("unregister")},
		{path: "provider show", help: "Get the specified resource provider.", args: []arg{namespace}, raw: true, table: table, run: func(c *call) (any, error) {
			return c.c.getPath(c.ctx, "/subscriptions/"+c.c.Subscription+"/providers/"+c.get("namespace"), resourcesAPI)
		}},
		{path: "provider list", help: "Get all resource providers for a subscription.", raw: true, table: table, run: func(c *call) (any, error) {
			return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/providers", resourcesAPI)
		}},
	}
}

func orString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
