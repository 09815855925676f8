package wire

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// modelled is a machine that is what the documents say: it resolves, connects and serves by the desired state.
type modelled struct {
	i     *installation
	state projection.State
	pods  []diagnosis.Pod
	// forwards are the DNS servers of the user's, with the virtual networks that they stand in and forward to the resolver of.
	forwards map[netip.Addr]resourceid.ID
}

func (i *installation) diagnoser(m *modelled) *diagnosis.Diagnoser {
	all := func(ctx context.Context) ([]resourcestore.Resource, error) {
		return i.store.List(ctx, resourcestore.Filter{})
	}
	return &diagnosis.Diagnoser{Machine: m, Documents: all, Snapshot: func(ctx context.Context) (diagnosis.Snapshot, error) {
		documents, err := all(ctx)
		if err != nil {
			return diagnosis.Snapshot{}, err
		}
		m.state, err = projection.Project(projection.Input{
			Layout: layout.New("/data", "/cache", "abcdef"), Documents: documents, TenantID: i.in.TenantID, Access: i.api.RegistryAccess,
			Password: func(resourceid.ID, string, int, int) string { return "" },
		})
		if err != nil {
			return diagnosis.Snapshot{}, err
		}
		faults, err := diagnosis.Faults(ctx, i.store, documents)
		return diagnosis.Snapshot{Documents: documents, State: m.state, Faults: faults}, err
	}}
}

func (m *modelled) Lookup(ctx context.Context, network resourceid.ID, name string) (privatedns.Answer, error) {
	public, err := privatedns.NewPublic(m.state.Services.Public)
	if err != nil {
		return privatedns.Answer{}, err
	}
	for _, n := range m.state.Services.Networks {
		if n.ID != projection.NetworkID(network) {
			continue
		}
		view, err := privatedns.NewView(n.Zones, public)
		if err != nil {
			return privatedns.Answer{}, err
		}
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return privatedns.Answer{}, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return privatedns.Answer{}, err
		}
		serving, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- privatedns.NewServer(view).Serve(serving, packets, listener) }()
		defer func() { stop(); <-done }()
		conn, err := net.Dial("udp", packets.LocalAddr().String())
		if err != nil {
			return privatedns.Answer{}, err
		}
		defer conn.Close()
		return privatedns.Ask(ctx, conn, name)
	}
	return privatedns.Answer{}, errors.New("no such network")
}

func (m *modelled) nic(machine string) (fabric.Network, fabric.NIC) {
	for _, n := range m.state.Fabric.Networks {
		for _, nic := range n.NICs {
			if nic.Guest.Name == "node-"+machine {
				return n, nic
			}
		}
	}
	return fabric.Network{}, fabric.NIC{}
}

func (m *modelled) Connect(_ context.Context, machine string, to netip.AddrPort) error {
	n, nic := m.nic(machine)
	_, refused := n.Refusal(nic.Address, to.Addr(), "Tcp", to.Port())
	there := slices.ContainsFunc(n.Endpoints, func(e fabric.Endpoint) bool { return e.Address == to.Addr() }) ||
		slices.ContainsFunc(n.NICs, func(o fabric.NIC) bool { return o.Address == to.Addr() }) ||
		netip.MustParsePrefix("198.18.0.0/15").Contains(to.Addr()) && m.out(n, nic, to.Addr())
	if refused || !there {
		return errors.New("no answer")
	}
	return nil
}

// out follows a NIC's packets to the Internet: by its subnet's route, to an appliance that forwards, or by its own way.
func (m *modelled) out(n fabric.Network, nic fabric.NIC, to netip.Addr) bool {
	for _, s := range n.Subnets {
		if route, ok := s.Route(to); s.Name == nic.Subnet && ok {
			return route.Hop == fabric.VirtualAppliance && m.i.types("network nic list -g rg --query [?enableIPForwarding].ipConfigurations[0].privateIPAddress -o tsv") == route.Appliance.String()
		}
	}
	return n.WayOut(nic) != ""
}

