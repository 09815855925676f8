package managedclusters

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Codes of the AKS resource provider. The messages of the first three are Azure's own; where no source
// gives one, the text is Cloister's and docs/reference says so.
const (
	codeIsolation       = "InvalidNetworkIsolatedClusterConfiguration"
	codeSource          = "BootstrapArtifactSourceNotAllowed"
	codeFeature         = "PreviewFeatureNotRegistered"
	codeVersion         = "K8sVersionNotSupported"
	codeServiceCIDR     = "ServiceCidrOverlapExistingSubnetsCidr"
	codeDNSServiceIP    = "DnsServiceIpOutOfServiceCidr"
	codeInvalidCIDR     = "InvalidServiceCidr"
	codeUnsupported     = "NotSupported"
	codeIdentity        = "OnlySupportedOnUserAssignedMSICluster"
	codeRegistry        = "InvalidBootstrapContainerRegistry"
	codeOutboundType    = "UnsupportedOutboundType"
	codeSource2         = "InvalidBootstrapArtifactSource"
	codeRunDisabled     = "RunCommandDisabled"
	codeAPIServerSubnet = "ApiserverSubnetConfigError"
	codeChannel         = "InvalidNodeOSUpgradeChannel"
	blockPreviewFlag    = "Microsoft.ContainerService/NetworkIsolatedClusterPreview"
	integrationFlag     = "Microsoft.ContainerService/EnableAPIServerVnetIntegrationPreview"
	reservedRangesDoc   = "https://aka.ms/aks/cni-overview"
)

// reserved ranges that AKS refuses for Services (concepts-network-cni-overview).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.30.0.0/16"),
	netip.MustParsePrefix("172.31.0.0/16"), netip.MustParsePrefix("192.0.2.0/24"),
}

// validate applies the server's rules before anything is made; it finds the first that does not hold.
func (t service) validate(ctx context.Context, r *resourcetype.Request[Model]) error {
	m, p := r.Model, &r.Model.Properties
	n, b := p.NetworkProfile, p.BootstrapProfile

	if !slices.Contains([]string{"Direct", "Cache"}, b.ArtifactSource) {
		return armerror.New(codeSource2, "bootstrapProfile.artifactSource %q is not valid. Allowed values: 'Cache', 'Direct'.", b.ArtifactSource).WithTarget("properties.bootstrapProfile.artifactSource")
	}
	if isolated(n.OutboundType) && b.ArtifactSource != "Cache" {
		return armerror.New(codeIsolation, "When outbound type is none or block, bootstrapProfile.artifactSource must be 'Cache'").WithTarget("properties.bootstrapProfile.artifactSource")
	}
	if !strings.EqualFold(p.ServicePrincipalProfile.ClientID, "msi") {
		if b.ArtifactSource == "Cache" {
			return armerror.New(codeSource, `When feature "ServicePrincipalCluster" is enabled, bootstrapProfile.artifactSource 'Cache' is not allowed`).WithTarget("properties.bootstrapProfile.artifactSource")
		}
		return armerror.New(codeUnsupported, "Cloister runs clusters with a managed identity only; service principal clusters are not supported.").WithTarget("properties.servicePrincipalProfile")
	}
	if err := t.validateVersion(p.KubernetesVersion, r.ID.Name(), b.ArtifactSource); err != nil {
		return err
	}
	if r.Existing != nil {
		if err := t.validateUpgrade(ctx, r); err != nil {
			return err
		}
	}
	switch n.NetworkPlugin {
	case "azure":
		if n.NetworkPluginMode != "" {
			return armerror.New(codeUnsupported, "networkProfile.networkPluginMode %q is not supported by Cloister; leave it out for node subnet addressing.", n.NetworkPluginMode).WithTarget("properties.networkProfile.networkPluginMode")
		}
	case "kubenet":
		if b.ArtifactSource == "Cache" {
			return armerror.New(codeIsolation, "Network plugin kubenet is not supported when bootstrapProfile.artifactSource is 'Cache'").WithTarget("properties.networkProfile.networkPlugin")
		}
		fallthrough
	default:
		return armerror.New(codeUnsupported, "networkProfile.networkPlugin %q is not supported by Cloister; use 'azure'.", n.NetworkPlugin).WithTarget("properties.networkProfile.networkPlugin")
	}
	if err := t.validateOutbound(ctx, r); err != nil {
		return err
	}
	if n.NetworkPolicy != "none" {
		return armerror.New(codeUnsupported, "networkProfile.networkPolicy %q is not supported by this version of Cloister; use 'none'.", n.NetworkPolicy).WithTarget("properties.networkProfile.networkPolicy")
	}
	if c := p.AutoUpgradeProfile.NodeOSUpgradeChannel; b.ArtifactSource == "Cache" && c == "Unmanaged" {
		return armerror.New(codeIsolation, "Node OS upgrade channel Unmanaged is not supported when bootstrapProfile.artifactSource is 'Cache'").WithTarget("properties.autoUpgradeProfile.nodeOSUpgradeChannel")
	} else if !slices.Contains([]string{"None", "NodeImage", "SecurityPatch", "Unmanaged"}, c) {
		return armerror.New(codeChannel, "autoUpgradeProfile.nodeOSUpgradeChannel %q is not valid.", c).WithTarget("properties.autoUpgradeProfile.nodeOSUpgradeChannel")
	}
	if err := t.validateAccess(ctx, r); err != nil {
		return err
	}
	if err := validateZone(ctx, r); err != nil {
		return err
	}
	for name, addon := range p.AddonProfiles {
		if on, _ := addon["enabled"].(bool); on {
			return armerror.New(codeUnsupported, "The add-on %q is not supported by this version of Cloister.", name).WithTarget("properties.addonProfiles." + name)
		}
	}
	if err := validateService(n); err != nil {
		return err
	}
	if err := validateRegistry(ctx, r.Documents, m); err != nil {
		return err
	}
	if r.Existing == nil && len(m.Properties.AgentPoolProfiles) == 0 {
		return armerror.New(armerror.InvalidParameter, "At least one agent pool of mode System is required.").WithTarget("properties.agentPoolProfiles")
	}
	return validatePools(r)
}

