package azcli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const clusterType = "Microsoft.ContainerService/managedClusters"

func number(s string) any {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return s
}

func clusterOf(c *call) resourceid.ID { return c.group().Resource(clusterType, c.get("name")) }

func aksCommands() []command {
	all := crud("aks", clusterType, aksAPI, "a managed Kubernetes cluster")
	clusterName := arg{name: "cluster-name", help: "The cluster name.", required: true}
	pool := func(c *call) resourceid.ID {
		return c.group().Resource(clusterType+"/agentPools", c.get("cluster-name"), c.get("name"))
	}
	return append(all,
		command{"aks create", "Create a new managed Kubernetes cluster.", createArgs(), aksCreate},
		command{"aks update", "Update a managed Kubernetes cluster, or bring it back into its desired state.", []arg{argGroup, argName, argNoWait, argYes}, aksUpdate},
		command{"aks get-credentials", "Get access credentials for a managed Kubernetes cluster.", []arg{argGroup, argName,
			{name: "admin", short: "a", help: "Get cluster administrator credentials.", flag: true},
			{name: "file", short: "f", help: "Kubernetes configuration file to update; \"-\" prints to stdout."},
			{name: "overwrite-existing", help: "Overwrite any existing cluster entry with the same name.", flag: true},
			{name: "public-fqdn", help: "Get the credential with the server address being the public FQDN.", flag: true}}, getCredentials},
		command{"aks get-versions", "Get the versions available for creating a managed Kubernetes cluster.", []arg{{name: "location", short: "l", help: "Location.", required: true}}, func(c *call) (any, error) {
			c.raw = true
			_, data, err := c.c.send(c.ctx, http.MethodGet, "/subscriptions/"+c.c.Subscription+"/providers/Microsoft.ContainerService/locations/"+c.get("location")+"/kubernetesVersions", aksAPI, nil)
			if err != nil {
				return nil, err
			}
			return decode(data)
		}},
		command{"aks nodepool list", "List node pools in the managed Kubernetes cluster.", []arg{argGroup, clusterName}, func(c *call) (any, error) {
			return c.c.list(c.ctx, c.group().Resource(clusterType, c.get("cluster-name")).String()+"/agentPools", aksAPI)
		}},
		command{"aks nodepool show", "Show the details for a node pool.", []arg{argGroup, clusterName, argName}, func(c *call) (any, error) { return c.c.get(c.ctx, pool(c), aksAPI) }},
		command{"aks nodepool add", "Add a node pool.", []arg{argGroup, clusterName, argName,
			{name: "node-count", short: "c", help: "Number of nodes.", def: "3"}, {name: "node-vm-size", short: "s", help: "Size of the virtual machines."},
			{name: "mode", help: "The mode for a node pool.", def: "User", choices: []string{"System", "User"}},
			{name: "max-pods", short: "m", help: "The maximum number of pods deployable to a node."},
			{name: "labels", help: "Node labels: key=value.", many: true}, {name: "node-taints", help: "Node taints, comma-separated."}, argNoWait}, poolAdd},
		command{"aks nodepool scale", "Scale the node pool.", []arg{argGroup, clusterName, argName, {name: "node-count", short: "c", help: "Number of nodes.", required: true}, argNoWait}, func(c *call) (any, error) {
			doc, err := c.c.get(c.ctx, pool(c), aksAPI)
			if err != nil {
				return nil, err
			}
			doc["properties"].(map[string]any)["count"] = number(c.get("node-count"))
			return c.c.put(c.ctx, pool(c), aksAPI, doc, c.is("no-wait"))
		}},
		command{"aks nodepool delete", "Delete the node pool.", []arg{argGroup, clusterName, argName, argNoWait}, func(c *call) (any, error) {
			return c.c.remove(c.ctx, pool(c), aksAPI, c.is("no-wait"))
		}},
	)
}

