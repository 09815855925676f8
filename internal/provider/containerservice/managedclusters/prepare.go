package managedclusters

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// prepare turns a PUT into the document to store: the shape of Azure's recorded 201 answer.
func (t service) prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	m := r.Model
	if r.Existing != nil {
		if err := r.Existing.mustRun("updating"); err != nil {
			return err
		}
		inherit(&m.Properties, r.Existing.Properties)
	}
	t.defaults(r)
	if r.Existing != nil {
		if err := keep(r); err != nil {
			return err
		}
	} else if err := t.invent(ctx, r); err != nil {
		return err
	}
	m.Memory.IgnoredArguments = ignored(r.Arguments)
	if err := t.validate(ctx, r); err != nil {
		return err
	}
	if err := resolveIdentities(ctx, r, t.TenantID); err != nil {
		return err
	}
	if err := t.authorizeIdentity(ctx, r); err != nil {
		return err
	}
	return splitPools(r, m)
}

// defaults fills in what the service decides when the request is silent.
func (t service) defaults(r *resourcetype.Request[Model]) {
	m, p := r.Model, &r.Model.Properties
	if m.SKU == nil {
		m.SKU = &SKU{Name: "Base", Tier: "Free"}
	}
	if p.KubernetesVersion == "" {
		p.KubernetesVersion = t.DefaultVersion
	}
	p.PowerState = &PowerState{Code: powerRunning}
	if r.Existing == nil {
		p.CurrentKubernetesVersion = t.resolveVersion(p.KubernetesVersion)
	} else { // until the control plane says otherwise
		p.CurrentKubernetesVersion = r.Existing.Properties.CurrentKubernetesVersion
	}
	p.SupportPlan = or(p.SupportPlan, "KubernetesOfficial")
	p.MaxAgentPools = 100
	if p.EnableRBAC == nil {
		p.EnableRBAC = ptr(true)
	}
	if p.ServicePrincipalProfile == nil {
		p.ServicePrincipalProfile = &ServicePrincipalProfile{ClientID: "msi"}
	}
	if m.Identity == nil && p.ServicePrincipalProfile.ClientID == "msi" {
		m.Identity = &Identity{Type: "SystemAssigned"}
	}
	if p.NetworkProfile == nil {
		p.NetworkProfile = &NetworkProfile{}
	}
	n := p.NetworkProfile
	n.NetworkPlugin = or(n.NetworkPlugin, "azure")
	n.NetworkPolicy = or(n.NetworkPolicy, "none")
	n.NetworkDataplane = or(n.NetworkDataplane, "azure")
	n.OutboundType = fold(or(n.OutboundType, outboundLoadBalancer), outboundTypes...)
	n.LoadBalancerSKU = or(n.LoadBalancerSKU, "standard")
	n.ServiceCIDR = or(n.ServiceCIDR, "10.0.0.0/16")
	n.ServiceCIDRs = []string{n.ServiceCIDR}
	n.IPFamilies = []string{"IPv4"}
	if n.DNSServiceIP == "" {
		n.DNSServiceIP = tenth(n.ServiceCIDR)
	}
	defaultProfiles(n)
	if p.BootstrapProfile == nil {
		p.BootstrapProfile = &BootstrapProfile{}
	}
	p.BootstrapProfile.ArtifactSource = fold(or(p.BootstrapProfile.ArtifactSource, "Direct"), "Direct", "Cache")
	if p.AutoUpgradeProfile == nil {
		p.AutoUpgradeProfile = &AutoUpgradeProfile{}
	}
	p.AutoUpgradeProfile.NodeOSUpgradeChannel = or(p.AutoUpgradeProfile.NodeOSUpgradeChannel, "NodeImage")
	if a := p.APIServerAccessProfile; a != nil && r.Existing != nil {
		a.PrivateDNSZone = or(a.PrivateDNSZone, r.Existing.zone())
	}
	if a := p.APIServerAccessProfile; a != nil && isTrue(a.EnablePrivateCluster) {
		a.PrivateDNSZone = fold(or(a.PrivateDNSZone, zoneSystem), zoneSystem, zoneNone)
		if a.EnablePrivateClusterPublicFQDN == nil {
			a.EnablePrivateClusterPublicFQDN = ptr(true)
		}
	}
	p.PrivateLinkResources = nil
	if m.isPrivateLink() {
		p.PrivateLinkResources = []PrivateLinkResource{{
			ID:   r.ID.String() + "/privateLinkResources/management",
			Name: "management", Type: "Microsoft.ContainerService/managedClusters/privateLinkResources",
			GroupID: "management", RequiredMembers: []string{"management"},
		}}
	}
}

