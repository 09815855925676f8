package projection

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
)

func publicIP(name, address string) set {
	return set{net + "publicIPAddresses/" + name: `{"location":"eastus","properties":{"ipAddress":"` + address + `"}}`}
}

// waysOut is one cluster whose subnet has a route table and whose node is behind a load balancer, beside a network
// with a NAT gateway.
func waysOut() set {
	balancer, subnet := net+"loadBalancers/kubernetes", net+"virtualNetworks/vnet/subnets/aks"
	return oneCluster().with(
		publicIP("lb", "198.19.128.1"), publicIP("nat", "198.19.128.2"), publicIP("own", "198.19.128.3"),
		set{
			net + "networkInterfaces/node0": `{"location":"eastus","properties":{"enableIPForwarding":true,"ipConfigurations":[
				{"name":"c","properties":{"privateIPAddress":"10.224.0.7","primary":true,"subnet":{"id":"` + subnet + `"},"loadBalancerBackendAddressPools":[{"id":"` + balancer + `/backendAddressPools/Pool"},{"id":"` + net + `loadBalancers/gone/backendAddressPools/p"}]}},
				{"name":"d","properties":{"privateIPAddress":"10.224.0.8","subnet":{"id":"` + subnet + `"},"publicIPAddress":{"id":"` + net + `publicIPAddresses/OWN"}}}]}}`,
			balancer: `{"location":"eastus","properties":{"frontendIPConfigurations":[{"id":"` + balancer + `/frontendIPConfigurations/f","name":"f","properties":{"publicIPAddress":{"id":"` + net + `publicIPAddresses/lb"}}}],
				"backendAddressPools":[{"name":"pool"}],"outboundRules":[
				{"name":"r","properties":{"protocol":"All","frontendIPConfigurations":[{"id":"` + balancer + `/frontendIPConfigurations/F"}],"backendAddressPool":{"id":"` + balancer + `/backendAddressPools/pool"}}},
				{"name":"other","properties":{"protocol":"Tcp","frontendIPConfigurations":[{"id":"` + balancer + `/frontendIPConfigurations/f"}],"backendAddressPool":{"id":"` + balancer + `/backendAddressPools/other"}}}]}}`,
			net + "routeTables/rt":            `{"location":"eastus"}`,
			net + "routeTables/rt/routes/out": `{"properties":{"addressPrefix":"0.0.0.0/0","nextHopType":"VirtualAppliance","nextHopIpAddress":"10.224.0.7"}}`,
			net + "routeTables/rt/routes/in":  `{"properties":{"addressPrefix":"10.0.0.0/8","nextHopType":"None"}}`,
			net + "natGateways/gw":            `{"location":"eastus","properties":{"publicIpAddresses":[{"id":"` + net + `publicIPAddresses/nat"},{"id":"` + net + `publicIPAddresses/gone"}]}}`,
		},
		subnetOf("vnet", "aks", "10.224.0.0/16", `,"defaultOutboundAccess":false,"routeTable":{"id":"`+net+`routeTables/RT"}`),
		vnet("nat", "10.1.0.0/16"), subnetOf("nat", "s", "10.1.0.0/24", `,"natGateway":{"id":"`+net+`natGateways/GW"}`),
		subnetOf("nat", "t", "10.1.1.0/24", `,"natGateway":{"id":"`+net+`natGateways/gone"}`),
	)
}

func TestWaysOut(t *testing.T) {
	byPrefix := map[string]fabric.Network{}
	for _, n := range project(t, waysOut().input()).Fabric.Networks {
		byPrefix[n.Prefixes[0].String()] = n
	}
	cluster, nat := byPrefix["10.224.0.0/12"], byPrefix["10.1.0.0/16"]
	nic := cluster.NICs[0]
	if !nic.Balanced || !nic.Forwarding || fmt.Sprint(nic.Outbound) != "[{* [198.19.128.1]}]" || fmt.Sprint(nic.Public) != "[{10.224.0.8 198.19.128.3}]" {
		t.Errorf("the node's ways out: %+v", nic)
	}
	if got := fmt.Sprint(cluster.Subnets[0].Routes); got != "[{0.0.0.0/0 VirtualAppliance 10.224.0.7} {10.0.0.0/8 None invalid IP}]" {
		t.Errorf("routes: %s", got)
	}
	if g := nat.Subnets[0].NATGateway; g == nil || fmt.Sprint(g.Addresses) != "[198.19.128.2]" {
		t.Errorf("NAT gateway: %+v", g)
	}
	// A gateway that is not there grants nothing, and hides what would.
	if g := nat.Subnets[1].NATGateway; g == nil || len(g.Addresses) != 0 || !nat.Subnets[1].DefaultOutbound {
		t.Errorf("a NAT gateway that is gone: %+v", g)
	}
	// An address is one network's, whatever the documents say.
	docs := waysOut().with(vnet("other", "10.2.0.0/16"), subnetOf("other", "s", "10.2.0.0/24", `,"natGateway":{"id":"`+net+`natGateways/gw"}`))
	users := 0
	for _, n := range project(t, docs.input()).Fabric.Networks {
		for _, s := range n.Subnets {
			if s.NATGateway != nil {
				for _, a := range s.NATGateway.Addresses {
					if a == netip.MustParseAddr("198.19.128.2") {
						users++
					}
				}
			}
		}
	}
	if users != 1 {
		t.Errorf("%d networks have one public address", users)
	}
}

