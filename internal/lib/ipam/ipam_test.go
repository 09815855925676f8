package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestParse(t *testing.T) {
	for s, want := range map[string]error{
		"10.0.0.0/24": nil, "10.0.0.0": ErrFormat, "10.0.0.0/160": ErrFormat, "10.0.0.5/24": ErrHostBits,
		"fd00::/64": ErrFamily, "": ErrFormat, "10.10.0.0./16": ErrFormat,
	} {
		if _, err := Parse(s); !errors.Is(err, want) {
			t.Errorf("Parse(%q) = %v, want %v", s, err, want)
		}
	}
	if p, _ := Parse("10.0.0.5/24"); p.String() != "10.0.0.0/24" {
		t.Errorf("host bits: %s", p)
	}
}

func TestReserved(t *testing.T) {
	for s, want := range map[string]bool{
		"10.0.0.0/8": false, "192.168.0.0/16": false, "198.18.1.0/24": true, "198.0.0.0/8": true, "240.1.0.0/16": true,
		"168.63.129.0/24": true, "169.254.10.0/24": true, "224.0.0.0/24": true, "127.0.0.0/8": true, "255.255.255.255/32": true,
		"198.20.0.0/16": false, "0.0.0.0/0": true,
	} {
		if _, _, got := Reserved(netip.MustParsePrefix(s)); got != want {
			t.Errorf("Reserved(%s) = %v", s, got)
		}
	}
}

func TestFirstAddressIsFour(t *testing.T) {
	s := NewSubnet(netip.MustParsePrefix("192.168.2.0/24"), nil)
	for _, want := range []string{"192.168.2.4", "192.168.2.5"} {
		if a, err := s.Next(); err != nil || a != addr(want) {
			t.Fatalf("Next = %s, %v; want %s", a, err, want)
		}
	}
	for a, want := range map[string]error{
		"192.168.2.3": ErrReserved, "192.168.2.255": ErrReserved, "192.168.2.4": ErrInUse, "192.168.3.4": ErrOutside, "192.168.2.254": nil,
	} {
		if err := s.Check(addr(a)); !errors.Is(err, want) {
			t.Errorf("Check(%s) = %v, want %v", a, err, want)
		}
	}
	if _, err := NewSubnet(netip.MustParsePrefix("10.0.0.0/30"), nil).Next(); !errors.Is(err, ErrFull) {
		t.Errorf("a /30 has nothing to give: %v", err)
	}
}

func TestGapsAreFilled(t *testing.T) {
	s := NewSubnet(netip.MustParsePrefix("10.0.0.0/28"), []netip.Addr{addr("10.0.0.5"), addr("10.0.0.9"), addr("10.9.9.9")})
	row, err := s.NextN(5) // the first gap of five
	if err != nil || !slices.Equal(Ranges(row), []Range{{addr("10.0.0.10"), addr("10.0.0.14")}}) {
		t.Fatalf("NextN(5) = %v, %v", row, err)
	}
	if got, err := s.NextN(5); !errors.Is(err, ErrFull) {
		t.Errorf("4 are free, and NextN(5) = %v, %v", got, err)
	}
	got, err := s.NextN(4)
	if err != nil || !slices.Equal(got, []netip.Addr{addr("10.0.0.4"), addr("10.0.0.6"), addr("10.0.0.7"), addr("10.0.0.8")}) {
		t.Fatalf("NextN(4) = %v, %v", got, err)
	}
	want := []Range{{addr("10.0.0.4"), addr("10.0.0.4")}, {addr("10.0.0.6"), addr("10.0.0.8")}}
	if ranges := Ranges(got); !slices.Equal(ranges, want) {
		t.Errorf("Ranges(%v) = %v, want %v", got, ranges, want)
	}
	if s.Free() != 0 {
		t.Errorf("%d are left", s.Free())
	}
}

// Whatever is asked for in whatever order, no address is given twice, none is reserved, and all are given in the end.
func TestAllocationProperty(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := netip.PrefixFrom(addr("10.3.0.0"), 24+r.IntN(6)).Masked()
		s := NewSubnet(p, nil)
		seen := map[netip.Addr]bool{}
		for {
			taken, err := s.NextN(1 + r.IntN(4))
			if err != nil {
				one, err := s.Next()
				if err != nil {
					break
				}
				taken = []netip.Addr{one}
			}
			for _, a := range taken {
				if seen[a] || !p.Contains(a) || a.Compare(p.Addr().Next().Next().Next()) <= 0 || a == Last(p) {
					t.Fatalf("seed %d: gave %s", seed, a)
				}
				seen[a] = true
			}
		}
		if len(seen) != s.Size() || s.Free() != 0 {
			t.Fatalf("seed %d: %d of %d given, %d free", seed, len(seen), s.Size(), s.Free())
		}
	}
}