func (m *modelled) Manifest(_ context.Context, _ string, q diagnosis.ManifestQuestion) (diagnosis.ManifestAnswer, error) {
	for _, r := range m.state.Registry.Registries {
		if r.LoginServer != q.Host {
			continue
		}
		if !r.AnonymousPull && !slices.Contains(r.Access[q.Principal], registry.Pull) {
			return diagnosis.ManifestAnswer{Step: "/oauth2/token", Status: http.StatusUnauthorized}, nil
		}
		host, repository, _, ok := registry.Origin(r.CacheRules, q.Repository)
		if !ok || host != "mcr.microsoft.com" || strings.Contains(repository, "nowhere") || strings.Contains(repository, "aks-managed-repository") {
			return diagnosis.ManifestAnswer{Step: "manifest", Status: http.StatusNotFound}, nil
		}
		return diagnosis.ManifestAnswer{Step: "manifest", Status: http.StatusOK}, nil
	}
	return diagnosis.ManifestAnswer{}, errors.New("no such registry")
}

func (m *modelled) Metadata(context.Context, string) error { return nil }

func (m *modelled) Provision(id string) (bootstrap.Result, error) {
	return nodes{m.i.machine}.Provisioned(context.Background(), id)
}

func (m *modelled) Pods(context.Context, string) ([]diagnosis.Pod, error) { return m.pods, nil }

var substitution = regexp.MustCompile(`"\$\(az ([^)]*)\)"`)

// types types a line as it was printed.
func (i *installation) types(line string) (out string) {
	i.t.Helper()
	line = strings.TrimPrefix(line, "az ")
	line = substitution.ReplaceAllStringFunc(line, func(s string) string {
		return strings.TrimSpace(i.types(substitution.FindStringSubmatch(s)[1]))
	})
	status, out, complaint := i.az(strings.ReplaceAll(line, "'", ""))
	if status != 0 {
		i.t.Fatalf("az %s: %s", line, complaint)
	}
	return strings.TrimSpace(out)
}

