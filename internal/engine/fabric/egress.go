package fabric

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ways out of a VNet, in the order in which Azure asks them: a route decides the next hop; toward the Internet it is
// the subnet's NAT gateway, then the public IP address of the NIC itself, then an outbound rule of a load balancer that the
// NIC is behind, then default outbound access. The first that is there decides, also when it does not let the packet out.
// https://learn.microsoft.com/azure/nat-gateway/nat-overview, https://learn.microsoft.com/azure/virtual-network/ip-services/default-outbound-access

// NATGateway is a subnet's. Without addresses nothing gets out by it, nor by any other way.
type NATGateway struct{ Addresses []netip.Addr }

// PublicAddress is an instance-level public IP address: what one of a NIC's own addresses is outside.
type PublicAddress struct{ Private, Public netip.Addr }

// OutboundRule is an outbound rule of a load balancer.
type OutboundRule struct {
	Protocol  string // "*", "Tcp" or "Udp"
	Addresses []netip.Addr
}

// grantSpace is where the addresses of NAT gateways, NICs and load balancers come from; those of default outbound
// access are in the other half of 198.19.0.0/16.
var grantSpace = netip.MustParsePrefix("198.19.128.0/17")

// carried are the protocols that have a way out. NAT gateways and load balancers translate those with ports alone.
var carried = []byte{unix.IPPROTO_ICMP, unix.IPPROTO_TCP, unix.IPPROTO_UDP}

// outside is what the Internet sees packets as that the NIC sends from one of its addresses; invalid: they do not get out.
// A pod's address, which has none of its own, shares its node's, as if the node had translated it.
func (n Network) outside(nic NIC, private netip.Addr, proto byte, slot uint16) netip.Addr {
	subnet := n.subnet(nic.Subnet)
	ports := proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP
	if subnet.NATGateway != nil {
		if !ports {
			return netip.Addr{}
		}
		return nic.pick(subnet.NATGateway.Addresses)
	}
	for _, own := range []netip.Addr{private, nic.Address} {
		for _, p := range nic.Public {
			if p.Private == own {
				return p.Public
			}
		}
	}
	for _, o := range nic.Outbound {
		if ports && (protocols[o.Protocol] == 0 || protocols[o.Protocol] == proto) {
			return nic.pick(o.Addresses)
		}
	}
	// What is behind a standard load balancer has no default outbound access.
	if subnet.DefaultOutbound && !nic.Balanced {
		return publicAddress(slot)
	}
	return netip.Addr{}
}

// pick spreads NICs over the addresses, and lets each keep its own.
func (n NIC) pick(addresses []netip.Addr) netip.Addr {
	if len(addresses) == 0 {
		return netip.Addr{}
	}
	sum := sha256.Sum256([]byte(n.ID))
	return addresses[binary.BigEndian.Uint32(sum[:4])%uint32(len(addresses))]
}

func (n Network) subnet(name string) Subnet {
	for _, s := range n.Subnets {
		if s.Name == name {
			return s
		}
	}
	return Subnet{}
}

// granted are the public addresses by which anything in the network may get out.
func (n Network) granted(slot uint16) (all []netip.Addr) {
	for _, s := range n.Subnets {
		if s.DefaultOutbound {
			all = append(all, publicAddress(slot))
		}
	}
	for a := range n.named() {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// named are the public addresses that documents name, with what names them.
func (n Network) named() map[netip.Addr]string {
	all := map[netip.Addr]string{}
	for _, s := range n.Subnets {
		if s.NATGateway != nil {
			for _, a := range s.NATGateway.Addresses {
				all[a] = "subnet " + s.Name
			}
		}
	}
	for _, nic := range n.NICs {
		for _, p := range nic.Public {
			all[p.Public] = "NIC " + nic.ID
		}
		for _, o := range nic.Outbound {
			for _, a := range o.Addresses {
				all[a] = "NIC " + nic.ID
			}
		}
	}
	return all
}

// ways declares the map "egress" from who sends a packet to what it is to be seen as outside, and the set "translations"
// of the same with the translation that a flow was given when it began.
func (t *table) ways(n Network, slot uint16) {
	var egress, translations []nftables.SetElement
	for _, nic := range n.NICs {
		for _, private := range nic.addresses() {
			for _, proto := range carried {
				a := n.outside(nic, private, proto, slot)
				if !a.IsValid() {
					continue
				}
				key := slices.Concat(ifname(nic.device()), private.AsSlice(), []byte{proto, 0, 0, 0})
				egress = append(egress, nftables.SetElement{Key: key, Val: a.AsSlice()})
				translations = append(translations, nftables.SetElement{Key: slices.Concat(key, a.AsSlice())})
			}
		}
	}
	t.add(set{Name: "egress", Key: concat(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetProto), Map: true, Data: nftables.TypeIPAddr, Elements: egress})
	t.add(set{Name: "translations", Key: concat(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeIPAddr), Elements: translations})
}

// sender loads who sends a packet, as it is the key of "egress".
func sender() []expr.Any {
	return []expr.Any{
		loadIn(register1), loadSource(afterName), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: afterName + 1},
	}
}

// markedFrom gives the packet the mark that the map has for what the loads put into registers.
func markedFrom(mapName string, loads ...expr.Any) []expr.Any {
	return append(loads,
		&expr.Lookup{SourceRegister: register1, SetName: mapName, DestRegister: register1, IsDestRegSet: true},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register1})
}

// sourceIsMark gives the packet its mark as its source address.
func sourceIsMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register1},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register1},
	}
}

// answering is the direction of a flow's answers. The kernel reads one byte of it, and the library writes four, the
// highest first.
const answering = 1 << 24

// leave are the rules for what is routed to `public`. A flow that has no translation yet is marked with the address that
// it is to have there. One that has passes while that is still the address it would be given, so that it ends with its grant.
func leave() []rule {
	translation := func(reg uint32) expr.Any { return &expr.Ct{Key: expr.CtKeyDST, Register: reg, Direction: answering} }
	return []rule{
		rules("", out(publicName), ctState(expr.CtStateBitNEW), member("sources", loadIn(register1), translation(afterName)), markedFrom("egress", sender()...), accept()),
		rules("", out(publicName), member("translations", append(sender(), translation(afterName+2))...), accept()),
	}
}
