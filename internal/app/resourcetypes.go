package app

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roleassignments"
	"github.com/cloister-dev/cloister/internal/provider/authorization/roledefinitions"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/cacherules"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/privateendpointconnections"
	"github.com/cloister-dev/cloister/internal/provider/containerregistry/registries/privatelinkresources"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
	"github.com/cloister-dev/cloister/internal/provider/managedidentity/userassignedidentities"
	"github.com/cloister-dev/cloister/internal/provider/network/loadbalancers"
	"github.com/cloister-dev/cloister/internal/provider/network/natgateways"
	"github.com/cloister-dev/cloister/internal/provider/network/networkinterfaces"
	"github.com/cloister-dev/cloister/internal/provider/network/networksecuritygroups"
	"github.com/cloister-dev/cloister/internal/provider/network/networksecuritygroups/securityrules"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones/recordsets"
	"github.com/cloister-dev/cloister/internal/provider/network/privatednszones/virtualnetworklinks"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints"
	"github.com/cloister-dev/cloister/internal/provider/network/privateendpoints/privatednszonegroups"
	"github.com/cloister-dev/cloister/internal/provider/network/publicipaddresses"
	"github.com/cloister-dev/cloister/internal/provider/network/routetables"
	"github.com/cloister-dev/cloister/internal/provider/network/routetables/routes"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks/subnets"
	"github.com/cloister-dev/cloister/internal/provider/network/virtualnetworks/virtualnetworkpeerings"
	"github.com/cloister-dev/cloister/internal/provider/resources/features"
	"github.com/cloister-dev/cloister/internal/provider/resources/resourcegroups"
)

// kubernetesVersions are what nodeartifacts pins, oldest first. A create that names none gets defaultVersion: AKS's
// default is one minor behind its newest.
var kubernetesVersions = []string{"1.30.3", "1.31.0"}

const defaultVersion = "1.30.3"

// What new nodes are made from.
const (
	nodeImageVersion          = "AKSUbuntu-2204gen2containerd-202611.23.0"
	credentialProviderVersion = "1.32.3"
)

// commandImage is what az aks command invoke's pods run, by the name that AKS has it under.
const commandImage = "mcr.microsoft.com/aks/command/runtime:master.240118.1"

// resourceTypes is THE list of resource types.
func (a *API) resourceTypes(e Engines) []resourcetype.Definition {
	return slices.Concat([]resourcetype.Definition{
		resourcegroups.Type(),
		roledefinitions.Type(),
		roleassignments.Type(e.World, a.directory, a.access.roleExists),
		userassignedidentities.Type(e.World, a.instance.TenantID),
		virtualnetworks.Type(e.World),
		subnets.Type(e.World),
		virtualnetworkpeerings.Type(e.World),
		networksecuritygroups.Type(e.World, defaultRules()),
		securityrules.Type(e.World),
		networkinterfaces.Type(e.World, a.isFirstParty),
		publicipaddresses.Type(e.World),
		natgateways.Type(e.World),
		routetables.Type(e.World),
		routes.Type(e.World),
		loadbalancers.Type(e.World),
		privateendpoints.Type(e.World, a.access),
		privatednszonegroups.Type(),
		privatednszones.Type(e.World),
		virtualnetworklinks.Type(e.World),
		cacherules.Type(cacherules.Deps{World: e.World, Occupied: e.OccupiedRepositories}),
		privateendpointconnections.Type(e.World),
		privatelinkresources.Type(),
		resourcetype.DefineEndpoint(registries.CheckNameAvailability()),
		managedclusters.Type(managedclusters.Deps{ControlPlane: e.ControlPlane, World: e.World, Access: a.access, Commands: e.Commands, Versions: kubernetesVersions, DefaultVersion: defaultVersion, TenantID: a.instance.TenantID, InSteps: e.InSteps, Reports: e.Reports}),
		agentpools.Type(agentpools.Deps{
			Nodes: e.Nodes, ControlPlane: e.ControlPlane, Versions: kubernetesVersions, FirstRange: firstRange(a.instance.ID),
			NodeImageVersion: nodeImageVersion, Rootfs: e.NodeRootfs, AuthorityPEM: e.AuthorityPEM,
			TenantID: a.instance.TenantID, CredentialProviderVersion: credentialProviderVersion,
			CachedImages: func(version string) []string { return []string{controlplane.DefaultImages(version).KubeProxy} },
			AzureTiming:  e.AzureTiming, Reports: e.Reports,
		}),
	}, managedclusters.Endpoints(managedclusters.Deps{Commands: e.Commands, Versions: kubernetesVersions, DefaultVersion: defaultVersion, NodeImageVersion: nodeImageVersion}), agentpools.Endpoints(), features.Types(time.Now), recordsets.Types(e.World),
		registries.Types(registries.Deps{World: e.World, Access: a.access, Imports: e.Imports, Size: e.RegistrySize, Password: a.instance.RegistryPassword}), registries.Unsupported())
}

// firstRange spreads the nodes' user ids of installations on one machine, which do not know of each other.
func firstRange(instance string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(instance))
	return h.Sum32() % 1024
}

// defaultRules hands the rules that one type knows to the other that shows them.
func defaultRules() []networksecuritygroups.Rule {
	var out []networksecuritygroups.Rule
	for _, d := range securityrules.Defaults() {
		out = append(out, networksecuritygroups.Rule{Name: d.Name, Properties: d.Properties})
	}
	return out
}

// isFirstParty tells Cloister's own services from users.
func (a *API) isFirstParty(p resourcetype.Principal) bool {
	return strings.EqualFold(p.ObjectID, a.instance.AKS.ObjectID)
}

// roleExists reports whether a role is named by the GUID.
func (a *access) roleExists(id string) bool {
	_, ok := a.definitions[strings.ToLower(id)]
	return ok
}
