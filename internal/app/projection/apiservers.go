package projection

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
)

// delegated is the service that API servers' subnets are delegated to.
const delegated = "Microsoft.ContainerService/managedClusters"

func (s subnet) isDelegated() bool {
	for _, d := range s.Properties.Delegations {
		if strings.EqualFold(d.Properties.ServiceName, delegated) {
			return true
		}
	}
	return false
}

// apiServers gives the control planes their ways in: an address in the delegated subnet with VNet integration, one in
// public for clusters that are not private. Private endpoints are documents of their own.
func (b *builder) apiServers() error {
	for _, r := range b.docs.Of("Microsoft.ContainerService/managedClusters") {
		doc, err := documents.Decode[managedCluster](r)
		if err != nil {
			return err
		}
		if doc.Memory.ClusterID == "" || doc.Memory.Removed {
			continue
		}
		leaf := LeafOfCluster(doc.Memory.ClusterID)
		if doc.integrated() {
			if err := b.integrate(resourceid.Group(r.ID.Subscription(), doc.Properties.NodeResourceGroup), leaf); err != nil {
				return err
			}
		}
		if doc.Memory.PublicAddress == "" || doc.private() {
			continue
		}
		a, err := parseAddr(doc.Memory.PublicAddress, r.ID)
		if err != nil {
			return err
		}
		front := fabric.Front{ID: shortHash(r.ID.Key()), Address: a, Ports: []uint16{443}, ServiceAddress: frontService(a), Leaf: leaf}
		if p := doc.Properties.APIServerAccessProfile; p != nil && len(p.AuthorizedIPRanges) > 0 {
			if front.Sources, err = ranges(p.AuthorizedIPRanges); err != nil {
				return fmt.Errorf("read document %s: %w", r.ID, err)
			}
			// AKS lets the cluster's own nodes in, by whatever address they go out.
			if subnet, err := resourceid.Parse(doc.Memory.SubnetID); err == nil && doc.Memory.SubnetID != "" {
				if n, _ := b.network(subnet); n != nil {
					front.Networks = []string{n.ID}
				}
			}
		}
		b.leaves[leaf] = append(b.leaves[leaf], front.ServiceAddress)
		b.out.Fabric.Fronts = append(b.out.Fabric.Fronts, front)
		b.public(doc.Properties.FQDN, "A", a.String())
	}
	return nil
}

// apiServerBalancer is the internal load balancer that AKS makes for an API server, of which the API server itself has the
// frontend's address.
type apiServerBalancer struct {
	Properties struct {
		Frontends []struct {
			Properties struct {
				PrivateIPAddress string         `json:"privateIPAddress"`
				Subnet           *documents.Ref `json:"subnet"`
			} `json:"properties"`
		} `json:"frontendIPConfigurations"`
	} `json:"properties"`
}

// integrate joins the control plane to the subnet that its kube-apiserver has an address in.
func (b *builder) integrate(group resourceid.ID, leaf string) error {
	balancer, ok := b.docs.Find(group.Resource("Microsoft.Network/loadBalancers", "kube-apiserver"))
	if !ok {
		return nil
	}
	doc, err := documents.Decode[apiServerBalancer](balancer)
	if err != nil {
		return err
	}
	for _, f := range doc.Properties.Frontends {
		if f.Properties.Subnet == nil {
			continue
		}
		a, err := parseAddr(f.Properties.PrivateIPAddress, balancer.ID)
		if err != nil {
			return err
		}
		n, subnet := b.network(f.Properties.Subnet.ID)
		if n != nil {
			n.NICs = append(n.NICs, fabric.NIC{ID: shortHash(balancer.ID.Key()), Subnet: subnet, Address: a, Interface: "eth0", Guest: fabric.Guest{Name: leaf}})
		}
		return nil
	}
	return nil
}

func (c managedCluster) integrated() bool {
	p := c.Properties.APIServerAccessProfile
	return p != nil && p.EnableVnetIntegration != nil && *p.EnableVnetIntegration
}

func (c managedCluster) private() bool {
	p := c.Properties.APIServerAccessProfile
	return p != nil && p.EnablePrivateCluster != nil && *p.EnablePrivateCluster
}

// frontService is the service-side address behind a public one: the same place of 254.0.0.0/8, which no private
// endpoint's number comes to.
func frontService(public netip.Addr) netip.Addr {
	b := public.As4()
	return netip.AddrFrom4([4]byte{254, b[1], b[2], b[3]})
}

// ranges are addresses and prefixes, as Azure takes both.
func ranges(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, host(a))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