// own makes what the page's section on a registry of one's own makes, and a cluster on it.
func (i *installation) own() {
	subnet := i.group() + "/providers/Microsoft.Network/virtualNetworks/net/subnets/nodes"
	registry := i.group() + "/providers/Microsoft.ContainerRegistry/registries/ownregistry"
	for _, line := range []string{
		"network vnet create -g rg -n net --address-prefixes 192.168.0.0/16",
		"network nsg create -g rg -n guard",
		"network vnet subnet create -g rg --vnet-name net -n nodes --address-prefixes 192.168.1.0/24 --default-outbound-access false --network-security-group guard",
		"network vnet subnet create -g rg --vnet-name net -n registry --address-prefixes 192.168.2.0/24 --private-endpoint-network-policies Disabled",
		"acr create -g rg -n ownregistry --sku Premium --public-network-enabled false",
		"acr cache create -n aks-managed-mcr -r ownregistry -g rg --source-repo mcr.microsoft.com/* --target-repo aks-managed-repository/*",
		"network private-endpoint create -n myEndpoint -g rg --vnet-name net --subnet registry --private-connection-resource-id " + registry + " --group-id registry --connection-name c",
		"network private-dns zone create -g rg -n privatelink.azurecr.io",
		"network private-dns link vnet create -g rg --zone-name privatelink.azurecr.io -n MyDNSLink --virtual-network net --registration-enabled false",
		"network private-dns record-set a add-record -g rg --zone-name privatelink.azurecr.io --record-set-name ownregistry --ipv4-address 192.168.2.5",
		"network private-dns record-set a add-record -g rg --zone-name privatelink.azurecr.io --record-set-name ownregistry.eastus.data --ipv4-address 192.168.2.4",
		"identity create -g rg -n plane", "identity create -g rg -n kubelet",
	} {
		i.types(line)
	}
	plane := i.types("identity show -g rg -n plane --query id -o tsv")
	kubelet := i.types("identity show -g rg -n kubelet --query id -o tsv")
	i.types("role assignment create --role AcrPull --scope " + registry + " --assignee-principal-type ServicePrincipal --assignee-object-id " + i.types("identity show -g rg -n kubelet --query principalId -o tsv"))
	i.types("aks create -g rg -n demo --node-count 1 --kubernetes-version 1.30.3 --vnet-subnet-id " + subnet + " --assign-identity " + plane + " --assign-kubelet-identity " + kubelet +
		" --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + registry + " --outbound-type none --network-plugin azure --enable-private-cluster")
}

func (i *installation) why(d *diagnosis.Diagnoser, name string) adminapi.Diagnosis {
	i.t.Helper()
	found, err := d.Find(i.t.Context(), name)
	if err != nil || len(found) != 1 {
		i.t.Fatalf("why %s: %d answers, %v", name, len(found), err)
	}
	return found[0]
}

func told(d adminapi.Diagnosis) string {
	var b strings.Builder
	for _, l := range d.Links {
		b.WriteString(l.State + " " + l.Name + " " + l.Subject + ": " + l.Saw + "\n")
	}
	return b.String()
}

// TestDiagnosis breaks one thing after the other of a cluster with a registry of the user's own. The diagnosis names it,
// and the lines that it prints mend it: after them all is as it was.
func TestDiagnosis(t *testing.T) {
	i := install(t)
	i.own()
	m := &modelled{i: i}
	d := i.diagnoser(m)
	if of := i.why(d, "demo"); !of.Healthy || of.Cause != nil || len(of.Warnings) > 0 {
		t.Fatalf("a good cluster is told to be ill, for %+v\n%v\n%s", of.Cause, of.Warnings, told(of))
	}
	const zone = " -g rg --zone-name privatelink.azurecr.io "
	registry := i.group() + "/providers/Microsoft.ContainerRegistry/registries/ownregistry"
	for _, row := range []struct {
		name  string
		lines []string
		cause string
		saw   string
	}{
		{"there is no zone", []string{
			"network private-dns record-set a delete" + zone + "-n ownregistry --yes", "network private-dns record-set a delete" + zone + "-n ownregistry.eastus.data --yes",
			"network private-dns link vnet delete" + zone + "-n MyDNSLink --yes", "network private-dns zone delete -g rg -n privatelink.azurecr.io --yes",
		}, "zone", "there is no private DNS zone of this name"},
		{"the registry's record is missing", []string{"network private-dns record-set a delete" + zone + "-n ownregistry --yes"}, "record", "no A record; the private address is 192.168.2.5"},
		{"the data endpoint's record is missing", []string{"network private-dns record-set a delete" + zone + "-n ownregistry.eastus.data --yes"}, "record", "the private address is 192.168.2.4"},
		{"a record is wrong", []string{
			"network private-dns record-set a add-record" + zone + "--record-set-name ownregistry --ipv4-address 192.168.2.77",
			"network private-dns record-set a remove-record" + zone + "--record-set-name ownregistry --ipv4-address 192.168.2.5",
		}, "record", "the A record is 192.168.2.77"},
		{"the zone is not linked", []string{"network private-dns link vnet delete" + zone + "-n net-link --yes"}, "link", "VNet net is not linked to the zone"},
		{"there is no endpoint", []string{"network private-endpoint delete -g rg -n myEndpoint"}, "endpoint", "no private endpoint in VNet net leads to it"},
		{"the connection is rejected", []string{"acr private-endpoint-connection reject -g rg -r ownregistry -n CONNECTION"}, "approval", "Rejected"},
		{"a security group is in the way", []string{"network nsg rule create -g rg --nsg-name guard -n deny --priority 200 --direction Outbound --access Deny --protocol Tcp --destination-port-ranges 443"}, "path", "rule deny (priority 200, outbound) of network security group guard of subnet nodes refuses it"},
		{"a security group's first rule is in the way", []string{"network nsg rule create -g rg --nsg-name guard -n first --priority 100 --direction Outbound --access Deny --protocol * --destination-address-prefixes 192.168.2.0/24 --destination-port-ranges *"}, "path", "rule first"},
		{"no role", []string{"role assignment delete --ids ASSIGNMENT"}, "role", "has no role that lets it pull"},
		{"no cache rule", []string{"acr cache delete -n aks-managed-mcr -r ownregistry -g rg --yes"}, "rule", "the registry has no cache rule"},
		{"the cache rule has another target", []string{
			"acr cache delete -n aks-managed-mcr -r ownregistry -g rg --yes",
			"acr cache create -n other -r ownregistry -g rg --source-repo mcr.microsoft.com/* --target-repo mcr/*",
		}, "rule", "no cache rule covers"},
		{"a static rule shadows the wildcard", []string{"acr cache create -n shadow -r ownregistry -g rg --source-repo mcr.microsoft.com/nowhere --target-repo aks-managed-repository/oss/kubernetes/pause"}, "rule", "cache rule shadow fills"},
		{"a static rule shadows it for one artifact", []string{"acr cache create -n shadow -r ownregistry -g rg --source-repo mcr.microsoft.com/nowhere --target-repo aks-managed-repository/oss/binaries/kubernetes/kubernetes-node"}, "rule", "cache rule shadow fills"},
		{"no tokens for ARM", []string{"acr config authentication-as-arm update -r ownregistry -g rg --status disabled"}, "role", "takes no tokens for Azure Resource Manager"},
		{"the API server's zone is not linked", []string{"network private-dns link vnet delete -g MC_rg_demo_eastus --zone-name APIZONE -n APILINK --yes"}, "link", "is not linked"},
		{"the API server's endpoint is gone", []string{"network private-endpoint delete -g MC_rg_demo_eastus -n kube-apiserver"}, "endpoint", "no private endpoint"},
	} {
		ok := t.Run(row.name, func(t *testing.T) {
			i := *i
			i.t = t
			apiZone := ""
			if slices.ContainsFunc(row.lines, func(l string) bool { return strings.Contains(l, "APIZONE") }) {
				apiZone = i.types("network private-dns zone list -g MC_rg_demo_eastus --query [0].name -o tsv")
			}
			words := strings.NewReplacer("APIZONE", apiZone, "CONNECTION", i.types("acr private-endpoint-connection list -g rg -r ownregistry --query [0].name -o tsv"),
				"ASSIGNMENT", i.types("role assignment list --scope "+registry+" --query [0].id -o tsv"))
			for _, line := range row.lines {
				line = words.Replace(line)
				if before, after, ok := strings.Cut(line, "APILINK"); ok {
					line = before + i.types("network private-dns link vnet list -g MC_rg_demo_eastus --zone-name "+apiZone+" --query [0].name -o tsv") + after
				}
				i.types(line)
			}
			of := i.why(d, "demo")
			if of.Healthy || of.Cause == nil || of.Cause.Name != row.cause || !strings.Contains(of.Cause.Saw, row.saw) {
				t.Fatalf("the cause is %+v, want %s: %s\n%s", of.Cause, row.cause, row.saw, told(of))
			}
			if len(of.Cause.Mend) == 0 {
				t.Fatalf("nothing mends it\n%s", told(of))
			}
			for _, line := range of.Cause.Mend {
				i.types(line)
			}
			if of := i.why(d, "demo"); !of.Healthy {
				t.Fatalf("it is not mended by %q: %+v\n%s", of.Cause.Mend, of.Cause, told(of))
			}
		})
		if !ok {
			break // the rows after it would find what it left broken
		}
	}
}

// TestWaysOutDiagnosis takes the way out away that a cluster's outbound type promises, in each of its parts.
func TestWaysOutDiagnosis(t *testing.T) {
	i := install(t)
	m := &modelled{i: i}
	d := i.diagnoser(m)
	subnet := i.group() + "/providers/Microsoft.Network/virtualNetworks/net/subnets/"
	for _, line := range []string{
		"network vnet create -g rg -n net --address-prefixes 192.168.0.0/16", "network nsg create -g rg -n guard", "network route-table create -g rg -n table",
		"network vnet subnet create -g rg --vnet-name net -n firewall --address-prefixes 192.168.9.0/24",
		"network nic create -g rg -n appliance --vnet-name net --subnet firewall --private-ip-address 192.168.9.9 --ip-forwarding true",
		"network route-table route create -g rg --route-table-name table -n default --address-prefix 0.0.0.0/0 --next-hop-type VirtualAppliance --next-hop-ip-address 192.168.9.9",
		"network vnet subnet create -g rg --vnet-name net -n balanced --address-prefixes 192.168.1.0/24 --network-security-group guard",
		"network vnet subnet create -g rg --vnet-name net -n routed --address-prefixes 192.168.2.0/24 --route-table table",
		"network vnet subnet create -g rg --vnet-name net -n served --address-prefixes 192.168.3.0/24",
		"aks create -g rg -n balanced --node-count 1 --kubernetes-version 1.30.3 --network-plugin azure --enable-private-cluster --vnet-subnet-id " + subnet + "balanced",
		"aks create -g rg -n routed --node-count 1 --kubernetes-version 1.30.3 --network-plugin azure --enable-private-cluster --outbound-type userDefinedRouting --vnet-subnet-id " + subnet + "routed",
		"aks create -g rg -n public --node-count 1 --kubernetes-version 1.30.3 --network-plugin azure --bootstrap-artifact-source Cache --outbound-type none",
	} {
		i.types(line)
	}
	for _, row := range []struct{ name, cluster, line, cause, saw, mend string }{
		{"a security group", "balanced", "network nsg rule create -g rg --nsg-name guard -n deny --priority 300 --direction Outbound --access Deny --protocol * --destination-address-prefixes Internet --destination-port-ranges *", "way out", "rule deny (priority 300, outbound)", "nsg rule create"},
		{"an appliance that does not forward", "routed", "network nic update -g rg -n appliance --ip-forwarding false", "way out", "network interface appliance has IP forwarding off", "network nic update"},
		{"an appliance that is not there", "routed", "network route-table route update -g rg --route-table-name table -n default --next-hop-ip-address 192.168.9.10", "way out", "no network interface has that address", ""},
		{"none, where the API server is public", "public", "", "API server", "outbound type none gives the nodes no way to it", "aks update -g rg -n public --outbound-type loadBalancer"},
	} {
		t.Run(row.name, func(t *testing.T) {
			i := *i
			i.t = t
			if row.line != "" {
				if of := i.why(d, row.cluster); !of.Healthy {
					t.Fatalf("ill before: %+v", of.Cause)
				}
				i.types(row.line)
			}
			of := i.why(d, row.cluster)
			if of.Cause == nil || of.Cause.Name != row.cause || !strings.Contains(of.Cause.Saw, row.saw) || !strings.Contains(strings.Join(of.Cause.Mend, "\n"), row.mend) {
				t.Fatalf("the cause is %+v, want %s: %s\n%s", of.Cause, row.cause, row.saw, told(of))
			}
			for _, line := range of.Cause.Mend {
				i.types(line)
			}
			// The node, which is an old one here, waits for its reimage.
			if of := i.why(d, row.cluster); row.mend != "" && of.Cause != nil && of.Cause.Name != "generation" {
				t.Errorf("it is not mended: %+v", of.Cause)
			}
		})
	}
}

// TestRegistryDiagnosis asks nothing of a registry that nobody needs of it, and tells of one that nobody can come to.
func TestRegistryDiagnosis(t *testing.T) {
	i := install(t)
	d := i.diagnoser(&modelled{i: i})
	i.types("acr create -g rg -n plainregistry --sku Premium")
	if of := i.why(d, "plainregistry"); !of.Healthy {
		t.Errorf("a registry without a cache rule is told to be ill: %+v", of.Cause)
	}
	i.types("acr update -g rg -n plainregistry --public-network-enabled false")
	if of := i.why(d, "plainregistry"); of.Cause == nil || of.Cause.Name != "endpoint" {
		t.Errorf("nobody can come to it, and the cause is %+v", of.Cause)
	}
}

// TestManagedRegistryGone deletes the registry that AKS made: what led to it names the command that makes it again.
func TestManagedRegistryGone(t *testing.T) {
	i := install(t)
	d := i.diagnoser(&modelled{i: i})
	i.types("aks create -g rg -n demo --node-count 1 --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster")
	i.types("acr delete -g MC_rg_demo_eastus --yes -n " + i.types("acr list -g MC_rg_demo_eastus --query [0].name -o tsv"))
	for endpoint := range strings.FieldsSeq(i.types("network private-endpoint list -g MC_rg_demo_eastus --query [].id -o tsv")) {
		if strings.HasSuffix(endpoint, "/kube-apiserver") {
			continue
		}
		of := i.why(d, endpoint)
		if of.Cause == nil || len(of.Cause.Mend) != 1 || !strings.Contains(of.Cause.Saw, "does not exist") {
			t.Fatalf("the cause is %+v", of.Cause)
		}
		i.types(of.Cause.Mend[0])
		if of := i.why(d, endpoint); !of.Healthy {
			t.Errorf("not mended: %+v\n%s", of.Cause, told(of))
		}
		return
	}
	t.Error("no private endpoint led to the registry")
}

// TestFailedOperationDiagnosis tells of clusters whose making failed before there were nodes.
func TestFailedOperationDiagnosis(t *testing.T) {
	i := install(t)
	d := i.diagnoser(&modelled{i: i})
	subnet := i.group() + "/providers/Microsoft.Network/virtualNetworks/net/subnets/"
	for _, line := range []string{
		"network vnet create -g rg -n net --address-prefixes 192.168.0.0/16",
		"network vnet subnet create -g rg --vnet-name net -n nodes --address-prefixes 192.168.1.0/24", "network vnet subnet create -g rg --vnet-name net -n small --address-prefixes 192.168.2.0/27",
		"network nic create -g rg -n box --vnet-name net --subnet small --private-ip-address 192.168.2.30",
		"network private-dns zone create -g rg -n privatelink.azurecr.io", "network private-dns link vnet create -g rg --zone-name privatelink.azurecr.io -n mine --virtual-network net --registration-enabled false",
	} {
		i.types(line)
	}
	for _, row := range []struct{ name, create, saw string }{
		{"linked", "--bootstrap-artifact-source Cache --outbound-type none --vnet-subnet-id " + subnet + "nodes", "CreateOrUpdateVirtualNetworkLinkFailed"},
		{"full", "--max-pods 25 --vnet-subnet-id " + subnet + "small", "SubnetIsFull"},
	} {
		if status, _, _ := i.az("aks create -g rg -n " + row.name + " --node-count 1 --kubernetes-version 1.30.3 --network-plugin azure --enable-private-cluster " + row.create); status == 0 {
			t.Fatalf("%s: created", row.name)
		}
		of := i.why(d, row.name)
		if of.Cause == nil || of.Cause.Name != "operation" || !strings.Contains(of.Cause.Saw, row.saw) || len(of.Cause.Mend) != 1 {
			t.Fatalf("%s: the cause is %+v\n%s", row.name, of.Cause, told(of))
		}
		for _, line := range append(of.Cause.Mend, of.Then...) {
			i.types(line)
		}
		if of := i.why(d, row.name); !of.Healthy {
			t.Errorf("%s: not mended: %+v", row.name, of.Cause)
		}
	}
}

// TestTraps walks into what works and does not do what its user may believe. A warning tells it, and what it prints ends it.
func TestTraps(t *testing.T) {
	i := install(t)
	i.own()
	m := &modelled{i: i}
	d := i.diagnoser(m)
	warned := func(t *testing.T) (codes []string, mend []string) {
		found, err := d.Warnings(t.Context(), resourceid.MustParse(i.clusterID("demo")))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range found {
			codes, mend = append(codes, w.Code), append(mend, w.Mend...)
		}
		return codes, mend
	}
	registry := i.group() + "/providers/Microsoft.ContainerRegistry/registries/"
	for _, line := range []string{
		"network public-ip create -g rg -n pip", "network nat gateway create -g rg -n nat --public-ip-addresses pip",
		"acr create -g rg -n another --sku Premium --public-network-enabled false",
	} {
		i.types(line)
	}
	for _, row := range []struct{ name, line, code, end string }{
		{"default outbound access is on", "network vnet subnet update -g rg --vnet-name net -n nodes --default-outbound-access true", diagnosis.WarningDefaultOutbound, ""},
		{"a NAT gateway of the subnet", "network vnet subnet update -g rg --vnet-name net -n nodes --nat-gateway nat", diagnosis.WarningWayOut, ""},
		{"the registry is public as well", "acr update -g rg -n ownregistry --public-network-enabled true", diagnosis.WarningPublicRegistry, ""},
		{"az drops the registry", "aks update -g rg -n demo --bootstrap-container-registry-resource-id " + registry + "another --yes", diagnosis.WarningIgnoredArgument,
			"aks update -g rg -n demo --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + registry + "ownregistry"},
		{"a reimage is forgotten", "aks update -g rg -n demo --bootstrap-artifact-source Cache --bootstrap-container-registry-resource-id " + registry + "another", diagnosis.WarningReimageDue, ""},
	} {
		ok := t.Run(row.name, func(t *testing.T) {
			i := *i
			i.t = t
			if codes, _ := warned(t); len(codes) > 0 {
				t.Fatalf("warned before: %v", codes)
			}
			i.types(row.line)
			codes, mend := warned(t)
			if !slices.Equal(codes, []string{row.code}) {
				t.Fatalf("warned of %v, want %s", codes, row.code)
			}
			if of := i.why(d, "demo"); len(of.Warnings) != 1 {
				t.Errorf("why warns of %v", of.Warnings)
			}
			if row.end != "" {
				mend = []string{row.end}
			}
			for _, line := range mend {
				i.types(line)
			}
			if row.code == diagnosis.WarningReimageDue { // az does not wait for the pools
				i.types("aks nodepool wait --updated -g rg --cluster-name demo -n nodepool1 --interval 1")
			}
			if codes, _ := warned(t); len(codes) > 0 {
				t.Fatalf("still warned of %v after %q", codes, mend)
			}
		})
		if !ok {
			break
		}
	}
}

// TestNodePublicIP gives a node's network interface a public IP address, which opens what outbound type none leaves closed.
func TestNodePublicIP(t *testing.T) {
	i := install(t)
	i.own()
	d := i.diagnoser(&modelled{i: i})
	i.types("network public-ip create -g rg -n pip")
	nic := i.types("network nic list -g MC_rg_demo_eastus --query [?starts_with(name,`\"aks-\"`)].id -o tsv")
	var body map[string]any
	if err := json.Unmarshal(i.want(http.StatusOK, i.do(http.MethodGet, nic, "")).body, &body); err != nil {
		t.Fatal(err)
	}
	first := body["properties"].(map[string]any)["ipConfigurations"].([]any)[0].(map[string]any)["properties"].(map[string]any)
	first["publicIPAddress"] = map[string]string{"id": i.group() + "/providers/Microsoft.Network/publicIPAddresses/pip"}
	changed, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	i.put(nic, string(changed))
	found, err := d.Warnings(t.Context(), resourceid.MustParse(i.clusterID("demo")))
	if err != nil || len(found) != 1 || found[0].Code != diagnosis.WarningNodePublicIP {
		t.Errorf("warned of %+v, %v", found, err)
	}
}

// TestPodDiagnosis tells of pods whose image does not come why it does not.
func TestPodDiagnosis(t *testing.T) {
	i := install(t)
	i.own()
	m := &modelled{i: i}
	d := i.diagnoser(m)
	node := i.types("network nic list -g MC_rg_demo_eastus --query [?starts_with(name,`\"aks-\"`)].name -o tsv")
	node = strings.TrimSuffix(node, "-nic")
	for _, row := range []struct{ image, line, cause, saw string }{
		{"mcr.microsoft.com/azuredocs/nowhere:v1", "", "upstream", "mcr.microsoft.com has no such image"},
		{"docker.io/library/nginx:1", "", "image", "asks docker.io itself"},
		{"nginx", "", "image", "asks docker.io itself"},
		{"ownregistry.azurecr.io/missing/app", "", "upstream", "ownregistry.azurecr.io has no such image"},
		{"mcr.microsoft.com/azuredocs/app:v1", "acr cache delete -n aks-managed-mcr -r ownregistry -g rg --yes", "rule", "no cache rule"},
	} {
		if row.line != "" {
			i.types(row.line)
		}
		m.pods = []diagnosis.Pod{{Namespace: "default", Name: "web", Node: node, Reason: "ImagePullBackOff", Image: row.image}}
		of := i.why(d, "default/web")
		if of.Kind != "pod" || of.Cause == nil || of.Cause.Name != row.cause || !strings.Contains(of.Cause.Saw, row.saw) {
			t.Errorf("%s: the cause is %+v, want %s: %s\n%s", row.image, of.Cause, row.cause, row.saw, told(of))
		}
	}
}
