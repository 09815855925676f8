package networkinterfaces

import (
	"encoding/json"
	"net/netip"
)

// Model is the document of a network interface.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"`
	Properties Properties        `json:"properties"`
}

// Properties are a network interface's.
type Properties struct {
	ResourceGUID                string            `json:"resourceGuid,omitempty"`
	IPConfigurations            []IPConfiguration `json:"ipConfigurations"`
	DNSSettings                 *DNSSettings      `json:"dnsSettings,omitempty"`
	MACAddress                  *string           `json:"macAddress,omitempty"`
	Primary                     *bool             `json:"primary,omitempty"`
	EnableAcceleratedNetworking bool              `json:"enableAcceleratedNetworking"`
	EnableIPForwarding          bool              `json:"enableIPForwarding"`
	DisableTCPStateTracking     bool              `json:"disableTcpStateTracking"`
	NetworkSecurityGroup        *SubResource      `json:"networkSecurityGroup,omitempty"`
	VirtualMachine              *SubResource      `json:"virtualMachine,omitempty"`
	PrivateEndpoint             *SubResource      `json:"privateEndpoint,omitempty"`
	HostedWorkloads             []string          `json:"hostedWorkloads"`
	TapConfigurations           []json.RawMessage `json:"tapConfigurations"`
	NICType                     string            `json:"nicType,omitempty"`
	VNetEncryptionSupported     bool              `json:"vnetEncryptionSupported"`
	AuxiliaryMode               string            `json:"auxiliaryMode,omitempty"`
	AuxiliarySKU                string            `json:"auxiliarySku,omitempty"`
	AllowPort25Out              bool              `json:"allowPort25Out"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// DNSSettings are the interface's own.
type DNSSettings struct {
	DNSServers               []string `json:"dnsServers"`
	AppliedDNSServers        []string `json:"appliedDnsServers"`
	InternalDNSNameLabel     string   `json:"internalDnsNameLabel,omitempty"`
	InternalDomainNameSuffix string   `json:"internalDomainNameSuffix,omitempty"`
}

// IPConfiguration is one address of the interface.
type IPConfiguration struct {
	Name       string                    `json:"name"`
	ID         string                    `json:"id,omitempty"`
	Type       string                    `json:"type,omitempty"`
	Properties IPConfigurationProperties `json:"properties"`
}

// IPConfigurationProperties are an IP configuration's.
type IPConfigurationProperties struct {
	ProvisioningState               string                           `json:"provisioningState,omitempty"`
	PrivateIPAddress                string                           `json:"privateIPAddress,omitempty"`
	PrivateIPAllocationMethod       string                           `json:"privateIPAllocationMethod,omitempty"`
	PrivateIPAddressVersion         string                           `json:"privateIPAddressVersion,omitempty"`
	Subnet                          *SubResource                     `json:"subnet,omitempty"`
	Primary                         *bool                            `json:"primary,omitempty"`
	PublicIPAddress                 *SubResource                     `json:"publicIPAddress,omitempty"`
	LoadBalancerBackendAddressPools []SubResource                    `json:"loadBalancerBackendAddressPools,omitempty"`
	LoadBalancerInboundNATRules     []json.RawMessage                `json:"loadBalancerInboundNatRules,omitempty"`
	ApplicationGatewayBackendPools  []json.RawMessage                `json:"applicationGatewayBackendAddressPools,omitempty"`
	ApplicationSecurityGroups       []json.RawMessage                `json:"applicationSecurityGroups,omitempty"`
	PrivateLinkConnectionProperties *PrivateLinkConnectionProperties `json:"privateLinkConnectionProperties,omitempty"`
}

// PrivateLinkConnectionProperties tell which member of a private link an address stands for.
type PrivateLinkConnectionProperties struct {
	GroupID            string   `json:"groupId"`
	RequiredMemberName string   `json:"requiredMemberName"`
	FQDNs              []string `json:"fqdns"`
}

// Addresses are the interface's addresses, the primary one first.
func (m *Model) Addresses() []netip.Addr {
	var list []netip.Addr
	for _, c := range m.Properties.IPConfigurations {
		a, err := netip.ParseAddr(c.Properties.PrivateIPAddress)
		if err != nil {
			continue
		}
		if c.primary() {
			list = append([]netip.Addr{a}, list...)
		} else {
			list = append(list, a)
		}
	}
	return list
}

func (c *IPConfiguration) primary() bool { return c.Properties.Primary != nil && *c.Properties.Primary }