// defaultProfiles completes the profile of the outbound type, and takes away those of the others. None and block keep
// what a load balancer for Services would have, as Azure shows it.
func defaultProfiles(n *NetworkProfile) {
	nat, balancer := n.NATGateway, n.LoadBalancer
	n.NATGateway, n.LoadBalancer = nil, nil
	switch n.OutboundType {
	case outboundManagedNAT:
		if nat == nil {
			nat = &NATGatewayProfile{}
		}
		if nat.ManagedOutboundIPs == nil {
			nat.ManagedOutboundIPs = &ManagedIPs{Count: 1}
		}
		if nat.IdleTimeoutInMinutes == nil {
			nat.IdleTimeoutInMinutes = ptr(gatewayIdle)
		}
		nat.EffectiveOutboundIPs = nil
		n.NATGateway = nat
	case outboundLoadBalancer:
		if balancer == nil {
			balancer = &LoadBalancerProfile{}
		}
		balancer.BackendPoolType = or(balancer.BackendPoolType, "nodeIPConfiguration")
		if balancer.ManagedOutboundIPs == nil && balancer.OutboundIPs == nil {
			balancer.ManagedOutboundIPs = &ManagedIPs{Count: 1}
		}
		balancer.EffectiveOutboundIPs = nil
		n.LoadBalancer = balancer
	case outboundNone, outboundBlock:
		n.LoadBalancer = &LoadBalancerProfile{BackendPoolType: "nodeIPConfiguration"}
	case outboundRouting:
		n.LoadBalancer = balancer // which is refused, if it asks for addresses
	}
}

// inherit keeps what an update leaves unsaid and the service never changes by itself.
func inherit(p *Properties, was Properties) {
	p.KubernetesVersion = or(p.KubernetesVersion, was.KubernetesVersion)
	if p.BootstrapProfile == nil {
		p.BootstrapProfile = was.BootstrapProfile
	}
	if was.NetworkProfile != nil {
		if p.NetworkProfile == nil {
			p.NetworkProfile = &NetworkProfile{LoadBalancer: was.NetworkProfile.LoadBalancer, NATGateway: was.NetworkProfile.NATGateway}
		}
		n := p.NetworkProfile
		n.OutboundType = or(n.OutboundType, was.NetworkProfile.OutboundType)
		n.NetworkPlugin = or(n.NetworkPlugin, was.NetworkProfile.NetworkPlugin)
		n.ServiceCIDR = or(n.ServiceCIDR, was.NetworkProfile.ServiceCIDR)
		n.DNSServiceIP = or(n.DNSServiceIP, was.NetworkProfile.DNSServiceIP)
	}
}

// groupName is the rule for resource groups, with AKS's shorter limit.
var groupName = regexp.MustCompile(`^[-\w._()]{0,79}[-\w_()]$`)

