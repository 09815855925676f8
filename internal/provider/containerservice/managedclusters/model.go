package managedclusters

import (
	"encoding/json"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// Model is the one tolerant model of a managed cluster, for every api-version. Only what Cloister acts
// on is named; the rest of a document survives unread.
type Model struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	SKU        *SKU              `json:"sku,omitempty"`
	Identity   *Identity         `json:"identity,omitempty"`
	Properties Properties        `json:"properties"`
	Memory     *Memory           `json:"cloister,omitempty"`
}

// SKU is the cluster's tier.
type SKU struct {
	Name string `json:"name,omitempty"`
	Tier string `json:"tier,omitempty"`
}

// Identity is the control plane's identity.
type Identity struct {
	Type         string                      `json:"type,omitempty"` // SystemAssigned or UserAssigned
	PrincipalID  string                      `json:"principalId,omitempty"`
	TenantID     string                      `json:"tenantId,omitempty"`
	UserAssigned map[string]AssignedIdentity `json:"userAssignedIdentities,omitempty"`
}

// AssignedIdentity is what a user-assigned identity is known by.
type AssignedIdentity struct {
	ClientID    string `json:"clientId,omitempty"`
	PrincipalID string `json:"principalId,omitempty"`
}

// Properties of the cluster.
type Properties struct {
	ProvisioningState        string                     `json:"provisioningState,omitempty"`
	PowerState               *PowerState                `json:"powerState,omitempty"`
	KubernetesVersion        string                     `json:"kubernetesVersion,omitempty"`
	CurrentKubernetesVersion string                     `json:"currentKubernetesVersion,omitempty"`
	DNSPrefix                string                     `json:"dnsPrefix,omitempty"`
	FQDN                     string                     `json:"fqdn,omitempty"`
	PrivateFQDN              string                     `json:"privateFQDN,omitempty"`
	FQDNSubdomain            string                     `json:"fqdnSubdomain,omitempty"`
	AzurePortalFQDN          string                     `json:"azurePortalFQDN,omitempty"`
	AgentPoolProfiles        []map[string]any           `json:"agentPoolProfiles,omitempty"`
	NodeResourceGroup        string                     `json:"nodeResourceGroup,omitempty"`
	EnableRBAC               *bool                      `json:"enableRBAC,omitempty"`
	DisableLocalAccounts     *bool                      `json:"disableLocalAccounts,omitempty"`
	SupportPlan              string                     `json:"supportPlan,omitempty"`
	MaxAgentPools            int                        `json:"maxAgentPools,omitempty"`
	ServicePrincipalProfile  *ServicePrincipalProfile   `json:"servicePrincipalProfile,omitempty"`
	NetworkProfile           *NetworkProfile            `json:"networkProfile,omitempty"`
	APIServerAccessProfile   *APIServerAccessProfile    `json:"apiServerAccessProfile,omitempty"`
	BootstrapProfile         *BootstrapProfile          `json:"bootstrapProfile,omitempty"`
	IdentityProfile          map[string]KubeletIdentity `json:"identityProfile,omitempty"`
	AutoUpgradeProfile       *AutoUpgradeProfile        `json:"autoUpgradeProfile,omitempty"`
	AddonProfiles            map[string]map[string]any  `json:"addonProfiles,omitempty"`
	PrivateLinkResources     []PrivateLinkResource      `json:"privateLinkResources,omitempty"`
	ResourceUID              string                     `json:"resourceUID,omitempty"`
}

// PowerState is Running or Stopped.
type PowerState struct {
	Code string `json:"code,omitempty"`
}

// ServicePrincipalProfile is {"clientId":"msi"} for clusters with a managed identity; az needs it present.
type ServicePrincipalProfile struct {
	ClientID string `json:"clientId,omitempty"`
}

