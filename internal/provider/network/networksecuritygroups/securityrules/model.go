package securityrules

import "encoding/json"

// Model is the document of a security rule.
type Model struct {
	Properties Properties `json:"properties"`
}

// Properties are a security rule's. One of each pair of properties is set; "*" stands for anything.
type Properties struct {
	Description                          string            `json:"description,omitempty"`
	Protocol                             string            `json:"protocol"`
	SourcePortRange                      string            `json:"sourcePortRange,omitempty"`
	SourcePortRanges                     []string          `json:"sourcePortRanges"`
	DestinationPortRange                 string            `json:"destinationPortRange,omitempty"`
	DestinationPortRanges                []string          `json:"destinationPortRanges"`
	SourceAddressPrefix                  string            `json:"sourceAddressPrefix,omitempty"`
	SourceAddressPrefixes                []string          `json:"sourceAddressPrefixes"`
	DestinationAddressPrefix             string            `json:"destinationAddressPrefix,omitempty"`
	DestinationAddressPrefixes           []string          `json:"destinationAddressPrefixes"`
	SourceApplicationSecurityGroups      []json.RawMessage `json:"sourceApplicationSecurityGroups,omitempty"`
	DestinationApplicationSecurityGroups []json.RawMessage `json:"destinationApplicationSecurityGroups,omitempty"`
	Access                               string            `json:"access"`
	Priority                             int               `json:"priority"`
	Direction                            string            `json:"direction"`
}
