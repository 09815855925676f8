package azcli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

func poolCommands() []command {
	pool := resource{path: "aks nodepool", kind: clusterType + "/agentPools", api: aksAPI, what: "a node pool", parents: []arg{named("cluster-name", "", "The cluster name.")}, table: columns{
		{"Name", "name"}, {"OsType", "osType"}, {"KubernetesVersion", "orchestratorVersion"}, {"VmSize", "vmSize"}, {"OsDiskSizeGB", "osDiskSizeGB"},
		{"Count", "count"}, {"MaxPods", "maxPods"}, {"ProvisioningState", "provisioningState"}, {"Mode", "mode"}}}
	mode := arg{name: "mode", help: "The mode for a node pool which defines a node pool's primary function.", choices: []string{"System", "User"}}
	upgrading := []arg{
		{name: "max-surge", help: "Extra nodes used to speed upgrade. When specified, it represents the number or percent used, eg. 5 or 33%."},
		{name: "max-unavailable", help: "Nodes that may be taken away during an upgrade in place of a surge, eg. 1 or 33%."},
		{name: "drain-timeout", help: "When nodes are drain how many minutes to wait for all pods to be evicted.", kind: number},
		{name: "node-soak-duration", help: "Time in minutes to wait after draining a node before going on to the next.", kind: number},
	}
	labels := arg{name: "labels", help: "The node labels for the node pool: key=value.", kind: many}
	taints := arg{name: "node-taints", help: "The node taints for the node pool, separated by commas."}
	count := arg{name: "node-count", short: "c", help: "Number of nodes in the Kubernetes node pool.", kind: number}
	needed := count
	needed.required = true
	var all []command
	for _, c := range pool.common() {
		if c.path == "aks nodepool delete" {
			on := c.on
			c.on = func(c *call, id resourceid.ID) (any, error) {
				there, err := poolExists(c, id)
				if err == nil && !there {
					return nil, noPool(id)
				} else if err != nil {
					return nil, err
				}
				return on(c, id)
			}
		}
		all = append(all, c)
	}
	return append(all,
		command{path: "aks nodepool add", help: "Add a node pool to the managed Kubernetes cluster.", waits: true, table: pool.table, example: "-g demo --cluster-name demo -n pool2 -c 1", args: pool.args(
			withDefault(count, "3"), arg{name: "node-vm-size", short: "s", help: "Size of Virtual Machines to create as Kubernetes nodes."}, withDefault(mode, "User"),
			arg{name: "kubernetes-version", short: "k", help: "Version of Kubernetes to use for creating the node pool."},
			arg{name: "max-pods", short: "m", help: "The maximum number of pods deployable to a node.", kind: number},
			arg{name: "vnet-subnet-id", help: "The Resource Id of a subnet in an existing VNet into which to deploy the nodes."}, labels, taints, argTags, upgrading[0], upgrading[1], upgrading[2], upgrading[3],
			arg{name: "os-type", help: "The OS Type.", choices: []string{"Linux", "Windows"}, def: "Linux"},
			arg{name: "os-sku", help: "The OS SKU of the agent node pool.", choices: []string{"AzureLinux", "Ubuntu", "Ubuntu2204"}},
			arg{name: "node-osdisk-size", help: "Size in GiB of the OS disk for each node in the agent pool.", kind: number}),
			run: func(c *call) (any, error) { return poolAdd(c, pool.target(c)) }},
		command{path: "aks nodepool scale", help: "Scale the node pool in a managed Kubernetes cluster.", waits: true, table: pool.table, args: pool.args(needed), target: pool.target, on: poolChange},
		command{path: "aks nodepool update", help: "Update a node pool properties.", waits: true, table: pool.table, args: pool.args(append(upgrading, mode, labels, taints, argTags)...), target: pool.target, on: poolChange},
		command{path: "aks nodepool upgrade", help: "Upgrade the node pool in a managed Kubernetes cluster.", waits: true, table: pool.table, target: pool.target, on: poolUpgrade, args: pool.args(append(upgrading,
			arg{name: "kubernetes-version", short: "k", help: "Version of Kubernetes to upgrade the node pool to, such as \"1.30.3\"."}, argImageOnly, argYes)...),
			example: "-g demo --cluster-name demo -n nodepool1 --node-image-only"},
		command{path: "aks nodepool start", help: "Start stopped agent pool in the managed Kubernetes cluster.", waits: true, table: pool.table, args: pool.args(), target: pool.target, on: poolPower("Running")},
		command{path: "aks nodepool stop", help: "Stop running agent pool in the managed Kubernetes cluster.", waits: true, table: pool.table, args: pool.args(), target: pool.target, on: poolPower("Stopped")},
		command{path: "aks nodepool get-upgrades", help: "Get the available upgrade versions for an agent pool of the managed Kubernetes cluster.", args: pool.args(), target: pool.target, show: upgradeRow,
			table: columns{{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"NodePoolVersion", "version"}, {"Upgrades", "upgrades"}}, on: func(c *call, id resourceid.ID) (any, error) {
				return c.c.getPath(c.ctx, id.String()+"/upgradeProfiles/default", aksAPI)
			}},
		command{path: "aks nodepool wait", help: "Wait for a node pool to reach a desired state.", args: pool.args(waitArgs...), target: pool.target, on: waitFor},
	)
}

