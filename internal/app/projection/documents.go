package projection

import (
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// lingering are the types whose documents still describe the machine while they are being deleted:
// their own reconcile takes them down, and until then their nodes have their network.
var lingering = []string{"microsoft.containerservice/managedclusters", "microsoft.containerservice/managedclusters/agentpools"}

// present leaves out what is being deleted: a DELETE ends when the machine has let go.
func present(all []resourcestore.Resource) []resourcestore.Resource {
	var out []resourcestore.Resource
	for _, r := range all {
		if !r.Deleting || slices.Contains(lingering, strings.ToLower(r.ID.Type())) {
			out = append(out, r)
		}
	}
	return out
}

// The views name what the projection reads of each type's documents, and nothing else.

type virtualNetwork struct {
	Properties struct {
		AddressSpace struct {
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"addressSpace"`
	} `json:"properties"`
}

type subnet struct {
	Properties struct {
		AddressPrefix         string         `json:"addressPrefix"`
		AddressPrefixes       []string       `json:"addressPrefixes"`
		DefaultOutboundAccess *bool          `json:"defaultOutboundAccess"`
		EndpointPolicies      string         `json:"privateEndpointNetworkPolicies"`
		NetworkSecurityGroup  *documents.Ref `json:"networkSecurityGroup"`
		NATGateway            *documents.Ref `json:"natGateway"`
		RouteTable            *documents.Ref `json:"routeTable"`
		Delegations           []struct {
			Properties struct {
				ServiceName string `json:"serviceName"`
			} `json:"properties"`
		} `json:"delegations"`
	} `json:"properties"`
}

type networkInterface struct {
	Properties struct {
		IPConfigurations []struct {
			Properties struct {
				PrivateIPAddress string          `json:"privateIPAddress"`
				Primary          *bool           `json:"primary"`
				Subnet           *documents.Ref  `json:"subnet"`
				PublicIPAddress  *documents.Ref  `json:"publicIPAddress"`
				Pools            []documents.Ref `json:"loadBalancerBackendAddressPools"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
		EnableIPForwarding   bool           `json:"enableIPForwarding"`
		NetworkSecurityGroup *documents.Ref `json:"networkSecurityGroup"`
	} `json:"properties"`
}

type virtualNetworkLink struct {
	Properties struct {
		VirtualNetwork documents.Ref `json:"virtualNetwork"`
	} `json:"properties"`
}

type aRecordSet struct {
	Properties struct {
		TTL      uint32 `json:"ttl"`
		ARecords []struct {
			IPv4Address string `json:"ipv4Address"`
		} `json:"aRecords"`
	} `json:"properties"`
}

type registryDocument struct {
	Location   string `json:"location"`
	Properties struct {
		LoginServer          string `json:"loginServer"`
		PublicNetworkAccess  string `json:"publicNetworkAccess"`
		AnonymousPullEnabled bool   `json:"anonymousPullEnabled"`
		AdminUserEnabled     bool   `json:"adminUserEnabled"`
		CreationDate         string `json:"creationDate"`
		NetworkRuleSet       *struct {
			DefaultAction string `json:"defaultAction"`
			IPRules       []struct {
				Value string `json:"value"`
			} `json:"ipRules"`
		} `json:"networkRuleSet"`
		Policies struct {
			AuthenticationAsARM struct {
				Status string `json:"status"`
			} `json:"azureADAuthenticationAsArmPolicy"`
		} `json:"policies"`
	} `json:"properties"`
	Memory struct {
		Regenerated [2]int `json:"regenerated"`
	} `json:"cloister"`
}

type cacheRule struct {
	Properties struct {
		SourceRepository string `json:"sourceRepository"`
		TargetRepository string `json:"targetRepository"`
	} `json:"properties"`
}

type managedCluster struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		FQDN              string `json:"fqdn"`
		PrivateFQDN       string `json:"privateFQDN"`
		NodeResourceGroup string `json:"nodeResourceGroup"`
		IdentityProfile   map[string]struct {
			ResourceID string `json:"resourceId"`
			ClientID   string `json:"clientId"`
			ObjectID   string `json:"objectId"`
		} `json:"identityProfile"`
		APIServerAccessProfile *struct {
			AuthorizedIPRanges             []string `json:"authorizedIPRanges"`
			EnablePrivateCluster           *bool    `json:"enablePrivateCluster"`
			EnablePrivateClusterPublicFQDN *bool    `json:"enablePrivateClusterPublicFQDN"`
			EnableVnetIntegration          *bool    `json:"enableVnetIntegration"`
		} `json:"apiServerAccessProfile"`
	} `json:"properties"`
	Memory struct {
		ClusterID       string `json:"clusterId"`
		SubnetID        string `json:"subnetId"`
		EndpointAddress string `json:"endpointAddress"`
		PublicAddress   string `json:"publicAddress"`
		Removed         bool   `json:"removed"`
	} `json:"cloister"`
}

type agentPool struct {
	Properties struct {
		VMSize string `json:"vmSize"`
	} `json:"properties"`
	Memory struct {
		Machines []machine `json:"machines"`
	} `json:"cloister"`
}

type machine struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	UIDBase uint32        `json:"uidBase"`
	NIC     resourceid.ID `json:"nic"`
}
