package fabric

import (
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// renderFronts makes the rules that lead from public addresses to the services behind them.
func (p publicInput) renderFronts(t *table) {
	t.refuse(refusedCounter)
	var services, dialled []nftables.SetElement
	judged := []rule{
		rules("", in(hubName), ctState(related), accept()),
		rules("from the hub only answers come", in(hubName), goTo("refuse")),
	}
	for i, f := range p.fronts {
		for _, port := range f.Ports {
			key := slices.Concat(f.Address.AsSlice(), paddedPort(port))
			services = append(services, nftables.SetElement{Key: key, Val: f.ServiceAddress.AsSlice()})
			dialled = append(dialled, nftables.SetElement{Key: key})
		}
		if len(f.Sources) == 0 && len(f.Networks) == 0 {
			continue
		}
		var sources []rule
		for _, id := range f.Networks {
			sources = append(sources, rules("", in(shortName("v", id)), back()))
		}
		if len(f.Sources) > 0 {
			sources = append(sources, rules("", member(t.prefixes(f.Sources), loadSource(register1)), back()))
		}
		name := "sources-" + strconv.Itoa(i)
		t.chain(name, nil, append(sources, rules("sources of "+f.ID, goTo("refuse")))...)
		to := []expr.Any{loadDestination(register1), &expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: f.Address.AsSlice()}}
		judged = append(judged, rules("", to, jump(name)))
	}
	key := concat(nftables.TypeIPAddr, nftables.TypeInetService)
	t.add(set{Name: "fronts", Key: key, Map: true, Data: nftables.TypeIPAddr, Elements: services})
	t.add(set{Name: "dialled", Key: key, Elements: dialled})
	t.chain("judge", judgeFronts, judged...)
	t.chain("translate", translate,
		rules("", protocol(unix.IPPROTO_TCP), destinationFrom("fronts", loadDestination(register1), loadPort(registerTwo))),
	)
	t.chain("forward", forward,
		rules("", in(hubName), ctState(related), reply(), accept()),
		// As in a network: a translation does not outlive its front.
		rules("", out(hubName), translated(), protocol(unix.IPPROTO_TCP), member("dialled", original()...), accept()),
		rules("", goTo("refuse")),
	)
	t.chain("output", output, rules("only what is forwarded goes to services", out(hubName), drop()))
	t.chain("mask", mask, rules("", out(hubName), sourceIs(linkAddress(publicSlot))))
}
