package azcli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// The user name that goes with a token of a registry.
const tokenUser = "00000000-0000-0000-0000-000000000000"

var argRegistry = arg{name: "name", short: "n", help: "The name of the container registry. It should be specified in lower case.", required: true, part: true}

func repositoryCommands() []command {
	repository := arg{name: "repository", help: "The name of the repository."}
	image := arg{name: "image", short: "t", help: "The name of the image: 'name:tag' or 'name@digest'."}
	group := arg{name: "resource-group", short: "g", help: "Name of resource group.", part: true}
	return []command{
		{path: "acr login", help: "Log in to an Azure Container Registry. Only --expose-token is there: `cloister az` drives no Docker.", args: []arg{argRegistry, group,
			{name: "expose-token", short: "t", help: "Expose refresh token instead of automatically logging in through Docker CLI.", kind: flag}}, run: acrLogin},
		{path: "acr repository list", help: "List all the repositories in an Azure Container Registry.", args: []arg{argRegistry, {name: "top", help: "Limit the number of items in the results.", kind: number}}, run: func(c *call) (any, error) {
			r, err := c.openRegistry(c.get("name"), "registry:catalog:*")
			if err != nil {
				return nil, err
			}
			defer r.end()
			return r.collect(c.ctx, "/v2/_catalog", "repositories", c.integer("top"), nil)
		}},
		{path: "acr repository show", help: "Get the attributes of a repository or image in an Azure Container Registry.", args: []arg{argRegistry, repository, image}, run: func(c *call) (any, error) {
			name, tag, digest, err := c.repositoryOrImage()
			if err != nil {
				return nil, err
			}
			r, err := c.openRegistry(c.get("name"), "repository:"+name+":metadata_read")
			if err != nil {
				return nil, err
			}
			defer r.end()
			path, part := "/acr/v1/"+name, ""
			switch {
			case tag != "":
				path, part = path+"/_tags/"+tag, "tag"
			case digest != "":
				path, part = path+"/_manifests/"+digest, "manifest"
			}
			doc, err := r.get(c.ctx, path)
			if part != "" {
				if inner, ok := doc[part].(map[string]any); ok {
					return inner, err
				}
			}
			return doc, err
		}},
		{path: "acr repository show-tags", help: "Show tags for a repository in an Azure Container Registry.", args: []arg{argRegistry, {name: "repository", help: "The name of the repository.", required: true},
			{name: "top", help: "Limit the number of items in the results.", kind: number}, {name: "detail", help: "Show detailed information.", kind: flag},
			{name: "orderby", help: "Order the items in the results.", choices: []string{"time_asc", "time_desc"}}}, run: showTags},
		{path: "acr repository delete", help: "Delete a repository or image in an Azure Container Registry.", args: []arg{argRegistry, repository, image, argYes}, run: repositoryDelete},
		{path: "acr import", help: "Imports an image to an Azure Container Registry from another Container Registry. Import removes the need to docker pull, docker tag, docker push.", waits: true,
			example: "-n myregistry --source mcr.microsoft.com/azurelinux/base/core:3.0", args: []arg{argRegistry, group,
				{name: "source", help: "Source image name or fully qualified source containing the registry login server.", required: true},
				{name: "image", short: "t", help: "The name and tag of the image using the format: '-t repo/image:tag'. Multiple tags are supported by passing -t multiple times.", kind: many, appends: true},
				{name: "registry", short: "r", help: "The source Azure container registry. This can be name, login server, or resource ID of the source registry."},
				{name: "repository", help: "The repository name for a manifest-only copy of images.", kind: many},
				{name: "force", help: "Overwrite the existing tag of the image to be imported.", kind: flag},
				{name: "username", short: "u", help: "The username of source container registry."},
				{name: "password", short: "p", help: "The password used to log into the specified registry."}}, run: acrImport},
		{path: "acr show-usage", help: "Get the storage usage for an Azure Container Registry.", args: []arg{argRegistry, group}, run: func(c *call) (any, error) {
			id, err := findRegistry(c, c.get("name"))
			if err != nil {
				return nil, err
			}
			return c.c.getPath(c.ctx, id.String()+"/listUsages", registryAPI)
		}, table: columns{{"NAME", "name"}, {"LIMIT", "limit"}, {"CURRENT VALUE", "currentValue"}, {"UNIT", "unit"}}, show: func(v any, _ arguments) any {
			m, _ := v.(map[string]any)
			return m["value"]
		}},
		{path: "acr cache update", help: "Update the credential set on a cache rule.", args: []arg{argGroup, named("registry", "r", "The name of the container registry."), argName,
			{name: "cred-set", short: "c", help: "The name or ID of the credential set."}, {name: "remove-cred-set", help: "Remove the credential set from the cache rule.", kind: flag}}, run: func(c *call) (any, error) {
			var set any
			if s := c.get("cred-set"); s != "" {
				set = c.idOrName(s, registryType+"/credentialSets", c.get("registry"))
			} else if !c.is("remove-cred-set") {
				return nil, errors.New("You must either update the credential set ID or remove it from the rule.")
			}
			id := c.group().Resource(registryType+"/cacheRules", c.get("registry"), c.get("name"))
			return c.c.long(c.ctx, http.MethodPatch, id, id.String(), cacheAPI, object{"properties": object{"credentialSetResourceId": set}}, false)
		}},
	}
}

