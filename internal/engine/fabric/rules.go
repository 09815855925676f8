package fabric

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names of the counters.
const (
	refusedCounter = "refused" // packets of flows that nothing grants
	spoofedCounter = "spoofed" // packets with a source address that is not the NIC's
	ipv6Counter    = "ipv6"    // packets of IPv6, none of which pass
	arrivalTally   = "arrivals"
)

// Hooks. Rules that judge come before translation, when the packet is still as the guest sent it, and after conntrack.
var (
	steer       = &base{nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, false}
	judge       = &base{nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle, true}
	judgeFronts = &base{nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle, false}
	translate   = &base{nftables.ChainTypeNAT, *nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest, false}
	forward     = &base{nftables.ChainTypeFilter, *nftables.ChainHookForward, *nftables.ChainPriorityFilter, true}
	output      = &base{nftables.ChainTypeFilter, *nftables.ChainHookOutput, *nftables.ChainPriorityFilter, false}
	input       = &base{nftables.ChainTypeFilter, *nftables.ChainHookInput, *nftables.ChainPriorityFilter, true}
	mask        = &base{nftables.ChainTypeNAT, *nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, false}
	arrival     = &base{nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, false}
	nothingIn   = &base{nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, true}
	nothingUp   = &base{nftables.ChainTypeFilter, *nftables.ChainHookOutput, *nftables.ChainPriorityRaw, true}
)

const related = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED

// source is a link and the address that may come from it.
type source struct {
	dev     string
	address netip.Addr
}

func sourceElements(list []source) (elements []nftables.SetElement) {
	for _, s := range list {
		elements = append(elements, nftables.SetElement{Key: slices.Concat(ifname(s.dev), s.address.AsSlice())})
	}
	return elements
}

func names(list []string) (elements []nftables.SetElement) {
	for _, n := range list {
		elements = append(elements, nftables.SetElement{Key: ifname(n)})
	}
	return elements
}

// refuse is where every refused packet of a namespace ends, so that a ledger of refused flows has one place to listen.
func (t *table) refuse(counter string) {
	t.Counters = append(t.Counters, counter)
	t.chain("refuse", nil, rules("", count(counter), drop()))
}

// noIPv6 drops all of it, in both directions, and counts what came.
func noIPv6() (t table) {
	t.Counters = []string{ipv6Counter}
	t.chain("arriving", nothingIn, rules("", count(ipv6Counter), drop()))
	t.chain("leaving", nothingUp)
	return t
}

type vnetInput struct {
	Network
	slot   uint16
	marks  map[string]uint32 // the routing table of what comes from a device
	relays []relay           // of all networks
}