func createArgs() []arg {
	return []arg{argGroup, argName, argLocation, argTags,
		{name: "kubernetes-version", short: "k", help: "Version of Kubernetes."},
		{name: "node-count", short: "c", help: "Number of nodes in the node pool.", def: "3"},
		{name: "node-vm-size", short: "s", help: "Size of the virtual machines."},
		{name: "nodepool-name", help: "Node pool name.", def: "nodepool1"},
		{name: "max-pods", short: "m", help: "The maximum number of pods deployable to a node."},
		{name: "dns-name-prefix", short: "p", help: "Prefix for host names of the API server."},
		{name: "node-resource-group", help: "The resource group where the cluster's resources are created."},
		{name: "network-plugin", help: "The Kubernetes network plugin to use.", choices: []string{"azure", "kubenet", "none"}},
		{name: "network-policy", help: "Network policy engine.", choices: []string{"none", "azure", "calico", "cilium"}},
		{name: "service-cidr", help: "A CIDR notation IP range from which to assign service cluster IPs."},
		{name: "dns-service-ip", help: "An IP address assigned to the Kubernetes DNS service."},
		{name: "outbound-type", help: "How outbound traffic will be configured for a cluster.", def: "loadBalancer", choices: []string{"loadBalancer", "userDefinedRouting", "managedNATGateway", "userAssignedNATGateway", "none", "block"}},
		{name: "bootstrap-artifact-source", help: "Configure artifact source when bootstraping the cluster.", def: "Direct", choices: []string{"Cache", "Direct"}},
		{name: "bootstrap-container-registry-resource-id", help: "The resource ID of the Azure Container Registry. Must use with \"--bootstrap-artifact-source Cache\"."},
		{name: "enable-private-cluster", help: "Enable private cluster.", flag: true},
		{name: "enable-apiserver-vnet-integration", help: "Enable integration of user vnet with control plane apiserver pods.", flag: true},
		{name: "apiserver-subnet-id", help: "The ID of a subnet in an existing VNet into which to assign control plane apiserver pods."},
		{name: "vnet-subnet-id", help: "The ID of a subnet in an existing VNet into which to deploy the cluster."},
		{name: "assign-identity", help: "Specify an existing user assigned identity for control plane's usage."},
		{name: "assign-kubelet-identity", help: "Specify an existing user assigned identity for kubelet's usage."},
		{name: "enable-managed-identity", help: "Using managed identity to manage cluster resource group; always so here.", flag: true},
		{name: "generate-ssh-keys", help: "Accepted; nodes here take no SSH logins.", flag: true},
		{name: "no-ssh-key", short: "x", help: "Do not use a local SSH key; always so here.", flag: true},
		argYes, argNoWait}
}

// aksCreate sends what az 2.74 sends.
func aksCreate(c *call) (any, error) {
	id := clusterOf(c)
	if _, err := c.c.get(c.ctx, id, aksAPI); err == nil {
		return nil, fmt.Errorf("The cluster '%s' under resource group '%s' already exists. Please use command 'az aks update' to update the existing cluster, or select a different cluster name to create a new cluster.", c.get("name"), c.get("resource-group"))
	} else if !IsNotFound(err) {
		return nil, err
	}
	if c.has("bootstrap-container-registry-resource-id") && c.get("bootstrap-artifact-source") != "Cache" {
		return nil, errors.New("Cannot specify --bootstrap-container-registry-resource-id when --bootstrap-artifact-source is not Cache.")
	}
	if c.has("assign-kubelet-identity") && !c.has("assign-identity") {
		return nil, errors.New("--assign-kubelet-identity can only be specified when --assign-identity is specified")
	}
	location, err := c.location()
	if err != nil {
		return nil, err
	}
	pool := object{
		"name": c.get("nodepool-name"), "count": number(c.get("node-count")), "mode": "System", "osType": "Linux", "type": "VirtualMachineScaleSets",
		"enableAutoScaling": false, "enableNodePublicIP": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableUltraSSD": false,
		"vmSize": c.get("node-vm-size"), "upgradeSettings": object{}, "nodeTaints": []any{},
		"scaleSetPriority": "Regular", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1,
	}
	network := object{"outboundType": c.get("outbound-type"), "loadBalancerSku": "standard"}
	properties := object{
		"kubernetesVersion": c.get("kubernetes-version"), "enableRBAC": true, "disableLocalAccounts": false,
		"addonProfiles": object{}, "storageProfile": object{},
		"bootstrapProfile": object{"artifactSource": c.get("bootstrap-artifact-source")},
	}
	for name, target := range map[string]struct {
		in  object
		key string
	}{
		"kubernetes-version": {pool, "orchestratorVersion"}, "max-pods": {pool, "maxPods"}, "vnet-subnet-id": {pool, "vnetSubnetID"},
		"network-plugin": {network, "networkPlugin"}, "network-policy": {network, "networkPolicy"},
		"service-cidr": {network, "serviceCidr"}, "dns-service-ip": {network, "dnsServiceIP"},
		"dns-name-prefix": {properties, "dnsPrefix"}, "node-resource-group": {properties, "nodeResourceGroup"},
	} {
		if v := c.get(name); v != "" {
			target.in[target.key] = v
			if name == "max-pods" {
				target.in[target.key] = number(v)
			}
		}
	}
	if r := c.get("bootstrap-container-registry-resource-id"); r != "" {
		properties["bootstrapProfile"].(object)["containerRegistryId"] = r
	}
	if c.is("enable-private-cluster") || c.is("enable-apiserver-vnet-integration") {
		access := object{"authorizedIPRanges": []any{}}
		if c.is("enable-private-cluster") {
			access["enablePrivateCluster"] = true
		}
		if c.is("enable-apiserver-vnet-integration") {
			access["enableVnetIntegration"] = true
		}
		if s := c.get("apiserver-subnet-id"); s != "" {
			access["subnetId"] = s
		}
		properties["apiServerAccessProfile"] = access
	}
	properties["agentPoolProfiles"], properties["networkProfile"] = []any{pool}, network
	body := object{"location": location, "identity": object{"type": "SystemAssigned"}, "properties": properties}
	if t := c.tags(); t != nil {
		body["tags"] = t
	}
	if i := c.get("assign-identity"); i != "" {
		body["identity"] = object{"type": "UserAssigned", "userAssignedIdentities": object{i: object{}}}
	}
	if k := c.get("assign-kubelet-identity"); k != "" {
		parsed, err := resourceid.Parse(k)
		if err != nil {
			return nil, err
		}
		doc, err := c.c.get(c.ctx, parsed, identityAPI)
		if err != nil {
			return nil, err
		}
		p, _ := doc["properties"].(map[string]any)
		properties["identityProfile"] = object{"kubeletidentity": object{"resourceId": k, "clientId": p["clientId"], "objectId": p["principalId"]}}
	}
	return c.c.put(c.ctx, id, aksAPI, body, c.is("no-wait"))
}

