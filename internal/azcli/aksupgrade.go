package azcli

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const conflictingFlags = "Conflicting flags. Upgrading the Kubernetes version will also upgrade node image version. If you only want to upgrade the node version please use the \"--node-image-only\" option only."

var (
	argYes       = arg{name: "yes", short: "y", help: "Do not prompt for confirmation.", kind: flag}
	argImageOnly = arg{name: "node-image-only", help: "Only upgrade the node image of the nodes, without changing the Kubernetes version.", kind: flag}
)

func lifeCommands() []command {
	cluster := resource{path: "aks", kind: clusterType, api: aksAPI}
	run := []arg{{name: "resource-group", short: "g", help: "Name of resource group.", required: true, part: true}, {name: "name", short: "n", help: "Name of the managed cluster.", required: true, part: true}}
	post := func(verb string) func(c *call, id resourceid.ID) (any, error) {
		return func(c *call, id resourceid.ID) (any, error) {
			return c.c.long(c.ctx, http.MethodPost, id, id.String()+"/"+verb, aksAPI, nil, c.is("no-wait"))
		}
	}
	return []command{
		{path: "aks upgrade", help: "Upgrade a managed Kubernetes cluster to a newer version. Kubernetes will be unavailable during cluster upgrades.", waits: true, table: clusterTable, target: cluster.target, on: aksUpgrade,
			example: "Reimage all nodes. | -g demo -n demo --node-image-only --yes\nGo to a newer Kubernetes. | -g demo -n demo --kubernetes-version 1.31.0", args: cluster.args(
				arg{name: "kubernetes-version", short: "k", help: "Version of Kubernetes to upgrade the cluster to; `az aks get-upgrades` lists them."},
				arg{name: "control-plane-only", help: "Upgrade the cluster control plane only. If not specified, both control plane AND all node pools will be upgraded.", kind: flag},
				argImageOnly, argYes)},
		{path: "aks stop", help: "Stop a managed cluster. The control plane and the nodes go; what etcd holds stays.", waits: true, args: cluster.args(), target: cluster.target, on: func(c *call, id resourceid.ID) (any, error) {
			doc, err := c.c.get(c.ctx, id, aksAPI)
			if err != nil {
				return nil, err
			}
			p, _ := doc["properties"].(map[string]any)
			access, _ := p["apiServerAccessProfile"].(map[string]any)
			if private, _ := access["enablePrivateCluster"].(bool); private && access["enableVnetIntegration"] != true {
				c.warn("Your private cluster apiserver IP might get changed when it's stopped and started.\nAny user provisioned private endpoints linked to this private cluster will need to be deleted and created again. Any user managed DNS record also needs to be updated with the new IP.")
			}
			return post("stop")(c, id)
		}},
		{path: "aks start", help: "Start a previously stopped managed cluster.", waits: true, args: cluster.args(), target: cluster.target, on: post("start")},
		{path: "aks command invoke", help: "Run a shell command (with kubectl, helm) on your AKS cluster, support attaching files as well.", waits: true, raw: true, table: commandTable, show: commandRow,
			example: "-g demo -n demo --command 'kubectl get nodes'", args: append(slices.Clone(run),
				arg{name: "command", short: "c", help: "Command or shell script you want to run.", required: true},
				arg{name: "file", short: "f", help: "Files to be used by the command; '.' attaches the current folder.", kind: many}),
			run: commandInvoke},
		{path: "aks command result", help: "Fetch result from previously triggered 'aks command invoke'.", raw: true, table: commandTable, show: commandRow, args: append(slices.Clone(run),
			arg{name: "command-id", short: "i", help: "commandId returned from 'aks command invoke'.", required: true, part: true}),
			run: func(c *call) (any, error) {
				id := c.group().Resource(clusterType, c.get("name"))
				_, data, err := c.c.send(c.ctx, http.MethodGet, id.String()+"/commandResults/"+c.get("command-id"), aksAPI, nil)
				if err != nil {
					return nil, err
				}
				doc, err := decode(data)
				if err != nil || doc == nil {
					return nil, err
				}
				return c.commandResult(doc)
			}},
	}
}

