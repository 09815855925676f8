package agentpools

import (
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// Model is the one tolerant model of an agent pool, for every api-version.
type Model struct {
	ID         string     `json:"id,omitempty"`
	Name       string     `json:"name,omitempty"`
	Properties Properties `json:"properties"`
	Memory     *Memory    `json:"cloister,omitempty"`
}

// Properties of the pool. ProvisioningState is kept by the protocol.
type Properties struct {
	ProvisioningState          string            `json:"provisioningState,omitempty"`
	PowerState                 *PowerState       `json:"powerState,omitempty"`
	Count                      *int              `json:"count,omitempty"`
	VMSize                     string            `json:"vmSize,omitempty"`
	OSDiskSizeGB               int               `json:"osDiskSizeGB,omitempty"`
	OSDiskType                 string            `json:"osDiskType,omitempty"`
	KubeletDiskType            string            `json:"kubeletDiskType,omitempty"`
	VnetSubnetID               string            `json:"vnetSubnetID,omitempty"`
	MaxPods                    int               `json:"maxPods,omitempty"`
	OSType                     string            `json:"osType,omitempty"`
	OSSKU                      string            `json:"osSKU,omitempty"`
	Type                       string            `json:"type,omitempty"`
	Mode                       string            `json:"mode,omitempty"`
	OrchestratorVersion        string            `json:"orchestratorVersion,omitempty"`
	CurrentOrchestratorVersion string            `json:"currentOrchestratorVersion,omitempty"`
	NodeImageVersion           string            `json:"nodeImageVersion,omitempty"`
	UpgradeSettings            *UpgradeSettings  `json:"upgradeSettings,omitempty"`
	ScaleDownMode              string            `json:"scaleDownMode,omitempty"`
	ScaleSetPriority           string            `json:"scaleSetPriority,omitempty"`
	EnableAutoScaling          *bool             `json:"enableAutoScaling,omitempty"`
	EnableNodePublicIP         *bool             `json:"enableNodePublicIP,omitempty"`
	EnableEncryptionAtHost     *bool             `json:"enableEncryptionAtHost,omitempty"`
	EnableUltraSSD             *bool             `json:"enableUltraSSD,omitempty"`
	EnableFIPS                 *bool             `json:"enableFIPS,omitempty"`
	NodeLabels                 map[string]string `json:"nodeLabels"` // {} rather than absent, as Azure shows it
	NodeTaints                 []string          `json:"nodeTaints,omitempty"`
	AvailabilityZones          []string          `json:"availabilityZones,omitempty"`
	SecurityProfile            *SecurityProfile  `json:"securityProfile,omitempty"`
	Tags                       map[string]string `json:"tags,omitempty"`
}

// PowerState is Running or Stopped.
type PowerState struct {
	Code string `json:"code,omitempty"`
}

// UpgradeSettings bounds what an upgrade takes away at a time.
type UpgradeSettings struct {
	// MaxSurge is how many nodes an upgrade adds while it lasts, and renews at a time: a number, or a percentage of the pool.
	MaxSurge                  string `json:"maxSurge,omitempty"`
	MaxUnavailable            string `json:"maxUnavailable,omitempty"`
	DrainTimeoutInMinutes     int    `json:"drainTimeoutInMinutes,omitempty"`
	NodeSoakDurationInMinutes int    `json:"nodeSoakDurationInMinutes,omitempty"`
	UndrainableNodeBehavior   string `json:"undrainableNodeBehavior,omitempty"`
}

// SecurityProfile is always that of a plain VM here.
type SecurityProfile struct {
	EnableVTPM       *bool `json:"enableVTPM,omitempty"`
	EnableSecureBoot *bool `json:"enableSecureBoot,omitempty"`
}

// Memory is what Cloister keeps beside the document.
type Memory struct {
	// Model is what the pool's next node is provisioned with, as a scale set's model is on Azure. The pool takes it
	// over from its cluster when it is made, reimaged or upgraded, and at no other time: a PUT of the cluster alone
	// changes neither the nodes that there are nor those that a scale-out adds.
	Model *NodeModel `json:"model,omitempty"`
	// Provisioned is true once all nodes of the pool were Ready. Until then nothing is lost when a retry takes over
	// what its cluster says meanwhile.
	Provisioned bool `json:"provisioned,omitempty"`
	// Generation counts the pool's models: a node of an earlier one is to be renewed.
	Generation int `json:"generation,omitempty"`
	// Off is true while the pool is stopped: its machines are written down, and none of them is there.
	Off bool `json:"off,omitempty"`
	// UserLabels and UserTaints are those that nodes may have from the pool's document, as it is or was.
	UserLabels []string `json:"userLabels,omitempty"`
	UserTaints []string `json:"userTaints,omitempty"`
	// Machines are the pool's nodes, written down before any of them is made.
	Machines []Machine `json:"machines,omitempty"`
	// NextIndex is the next virtual machine scale set instance number; numbers are never used twice.
	NextIndex int `json:"nextIndex,omitempty"`
	// Attempt counts the requests since a node failed to provision; another number makes it try again.
	Attempt int `json:"attempt,omitempty"`
	// Fault is why the last attempt failed; it becomes the cluster's error too.
	Fault *armerror.Error `json:"fault,omitempty"`
}

// Machine is one node.
type Machine struct {
	// ID names the node on this machine: eight hexadecimal digits.
	ID string `json:"id"`
	// Name is the node's host name and Kubernetes name, aks-POOL-SUFFIX-vmss000000.
	Name string `json:"name"`
	// UIDBase is the first host uid of the node's user namespace; the namespace has UIDCount of them.
	UIDBase uint32 `json:"uidBase"`
	// NIC is the resource ID of the node's network interface.
	NIC string `json:"nic"`
	// Leaving is true once the machine is being removed.
	Leaving bool `json:"leaving,omitempty"`
	// Surge is true for a node that an upgrade has added and takes away at its end.
	Surge bool `json:"surge,omitempty"`
	// Generation is the pool's when the node's disk was made.
	Generation int `json:"generation,omitempty"`
	// Phase is how far the node's renewal is; "" when none is under way.
	Phase phase `json:"phase,omitempty"`
	// Draining is when the drain began.
	Draining *time.Time `json:"draining,omitempty"`
	// NodeModel is what the node was provisioned with; only a reimage changes it.
	NodeModel
}

// phase is one of a node's renewal. Each is written down before it begins, and can be begun again.
type phase string

const (
	phaseDrain   phase = "drain"   // its pods leave
	phaseLeave   phase = "leave"   // its Node object goes, before the machine does
	phaseReimage phase = "reimage" // it has a new, empty disk and joins anew
)

// NodeModel is all of a node that follows from its cluster and is baked into it at provisioning.
type NodeModel struct {
	// RegistryServer is BOOTSTRAP_PROFILE_CONTAINER_REGISTRY_SERVER; "" means Direct.
	RegistryServer string `json:"registryServer,omitempty"`
	// OutboundURL is what OUTBOUND_COMMAND fetches; "" for the outbound types none and block.
	OutboundURL       string `json:"outboundURL,omitempty"`
	NodeImageVersion  string `json:"nodeImageVersion,omitempty"`
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
	// APIServer is API_SERVER_NAME.
	APIServer string `json:"apiServer,omitempty"`
	// Nameservers are the DNS servers that the virtual network's DHCP names; none for Azure's. A machine asks DHCP when it
	// starts, so that a change reaches no node that runs.
	Nameservers []string `json:"nameservers,omitempty"`
}

// model is what the cluster has new nodes of a pool provisioned with now.
func (t service) model(p Properties, c cluster) NodeModel {
	m := NodeModel{
		RegistryServer: c.Memory.RegistryServer, OutboundURL: "https://mcr.microsoft.com/v2/",
		NodeImageVersion: t.NodeImageVersion, KubernetesVersion: t.target(p, c), APIServer: c.apiServer(),
	}
	if o := c.Properties.NetworkProfile.OutboundType; o == "none" || o == "block" {
		m.OutboundURL = ""
	}
	return m
}

// UIDCount is the number of ids in a node's user namespace: images hold files of high uids.
const UIDCount = 1 << 24

// cluster is what a pool needs to know of its cluster.
type cluster struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Location   string `json:"location"`
	Properties struct {
		ProvisioningState string `json:"provisioningState"`
		PowerState        struct {
			Code string `json:"code"`
		} `json:"powerState"`
		NodeResourceGroup        string `json:"nodeResourceGroup"`
		CurrentKubernetesVersion string `json:"currentKubernetesVersion"`
		KubernetesVersion        string `json:"kubernetesVersion"`
		FQDN                     string `json:"fqdn"`
		PrivateFQDN              string `json:"privateFQDN"`
		APIServerAccessProfile   *struct {
			EnablePrivateCluster  *bool `json:"enablePrivateCluster"`
			EnableVnetIntegration *bool `json:"enableVnetIntegration"`
		} `json:"apiServerAccessProfile"`
		BootstrapProfile struct {
			ArtifactSource string `json:"artifactSource"`
		} `json:"bootstrapProfile"`
		NetworkProfile struct {
			DNSServiceIP string `json:"dnsServiceIP"`
			ServiceCIDR  string `json:"serviceCidr"`
			OutboundType string `json:"outboundType"`
		} `json:"networkProfile"`
		IdentityProfile map[string]struct {
			ResourceID string `json:"resourceId"`
			ClientID   string `json:"clientId"`
			ObjectID   string `json:"objectId"`
		} `json:"identityProfile"`
	} `json:"properties"`
	Memory struct {
		ClusterID      string `json:"clusterId"`
		Suffix         string `json:"suffix"`
		SubnetID       string `json:"subnetId"`
		RegistryServer string `json:"registryServer"`
		// BackendPools are the load balancer's pools that nodes are members of.
		BackendPools   []string `json:"backendPools"`
		Infrastructure bool     `json:"infrastructure"`
		// EndpointAddress is the API server's address in the VNet, where it has one.
		EndpointAddress string `json:"endpointAddress"`
		Power           string `json:"power"`
	} `json:"cloister"`
}

// apiServer is API_SERVER_NAME of the cluster's nodes: the address in the VNet with VNet integration, else the name
// that resolves in the VNet, or the public one.
func (c cluster) apiServer() string {
	a := c.Properties.APIServerAccessProfile
	switch {
	case a != nil && isTrue(a.EnableVnetIntegration):
		return c.Memory.EndpointAddress
	case a != nil && isTrue(a.EnablePrivateCluster) && c.Properties.PrivateFQDN != "": // else it has no private zone
		return c.Properties.PrivateFQDN
	}
	return c.Properties.FQDN
}

func isTrue(b *bool) bool { return b != nil && *b }

func ptr[T any](v T) *T { return &v }