// render makes the rules of a VNet's namespace.
func (v vnetInput) render() *ruleset {
	r := &ruleset{IPv6: noIPv6()}
	t := &r.IPv4
	t.refuse(refusedCounter)
	t.Counters = append(t.Counters, spoofedCounter)

	var sources []source
	var nics, forwarders []string
	var endpoints []nftables.SetElement
	for _, nic := range v.NICs {
		dev := nic.device()
		nics = append(nics, dev)
		for _, a := range nic.addresses() {
			sources = append(sources, source{dev, a})
		}
		if nic.Forwarding {
			forwarders = append(forwarders, dev)
		}
	}
	for _, e := range v.Endpoints {
		for _, p := range e.Ports {
			endpoints = append(endpoints, nftables.SetElement{
				Key: slices.Concat(e.Address.AsSlice(), paddedPort(p)),
				Val: e.ServiceAddress.AsSlice(),
			})
		}
	}
	t.add(set{Name: "nics", Key: nftables.TypeIFName, Elements: names(nics)})
	t.add(set{Name: "sources", Key: concat(nftables.TypeIFName, nftables.TypeIPAddr), Elements: sourceElements(sources)})
	t.add(set{Name: "forwarders", Key: nftables.TypeIFName, Elements: names(forwarders)})
	t.ways(v.Network, v.slot)
	t.steer(v.marks)
	t.add(set{Name: "endpoints", Key: concat(nftables.TypeIPAddr, nftables.TypeInetService), Map: true, Data: nftables.TypeIPAddr, Elements: endpoints})
	var platform []nftables.SetElement
	for _, a := range platformAddresses {
		platform = append(platform, nftables.SetElement{Key: a.AsSlice()})
	}
	t.add(set{Name: "platform", Key: nftables.TypeIPAddr, Elements: platform})
	t.securityGroups(v.Network)
	peering := t.peering(v)
	t.add(set{Name: "peering", Key: nftables.TypeIFName, Elements: names(peering)})
	t.add(set{Name: "within", Key: nftables.TypeIFName, Elements: names(slices.Concat(nics, peering))})

	t.chain("judge", judge,
		rules("", in("lo"), accept()),
		// From the hub and from public only answers come.
		rules("", in("hub"), ctState(related), accept()),
		rules("", in("hub"), goTo("refuse")),
		rules("", in(publicName), ctState(related), accept()),
		rules("", in(publicName), goTo("refuse")),
		rules("only what a NIC has may come from it, unless it forwards", notMember("forwarders", loadIn(register1)), notMember("peering", loadIn(register1)),
			notMember("sources", loadIn(register1), loadSource(afterName)), count(spoofedCounter), drop()),
		rules("", member("platform", loadSource(register1)), count(spoofedCounter), drop()),
		rules("", decide("peers", loadIn(register1))),
		rules("", ctState(expr.CtStateBitINVALID), drop()),
		rules("", ctState(related), accept()),
		rules("no security group applies to the platform", member("platform", loadDestination(register1)), accept()),
		rules("", decide("outbound", loadIn(register1))),
		rules("", decide("guarded", loadDestination(register1))),
		rules("", accept()),
	)
	t.chain("translate", translate,
		rules("", protocol(unix.IPPROTO_TCP), destinationFrom("endpoints", loadDestination(register1), loadPort(registerTwo))),
	)
	t.chain("forward", forward, slices.Concat([]rule{
		rules("", out(sinkName), goTo("refuse")),
		rules("", ctState(related), reply(), accept()),
		rules("", ctState(expr.CtStateBitRELATED), accept()),
		rules("", ctState(expr.CtStateBitNEW), decide("inbound", loadOut(register1))),
		rules("", member("within", loadIn(register1)), member("nics", loadOut(register1)), accept()),
		rules("what came by a peer goes to no other", member("nics", loadIn(register1)), member("peering", loadOut(register1)), accept()),
		// A grant is looked at for every packet of the way out, so that a flow ends with it. The map is
		// asked for what the guest dialled: an old translation does not outlive its endpoint.
		rules("", out("hub"), member("within", loadIn(register1)), translated(), protocol(unix.IPPROTO_TCP), member("dialled", original()...), accept()),
	}, leave(), []rule{
		rules("", goTo("refuse")),
	})...)
	dialled := make([]nftables.SetElement, len(endpoints))
	for i, e := range endpoints {
		dialled[i] = nftables.SetElement{Key: e.Key}
	}
	t.add(set{Name: "dialled", Key: concat(nftables.TypeIPAddr, nftables.TypeInetService), Elements: dialled})
	t.chain("output", output,
		rules("the namespace itself speaks to guests only", out(sinkName), drop()),
		rules("", out("hub"), drop()),
		rules("", out(publicName), drop()),
	)
	t.chain("mask", mask,
		rules("", out("hub"), sourceIs(linkAddress(v.slot))),
		rules("", out(publicName), sourceIsMark()),
	)
	return r
}