// aksUpgrade asks what az asks, and like az does not wait for node images.
func aksUpgrade(c *call, id resourceid.ID) (any, error) {
	if yes, err := c.yes("Kubernetes may be unavailable during cluster upgrades.\n Are you sure you want to perform this operation?"); err != nil || !yes {
		return nil, err
	}
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	version := c.get("kubernetes-version")
	if version != "" && c.is("node-image-only") {
		return nil, errors.New(conflictingFlags)
	}
	if c.is("node-image-only") {
		if yes, err := c.yes("This node image upgrade operation will run across every node pool in the cluster and might take a while. Do you wish to continue?"); err != nil || !yes {
			return nil, err
		}
		return upgradeImages(c, id, doc)
	}
	properties, _ := doc["properties"].(map[string]any)
	now, _ := properties["kubernetesVersion"].(string)
	if version == "" || version == now {
		switch properties["provisioningState"] {
		case "Succeeded":
			c.warn("The cluster is already on version %s and is not in a failed state. No operations will occur when upgrading to the same version if the cluster is not in a failed state.", now)
		case "Failed":
			c.warn("Cluster currently in failed state. Proceeding with upgrade to existing version %s to attempt resolution of failed cluster state.", now)
		}
	}
	question := "Since control-plane-only argument is not specified, this will upgrade the control plane AND all nodepools to version " + version + ". Continue?"
	if c.is("control-plane-only") {
		question = "Since control-plane-only argument is specified, this will upgrade only the control plane to " + version + ". Node pool will not change. Continue?"
	}
	if yes, err := c.yes(question); err != nil || !yes {
		return nil, err
	}
	body := writableCluster(doc)
	p := body["properties"].(object)
	delete(p, "servicePrincipalProfile")
	p["kubernetesVersion"] = version
	pools, _ := p["agentPoolProfiles"].([]any)
	for _, x := range pools {
		if pool, _ := x.(map[string]any); pool != nil && !c.is("control-plane-only") {
			pool["orchestratorVersion"] = version
		}
	}
	return c.write(id, aksAPI, body)
}

func upgradeImages(c *call, id resourceid.ID, doc map[string]any) (any, error) {
	properties, _ := doc["properties"].(map[string]any)
	pools, _ := properties["agentPoolProfiles"].([]any)
	for _, x := range pools {
		pool, _ := x.(map[string]any)
		name, _ := pool["name"].(string)
		if strings.EqualFold(fmt.Sprint(pool["type"]), "AvailabilitySet") {
			return nil, errors.New("This cluster is not using VirtualMachineScaleSets. Node image upgrade only operation can only be applied on VirtualMachineScaleSets cluster.")
		}
		if _, _, err := c.c.send(c.ctx, http.MethodPost, id.String()+"/agentPools/"+name+"/upgradeNodeImageVersion", aksAPI, nil); err != nil {
			return nil, err
		}
	}
	return c.read(id, aksAPI)
}

// poolUpgrade is aks nodepool upgrade.
func poolUpgrade(c *call, id resourceid.ID) (any, error) {
	version := c.get("kubernetes-version")
	settings := c.has("max-surge") || c.has("max-unavailable") || c.has("drain-timeout") || c.has("node-soak-duration")
	switch {
	case version != "" && c.is("node-image-only"):
		return nil, errors.New(conflictingFlags)
	case settings && c.is("node-image-only"):
		return nil, errors.New("Conflicting flags. Unable to specify max-surge/drain-timeout/node-soak-duration with node-image-only.If you want to use max-surge/drain-timeout/node-soak-duration with a node image upgrade, please first update max-surge/drain-timeout/node-soak-duration using \"az aks nodepool update --max-surge/--drain-timeout/--node-soak-duration\".")
	case c.is("node-image-only"):
		doc, err := c.c.long(c.ctx, http.MethodPost, id, id.String()+"/upgradeNodeImageVersion", aksAPI, nil, c.is("no-wait"))
		return doc, err
	}
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	properties, _ := doc["properties"].(map[string]any)
	if now, _ := properties["orchestratorVersion"].(string); version != "" || now == version {
		question := "The new kubernetes version is the same as the current kubernetes version."
		switch properties["provisioningState"] {
		case "Succeeded":
			question = "The cluster is already on version " + now + " and is not in a failed state. No operations will occur when upgrading to the same version if the cluster is not in a failed state."
		case "Failed":
			question = "Cluster currently in failed state. Proceeding with upgrade to existing version " + now + " to attempt resolution of failed cluster state."
		}
		// az asks this of every version. Here only where it is true.
		if version == now || version == "" {
			if yes, err := c.yes(question); err != nil || !yes {
				return nil, err
			}
		}
	}
	p := without(properties, readOnlyPool...)
	p["orchestratorVersion"] = version
	poolSettings(c, p)
	return c.write(id, aksAPI, object{"properties": p})
}

