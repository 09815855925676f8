package azcli

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

func resourceCommands() []command {
	ids := arg{name: "ids", help: "One or more resource IDs (space-delimited).", many: true, required: true}
	feature := []arg{{name: "namespace", help: "The resource namespace.", required: true}, {name: "name", short: "n", help: "The feature name.", required: true}}
	namespace := []arg{{name: "namespace", short: "n", help: "The resource provider namespace.", required: true}, {name: "wait", help: "Wait for the registration to finish.", flag: true}}
	return []command{
		{"group create", "Create a new resource group.", []arg{groupName, {name: "location", short: "l", help: "Location.", required: true}, argTags}, groupCreate},
		{"group show", "Get a resource group.", []arg{groupName}, func(c *call) (any, error) { return c.c.get(c.ctx, c.c.group(c.get("name")), resourcesAPI) }},
		{"group list", "List resource groups.", nil, func(c *call) (any, error) {
			return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/resourcegroups", resourcesAPI)
		}},
		{"group exists", "Check if a resource group exists.", []arg{groupName}, func(c *call) (any, error) {
			_, err := c.c.get(c.ctx, c.c.group(c.get("name")), resourcesAPI)
			if IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		}},
		{"group delete", "Delete a resource group and everything in it.", []arg{groupName, argYes, argNoWait}, func(c *call) (any, error) {
			if !c.is("yes") {
				return nil, errNotInteractive
			}
			return c.c.remove(c.ctx, c.c.group(c.get("name")), resourcesAPI, c.is("no-wait"))
		}},
		{"resource list", "List resources.", []arg{optional(argGroup), {name: "resource-type", help: "The resource type, such as Microsoft.Network/virtualNetworks."}, optional(argName)}, resourceList},
		{"resource show", "Get the details of resources.", []arg{ids, {name: "api-version", help: "The api-version; one that any type accepts by default."}}, func(c *call) (any, error) {
			c.raw = true
			var out []any
			for _, s := range c.all("ids") {
				id, err := resourceid.Parse(s)
				if err != nil {
					return nil, err
				}
				doc, err := c.c.get(c.ctx, id, orString(c.get("api-version"), aksAPI))
				if err != nil {
					return nil, err
				}
				out = append(out, doc)
			}
			if len(out) == 1 {
				return out[0], nil
			}
			return out, nil
		}},
		{"resource delete", "Delete resources.", []arg{ids, {name: "api-version", help: "The api-version; one that any type accepts by default."}, argNoWait}, func(c *call) (any, error) {
			for _, s := range c.all("ids") {
				id, err := resourceid.Parse(s)
				if err != nil {
					return nil, err
				}
				if _, err := c.c.remove(c.ctx, id, orString(c.get("api-version"), aksAPI), c.is("no-wait")); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
		{"rest", "Invoke a custom request.", []arg{
			{name: "method", short: "m", help: "HTTP request method.", def: "get"}, {name: "url", help: "Request URL; one that starts with a slash is of Azure Resource Manager.", required: true},
			{name: "body", short: "b", help: "Request body; @file reads it from a file."},
		}, rest},
		{"account show", "Get the details of the subscription.", nil, func(c *call) (any, error) {
			_, data, err := c.c.send(c.ctx, http.MethodGet, "/subscriptions/"+c.c.Subscription, subscriptionsA, nil)
			if err != nil {
				return nil, err
			}
			return account(data)
		}},
		{"account list", "List subscriptions.", nil, func(c *call) (any, error) {
			all, err := c.c.list(c.ctx, "/subscriptions", subscriptionsA)
			for i := range all {
				data, _ := json.Marshal(all[i])
				if all[i], err = account(data); err != nil {
					return nil, err
				}
			}
			return all, err
		}},
		{"feature register", "Register a preview feature.", feature, func(c *call) (any, error) { return featureCall(c, http.MethodPost, "/register") }},
		{"feature unregister", "Unregister a preview feature.", feature, func(c *call) (any, error) { return featureCall(c, http.MethodPost, "/unregister") }},
		{"feature show", "Get the preview feature.", feature, func(c *call) (any, error) { return featureCall(c, http.MethodGet, "") }},
		{"provider register", "Register a provider.", namespace, func(c *call) (any, error) { return providerCall(c, http.MethodPost, "/register") }},
		{"provider unregister", "Unregister a provider.", namespace, func(c *call) (any, error) { return providerCall(c, http.MethodPost, "/unregister") }},
		{"provider show", "Get the provider.", namespace[:1], func(c *call) (any, error) { return providerCall(c, http.MethodGet, "") }},
		{"provider list", "List the providers.", nil, func(c *call) (any, error) {
			return c.c.list(c.ctx, "/subscriptions/"+c.c.Subscription+"/providers", resourcesAPI)
		}},
	}
}

// groupName is --name of the group commands, which az also takes as -g.
var groupName = arg{name: "name", short: "n", help: "Name of the resource group.", required: true, also: []string{"--resource-group", "-g"}}

func groupCreate(c *call) (any, error) {
	c.raw = true
	body := map[string]any{"location": strings.ToLower(strings.ReplaceAll(c.get("location"), " ", ""))}
	if t := c.tags(); t != nil {
		body["tags"] = t
	}
	return c.c.put(c.ctx, c.c.group(c.get("name")), resourcesAPI, body, false)
}

func resourceList(c *call) (any, error) {
	path := "/subscriptions/" + c.c.Subscription
	if g := c.get("resource-group"); g != "" {
		path = c.c.group(g).String()
	}
	path += "/resources"
	var filters []string
	if t := c.get("resource-type"); t != "" {
		filters = append(filters, "resourceType eq '"+t+"'")
	}
	if n := c.get("name"); n != "" {
		filters = append(filters, "name eq '"+n+"'")
	}
	if len(filters) > 0 {
		path += "?$filter=" + url.QueryEscape(strings.Join(filters, " and "))
	}
	return c.c.list(c.ctx, path, resourcesAPI)
}

func rest(c *call) (any, error) {
	c.raw = true
	var body any
	if b := c.get("body"); b != "" {
		data := []byte(b)
		if file, ok := strings.CutPrefix(b, "@"); ok {
			var err error
			if data, err = os.ReadFile(file); err != nil {
				return nil, err
			}
		}
		body = json.RawMessage(data)
	}
	_, data, err := c.c.send(c.ctx, strings.ToUpper(c.get("method")), c.get("url"), "", body)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

// account is a subscription in the shape of az's profile.
func account(data []byte) (any, error) {
	var s struct{ SubscriptionID, DisplayName, State, TenantID string }
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	return map[string]any{
		"environmentName": "AzureCloud", "id": s.SubscriptionID, "name": s.DisplayName, "state": s.State,
		"tenantId": s.TenantID, "homeTenantId": s.TenantID, "isDefault": true, "managedByTenants": []any{},
	}, nil
}

func featureCall(c *call, method, suffix string) (any, error) {
	c.raw = true
	path := "/subscriptions/" + c.c.Subscription + "/providers/Microsoft.Features/providers/" + c.get("namespace") + "/features/" + c.get("name") + suffix
	_, data, err := c.c.send(c.ctx, method, path, featuresAPI, nil)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

func providerCall(c *call, method, suffix string) (any, error) {
	_, data, err := c.c.send(c.ctx, method, "/subscriptions/"+c.c.Subscription+"/providers/"+c.get("namespace")+suffix, resourcesAPI, nil)
	if err != nil || method == http.MethodPost {
		return nil, err
	}
	return decode(data)
}

func orString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
