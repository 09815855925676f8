package azcli

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const clusterType = "Microsoft.ContainerService/managedClusters"

// clusterTable are az's columns; a private cluster has no public name that resolves to it.
var clusterTable = columns{{"Name", "name"}, {"Location", "location"}, {"ResourceGroup", "resourceGroup"}, {"KubernetesVersion", "kubernetesVersion"},
	{"CurrentKubernetesVersion", "currentKubernetesVersion"}, {"ProvisioningState", "provisioningState"}, {"Fqdn", "fqdn || privateFqdn || privateFQDN"}}

var (
	outboundTypes   = []string{"loadBalancer", "userDefinedRouting", "managedNATGateway", "userAssignedNATGateway", "none", "block"}
	argOutbound     = arg{name: "outbound-type", help: "How outbound traffic will be configured for a cluster.", choices: outboundTypes}
	argArtifacts    = arg{name: "bootstrap-artifact-source", help: "Configure artifact source when bootstrapping the cluster.", choices: []string{"Cache", "Direct"}}
	argArtifactsACR = arg{name: "bootstrap-container-registry-resource-id", help: "Configure container registry resource ID. Must use \"Cache\" as bootstrap artifact source."}
	waitArgs        = []arg{
		{name: "created", help: "Wait until created with 'provisioningState' at 'Succeeded'.", kind: flag},
		{name: "updated", help: "Wait until updated with provisioningState at 'Succeeded'.", kind: flag},
		{name: "deleted", help: "Wait until deleted.", kind: flag},
		{name: "exists", help: "Wait until the resource exists.", kind: flag},
		{name: "interval", help: "Polling interval in seconds.", def: "1", kind: number},
		{name: "timeout", help: "Maximum wait in seconds.", def: "3600", kind: number},
	}
)

func withDefault(a arg, def string) arg { a.def = def; return a }

func aksCommands() []command {
	cluster := resource{path: "aks", kind: clusterType, api: aksAPI, what: "a managed Kubernetes cluster", asks: true, table: clusterTable}
	return append(cluster.common(),
		command{path: "aks create", help: "Create a new managed Kubernetes cluster.", waits: true, table: clusterTable, args: createArgs(), run: aksCreate,
			example: "-g demo -n demo --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster"},
		command{path: "aks update", help: "Update a managed Kubernetes cluster. Without further arguments, bring it back into the state that it should have.", waits: true, table: clusterTable,
			args: cluster.args(argTags, argOutbound, argArtifacts, argArtifactsACR, arg{name: "yes", short: "y", help: "Accepted; nothing is asked.", kind: flag}), target: cluster.target, on: aksUpdate},
		command{path: "aks scale", help: "Scale the node pool in a managed Kubernetes cluster.", waits: true, table: clusterTable,
			args:   cluster.args(arg{name: "node-count", short: "c", help: "Number of nodes in the node pool.", required: true, kind: number}, arg{name: "nodepool-name", help: "Node pool name, when there are several.", part: true}),
			target: cluster.target, on: aksScale},
		command{path: "aks get-versions", help: "Get the versions available for creating a managed Kubernetes cluster.", raw: true,
			args: []arg{{name: "location", short: "l", help: "Location.", required: true, part: true}}, run: func(c *call) (any, error) {
				return c.c.getPath(c.ctx, "/subscriptions/"+c.c.Subscription+"/providers/Microsoft.ContainerService/locations/"+c.get("location")+"/kubernetesVersions", aksAPI)
			}},
		command{path: "aks get-upgrades", help: "Get the upgrade versions available for a managed Kubernetes cluster.", args: cluster.args(), target: cluster.target, on: func(c *call, id resourceid.ID) (any, error) {
			return c.c.getPath(c.ctx, id.String()+"/upgradeProfiles/default", aksAPI)
		}},
		command{path: "aks wait", help: "Wait for a managed Kubernetes cluster to reach a desired state.", args: cluster.args(waitArgs...), target: cluster.target, on: waitFor},
		command{path: "aks get-credentials", help: "Get access credentials for a managed Kubernetes cluster.", args: cluster.args(
			arg{name: "admin", short: "a", help: "Get cluster administrator credentials.", kind: flag},
			arg{name: "file", short: "f", help: "Kubernetes configuration file to update. Use \"-\" to print YAML to stdout instead."},
			arg{name: "overwrite-existing", help: "Overwrite any existing cluster entry with the same name.", kind: flag},
			arg{name: "context", help: "If specified, overwrite the default context name."},
			arg{name: "public-fqdn", help: "Get private cluster credential with server address to be public fqdn.", kind: flag}), target: cluster.target, on: getCredentials},
	)
}

