package azcli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The release of az whose commands these are, and what stands in for its preview extension.
const (
	azVersion        = "2.74.0"
	previewExtension = "aks-preview"
	previewVersion   = "9.0.0b2+cloister"
)

const whoIsIt = "`cloister az` is always the local administrator of this installation: it needs no login. `cloister shell` runs the Azure CLI itself, which logs in as whom you say."

// sessionCommands are those about az itself. What they mean here they say; none of them does something else instead.
func sessionCommands() []command {
	extension := arg{name: "name", short: "n", help: "Name of extension.", required: true, part: true}
	installed := object{"extensionType": "built in", "name": previewExtension, "path": "", "preview": true, "version": previewVersion, "experimental": false}
	needs := func(done string) func(c *call) (any, error) {
		return func(c *call) (any, error) {
			if c.get("name") != previewExtension {
				return nil, fmt.Errorf("No extension found with name '%s': `cloister az` has no extensions; what it needs of %s is built in.", c.get("name"), previewExtension)
			}
			c.warn(done, previewExtension)
			return nil, nil
		}
	}
	return []command{
		{path: "login", help: "Say who is logged in. `cloister az` is the local administrator and needs no login.", raw: true, args: []arg{
			{name: "service-principal", help: "Log in with a service principal. `cloister shell` has that.", kind: flag},
			{name: "username", short: "u", help: "User name or service principal client ID. `cloister shell` has that."},
			{name: "password", short: "p", help: "User password or service principal secret. `cloister shell` has that."},
			{name: "tenant", short: "t", help: "The tenant, when using a user or service principal."},
			{name: "identity", short: "i", help: "Log in using managed identity. `cloister shell --vnet` has that.", kind: flag},
			{name: "use-device-code", help: "Use device code flow. `cloister shell` has that.", kind: flag},
		}, run: func(c *call) (any, error) {
			for _, other := range []string{"service-principal", "username", "password", "identity", "use-device-code"} {
				if c.has(other) {
					return nil, errors.New(whoIsIt)
				}
			}
			c.warn("%s", whoIsIt)
			return accounts(c)
		}},
		{path: "logout", help: "There is no login to end.", offline: true, args: []arg{{name: "username", help: "Account user; if missing, logout the current active account."}}, run: func(c *call) (any, error) {
			c.warn("%s", whoIsIt)
			return nil, nil
		}},
		{path: "version", help: "Show the versions of Azure CLI modules and extensions.", offline: true, raw: true, run: func(*call) (any, error) {
			return object{"azure-cli": azVersion, "azure-cli-core": azVersion, "azure-cli-telemetry": "1.1.0", "extensions": object{previewExtension: previewVersion}}, nil
		}},
		{path: "extension add", help: "Add an extension. What the pages about network isolated clusters need of aks-preview is built in.", offline: true, args: []arg{extension,
			{name: "upgrade", short: "U", help: "Update the extension if already installed.", kind: flag}, {name: "version", help: "The specific version of an extension."},
			{name: "allow-preview", help: "Include preview packages.", kind: truth}, argYes}, run: needs("Extension '%s' is already installed: what it adds is built in.")},
		{path: "extension update", help: "Update an extension.", offline: true, args: []arg{extension, {name: "allow-preview", help: "Include preview packages.", kind: truth}}, run: needs("No updates available for '%s': what it adds is built in.")},
		{path: "extension remove", help: "Remove an extension.", offline: true, args: []arg{extension}, run: func(c *call) (any, error) {
			return nil, fmt.Errorf("The extension '%s' cannot be removed: it is built in.", c.get("name"))
		}},
		{path: "extension list", help: "List the installed extensions.", offline: true, raw: true, run: func(*call) (any, error) { return []any{installed}, nil }},
		{path: "extension show", help: "Show an extension.", offline: true, raw: true, args: []arg{extension}, run: func(c *call) (any, error) {
			if c.get("name") != previewExtension {
				return nil, &Error{Status: 404, Code: "ExtensionNotFound", Message: "The extension " + c.get("name") + " is not installed."}
			}
			return installed, nil
		}},
		{path: "account set", help: "Set a subscription to be the current active subscription. There is one.", args: []arg{{name: "name", short: "n", help: "Name or ID of subscription.", also: []string{"-s"}}}, run: func(c *call) (any, error) {
			all, err := accounts(c)
			if err != nil {
				return nil, err
			}
			given := orString(c.get("name"), c.get("subscription"))
			for _, a := range all {
				if m, _ := a.(object); m != nil && (equalText(m["id"], given) || equalText(m["name"], given)) {
					return nil, nil
				}
			}
			return nil, fmt.Errorf("The subscription of '%s' doesn't exist in cloud 'AzureCloud'.", given)
		}},
		{path: "account get-access-token", help: "Get a token for utilities to access Azure.", raw: true, args: []arg{
			{name: "resource", help: "Azure resource endpoints in Microsoft Entra v1.0.", def: armResource},
			{name: "scope", help: "Space-separated scopes in Microsoft Entra v2.0. Default to Azure Resource Manager.", kind: many},
			{name: "tenant", short: "t", help: "Tenant ID for which the token is acquired."}}, run: accessToken},
	}
}

func accessToken(c *call) (any, error) {
	resource := c.get("resource")
	if c.has("scope") {
		resource = strings.TrimSuffix(c.get("scope"), ".default")
		if strings.HasSuffix(resource, "//") {
			resource = strings.TrimSuffix(resource, "/")
		}
	}
	token, err := c.c.Token(c.ctx, resource)
	if err != nil {
		return nil, err
	}
	out := object{"accessToken": token, "subscription": c.c.Subscription, "tenant": c.c.TenantID, "tokenType": "Bearer"}
	if end, ok := expiry(token); ok {
		out["expiresOn"], out["expires_on"] = end.Local().Format("2006-01-02 15:04:05.000000"), end.Unix()
	}
	return out, nil
}

// expiry reads when a token ends.
func expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Exp int64 }
	if err != nil || json.Unmarshal(data, &claims) != nil || claims.Exp == 0 {
		return time.Time{}, false
	}
	return time.Unix(claims.Exp, 0), true
}