func (t service) validateVersion(version, cluster, source string) error {
	if slices.Contains(t.Versions, t.resolveVersion(version)) {
		return nil
	}
	if source == "Cache" && older(version, 1, 30) {
		return armerror.New(codeIsolation, "Network isolated clusters require Kubernetes version 1.30 or later; %s was asked for", version).WithTarget("properties.kubernetesVersion")
	}
	return armerror.New(codeVersion, "Managed cluster %s is on version %s, which is not supported in this region. Please use [az aks get-versions] command to get the supported version list in this region. Supported here: %s.", cluster, version, strings.Join(t.Versions, ", ")).WithTarget("properties.kubernetesVersion")
}

func validateService(n *NetworkProfile) error {
	cidr, err := netip.ParsePrefix(n.ServiceCIDR)
	if err != nil || !cidr.Addr().Is4() || cidr.Masked() != cidr || cidr.Bits() < 12 || cidr.Bits() > 28 {
		return armerror.New(codeInvalidCIDR, "The service CIDR %q is not a valid IPv4 network of /12 to /28.", n.ServiceCIDR).WithTarget("properties.networkProfile.serviceCidr")
	}
	for _, no := range reserved {
		if no.Overlaps(cidr) {
			return armerror.New(codeInvalidCIDR, "The service CIDR %s overlaps %s, which AKS reserves. See %s.", cidr, no, reservedRangesDoc).WithTarget("properties.networkProfile.serviceCidr")
		}
	}
	dns, err := netip.ParseAddr(n.DNSServiceIP)
	if err != nil || !cidr.Contains(dns) || dns == cidr.Addr() || dns == cidr.Addr().Next() {
		return armerror.New(codeDNSServiceIP, "The DNS service IP %q must be in the service CIDR %s and neither its first nor its second address.", n.DNSServiceIP, cidr).WithTarget("properties.networkProfile.dnsServiceIP")
	}
	return nil
}

// validateRegistry checks a bring-your-own registry as far as the service does at once; that its rule,
// endpoint and roles are in order shows when nodes bootstrap, as on Azure.
func validateRegistry(ctx context.Context, docs resourcetype.Reader, m *Model) error {
	b := m.Properties.BootstrapProfile
	if b.ContainerRegistryID == "" || m.managedRegistry() {
		return nil
	}
	target := "properties.bootstrapProfile.containerRegistryId"
	if b.ArtifactSource != "Cache" {
		return armerror.New(codeIsolation, "bootstrapProfile.containerRegistryId can only be set when bootstrapProfile.artifactSource is 'Cache'").WithTarget(target)
	}
	id, err := resourceid.Parse(b.ContainerRegistryID)
	if err != nil || !id.Is("Microsoft.ContainerRegistry/registries") {
		return armerror.New(codeRegistry, "bootstrapProfile.containerRegistryId %q is not the resource ID of a container registry.", b.ContainerRegistryID).WithTarget(target)
	}
	var registry struct {
		SKU struct {
			Name string `json:"name"`
		} `json:"sku"`
	}
	switch err := docs.Get(ctx, id, &registry); {
	case errors.Is(err, resourcestore.ErrNotFound):
		return armerror.New(armerror.ResourceNotFound, "The Resource '%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", strings.TrimPrefix(id.String(), id.GroupID().String()+"/providers/"), id.ResourceGroup()).WithTarget(target)
	case err != nil:
		return err
	case registry.SKU.Name != "Premium":
		return armerror.New(codeRegistry, "The container registry %s has SKU %s; a network isolated cluster needs SKU Premium, which private endpoints require.", id.Name(), registry.SKU.Name).WithTarget(target)
	}
	return nil
}

