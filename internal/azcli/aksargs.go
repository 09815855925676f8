package azcli

import "slices"

var (
	outboundTypes    = []string{"loadBalancer", "userDefinedRouting", "managedNATGateway", "userAssignedNATGateway", "none", "block"}
	argOutbound      = arg{name: "outbound-type", group: "Network", choices: outboundTypes, help: "How outbound traffic will be configured for a cluster. \"none\" sets nothing up; \"block\" also denies all outbound traffic."}
	argNodeOSChannel = arg{name: "node-os-upgrade-channel", choices: []string{"NodeImage", "None", "SecurityPatch", "Unmanaged"}, help: "Manner in which the OS on your nodes is updated. It could be NodeImage, None, SecurityPatch or Unmanaged."}
	argArtifacts     = arg{name: "bootstrap-artifact-source", group: "Network Isolation", choices: []string{"Cache", "Direct"}, help: "Configure artifact source when bootstrapping the cluster. \"Cache\" pulls through a private registry, \"Direct\" from mcr.microsoft.com."}
	argArtifactsACR  = arg{name: "bootstrap-container-registry-resource-id", group: "Network Isolation", help: "Configure container registry resource ID. Must use \"Cache\" as bootstrap artifact source. AKS makes a registry of its own when not given."}
)

func createArgs() []arg {
	return slices.Concat([]arg{argGroup, argName, argLocation, argTags,
		{name: "kubernetes-version", short: "k", help: "Version of Kubernetes to use for creating the cluster, such as \"1.30.3\"; `az aks get-versions` lists them."},
		{name: "dns-name-prefix", short: "p", help: "Prefix for hostnames that are created. One is made from the names when not given."},
		{name: "node-resource-group", help: "The node resource group is the resource group where all customer's resources will be created in, such as virtual machines."},
		{name: "disable-local-accounts", help: "If set to true, getting static credential will be disabled for this cluster.", kind: flag},
		{name: "disable-run-command", help: "Disable Run command feature for the cluster.", kind: flag},
		argNodeOSChannel,
		{name: "tier", help: "Specify SKU tier for managed clusters.", choices: []string{"free", "standard", "premium"}},
		{name: "ssh-key-value", help: "Public key to install on node VMs for SSH access, or the path of one. Kept in the document; nodes here take no SSH logins."},
		{name: "admin-username", short: "u", help: "User account to create on node VMs for SSH access.", def: "azureuser"},
		{name: "generate-ssh-keys", help: "Accepted; a key is not needed here.", kind: flag},
		{name: "no-ssh-key", short: "x", help: "Do not use or create a local SSH key. The default here.", kind: flag},
		{name: "yes", short: "y", help: "Accepted; nothing is asked.", kind: flag},
	}, inGroup("Node Pool",
		arg{name: "node-count", short: "c", help: "Number of nodes in the Kubernetes node pool.", def: "3", kind: number},
		arg{name: "node-vm-size", short: "s", help: "Size of Virtual Machines to create as Kubernetes nodes. The service chooses when not given."},
		arg{name: "nodepool-name", help: "Node pool name, up to 12 alphanumeric characters.", def: "nodepool1"},
		arg{name: "nodepool-labels", help: "The node labels for all node pools in this cluster: key[=value] [key[=value] ...].", kind: many},
		arg{name: "nodepool-taints", help: "The node taints for all node pools in this cluster, separated by commas."},
		arg{name: "nodepool-tags", help: "Space-separated tags: key[=value] [key[=value] ...].", kind: many},
		arg{name: "max-pods", short: "m", help: "The maximum number of pods deployable to a node.", kind: number},
		arg{name: "node-osdisk-size", help: "Size in GiB of the OS disk for each node in the node pool.", kind: number},
		arg{name: "os-sku", help: "The OS SKU of the agent node pool.", choices: []string{"AzureLinux", "Ubuntu", "Ubuntu2204"}},
		arg{name: "vm-set-type", help: "Agent pool vm set type.", choices: []string{"VirtualMachineScaleSets", "AvailabilitySet"}},
	), inGroup("Network",
		arg{name: "network-plugin", help: "The Kubernetes network plugin to use.", choices: []string{"azure", "kubenet", "none"}},
		arg{name: "network-plugin-mode", help: "The network plugin mode to use.", choices: []string{"overlay"}},
		arg{name: "network-policy", help: "Network Policy Engine to use.", choices: []string{"azure", "calico", "cilium", "none"}},
		arg{name: "pod-cidr", help: "A CIDR notation IP range from which to assign pod IPs when kubenet or overlay is used."},
		arg{name: "service-cidr", help: "A CIDR notation IP range from which to assign service cluster IPs."},
		arg{name: "dns-service-ip", help: "An IP address assigned to the Kubernetes DNS service."},
		arg{name: "vnet-subnet-id", help: "The ID of a subnet in an existing VNet into which to deploy the cluster."},
		arg{name: "skip-subnet-role-assignment", help: "Skip role assignment for subnet.", kind: flag},
		withDefault(argOutbound, "loadBalancer"),
	), outboundArgs, inGroup("API Server",
		arg{name: "enable-private-cluster", help: "Enable private cluster.", kind: flag},
		arg{name: "private-dns-zone", help: "Private dns zone mode for private cluster: \"system\", \"none\" or the resource ID of a zone."},
		arg{name: "fqdn-subdomain", help: "Prefix for FQDN that is created for private cluster with custom private dns zone."},
		arg{name: "disable-public-fqdn", help: "Disable public fqdn feature for private cluster.", kind: flag},
		arg{name: "enable-apiserver-vnet-integration", help: "Enable integration of user vnet with control plane apiserver pods.", kind: flag},
		arg{name: "apiserver-subnet-id", help: "The ID of a subnet in an existing VNet into which to assign control plane apiserver pods (requires --enable-apiserver-vnet-integration)."},
		arg{name: "api-server-authorized-ip-ranges", help: "Comma-separated list of authorized apiserver IP ranges. Set to 0.0.0.0/32 to restrict apiserver traffic to node pools."},
	), inGroup("Identity",
		arg{name: "enable-managed-identity", help: "Using managed identity to manage cluster resource group. Always so.", kind: flag},
		arg{name: "assign-identity", help: "Specify an existing user assigned identity for control plane's usage in order to manage cluster resource group."},
		arg{name: "service-principal", help: "Service principal used for authentication to Azure APIs, in place of a managed identity. Clusters here have a managed identity: the service refuses it."},
		arg{name: "client-secret", help: "Secret associated with the service principal. This argument is required if --service-principal is specified."},
		arg{name: "assign-kubelet-identity", help: "Specify an existing user assigned identity for kubelet's usage, which is typically used to pull image from ACR."},
		arg{name: "attach-acr", help: "Grant the 'acrpull' role assignment to the ACR specified by name or resource ID."},
	), []arg{withDefault(argArtifacts, "Direct"), argArtifactsACR})
}

