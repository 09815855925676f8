// Package bootstrap turns a freshly started machine into an AKS node, from inside that machine.
//
// It does what AgentBaker's custom script extension (cse_main.sh, cse_helpers.sh, cse_config.sh) does on a
// real node, in its order and with its exit codes: instance metadata, registry login with the kubelet
// identity, node binaries from the bootstrap registry, containerd's mirror, reachability checks, pause
// image, kubelet. It knows the node it runs on and what its Config says; it must not know what made the
// node, and reads nothing of the host.
package bootstrap

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// What every node pulls of MCR, by the names that it has there.
const (
	SandboxImage                 = "oss/kubernetes/pause:3.6" // unless the Config names another
	KubernetesRepository         = "oss/binaries/kubernetes/kubernetes-node"
	CredentialProviderRepository = "oss/binaries/kubernetes/azure-acr-credential-provider"
)

// Config is everything a node is told at provisioning. What it says about the registry is baked into the
// node: only a reimage changes it.
type Config struct {
	NodeName          string       `json:"nodeName"`
	NodeAddress       netip.Addr   `json:"nodeAddress"`
	Nameservers       []netip.Addr `json:"nameservers,omitempty"` // of DHCP; default 168.63.129.16, Azure's
	KubernetesVersion string       `json:"kubernetesVersion"`     // 1.30.3, without v

	// RegistryServer is BOOTSTRAP_PROFILE_CONTAINER_REGISTRY_SERVER: a registry's host, with a prefix such as
	// /aks-managed-repository or without. Empty: artifacts come straight from MCR (artifact source Direct).
	RegistryServer string   `json:"registryServer,omitempty"`
	MCR            string   `json:"mcr,omitempty"` // MCR_REPOSITORY_BASE; default mcr.microsoft.com
	Identity       Identity `json:"identity"`

	SandboxImage              string `json:"sandboxImage,omitempty"`              // default mcr.microsoft.com/oss/kubernetes/pause:3.6
	CredentialProviderVersion string `json:"credentialProviderVersion,omitempty"` // default 1.32.3, without v

	// CachedImages are those that AKS's node image brings along and every node needs.
	CachedImages []string `json:"cachedImages,omitempty"`

	// OutboundURL is what OUTBOUND_COMMAND would curl. Empty for outbound types none and block.
	OutboundURL string `json:"outboundURL,omitempty"`

	APIServerName  string `json:"apiServerName"` // DNS name or IPv4 address
	ClusterCA      string `json:"clusterCA"`     // PEM
	BootstrapToken string `json:"bootstrapToken"`

	// ServiceCIDR are the addresses of Services. Until kube-proxy translates one, connections to it are refused
	// rather than lost on their way out.
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`

	Pods    PodNetwork `json:"pods"`
	Kubelet Kubelet    `json:"kubelet"`
	Azure   Azure      `json:"azure"`

	// RetryScale shortens Azure's waits: 1 is Azure's own timing, 0.1 a tenth of it, 0 the default, in which
	// each wait is 5 to 8 seconds, so that a failure that is certain shows within ten.
	RetryScale float64 `json:"retryScale,omitempty"`
}

// Identity is the kubelet identity.
type Identity struct {
	ClientID   string `json:"clientID"`
	ResourceID string `json:"resourceID"`
	TenantID   string `json:"tenantID"`
}

// PodNetwork is the pods' part of the subnet (Azure CNI: pod addresses are secondary addresses of the NIC). It is in one
// range where nothing else has addresses between them.
type PodNetwork struct {
	Subnet netip.Prefix `json:"subnet"`
	Ranges []ipam.Range `json:"ranges"`
}

// Kubelet is what differs between the kubelets of different pools.
type Kubelet struct {
	ClusterDNS netip.Addr        `json:"clusterDNS"`
	MaxPods    int               `json:"maxPods"`
	Labels     map[string]string `json:"labels"`
	Taints     []string          `json:"taints,omitempty"` // key=value:Effect
	ProviderID string            `json:"providerID"`       // azure:///subscriptions/…
}

// Azure is the part of /etc/kubernetes/azure.json that names the cluster's Azure resources.
type Azure struct {
	SubscriptionID    string `json:"subscriptionID"`
	ResourceGroup     string `json:"resourceGroup"` // the node resource group
	Location          string `json:"location"`
	VNetName          string `json:"vnetName"`
	VNetResourceGroup string `json:"vnetResourceGroup"`
	SubnetName        string `json:"subnetName"`
	SecurityGroupName string `json:"securityGroupName"`
	RouteTableName    string `json:"routeTableName"`
	ScaleSetName      string `json:"scaleSetName"`
}

// ReadConfig reads the config at path and fills in defaults.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("read bootstrap config %s: %w", path, err)
	}
	return c.withDefaults(), nil
}

func (c Config) withDefaults() Config {
	if len(c.Nameservers) == 0 {
		c.Nameservers = []netip.Addr{AzureDNS}
	}
	if c.MCR == "" {
		c.MCR = "mcr.microsoft.com"
	}
	if c.SandboxImage == "" {
		c.SandboxImage = c.MCR + "/" + SandboxImage
	}
	if c.CredentialProviderVersion == "" {
		c.CredentialProviderVersion = "1.32.3"
	}
	return c
}

// AzureDNS is Azure's resolver in every virtual network (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
var AzureDNS = netip.MustParseAddr("168.63.129.16")

// ResolvConf is the machine's resolv.conf(5).
func (c Config) ResolvConf() string {
	var b strings.Builder
	for _, a := range c.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}

// source is where artifacts come from: the bootstrap registry, or MCR itself.
func (c Config) source() string {
	if c.RegistryServer != "" {
		return c.RegistryServer
	}
	return c.MCR
}

// registryHost is ${SERVER%%/*}.
func (c Config) registryHost() string {
	host, _, _ := strings.Cut(c.RegistryServer, "/")
	return host
}
