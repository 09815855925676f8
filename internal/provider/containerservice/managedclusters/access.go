package managedclusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/subnetuse"
)

// Ways to the API server. A private cluster has a private endpoint in the nodes' subnet, unless VNet integration
// gives the API server itself an address in a subnet of its own, which is delegated to AKS. A cluster that is not
// private has an address on the Internet besides.

const (
	subnetType  = "Microsoft.Network/virtualNetworks/subnets"
	accessPath  = "properties.apiServerAccessProfile."
	joinSubnet  = subnetType + "/join/action"
	writeSubnet = subnetType + "/write"
	assignID    = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
)

// The API server's subnet in a VNet that AKS makes: the smallest that VNet integration can do with.
var managedAPIServerPrefix = netip.MustParsePrefix("10.226.0.0/28")

// publicAddresses is where API servers have their addresses on the Internet, which is the namespace `public`.
var publicAddresses = netip.MustParsePrefix("198.18.16.0/20")

func (m *Model) isPrivate() bool {
	p := m.Properties.APIServerAccessProfile
	return p != nil && isTrue(p.EnablePrivateCluster)
}

func (m *Model) isIntegrated() bool {
	p := m.Properties.APIServerAccessProfile
	return p != nil && isTrue(p.EnableVnetIntegration)
}

func (m *Model) isPrivateLink() bool { return m.isPrivate() && !m.isIntegrated() }

// inventPrivateName gives a private cluster the name that it has in its private zone.
func inventPrivateName(m *Model) {
	p := &m.Properties
	if !m.isPrivate() || p.PrivateFQDN != "" || m.noZone() {
		return
	}
	kind := "privatelink"
	if m.isIntegrated() {
		kind = "private"
	}
	first, zone := p.FQDNSubdomain, fmt.Sprintf("%s.%s.%s.azmk8s.io", m.Memory.ZoneGUID, kind, m.Location)
	if first == "" {
		first = p.DNSPrefix + "-" + randomAlnum(8)
	}
	if own := m.ownZone(); !own.IsZero() {
		zone = own.Name()
	}
	p.PrivateFQDN = strings.ToLower(first + "." + zone)
	p.AzurePortalFQDN = fmt.Sprintf("%s-priv.portal.hcp.%s.azmk8s.io", randomHex(16), m.Location)
}

// keepAccess refuses to change what stays for life. With VNet integration a cluster can be private or not at any time.
func keepAccess(m, old *Model) error {
	refuse := func(property string) error {
		return armerror.New(armerror.PropertyChangeNotAllowed, "Changing property 'apiServerAccessProfile.%s' is not allowed.", property).WithTarget(accessPath + property)
	}
	switch {
	case old.isIntegrated() && !m.isIntegrated():
		return refuse("enableVnetIntegration")
	case !old.isIntegrated() && old.isPrivate() != m.isPrivate():
		return refuse("enablePrivateCluster") // integration comes first
	case old.isIntegrated():
		a, was := m.Properties.APIServerAccessProfile, old.Properties.APIServerAccessProfile
		if a.SubnetID = or(a.SubnetID, was.SubnetID); !strings.EqualFold(a.SubnetID, was.SubnetID) {
			return refuse("subnetId")
		}
	}
	return keepZone(m, old)
}

// validateAccess checks how the API server is to be reached.
func (t service) validateAccess(ctx context.Context, r *resourcetype.Request[Model]) error {
	m := r.Model
	a := m.Properties.APIServerAccessProfile
	if a == nil {
		return nil
	}
	switch {
	case m.isPrivate() && len(a.AuthorizedIPRanges) > 0:
		return armerror.New(codeUnsupported, "apiServerAccessProfile.authorizedIPRanges cannot be set on a private cluster.").WithTarget(accessPath + "authorizedIPRanges")
	case !m.isIntegrated() && a.SubnetID != "":
		return armerror.New(armerror.InvalidParameter, "apiServerAccessProfile.subnetId can only be set with apiServerAccessProfile.enableVnetIntegration.").WithTarget(accessPath + "subnetId")
	}
	for i, s := range a.AuthorizedIPRanges {
		_, err := netip.ParsePrefix(s)
		address, err2 := netip.ParseAddr(s)
		if err != nil && err2 != nil || strings.Contains(s, ":") || address.Is6() {
			return armerror.New("InvalidAuthorizedIPRanges", "The authorized IP range %q is neither an IPv4 address nor an IPv4 network in CIDR notation.", s).WithTarget(fmt.Sprintf("%sauthorizedIPRanges[%d]", accessPath, i))
		}
	}
	if m.isIntegrated() && (r.Existing == nil || !r.Existing.isIntegrated()) {
		return t.validateIntegration(ctx, r)
	}
	return nil
}

