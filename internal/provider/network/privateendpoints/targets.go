package privateendpoints

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// target is a resource type that private endpoints connect to.
type target struct {
	kind  string
	group string
	// approve is the role action with which a connection is approved at once.
	approve string
	// connections is the child type that shows connections, "" for none.
	connections string
	// members are the addresses an endpoint gets, in Azure's order.
	members func(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]Member, error)
}

func targets() []target {
	return []target{
		{
			kind: "Microsoft.ContainerRegistry/registries", group: "registry",
			approve:     "Microsoft.ContainerRegistry/registries/privateEndpointConnectionsApproval/action",
			connections: "privateEndpointConnections", members: registryMembers,
		},
		{
			kind: "Microsoft.ContainerService/managedClusters", group: "management",
			approve: "Microsoft.ContainerService/managedClusters/privateEndpointConnectionsApproval/action",
			members: clusterMembers,
		},
	}
}

// find returns the target's type, or the error for a service that cannot be connected to.
func find(id resourceid.ID, groups []string) (target, *armerror.Error) {
	for _, t := range targets() {
		if !id.Is(t.kind) {
			continue
		}
		if len(groups) != 1 || groups[0] != t.group {
			return t, armerror.New("InvalidPrivateLinkServiceGroupIds", "The group ids '%s' are not valid for private link resource %s. Supported group ids: %s.", strings.Join(groups, ","), id, t.group)
		}
		return t, nil
	}
	return target{}, armerror.New(armerror.NotSupported, "Private endpoints to resources of type %s are not supported by Cloister.", id.Type())
}

// registryMembers are the data endpoint and the registry, in the order in which Azure gives addresses.
func registryMembers(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]Member, error) {
	var r struct {
		Location string `json:"location"`
		SKU      struct {
			Name string `json:"name"`
		} `json:"sku"`
		Properties struct {
			LoginServer string `json:"loginServer"`
		} `json:"properties"`
	}
	if err := read(ctx, docs, id, &r); err != nil {
		return nil, err
	}
	if !strings.EqualFold(r.SKU.Name, "Premium") {
		return nil, armerror.New("PrivateLinkNotSupportedForSku", "Private endpoints are supported for registries of SKU Premium only. Registry %s has SKU %s.", id, r.SKU.Name).WithTarget(connectionID)
	}
	name, rest, _ := strings.Cut(r.Properties.LoginServer, ".")
	return []Member{
		{GroupID: "registry", Name: "registry_data_" + r.Location, FQDNs: []string{name + "." + r.Location + ".data." + rest}},
		{GroupID: "registry", Name: "registry", FQDNs: []string{r.Properties.LoginServer}},
	}, nil
}

// clusterMembers is the API server of a private cluster.
func clusterMembers(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) ([]Member, error) {
	var c struct {
		Properties struct {
			FQDN                   string `json:"fqdn"`
			PrivateFQDN            string `json:"privateFQDN"`
			APIServerAccessProfile struct {
				EnablePrivateCluster  bool `json:"enablePrivateCluster"`
				EnableVnetIntegration bool `json:"enableVnetIntegration"`
			} `json:"apiServerAccessProfile"`
		} `json:"properties"`
	}
	if err := read(ctx, docs, id, &c); err != nil {
		return nil, err
	}
	if p := c.Properties.APIServerAccessProfile; !p.EnablePrivateCluster || p.EnableVnetIntegration {
		return nil, armerror.New("PrivateLinkNotEnabled", "Managed cluster %s is not a private cluster with private link.", id).WithTarget(connectionID)
	}
	member := Member{GroupID: "management", Name: "management", FQDNs: []string{}}
	if c.Properties.PrivateFQDN != "" {
		member.FQDNs = []string{c.Properties.PrivateFQDN}
	} else if c.Properties.FQDN != "" { // a cluster without a private zone
		member.FQDNs = []string{c.Properties.FQDN}
	}
	return []Member{member}, nil
}

// connectionID is where a request names what it connects to.
const connectionID = "properties.privateLinkServiceConnections[0].properties.privateLinkServiceId"

func read(ctx context.Context, docs resourcetype.Reader, id resourceid.ID, model any) error {
	err := docs.Get(ctx, id, model)
	if errors.Is(err, resourcestore.ErrNotFound) {
		return armerror.New(armerror.InvalidResourceReference, "Resource %s referenced by the private link service connection was not found. Please make sure that the referenced resource exists.", id).WithTarget(connectionID)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	return nil
}
