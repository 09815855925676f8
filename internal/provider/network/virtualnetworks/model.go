package virtualnetworks

import "encoding/json"

// Model is the document of a virtual network. Its subnets are documents of their own.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties Properties        `json:"properties"`
	Cloister   *Memory           `json:"cloister,omitempty"`
}

// Properties are a virtual network's.
type Properties struct {
	ResourceGUID         string             `json:"resourceGuid,omitempty"`
	AddressSpace         *AddressSpace      `json:"addressSpace,omitempty"`
	DHCPOptions          *DHCPOptions       `json:"dhcpOptions,omitempty"`
	Subnets              *[]json.RawMessage `json:"subnets,omitempty"` // only in requests and answers
	Peerings             *[]json.RawMessage `json:"virtualNetworkPeerings,omitempty"`
	EnableDDoSProtection bool               `json:"enableDdosProtection"`
	DDoSProtectionPlan   *SubResource       `json:"ddosProtectionPlan,omitempty"`
	BGPCommunities       *json.RawMessage   `json:"bgpCommunities,omitempty"`
	Encryption           *Encryption        `json:"encryption,omitempty"`
}

// AddressSpace is what the network spans.
type AddressSpace struct {
	AddressPrefixes []string `json:"addressPrefixes"`
}

// DHCPOptions are what DHCP tells guests.
type DHCPOptions struct {
	DNSServers []string `json:"dnsServers"`
}

// Encryption is virtual network encryption.
type Encryption struct {
	Enabled     bool   `json:"enabled"`
	Enforcement string `json:"enforcement,omitempty"`
}

// SubResource points to a resource.
type SubResource struct {
	ID string `json:"id"`
}

// Memory is what Cloister keeps of a virtual network.
type Memory struct {
	ID string `json:"id"` // short and unique on the machine: names the network in the fabric
}