func createArgs() []arg {
	return []arg{argGroup, argName, argLocation, argTags,
		{name: "kubernetes-version", short: "k", help: "Version of Kubernetes to use for creating the cluster."},
		{name: "node-count", short: "c", help: "Number of nodes in the Kubernetes node pool.", def: "3", kind: number},
		{name: "node-vm-size", short: "s", help: "Size of Virtual Machines to create as Kubernetes nodes. The service chooses when not given."},
		{name: "nodepool-name", help: "Node pool name, up to 12 alphanumeric characters.", def: "nodepool1"},
		{name: "nodepool-labels", help: "The node labels for all node pools in this cluster.", kind: many},
		{name: "max-pods", short: "m", help: "The maximum number of pods deployable to a node.", kind: number},
		{name: "dns-name-prefix", short: "p", help: "Prefix for hostnames that are created. One is made from the names when not given."},
		{name: "node-resource-group", help: "The node resource group is the resource group where all customer's resources will be created in."},
		{name: "network-plugin", help: "The Kubernetes network plugin to use.", choices: []string{"azure", "kubenet", "none"}},
		{name: "network-plugin-mode", help: "The network plugin mode to use.", choices: []string{"overlay"}},
		{name: "network-policy", help: "Network Policy Engine to use.", choices: []string{"azure", "calico", "cilium", "none"}},
		{name: "pod-cidr", help: "A CIDR notation IP range from which to assign pod IPs when kubenet or overlay is used."},
		{name: "service-cidr", help: "A CIDR notation IP range from which to assign service cluster IPs."},
		{name: "dns-service-ip", help: "An IP address assigned to the Kubernetes DNS service."},
		withDefault(argOutbound, "loadBalancer"), withDefault(argArtifacts, "Direct"), argArtifactsACR,
		{name: "enable-private-cluster", help: "Enable private cluster.", kind: flag},
		{name: "private-dns-zone", help: "Private dns zone mode for private cluster."},
		{name: "disable-public-fqdn", help: "Disable public fqdn feature for private cluster.", kind: flag},
		{name: "enable-apiserver-vnet-integration", help: "Enable integration of user vnet with control plane apiserver pods.", kind: flag},
		{name: "apiserver-subnet-id", help: "The ID of a subnet in an existing VNet into which to assign control plane apiserver pods(requires --enable-apiserver-vnet-integration)."},
		{name: "vnet-subnet-id", help: "The ID of a subnet in an existing VNet into which to deploy the cluster."},
		{name: "skip-subnet-role-assignment", help: "Skip role assignment for subnet.", kind: flag},
		{name: "assign-identity", help: "Specify an existing user assigned identity for control plane's usage in order to manage cluster resource group."},
		{name: "assign-kubelet-identity", help: "Specify an existing user assigned identity for kubelet's usage, which is typically used to pull image from ACR."},
		{name: "attach-acr", help: "Grant the 'acrpull' role assignment to the ACR specified by name or resource ID."},
		{name: "enable-managed-identity", help: "Using managed identity to manage cluster resource group. Always so.", kind: flag},
		{name: "ssh-key-value", help: "Public key to install on node VMs for SSH access. Kept in the document; nodes here take no SSH logins."},
		{name: "admin-username", short: "u", help: "User account to create on node VMs for SSH access.", def: "azureuser"},
		{name: "generate-ssh-keys", help: "Accepted; a key is not needed here.", kind: flag},
		{name: "no-ssh-key", short: "x", help: "Do not use or create a local SSH key. The default here.", kind: flag},
		{name: "yes", short: "y", help: "Accepted; nothing is asked.", kind: flag},
	}
}