// peering renders what may come by each peer: what began there, unless the peer may forward. It returns the devices.
func (t *table) peering(v vnetInput) (devices []string) {
	var chains []nftables.SetElement
	for _, p := range v.Peers {
		dev := peerDevice(p.ID)
		sources := []rule{rules("", member("platform", loadDestination(register1)), goTo("refuse"))}
		if !p.Forwarded {
			if len(p.Prefixes) > 0 {
				sources = append(sources, rules("", member(t.prefixes(p.Prefixes), loadSource(register1)), back()))
			}
			sources = append(sources, rules("", count(spoofedCounter), drop()))
		}
		t.chain(dev+"-from", nil, sources...)
		from := &expr.Verdict{Kind: expr.VerdictJump, Chain: dev + "-from"}
		by := []string{dev}
		for _, r := range v.relays {
			if r.from == v.ID && r.to == p.ID || r.from == p.ID && r.to == v.ID {
				by = append(by, r.dev)
			}
		}
		for _, dev := range by {
			chains = append(chains, nftables.SetElement{Key: ifname(dev), VerdictData: from})
		}
		devices = append(devices, by...)
	}
	t.add(set{Name: "peers", Key: nftables.TypeIFName, Map: true, Data: nftables.TypeVerdict, Elements: chains})
	return devices
}

// original loads the destination the guest dialled, before translation.
func original() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDST, Register: register1, Direction: 0},
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: registerTwo, Direction: 0},
	}
}

// flow is what may pass the hub.
type flow struct {
	dev      string
	from, to netip.Addr
	port     uint16
}

type hubInput struct {
	leaves []string
	flows  []flow
}

// render makes the rules of the hub, which forwards known flows from a network to a service, and answers to them.
func (h hubInput) render() *ruleset {
	r := &ruleset{IPv6: noIPv6()}
	t := &r.IPv4
	t.refuse(refusedCounter)
	var flows []nftables.SetElement
	for _, f := range h.flows {
		flows = append(flows, nftables.SetElement{Key: slices.Concat(ifname(f.dev), f.from.AsSlice(), f.to.AsSlice(), paddedPort(f.port))})
	}
	t.add(set{Name: "leaves", Key: nftables.TypeIFName, Elements: names(h.leaves)})
	t.add(set{Name: "flows", Key: concat(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetService), Elements: flows})
	t.chain("forward", forward,
		rules("", member("leaves", loadIn(register1)), ctState(related), reply(), accept()),
		rules("", protocol(unix.IPPROTO_TCP), member("flows", loadIn(register1), loadSource(afterName), loadDestination(afterName+1), loadPort(afterName+2)), accept()),
		rules("", goTo("refuse")),
	)
	t.chain("input", input)
	return r
}

type publicInput struct {
	sources  []source // of networks
	stations []source
	fronts   []Front
}

// render makes the rules of public, which counts what comes from a network, whether or not anything is there to answer,
// and forwards nothing but what is for a front.
func (p publicInput) render() *ruleset {
	r := &ruleset{}
	p.renderFronts(&r.IPv4)
	var devices []string
	for _, s := range p.sources {
		devices = append(devices, s.dev)
	}
	for _, t := range []struct {
		*table
		key  nftables.SetDatatype
		load expr.Any
		rest []rule
	}{
		{&r.IPv4, nftables.TypeIPAddr, loadDestination(register1), []rule{
			rules("", in("lo"), accept()),
			rules("only what is on the other side may come from it", in(hubName), accept()), // judged when conntrack has it
			rules("", notMember("sources", loadIn(register1), loadSource(afterName)), count(spoofedCounter), drop()),
		}},
		{&r.IPv6, nftables.TypeIP6Addr, loadDestination6(register1), []rule{
			rules("", in("lo"), accept()),
			rules("", count(ipv6Counter), drop()),
		}},
	} {
		t.Counters = append(t.Counters, spoofedCounter, ipv6Counter)
		t.Tallies = append(t.Tallies, tally{Name: arrivalTally, Key: t.key})
		t.add(set{Name: "networks", Key: nftables.TypeIFName, Elements: names(devices)})
		t.add(set{Name: "sources", Key: concat(nftables.TypeIFName, nftables.TypeIPAddr), Elements: sourceElements(slices.Concat(p.sources, p.stations))})
		t.chain("arrival", arrival, append([]rule{
			rules("", member("networks", loadIn(register1)), record(arrivalTally, t.load)),
		}, t.rest...)...)
	}
	return r
}
