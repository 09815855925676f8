package projection

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/app/vnetservices"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

var update = flag.Bool("update", false, "write testdata from what is projected now")

const (
	group = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/"
	net   = group + "Microsoft.Network/"
	acr   = group + "Microsoft.ContainerRegistry/registries/"
	aks   = group + "Microsoft.ContainerService/managedClusters/"

	kubelet = group + "Microsoft.ManagedIdentity/userAssignedIdentities/kubelet"
)

// set is documents by ID.
type set map[string]string

func (s set) with(others ...set) set {
	out := set{}
	for _, m := range append([]set{s}, others...) {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func (s set) without(ids ...string) set {
	out := s.with()
	for _, id := range ids {
		delete(out, id)
	}
	return out
}

func (s set) input(deleting ...string) Input {
	in := Input{
		Layout: layout.New("/data", "/cache", "abc123"), TenantID: "tenant",
		Access: func(id resourceid.ID) map[string][]string {
			return map[string][]string{"reader of " + id.Name(): {registry.Pull}}
		},
		Registry: registry.Config{TenantID: "tenant"}, Services: vnetservices.Config{},
	}
	for id, body := range s {
		parsed := resourceid.MustParse(id)
		in.Documents = append(in.Documents, resourcestore.Resource{ID: parsed, Body: []byte(body), Deleting: slices.Contains(deleting, id)})
	}
	return in
}

func project(t *testing.T, in Input) State {
	t.Helper()
	state, err := Project(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Fabric.Validate(); err != nil {
		t.Errorf("the fabric refuses what is projected: %v", err)
	}
	return state
}

func text(t *testing.T, state State) []byte {
	t.Helper()
	b, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func vnet(name, prefix string) set {
	return set{net + "virtualNetworks/" + name: `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["` + prefix + `"]}}}`}
}

func subnetOf(vnet, name, prefix, more string) set {
	return set{net + "virtualNetworks/" + vnet + "/subnets/" + name: `{"properties":{"addressPrefix":"` + prefix + `"` + more + `}}`}
}

func rule(nsg, name, properties string) set {
	return set{net + "networkSecurityGroups/" + nsg + "/securityRules/" + name: `{"properties":{` + properties + `}}`}
}

const anyPorts = `"sourcePortRange":"*","destinationPortRange":"*","protocol":"*",`

// endpoint of a target, with its connection's document where the target is a registry.
func endpoint(name, subnet, target, state string, members ...string) set {
	list := make([]string, len(members)/3)
	for i := range list {
		list[i] = `{"groupId":"g","name":"` + members[3*i] + `","address":"` + members[3*i+1] + `","serviceIndex":` + members[3*i+2] + `}`
	}
	connection, auto := "", "true"
	out := set{}
	if strings.HasPrefix(target, acr) {
		connection = target + "/privateEndpointConnections/" + name
		out[connection] = `{"properties":{"privateEndpoint":{"id":"` + net + "privateEndpoints/" + name + `"},"privateLinkServiceConnectionState":{"status":"` + state + `","description":"","actionsRequired":"None"}}}`
		connection = `,"connection":"` + connection + `","connectionMade":true`
	}
	return out.with(set{net + "privateEndpoints/" + name: `{"location":"eastus","properties":{"subnet":{"id":"` + subnet + `"},"privateLinkServiceConnections":[{"name":"c","properties":{"privateLinkServiceId":"` + target + `","groupIds":["g"]}}]},"cloister":{"members":[` + strings.Join(list, ",") + `]` + connection + `,"autoApproved":` + auto + `}}`})
}

func registryDoc(name, access string) set {
	return set{acr + name: `{"location":"eastus","sku":{"name":"Premium"},"properties":{"loginServer":"` + name + `.azurecr.io","publicNetworkAccess":"` + access + `"}}`}
}

// oneCluster is a cluster of one node in its managed network.
func oneCluster() set {
	subnet := net + "virtualNetworks/vnet/subnets/aks"
	return vnet("vnet", "10.224.0.0/12").with(
		subnetOf("vnet", "aks", "10.224.0.0/16", `,"defaultOutboundAccess":false,"networkSecurityGroup":{"id":"`+net+`networkSecurityGroups/nsg"}`),
		set{net + "networkSecurityGroups/nsg": `{"location":"eastus"}`},
		set{kubelet: `{"location":"eastus","properties":{"clientId":"client","principalId":"object"}}`},
		registryDoc("cache", "Disabled"),
		set{acr + "cache/cacheRules/aks-managed-mcr": `{"properties":{"sourceRepository":"mcr.microsoft.com/*","targetRepository":"aks-managed-repository/*"}}`},
		endpoint("bootstrap", subnet, acr+"cache", "Approved", "registry_data_eastus", "10.224.0.4", "1", "registry", "10.224.0.5", "2"),
		endpoint("kube-apiserver", subnet, aks+"demo", "", "management", "10.224.0.6", "3"),
		set{
			net + "privateDnsZones/privatelink.azurecr.io":                          `{"location":"global"}`,
			net + "privateDnsZones/privatelink.azurecr.io/A/cache":                  `{"properties":{"ttl":10,"aRecords":[{"ipv4Address":"10.224.0.5"}]}}`,
			net + "privateDnsZones/privatelink.azurecr.io/A/cache.eastus.data":      `{"properties":{"ttl":10,"aRecords":[{"ipv4Address":"10.224.0.4"}]}}`,
			net + "privateDnsZones/privatelink.azurecr.io/virtualNetworkLinks/link": `{"location":"global","properties":{"virtualNetwork":{"id":"` + net + `virtualNetworks/vnet"}}}`,
			net + "networkInterfaces/node0":                                         `{"location":"eastus","properties":{"ipConfigurations":[` + ipConfig(subnet, "10.224.0.7", true) + `,` + ipConfig(subnet, "10.224.0.8", false) + `,` + ipConfig(subnet, "10.224.0.9", false) + `]}}`,
			aks + "demo": `{"location":"eastus","tags":{"team":"web"},"properties":{"fqdn":"demo-1.hcp.eastus.azmk8s.io","privateFQDN":"demo-2.guid.privatelink.eastus.azmk8s.io","nodeResourceGroup":"MC_rg_demo_eastus",
				"apiServerAccessProfile":{"enablePrivateCluster":true,"enablePrivateClusterPublicFQDN":true},"identityProfile":{"kubeletidentity":{"resourceId":"` + kubelet + `","clientId":"client","objectId":"object"}}},
				"cloister":{"clusterId":"c1","subnetId":"` + subnet + `","endpointAddress":"10.224.0.6"}}`,
			aks + "demo/agentPools/nodepool1": `{"properties":{"vmSize":"Standard_DS2_v2"},"cloister":{"machines":[{"id":"m1","name":"aks-nodepool1-12345678-vmss00000a","uidBase":268435456,"nic":"` + net + `networkInterfaces/node0"}]}}`,
		},
	)
}

func ipConfig(subnet, address string, primary bool) string {
	return fmt.Sprintf(`{"name":"c","properties":{"privateIPAddress":"%s","primary":%v,"subnet":{"id":"%s"}}}`, address, primary, subnet)
}

// ownNetwork is a user's VNet with two subnets and rules with service tags.
func ownNetwork() set {
	nsg := `,"networkSecurityGroup":{"id":"` + net + `networkSecurityGroups/NSG"}`
	return vnet("own", "192.168.0.0/16").with(
		subnetOf("own", "snet-AKS", "192.168.1.0/24", nsg),
		subnetOf("own", "snet-acr", "192.168.2.0/24", `,"defaultOutboundAccess":false`),
		set{net + "networkSecurityGroups/nsg": `{"location":"eastus"}`},
		rule("nsg", "allow-mcr", anyPorts+`"access":"Allow","direction":"Outbound","priority":100,"sourceAddressPrefix":"*","destinationAddressPrefix":"MicrosoftContainerRegistry"`),
		rule("nsg", "block", anyPorts+`"access":"Deny","direction":"Outbound","priority":200,"sourceAddressPrefix":"VirtualNetwork","destinationAddressPrefix":"Internet"`),
		rule("nsg", "web", `"protocol":"Tcp","access":"Allow","direction":"Inbound","priority":100,"sourceAddressPrefixes":["10.0.0.0/8","192.168.2.4"],"destinationAddressPrefix":"*","sourcePortRange":"*","destinationPortRanges":["443","8000-8010"]`),
		rule("nsg", "balancer", anyPorts+`"access":"Allow","direction":"Inbound","priority":110,"sourceAddressPrefix":"AzureLoadBalancer","destinationAddressPrefix":"*"`),
		rule("nsg", "nowhere", anyPorts+`"access":"Deny","direction":"Outbound","priority":300,"sourceAddressPrefix":"*","destinationAddressPrefix":"AzureFrontDoor.FirstParty"`),
	)
}

func TestGolden(t *testing.T) {
	for name, in := range map[string]Input{
		"nothing":    set{}.input(),
		"waysout":    waysOut().input(),
		"onecluster": oneCluster().input(),
		"ownnetwork": ownNetwork().input(),
		"registries": registryDoc("open", "Enabled").with(registryDoc("closed", "Disabled"), vnet("v", "10.0.0.0/16"), subnetOf("v", "s", "10.0.0.0/24", ""),
			endpoint("pe", net+"virtualNetworks/v/subnets/s", acr+"closed", "Approved", "registry_data_eastus", "10.0.0.4", "7", "registry", "10.0.0.5", "8")).input(),
		"equalranges": vnet("a", "10.0.0.0/16").with(vnet("b", "10.0.0.0/16"), subnetOf("a", "s", "10.0.0.0/24", ""), subnetOf("b", "s", "10.0.0.0/24", "")).input(),
	} {
		t.Run(name, func(t *testing.T) {
			got := text(t, project(t, in))
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("projected\n%s\nwant\n%s", got, want)
			}
			for range 20 {
				rand.Shuffle(len(in.Documents), func(i, j int) { in.Documents[i], in.Documents[j] = in.Documents[j], in.Documents[i] })
				if again := text(t, project(t, in)); !bytes.Equal(again, got) {
					t.Fatalf("in another order of documents\n%s\nwant\n%s", again, got)
				}
			}
		})
	}
}

// A private endpoint's address works when its connection is approved, and only then.
func TestEndpointStates(t *testing.T) {
	docs := vnet("v", "10.0.0.0/16").with(subnetOf("v", "s", "10.0.0.0/24", ""), registryDoc("r", "Disabled"))
	subnet := net + "virtualNetworks/v/subnets/s"
	for state, want := range map[string]int{"Approved": 2, "Pending": 0, "Rejected": 0, "Disconnected": 0} {
		pe := endpoint("pe", subnet, acr+"r", state, "registry_data_eastus", "10.0.0.4", "1", "registry", "10.0.0.5", "2")
		s := project(t, docs.with(pe).input())
		if got := len(s.Fabric.Networks[0].Endpoints); got != want || len(s.Registry.Registries[0].Endpoints) != want {
			t.Errorf("%s: %d endpoints in the fabric and %d in the registry, want %d", state, got, len(s.Registry.Registries[0].Endpoints), want)
		}
	}
	approved := docs.with(endpoint("pe", subnet, acr+"r", "Approved", "registry", "10.0.0.5", "2"))
	for name, in := range map[string]Input{
		"its connection removed": approved.without(acr + "r/privateEndpointConnections/pe").input(),
		"its target removed":     approved.without(acr+"r", acr+"r/privateEndpointConnections/pe").input(),
		"deleted":                approved.input(net + "privateEndpoints/pe"),
		"its network deleted":    approved.input(net+"virtualNetworks/v", subnet),
	} {
		for _, n := range project(t, in).Fabric.Networks {
			if len(n.Endpoints) > 0 {
				t.Errorf("%s: %v", name, n.Endpoints)
			}
		}
	}
}

// A machine has its kubelet identity as long as there is one of the client ID that it was given.
func TestIdentityOfAMachine(t *testing.T) {
	for name, tc := range map[string]struct {
		docs set
		want int
	}{
		"there":      {oneCluster(), 1},
		"deleted":    {oneCluster().without(kubelet), 0},
		"made again": {oneCluster().without(kubelet).with(set{kubelet: `{"location":"eastus","properties":{"clientId":"another","principalId":"object"}}`}), 0},
	} {
		guests := project(t, tc.docs.input()).Services.Networks[0].Guests
		if len(guests) != 1 || len(guests[0].Identities) != tc.want {
			t.Errorf("%s: %+v, want %d identities", name, guests, tc.want)
		}
	}
}

// A subnet's security group is for its private endpoints where the subnet says so.
func TestEndpointPolicies(t *testing.T) {
	for policies, want := range map[string]string{"Enabled": "s", "NetworkSecurityGroupEnabled": "s", "RouteTableEnabled": "", "Disabled": ""} {
		docs := vnet("v", "10.0.0.0/16").with(subnetOf("v", "s", "10.0.0.0/24", `,"privateEndpointNetworkPolicies":"`+policies+`"`), registryDoc("r", "Disabled"),
			endpoint("pe", net+"virtualNetworks/v/subnets/s", acr+"r", "Approved", "registry", "10.0.0.5", "2"))
		for _, e := range project(t, docs.input()).Fabric.Networks[0].Endpoints {
			if e.Guarded != want {
				t.Errorf("%s: guarded by subnet %q, want %q", policies, e.Guarded, want)
			}
		}
	}
}

// What is being deleted is no longer on the machine, but for a cluster's nodes, which end in their own time.
func TestDeleting(t *testing.T) {
	all := oneCluster()
	if s := project(t, all.input(net+"virtualNetworks/vnet")); len(s.Fabric.Networks) != 0 || len(s.Services.Networks) != 0 {
		t.Errorf("a deleted network: %+v", s.Fabric.Networks)
	}
	if s := project(t, all.input(acr+"cache")); len(s.Registry.Registries) != 0 {
		t.Errorf("a deleted registry: %+v", s.Registry.Registries)
	}
	if s := project(t, all.input(net+"privateDnsZones/privatelink.azurecr.io/virtualNetworkLinks/link")); len(s.Services.Networks[0].Zones) != 0 {
		t.Errorf("a deleted link: %+v", s.Services.Networks[0].Zones)
	}
	s := project(t, all.input(aks+"demo", aks+"demo/agentPools/nodepool1"))
	if len(s.Fabric.Networks[0].NICs) != 1 || len(s.Services.Clusters) != 1 {
		t.Errorf("the nodes of a cluster that is being deleted: %+v, %+v", s.Fabric.Networks[0].NICs, s.Services.Clusters)
	}
}

func TestSessions(t *testing.T) {
	in := ownNetwork().input()
	v := resourceid.MustParse(net + "virtualNetworks/own")
	in.Sessions = []Session{
		{Name: "jump-1", Network: v, Subnet: "snet-aks", Address: netip.MustParseAddr("192.168.1.254")},
		{Name: "jump-2", Network: v, Subnet: "gone", Address: netip.MustParseAddr("192.168.9.254")},
		{Name: "jump-3", Network: resourceid.MustParse(net + "virtualNetworks/gone"), Subnet: "s", Address: netip.MustParseAddr("10.0.0.254")},
		{Name: "shell-1", Address: netip.MustParseAddr("198.18.8.1")},
	}
	s := project(t, in)
	if nics := s.Fabric.Networks[0].NICs; len(nics) != 1 || nics[0].Guest.Name != "jump-1" || nics[0].Guest.UIDCount != 0 {
		t.Errorf("jump boxes %+v", nics)
	}
	if len(s.Fabric.Workstations) != 1 || s.Fabric.Workstations[0].Name != "shell-1" {
		t.Errorf("workstations %+v", s.Fabric.Workstations)
	}
}

// The metadata service knows a jump box that has identities, by its address, and hands out those of them that there are.
func TestIdentitiesOfAJumpBox(t *testing.T) {
	in := oneCluster().input()
	in.Sessions = []Session{
		{Name: "jump-1", Network: resourceid.MustParse(net + "virtualNetworks/vnet"), Subnet: "aks", Address: netip.MustParseAddr("10.224.0.250"),
			Identities: []resourceid.ID{resourceid.MustParse(kubelet), resourceid.MustParse(kubelet + "gone")}},
		{Name: "jump-2", Network: resourceid.MustParse(net + "virtualNetworks/vnet"), Subnet: "aks", Address: netip.MustParseAddr("10.224.0.251")},
	}
	guests := project(t, in).Services.Networks[0].Guests
	if len(guests) != 2 { // the node and jump-1
		t.Fatalf("guests %+v", guests)
	}
	if g := guests[1]; g.Name != "jump-1" || g.Addresses[0].String() != "10.224.0.250" || len(g.Identities) != 1 || g.Identities[0].ResourceID != kubelet {
		t.Errorf("the jump box is %+v", g)
	}
}

// A jump box gives way to what a document says: two owners of an address would stop the whole fabric.
func TestSessionGivesWay(t *testing.T) {
	in := oneCluster().input()
	v := resourceid.MustParse(net + "virtualNetworks/vnet")
	for i, a := range []string{"10.224.0.4", "10.224.0.7", "10.224.0.8", "10.224.0.200", "10.224.0.200"} {
		in.Sessions = append(in.Sessions, Session{Name: fmt.Sprintf("jump-%d", i), Network: v, Subnet: "aks", Address: netip.MustParseAddr(a)})
	}
	if nics := project(t, in).Fabric.Networks[0].NICs; len(nics) != 2 {
		t.Errorf("%+v", nics)
	}
}

// A document that cannot be read stops everything: half a state would take away what others stand on.
func TestUnreadable(t *testing.T) {
	for id := range oneCluster() {
		if strings.Contains(id, "networkSecurityGroups/") || strings.HasSuffix(id, "privatelink.azurecr.io") || strings.Contains(id, "privateEndpointConnections") {
			continue // nothing in them is read
		}
		broken := oneCluster().with(set{id: `{"location":1,"properties":[],"cloister":[]}`})
		if _, err := Project(broken.input()); err == nil || !strings.Contains(err.Error(), resourceid.MustParse(id).Name()) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// Whatever valid documents there are, the fabric accepts their projection.
func TestFabricAcceptsProjection(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 7))
	for range 300 {
		docs, index := set{}, 0
		for v := range r.IntN(4) {
			name := fmt.Sprintf("v%d", v)
			docs = docs.with(vnet(name, "10.0.0.0/16")) // equal ranges are allowed
			for s := range r.IntN(4) {
				more := ""
				if r.IntN(2) == 0 {
					more = fmt.Sprintf(`,"networkSecurityGroup":{"id":"%snetworkSecurityGroups/g%d"}`, net, r.IntN(3))
				}
				subnet := fmt.Sprintf("s%d", s)
				docs = docs.with(subnetOf(name, subnet, fmt.Sprintf("10.0.%d.0/24", s), more))
				id := net + "virtualNetworks/" + name + "/subnets/" + subnet
				for e := range r.IntN(3) {
					index += 2
					state := []string{"Approved", "Pending"}[r.IntN(2)]
					docs = docs.with(registryDoc(fmt.Sprintf("r%d", r.IntN(3)), "Disabled"), endpoint(fmt.Sprintf("%s-%s-%d", name, subnet, e), id, fmt.Sprintf("%sr%d", acr, r.IntN(3)), state,
						"registry_data_eastus", fmt.Sprintf("10.0.%d.%d", s, 4+2*e), fmt.Sprint(index), "registry", fmt.Sprintf("10.0.%d.%d", s, 5+2*e), fmt.Sprint(index+1)))
				}
			}
		}
		tagsAndMore := []string{"*", "VirtualNetwork", "Internet", "AzureLoadBalancer", "AzureCloud", "AzureFrontDoor.FirstParty", "10.0.0.0/8", "1.2.3.4"}
		for g := range 3 {
			for n := range r.IntN(5) {
				docs = docs.with(rule(fmt.Sprintf("g%d", g), fmt.Sprintf("n%d", n), fmt.Sprintf(`"protocol":%q,"access":%q,"direction":%q,"priority":%d,"sourceAddressPrefix":%q,"destinationAddressPrefix":%q,"sourcePortRange":"*","destinationPortRange":%q`,
					[]string{"*", "Tcp", "Udp", "Icmp"}[r.IntN(4)], []string{"Allow", "Deny"}[r.IntN(2)], []string{"Inbound", "Outbound"}[r.IntN(2)], 100+n,
					tagsAndMore[r.IntN(len(tagsAndMore))], tagsAndMore[r.IntN(len(tagsAndMore))], []string{"*", "443", "1-1024"}[r.IntN(3)])))
			}
		}
		project(t, docs.input())
	}
}

// A rule set that denies narrows the public endpoint to its prefixes; the policy narrows whose tokens count.
func TestRegistryRules(t *testing.T) {
	doc := func(more string) registry.Registry {
		in := set{acr + "r": `{"location":"eastus","sku":{"name":"Premium"},"properties":{"loginServer":"r.azurecr.io","publicNetworkAccess":"Enabled"` + more + `}}`}
		return project(t, in.input()).Registry.Registries[0]
	}
	if r := doc(`,"networkRuleSet":{"defaultAction":"Allow","ipRules":[]},"policies":{"azureADAuthenticationAsArmPolicy":{"status":"enabled"}}`); !r.PublicAccess || r.OnlyPrefixes || r.OnlyRegistryTokens {
		t.Errorf("%+v", r)
	}
	r := doc(`,"networkRuleSet":{"defaultAction":"Deny","ipRules":[{"value":"198.18.1.9"},{"value":"192.0.2.77/24"}]},"policies":{"azureADAuthenticationAsArmPolicy":{"status":"disabled"}}`)
	if want := []netip.Prefix{netip.MustParsePrefix("198.18.1.9/32"), netip.MustParsePrefix("192.0.2.0/24")}; !r.PublicAccess || !r.OnlyPrefixes || !slices.Equal(r.PublicPrefixes, want) || !r.OnlyRegistryTokens {
		t.Errorf("%+v", r)
	}
	if r.Admin != nil {
		t.Errorf("an admin user without being asked for: %+v", r.Admin)
	}
	in := set{acr + "r": `{"properties":{"loginServer":"r.azurecr.io","adminUserEnabled":true,"creationDate":"then"},"cloister":{"regenerated":[0,3]}}`}.input()
	in.Password = func(id resourceid.ID, created string, slot, generation int) string {
		return fmt.Sprint(id.Name(), created, slot, generation)
	}
	hash := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	if admin := project(t, in).Registry.Registries[0].Admin; admin == nil || admin.User != "r" || !slices.Equal(admin.Passwords, []string{hash("rthen0 0"), hash("rthen1 3")}) {
		t.Errorf("%+v", admin)
	}
}