func peering(from, to, more string) set {
	return set{net + "virtualNetworks/" + from + "/virtualNetworkPeerings/to-" + to: `{"properties":{"remoteVirtualNetwork":{"id":"` + net + `virtualNetworks/` + to + `"}` + more + `}}`}
}

// Networks are joined when both say so, and groups' tags include what is joined.
func TestPeers(t *testing.T) {
	docs := vnet("a", "10.0.0.0/16").with(vnet("b", "10.1.0.0/16"), vnet("c", "10.1.0.0/24"),
		subnetOf("a", "s", "10.0.0.0/24", `,"networkSecurityGroup":{"id":"`+net+`networkSecurityGroups/nsg"}`),
		rule("nsg", "r", anyPorts+`"access":"Deny","direction":"Outbound","priority":100,"sourceAddressPrefix":"*","destinationAddressPrefix":"VirtualNetwork"`),
		peering("a", "b", `,"allowForwardedTraffic":true`), peering("a", "gone", ""), peering("b", "c", ""), peering("c", "b", ""))
	network := func(s State, name string) fabric.Network {
		for _, n := range s.Fabric.Networks {
			if n.ID == NetworkID(resourceid.MustParse(net+"virtualNetworks/"+name)) {
				return n
			}
		}
		t.Fatalf("no network %s", name)
		return fabric.Network{}
	}
	for _, n := range project(t, docs.input()).Fabric.Networks {
		if len(n.Peers) > 0 {
			t.Errorf("joined by one side, or with overlapping addresses: %+v", n.Peers)
		}
	}
	joined := docs.with(peering("b", "a", `,"allowVirtualNetworkAccess":false`))
	s := project(t, joined.input())
	a, b := network(s, "a"), network(s, "b")
	if len(a.Peers) != 1 || a.Peers[0].ID != b.ID || !a.Peers[0].Forwarded || !a.Peers[0].Tagged || fmt.Sprint(a.Peers[0].Prefixes) != "[10.1.0.0/16]" {
		t.Errorf("a's peers: %+v", a.Peers)
	}
	if len(b.Peers) != 1 || b.Peers[0].Forwarded || b.Peers[0].Tagged {
		t.Errorf("b's peers: %+v", b.Peers)
	}
	if got := fmt.Sprint(a.Subnets[0].Rules[0].DestinationPrefixes); got != "[10.0.0.0/16 10.1.0.0/16]" {
		t.Errorf("VirtualNetwork is %s", got)
	}
	for name, in := range map[string]Input{
		"a side deleted":    joined.input(net + "virtualNetworks/b/virtualNetworkPeerings/to-a"),
		"a network deleted": joined.input(net+"virtualNetworks/b", net+"virtualNetworks/b/virtualNetworkPeerings/to-a"),
	} {
		if peers := network(project(t, in), "a").Peers; len(peers) != 0 {
			t.Errorf("%s: %+v", name, peers)
		}
	}
}

// A jump box behind a network interface is what the interface's document says; one behind what is a machine's, or
// behind what another is behind already, is nowhere.
func TestSessionBehindAnInterface(t *testing.T) {
	subnet, nic := net+"virtualNetworks/hub/subnets/fw", net+"networkInterfaces/fw"
	docs := waysOut().with(vnet("hub", "10.9.0.0/16"), subnetOf("hub", "fw", "10.9.0.0/24", ""), publicIP("fw", "198.19.128.9"),
		set{nic: `{"location":"eastus","properties":{"enableIPForwarding":true,"ipConfigurations":[{"name":"c","properties":{"privateIPAddress":"10.9.0.4","primary":true,"subnet":{"id":"` + subnet + `"},"publicIPAddress":{"id":"` + net + `publicIPAddresses/fw"}}}]}}`})
	in := docs.input()
	for i, id := range []string{nic, nic, net + "networkInterfaces/node0", net + "networkInterfaces/gone"} {
		in.Sessions = append(in.Sessions, Session{Name: fmt.Sprintf("jump-%d", i), Network: resourceid.MustParse(net + "virtualNetworks/hub"), Subnet: "fw",
			Address: netip.MustParseAddr("10.9.0.4"), Interface: resourceid.MustParse(id)})
	}
	var jumps []fabric.NIC
	for _, n := range project(t, in).Fabric.Networks {
		for _, nic := range n.NICs {
			if nic.Guest.UIDCount == 0 {
				jumps = append(jumps, nic)
			}
		}
	}
	if len(jumps) != 1 || jumps[0].Guest.Name != "jump-0" || !jumps[0].Forwarding || fmt.Sprint(jumps[0].Public) != "[{10.9.0.4 198.19.128.9}]" {
		t.Errorf("%+v", jumps)
	}
}

