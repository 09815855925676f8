package azcli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// command is one command of az. It has run, or target and on: what it works on, and what it does with each.
type command struct {
	path    string // "aks nodepool list"
	help    string
	example string // arguments that it may be given, a line each; see examples
	args    []arg
	run     func(c *call) (any, error)
	target  func(c *call) resourceid.ID
	on      func(c *call, id resourceid.ID) (any, error)
	confirm string // the question to ask unless --yes is said
	waits   bool   // waits for a long-running operation, unless --no-wait is said
	raw     bool   // the answer is shown as it is, not flattened
	table   columns
	models  bool                                 // the output has the names of az's SDK models: privateFqdn where ARM has privateFQDN
	offline bool                                 // answers without the service
	show    func(result any, said arguments) any // what a table shows in place of the result
}

// call is one run of a command.
type call struct {
	arguments
	ctx context.Context
	c   *Connection
	p   program
	out io.Writer
	err io.Writer
}

// execute runs the command; with several --ids, once for each.
func (cmd command) execute(c *call) (any, error) {
	if cmd.run != nil {
		return cmd.run(c)
	}
	if !c.has("ids") {
		return cmd.on(c, cmd.target(c))
	}
	var all []any
	for _, s := range c.all("ids") {
		id, err := resourceid.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("argument --ids: %w", err)
		}
		one, err := cmd.on(c, id)
		if err != nil {
			return nil, err
		}
		if one != nil {
			all = append(all, one)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return all, nil
}

// group is the resource group of --resource-group.
func (c *call) group() resourceid.ID { return c.c.group(c.get("resource-group")) }

// groupPath is a resource group's ID as az spells it on the wire.
func (c *call) groupPath(name string) string {
	return "/subscriptions/" + c.c.Subscription + "/resourcegroups/" + name
}

// location is --location, or the resource group's.
func (c *call) location() (string, error) {
	if c.has("location") {
		return c.c.location(c.ctx, c.get("location"))
	}
	doc, err := c.readGroup()
	if err != nil {
		return "", err
	}
	l, _ := doc["location"].(string)
	return l, nil
}

// readGroup reads the resource group, which must be there.
func (c *call) readGroup() (map[string]any, error) {
	return c.c.getPath(c.ctx, c.groupPath(c.get("resource-group")), resourcesAPI)
}

// tags reads --tags key=value …
func (c *call) tags() map[string]string {
	if !c.has("tags") {
		return nil
	}
	return pairs(c.all("tags"))
}

// pairs reads key=value …
func pairs(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		if k, v, _ := strings.Cut(w, "="); k != "" {
			out[k] = v
		}
	}
	return out
}

// write puts a resource and waits for it unless told not to.
func (c *call) write(id resourceid.ID, apiVersion string, body any) (any, error) {
	return c.c.long(c.ctx, http.MethodPut, id, id.String(), apiVersion, body, c.is("no-wait"))
}

// remove deletes a resource and waits until it is gone unless told not to.
func (c *call) remove(id resourceid.ID, apiVersion string) (any, error) {
	_, err := c.c.long(c.ctx, http.MethodDelete, id, id.String(), apiVersion, nil, c.is("no-wait"))
	return nil, err
}

// read gets one resource.
func (c *call) read(id resourceid.ID, apiVersion string) (any, error) {
	return c.c.get(c.ctx, id, apiVersion)
}

// Arguments that many commands share.
var (
	argGroup    = arg{name: "resource-group", short: "g", help: "Name of resource group.", required: true, part: true}
	argName     = arg{name: "name", short: "n", help: "Name of the resource.", required: true, part: true}
	argLocation = arg{name: "location", short: "l", help: "Location. The resource group's when not given."}
	argTags     = arg{name: "tags", help: "Space-separated tags: key[=value] [key[=value] ...].", kind: many}
)

const sure = "Are you sure you want to perform this operation?"

func optional(a arg) arg { a.required = false; return a }

// named is an argument that names a resource.
func named(name, short, help string) arg {
	return arg{name: name, short: short, help: help, required: true, part: true}
}

// resource is what the commands of one resource type have in common.
type resource struct {
	path, kind string // "network vnet", Microsoft.Network/virtualNetworks
	api        string
	what       string // "a virtual network"
	parents    []arg  // arguments that name the resource's parents, outermost first
	asks       bool   // deleting asks first
	table      columns
}

func (r resource) names(c *call) []string {
	var out []string
	for _, p := range r.parents {
		out = append(out, c.get(p.name))
	}
	return out
}

func (r resource) target(c *call) resourceid.ID {
	return c.group().Resource(r.kind, append(r.names(c), c.get("name"))...)
}

func (r resource) args(more ...arg) []arg {
	return append(append(append([]arg{argGroup}, r.parents...), argName), more...)
}

// common are show, list and delete: the commands that every type has.
func (r resource) common() []command {
	list := command{path: r.path + " list", help: "List " + plural(r.what) + ".", args: []arg{optional(argGroup)}, table: r.table, run: func(c *call) (any, error) {
		scope := "/subscriptions/" + c.c.Subscription
		if c.has("resource-group") {
			scope = c.group().String()
		}
		return c.c.list(c.ctx, scope+"/providers/"+r.kind, r.api)
	}}
	if len(r.parents) > 0 {
		list.args = append([]arg{argGroup}, r.parents...)
		list.run = func(c *call) (any, error) {
			parent, collection := path.Split(r.kind)
			return c.c.list(c.ctx, c.group().Resource(strings.TrimSuffix(parent, "/"), r.names(c)...).String()+"/"+collection, r.api)
		}
	}
	remove := command{path: r.path + " delete", help: "Delete " + r.what + ".", args: r.args(), target: r.target, waits: true, on: func(c *call, id resourceid.ID) (any, error) {
		return c.remove(id, r.api)
	}}
	if r.asks {
		remove.confirm = sure
	}
	return []command{
		{path: r.path + " show", help: "Get the details of " + r.what + ".", args: r.args(), target: r.target, table: r.table, on: func(c *call, id resourceid.ID) (any, error) {
			return c.read(id, r.api)
		}},
		list, remove,
	}
}

// plural is "container registries" for "a container registry".
func plural(what string) string {
	_, name, _ := strings.Cut(what, " ")
	switch {
	case strings.HasSuffix(name, "work"), strings.HasSuffix(name, "way"):
	case strings.HasSuffix(name, "y"):
		return strings.TrimSuffix(name, "y") + "ies"
	case strings.HasSuffix(name, "ss"):
		return name + "es"
	}
	return name + "s"
}

// document is a body of location, tags and properties.
func (c *call) document(properties object) (object, error) {
	location, err := c.location()
	if err != nil {
		return nil, err
	}
	b := object{"location": location}
	if properties != nil {
		b["properties"] = properties
	}
	if t := c.tags(); t != nil {
		b["tags"] = t
	}
	return b, nil
}

// idOrName is the ID of a resource given by either.
func (c *call) idOrName(value, resourceType string, parents ...string) string {
	if strings.HasPrefix(value, "/") {
		return value
	}
	return c.group().Resource(resourceType, append(parents, value)...).String()
}

type object = map[string]any
