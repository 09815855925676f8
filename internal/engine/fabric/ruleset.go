package fabric

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is what one namespace's packet filter is to hold: an IPv4 table and an IPv6 one.
type ruleset struct {
	IPv4, IPv6 table
}

type table struct {
	Chains   []chain
	Sets     []set
	Counters []string // keep their values when the rest is replaced
	Tallies  []tally  // keep their elements when the rest is replaced
}

type chain struct {
	Name string
	Base *base // nil: only jumped to
	// Rules, each with the name of what decided it.
	Rules []rule
}

type base struct {
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
	Drop     bool // what no rule accepted
}

type rule struct {
	Comment string
	Exprs   []expr.Any
}

// set is a set or a map. Elements of an interval set come as from and to, to being exclusive.
type set struct {
	Name      string
	Key, Data nftables.SetDatatype
	Map       bool
	Interval  bool
	Elements  []nftables.SetElement
}

// tally is a set the kernel fills, with a packet and byte counter for each key.
type tally struct {
	Name string
	Key  nftables.SetDatatype
}

// digest names the content, down to the last expression, so that a new version of this program which
// renders other rules from the same Config replaces them.
func (r *ruleset) digest() (string, error) {
	type typed struct {
		Type  string
		Value any
	}
	var exprs []typed
	for _, t := range []table{r.IPv4, r.IPv6} {
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				for _, e := range r.Exprs {
					exprs = append(exprs, typed{fmt.Sprintf("%T", e), e})
				}
			}
		}
	}
	data, err := json.Marshal([]any{r, exprs})
	if err != nil {
		return "", fmt.Errorf("digest of a ruleset: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

func (t *table) chain(name string, b *base, rules ...rule) {
	t.Chains = append(t.Chains, chain{Name: name, Base: b, Rules: rules})
}

// prefixes returns the name of an interval set of the addresses, shared by all rules that want the same.
func (t *table) prefixes(list []netip.Prefix) string {
	var ranges [][2]uint32 // inclusive
	for _, p := range list {
		first := binary.BigEndian.Uint32(p.Masked().Addr().AsSlice())
		ranges = append(ranges, [2]uint32{first, first | uint32(uint64(1)<<(32-p.Bits())-1)})
	}
	return t.interval(nftables.TypeIPAddr, 0xffffffff, ranges, func(v uint32) []byte { return binaryutil.BigEndian.PutUint32(v) })
}

// ports is prefixes for ports.
func (t *table) ports(list []PortRange) string {
	var ranges [][2]uint32
	for _, p := range list {
		ranges = append(ranges, [2]uint32{uint32(p.First), uint32(p.Last)})
	}
	return t.interval(nftables.TypeInetService, 0xffff, ranges, func(v uint32) []byte { return port(uint16(v)) })
}

func (t *table) interval(key nftables.SetDatatype, highest uint32, ranges [][2]uint32, encode func(uint32) []byte) string {
	slices.SortFunc(ranges, func(a, b [2]uint32) int { return int(int64(a[0]) - int64(b[0])) })
	var merged [][2]uint32
	for _, r := range ranges {
		if n := len(merged); n > 0 && uint64(r[0]) <= uint64(merged[n-1][1])+1 {
			merged[n-1][1] = max(merged[n-1][1], r[1])
		} else {
			merged = append(merged, r)
		}
	}
	var elements []nftables.SetElement
	for _, r := range merged {
		elements = append(elements, nftables.SetElement{Key: encode(r[0])})
		if r[1] != highest {
			elements = append(elements, nftables.SetElement{Key: encode(r[1] + 1), IntervalEnd: true})
		}
	}
	name := fmt.Sprintf("%s-%x", key.Name, sha256.Sum256(fmt.Append(nil, merged)))[:40]
	if !slices.ContainsFunc(t.Sets, func(s set) bool { return s.Name == name }) {
		t.Sets = append(t.Sets, set{Name: name, Key: key, Interval: true, Elements: elements})
	}
	return name
}

// add declares a named set or map; elements given twice are one.
func (t *table) add(s set) {
	seen := map[string]bool{}
	s.Elements = slices.DeleteFunc(s.Elements, func(e nftables.SetElement) bool {
		twice := seen[string(e.Key)]
		seen[string(e.Key)] = true
		return twice
	})
	t.Sets = append(t.Sets, s)
}

// Keys as the kernel wants them; in a concatenation each part is padded to four bytes.

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func port(p uint16) []byte { return binaryutil.BigEndian.PutUint16(p) }

func paddedPort(p uint16) []byte { return append(port(p), 0, 0) }

func concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(types...)
}

// Parts of rules. A part leaves nothing in a register that a later one needs, save load.

func rules(comment string, parts ...[]expr.Any) rule {
	return rule{Comment: comment, Exprs: slices.Concat(parts...)}
}

// Registers: the kernel numbers the same 64 bytes twice, as four of sixteen bytes and as sixteen of four.
const (
	register1   = unix.NFT_REG_1
	registerTwo = unix.NFT_REG32_01 // the four bytes after the first four
	afterName   = unix.NFT_REG32_04 // after an interface name in register1
)

func loadIn(reg uint32) expr.Any  { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg} }
func loadOut(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg} }

func loadSource(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func loadDestination(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

func loadDestination6(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
}

func loadSourcePort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}
}

func loadPort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func in(name string) []expr.Any {
	return []expr.Any{loadIn(register1), &expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: ifname(name)}}
}

func out(name string) []expr.Any {
	return []expr.Any{loadOut(register1), &expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: ifname(name)}}
}

func protocol(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{p}},
	}
}

// member holds when what the loads put into registers from register1 on is in the set.
func member(setName string, loads ...expr.Any) []expr.Any {
	return append(loads, &expr.Lookup{SourceRegister: register1, SetName: setName})
}

func notMember(setName string, loads ...expr.Any) []expr.Any {
	return append(loads, &expr.Lookup{SourceRegister: register1, SetName: setName, Invert: true})
}

// decide takes the verdict that the map has for what the loads put into register1.
func decide(mapName string, loads ...expr.Any) []expr.Any {
	return append(loads, &expr.Lookup{SourceRegister: register1, SetName: mapName, DestRegister: 0, IsDestRegSet: true})
}

// state holds when conntrack has the packet in one of the states.
func ctState(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATE, bits) }

// translated holds for packets of flows whose destination was translated.
func translated() []expr.Any {
	const dstNAT = 1 << 5 // IPS_DST_NAT
	return ctBits(expr.CtKeySTATUS, dstNAT)
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: register1},
		&expr.Bitwise{SourceRegister: register1, DestRegister: register1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: make([]byte, 4)},
	}
}

// reply holds for packets that answer the one that began the flow.
func reply() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{1}},
	}
}

func count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

// record counts the packet under the key that the load put into register1.
func record(tallyName string, load expr.Any) []expr.Any {
	return []expr.Any{load, &expr.Dynset{SrcRegKey: register1, SetName: tallyName, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Exprs: []expr.Any{&expr.Counter{}}}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func accept() []expr.Any { return verdict(expr.VerdictAccept) }
func drop() []expr.Any   { return verdict(expr.VerdictDrop) }
func back() []expr.Any   { return verdict(expr.VerdictReturn) }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// sourceIs gives the packet another source address.
func sourceIs(a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register1},
	}
}

// destinationFrom gives the packet the destination the map has for what the loads put into registers.
func destinationFrom(mapName string, loads ...expr.Any) []expr.Any {
	return append(loads,
		&expr.Lookup{SourceRegister: register1, SetName: mapName, DestRegister: register1, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register1})
}