// Whatever the documents say of ways out, also what their types would refuse, the fabric accepts the projection: a
// state that it refuses would be nobody's network.
func TestFabricAcceptsWaysOut(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 11))
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	for range 300 {
		docs := publicIP("p0", "198.19.128.1").with(publicIP("p1", "198.19.128.2"))
		for g := range 2 {
			docs = docs.with(set{
				fmt.Sprintf("%snatGateways/g%d", net, g): fmt.Sprintf(`{"location":"eastus","properties":{"publicIpAddresses":[{"id":"%spublicIPAddresses/p%d"},{"id":"%spublicIPAddresses/p%d"}]}}`, net, r.IntN(3), net, r.IntN(3)),
				fmt.Sprintf("%srouteTables/t%d", net, g): `{"location":"eastus"}`,
			})
			for n := range r.IntN(4) {
				hop := one("VnetLocal", "Internet", "None", "VirtualAppliance")
				next := ""
				if hop == "VirtualAppliance" {
					next = `,"nextHopIpAddress":"10.` + one("0", "1", "2", "9") + `.0.4"`
				}
				docs = docs.with(set{fmt.Sprintf("%srouteTables/t%d/routes/r%d", net, g, n): `{"properties":{"addressPrefix":"` + one("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "240.0.0.1/32", "198.18.0.10/32") + `","nextHopType":"` + hop + `"` + next + `}}`})
			}
		}
		for v := range 3 {
			name := fmt.Sprintf("v%d", v)
			docs = docs.with(vnet(name, one(fmt.Sprintf("10.%d.0.0/16", v), fmt.Sprintf("10.%d.0.0/16", v), "10.0.0.0/14")))
			docs = docs.with(subnetOf(name, "s", fmt.Sprintf("10.%d.0.0/24", v), one("", `,"natGateway":{"id":"`+net+`natGateways/g0"}`, `,"natGateway":{"id":"`+net+`natGateways/g`+one("1", "2")+`"}`)+
				one("", `,"routeTable":{"id":"`+net+`routeTables/t`+one("0", "1", "2")+`"}`)))
			for p := range 3 {
				if r.IntN(2) == 0 {
					docs = docs.with(peering(name, fmt.Sprintf("v%d", p), one("", `,"allowForwardedTraffic":true`)))
				}
			}
			docs = docs.with(set{fmt.Sprintf("%snetworkInterfaces/n%d", net, v): fmt.Sprintf(`{"location":"eastus","properties":{"enableIPForwarding":%v,"ipConfigurations":[{"name":"c","properties":{"primary":true,"privateIPAddress":"10.%d.0.4","subnet":{"id":"%svirtualNetworks/%s/subnets/s"}%s,
				"loadBalancerBackendAddressPools":[{"id":"%sloadBalancers/lb/backendAddressPools/%s"}]}}]}}`, r.IntN(2) == 0, v, net, name, one("", `,"publicIPAddress":{"id":"`+net+`publicIPAddresses/p`+one("0", "1", "2")+`"}`), net, one("a", "b"))})
		}
		balancer := net + "loadBalancers/lb"
		docs = docs.with(set{balancer: `{"location":"eastus","properties":{"frontendIPConfigurations":[{"id":"` + balancer + `/frontendIPConfigurations/f","properties":{"publicIPAddress":{"id":"` + net + `publicIPAddresses/p` + one("0", "1", "2") + `"}}}],
			"outboundRules":[{"name":"o","properties":{"protocol":"` + one("All", "Tcp", "Udp") + `","frontendIPConfigurations":[{"id":"` + balancer + `/frontendIPConfigurations/f"}],"backendAddressPool":{"id":"` + balancer + `/backendAddressPools/a"}}}]}}`})
		in := docs.input()
		for v := range 3 {
			name := fmt.Sprintf("v%d", v)
			in.Sessions = append(in.Sessions, Session{Name: "jump-" + name, Network: resourceid.MustParse(net + "virtualNetworks/" + name), Subnet: "s",
				Address: netip.MustParseAddr(fmt.Sprintf("10.%d.0.4", v)), Interface: resourceid.MustParse(fmt.Sprintf("%snetworkInterfaces/n%d", net, v))})
		}
		project(t, in)
	}
}
