package azcli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// createProperties is the document of a new cluster as az 2.74 writes it.
func createProperties(c *call) (object, error) {
	network := object{"outboundType": c.get("outbound-type"), "loadBalancerSku": orString(c.get("load-balancer-sku"), "standard")}
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
	outboundProfiles(c, network)
	bootstrap := object{"artifactSource": c.get("bootstrap-artifact-source")}
	pool := firstPool(c)
	properties := object{
		"kubernetesVersion": c.get("kubernetes-version"), "enableRBAC": true, "disableLocalAccounts": c.is("disable-local-accounts"),
		"dnsPrefix":     orString(c.get("dns-name-prefix"), dnsPrefix(c.get("name"), c.get("resource-group"), c.c.Subscription)),
		"addonProfiles": object{}, "storageProfile": object{}, "bootstrapProfile": bootstrap,
		"agentPoolProfiles": []any{pool}, "networkProfile": network,
	}
	for name, target := range map[string]struct {
		in  object
		key string
	}{
		"vnet-subnet-id": {pool, "vnetSubnetID"}, "node-resource-group": {properties, "nodeResourceGroup"}, "fqdn-subdomain": {properties, "fqdnSubdomain"},
		"bootstrap-container-registry-resource-id": {bootstrap, "containerRegistryId"},
	} {
		if v := c.get(name); v != "" {
			target.in[target.key] = v
		}
	}
	if c.has("fqdn-subdomain") { // az sends one of the two
		delete(properties, "dnsPrefix")
	}
	if s := c.get("service-principal"); s != "" {
		properties["servicePrincipalProfile"] = object{"clientId": s, "secret": c.get("client-secret")}
	}
	upgradeChannel(c, properties)
	if k := c.get("ssh-key-value"); k != "" && !c.is("no-ssh-key") {
		key, err := publicKey(k)
		if err != nil {
			return nil, err
		}
		properties["linuxProfile"] = object{"adminUsername": c.get("admin-username"), "ssh": object{"publicKeys": []any{object{"keyData": key}}}}
	}
	if access := apiServerAccess(c, object{}); len(access) > 0 {
		properties["apiServerAccessProfile"] = access
	}
	return properties, nil
}

// upgradeChannel writes --node-os-upgrade-channel.
func upgradeChannel(c *call, properties object) {
	if u := c.get("node-os-upgrade-channel"); u != "" {
		profile, _ := properties["autoUpgradeProfile"].(map[string]any)
		profile = without(profile)
		profile["nodeOSUpgradeChannel"] = u
		properties["autoUpgradeProfile"] = profile
	}
}