// invent gives a new cluster the names that it keeps for life.
func (t service) invent(ctx context.Context, r *resourcetype.Request[Model]) error {
	m, p := r.Model, &r.Model.Properties
	m.Memory = &Memory{
		ClusterID: randomHex(4),
		Suffix:    randomDigits(8),
		ZoneGUID:  uuid.NewString(),
	}
	p.ResourceUID = randomHex(12)
	if p.DNSPrefix == "" && p.FQDNSubdomain == "" {
		p.DNSPrefix = dnsPrefix(r.ID)
	}
	p.FQDN = fmt.Sprintf("%s-%s.hcp.%s.azmk8s.io", or(p.DNSPrefix, p.FQDNSubdomain), randomAlnum(8), m.Location)
	p.AzurePortalFQDN = fmt.Sprintf("%s.portal.hcp.%s.azmk8s.io", strings.TrimSuffix(p.FQDN, ".hcp."+m.Location+".azmk8s.io"), m.Location)
	inventPrivateName(m)
	if p.NodeResourceGroup == "" {
		p.NodeResourceGroup = fmt.Sprintf("MC_%s_%s_%s", r.ID.ResourceGroup(), r.ID.Name(), m.Location)
		if len(p.NodeResourceGroup) > 80 {
			p.NodeResourceGroup = p.NodeResourceGroup[:80]
		}
	}
	if !groupName.MatchString(p.NodeResourceGroup) {
		return armerror.New(armerror.InvalidParameter, "The value of parameter nodeResourceGroup is invalid: %q. It has 1 to 80 letters, digits, '-', '.', '_', '(' and ')', and does not end with '.'.", p.NodeResourceGroup).WithTarget("properties.nodeResourceGroup")
	}
	if strings.EqualFold(p.NodeResourceGroup, r.ID.ResourceGroup()) {
		return armerror.New("NodeResourceGroupSameAsResourceGroup", "Node resource group '%s' is the same as ResourceGroup '%s', which is not allowed, please provide a different node resource group.", p.NodeResourceGroup, r.ID.ResourceGroup()).WithTarget("properties.nodeResourceGroup")
	}
	err := r.Documents.Get(ctx, nodeGroup(r.ID, m), new(json.RawMessage))
	if err == nil {
		return armerror.New("NodeResourceGroupAlreadyExists", "Node resource group '%s' under subscription '%s' already exists, please provide a new one.", p.NodeResourceGroup, r.ID.Subscription()).WithTarget("properties.nodeResourceGroup")
	}
	if !errors.Is(err, resourcestore.ErrNotFound) {
		return err
	}
	return nil
}

// keep carries over what a request cannot change, and refuses attempts to.
func keep(r *resourcetype.Request[Model]) error {
	m, old := r.Model, r.Existing
	mem := Memory{}
	if old.Memory != nil {
		mem = *old.Memory
	}
	mem.Declared = "" // a request again is to mend what is amiss
	m.Memory = &mem
	p, q := &m.Properties, old.Properties
	for _, f := range []struct {
		name      string
		value     *string
		was       string
		immutable bool
	}{
		{"properties.fqdn", &p.FQDN, q.FQDN, false},
		{"properties.privateFQDN", &p.PrivateFQDN, q.PrivateFQDN, false},
		{"properties.azurePortalFQDN", &p.AzurePortalFQDN, q.AzurePortalFQDN, false},
		{"properties.resourceUID", &p.ResourceUID, q.ResourceUID, false},
		{"properties.dnsPrefix", &p.DNSPrefix, q.DNSPrefix, true},
		{subdomainTarget, &p.FQDNSubdomain, q.FQDNSubdomain, true},
		{"properties.nodeResourceGroup", &p.NodeResourceGroup, q.NodeResourceGroup, true},
	} {
		if f.immutable && *f.value != "" && !strings.EqualFold(*f.value, f.was) {
			return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property '%s' is not allowed.", f.name).WithTarget(f.name)
		}
		*f.value = f.was
	}
	if n, was := p.NetworkProfile, q.NetworkProfile; was != nil {
		for _, f := range []struct{ name, value, was string }{
			{"networkProfile.networkPlugin", n.NetworkPlugin, was.NetworkPlugin},
			{"networkProfile.serviceCidr", n.ServiceCIDR, was.ServiceCIDR},
			{"networkProfile.dnsServiceIP", n.DNSServiceIP, was.DNSServiceIP},
		} {
			if f.value != f.was {
				return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property '%s' is not allowed.", f.name).WithTarget("properties." + f.name)
			}
		}
	}
	if err := keepAccess(m, old); err != nil {
		return err
	}
	inventPrivateName(m)
	if p.IdentityProfile == nil {
		p.IdentityProfile = q.IdentityProfile
	}
	// Who names no registry, as whoever never did, has the AKS-managed one once it is there.
	if b := p.BootstrapProfile; b.ArtifactSource == "Cache" && m.Memory.ManagedRegistry != "" && m.managedRegistry() {
		b.ContainerRegistryID = managedRegistryID(r.ID, m).String()
	}
	// Pools that are to take over what this request says wait until it is there.
	was := q.BootstrapProfile
	if was == nil || q.NetworkProfile == nil || q.ProvisioningState == "Failed" || was.ArtifactSource != p.BootstrapProfile.ArtifactSource ||
		!strings.EqualFold(was.ContainerRegistryID, p.BootstrapProfile.ContainerRegistryID) || q.NetworkProfile.OutboundType != p.NetworkProfile.OutboundType {
		m.Memory.Infrastructure = false
	}
	return nil
}

