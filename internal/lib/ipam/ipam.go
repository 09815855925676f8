// Package ipam hands out the addresses of Azure virtual networks: which prefixes a network may
// have, which addresses of a subnet Azure keeps for itself, and which one is given next. It is pure:
// it holds no state and knows no document.
//
// https://learn.microsoft.com/azure/virtual-network/virtual-networks-faq, "Are there any restrictions
// on using IP addresses within these subnets?" and "What address ranges can I use in my virtual networks?"
package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Errors of Parse and of a Subnet.
var (
	ErrFormat   = errors.New("not in CIDR notation")
	ErrHostBits = errors.New("has address bits beyond the prefix length")
	ErrFamily   = errors.New("not an IPv4 prefix")
	ErrOutside  = errors.New("outside the subnet")
	ErrReserved = errors.New("reserved in the subnet")
	ErrInUse    = errors.New("in use")
	ErrFull     = errors.New("no free address left")
)

// Parse reads an IPv4 prefix that has no bits set beyond its length. With ErrHostBits the masked
// prefix is returned beside the error, for the message.
func Parse(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: %w", s, ErrFormat)
	}
	if !p.Addr().Is4() {
		return p, fmt.Errorf("%q: %w", s, ErrFamily)
	}
	if p.Masked() != p {
		return p.Masked(), fmt.Errorf("%q: %w", s, ErrHostBits)
	}
	return p, nil
}

// reserved are ranges that no virtual network may overlap: those Azure refuses, and those on which
// Cloister's own links (240.0.0.0/4) and its Internet (198.18.0.0/15) lie.
var reserved = []struct{ prefix, reason string }{
	{"0.0.0.0/8", "this network"},
	{"127.0.0.0/8", "loopback"},
	{"168.63.129.16/32", "Azure's DNS and wire server"},
	{"169.254.0.0/16", "link-local"},
	{"198.18.0.0/15", "Cloister's own Internet"},
	{"224.0.0.0/4", "multicast"},
	{"240.0.0.0/4", "Cloister's own links; with it 255.255.255.255, broadcast"},
}

// Reserved returns the range that the prefix overlaps and what that range is for, or false.
func Reserved(p netip.Prefix) (netip.Prefix, string, bool) {
	for _, r := range reserved {
		if q := netip.MustParsePrefix(r.prefix); q.Overlaps(p) {
			return q, r.reason, true
		}
	}
	return netip.Prefix{}, "", false
}

// Contains reports whether all of inner lies in outer.
func Contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Last is the highest address of an IPv4 prefix.
func Last(p netip.Prefix) netip.Addr {
	return address(number(p.Masked().Addr()) | uint32(1<<(32-p.Bits())-1))
}

// Gateway is the address of the subnet's default gateway, its .1.
func Gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// Subnet is a subnet's addresses with those in use. Azure keeps the first four and the last for itself.
type Subnet struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
}

// NewSubnet is the subnet of the prefix in which used are taken; addresses outside of it are ignored.
func NewSubnet(prefix netip.Prefix, used []netip.Addr) *Subnet {
	s := &Subnet{prefix: prefix.Masked(), used: map[netip.Addr]bool{}}
	for _, a := range used {
		if prefix.Contains(a) {
			s.used[a] = true
		}
	}
	return s
}

// bounds are the first and last address to give out; first > last when there is none.
func (s *Subnet) bounds() (first, last uint32) {
	return number(s.prefix.Addr()) + 4, number(Last(s.prefix)) - 1
}

// Size is how many addresses the subnet can give out in all.
func (s *Subnet) Size() int {
	if s.prefix.Bits() > 29 {
		return 0
	}
	return 1<<(32-s.prefix.Bits()) - 5
}

// Free is how many addresses are left.
func (s *Subnet) Free() int { return s.Size() - len(s.used) }

// Check tells whether the address can be given out: nil, ErrOutside, ErrReserved or ErrInUse.
func (s *Subnet) Check(a netip.Addr) error {
	first, last := s.bounds()
	switch {
	case !s.prefix.Contains(a):
		return fmt.Errorf("%s: %w %s", a, ErrOutside, s.prefix)
	case number(a) < first || number(a) > last:
		return fmt.Errorf("%s: %w %s", a, ErrReserved, s.prefix)
	case s.used[a]:
		return fmt.Errorf("%s: %w", a, ErrInUse)
	}
	return nil
}

// Take marks the address as used, after Check.
func (s *Subnet) Take(a netip.Addr) error {
	if err := s.Check(a); err != nil {
		return err
	}
	s.used[a] = true
	return nil
}

// Next takes the first free address.
func (s *Subnet) Next() (netip.Addr, error) {
	taken, err := s.NextN(1)
	if err != nil {
		return netip.Addr{}, err
	}
	return taken[0], nil
}

// NextN takes n free addresses, or none when there are fewer: the first that follow each other without a gap, and where
// there is no such gap the first that are free. An address that was just given back, and that a name may lead to
// still, is thus not the first to be given out again.
func (s *Subnet) NextN(n int) ([]netip.Addr, error) {
	var taken, row []netip.Addr
	for i, last := s.bounds(); i <= last && len(row) < n; i++ {
		a := address(i)
		if s.used[a] {
			row = row[:0]
			continue
		}
		if row = append(row, a); len(taken) < n {
			taken = append(taken, a)
		}
	}
	if len(taken) < n {
		return nil, fmt.Errorf("%d addresses in %s: %w", n, s.prefix, ErrFull)
	}
	if len(row) == n {
		taken = row
	}
	for _, a := range taken {
		s.used[a] = true
	}
	return taken, nil
}

// Range is addresses that follow each other without a gap.
type Range struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// Ranges are the ranges that addresses, which are in order, make up.
func Ranges(addresses []netip.Addr) []Range {
	var out []Range
	for _, a := range addresses {
		if n := len(out); n > 0 && out[n-1].Last.Next() == a {
			out[n-1].Last = a
			continue
		}
		out = append(out, Range{a, a})
	}
	return out
}

func number(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
