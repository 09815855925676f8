package azcli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

const clusterType = "Microsoft.ContainerService/managedClusters"

// clusterTable are az's columns; a private cluster has no public name that resolves to it.
var clusterTable = columns{{"Name", "name"}, {"Location", "location"}, {"ResourceGroup", "resourceGroup"}, {"KubernetesVersion", "kubernetesVersion"},
	{"CurrentKubernetesVersion", "currentKubernetesVersion"}, {"ProvisioningState", "provisioningState"}, {"Fqdn", "fqdn || privateFqdn"}}

func withDefault(a arg, def string) arg { a.def = def; return a }

func aksCommands() []command {
	cluster := resource{path: "aks", kind: clusterType, api: aksAPI, what: "a managed Kubernetes cluster", asks: true, table: clusterTable}
	return append(cluster.common(),
		command{path: "aks create", help: "Create a new managed Kubernetes cluster.", waits: true, table: clusterTable, args: createArgs(), run: aksCreate,
			example: strings.Join([]string{
				"Create a network isolated cluster behind a private link. | -g demo -n demo --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster",
				"The same with API Server VNet Integration. | -g demo -n demo --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster --enable-apiserver-vnet-integration",
				"With a registry, subnet and identities of one's own. | -g demo -n demo --vnet-subnet-id SUBNET_ID --assign-identity ID --assign-kubelet-identity ID --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id REGISTRY_ID --outbound-type none --network-plugin azure --enable-private-cluster",
				"An ordinary cluster with a NAT gateway as its way out. | -g demo -n demo --outbound-type managedNATGateway --nat-gateway-managed-outbound-ip-count 2 --node-count 1",
			}, "\n")},
		command{path: "aks update", help: "Update a managed Kubernetes cluster. Without further arguments, bring it back into the state that it should have.", waits: true, table: clusterTable,
			args: cluster.args(updateArgs()...), target: cluster.target, on: aksUpdate, example: strings.Join([]string{
				"Isolate a cluster; its nodes need a reimage then. | -g demo -n demo --bootstrap-artifact-source Cache --outbound-type none",
				"Move it to another registry. | -g demo -n demo --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id REGISTRY_ID",
				"Open it again. | -g demo -n demo --bootstrap-artifact-source Direct --outbound-type loadBalancer",
				"Bring it back into the state that it should have. | -g demo -n demo --yes",
			}, "\n")},
		command{path: "aks scale", help: "Scale the node pool in a managed Kubernetes cluster.", waits: true, table: clusterTable,
			args:   cluster.args(arg{name: "node-count", short: "c", help: "Number of nodes in the node pool.", required: true, kind: number}, arg{name: "nodepool-name", help: "Node pool name, when there are several.", part: true}),
			target: cluster.target, on: aksScale},
		command{path: "aks get-versions", help: "Get the versions available for creating a managed Kubernetes cluster.", raw: true, show: versionRows, table: columns{
			{"KubernetesVersion", "version"}, {"Upgrades", "upgrades"}, {"SupportPlan", "supportPlan"}},
			args: []arg{{name: "location", short: "l", help: "Location.", required: true, part: true}}, run: func(c *call) (any, error) {
				return c.c.getPath(c.ctx, "/subscriptions/"+c.c.Subscription+"/providers/Microsoft.ContainerService/locations/"+c.get("location")+"/kubernetesVersions", aksAPI)
			}},
		command{path: "aks get-upgrades", help: "Get the upgrade versions available for a managed Kubernetes cluster.", args: cluster.args(), target: cluster.target, show: upgradeRow,
			table: columns{{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"MasterVersion", "version"}, {"Upgrades", "upgrades"}}, on: func(c *call, id resourceid.ID) (any, error) {
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
	properties, err := createProperties(c)
	if err != nil {
		return nil, err
	}
	if t := c.get("tier"); t != "" {
		body["sku"] = object{"name": "Base", "tier": strings.ToUpper(t[:1]) + t[1:]}
	}
	body["identity"], body["properties"] = object{"type": "SystemAssigned"}, properties
	if c.has("service-principal") {
		delete(body, "identity")
	}
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
	return doc, c.attach(doc, c.get("attach-acr"))
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
	case c.is("enable-private-cluster") && c.get("api-server-authorized-ip-ranges") != "":
		return errors.New("--api-server-authorized-ip-ranges is not supported for private cluster")
	case c.is("disable-public-fqdn") && !c.is("enable-private-cluster"):
		return errors.New("--disable-public-fqdn should only be used with --enable-private-cluster")
	case c.has("private-dns-zone") && !c.is("enable-private-cluster"):
		return errors.New("Invalid private dns zone for public cluster. It should always be empty for public cluster")
	case c.has("fqdn-subdomain") && c.has("dns-name-prefix"):
		return errors.New("--dns-name-prefix and --fqdn-subdomain cannot be used at same time")
	case c.has("client-secret") && !c.has("service-principal"):
		return errors.New("--service-principal is required if --client-secret is specified")
	case c.has("service-principal") && !c.has("client-secret"):
		return errors.New("--client-secret is required if --service-principal is specified")
	}
	switch z := c.get("private-dns-zone"); {
	case z == "" || strings.EqualFold(z, "system") || strings.EqualFold(z, "none"):
		if c.has("fqdn-subdomain") {
			return errors.New("--fqdn-subdomain should only be used for private cluster with custom private dns zone")
		}
	default:
		if _, err := resourceid.Parse(z); err != nil {
			return fmt.Errorf("%s is not a valid Azure resource ID.", z)
		}
	}
	for _, name := range []string{"vnet-subnet-id", "apiserver-subnet-id", "assign-identity", "assign-kubelet-identity", "bootstrap-container-registry-resource-id"} {
		if _, err := resourceid.Parse(c.get(name)); c.has(name) && err != nil {
			return fmt.Errorf("--%s is not a valid Azure resource ID.", name)
		}
	}
	return nil
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