// NetworkProfile is the cluster's network.
type NetworkProfile struct {
	NetworkPlugin     string               `json:"networkPlugin,omitempty"`
	NetworkPluginMode string               `json:"networkPluginMode,omitempty"`
	NetworkPolicy     string               `json:"networkPolicy,omitempty"`
	NetworkDataplane  string               `json:"networkDataplane,omitempty"`
	PodCIDR           string               `json:"podCidr,omitempty"`
	ServiceCIDR       string               `json:"serviceCidr,omitempty"`
	ServiceCIDRs      []string             `json:"serviceCidrs,omitempty"`
	IPFamilies        []string             `json:"ipFamilies,omitempty"`
	DNSServiceIP      string               `json:"dnsServiceIP,omitempty"`
	OutboundType      string               `json:"outboundType,omitempty"`
	LoadBalancerSKU   string               `json:"loadBalancerSku,omitempty"`
	LoadBalancer      *LoadBalancerProfile `json:"loadBalancerProfile,omitempty"`
	NATGateway        *NATGatewayProfile   `json:"natGatewayProfile,omitempty"`
}

// LoadBalancerProfile says what the outbound type loadBalancer goes out by.
type LoadBalancerProfile struct {
	ManagedOutboundIPs     *ManagedIPs     `json:"managedOutboundIPs,omitempty"`
	OutboundIPs            *OutboundIPs    `json:"outboundIPs,omitempty"`
	OutboundIPPrefixes     json.RawMessage `json:"outboundIPPrefixes,omitempty"`
	EffectiveOutboundIPs   []reference     `json:"effectiveOutboundIPs,omitempty"`
	AllocatedOutboundPorts *int            `json:"allocatedOutboundPorts,omitempty"`
	IdleTimeoutInMinutes   *int            `json:"idleTimeoutInMinutes,omitempty"`
	BackendPoolType        string          `json:"backendPoolType,omitempty"`
}

// NATGatewayProfile says what the outbound type managedNATGateway goes out by.
type NATGatewayProfile struct {
	ManagedOutboundIPs   *ManagedIPs `json:"managedOutboundIPProfile,omitempty"`
	EffectiveOutboundIPs []reference `json:"effectiveOutboundIPs,omitempty"`
	IdleTimeoutInMinutes *int        `json:"idleTimeoutInMinutes,omitempty"`
}

// ManagedIPs are public IP addresses that AKS makes.
type ManagedIPs struct {
	Count int `json:"count,omitempty"`
}

// OutboundIPs are public IP addresses of the user's.
type OutboundIPs struct {
	PublicIPs []reference `json:"publicIPs,omitempty"`
}

// reference points to a resource.
type reference struct {
	ID string `json:"id"`
}

// APIServerAccessProfile says how the API server is reached.
type APIServerAccessProfile struct {
	AuthorizedIPRanges             []string `json:"authorizedIPRanges,omitempty"`
	EnablePrivateCluster           *bool    `json:"enablePrivateCluster,omitempty"`
	EnablePrivateClusterPublicFQDN *bool    `json:"enablePrivateClusterPublicFQDN,omitempty"`
	PrivateDNSZone                 string   `json:"privateDNSZone,omitempty"`
	EnableVnetIntegration          *bool    `json:"enableVnetIntegration,omitempty"`
	SubnetID                       string   `json:"subnetId,omitempty"`
	DisableRunCommand              *bool    `json:"disableRunCommand,omitempty"`
}

// BootstrapProfile says where nodes take their artifacts from.
type BootstrapProfile struct {
	ArtifactSource      string `json:"artifactSource,omitempty"` // Direct or Cache
	ContainerRegistryID string `json:"containerRegistryId,omitempty"`
}

// KubeletIdentity is the identity nodes pull with.
type KubeletIdentity struct {
	ResourceID string `json:"resourceId,omitempty"`
	ClientID   string `json:"clientId,omitempty"`
	ObjectID   string `json:"objectId,omitempty"`
}