// subnetView is what AKS needs to know of a subnet.
type subnetView struct {
	Properties struct {
		AddressPrefix   string   `json:"addressPrefix"`
		AddressPrefixes []string `json:"addressPrefixes"`
		Delegations     []struct {
			Properties struct {
				ServiceName string `json:"serviceName"`
			} `json:"properties"`
		} `json:"delegations"`
	} `json:"properties"`
}

func (s subnetView) prefixes() (out []netip.Prefix) {
	for _, text := range append(slices.Clone(s.Properties.AddressPrefixes), s.Properties.AddressPrefix) {
		if p, err := netip.ParsePrefix(text); err == nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func (s subnetView) delegated() bool {
	for _, d := range s.Properties.Delegations {
		if strings.EqualFold(d.Properties.ServiceName, Name) {
			return true
		}
	}
	return false
}

// validateIntegration checks the API server's subnet: in the nodes' VNet, not the nodes', large enough, and nobody else's.
func (t service) validateIntegration(ctx context.Context, r *resourcetype.Request[Model]) error {
	m := r.Model
	a := m.Properties.APIServerAccessProfile
	if err := requireFeature(ctx, r.Documents, r.ID.Subscription(), integrationFlag, accessPath+"enableVnetIntegration"); err != nil {
		return err
	}
	refuse := func(code, format string, args ...any) error {
		return armerror.New(code, format, args...).WithTarget(accessPath + "subnetId")
	}
	nodes := ""
	if own, err := resourceid.Parse(m.Memory.SubnetID); err == nil && m.Memory.SubnetID != "" && !nodeGroup(r.ID, m).Contains(own) {
		nodes = m.Memory.SubnetID
	}
	for _, pool := range m.Properties.AgentPoolProfiles {
		if s, _ := pool["vnetSubnetID"].(string); s != "" {
			nodes = s
			break
		}
	}
	switch {
	case nodes == "" && a.SubnetID == "":
		return nil // AKS makes both
	case nodes == "":
		return refuse(codeAPIServerSubnet, "apiServerAccessProfile.subnetId can only be set when the agent pools have a subnet of their own (vnetSubnetID).")
	case a.SubnetID == "":
		return refuse(codeAPIServerSubnet, "apiServerAccessProfile.subnetId is required for API Server VNet Integration when the agent pools have a subnet of their own (vnetSubnetID).")
	}
	id, err := resourceid.Parse(a.SubnetID)
	if err != nil || !id.Is(subnetType) {
		return refuse(codeAPIServerSubnet, "apiServerAccessProfile.subnetId %q is not the resource ID of a subnet.", a.SubnetID)
	}
	var subnet subnetView
	if err := r.Documents.Get(ctx, id, &subnet); errors.Is(err, resourcestore.ErrNotFound) {
		return refuse("SubnetNotFound", "The subnet %s of apiServerAccessProfile.subnetId was not found.", id)
	} else if err != nil {
		return fmt.Errorf("read the API server's subnet: %w", err)
	}
	vnet, _ := id.Parent()
	if of, err := resourceid.Parse(nodes); err == nil && !vnet.Contains(of) {
		return refuse(codeAPIServerSubnet, "The API server's subnet %s is not in the virtual network of the agent pools.", id)
	} else if err == nil && id.Equal(of) {
		return refuse(codeAPIServerSubnet, "The subnet %s cannot be both the API server's and an agent pool's.", id)
	}
	for _, p := range subnet.prefixes() {
		if p.Bits() > 28 {
			return refuse(codeAPIServerSubnet, "The API server's subnet %s has the address prefix %s; it must be /28 or larger.", id, p)
		}
	}
	uses, err := subnetuse.Of(ctx, r.Documents, id)
	if err != nil {
		return err
	}
	for _, u := range uses {
		own, err := t.apiServersOwn(ctx, r.Documents, u.Owner)
		if err != nil {
			return err
		}
		if !own {
			return refuse(codeAPIServerSubnet, "The API server's subnet %s is in use by %s; it must not hold anything but API servers.", id, u.Owner)
		}
	}
	return nil
}

// apiServersOwn reports whether what has an address is the API server of some cluster: they may share a subnet.
func (t service) apiServersOwn(ctx context.Context, docs resourcetype.Reader, owner resourceid.ID) (bool, error) {
	if !strings.EqualFold(owner.Name(), apiServerName) {
		return false, nil
	}
	clusters, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return false, err
	}
	for _, c := range clusters {
		var m Model
		if err := json.Unmarshal(c.Body, &m); err != nil {
			return false, fmt.Errorf("read %s: %w", c.ID, err)
		}
		if nodeGroup(c.ID, &m).Contains(owner) {
			return true, nil
		}
	}
	return false, nil
}

// authorizeIdentity checks that the cluster's identity may do what AKS does as it: put the API server into the user's
// subnet, and hand the kubelet identity to nodes.
func (t service) authorizeIdentity(ctx context.Context, r *resourcetype.Request[Model]) error {
	m := r.Model
	who := resourcetype.Principal{ObjectID: m.Identity.PrincipalID, TenantID: t.TenantID}
	for _, i := range m.Identity.UserAssigned {
		who.ObjectID, who.AppID = i.PrincipalID, i.ClientID
	}
	// A kubelet identity that AKS has made is AKS's to hand out.
	if k := m.kubeletIdentity(); k.ResourceID != "" && len(m.Identity.UserAssigned) > 0 && !nodeGroup(r.ID, m).Contains(resourceid.MustParse(k.ResourceID)) {
		ok, err := t.Access.Allowed(ctx, who, assignID, resourceid.MustParse(k.ResourceID))
		if err != nil {
			return err
		}
		if !ok {
			return armerror.New("CustomKubeletIdentityMissingPermissionError", "The cluster using user-assigned managed identity must be granted 'Managed Identity Operator' role to assign kubelet identity. You can run 'az role assignment create --assignee %s --role 'Managed Identity Operator' --scope %s' to grant the permission. See https://learn.microsoft.com/en-us/azure/aks/use-managed-identity#add-role-assignment", who.ObjectID, k.ResourceID).WithTarget("properties.identityProfile")
		}
	}
	if err := t.authorizeZone(ctx, r, who); err != nil {
		return err
	}
	a := m.Properties.APIServerAccessProfile
	if !m.isIntegrated() || a.SubnetID == "" {
		return nil
	}
	subnet := resourceid.MustParse(a.SubnetID)
	if nodeGroup(r.ID, m).Contains(subnet) {
		return nil
	}
	var missing []string
	for _, action := range []string{joinSubnet, writeSubnet} { // to write is to delegate
		ok, err := t.Access.Allowed(ctx, who, action, subnet)
		if err != nil {
			return err
		}
		if !ok {
			missing = append(missing, action)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	scopes := slices.Repeat([]string{subnet.String()}, len(missing))
	return armerror.New(armerror.LinkedAuthorizationFailed,
		"The client '%s' with object id '%s' has permission to perform action '%s/write' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s' (respectively) or the linked scope(s) are invalid. Give the cluster's identity the role Network Contributor on the API server's subnet.",
		or(who.AppID, who.ObjectID), who.ObjectID, Name, r.ID, strings.Join(missing, ","), strings.Join(scopes, ",")).WithTarget(accessPath + "subnetId")
}

// apiServerName is the name of what has the API server's address in the VNet.
const apiServerName = "kube-apiserver"

// reach makes the ways to the API server. It returns false while some are still being made.
func (t service) reach(b *builder, r *resourcetype.Reconciliation[Model], group, subnet, vnet resourceid.ID) (done bool, err error) {
	m := r.Model
	switch {
	case m.isIntegrated():
		if done, err = t.integrate(b, r, group, vnet); err == nil && done {
			// A cluster that got it later had private link until now: its names lead to the new address.
			done, err = b.client.Delete(b.ctx, group.Resource("Microsoft.Network/privateEndpoints", apiServerName))
		}
	case m.isPrivate():
		done, err = t.privateLink(b, r, group, subnet)
	default:
		done, err = true, nil
	}
	if err != nil || !done {
		return false, err
	}
	if m.isPrivate() {
		if t.giveName(b, m, group, vnet); b.err != nil || len(b.pending) > 0 {
			return false, b.err
		}
	} else if err := t.publish(b.ctx, r); err != nil {
		return false, err
	}
	if m.isPrivateLink() && !m.noZone() {
		return true, nil
	}
	// No document of another type says what changed: the cluster's own does.
	if err := r.Save(b.ctx); err != nil {
		return false, err
	}
	return true, t.World.Sync(b.ctx)
}

// privateLink makes the private endpoint in the nodes' subnet.
func (t service) privateLink(b *builder, r *resourcetype.Reconciliation[Model], group, subnet resourceid.ID) (bool, error) {
	endpoint := group.Resource("Microsoft.Network/privateEndpoints", apiServerName)
	b.put(endpoint, networkAPI, privateEndpoint(r.Model.Location, subnet, apiServerName, r.ID, "management"))
	if b.err != nil || len(b.pending) > 0 {
		return false, b.err
	}
	addresses, err := endpointAddresses(b.ctx, b.client, endpoint)
	if err != nil {
		return false, err
	}
	for _, a := range addresses {
		r.Model.Memory.EndpointAddress = a
	}
	if r.Model.Memory.EndpointAddress == "" {
		return false, fmt.Errorf("private endpoint %s has no address", endpoint)
	}
	return true, nil
}

// integrate gives the API server an address in its subnet, which is AKS's own in a VNet that AKS made, and delegates the
// user's.
func (t service) integrate(b *builder, r *resourcetype.Reconciliation[Model], group, vnet resourceid.ID) (bool, error) {
	m := r.Model
	a := m.Properties.APIServerAccessProfile
	subnet := vnet.Child("subnets", "aks-apiserver-subnet")
	if a.SubnetID != "" {
		subnet = resourceid.MustParse(a.SubnetID)
	}
	if group.Contains(subnet) {
		b.put(subnet, networkAPI, object{"properties": object{
			"addressPrefix": managedAPIServerPrefix.String(), "defaultOutboundAccess": false,
			"privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled",
			"delegations": []object{delegation()},
		}})
	} else if err := delegate(b, subnet); err != nil {
		return false, err
	}
	if b.err != nil || len(b.pending) > 0 {
		return false, b.err
	}
	a.SubnetID = subnet.String()
	address, err := t.apiServerAddress(b, group, m.Location, subnet)
	if err != nil || address == "" {
		return false, err
	}
	m.Memory.EndpointAddress = address
	return true, nil
}

// apiServerAddress makes the internal load balancer whose frontend is the API server's address, and reads it; "" while it
// is being made.
func (t service) apiServerAddress(b *builder, group resourceid.ID, location string, subnet resourceid.ID) (string, error) {
	balancer := group.Resource("Microsoft.Network/loadBalancers", apiServerName)
	b.put(balancer, networkAPI, object{"location": location, "sku": object{"name": "Standard"}, "properties": object{"frontendIPConfigurations": []object{{
		"name": apiServerName + "-frontend", "properties": object{"subnet": object{"id": subnet.String()}, "privateIPAllocationMethod": "Dynamic"},
	}}}})
	if b.err != nil || len(b.pending) > 0 {
		return "", b.err
	}
	var doc struct {
		Properties struct {
			Frontends []struct {
				Properties struct {
					PrivateIPAddress string `json:"privateIPAddress"`
				} `json:"properties"`
			} `json:"frontendIPConfigurations"`
		} `json:"properties"`
	}
	if err := b.client.Get(b.ctx, balancer, &doc); err != nil {
		return "", fmt.Errorf("read %s: %w", balancer, err)
	}
	if len(doc.Properties.Frontends) == 0 {
		return "", fmt.Errorf("load balancer %s has no frontend", balancer)
	}
	return doc.Properties.Frontends[0].Properties.PrivateIPAddress, nil
}

func delegation() object {
	return object{"name": "aks-delegation", "properties": object{"serviceName": Name}}
}

// delegate gives the user's subnet to AKS, as the walkthrough has it: its subnet is made without. What else the subnet
// is stays, for a PUT replaces.
func delegate(b *builder, subnet resourceid.ID) error {
	var view subnetView
	var doc struct {
		Properties object `json:"properties"`
	}
	if err := b.client.Get(b.ctx, subnet, &view); err != nil {
		return fmt.Errorf("read the API server's subnet: %w", err)
	}
	if view.delegated() {
		return nil
	}
	if err := b.client.Get(b.ctx, subnet, &doc); err != nil {
		return fmt.Errorf("read the API server's subnet: %w", err)
	}
	list, _ := doc.Properties["delegations"].([]any)
	doc.Properties["delegations"] = append(list, delegation())
	delete(doc.Properties, "provisioningState")
	b.put(subnet, networkAPI, object{"properties": doc.Properties})
	return nil
}

// publish chooses the cluster's address on the Internet, and writes it down before anything has it.
func (t service) publish(ctx context.Context, r *resourcetype.Reconciliation[Model]) error {
	if r.Model.Memory.PublicAddress != "" {
		return nil
	}
	t.choosing.Lock()
	defer t.choosing.Unlock()
	clusters, err := r.Client.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return fmt.Errorf("list the clusters: %w", err)
	}
	taken := map[string]bool{}
	for _, c := range clusters {
		var other struct {
			Memory struct {
				PublicAddress string `json:"publicAddress"`
			} `json:"cloister"`
		}
		if err := json.Unmarshal(c.Body, &other); err != nil {
			return fmt.Errorf("read %s: %w", c.ID, err)
		}
		taken[other.Memory.PublicAddress] = true
	}
	for a := publicAddresses.Addr().Next(); publicAddresses.Contains(a.Next()); a = a.Next() {
		if !taken[a.String()] {
			r.Model.Memory.PublicAddress = a.String()
			return r.Save(ctx)
		}
	}
	return armerror.New("PublicIPCountLimitReached", "All %d public addresses for API servers are in use.", 1<<(32-publicAddresses.Bits())-2)
}