// aksCreate sends what az 2.74 sends, the role assignments that it makes for one's own network included.
func aksCreate(c *call) (any, error) {
	id := c.group().Resource(clusterType, c.get("name"))
	if err := createRefusal(c); err != nil {
		return nil, err
	}
	if _, err := c.read(id, aksAPI); err == nil {
		return nil, fmt.Errorf("The cluster '%s' under resource group '%s' already exists. Please use command 'az aks update' to update the existing cluster, or select a different cluster name to create a new cluster.", c.get("name"), c.get("resource-group"))
	} else if !IsNotFound(err) {
		return nil, err
	}
	body, err := c.document(nil)
	if err != nil {
		return nil, err
	}
	if err := c.grantSubnet(); err != nil {
		return nil, err
	}
	properties := createProperties(c)
	body["identity"], body["properties"] = object{"type": "SystemAssigned"}, properties
	if i := c.get("assign-identity"); i != "" {
		body["identity"] = object{"type": "UserAssigned", "userAssignedIdentities": object{i: object{}}}
	}
	if k := c.get("assign-kubelet-identity"); k != "" {
		kubelet, err := c.identity(k)
		if err != nil {
			return nil, err
		}
		properties["identityProfile"] = object{"kubeletidentity": object{"resourceId": k, "clientId": kubelet["clientId"], "objectId": kubelet["principalId"]}}
		if err := c.grantKubelet(k); err != nil {
			return nil, err
		}
	}
	doc, err := c.write(id, aksAPI, body)
	if err != nil || doc == nil || !c.has("attach-acr") {
		return doc, err
	}
	return doc, c.attach(doc)
}

// createRefusal is what az refuses before it asks the service.
func createRefusal(c *call) error {
	switch {
	case c.has("bootstrap-container-registry-resource-id") && c.get("bootstrap-artifact-source") != "Cache":
		return errors.New("Cannot specify --bootstrap-container-registry-resource-id when --bootstrap-artifact-source is not Cache.")
	case c.has("assign-kubelet-identity") && !c.has("assign-identity"):
		return errors.New("--assign-kubelet-identity can only be specified when --assign-identity is specified")
	case c.has("apiserver-subnet-id") && !c.has("vnet-subnet-id"):
		return errors.New("\"--apiserver-subnet-id\" requires \"--vnet-subnet-id\".")
	case c.has("apiserver-subnet-id") && !c.is("enable-apiserver-vnet-integration"):
		return errors.New("\"--apiserver-subnet-id\" requires \"--enable-apiserver-vnet-integration\".")
	case c.is("enable-private-cluster") && c.get("outbound-type") == "":
		return errors.New("--outbound-type is empty")
	}
	for _, name := range []string{"vnet-subnet-id", "apiserver-subnet-id", "assign-identity", "assign-kubelet-identity", "bootstrap-container-registry-resource-id"} {
		if _, err := resourceid.Parse(c.get(name)); c.has(name) && err != nil {
			return fmt.Errorf("--%s is not a valid Azure resource ID.", name)
		}
	}
	return nil
}

