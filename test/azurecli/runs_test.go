package azurecli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/test/page"
)

// runs are the ways through the page.
var runs = []run{
	{"managed", steps(group, before, section(page.ManagedCreate), section(page.Validate), isolated("none"), managedRegistry, section(page.Disable), connected, noRegistry)},
	{"managed-update", steps(group, before, typed(existing), connected, section(page.ManagedUpdate), section(page.Validate), isolated("none"), managedRegistry)},
	{"managed-block", steps(group, before, section(page.ManagedCreate, "--outbound-type none", "--outbound-type block"), section(page.Validate), isolated("block"), managedRegistry)},
	{"managed-integration", steps(group, before, integration, section(page.ManagedIntegration), section(page.Validate), isolated("none"), managedRegistry)},
	{"byo", steps(before, byo(), section(page.BYOCreate), section(page.Validate), isolated("none"), ownRegistry, another(), isolated("none"), ownRegistry, oldRegistryGoes)},
	{"byo-update", steps(before, section(page.BYONetwork), typed(existing+" --vnet-subnet-id ${SUBNET_ID}"), connected,
		section(page.BYORegistry), section(page.BYOEndpoint), section(page.BYONames),
		typed("KUBELET_IDENTITY_PRINCIPAL_ID=$(az aks show --resource-group ${RESOURCE_GROUP} --name ${AKS_NAME} --query identityProfile.kubeletidentity.objectId --output tsv)"),
		part(page.BYOIdentities, "az role assignment create"), section(page.BYOUpdate), section(page.Validate), isolated("none"), ownRegistry)},
	{"byo-integration", steps(before, integration, byo(), section(page.BYOIntegration), section(page.Validate), isolated("none"), ownRegistry)},
}

// existing makes the cluster that the page takes for granted where it updates one. Its API server is private, as every
// network isolated cluster's must be: without a way out no node would reach another.
const existing = "az aks create --resource-group ${RESOURCE_GROUP} --name ${AKS_NAME} --kubernetes-version 1.30.3 --network-plugin azure --enable-private-cluster"

func steps(all ...[]step) []step { return slices.Concat(all...) }

func section(name string, replace ...string) []step {
	return []step{{section: name, replace: replace}}
}

// part is those commands of a section that begin so.
func part(name, only string) []step { return []step{{section: name, only: only}} }

// typed types what the page asks for in words only.
func typed(line string) []step {
	return []step{{do: func(s *session) { s.typed(line) }}}
}

// group makes the resource group, which the page has already where it begins with a cluster.
var group = typed("az group create --name ${RESOURCE_GROUP} --location ${LOCATION}")

var before = section(page.BeforeYouBegin)

// integration is what the page's note asks for with API Server VNet Integration: the same again for another feature.
var integration = section(page.BeforeYouBegin, "NetworkIsolatedClusterPreview", "EnableAPIServerVnetIntegrationPreview")

func byo() []step {
	return steps(section(page.BYONetwork), section(page.BYORegistry), section(page.BYOEndpoint), section(page.BYONames), section(page.BYOIdentities))
}

// shown is what the run's cluster is by `az aks show`: the page's own way to validate.
func (s *session) shown() (outboundType, artifactSource, registryID string) {
	s.t.Helper()
	var doc struct {
		NetworkProfile   struct{ OutboundType string }
		BootstrapProfile struct{ ArtifactSource, ContainerRegistryID string }
	}
	text := s.typed("az aks show --resource-group ${RESOURCE_GROUP} --name ${AKS_NAME} --output json 2>/dev/null")
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		s.t.Fatalf("az aks show: %v\n%s", err, text)
	}
	return doc.NetworkProfile.OutboundType, doc.BootstrapProfile.ArtifactSource, doc.BootstrapProfile.ContainerRegistryID
}