// dataPlane is one registry, reached by its public name as everybody reaches it.
type dataPlane struct {
	client  *http.Client
	end     func()
	server  string
	refresh string // token
	access  string // token, with the scope asked for
}

// openRegistry finds the registry in ARM and gets a token of it, as az does: challenge, exchange, token. Without a scope the token is left out.
func (c *call) openRegistry(name, scope string) (*dataPlane, error) {
	id, err := findRegistry(c, name)
	if err != nil {
		return nil, err
	}
	doc, err := c.c.get(c.ctx, id, registryAPI)
	if err != nil {
		return nil, err
	}
	p, _ := doc["properties"].(map[string]any)
	server, _ := p["loginServer"].(string)
	if server == "" {
		return nil, fmt.Errorf("registry %s has no login server", name)
	}
	if c.p.Registry == nil {
		return nil, errors.New("there is no way to registries from here; `cloister shell` has one")
	}
	client, end, err := c.p.Registry(c.ctx)
	if err != nil {
		return nil, err
	}
	r := &dataPlane{client: client, end: end, server: server}
	if err := r.login(c, scope); err != nil {
		end()
		return nil, err
	}
	return r, nil
}

var challenge = regexp.MustCompile(`(realm|service)="([^"]*)"`)

func (r *dataPlane) login(c *call, scope string) error {
	status, header, _, err := r.send(c.ctx, http.MethodGet, "/v2/", nil, "")
	if err != nil {
		return fmt.Errorf("Could not connect to the registry login server '%s'. Please verify that the registry exists and the URL 'https://%s/v2/' is reachable from your environment.\n%w", r.server, r.server, err)
	}
	service := ""
	for _, m := range challenge.FindAllStringSubmatch(header.Get("WWW-Authenticate"), -1) {
		if m[1] == "service" {
			service = m[2]
		}
	}
	if status != http.StatusUnauthorized || service == "" {
		return fmt.Errorf("Looks like you don't have access to registry '%s'. To see configured firewall rules, run 'az acr show --query networkRuleSet --name %s'. To see if public network access is enabled, run 'az acr show --query publicNetworkAccess'.Please refer to https://aka.ms/acr/errors#connectivity_forbidden_error for more information.", r.server, strings.Split(r.server, ".")[0])
	}
	token, err := c.c.Token(c.ctx, armResource)
	if err != nil {
		return err
	}
	if r.refresh, err = r.token(c.ctx, "/oauth2/exchange", "refresh_token", url.Values{"grant_type": {"access_token"}, "service": {service}, "tenant": {c.c.TenantID}, "access_token": {token}}); err != nil || scope == "" {
		return err
	}
	r.access, err = r.token(c.ctx, "/oauth2/token", "access_token", url.Values{"grant_type": {"refresh_token"}, "service": {service}, "scope": {scope}, "refresh_token": {r.refresh}})
	return err
}

