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
	slot uint16
}

// render makes the rules of a VNet's namespace.
func (v vnetInput) render() *ruleset {
	r := &ruleset{IPv6: noIPv6()}
	t := &r.IPv4
	t.refuse(refusedCounter)
	t.Counters = append(t.Counters, spoofedCounter)

	var sources []source
	var nics, granted []string
	var endpoints []nftables.SetElement
	subnets := map[string]Subnet{}
	for _, s := range v.Subnets {
		subnets[s.Name] = s
	}
	for _, nic := range v.NICs {
		dev := nic.device()
		nics = append(nics, dev)
		for _, a := range append([]netip.Addr{nic.Address}, nic.Secondary...) {
			sources = append(sources, source{dev, a})
		}
		if subnets[nic.Subnet].DefaultOutbound {
			granted = append(granted, dev)
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
	t.add(set{Name: "granted", Key: nftables.TypeIFName, Elements: names(granted)})
	t.add(set{Name: "endpoints", Key: concat(nftables.TypeIPAddr, nftables.TypeInetService), Map: true, Data: nftables.TypeIPAddr, Elements: endpoints})
	var platform []nftables.SetElement
	for _, a := range platformAddresses {
		platform = append(platform, nftables.SetElement{Key: a.AsSlice()})
	}
	t.add(set{Name: "platform", Key: nftables.TypeIPAddr, Elements: platform})
	t.securityGroups(v.Network)

	t.chain("judge", judge,
		rules("", in("lo"), accept()),
		// From the hub and from public only answers come.
		rules("", in("hub"), ctState(related), accept()),
		rules("", in("hub"), goTo("refuse")),
		rules("", in(publicName), ctState(related), accept()),
		rules("", in(publicName), goTo("refuse")),
		rules("only what a NIC has may come from it", notMember("sources", loadIn(register1), loadSource(afterName)), count(spoofedCounter), drop()),
		rules("", ctState(expr.CtStateBitINVALID), drop()),
		rules("", ctState(related), accept()),
		rules("no security group applies to the platform", member("platform", loadDestination(register1)), accept()),
		rules("", decide("outbound", loadIn(register1))),
		rules("", decide("inbound", loadDestination(register1))),
		rules("", accept()),
	)
	t.chain("translate", translate,
		rules("", protocol(unix.IPPROTO_TCP), destinationFrom("endpoints", loadDestination(register1), loadPort(registerTwo))),
	)
	t.chain("forward", forward,
		rules("", out(sinkName), goTo("refuse")),
		rules("", ctState(related), reply(), accept()),
		rules("", ctState(expr.CtStateBitRELATED), accept()),
		rules("", member("nics", loadIn(register1)), member("nics", loadOut(register1)), accept()),
		// A grant is looked at for every packet of the way out, so that a flow ends with it. The map is
		// asked for what the guest dialled: an old translation does not outlive its endpoint.
		rules("", out("hub"), member("nics", loadIn(register1)), translated(), protocol(unix.IPPROTO_TCP), member("dialled", original()...), accept()),
		rules("", out(publicName), member("granted", loadIn(register1)), accept()),
		rules("", goTo("refuse")),
	)
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
		rules("", out(publicName), sourceIs(publicAddress(v.slot))),
	)
	return r
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