// ready looks at the cluster from inside its network: three nodes of the page's version, and every system pod runs.
func (s *session) ready() {
	s.t.Helper()
	lines := strings.Fields(s.kubectl("get", "nodes", "-o", `jsonpath={range .items[*]}{.status.nodeInfo.kubeletVersion}/{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`))
	if !slices.Equal(lines, []string{"v1.30.3/True", "v1.30.3/True", "v1.30.3/True"}) {
		s.t.Errorf("nodes: %v", lines)
	}
	s.kubectl("wait", "-n", "kube-system", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
}

// isolated holds the cluster to what the page promises: it works, and no packet of it arrives outside.
func isolated(outboundType string) []step {
	return []step{{do: func(s *session) {
		if outbound, source, _ := s.shown(); outbound != outboundType || source != "Cache" {
			s.t.Errorf("the cluster is %s, %s", outbound, source)
		}
		s.ready()
		mark := s.packets()
		if answered, tries := s.reach(); answered > 0 || tries == 0 {
			s.t.Errorf("%d of %d tries from the nodes were answered", answered, tries)
		}
		if now := s.packets(); now != mark {
			s.t.Errorf("%d packets got out", now-mark)
		}
	}}}
}

// connected is what a cluster is that nobody has isolated: every node reaches the parties outside.
var connected = []step{{do: func(s *session) {
	if outbound, source, _ := s.shown(); outbound != "loadBalancer" || source != "Direct" {
		s.t.Errorf("the cluster is %s, %s", outbound, source)
	}
	s.ready()
	if answered, tries := s.reach(); answered != tries {
		s.t.Errorf("%d of %d tries from the nodes were answered", answered, tries)
	}
	s.pulls("mcr.microsoft.com")
}}}

// pulls runs the sample application on new nodes and old; its image must come from the registry.
func (s *session) pulls(host string) {
	s.t.Helper()
	process := "registry"
	if host == "mcr.microsoft.com" {
		process = "public"
	} else if got := s.registryOfNodes(); got != host {
		s.t.Errorf("the nodes were provisioned with %q, want %q", got, host)
	}
	before := s.served(process, host)
	s.applications++
	name := fmt.Sprintf("web-%d", s.applications)
	s.kubectl("run", name, "--image=mcr.microsoft.com/azuredocs/aks-helloworld:v1", "--image-pull-policy=Always")
	s.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=90s")
	if s.served(process, host) == before {
		s.t.Errorf("%s has not served the image that %s runs", host, name)
	}
}

// noRegistry looks for the managed registry, which goes with the last that used it.
var noRegistry = []step{{do: func(s *session) {
	if left := s.typed("az acr list --query [].name --output tsv 2>/dev/null"); left != "" {
		s.t.Errorf("registries are left: %s", left)
	}
}}}

// another makes a second registry as the page makes one, and has the cluster use it.
func another() []step {
	return steps(
		[]step{{do: func(s *session) { s.set("REGISTRY_NAME", s.vars["REGISTRY_NAME"]+"2") }}},
		section(page.BYORegistry), section(page.BYOEndpoint, "myPrivateEndpoint", "myPrivateEndpoint2", "myConnection", "myConnection2"),
		part(page.BYONames, "az network private-dns record-set"), part(page.BYOIdentities, "az role assignment create"),
		section(page.RegistryID, "<New BYO ACR resource ID>", "${REGISTRY_ID}"),
	)
}

// oldRegistryGoes deletes the first registry: nothing needs it any more.
var oldRegistryGoes = []step{{do: func(s *session) {
	name := s.vars["REGISTRY_NAME"]
	s.typed("az acr delete --resource-group ${RESOURCE_GROUP} --yes --name " + name[:len(name)-1])
	s.pulls(s.login(name))
}}}

// managedRegistry looks for the registry that AKS made in the node resource group.
var managedRegistry = []step{{do: func(s *session) {
	_, _, id := s.shown()
	if !strings.Contains(strings.ToLower(id), "/resourcegroups/mc_"+s.vars["RESOURCE_GROUP"]+"_"+s.vars["AKS_NAME"]+"_eastus/") {
		s.t.Errorf("the registry is not of the node resource group: %s", id)
	}
	s.pulls(s.login(id[strings.LastIndex(id, "/")+1:]))
}}}

// ownRegistry holds the cluster to the user's.
var ownRegistry = []step{{do: func(s *session) {
	_, _, id := s.shown()
	if !strings.HasSuffix(id, "/"+s.vars["REGISTRY_NAME"]) {
		s.t.Errorf("the registry is %s", id)
	}
	s.pulls(s.login(s.vars["REGISTRY_NAME"]))
}}}