// AutoUpgradeProfile holds the upgrade channels.
type AutoUpgradeProfile struct {
	UpgradeChannel       string `json:"upgradeChannel,omitempty"`
	NodeOSUpgradeChannel string `json:"nodeOSUpgradeChannel,omitempty"`
}

// PrivateLinkResource is what a private endpoint can be made for.
type PrivateLinkResource struct {
	ID              string   `json:"id,omitempty"`
	Name            string   `json:"name,omitempty"`
	Type            string   `json:"type,omitempty"`
	GroupID         string   `json:"groupId,omitempty"`
	RequiredMembers []string `json:"requiredMembers,omitempty"`
}

// Memory is what Cloister keeps about a cluster beside the document that Azure would show.
type Memory struct {
	// ClusterID names the cluster on this machine: eight hexadecimal digits.
	ClusterID string `json:"clusterId,omitempty"`
	// Suffix is the eight digits in the names AKS gives what it makes: aks-vnet-SUFFIX.
	Suffix string `json:"suffix,omitempty"`
	// ZoneGUID is the first label of the cluster's private DNS zone.
	ZoneGUID string `json:"zoneGuid,omitempty"`
	// ManagedRegistry is the name of the AKS-managed registry, kept when a user's registry takes its place.
	ManagedRegistry string `json:"managedRegistry,omitempty"`
	// SubnetID is the nodes' subnet: the user's, or the managed VNet's.
	SubnetID string `json:"subnetId,omitempty"`
	// RegistryServer is the value for BOOTSTRAP_PROFILE_CONTAINER_REGISTRY_SERVER on new nodes; "" means Direct.
	RegistryServer string `json:"registryServer,omitempty"`
	// RegistryPools are the pools with nodes that were provisioned with the AKS-managed registry when the cluster
	// left it. It goes with the last of them.
	RegistryPools []string `json:"registryPools,omitempty"`
	// Outbound is the outbound type that documents were last made for, written down before they are made.
	Outbound string `json:"outbound,omitempty"`
	// OutboundIPs are the names of the public IP addresses that AKS made for it.
	OutboundIPs []string `json:"outboundIPs,omitempty"`
	// BackendPools are the load balancer's pools that nodes are members of, once they are there.
	BackendPools []string `json:"backendPools,omitempty"`
	// EndpointAddress is the API server's private address in the VNet, once it has one.
	EndpointAddress string `json:"endpointAddress,omitempty"`
	// PublicAddress is the API server's address on the Internet, once it has one.
	PublicAddress string `json:"publicAddress,omitempty"`
	// Infrastructure is true once everything a node needs to start its bootstrap is there.
	Infrastructure bool `json:"infrastructure,omitempty"`
	// Declared says with what the control plane was last completed since the user's last request.
	Declared string `json:"declared,omitempty"`
	// Power is how far a stop or start is: Stopping, Stopped or Starting; "" while the cluster runs.
	Power string `json:"power,omitempty"`
	// StoppedPools are the agent pools that a stop has found running, and that a start makes run again.
	StoppedPools []string `json:"stoppedPools,omitempty"`
	// IgnoredArguments are those of the last update's command line that its client kept to itself.
	IgnoredArguments []string `json:"ignoredArguments,omitempty"`
	// Removed is true once a deletion has ended the control plane: from then on it needs no namespace.
	Removed bool `json:"removed,omitempty"`
}

func isTrue(b *bool) bool { return b != nil && *b }

func ptr[T any](v T) *T { return &v }

// nodeGroup is the node resource group's ID.
func nodeGroup(id resourceid.ID, m *Model) resourceid.ID {
	return resourceid.Group(id.Subscription(), m.Properties.NodeResourceGroup)
}

// kubeletIdentity is the identity nodes pull with, by its key in identityProfile.
func (m *Model) kubeletIdentity() KubeletIdentity {
	return m.Properties.IdentityProfile["kubeletidentity"]
}
