package privateendpoints

import "encoding/json"

// Model is the document of a private endpoint.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
	Cloister   *Memory           `json:"cloister,omitempty"`
}

// Properties are a private endpoint's.
type Properties struct {
	ResourceGUID                        string             `json:"resourceGuid,omitempty"`
	Subnet                              *SubResource       `json:"subnet,omitempty"`
	PrivateLinkServiceConnections       []Connection       `json:"privateLinkServiceConnections"`
	ManualPrivateLinkServiceConnections []Connection       `json:"manualPrivateLinkServiceConnections"`
	CustomNetworkInterfaceName          string             `json:"customNetworkInterfaceName"`
	IPConfigurations                    []IPConfiguration  `json:"ipConfigurations"`
	NetworkInterfaces                   []SubResource      `json:"networkInterfaces,omitempty"`
	CustomDNSConfigs                    *[]CustomDNSConfig `json:"customDnsConfigs,omitempty"` // only in answers
	ApplicationSecurityGroups           []json.RawMessage  `json:"applicationSecurityGroups,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// Connection is the request to be connected to a private link service.
type Connection struct {
	ID         string               `json:"id,omitempty"`
	Name       string               `json:"name"`
	Type       string               `json:"type,omitempty"`
	Properties ConnectionProperties `json:"properties"`
}

// ConnectionProperties are a connection's.
type ConnectionProperties struct {
	ProvisioningState    string   `json:"provisioningState,omitempty"`
	PrivateLinkServiceID string   `json:"privateLinkServiceId"`
	GroupIDs             []string `json:"groupIds"`
	RequestMessage       string   `json:"requestMessage,omitempty"`
	State                *State   `json:"privateLinkServiceConnectionState,omitempty"`
}

// State is how far a connection is.
type State struct {
	Status          string `json:"status"`
	Description     string `json:"description"`
	ActionsRequired string `json:"actionsRequired"`
}

// Statuses of a connection.
const (
	Pending      = "Pending"
	Approved     = "Approved"
	Rejected     = "Rejected"
	Disconnected = "Disconnected"
)

// IPConfiguration asks for a certain address for one member.
type IPConfiguration struct {
	Name       string                    `json:"name"`
	Type       string                    `json:"type,omitempty"`
	Properties IPConfigurationProperties `json:"properties"`
}

// IPConfigurationProperties are an IP configuration's.
type IPConfigurationProperties struct {
	GroupID          string `json:"groupId"`
	MemberName       string `json:"memberName"`
	PrivateIPAddress string `json:"privateIPAddress"`
}

// CustomDNSConfig is a name that is to resolve to addresses of the endpoint.
type CustomDNSConfig struct {
	FQDN        string   `json:"fqdn"`
	IPAddresses []string `json:"ipAddresses"`
}

// Memory is what Cloister keeps of a private endpoint.
type Memory struct {
	Members []Member `json:"members"`
	// Connection is the resource under the target that shows this connection and on which it is approved,
	// "" where the target's type has none.
	Connection string `json:"connection,omitempty"`
	// ConnectionMade is true once Connection was written: when it is gone after that, the owner removed it.
	ConnectionMade bool `json:"connectionMade,omitempty"`
	// AutoApproved is whether the creator was allowed to approve the connection on the target.
	AutoApproved bool   `json:"autoApproved"`
	Description  string `json:"description,omitempty"`
}

// Member is one address of the endpoint, which stands for one part of the target.
type Member struct {
	GroupID         string   `json:"groupId"`
	Name            string   `json:"name"`
	FQDNs           []string `json:"fqdns"`
	Address         string   `json:"address"`
	IPConfiguration string   `json:"ipConfiguration"` // its name on the network interface
	// ServiceIndex is the number of the member's service-side address, unique over all endpoints.
	ServiceIndex int `json:"serviceIndex"`
}

// Connections are both kinds of connections together; a valid endpoint has one.
func (p *Properties) Connections() []Connection {
	return append(append([]Connection{}, p.PrivateLinkServiceConnections...), p.ManualPrivateLinkServiceConnections...)
}