// outboundArgs say how a load balancer or NAT gateway that AKS makes is to be.
var outboundArgs = inGroup("Outbound",
	arg{name: "load-balancer-sku", help: "Azure Load Balancer SKU selection for your cluster.", choices: []string{"basic", "standard"}},
	arg{name: "load-balancer-managed-outbound-ip-count", help: "Load balancer managed outbound IP count.", kind: number},
	arg{name: "load-balancer-outbound-ips", help: "Load balancer outbound IP resource IDs, separated by commas."},
	arg{name: "load-balancer-outbound-ports", help: "Load balancer outbound allocated ports.", kind: number},
	arg{name: "load-balancer-idle-timeout", help: "Load balancer idle timeout in minutes.", kind: number},
	arg{name: "nat-gateway-managed-outbound-ip-count", help: "NAT gateway managed outbound IP count.", kind: number},
	arg{name: "nat-gateway-idle-timeout", help: "NAT gateway idle timeout in minutes.", kind: number},
)

func inGroup(group string, args ...arg) []arg {
	for i := range args {
		args[i].group = group
	}
	return args
}

func updateArgs() []arg {
	return slices.Concat([]arg{argTags, argOutbound, argArtifacts, argArtifactsACR,
		{name: "disable-local-accounts", help: "If set to true, getting static credential will be disabled for this cluster.", kind: flag},
		{name: "enable-local-accounts", help: "If set to true, will enable getting static credential for this cluster.", kind: flag},
		{name: "disable-run-command", help: "Disable Run command feature for the cluster.", kind: flag},
		{name: "enable-run-command", help: "Enable Run command feature for the cluster.", kind: flag},
		argNodeOSChannel,
		{name: "tier", help: "Specify SKU tier for managed clusters.", choices: []string{"free", "standard", "premium"}},
		{name: "nodepool-labels", group: "Node Pool", help: "The node labels for all node pools in this cluster: key[=value] [key[=value] ...].", kind: many},
		{name: "nodepool-taints", group: "Node Pool", help: "The node taints for all node pools in this cluster, separated by commas."},
		{name: "yes", short: "y", help: "Do not prompt for confirmation.", kind: flag},
	}, outboundArgs, inGroup("API Server",
		arg{name: "enable-private-cluster", help: "Enable private cluster for apiserver vnet integration cluster.", kind: flag},
		arg{name: "disable-private-cluster", help: "Disable private cluster for apiserver vnet integration cluster.", kind: flag},
		arg{name: "enable-public-fqdn", help: "Enable public fqdn feature for private cluster.", kind: flag},
		arg{name: "disable-public-fqdn", help: "Disable public fqdn feature for private cluster.", kind: flag},
		arg{name: "private-dns-zone", help: "The private dns zone mode for private cluster."},
		arg{name: "enable-apiserver-vnet-integration", help: "Enable integration of user vnet with control plane apiserver pods.", kind: flag},
		arg{name: "apiserver-subnet-id", help: "The ID of a subnet in an existing VNet into which to assign control plane apiserver pods (requires --enable-apiserver-vnet-integration)."},
		arg{name: "api-server-authorized-ip-ranges", help: "Comma-separated list of authorized apiserver IP ranges. Set to \"\" to allow all traffic on a previously restricted cluster."},
	), inGroup("Identity",
		arg{name: "enable-managed-identity", help: "Update current cluster to managed identity.", kind: flag},
		arg{name: "assign-identity", help: "Specify an existing user assigned identity to manage cluster resource group."},
		arg{name: "assign-kubelet-identity", help: "Update cluster's kubelet identity to an existing user assigned identity. Please note this operation will recreate all agent nodes in the cluster."},
		arg{name: "attach-acr", help: "Grant the 'acrpull' role assignment to the ACR specified by name or resource ID."},
		arg{name: "detach-acr", help: "Disable the 'acrpull' role assignment to the ACR specified by name or resource ID."},
	))
}