func createProperties(c *call) object {
	pool := object{
		"name": c.get("nodepool-name"), "count": c.integer("node-count"), "mode": "System", "osType": "Linux", "type": "VirtualMachineScaleSets",
		"enableAutoScaling": false, "enableNodePublicIP": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableUltraSSD": false,
		"vmSize": c.get("node-vm-size"), "upgradeSettings": object{}, "nodeTaints": []any{}, "orchestratorVersion": c.get("kubernetes-version"),
		"scaleSetPriority": "Regular", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1,
	}
	if c.has("max-pods") {
		pool["maxPods"] = c.integer("max-pods")
	}
	if c.has("nodepool-labels") {
		pool["nodeLabels"] = pairs(c.all("nodepool-labels"))
	}
	network := object{"outboundType": c.get("outbound-type"), "loadBalancerSku": "standard"}
	given := false
	for name, key := range map[string]string{
		"network-plugin": "networkPlugin", "network-plugin-mode": "networkPluginMode", "network-policy": "networkPolicy",
		"pod-cidr": "podCidr", "service-cidr": "serviceCidr", "dns-service-ip": "dnsServiceIP",
	} {
		if v := c.get(name); v != "" {
			network[key], given = v, true
		}
	}
	if !given { // what the model of az's SDK holds by itself
		maps.Copy(network, object{"podCidr": "10.244.0.0/16", "serviceCidr": "10.0.0.0/16", "dnsServiceIP": "10.0.0.10"})
	}
	bootstrap := object{"artifactSource": c.get("bootstrap-artifact-source")}
	properties := object{
		"kubernetesVersion": c.get("kubernetes-version"), "enableRBAC": true, "disableLocalAccounts": false,
		"dnsPrefix":     orString(c.get("dns-name-prefix"), dnsPrefix(c.get("name"), c.get("resource-group"), c.c.Subscription)),
		"addonProfiles": object{}, "storageProfile": object{}, "bootstrapProfile": bootstrap,
		"agentPoolProfiles": []any{pool}, "networkProfile": network,
	}
	for name, target := range map[string]struct {
		in  object
		key string
	}{
		"vnet-subnet-id": {pool, "vnetSubnetID"}, "node-resource-group": {properties, "nodeResourceGroup"},
		"bootstrap-container-registry-resource-id": {bootstrap, "containerRegistryId"},
	} {
		if v := c.get(name); v != "" {
			target.in[target.key] = v
		}
	}
	if k := c.get("ssh-key-value"); k != "" {
		properties["linuxProfile"] = object{"adminUsername": c.get("admin-username"), "ssh": object{"publicKeys": []any{object{"keyData": k}}}}
	}
	if access := apiServerAccess(c); len(access) > 0 {
		properties["apiServerAccessProfile"] = access
	}
	return properties
}

func apiServerAccess(c *call) object {
	access := object{}
	if c.is("enable-private-cluster") {
		access["enablePrivateCluster"], access["authorizedIPRanges"] = true, []any{}
	}
	if z := c.get("private-dns-zone"); z != "" {
		access["privateDNSZone"] = z
	}
	if c.is("disable-public-fqdn") {
		access["enablePrivateClusterPublicFQDN"] = false
	}
	if c.is("enable-apiserver-vnet-integration") {
		access["enableVnetIntegration"] = true
	}
	if s := c.get("apiserver-subnet-id"); s != "" {
		access["subnetId"] = s
	}
	return access
}

// dnsPrefix is az's default for --dns-name-prefix: parts of the names and of the subscription.
func dnsPrefix(name, group, subscription string) string {
	keep := func(s string, n int) string {
		s = strings.Map(func(r rune) rune {
			if r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}, s)
		return s[:min(n, len(s))]
	}
	first := keep(name, 10)
	if first == "" || first[0] == '-' || first[0] <= '9' {
		first = keep("a"+first, 10)
	}
	return first + "-" + keep(group, 16) + "-" + keep(subscription, 6)
}

func (c *call) identity(s string) (object, error) {
	id, err := resourceid.Parse(s)
	if err != nil {
		return nil, err
	}
	doc, err := c.c.get(c.ctx, id, identityAPI)
	if err != nil {
		return nil, err
	}
	p, _ := doc["properties"].(map[string]any)
	return p, nil
}

// aksUpdate without arguments is the reconcile that mends a failed cluster.
func aksUpdate(c *call, id resourceid.ID) (any, error) {
	if c.has("bootstrap-container-registry-resource-id") && c.get("bootstrap-artifact-source") != "Cache" {
		return nil, errors.New("Cannot specify --bootstrap-container-registry-resource-id when --bootstrap-artifact-source is not Cache.")
	}
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	body := writableCluster(doc)
	properties := body["properties"].(object)
	if t := c.tags(); t != nil {
		body["tags"] = t
	}
	if o := c.get("outbound-type"); o != "" {
		network, _ := properties["networkProfile"].(map[string]any)
		if network == nil {
			network = object{}
			properties["networkProfile"] = network
		}
		network["outboundType"] = o
		if o != "loadBalancer" {
			delete(network, "loadBalancerProfile")
		}
	}
	if s := c.get("bootstrap-artifact-source"); s != "" {
		bootstrap := object{"artifactSource": s}
		if r := c.get("bootstrap-container-registry-resource-id"); r != "" {
			bootstrap["containerRegistryId"] = r
		}
		properties["bootstrapProfile"] = bootstrap
	}
	return c.write(id, aksAPI, body)
}

