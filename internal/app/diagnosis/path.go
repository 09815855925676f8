package diagnosis

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/documents"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
)

const ruleType = "Microsoft.Network/networkSecurityGroups/securityRules"

// path tries a connection from a node, and says by the documents what keeps it from passing.
func (w *world) path(ctx context.Context, c *chain, of *cluster, from machine, subject string, to netip.AddrPort) bool {
	g, there := w.guest(from)
	if !there {
		c.unknown(linkPath, subject, "there is no node to try a connection to %s from", to)
		return false
	}
	refusal, refused := g.network.Refusal(g.nic.Address, to.Addr(), "Tcp", to.Port())
	err := w.machine.Connect(ctx, from.ID, to)
	switch {
	case refused:
		saw := w.refusal(c, of, g, refusal, "Tcp", to)
		c.broken(linkPath, subject, nil, "no connection from node %s to %s: %s", from.Name, to, saw)
	case err != nil:
		c.broken(linkPath, subject, nil, "no connection from node %s to %s: %v", from.Name, to, err)
	default:
		c.fine(linkPath, subject, "node %s reaches %s", from.Name, to)
	}
	return !refused && err == nil
}

// blocked is a connection that a security rule refuses.
type blocked struct {
	link     int // in the chain
	group    resourceid.ID
	refusal  fabric.Refusal
	from     string // prefix of the nodes' subnet
	protocol string // "Tcp" or "Udp"
	to       netip.AddrPort
	taken    []int // priorities of the group's rules of that direction
}

// refusal names the security rule that refuses the connection of the link that is added next.
func (w *world) refusal(c *chain, of *cluster, g guest, r fabric.Refusal, protocol string, to netip.AddrPort) string {
	place := "subnet " + r.Subnet
	if r.Subnet == "" {
		place = "the network interface"
	}
	group := w.groupOf(of, g, r)
	if !group.IsZero() {
		b := blocked{link: len(c.links), group: group, refusal: r, from: g.nic.Address.String(), protocol: protocol, to: to}
		for _, s := range g.network.Subnets {
			if s.Name == g.nic.Subnet {
				b.from = s.Prefix.String()
			}
		}
		for _, doc := range w.docs.Under(group, ruleType) {
			var rule struct {
				Properties struct {
					Priority  int
					Direction string
				}
			}
			if w.docs.Read(doc.ID, &rule) && strings.EqualFold(rule.Properties.Direction, string(r.Rule.Direction)) {
				b.taken = append(b.taken, rule.Properties.Priority)
			}
		}
		c.blocked = append(c.blocked, b)
	}
	return fmt.Sprintf("rule %s (priority %d, %s) of network security group %s of %s refuses it", r.Rule.Name, r.Rule.Priority, strings.ToLower(string(r.Rule.Direction)), group.Name(), place)
}

// groupOf is the security group that judged.
func (w *world) groupOf(of *cluster, g guest, r fabric.Refusal) resourceid.ID {
	var doc struct {
		Properties struct{ NetworkSecurityGroup documents.Ref }
	}
	if r.Subnet == "" {
		for _, m := range of.machines {
			if at, ok := w.guest(m); ok && at.nic.ID == r.NIC {
				w.docs.Read(m.NIC, &doc)
			}
		}
		return doc.Properties.NetworkSecurityGroup.ID
	}
	vnet, _ := g.subnet.Parent()
	for _, s := range w.docs.Under(vnet, "Microsoft.Network/virtualNetworks/subnets") {
		if strings.EqualFold(s.ID.Name(), r.Subnet) {
			w.docs.Read(s.ID, &doc)
		}
	}
	return doc.Properties.NetworkSecurityGroup.ID
}

// unblock gives the links that security rules refuse the commands that let them pass: one rule for all that the same
// rule refuses.
func (c *chain) unblock() {
	for _, b := range c.blocked {
		var to []netip.AddrPort
		for _, other := range c.blocked {
			if other.group.Equal(b.group) && other.refusal.Rule.Name == b.refusal.Rule.Name && other.protocol == b.protocol && !slices.Contains(to, other.to) {
				to = append(to, other.to)
			}
		}
		if c.links[b.link].Mend == nil {
			c.links[b.link].Mend = []string{b.letPass(to)}
		}
	}
}