// splitPools hands the inline agent pools to their own type: they are stored as children and rendered back.
func splitPools(r *resourcetype.Request[Model], m *Model) error {
	for i, profile := range m.Properties.AgentPoolProfiles {
		name, _ := profile["name"].(string)
		if name == "" {
			return armerror.New(armerror.InvalidParameter, "Required parameter agentPoolProfile.name is missing (null).").WithTarget(fmt.Sprintf("properties.agentPoolProfiles[%d].name", i))
		}
		properties := map[string]any{}
		for k, v := range profile {
			switch k {
			case "name", "provisioningState", "powerState", "currentOrchestratorVersion", "nodeImageVersion", "eTag":
			default:
				properties[k] = v
			}
		}
		child, err := resourceid.Parse(r.ID.String() + "/agentPools/" + name)
		if err != nil {
			return armerror.New(armerror.InvalidParameter, "The agent pool name %q is not valid.", name)
		}
		r.PutChild(child, map[string]any{"name": name, "properties": properties})
	}
	m.Properties.AgentPoolProfiles = nil
	return nil
}

// resolveVersion is the patch version that runs for an asked version: 1.30 stands for its newest patch.
func (t service) resolveVersion(asked string) string {
	for i := len(t.Versions) - 1; i >= 0; i-- {
		if v := t.Versions[i]; v == asked || strings.HasPrefix(v, asked+".") && strings.Count(asked, ".") == 1 {
			return v
		}
	}
	return asked
}

// dnsPrefix is az's own rule: name, group and subscription, each shortened.
func dnsPrefix(id resourceid.ID) string {
	part := func(s string, n int) string {
		var b strings.Builder
		for _, c := range s {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
				b.WriteRune(c)
			}
		}
		s = b.String()
		if len(s) > n {
			s = s[:n]
		}
		return s
	}
	name := part(id.Name(), 10)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "a" + name
	}
	return name + "-" + part(id.ResourceGroup(), 16) + "-" + part(id.Subscription(), 6)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func randomFrom(alphabet string, n int) string {
	b := make([]byte, n)
	for i := range b {
		k, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet)))) // rand.Reader never fails (crypto/rand, Go 1.24)
		b[i] = alphabet[k.Int64()]
	}
	return string(b)
}

func randomDigits(n int) string { return randomFrom("123456789", 1) + randomFrom("0123456789", n-1) }

func randomAlnum(n int) string { return randomFrom("abcdefghijklmnopqrstuvwxyz0123456789", n) }