// poolPower starts or stops a pool.
func poolPower(code string) func(c *call, id resourceid.ID) (any, error) {
	return func(c *call, id resourceid.ID) (any, error) {
		if there, err := poolExists(c, id); err != nil {
			return nil, err
		} else if !there {
			return nil, noPool(id)
		}
		doc, err := c.c.get(c.ctx, id, aksAPI)
		if err != nil {
			return nil, err
		}
		properties, _ := doc["properties"].(map[string]any)
		p := without(properties, readOnlyPool...)
		p["powerState"] = object{"code": code}
		return c.write(id, aksAPI, object{"properties": p})
	}
}

func noPool(id resourceid.ID) error {
	return fmt.Errorf("Node pool %s doesnt exist, use 'aks nodepool list' to get current node pool list", id.Name())
}

var commandTable = columns{{"Exit code", `"exit code"`}, {"Logs", "logs"}, {"Provisioning state", `"provisioning state"`}, {"Reason", "reason"}, {"Started At", `"started At"`}}

// commandInvoke runs a command in the cluster and waits for its result, which the Location has.
func commandInvoke(c *call) (any, error) {
	id := c.group().Resource(clusterType, c.get("name"))
	if _, err := c.read(id, aksAPI); err != nil {
		return nil, err
	}
	files, err := attached(c.all("file"))
	if err != nil {
		return nil, err
	}
	header, data, err := c.c.send(c.ctx, http.MethodPost, id.String()+"/runCommand", aksAPI, object{"command": c.get("command"), "context": files})
	if err != nil {
		return nil, err
	}
	location := header.Get("Location")
	if c.is("no-wait") {
		id := path.Base(pathOf(location))
		id, _, _ = strings.Cut(id, "?")
		fmt.Fprintf(c.out, "command id: %s, started at: None, status: %s\n", id, commandState(data))
		fmt.Fprintf(c.out, "Please use command \"az aks command result -g %s -n %s -i %s\" to get the future execution result\n", c.get("resource-group"), c.get("name"), id)
		return nil, nil
	}
	for location != "" {
		if _, data, err = c.c.send(c.ctx, http.MethodGet, pathOf(location), "", nil); err != nil {
			return nil, err
		}
		if state := commandState(data); state != "Running" && state != "Accepted" && state != "Creating" {
			break
		}
		if err := sleep(c.ctx, pause); err != nil {
			return nil, err
		}
	}
	doc, err := decode(data)
	if err != nil {
		return nil, err
	}
	return c.commandResult(doc)
}

func commandState(data []byte) string {
	doc, err := decode(data)
	m, _ := doc.(map[string]any)
	p, _ := m["properties"].(map[string]any)
	state, _ := p["provisioningState"].(string)
	if err != nil || p == nil {
		return "Failed"
	}
	return state
}

