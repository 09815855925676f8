package agentpools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
)

const networkAPI = "2024-05-01"

// nic is a network interface's document as far as nodes need it.
type nic struct {
	Properties struct {
		IPConfigurations []struct {
			Properties struct {
				PrivateIPAddress string `json:"privateIPAddress"`
				Primary          bool   `json:"primary"`
				Subnet           struct {
					ID resourceid.ID `json:"id"`
				} `json:"subnet"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
	} `json:"properties"`
}

func (n nic) addresses() []netip.Addr {
	var out []netip.Addr
	for _, c := range n.Properties.IPConfigurations {
		if a, err := netip.ParseAddr(c.Properties.PrivateIPAddress); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// subnetOf is the subnet of the pool's nodes: its own, or the cluster's.
func subnetOf(p Properties, c cluster) resourceid.ID {
	return resourceid.MustParse(or(p.VnetSubnetID, c.Memory.SubnetID))
}

func subnetPrefix(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) (netip.Prefix, error) {
	var doc struct {
		Properties struct {
			AddressPrefix   string   `json:"addressPrefix"`
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, id, &doc); err != nil {
		return netip.Prefix{}, fmt.Errorf("read the nodes' subnet: %w", err)
	}
	s := doc.Properties.AddressPrefix
	if s == "" && len(doc.Properties.AddressPrefixes) > 0 {
		s = doc.Properties.AddressPrefixes[0]
	}
	return netip.ParsePrefix(s)
}

// nameservers are the DNS servers of the nodes' virtual network; none when it has Azure's.
func nameservers(ctx context.Context, docs resourcetype.Reader, subnet resourceid.ID) ([]string, error) {
	var doc struct {
		Properties struct {
			DHCPOptions struct {
				DNSServers []string `json:"dnsServers"`
			} `json:"dhcpOptions"`
		} `json:"properties"`
	}
	vnet, _ := subnet.Parent()
	if err := docs.Get(ctx, vnet, &doc); err != nil {
		return nil, fmt.Errorf("read the nodes' virtual network: %w", err)
	}
	return doc.Properties.DHCPOptions.DNSServers, nil
}

// attempts bounds how often addresses are chosen anew that somebody else has taken meanwhile.
const attempts = 3

// interfaces makes the machines' network interfaces: one address for the node and, as Azure CNI does, one for
// every pod it may run. It returns false while they are being made.
func (t service) interfaces(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster, machines []Machine) (done bool, err error) {
	subnet := subnetOf(r.Model.Properties, c)
	prefix, err := subnetPrefix(ctx, r.Client, subnet)
	if err != nil {
		return false, err
	}
	t.choosing.Lock()
	defer t.choosing.Unlock()
	done = true
	for _, m := range machines {
		id := resourceid.MustParse(m.NIC)
		var existing nic
		err := r.Client.Get(ctx, id, &existing)
		if err != nil && !errors.Is(err, resourcestore.ErrNotFound) {
			return false, err
		}
		addresses := existing.addresses()
		chosen := len(addresses) == 0
		var state string
		for try := 1; ; try++ {
			if chosen {
				if addresses, err = freeAddresses(ctx, r.Client, subnet, prefix, r.Model.Properties.MaxPods+1); err != nil {
					return false, err
				}
			}
			state, err = r.Client.Put(ctx, id, networkAPI, nicBody(c.Location, subnet, addresses, c.Memory.BackendPools, r.Model.Properties.Tags))
			if err == nil {
				break
			}
			if _, refused := armerror.As(err); !refused || !chosen || try == attempts {
				return false, fmt.Errorf("make the network interface of %s: %w", m.Name, err)
			}
			// Somebody else has taken an address meanwhile.
		}
		done = done && (state == "Succeeded" || state == "")
	}
	return done, nil
}

// nicBody is a node's network interface. Its primary address is a member of the load balancer's pools.
func nicBody(location string, subnet resourceid.ID, addresses []netip.Addr, pools []string, tags map[string]string) map[string]any {
	configs := make([]map[string]any, 0, len(addresses))
	for i, a := range addresses {
		properties := map[string]any{
			"privateIPAddress": a.String(), "privateIPAllocationMethod": "Static", "primary": i == 0,
			"subnet": map[string]any{"id": subnet.String()},
		}
		if i == 0 && len(pools) > 0 {
			members := make([]map[string]any, 0, len(pools))
			for _, p := range pools {
				members = append(members, map[string]any{"id": p})
			}
			properties["loadBalancerBackendAddressPools"] = members
		}
		configs = append(configs, map[string]any{"name": "ipconfig" + strconv.Itoa(i+1), "properties": properties})
	}
	body := map[string]any{"location": location, "properties": map[string]any{"ipConfigurations": configs}}
	if len(tags) > 0 {
		body["tags"] = tags
	}
	return body
}

// freeAddresses are n addresses that nothing in the subnet has.
func freeAddresses(ctx context.Context, docs resourcetype.Reader, subnet resourceid.ID, prefix netip.Prefix, n int) ([]netip.Addr, error) {
	uses, err := subnetuse.Of(ctx, docs, subnet)
	if err != nil {
		return nil, err
	}
	free, err := ipam.NewSubnet(prefix, subnetuse.Addresses(uses)).NextN(n)
	if err != nil {
		return nil, armerror.New("SubnetIsFull", "Subnet %s with address prefix %s does not have enough capacity for %d IP addresses.", subnet.Name(), prefix, n)
	}
	return free, nil
}

// nodeConfig is everything the node engine is told about one machine.
func (t service) nodeConfig(ctx context.Context, r *resourcetype.Reconciliation[Model], c cluster, m Machine, ca, token string) (node.Config, error) {
	var n nic
	if err := r.Client.Get(ctx, resourceid.MustParse(m.NIC), &n); err != nil {
		return node.Config{}, err
	}
	addresses := n.addresses()
	if len(addresses) < 2 {
		return node.Config{}, fmt.Errorf("the network interface of %s has no addresses for pods", m.Name)
	}
	p := r.Model.Properties
	subnet := subnetOf(p, c)
	prefix, err := subnetPrefix(ctx, r.Client, subnet)
	if err != nil {
		return node.Config{}, err
	}
	dns, err := netip.ParseAddr(c.Properties.NetworkProfile.DNSServiceIP)
	if err != nil {
		return node.Config{}, err
	}
	service, err := netip.ParsePrefix(c.Properties.NetworkProfile.ServiceCIDR)
	if err != nil {
		return node.Config{}, err
	}
	servers := make([]netip.Addr, 0, len(m.Nameservers))
	for _, s := range m.Nameservers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return node.Config{}, fmt.Errorf("DNS server of %s: %w", m.Name, err)
		}
		servers = append(servers, a)
	}
	scale := 0.0 // bootstrap's own
	if azure, err := t.AzureTiming(); err != nil {
		return node.Config{}, err
	} else if azure {
		scale = 1
	}
	size := vmSizes[p.VMSize]
	identity := c.Properties.IdentityProfile["kubeletidentity"]
	vnet, _ := subnet.Parent()
	scaleSet := m.Name[:strings.LastIndex(m.Name, "vmss")+len("vmss")]
	p.NodeImageVersion = m.NodeImageVersion
	own, _ := bootstrap.SplitLabels(labels(r.ID.Name(), p, c))
	return node.Config{
		ID: m.ID, Name: m.Name, Guest: "node-" + m.ID, UIDBase: m.UIDBase, UIDCount: UIDCount,
		Rootfs: t.Rootfs, Image: m.image(), Attempt: r.Model.Memory.Attempt,
		MemoryBytes: int64(size.MemoryMiB) << 20, CPUs: size.CPUs, CA: t.AuthorityPEM,
		Bootstrap: bootstrap.Config{
			NodeName: m.Name, NodeAddress: addresses[0], Nameservers: servers, KubernetesVersion: m.KubernetesVersion,
			RegistryServer:            m.RegistryServer,
			Identity:                  bootstrap.Identity{ClientID: identity.ClientID, ResourceID: identity.ResourceID, TenantID: t.TenantID},
			CredentialProviderVersion: t.CredentialProviderVersion,
			CachedImages:              t.CachedImages(m.KubernetesVersion),
			OutboundURL:               m.OutboundURL,
			APIServerName:             or(m.APIServer, c.apiServer()), ClusterCA: ca, BootstrapToken: token,
			ServiceCIDR: service,
			Pods:        bootstrap.PodNetwork{Subnet: prefix, Ranges: ipam.Ranges(addresses[1:])},
			Kubelet: bootstrap.Kubelet{
				ClusterDNS: dns, MaxPods: p.MaxPods, Labels: own, Taints: p.NodeTaints,
				ProviderID: fmt.Sprintf("azure:///subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/%s",
					r.ID.Subscription(), strings.ToLower(c.Properties.NodeResourceGroup), scaleSet, instanceNumber(m.Name)),
			},
			Azure: bootstrap.Azure{
				SubscriptionID: r.ID.Subscription(), ResourceGroup: c.Properties.NodeResourceGroup, Location: c.Location,
				VNetName: vnet.Name(), VNetResourceGroup: vnet.ResourceGroup(), SubnetName: subnet.Name(),
				SecurityGroupName: "aks-agentpool-" + c.Memory.Suffix + "-nsg", RouteTableName: "aks-agentpool-" + c.Memory.Suffix + "-routetable",
				ScaleSetName: scaleSet,
			},
			RetryScale: scale,
		},
	}, nil
}

// labels are those that AKS gives its nodes.
func labels(pool string, p Properties, c cluster) map[string]string {
	l := map[string]string{
		"agentpool":                               pool,
		"kubernetes.azure.com/agentpool":          pool,
		"kubernetes.azure.com/cluster":            c.Properties.NodeResourceGroup,
		"kubernetes.azure.com/mode":               strings.ToLower(p.Mode),
		"kubernetes.azure.com/role":               "agent",
		"kubernetes.azure.com/node-image-version": p.NodeImageVersion,
		"kubernetes.azure.com/os-sku":             p.OSSKU,
		"kubernetes.azure.com/storageprofile":     strings.ToLower(p.OSDiskType),
		"node.kubernetes.io/instance-type":        p.VMSize,
		"topology.kubernetes.io/region":           c.Location,
		"topology.kubernetes.io/zone":             "0",
	}
	for k, v := range p.NodeLabels {
		l[k] = v
	}
	for k, v := range l { // a label's value has at most 63 characters
		if len(v) > 63 {
			l[k] = v[:63]
		}
	}
	return l
}

// references are what wakes the pool: its cluster, its subnet and its machines' network interfaces.
func references(m *Model) []resourcetype.Reference {
	var out []resourcetype.Reference
	if id, err := resourceid.Parse(m.ID); err == nil && m.ID != "" {
		parent, _ := id.Parent()
		out = append(out, resourcetype.Reference{Property: "id", ID: parent})
	}
	if m.Properties.VnetSubnetID != "" {
		if subnet, err := resourceid.Parse(m.Properties.VnetSubnetID); err == nil {
			out = append(out, resourcetype.Reference{Property: "properties.vnetSubnetID", ID: subnet, Linked: "Microsoft.Network/virtualNetworks/subnets/join/action"})
		}
	}
	if m.Memory != nil {
		for _, machine := range m.Memory.Machines {
			out = append(out, resourcetype.Reference{Property: "cloister.machines", ID: resourceid.MustParse(machine.NIC)})
		}
	}
	return out
}

func machineID(cluster, name string) string {
	sum := sha256.Sum256([]byte(cluster + "/" + name))
	return hex.EncodeToString(sum[:4])
}

// base36 is how a scale set writes an instance's number in its computer name.
func base36(n int) string {
	s := strconv.FormatInt(int64(n), 36)
	return strings.Repeat("0", max(0, 6-len(s))) + s
}

func instanceNumber(name string) string {
	n, err := strconv.ParseInt(name[strings.LastIndex(name, "vmss")+len("vmss"):], 36, 64)
	if err != nil {
		return "0"
	}
	return strconv.FormatInt(n, 10)
}
