// Package managedclusters is Microsoft.ContainerService/managedClusters: AKS clusters. Everything that
// AKS makes for a cluster in the node resource group it makes as ARM resources, as the first-party
// principal of the service, and the cluster stands on those; the hosted control plane is the engine's.
//
// Written after https://learn.microsoft.com/rest/api/aks/managed-clusters, recorded answers of the
// service and "Network isolated AKS clusters" of its documentation.
package managedclusters

import (
	"context"
	"encoding/json"
	"net/netip"
	"regexp"
	"sync"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/operationreport"
)

// Name is the resource type.
const Name = "Microsoft.ContainerService/managedClusters"

const poolType = Name + "/agentPools"

// Cluster is what the control plane engine is told of a cluster.
type Cluster struct {
	ID                string     // Memory.ClusterID
	KubernetesVersion string     // what is to run, 1.30.3
	EndpointAddress   netip.Addr // where nodes and pods find the API server
	PublicAddress     netip.Addr // its address on the Internet; invalid for a private cluster
	Direct            bool       // it has an interface in the VNet, with EndpointAddress
	FQDN              string
	PrivateFQDN       string
	ServiceCIDR       netip.Prefix
	DNSServiceIP      netip.Addr
	PodCIDRs          []netip.Prefix
	Nodes             int // nodes expected, for the number of replicas of what AKS runs in kube-system
}

// ControlPlane runs hosted control planes.
type ControlPlane interface {
	// Start starts the cluster's control plane, without waiting for it; from then on there is what its nodes
	// need to join. It is called again with the same cluster without harm.
	Start(ctx context.Context, c Cluster) error
	// Ready returns when the API server is ready and what AKS runs in kube-system is declared.
	Ready(ctx context.Context, id string) error
	// SystemReady returns when every pod of kube-system is Ready, but for metrics-server, which needs two scrapes.
	SystemReady(ctx context.Context, id string) error
	// Stop ends the control plane and keeps its data. It stays stopped until the next Start.
	Stop(ctx context.Context, id string) error
	// Remove ends the control plane and deletes its data. Nothing there is no error.
	Remove(ctx context.Context, id string) error
	// Kubeconfig is a kubeconfig for the server URL, with the names that az gives things in it.
	Kubeconfig(ctx context.Context, id, server, group, name string, admin bool) ([]byte, error)
}

// World is what the documents describe.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Access answers role questions.
type Access interface {
	// Allowed tells whether the principal may do the role action on the scope.
	Allowed(ctx context.Context, principal resourcetype.Principal, action string, scope resourceid.ID) (bool, error)
}

// Deps are what the type is made of.
type Deps struct {
	ControlPlane ControlPlane
	World        World
	Access       Access
	Commands     Commands
	// Versions are the Kubernetes versions there are, oldest first; DefaultVersion is what a create that names none gets.
	Versions       []string
	DefaultVersion string
	// NodeImageVersion names the newest node image.
	NodeImageVersion string
	TenantID         string
	// InSteps tells whether a cluster is isolated in steps only, as on Azure since 2026, and not by one update of
	// its artifact source and its outbound type.
	InSteps func() (bool, error)
	// Reports is what operations tell along with how they ended.
	Reports operationreport.Source
}

type service struct {
	Deps
	// choosing is held from looking for a free public address until it is stored: clusters are made at the same time.
	choosing *sync.Mutex
}

var nameRule = regexp.MustCompile(`^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$`)

// Type returns the resource type.
func Type(d Deps) resourcetype.Definition {
	t := service{d, new(sync.Mutex)}
	return resourcetype.Define(resourcetype.Spec[Model]{
		Name:        Name,
		DisplayType: "Microsoft.ContainerService/ManagedClusters",
		Placement:   resourcetype.Regional,
		NameRule:    nameRule,
		NameCode:    "InvalidParameter",
		NameMessage: "The value of parameter name is invalid. The length must be between 1 and 63 and the only allowed characters are letters, numbers, dash and underscore; the first and last character must be a letter or a number. Please see https://aka.ms/aks-naming-rules for more details.",
		BusyCode:    "OperationNotAllowed",
		Prepare:     t.prepare,
		References:  references,
		Render:      render,
		Reconcile:   t.reconcile,
		Actions: map[string]resourcetype.Action[Model]{
			"listClusterAdminCredential": {Handle: t.credential("clusterAdmin", true)},
			"listClusterUserCredential":  {Handle: t.credential("clusterUser", false)},
			"runCommand":                 {Handle: t.runCommand},
			"stop":                       {Handle: t.stop},
			"start":                      {Handle: t.start},
		},
	})
}