// aksUpdate without arguments is the reconcile that mends a failed cluster.
func aksUpdate(c *call) (any, error) {
	doc, err := c.c.get(c.ctx, clusterOf(c), aksAPI)
	if err != nil {
		return nil, err
	}
	return c.c.put(c.ctx, clusterOf(c), aksAPI, doc, c.is("no-wait"))
}

func poolAdd(c *call) (any, error) {
	id := c.group().Resource(clusterType+"/agentPools", c.get("cluster-name"), c.get("name"))
	if _, err := c.c.get(c.ctx, id, aksAPI); err == nil {
		return nil, fmt.Errorf("Node pool %s already exists, please try a different name, use 'aks nodepool list' to get current list of node pool", c.get("name"))
	} else if !IsNotFound(err) {
		return nil, err
	}
	p := object{"count": number(c.get("node-count")), "mode": c.get("mode"), "osType": "Linux", "type": "VirtualMachineScaleSets", "vmSize": c.get("node-vm-size"), "upgradeSettings": object{}}
	if m := c.get("max-pods"); m != "" {
		p["maxPods"] = number(m)
	}
	labels := object{}
	for _, l := range c.all("labels") {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	if len(labels) > 0 {
		p["nodeLabels"] = labels
	}
	if t := c.get("node-taints"); t != "" {
		p["nodeTaints"] = strings.Split(t, ",")
	}
	return c.c.put(c.ctx, id, aksAPI, object{"properties": p}, c.is("no-wait"))
}

// getCredentials merges a kubeconfig into the user's, as az does.
func getCredentials(c *call) (any, error) {
	action := "listClusterUserCredential"
	if c.is("admin") {
		action = "listClusterAdminCredential"
	}
	path := clusterOf(c).String() + "/" + action
	if c.is("public-fqdn") {
		path += "?server-fqdn=public"
	}
	_, data, err := c.c.send(c.ctx, http.MethodPost, path, aksAPI, nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Kubeconfigs []struct{ Name, Value string }
	}
	if err := json.Unmarshal(data, &answer); err != nil || len(answer.Kubeconfigs) == 0 {
		return nil, fmt.Errorf("the service answered without a kubeconfig: %v", err)
	}
	config, err := base64.StdEncoding.DecodeString(answer.Kubeconfigs[0].Value)
	if err != nil {
		return nil, err
	}
	file := c.get("file")
	if file == "-" {
		_, err := c.out.Write(config)
		return nil, err
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		file = filepath.Join(home, ".kube", "config")
	}
	fresh, err := clientcmd.Load(config)
	if err != nil {
		return nil, err
	}
	merged, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, os.ErrNotExist) {
		merged, err = fresh.DeepCopy(), nil
	}
	if err != nil {
		return nil, err
	}
	for k, v := range fresh.Clusters {
		if _, taken := merged.Clusters[k]; taken && !c.is("overwrite-existing") && merged.Clusters[k].Server != v.Server {
			return nil, fmt.Errorf("a different object named %s already exists in %s; say --overwrite-existing", k, file)
		}
		merged.Clusters[k] = v
	}
	for k, v := range fresh.AuthInfos {
		merged.AuthInfos[k] = v
	}
	for k, v := range fresh.Contexts {
		merged.Contexts[k] = v
	}
	merged.CurrentContext = fresh.CurrentContext
	if err := clientcmd.WriteToFile(*merged, file); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "Merged %q as current context in %s\n", fresh.CurrentContext, file)
	return nil, nil
}