// publicKey is the key itself, or what the file of that name holds.
func publicKey(given string) (string, error) {
	if strings.HasPrefix(given, "ssh-") || strings.HasPrefix(given, "ecdsa-") {
		return given, nil
	}
	data, err := os.ReadFile(given)
	if err != nil {
		return "", fmt.Errorf("An RSA key file or key value must be supplied to SSH Key Value: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func firstPool(c *call) object {
	pool := object{
		"name": c.get("nodepool-name"), "count": c.integer("node-count"), "mode": "System", "osType": "Linux", "type": orString(c.get("vm-set-type"), "VirtualMachineScaleSets"),
		"enableAutoScaling": false, "enableNodePublicIP": false, "enableEncryptionAtHost": false, "enableFIPS": false, "enableUltraSSD": false,
		"vmSize": c.get("node-vm-size"), "upgradeSettings": object{}, "nodeTaints": []any{}, "orchestratorVersion": c.get("kubernetes-version"),
		"scaleSetPriority": "Regular", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1,
	}
	if c.has("max-pods") {
		pool["maxPods"] = c.integer("max-pods")
	}
	if c.has("node-osdisk-size") {
		pool["osDiskSizeGB"] = c.integer("node-osdisk-size")
	}
	if s := c.get("os-sku"); s != "" {
		pool["osSKU"] = s
	}
	poolWords(c, pool)
	if c.has("nodepool-tags") {
		pool["tags"] = pairs(c.all("nodepool-tags"))
	}
	return pool
}

// poolWords are --nodepool-labels and --nodepool-taints.
func poolWords(c *call, pool object) {
	if c.has("nodepool-labels") {
		pool["nodeLabels"] = pairs(c.all("nodepool-labels"))
	}
	if c.has("nodepool-taints") {
		pool["nodeTaints"] = commas(c.get("nodepool-taints"))
	}
}

// commas are the parts of a list with commas; an empty one has none.
func commas(s string) []any {
	out := []any{}
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// outboundProfiles writes what was said of the load balancer and the NAT gateway into a network profile.
func outboundProfiles(c *call, network object) {
	sub := func(in object, key string) object {
		m, _ := in[key].(map[string]any)
		if m == nil {
			m = object{}
		}
		in[key] = m
		return m
	}
	if c.has("load-balancer-managed-outbound-ip-count") {
		lb := sub(network, "loadBalancerProfile")
		lb["managedOutboundIPs"] = object{"count": c.integer("load-balancer-managed-outbound-ip-count")}
		delete(lb, "outboundIPs")
	}
	if c.has("load-balancer-outbound-ips") {
		var ids []any
		for _, id := range commas(c.get("load-balancer-outbound-ips")) {
			ids = append(ids, object{"id": id})
		}
		lb := sub(network, "loadBalancerProfile")
		lb["outboundIPs"] = object{"publicIPs": ids}
		delete(lb, "managedOutboundIPs")
	}
	for name, key := range map[string][2]string{
		"load-balancer-outbound-ports": {"loadBalancerProfile", "allocatedOutboundPorts"}, "load-balancer-idle-timeout": {"loadBalancerProfile", "idleTimeoutInMinutes"},
		"nat-gateway-idle-timeout": {"natGatewayProfile", "idleTimeoutInMinutes"},
	} {
		if c.has(name) {
			sub(network, key[0])[key[1]] = c.integer(name)
		}
	}
	if c.has("nat-gateway-managed-outbound-ip-count") {
		sub(network, "natGatewayProfile")["managedOutboundIPProfile"] = object{"count": c.integer("nat-gateway-managed-outbound-ip-count")}
	}
}

// apiServerAccess writes what was said of the API server into its profile.
func apiServerAccess(c *call, access object) object {
	if c.is("enable-private-cluster") {
		access["enablePrivateCluster"], access["authorizedIPRanges"] = true, []any{}
	}
	if c.is("disable-private-cluster") {
		access["enablePrivateCluster"] = false
	}
	if c.has("api-server-authorized-ip-ranges") {
		access["authorizedIPRanges"] = commas(c.get("api-server-authorized-ip-ranges"))
	}
	if z := c.get("private-dns-zone"); z != "" {
		access["privateDNSZone"] = z
	}
	if c.is("disable-public-fqdn") {
		access["enablePrivateClusterPublicFQDN"] = false
	}
	if c.is("enable-public-fqdn") {
		access["enablePrivateClusterPublicFQDN"] = true
	}
	if c.is("enable-apiserver-vnet-integration") {
		access["enableVnetIntegration"] = true
	}
	if s := c.get("apiserver-subnet-id"); s != "" {
		access["subnetId"] = s
	}
	if c.is("disable-run-command") {
		access["disableRunCommand"] = true
	}
	if c.is("enable-run-command") {
		access["disableRunCommand"] = false
	}
	return access
}

// updateRefusal is what az refuses before it asks the service.
func updateRefusal(c *call) error {
	for _, pair := range [][2]string{{"enable-private-cluster", "disable-private-cluster"}, {"enable-public-fqdn", "disable-public-fqdn"},
		{"enable-local-accounts", "disable-local-accounts"}, {"enable-run-command", "disable-run-command"}} {
		if c.is(pair[0]) && c.is(pair[1]) {
			return fmt.Errorf("Cannot specify --%s and --%s at the same time.", pair[0], pair[1])
		}
	}
	switch {
	// Without an artifact source az drops the registry, and says nothing: https://github.com/Azure/azure-cli/issues/31209.
	case c.has("bootstrap-container-registry-resource-id") && c.get("bootstrap-artifact-source") == "Direct":
		return errors.New("Cannot specify --bootstrap-container-registry-resource-id when --bootstrap-artifact-source is not Cache.")
	case c.has("assign-identity") && !c.is("enable-managed-identity"):
		return errors.New("--assign-identity can only be specified when --enable-managed-identity is specified")
	}
	for _, name := range []string{"apiserver-subnet-id", "assign-identity", "assign-kubelet-identity", "bootstrap-container-registry-resource-id"} {
		if _, err := resourceid.Parse(c.get(name)); c.has(name) && err != nil {
			return fmt.Errorf("--%s is not a valid Azure resource ID.", name)
		}
	}
	return nil
}

// aksUpdate without arguments is the reconcile that mends a failed cluster; az asks first.
func aksUpdate(c *call, id resourceid.ID) (any, error) {
	if err := updateRefusal(c); err != nil {
		return nil, err
	}
	if c.saysNothing(id) {
		yes, err := c.yes("Would you like to reconcile to current settings?")
		if err != nil || !yes {
			return nil, err
		}
	}
	if c.has("assign-kubelet-identity") {
		yes, err := c.yes("You're going to update kubelet identity to " + c.get("assign-kubelet-identity") + ", which will upgrade every node pool in the cluster and might take a while, do you wish to continue?")
		if err != nil || !yes {
			return nil, err
		}
	}
	doc, err := c.c.get(c.ctx, id, aksAPI)
	if err != nil {
		return nil, err
	}
	if c.is("disable-public-fqdn") && !c.has("private-dns-zone") && privateZone(doc) == "none" {
		return nil, errors.New("--disable-public-fqdn cannot be applied for none mode private dns zone cluster")
	}
	for _, change := range []struct {
		argument string
		do       func(doc any, registry string) error
	}{{"attach-acr", c.attach}, {"detach-acr", c.detach}} {
		if r := c.get(change.argument); r != "" {
			if err := change.do(doc, r); err != nil {
				return nil, err
			}
		}
	}
	body := writableCluster(doc)
	properties := body["properties"].(object)
	if t := c.tags(); t != nil {
		body["tags"] = t
	}
	if t := c.get("tier"); t != "" {
		body["sku"] = object{"name": "Base", "tier": strings.ToUpper(t[:1]) + t[1:]}
	}
	if err := updateIdentity(c, body, properties); err != nil {
		return nil, err
	}
	updateNetwork(c, properties)
	if s := c.get("bootstrap-artifact-source"); s != "" {
		bootstrap := object{"artifactSource": s}
		if r := c.get("bootstrap-container-registry-resource-id"); r != "" {
			bootstrap["containerRegistryId"] = r
		}
		properties["bootstrapProfile"] = bootstrap
	}
	upgradeChannel(c, properties)
	access, _ := properties["apiServerAccessProfile"].(map[string]any)
	if access = apiServerAccess(c, without(access)); len(access) > 0 {
		properties["apiServerAccessProfile"] = access
	}
	if c.is("disable-local-accounts") || c.is("enable-local-accounts") {
		properties["disableLocalAccounts"] = c.is("disable-local-accounts")
	}
	pools, _ := properties["agentPoolProfiles"].([]any)
	for _, p := range pools {
		pool, _ := p.(map[string]any)
		poolWords(c, pool)
	}
	return c.write(id, aksAPI, body)
}

func privateZone(doc map[string]any) string {
	properties, _ := doc["properties"].(map[string]any)
	access, _ := properties["apiServerAccessProfile"].(map[string]any)
	zone, _ := access["privateDNSZone"].(string)
	return zone
}

// saysNothing: no argument but those that name the cluster and the form of the answer.
func (c *call) saysNothing(resourceid.ID) bool {
	for _, a := range updateArgs() {
		if c.has(a.name) && a.name != "yes" {
			return false
		}
	}
	return true
}

func updateNetwork(c *call, properties object) {
	network, _ := properties["networkProfile"].(map[string]any)
	if network == nil {
		network = object{}
	}
	o := c.get("outbound-type")
	if o != "" {
		network["outboundType"] = o
		if o != "loadBalancer" {
			delete(network, "loadBalancerProfile")
		}
	}
	outboundProfiles(c, network)
	if len(network) > 0 {
		properties["networkProfile"] = network
	}
}

func updateIdentity(c *call, body, properties object) error {
	if i := c.get("assign-identity"); i != "" {
		body["identity"] = object{"type": "UserAssigned", "userAssignedIdentities": object{i: object{}}}
	}
	if k := c.get("assign-kubelet-identity"); k != "" {
		kubelet, err := c.identity(k)
		if err != nil {
			return err
		}
		properties["identityProfile"] = object{"kubeletidentity": object{"resourceId": k, "clientId": kubelet["clientId"], "objectId": kubelet["principalId"]}}
	}
	return nil
}
