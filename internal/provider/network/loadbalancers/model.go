package loadbalancers

import (
	"encoding/json"

	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

// Model is the document of a load balancer.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	SKU        *SKU              `json:"sku,omitempty"`
	Properties Properties        `json:"properties"`
}

// SKU is a load balancer's.
type SKU struct {
	Name string `json:"name,omitempty"`
	Tier string `json:"tier,omitempty"`
}

// Properties are a load balancer's.
type Properties struct {
	ResourceGUID             string            `json:"resourceGuid,omitempty"`
	FrontendIPConfigurations []Frontend        `json:"frontendIPConfigurations"`
	BackendAddressPools      []Pool            `json:"backendAddressPools"`
	OutboundRules            []OutboundRule    `json:"outboundRules"`
	LoadBalancingRules       []json.RawMessage `json:"loadBalancingRules"`
	Probes                   []json.RawMessage `json:"probes"`
	InboundNATRules          []json.RawMessage `json:"inboundNatRules"`
	InboundNATPools          []json.RawMessage `json:"inboundNatPools"`
}

// Frontend is an address that the load balancer has: a public one, or one of a subnet.
type Frontend struct {
	ID         string             `json:"id,omitempty"`
	Name       string             `json:"name"`
	Type       string             `json:"type,omitempty"`
	Properties FrontendProperties `json:"properties"`
}

// FrontendProperties are a frontend's.
type FrontendProperties struct {
	ProvisioningState         string          `json:"provisioningState,omitempty"`
	PublicIPAddress           *egressuse.Link `json:"publicIPAddress,omitempty"`
	PublicIPPrefix            *egressuse.Link `json:"publicIPPrefix,omitempty"`
	GatewayLoadBalancer       *egressuse.Link `json:"gatewayLoadBalancer,omitempty"`
	Subnet                    *egressuse.Link `json:"subnet,omitempty"`
	PrivateIPAddress          string          `json:"privateIPAddress,omitempty"`
	PrivateIPAllocationMethod string          `json:"privateIPAllocationMethod,omitempty"`
	PrivateIPAddressVersion   string          `json:"privateIPAddressVersion,omitempty"`
	// Only in answers.
	OutboundRules []egressuse.Link `json:"outboundRules,omitempty"`
}

// Pool is a set of IP configurations of network interfaces, each of which names the pool.
type Pool struct {
	ID         string         `json:"id,omitempty"`
	Name       string         `json:"name"`
	Type       string         `json:"type,omitempty"`
	Properties PoolProperties `json:"properties"`
}

// PoolProperties are a pool's.
type PoolProperties struct {
	ProvisioningState            string            `json:"provisioningState,omitempty"`
	LoadBalancerBackendAddresses []json.RawMessage `json:"loadBalancerBackendAddresses,omitempty"`
	// Only in answers.
	BackendIPConfigurations []egressuse.Link `json:"backendIPConfigurations,omitempty"`
	OutboundRules           []egressuse.Link `json:"outboundRules,omitempty"`
}

// OutboundRule lets a pool's members out by the addresses of public frontends.
type OutboundRule struct {
	ID         string                 `json:"id,omitempty"`
	Name       string                 `json:"name"`
	Type       string                 `json:"type,omitempty"`
	Properties OutboundRuleProperties `json:"properties"`
}

// OutboundRuleProperties are an outbound rule's.
type OutboundRuleProperties struct {
	ProvisioningState        string           `json:"provisioningState,omitempty"`
	FrontendIPConfigurations []egressuse.Link `json:"frontendIPConfigurations"`
	BackendAddressPool       *egressuse.Link  `json:"backendAddressPool,omitempty"`
	Protocol                 string           `json:"protocol"`
	AllocatedOutboundPorts   int              `json:"allocatedOutboundPorts"`
	EnableTCPReset           bool             `json:"enableTcpReset"`
	IdleTimeoutInMinutes     int              `json:"idleTimeoutInMinutes,omitempty"`
}
