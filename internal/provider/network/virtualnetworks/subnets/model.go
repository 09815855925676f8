package subnets

import (
	"encoding/json"
	"net/netip"

	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

// Model is the document of a subnet.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a subnet's.
type Properties struct {
	AddressPrefix   string   `json:"addressPrefix,omitempty"`
	AddressPrefixes []string `json:"addressPrefixes,omitempty"`

	NetworkSecurityGroup *SubResource `json:"networkSecurityGroup,omitempty"`
	RouteTable           *SubResource `json:"routeTable,omitempty"`
	NATGateway           *SubResource `json:"natGateway,omitempty"`

	Delegations           []Delegation      `json:"delegations"`
	ServiceEndpoints      []json.RawMessage `json:"serviceEndpoints,omitempty"`
	ServiceEndpointPolicy []json.RawMessage `json:"serviceEndpointPolicies,omitempty"`

	PrivateEndpointNetworkPolicies    string `json:"privateEndpointNetworkPolicies,omitempty"`
	PrivateLinkServiceNetworkPolicies string `json:"privateLinkServiceNetworkPolicies,omitempty"`
	// DefaultOutboundAccess nil means that the subnet was made before private subnets were the default: true.
	DefaultOutboundAccess *bool  `json:"defaultOutboundAccess,omitempty"`
	SharingScope          string `json:"sharingScope,omitempty"`

	// Only in answers.
	IPConfigurations []SubResource `json:"ipConfigurations,omitempty"`
	PrivateEndpoints []SubResource `json:"privateEndpoints,omitempty"`
	Purpose          string        `json:"purpose,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// Delegation gives the subnet to one service.
type Delegation struct {
	ID         string               `json:"id,omitempty"`
	Name       string               `json:"name"`
	Type       string               `json:"type,omitempty"`
	Properties DelegationProperties `json:"properties"`
}

// DelegationProperties are a delegation's.
type DelegationProperties struct {
	ServiceName       string   `json:"serviceName"`
	Actions           []string `json:"actions,omitempty"`
	ProvisioningState string   `json:"provisioningState,omitempty"`
}

// Prefix is the subnet's address prefix.
func (m *Model) Prefix() (netip.Prefix, error) {
	if m.Properties.AddressPrefix == "" && len(m.Properties.AddressPrefixes) > 0 {
		return ipam.Parse(m.Properties.AddressPrefixes[0])
	}
	return ipam.Parse(m.Properties.AddressPrefix)
}

// DefaultOutbound reports whether Azure grants the subnet its implicit way out.
func (m *Model) DefaultOutbound() bool {
	return m.Properties.DefaultOutboundAccess == nil || *m.Properties.DefaultOutboundAccess
}

// DelegatedTo reports whether the subnet is delegated to the service.
func (m *Model) DelegatedTo(service string) bool {
	for _, d := range m.Properties.Delegations {
		if d.Properties.ServiceName == service {
			return true
		}
	}
	return false
}