func aksScale(c *call, id resourceid.ID) (any, error) {
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	body := writableCluster(doc)
	properties := body["properties"].(object)
	delete(properties, "servicePrincipalProfile") // as az with a managed identity
	pools, _ := properties["agentPoolProfiles"].([]any)
	name := c.get("nodepool-name")
	if name == "" && len(pools) > 1 {
		return nil, errors.New("There are more than one node pool in the cluster. Please specify nodepool name or use az aks nodepool command to scale node pool")
	}
	for _, p := range pools {
		pool, _ := p.(map[string]any)
		if n, _ := pool["name"].(string); name == "" || n == name {
			pool["count"] = c.integer("node-count")
			return c.write(id, aksAPI, body)
		}
	}
	return nil, fmt.Errorf("The nodepool %q was not found.", name)
}

// writableCluster is a cluster's document as az sends it back: without what is read-only in its SDK's models.
func writableCluster(doc map[string]any) object {
	body := without(doc, "id", "name", "type", "systemData", "etag", "eTag")
	properties, _ := doc["properties"].(map[string]any)
	p := without(properties, "provisioningState", "powerState", "maxAgentPools", "currentKubernetesVersion", "fqdn", "privateFQDN", "azurePortalFQDN", "resourceUID")
	if pools, ok := p["agentPoolProfiles"].([]any); ok {
		kept := make([]any, len(pools))
		for i, pool := range pools {
			m, _ := pool.(map[string]any)
			kept[i] = without(m, readOnlyPool...)
		}
		p["agentPoolProfiles"] = kept
	}
	body["properties"] = p
	if identity, ok := doc["identity"].(map[string]any); ok {
		kept := without(identity, "principalId", "tenantId")
		if assigned, ok := identity["userAssignedIdentities"].(map[string]any); ok {
			all := object{}
			for id := range assigned {
				all[id] = object{}
			}
			kept["userAssignedIdentities"] = all
		}
		body["identity"] = kept
	}
	return body
}

var readOnlyPool = []string{"eTag", "provisioningState", "currentOrchestratorVersion", "nodeImageVersion"}

func without(doc map[string]any, names ...string) object {
	out := object{}
	for k, v := range doc {
		if !slices.Contains(names, k) {
			out[k] = v
		}
	}
	return out
}

// waitFor polls a resource until it is as asked, as az does.
func waitFor(c *call, id resourceid.ID) (any, error) {
	wanted := ""
	for _, w := range []string{"created", "updated", "deleted", "exists"} {
		if c.is(w) {
			wanted = w
		}
	}
	if wanted == "" {
		return nil, usagef("usage error: --created | --updated | --deleted | --exists")
	}
	limit := time.Now().Add(time.Duration(c.integer("timeout")) * time.Second)
	for {
		doc, err := c.c.get(c.ctx, id, aksAPI)
		if err != nil && (!IsNotFound(err) || wanted != "deleted" && wanted != "exists" && wanted != "created") {
			return nil, err
		}
		p, _ := doc["properties"].(map[string]any)
		state, _ := p["provisioningState"].(string)
		switch {
		case wanted == "deleted" && err != nil, wanted == "exists" && err == nil:
			return nil, nil
		case wanted == "deleted" || wanted == "exists":
		case state == "Succeeded":
			return nil, nil
		case state == "Failed" || state == "Canceled":
			return nil, &Error{Status: http.StatusConflict, Code: "OperationFailed", Message: "The resource is in state " + state + "; `cloister timeline` says why."}
		}
		if time.Now().After(limit) {
			return nil, errors.New("Wait operation timed-out after " + c.get("timeout") + " seconds")
		}
		if err := sleep(c.ctx, time.Duration(c.integer("interval"))*time.Second); err != nil {
			return nil, &interrupted{id, err}
		}
	}
}
