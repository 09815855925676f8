package diagnosis

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/registry"
)

const (
	clusterType    = "Microsoft.ContainerService/managedClusters"
	poolType       = "Microsoft.ContainerService/managedClusters/agentPools"
	endpointType   = "Microsoft.Network/privateEndpoints"
	registryType   = "Microsoft.ContainerRegistry/registries"
	cacheRuleType  = "Microsoft.ContainerRegistry/registries/cacheRules"
	connectionType = "Microsoft.ContainerRegistry/registries/privateEndpointConnections"
	zoneType       = "Microsoft.Network/privateDnsZones"
	zoneLinkType   = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"
	networkType    = "Microsoft.Network/virtualNetworks"
	nicType        = "Microsoft.Network/networkInterfaces"
)

// world is one look at everything.
type world struct {
	docs    documents.Index
	state   projection.State
	machine Machine
	faults  map[string]*armerror.Error
}

// cluster is a managed cluster with its pools, as far as a diagnosis reads it.
type cluster struct {
	id       resourceid.ID
	Location string
	Identity struct {
		UserAssignedIdentities map[string]struct{ PrincipalID string }
	}
	Properties struct {
		ProvisioningState, FQDN, PrivateFQDN, NodeResourceGroup string
		PowerState                                              struct{ Code string }
		NetworkProfile                                          struct{ OutboundType string }
		BootstrapProfile                                        struct{ ArtifactSource, ContainerRegistryID string }
		APIServerAccessProfile                                  struct {
			EnablePrivateCluster, EnableVnetIntegration bool
			PrivateDNSZone                              string
		}
		IdentityProfile map[string]struct{ ResourceID, ClientID, ObjectID string }
	}
	Cloister struct {
		ClusterID, SubnetID, RegistryServer, EndpointAddress, PublicAddress string
		IgnoredArguments                                                    []string
	}
	machines []machine
	pools    []pool
	// nameservers are those that the nodes' virtual network names now.
	nameservers []netip.Addr
}

type pool struct {
	Properties struct{ VnetSubnetID string }
	Cloister   struct {
		Off      bool
		Machines []machine
	}
}

// machine is a node.
type machine struct {
	ID, Name, RegistryServer, OutboundURL, APIServer, Phase string
	NIC                                                     resourceid.ID
	Nameservers                                             []netip.Addr // of the user's own; none: Azure's
	Leaving                                                 bool
	pool                                                    string
	off                                                     bool
}

func (w *world) cluster(id resourceid.ID) (*cluster, error) {
	r, ok := w.docs.Find(id)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	c, err := documents.Decode[cluster](r)
	if err != nil {
		return nil, err
	}
	c.id = r.ID
	for _, p := range w.docs.Under(id, poolType) {
		of, err := documents.Decode[pool](p)
		if err != nil {
			return nil, err
		}
		for _, m := range of.Cloister.Machines {
			m.pool, m.off = p.ID.Name(), of.Cloister.Off
			c.machines = append(c.machines, m)
		}
		c.pools = append(c.pools, of)
	}
	c.nameservers = nameservers(w.docs, c.vnet())
	return &c, nil
}

func (w *world) clusters() ([]*cluster, error) {
	var out []*cluster
	for _, r := range w.docs.Of(clusterType) {
		c, err := w.cluster(r.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// isolated reports whether AKS gives the cluster no way out.
func (c *cluster) isolated() bool {
	t := c.Properties.NetworkProfile.OutboundType
	return t == "none" || t == "block"
}

func (c *cluster) cached() bool { return c.Properties.BootstrapProfile.ArtifactSource == "Cache" }

func (c *cluster) nodeGroup() resourceid.ID {
	return resourceid.Group(c.id.Subscription(), c.Properties.NodeResourceGroup)
}

// subnet is that of the cluster's first pool; zero while there is none.
func (c *cluster) subnet() resourceid.ID {
	id, err := resourceid.Parse(c.Cloister.SubnetID)
	if err != nil {
		return resourceid.ID{}
	}
	return id
}

func (c *cluster) vnet() resourceid.ID {
	vnet, _ := c.subnet().Parent()
	return vnet
}

// reconcile is how a user has AKS make what is missing of what is its own.
func (c *cluster) reconcile() string {
	return az("aks", "update", "-g", c.id.ResourceGroup(), "-n", c.id.Name(), "--yes")
}

// reimage is how nodes become what the cluster says.
func (c *cluster) reimage() string {
	return az("aks", "upgrade", "-g", c.id.ResourceGroup(), "-n", c.id.Name(), "--node-image-only", "--yes")
}

// kubelet is the identity that the nodes pull with.
func (c *cluster) kubelet() (resourceID resourceid.ID, clientID, objectID string) {
	k := c.Properties.IdentityProfile["kubeletidentity"]
	id, err := resourceid.Parse(k.ResourceID)
	if err != nil {
		return resourceid.ID{}, k.ClientID, k.ObjectID
	}
	return id, k.ClientID, k.ObjectID
}

// guest is a node's place in the fabric.
type guest struct {
	network fabric.Network
	nic     fabric.NIC
	subnet  resourceid.ID
}

func (w *world) guest(m machine) (guest, bool) {
	for _, n := range w.state.Fabric.Networks {
		for _, nic := range n.NICs {
			if nic.Guest.Name != "node-"+m.ID {
				continue
			}
			var doc struct {
				Properties struct {
					IPConfigurations []struct {
						Properties struct{ Subnet documents.Ref }
					}
				}
			}
			g := guest{network: n, nic: nic}
			if w.docs.Read(m.NIC, &doc) && len(doc.Properties.IPConfigurations) > 0 {
				g.subnet = doc.Properties.IPConfigurations[0].Properties.Subnet.ID
			}
			return g, true
		}
	}
	return guest{}, false
}

// registry is a registry in the registry process.
func (w *world) registry(id resourceid.ID) (registry.Registry, bool) {
	for _, r := range w.state.Registry.Registries {
		if strings.HasPrefix(r.ID, projection.RegistryPrefix(id)) {
			return r, true
		}
	}
	return registry.Registry{}, false
}

func addresses(list []netip.Addr) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}