func (r *dataPlane) token(ctx context.Context, path, name string, form url.Values) (string, error) {
	status, _, data, err := r.send(ctx, http.MethodPost, path, strings.NewReader(form.Encode()), "application/x-www-form-urlencoded")
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("Access to registry '%s' was denied. Response code: %d. Please try running 'az login' again to refresh permissions. %w", r.server, status, registryError(status, data))
	}
	var answer map[string]any
	if err := json.Unmarshal(data, &answer); err != nil {
		return "", err
	}
	token, _ := answer[name].(string)
	return token, nil
}

func (r *dataPlane) send(ctx context.Context, method, path string, body io.Reader, kind string) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+r.server+path, body)
	if err != nil {
		return 0, nil, nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if r.access != "" {
		req.Header.Set("Authorization", "Bearer "+r.access)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, resp.Header, data, err
}

func (r *dataPlane) get(ctx context.Context, path string) (map[string]any, error) {
	status, _, data, err := r.send(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, registryError(status, data)
	}
	var doc map[string]any
	return doc, json.Unmarshal(data, &doc)
}

// registryError reads the errors of the distribution API.
func registryError(status int, data []byte) error {
	var fault struct {
		Errors []struct{ Code, Message string }
	}
	e := &Error{Status: status, Code: http.StatusText(status), Message: strings.TrimSpace(string(data)), Body: data}
	if json.Unmarshal(data, &fault) == nil && len(fault.Errors) > 0 {
		e.Code, e.Message = fault.Errors[0].Code, fault.Errors[0].Message
	}
	return e
}

// pageOf is how many az asks for at once.
const pageOf = 100

// collect reads a list of names or documents, up to top of them, following the Link header.
func (r *dataPlane) collect(ctx context.Context, path, key string, top int, query url.Values) ([]any, error) {
	out := []any{}
	q := url.Values{"n": {strconv.Itoa(pageOf)}}
	if top > 0 {
		q.Set("n", strconv.Itoa(top))
	}
	for k, v := range query {
		q[k] = v
	}
	for next := path + "?" + q.Encode(); next != ""; {
		status, header, data, err := r.send(ctx, http.MethodGet, next, nil, "")
		if err != nil {
			return nil, err
		}
		if status != http.StatusOK {
			return nil, registryError(status, data)
		}
		var page map[string]any
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, err
		}
		all, _ := page[key].([]any)
		out = append(out, all...)
		next = ""
		if m := linkNext.FindStringSubmatch(header.Get("Link")); m != nil && (top == 0 || len(out) < top) {
			next = pathOf(m[1])
		}
	}
	if top > 0 && len(out) > top {
		out = out[:top]
	}
	return out, nil
}

var linkNext = regexp.MustCompile(`<([^>]+)>;\s*rel="?next"?`)

func acrLogin(c *call) (any, error) {
	if !c.is("expose-token") {
		return nil, errors.New("You may want to use 'az acr login -n " + c.get("name") + " --expose-token' to get an access token, which does not require Docker to be installed.\n`cloister az` drives no Docker: that of this machine would reach the real registry of the name. `cloister shell` has tools that reach Cloister's.")
	}
	c.warn("You can perform manual login using the provided refresh token below, for example: 'docker login loginServer -u %s -p refreshToken'", tokenUser)
	r, err := c.openRegistry(c.get("name"), "")
	if err != nil {
		return nil, err
	}
	defer r.end()
	return object{"loginServer": r.server, "username": tokenUser, "accessToken": r.refresh, "refreshToken": r.refresh}, nil
}

// repositoryOrImage are the parts of --repository or --image.
func (c *call) repositoryOrImage() (name, tag, digest string, err error) {
	name, image := c.get("repository"), c.get("image")
	if (name == "") == (image == "") {
		return "", "", "", errors.New("Usage error: --image IMAGE | --repository REPOSITORY")
	}
	if name != "" {
		return name, "", "", nil
	}
	if name, digest, ok := strings.Cut(image, "@"); ok {
		return name, "", digest, nil
	}
	name, tag, ok := strings.Cut(image, ":")
	if !ok {
		tag = "latest"
	}
	return name, tag, "", nil
}

