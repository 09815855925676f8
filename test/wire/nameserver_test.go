package wire

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
)

// LookupAt asks a DNS server of the user's, which forwards to Azure's in its virtual network.
func (m *modelled) LookupAt(ctx context.Context, machine string, server netip.Addr, name string) (privatedns.Answer, error) {
	n, nic := m.nic(machine)
	vnet, forwards := m.forwards[server]
	joined := slices.ContainsFunc(n.Peers, func(p fabric.Peer) bool { return p.ID == projection.NetworkID(vnet) })
	there := strings.Contains(m.i.types("network nic list -g rg --query [].ipConfigurations[0].privateIPAddress -o tsv"), server.String())
	if _, refused := n.Refusal(nic.Address, server, "Udp", 53); forwards && joined && there && !refused {
		return m.Lookup(ctx, vnet, name)
	}
	return privatedns.Answer{}, errors.New("no answer")
}

// nameservers are those that the cluster's one node was told.
func (i *installation) nameservers() []netip.Addr {
	i.machine.mu.Lock()
	defer i.machine.mu.Unlock()
	for _, n := range i.machine.nodes {
		return n.Bootstrap.Nameservers
	}
	return nil
}

// TestNameserver gives the nodes' virtual network a DNS server in a hub. A node is told it when it is made anew, and what
// that server does not see the diagnosis tells.
func TestNameserver(t *testing.T) {
	i := install(t)
	i.own()
	server := netip.MustParseAddr("10.1.0.4")
	hub := i.group() + "/providers/Microsoft.Network/virtualNetworks/hub"
	m := &modelled{i: i, forwards: map[netip.Addr]resourceid.ID{server: resourceid.MustParse(hub)}}
	d := i.diagnoser(m)
	apiZone := i.types("network private-dns zone list -g MC_rg_demo_eastus --query [0].name -o tsv")
	link := func(group, zone string) string {
		return "network private-dns link vnet create -g " + group + " --zone-name " + zone + " -n hub-link --virtual-network " + hub + " --registration-enabled false"
	}
	for _, line := range []string{
		"network vnet create -g rg -n hub --address-prefixes 10.1.0.0/16", "network vnet subnet create -g rg --vnet-name hub -n dns --address-prefixes 10.1.0.0/24",
		"network nic create -g rg -n dns --vnet-name hub --subnet dns --private-ip-address 10.1.0.4",
		"network vnet peering create -g rg -n to-hub --vnet-name net --remote-vnet hub --allow-vnet-access", "network vnet peering create -g rg -n to-net --vnet-name hub --remote-vnet net --allow-vnet-access",
		link("rg", "privatelink.azurecr.io"), link("MC_rg_demo_eastus", apiZone),
	} {
		i.types(line)
	}
	if status, _, said := i.az("network vnet update -g rg -n net --dns-servers +"); status == 0 || !strings.Contains(said, "NetcfgInvalidIPAddress") {
		t.Errorf("an empty address: %d %s", status, said)
	}
	renewed := func(t *testing.T, change string, want ...netip.Addr) {
		t.Helper()
		before := i.nameservers()
		i.types(change)
		found, err := d.Warnings(t.Context(), resourceid.MustParse(i.clusterID("demo")))
		if err != nil || len(found) != 1 || found[0].Code != diagnosis.WarningReimageDue || !slices.Equal(i.nameservers(), before) {
			t.Fatalf("after %s: warned of %+v, %v; the node has %v", change, found, err, i.nameservers())
		}
		i.types(found[0].Mend[0])
		i.types("aks nodepool wait --updated -g rg --cluster-name demo -n nodepool1 --interval 1")
		if got := i.nameservers(); !slices.Equal(got, want) {
			t.Fatalf("after a reimage the node has %v, want %v", got, want)
		}
	}
	renewed(t, "network vnet update -g rg -n net --dns-servers 10.1.0.4", server)
	if of := i.why(d, "demo"); !of.Healthy || len(of.Warnings) > 0 || !strings.Contains(told(of), "fine DNS server 10.1.0.4") {
		t.Fatalf("a good cluster is told to be ill, for %+v\n%v\n%s", of.Cause, of.Warnings, told(of))
	}
	for _, row := range []struct {
		name, line, cause, saw string
	}{
		{"the server sees neither", "network private-dns link vnet delete -g rg --zone-name privatelink.azurecr.io -n hub-link --yes; network private-dns link vnet delete -g MC_rg_demo_eastus --zone-name " + apiZone + " -n hub-link --yes", "link", "VNet hub, where"},
		{"the server does not see the registry's zone", "network private-dns link vnet delete -g rg --zone-name privatelink.azurecr.io -n hub-link --yes", "link", "VNet hub, where DNS server 10.1.0.4 of VNet net is, is not linked to the zone"},
		{"the server does not see the API server's zone", "network private-dns link vnet delete -g MC_rg_demo_eastus --zone-name " + apiZone + " -n hub-link --yes", "link", "VNet hub, where DNS server 10.1.0.4 of VNet net is, is not linked to the zone"},
		{"the networks are not joined", "network vnet peering delete -g rg -n to-hub --vnet-name net", "DNS server", "it is in VNet hub, which VNet net is not peered with"},
		{"a security group is in the way", "network nsg rule create -g rg --nsg-name guard -n deny --priority 200 --direction Outbound --access Deny --protocol Udp --destination-port-ranges 53", "DNS server", "rule deny (priority 200, outbound) of network security group guard"},
		{"nothing has the address", "network nic delete -g rg -n dns", "DNS server", "nothing in VNet hub has the address"},
	} {
		ok := t.Run(row.name, func(t *testing.T) {
			i := *i
			i.t = t
			for line := range strings.SplitSeq(row.line, "; ") {
				i.types(line)
			}
			of := i.why(d, "demo")
			if of.Healthy || of.Cause == nil || of.Cause.Name != row.cause || !strings.Contains(of.Cause.Saw, row.saw) || len(of.Cause.Mend) == 0 {
				t.Fatalf("the cause is %+v, want %s: %s\n%s", of.Cause, row.cause, row.saw, told(of))
			}
			for _, line := range of.Cause.Mend {
				i.types(line)
			}
			if strings.Contains(of.Cause.Mend[0], "--dns-servers null") { // then the node has to be made anew
				i.types("aks upgrade -g rg -n demo --node-image-only --yes")
				i.types("aks nodepool wait --updated -g rg --cluster-name demo -n nodepool1 --interval 1")
			}
			if of := i.why(d, "demo"); !of.Healthy {
				t.Fatalf("it is not mended by %q: %+v\n%s", of.Cause.Mend, of.Cause, told(of))
			}
		})
		if !ok {
			return // the rows after it would find what it left broken
		}
	}
	if got := i.nameservers(); len(got) > 0 {
		t.Errorf("without servers of its own the network still names %v", got)
	}
}