// commandResult is the result as az gives it: what the command wrote, or the document when a form is asked for.
func (c *call) commandResult(doc any) (any, error) {
	m, _ := flatten(doc).(map[string]any)
	if c.said("output") || c.has("query") {
		return m, nil
	}
	state, _ := m["provisioningState"].(string)
	text := func(k string) string { s, _ := m[k].(string); return s }
	colour := func(colour, s string) string {
		if !c.p.Colour.Out {
			return s
		}
		return colour + s + plainText
	}
	switch state {
	case "Succeeded":
		fmt.Fprintln(c.out, colour(green, fmt.Sprintf("command started at %s, finished at %s with exitcode=%s", text("startedAt"), text("finishedAt"), number64(m["exitCode"]))))
		fmt.Fprintln(c.out, text("logs"))
	case "Failed":
		fmt.Fprintln(c.out, colour(red, "command failed with reason: "+text("reason")))
	default:
		fmt.Fprintln(c.out, colour(blue, "command is in "+state+" state"))
	}
	return nil, nil
}

func number64(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatInt(int64(f), 10)
	}
	return fmt.Sprint(v)
}

// commandRow is a result's row of a table.
func commandRow(v any, _ arguments) any {
	m, _ := v.(map[string]any)
	switch m["provisioningState"] {
	case "Succeeded":
		return object{"exit code": m["exitCode"], "logs": m["logs"]}
	case "Failed":
		return object{"provisioning state": m["provisioningState"], "reason": m["reason"]}
	}
	return object{"provisioning state": m["provisioningState"], "started At": m["startedAt"]}
}

// attached are files as the service takes them: a zip file, in base64.
func attached(names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	if slices.Contains(names, ".") && len(names) > 1 {
		return "", errors.New(". is used to attach current folder, not expecting other attachments.")
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name, at string) error {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		w, err := z.Create(filepath.ToSlash(at))
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	for _, name := range names {
		var err error
		if name == "." {
			err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				return add(path, path)
			})
		} else {
			err = add(name, filepath.Base(name))
		}
		if err != nil {
			return "", fmt.Errorf("attach %s: %w", name, err)
		}
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// versionRows are a location's versions for a table, newest first.
func versionRows(v any, _ arguments) any {
	m, _ := v.(map[string]any)
	values, _ := m["values"].([]any)
	var rows []any
	for _, x := range values {
		minor, _ := x.(map[string]any)
		capabilities, _ := minor["capabilities"].(map[string]any)
		patches, _ := minor["patchVersions"].(map[string]any)
		for version, p := range patches {
			patch, _ := p.(map[string]any)
			upgrades, _ := patch["upgrades"].([]any)
			rows = append(rows, object{"version": version, "upgrades": versionList(upgrades), "supportPlan": words(capabilities["supportPlan"])})
		}
	}
	slices.SortFunc(rows, func(a, b any) int {
		return -compareVersions(a.(object)["version"].(string), b.(object)["version"].(string))
	})
	return rows
}

// upgradeRow is an upgrade profile for a table.
func upgradeRow(v any, _ arguments) any {
	m, _ := v.(map[string]any)
	plane, _ := m["controlPlaneProfile"].(map[string]any)
	if plane == nil { // a node pool's
		plane = m
	}
	upgrades, _ := plane["upgrades"].([]any)
	var versions []any
	for _, u := range upgrades {
		doc, _ := u.(map[string]any)
		versions = append(versions, doc["kubernetesVersion"])
	}
	return object{"name": m["name"], "resourceGroup": m["resourceGroup"], "version": plane["kubernetesVersion"], "upgrades": versionList(versions)}
}

func versionList(all []any) string {
	var out []string
	for _, v := range all {
		out = append(out, fmt.Sprint(v))
	}
	if len(out) == 0 {
		return "None available"
	}
	slices.SortFunc(out, compareVersions)
	return strings.Join(out, ", ")
}

func words(v any) string {
	all, _ := v.([]any)
	var out []string
	for _, x := range all {
		out = append(out, fmt.Sprint(x))
	}
	return strings.Join(out, ", ")
}

// compareVersions orders versions by their numbers.
func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, err1 := strconv.Atoi(x[i])
		n, err2 := strconv.Atoi(y[i])
		if err1 != nil || err2 != nil {
			return strings.Compare(a, b)
		}
		if m != n {
			return m - n
		}
	}
	return len(x) - len(y)
}
