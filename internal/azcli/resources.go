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
		{path: "account list", help: "Get a list of subscriptions for the logged in account.", raw: true, table: table, run: func(c *call) (any, error) {
			all, err := c.c.list(c.ctx, "/subscriptions", subscriptionsAPI)
			for i := range all {
				doc, _ := all[i].(map[string]any)
				all[i] = account(doc)
			}
			return all, err
		}},
		{path: "account list-locations", help: "List supported regions for the current subscription.", raw: true,
			table: columns{{"DisplayName", "displayName"}, {"Name", "name"}, {"RegionalDisplayName", "regionalDisplayName"}},
			run: func(c *call) (any, error) {
				return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/locations", subscriptionsAPI)
			}},
	}
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
		{path: "group list", help: "List resource groups.", raw: true, table: table, run: func(c *call) (any, error) {
			return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/resourcegroups", resourcesAPI)
		}},
		{path: "group exists", help: "Check if a resource group exists.", args: []arg{argGroupName}, run: func(c *call) (any, error) {
			_, _, err := c.c.send(c.ctx, http.MethodHead, c.groupPath(c.get("name")), resourcesAPI, nil)
			if IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		}},
		{path: "group delete", help: "Delete a resource group and everything in it.", args: []arg{argGroupName}, confirm: sure, waits: true, run: func(c *call) (any, error) {
			_, err := c.c.long(c.ctx, http.MethodDelete, c.c.group(c.get("name")), c.groupPath(c.get("name")), resourcesAPI, nil, c.is("no-wait"))
			return nil, err
		}},
	}
}

func resourceCommands() []command {
	ids := arg{name: "ids", help: "One or more resource IDs (space-delimited).", kind: many, required: true}
	version := arg{name: "api-version", help: "The api-version to use. One that Cloister's types accept when not given."}
	table := columns{{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"Type", "type"}, {"Status", "provisioningState"}}
	each := func(c *call, do func(id resourceid.ID, version string) (any, error)) (any, error) {
		var out []any
		for _, s := range c.all("ids") {
			id, err := resourceid.Parse(s)
			if err != nil {
				return nil, fmt.Errorf("argument --ids: %w", err)
			}
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
			args: []arg{optional(argGroup), {name: "resource-type", help: "The resource type, such as Microsoft.Network/virtualNetworks."}, optional(argName)}, run: resourceList},
		{path: "resource show", help: "Get the details of a resource.", raw: true, args: []arg{ids, version}, run: func(c *call) (any, error) {
			return each(c, func(id resourceid.ID, version string) (any, error) { return c.read(id, version) })
		}},
		{path: "resource delete", help: "Delete a resource.", args: []arg{ids, version}, waits: true, run: func(c *call) (any, error) {
			return each(c, c.remove)
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

func resourceList(c *call) (any, error) {
	var filters []string
	if g := c.get("resource-group"); g != "" {
		if _, err := c.readGroup(); err != nil { // az says so when there is no such group
			return nil, err
		}
		filters = append(filters, "resourceGroup eq '"+g+"'")
	}
	if t := c.get("resource-type"); t != "" {
		filters = append(filters, "resourceType eq '"+t+"'")
	}
	if n := c.get("name"); n != "" {
		filters = append(filters, "name eq '"+n+"'")
	}
	path := "/subscriptions/" + c.c.Subscription + "/resources"
	if len(filters) > 0 {
		path += "?$filter=" + url.QueryEscape(strings.Join(filters, " and "))
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
	wait := arg{name: "wait", help: "Wait for the registration to finish. Here it always has.", kind: flag}
	table := columns{{"Namespace", "namespace"}, {"RegistrationPolicy", "registrationPolicy"}, {"RegistrationState", "registrationState"}}
	post := func(verb string) func(c *call) (any, error) {
		return func(c *call) (any, error) {
			_, _, err := c.c.send(c.ctx, http.MethodPost, "/subscriptions/"+c.c.Subscription+"/providers/"+c.get("namespace")+"/"+verb, resourcesAPI, nil)
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
