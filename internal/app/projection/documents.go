package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// documents are all documents by type, in order of their IDs.
type documents struct {
	byType map[string][]resourcestore.Resource
	byKey  map[string]resourcestore.Resource
}

// lingering are the types whose documents still describe the machine while they are being deleted:
// their own reconcile takes them down, and until then their nodes have their network.
var lingering = []string{"microsoft.containerservice/managedclusters", "microsoft.containerservice/managedclusters/agentpools"}

// index leaves out what is being deleted: a DELETE ends when the machine has let go.
func index(all []resourcestore.Resource) documents {
	d := documents{map[string][]resourcestore.Resource{}, map[string]resourcestore.Resource{}}
	// The state is written to files that others watch: the same documents must make the same bytes.
	all = slices.SortedFunc(slices.Values(all), func(a, b resourcestore.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
	for _, r := range all {
		if r.Deleting && !slices.Contains(lingering, strings.ToLower(r.ID.Type())) {
			continue
		}
		t := strings.ToLower(r.ID.Type())
		d.byType[t] = append(d.byType[t], r)
		d.byKey[r.ID.Key()] = r
	}
	return d
}

func (d documents) of(resourceType string) []resourcestore.Resource {
	return d.byType[strings.ToLower(resourceType)]
}

// under are the documents of a type that lie in the resource.
func (d documents) under(parent resourceid.ID, resourceType string) []resourcestore.Resource {
	var out []resourcestore.Resource
	for _, r := range d.of(resourceType) {
		if parent.Contains(r.ID) {
			out = append(out, r)
		}
	}
	return out
}

// Get implements resourcetype.Reader.
func (d documents) Get(_ context.Context, id resourceid.ID, model any) error {
	r, ok := d.byKey[id.Key()]
	if !ok {
		return resourcestore.ErrNotFound
	}
	return json.Unmarshal(r.Body, model)
}

// List implements resourcetype.Reader.
func (d documents) List(_ context.Context, under resourceid.ID, resourceType string) ([]resourcestore.Resource, error) {
	return d.under(under, resourceType), nil
}

// decode reads a document into one of the views below.
func decode[T any](r resourcestore.Resource) (T, error) {
	var v T
	if err := json.Unmarshal(r.Body, &v); err != nil {
		return v, fmt.Errorf("read document %s: %w", r.ID, err)
	}
	return v, nil
}

// The views name what the projection reads of each type's documents, and nothing else.

type ref struct {
	ID resourceid.ID `json:"id"`
}

type virtualNetwork struct {
	Properties struct {
		AddressSpace struct {
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"addressSpace"`
	} `json:"properties"`
}

type subnet struct {
	Properties struct {
		AddressPrefix         string   `json:"addressPrefix"`
		AddressPrefixes       []string `json:"addressPrefixes"`
		DefaultOutboundAccess *bool    `json:"defaultOutboundAccess"`
		EndpointPolicies      string   `json:"privateEndpointNetworkPolicies"`
		NetworkSecurityGroup  *ref     `json:"networkSecurityGroup"`
		NATGateway            *ref     `json:"natGateway"`
		RouteTable            *ref     `json:"routeTable"`
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
				PrivateIPAddress string `json:"privateIPAddress"`
				Primary          *bool  `json:"primary"`
				Subnet           *ref   `json:"subnet"`
				PublicIPAddress  *ref   `json:"publicIPAddress"`
				Pools            []ref  `json:"loadBalancerBackendAddressPools"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
		EnableIPForwarding   bool `json:"enableIPForwarding"`
		NetworkSecurityGroup *ref `json:"networkSecurityGroup"`
	} `json:"properties"`
}

type virtualNetworkLink struct {
	Properties struct {
		VirtualNetwork ref `json:"virtualNetwork"`
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