// references are what wakes a cluster: the bootstrap registry, the subnet, its identities, and what was made for it.
func references(m *Model) []resourcetype.Reference {
	var out []resourcetype.Reference
	add := func(property, id, linked string) {
		if parsed, err := resourceid.Parse(id); err == nil && id != "" {
			out = append(out, resourcetype.Reference{Property: property, ID: parsed, Linked: linked})
		}
	}
	if b := m.Properties.BootstrapProfile; b != nil {
		add("properties.bootstrapProfile.containerRegistryId", b.ContainerRegistryID, "")
	}
	for _, k := range m.Properties.IdentityProfile {
		add("properties.identityProfile", k.ResourceID, "")
	}
	if m.Identity != nil {
		for id := range m.Identity.UserAssigned {
			add("identity.userAssignedIdentities", id, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action")
		}
	}
	id, err := resourceid.Parse(m.ID)
	if err != nil || m.ID == "" || m.Memory == nil {
		return out
	}
	group := nodeGroup(id, m)
	if subnet, err := resourceid.Parse(m.Memory.SubnetID); err == nil && m.Memory.SubnetID != "" && !group.Contains(subnet) {
		add("properties.agentPoolProfiles.vnetSubnetID", subnet.String(), "Microsoft.Network/virtualNetworks/subnets/join/action")
	}
	if a := m.Properties.APIServerAccessProfile; a != nil && a.SubnetID != "" {
		if subnet, err := resourceid.Parse(a.SubnetID); err == nil && !group.Contains(subnet) {
			add(accessPath+"subnetId", a.SubnetID, joinSubnet)
		}
	}
	for _, made := range []resourceid.ID{
		group,
		group.Resource("Microsoft.Network/networkSecurityGroups", "aks-agentpool-"+m.Memory.Suffix+"-nsg"),
		group.Resource("Microsoft.Network/virtualNetworks", "aks-vnet-"+m.Memory.Suffix),
		group.Resource("Microsoft.Network/virtualNetworks/subnets", "aks-vnet-"+m.Memory.Suffix, "aks-subnet"),
		group.Resource("Microsoft.Network/virtualNetworks/subnets", "aks-vnet-"+m.Memory.Suffix, "aks-apiserver-subnet"),
		group.Resource("Microsoft.Network/loadBalancers", apiServerName),
		group.Resource("Microsoft.Network/privateEndpoints", apiServerName),
		group.Resource("Microsoft.Network/privateEndpoints", "aks-bootstrap-acr-"+m.Memory.Suffix),
		group.Resource("Microsoft.ManagedIdentity/userAssignedIdentities", id.Name()+"-agentpool"),
	} {
		add("cloister", made.String(), "")
	}
	zones := []string{"privatelink.azurecr.io"}
	if own := m.ownZone(); own.IsZero() {
		zones = append(zones, zoneOf(m.Properties.PrivateFQDN))
	} else {
		add(zoneTarget, own.String(), "")
		if subnet, err := resourceid.Parse(m.Memory.SubnetID); err == nil && m.Memory.SubnetID != "" {
			vnet, _ := subnet.Parent()
			add("cloister", own.Child("virtualNetworkLinks", linkName(vnet)).String(), "")
		}
	}
	for _, zone := range zones {
		if zone == "" {
			continue
		}
		z := group.Resource("Microsoft.Network/privateDnsZones", zone)
		add("cloister", z.String(), "")
		add("cloister", z.Child("virtualNetworkLinks", "aks-"+m.Memory.Suffix).String(), "")
	}
	for _, pool := range m.Memory.RegistryPools {
		add("cloister", id.Child("agentPools", pool).String(), "")
	}
	if m.Memory.ManagedRegistry != "" {
		registry := managedRegistryID(id, m)
		add("cloister", registry.String(), "")
		add("cloister", registry.Child("cacheRules", "aks-managed-mcr").String(), "")
	}
	return out
}

// render shows the agent pools inline, from their own documents.
func render(ctx context.Context, v *resourcetype.View[Model]) error {
	pools, err := v.Documents.List(ctx, v.ID, poolType)
	if err != nil {
		return err
	}
	v.Model.Properties.AgentPoolProfiles = make([]map[string]any, 0, len(pools))
	for _, p := range pools {
		var doc struct {
			Name       string         `json:"name"`
			Properties map[string]any `json:"properties"`
		}
		if err := json.Unmarshal(p.Body, &doc); err != nil {
			return err
		}
		if doc.Properties == nil {
			doc.Properties = map[string]any{}
		}
		doc.Properties["name"] = doc.Name
		v.Model.Properties.AgentPoolProfiles = append(v.Model.Properties.AgentPoolProfiles, doc.Properties)
	}
	return nil
}

// credential answers with a kubeconfig, named as the service names it.
func (t service) credential(name string, admin bool) func(context.Context, *resourcetype.ActionRequest[Model]) (any, error) {
	return func(ctx context.Context, r *resourcetype.ActionRequest[Model]) (any, error) {
		m := r.Model
		if off := m.Properties.DisableLocalAccounts; off != nil && *off {
			return nil, armerror.New("BadRequest", "Getting static credential is not allowed because this cluster is set to disable local accounts.")
		}
		host := m.Properties.FQDN
		if f := r.Query["server-fqdn"]; m.isPrivate() && (len(f) == 0 || f[0] != "public") {
			host = or(m.Properties.PrivateFQDN, host)
		}
		config, err := t.ControlPlane.Kubeconfig(ctx, m.Memory.ClusterID, "https://"+host+":443", r.ID.ResourceGroup(), r.ID.Name(), admin)
		if err != nil {
			return nil, err
		}
		return map[string]any{"kubeconfigs": []map[string]any{{"name": name, "value": config}}}, nil
	}
}