// validatePools checks what concerns all pools of the request together; each one is its own type's to check.
func validatePools(r *resourcetype.Request[Model]) error {
	m := r.Model
	service, _ := netip.ParsePrefix(m.Properties.NetworkProfile.ServiceCIDR)
	system := r.Existing != nil
	for _, pool := range m.Properties.AgentPoolProfiles {
		if mode, _ := pool["mode"].(string); mode == "System" {
			system = true
		}
		subnet, _ := pool["vnetSubnetID"].(string)
		if r.Existing == nil && m.Memory.SubnetID == "" {
			m.Memory.SubnetID = subnet
		}
		if subnet == "" {
			if service.Overlaps(managedVNetPrefix) {
				return armerror.New(codeServiceCIDR, "The specified service CIDR %s is conflicted with an existing subnet CIDR %s", service, managedSubnetPrefix).WithTarget("properties.networkProfile.serviceCidr")
			}
		}
	}
	if !system {
		return armerror.New(armerror.InvalidParameter, "At least one agent pool of mode System is required.").WithTarget("properties.agentPoolProfiles")
	}
	return nil
}

// resolveIdentities fills in what user-assigned identities are known by, and gives a system-assigned one its principal.
func resolveIdentities(ctx context.Context, r *resourcetype.Request[Model], tenant string) error {
	m := r.Model
	i := m.Identity
	i.TenantID = tenant
	if strings.EqualFold(i.Type, "SystemAssigned") {
		i.Type, i.UserAssigned = "SystemAssigned", nil
		if r.Existing != nil && r.Existing.Identity != nil && r.Existing.Identity.PrincipalID != "" {
			i.PrincipalID = r.Existing.Identity.PrincipalID
		} else {
			i.PrincipalID = newGUID()
		}
	} else {
		i.Type, i.PrincipalID = "UserAssigned", ""
		if len(i.UserAssigned) != 1 {
			return armerror.New("InvalidUserAssignedIdentity", "identity.userAssignedIdentities must name exactly one identity.").WithTarget("identity.userAssignedIdentities")
		}
		for key := range i.UserAssigned {
			id, client, principal, err := identityOf(ctx, r.Documents, key)
			if err != nil {
				return err
			}
			i.UserAssigned = map[string]AssignedIdentity{id: {ClientID: client, PrincipalID: principal}}
		}
	}
	k, ok := m.Properties.IdentityProfile["kubeletidentity"]
	if !ok || k.ResourceID == "" {
		return nil
	}
	if i.Type != "UserAssigned" && r.Existing == nil {
		return armerror.New(codeIdentity, "Custom kubelet identity is only supported on a cluster with a user assigned control plane identity.").WithTarget("properties.identityProfile")
	}
	_, client, principal, err := identityOf(ctx, r.Documents, k.ResourceID)
	if err != nil {
		return err
	}
	m.Properties.IdentityProfile = map[string]KubeletIdentity{"kubeletidentity": {ResourceID: k.ResourceID, ClientID: client, ObjectID: principal}}
	return nil
}

func identityOf(ctx context.Context, docs resourcetype.Reader, s string) (id, client, principal string, err error) {
	parsed, err := resourceid.Parse(s)
	if err != nil || !parsed.Is("Microsoft.ManagedIdentity/userAssignedIdentities") {
		return "", "", "", armerror.New("InvalidUserAssignedIdentity", "%q is not the resource ID of a user-assigned identity.", s)
	}
	var doc struct {
		ID         string `json:"id"`
		Properties struct {
			ClientID    string `json:"clientId"`
			PrincipalID string `json:"principalId"`
		} `json:"properties"`
	}
	if err := docs.Get(ctx, parsed, &doc); errors.Is(err, resourcestore.ErrNotFound) {
		return "", "", "", armerror.New(armerror.ResourceNotFound, "The Resource 'Microsoft.ManagedIdentity/userAssignedIdentities/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", parsed.Name(), parsed.ResourceGroup())
	} else if err != nil {
		return "", "", "", err
	}
	return doc.ID, doc.Properties.ClientID, doc.Properties.PrincipalID, nil
}