// poolExists reads the list of pools, as az does.
func poolExists(c *call, id resourceid.ID) (bool, error) {
	parent, _ := id.Parent()
	all, err := c.c.list(c.ctx, parent.String()+"/agentPools", aksAPI)
	if err != nil {
		return false, err
	}
	for _, p := range all {
		doc, _ := p.(map[string]any)
		if n, _ := doc["name"].(string); strings.EqualFold(n, id.Name()) {
			return true, nil
		}
	}
	return false, nil
}

func poolAdd(c *call, id resourceid.ID) (any, error) {
	if there, err := poolExists(c, id); err != nil {
		return nil, err
	} else if there {
		return nil, fmt.Errorf("Node pool %s already exists, please try a different name, use 'aks nodepool list' to get current list of node pool", id.Name())
	}
	p := object{
		"count": c.integer("node-count"), "mode": c.get("mode"), "osType": c.get("os-type"), "type": "VirtualMachineScaleSets", "vmSize": c.get("node-vm-size"),
		"enableAutoScaling": false, "enableNodePublicIP": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableUltraSSD": false,
		"nodeTaints": []any{}, "scaleDownMode": "Delete", "scaleSetEvictionPolicy": "Delete", "scaleSetPriority": "Regular", "spotMaxPrice": -1,
		"upgradeSettings": object{"undrainableNodeBehavior": "Schedule"},
	}
	if c.has("max-pods") {
		p["maxPods"] = c.integer("max-pods")
	}
	if c.has("node-osdisk-size") {
		p["osDiskSizeGB"] = c.integer("node-osdisk-size")
	}
	if s := c.get("os-sku"); s != "" {
		p["osSKU"] = s
	}
	for name, key := range map[string]string{"kubernetes-version": "orchestratorVersion", "vnet-subnet-id": "vnetSubnetID"} {
		if v := c.get(name); v != "" {
			p[key] = v
		}
	}
	poolSettings(c, p)
	return c.write(id, aksAPI, object{"properties": p})
}

// poolChange reads a pool and writes it back with what was asked for.
func poolChange(c *call, id resourceid.ID) (any, error) {
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	properties, _ := doc["properties"].(map[string]any)
	p := without(properties, readOnlyPool...)
	if c.has("node-count") {
		if count, _ := p["count"].(float64); int(count) == c.integer("node-count") {
			return nil, errors.New("The new node count is the same as the current node count.")
		}
		p["count"] = c.integer("node-count")
	}
	if m := c.get("mode"); m != "" {
		p["mode"] = m
	}
	poolSettings(c, p)
	return c.write(id, aksAPI, object{"properties": p})
}

func poolSettings(c *call, p object) {
	if c.has("labels") {
		p["nodeLabels"] = pairs(c.all("labels"))
	}
	if c.has("node-taints") {
		p["nodeTaints"] = commas(c.get("node-taints"))
	}
	if t := c.tags(); t != nil {
		p["tags"] = t
	}
	settings, _ := p["upgradeSettings"].(map[string]any)
	settings = without(settings)
	for name, key := range map[string]string{"max-surge": "maxSurge", "max-unavailable": "maxUnavailable"} {
		if v := c.get(name); v != "" {
			settings[key] = v
		}
	}
	for name, key := range map[string]string{"drain-timeout": "drainTimeoutInMinutes", "node-soak-duration": "nodeSoakDurationInMinutes"} {
		if c.has(name) {
			settings[key] = c.integer(name)
		}
	}
	if len(settings) > 0 || p["upgradeSettings"] != nil {
		p["upgradeSettings"] = settings
	}
}