// letPass is a rule before the one that refuses, for these connections alone; where no priority is free before it, the
// rule itself has to go.
func (b blocked) letPass(to []netip.AddrPort) string {
	const first, last = 100, 4096 // of Azure's user rules
	rule := b.refusal.Rule
	priority := min(rule.Priority, last+1) - 1
	for priority >= first && slices.Contains(b.taken, priority) {
		priority--
	}
	where := []string{"-g", b.group.ResourceGroup(), "--nsg-name", b.group.Name()}
	if priority < first {
		return az(slices.Concat([]string{"network", "nsg", "rule", "delete"}, where, []string{"-n", rule.Name})...)
	}
	words := slices.Concat([]string{"network", "nsg", "rule", "create"}, where, []string{
		"-n", "allow-before-" + rule.Name, "--priority", strconv.Itoa(priority), "--direction", string(rule.Direction), "--access", "Allow", "--protocol", b.protocol,
	})
	if rule.Direction == fabric.Inbound {
		words = append(words, "--source-address-prefixes", b.from)
	}
	words = append(words, "--destination-address-prefixes")
	var ports []string
	for _, t := range to {
		words = append(words, t.Addr().String())
		if p := strconv.Itoa(int(t.Port())); !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	return az(slices.Concat(words, []string{"--destination-port-ranges"}, ports)...)
}

// wayOut looks at a cluster's way to the Internet, which its outbound type promises.
func (w *world) wayOut(ctx context.Context, c *chain, of *cluster, from machine) {
	subject := of.id.String()
	outboundType := of.Properties.NetworkProfile.OutboundType
	g, there := w.guest(from)
	if !there {
		c.unknown(linkWayOut, subject, "there is no node to try a connection from")
		return
	}
	to := netip.AddrPortFrom(projection.AddressMCR, 443)
	err := w.machine.Connect(ctx, from.ID, to)
	if err == nil {
		c.fine(linkWayOut, subject, "outbound type %s: node %s reaches %s", outboundType, from.Name, mcr)
		return
	}
	if refusal, refused := g.network.Refusal(g.nic.Address, to.Addr(), "Tcp", to.Port()); refused {
		saw := w.refusal(c, of, g, refusal, "Tcp", to)
		c.broken(linkWayOut, subject, nil, "outbound type %s: node %s does not reach %s: %s", outboundType, from.Name, mcr, saw)
		return
	}
	var subnet fabric.Subnet
	for _, s := range g.network.Subnets {
		if s.Name == g.nic.Subnet {
			subnet = s
		}
	}
	if route, ok := subnet.Route(to.Addr()); ok && route.Hop != fabric.Internet {
		w.routed(c, of, g, from, route)
		return
	}
	if way := g.network.WayOut(g.nic); way != "" {
		c.broken(linkWayOut, subject, nil, "outbound type %s: node %s does not reach %s by %s: %v", outboundType, from.Name, mcr, way, err)
		return
	}
	mend := []string{of.reconcile()}
	if of.isolated() || outboundType == "userDefinedRouting" {
		mend = nil
	}
	c.broken(linkWayOut, subject, mend, "outbound type %s: subnet %s has no way out: no NAT gateway, no public IP address, no outbound rule, no default outbound access", outboundType, g.nic.Subnet)
}

// routed tells of a user's route that leads nowhere.
func (w *world) routed(c *chain, of *cluster, g guest, from machine, route fabric.Route) {
	var subnet struct {
		Properties struct{ RouteTable documents.Ref }
	}
	w.docs.Read(g.subnet, &subnet)
	table := subnet.Properties.RouteTable.ID
	name := ""
	for _, r := range w.docs.Under(table, "Microsoft.Network/routeTables/routes") {
		var doc struct {
			Properties struct{ AddressPrefix string }
		}
		if w.docs.Read(r.ID, &doc) && doc.Properties.AddressPrefix == route.Prefix.String() {
			name = r.ID.Name()
		}
	}
	var where string
	var mend []string
	switch route.Hop {
	case fabric.VirtualAppliance:
		where, mend = w.appliance(route.Appliance)
	case fabric.VnetLocal:
		where = "into the virtual network"
	default:
		where = "to nowhere (None)"
	}
	if of.Properties.NetworkProfile.OutboundType != "userDefinedRouting" && name != "" {
		mend = []string{az("network", "route-table", "route", "delete", "-g", table.ResourceGroup(), "--route-table-name", table.Name(), "-n", name)}
	}
	c.broken(linkWayOut, of.id.String(), mend, "outbound type %s: node %s does not reach %s: route %s of route table %s sends %s %s",
		of.Properties.NetworkProfile.OutboundType, from.Name, mcr, name, table.Name(), route.Prefix, where)
}

// nicView is a network interface, as far as it stands for an appliance.
type nicView struct {
	Properties struct {
		EnableIPForwarding bool
		IPConfigurations   []struct {
			Properties struct{ PrivateIPAddress string }
		}
	}
}

func (v nicView) has(a netip.Addr) bool {
	for _, c := range v.Properties.IPConfigurations {
		if c.Properties.PrivateIPAddress == a.String() {
			return true
		}
	}
	return false
}

// appliance tells what becomes of packets that a route sends to an address, and what lets them on.
func (w *world) appliance(a netip.Addr) (where string, mend []string) {
	where = "to the appliance " + a.String()
	for _, r := range w.docs.Of(nicType) {
		var nic nicView
		if !w.docs.Read(r.ID, &nic) || !nic.has(a) {
			continue
		}
		if !nic.Properties.EnableIPForwarding {
			return where + ", whose network interface " + r.ID.Name() + " has IP forwarding off", []string{az("network", "nic", "update", "-g", r.ID.ResourceGroup(), "-n", r.ID.Name(), "--ip-forwarding", "true")}
		}
		return where + ", network interface " + r.ID.Name() + ", which does not let it out", nil
	}
	return where + ", and no network interface has that address", nil
}