func showTags(c *call) (any, error) {
	name := c.get("repository")
	r, err := c.openRegistry(c.get("name"), "repository:"+name+":metadata_read")
	if err != nil {
		return nil, err
	}
	defer r.end()
	query := url.Values{}
	if o := c.get("orderby"); o != "" {
		query.Set("orderby", strings.ReplaceAll(o, "_", ""))
	}
	all, err := r.collect(c.ctx, "/acr/v1/"+name+"/_tags", "tags", c.integer("top"), query)
	if err != nil || c.is("detail") {
		return all, err
	}
	for i, t := range all {
		m, _ := t.(map[string]any)
		all[i] = m["name"]
	}
	return all, nil
}

func repositoryDelete(c *call) (any, error) {
	name, tag, digest, err := c.repositoryOrImage()
	if err != nil {
		return nil, err
	}
	r, err := c.openRegistry(c.get("name"), "repository:"+name+":delete,metadata_read")
	if err != nil {
		return nil, err
	}
	defer r.end()
	question, path := "Are you sure you want to delete the repository '"+name+"' and all images under it?", "/acr/v1/"+name
	if tag != "" {
		doc, err := r.get(c.ctx, path+"/_tags/"+tag)
		if err != nil {
			return nil, err
		}
		m, _ := doc["tag"].(map[string]any)
		digest, _ = m["digest"].(string)
	}
	if tag != "" || digest != "" {
		question = "This operation will delete the manifest '" + digest + "' and all the tags that refer to it in '" + name + "'. Are you sure you want to continue?"
		path = "/v2/" + name + "/manifests/" + digest
	}
	if !c.is("yes") {
		if err := c.p.confirm(question); err != nil {
			return nil, err
		}
	}
	status, _, data, err := r.send(c.ctx, http.MethodDelete, path, nil, "")
	if err != nil {
		return nil, err
	}
	if status/100 != 2 {
		return nil, registryError(status, data)
	}
	return decode(data)
}

func acrImport(c *call) (any, error) {
	id, err := findRegistry(c, c.get("name"))
	if err != nil {
		return nil, err
	}
	if _, err := c.read(id, registryAPI); err != nil {
		return nil, err
	}
	source := object{"sourceImage": c.get("source")}
	if r := c.get("registry"); r != "" {
		if strings.HasPrefix(r, "/") {
			if _, err := resourceid.Parse(r); err != nil {
				return nil, fmt.Errorf("argument --registry: %w", err)
			}
			source["resourceId"] = r
		} else {
			found, err := c.registryNamed(strings.Split(r, ".")[0])
			if err != nil {
				return nil, err
			}
			source["resourceId"] = found.String()
		}
	} else {
		server, image, ok := strings.Cut(c.get("source"), "/")
		if !ok || !strings.Contains(server, ".") {
			return nil, errors.New("Failed to import images: the source must contain the registry's login server, or --registry must be given.")
		}
		source["sourceImage"] = image
		// As az does: a registry of the subscription is named by its resource, unless there are credentials for it.
		if name, azure := strings.CutSuffix(server, ".azurecr.io"); azure && !c.has("password") {
			if own, err := c.registryNamed(name); err == nil {
				source["resourceId"] = own.String()
			}
		}
		if source["resourceId"] == nil {
			source["registryUri"] = server
		}
	}
	if u := c.get("username"); u != "" || c.has("password") {
		source["credentials"] = object{"username": u, "password": c.get("password")}
	}
	mode := "NoForce"
	if c.is("force") {
		mode = "Force"
	}
	body := object{"source": source, "mode": mode}
	switch {
	case c.has("image"):
		body["targetTags"] = c.all("image")
	case !c.has("repository"):
		body["targetTags"] = []any{source["sourceImage"]}
	}
	if c.has("repository") {
		body["untaggedTargetRepositories"] = c.all("repository")
	}
	return c.c.long(c.ctx, http.MethodPost, id, id.String()+"/importImage", registryAPI, body, c.is("no-wait"))
}
