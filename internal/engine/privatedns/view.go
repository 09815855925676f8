// Package privatedns answers DNS for virtual networks as 168.63.129.16 does: the private zones linked to
// a network first, the public names behind them. A linked zone owns its namespace: a name it lacks does
// not exist, whatever the public says.
//
// It knows neither documents nor namespaces; a caller gives each network's zones and its sockets.
//
// https://learn.microsoft.com/azure/dns/private-dns-privatednszone
// RFC 1034, 2308 (negative answers), 4592 (wildcards), 6604 (codes of alias chains), 6891 (EDNS), 8482 (ANY).
package privatedns

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Record is one resource record. Name is relative to its zone ("@" is the apex), or fully qualified and
// without the trailing dot in Public data. Several records of one name and type make a set.
type Record struct {
	Name, Type, Value string
	TTL               uint32
}

// Zone is a private zone linked to a network.
type Zone struct {
	Name    string // without the trailing dot
	Records []Record
}

// zone is a zone ready to answer. The public names are one, too: that of the root.
type zone struct {
	origin  string // lower case, with the trailing dot
	private bool
	nodes   map[string]map[uint16][]dns.RR // by owner, lower case; a nil map is an empty non-terminal
}

// Public is what names resolve to outside any linked zone. It is made once and shared by all views.
type Public struct{ zone *zone }

// View is what one network resolves. It does not change.
type View struct {
	zones  map[string]*zone // by origin
	public *zone
}

// maxChain bounds how many aliases are followed for one question.
const maxChain = 8

// NewPublic returns the public names. Records that make no sense are left out and named by the error;
// the result can be used all the same.
func NewPublic(records []Record) (*Public, error) {
	z, err := newZone(".", records)
	return &Public{zone: z}, err
}

// NewView returns the view of a network that zones are linked to. What makes no sense is left out and
// named by the error; the result can be used all the same, so that one bad record does not silence a network.
func NewView(zones []Zone, public *Public) (*View, error) {
	v := &View{zones: map[string]*zone{}, public: public.zone}
	var errs []error
	for _, c := range zones {
		origin := dns.CanonicalName(c.Name)
		if _, ok := dns.IsDomainName(origin); !ok || origin == "." {
			errs = append(errs, fmt.Errorf("zone %q: not a zone name", c.Name))
			continue
		}
		if v.zones[origin] != nil {
			errs = append(errs, fmt.Errorf("zone %q: linked twice", c.Name))
			continue
		}
		z, err := newZone(origin, c.Records)
		z.private = true
		v.zones[origin] = z
		errs = append(errs, err)
	}
	return v, errors.Join(errs...)
}

func newZone(origin string, records []Record) (*zone, error) {
	z := &zone{origin: origin, nodes: map[string]map[uint16][]dns.RR{}}
	z.nodes[origin] = map[uint16][]dns.RR{dns.TypeSOA: {z.soa()}}
	var errs []error
	for _, r := range records {
		rr, err := r.parse(origin)
		if err != nil {
			errs = append(errs, fmt.Errorf("zone %q, record %q %s: %w", origin, r.Name, r.Type, err))
			continue
		}
		owner := rr.Header().Name
		if z.nodes[owner] == nil {
			z.nodes[owner] = map[uint16][]dns.RR{}
		}
		kind := rr.Header().Rrtype
		z.nodes[owner][kind] = append(z.nodes[owner][kind], rr)
		// The names between exist, though they have no records (RFC 4592, section 2.2.2).
		for at := parent(owner); at != origin && dns.IsSubDomain(origin, at); at = parent(at) {
			if _, ok := z.nodes[at]; !ok {
				z.nodes[at] = nil
			}
		}
	}
	return z, errors.Join(errs...)
}

// parent is the name without its first label.
func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

// soa stands behind negative answers. Its minimum is how long a client remembers that a name is missing
// (RFC 2308, section 5): short, since records appear while clients wait for them. The private one is
// what Azure answers.
func (z *zone) soa() dns.RR {
	s := &dns.SOA{
		Hdr: dns.RR_Header{Name: z.origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 10},
		Ns:  "azureprivatedns.net.", Mbox: "azureprivatedns-host.microsoft.com.",
		Serial: 1, Refresh: 3600, Retry: 300, Expire: 2419200, Minttl: 10,
	}
	if z.origin == "." {
		s.Ns, s.Mbox = ".", "."
	}
	return s
}

func (r Record) parse(origin string) (dns.RR, error) {
	owner := r.Name
	switch {
	case owner == "@" || owner == "":
		owner = origin
	case origin == ".":
		owner += "."
	default:
		owner += "." + origin
	}
	owner = dns.CanonicalName(owner)
	if _, ok := dns.IsDomainName(owner); !ok {
		return nil, errors.New("not a domain name")
	}
	target := func(name string) (string, error) {
		name = dns.CanonicalName(name)
		if _, ok := dns.IsDomainName(name); !ok || name == "." {
			return "", fmt.Errorf("%q is not a domain name", name)
		}
		return name, nil
	}
	header := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: owner, Rrtype: t, Class: dns.ClassINET, Ttl: r.TTL}
	}
	fields := strings.Fields(r.Value)
	numbers := func(n int) ([]uint16, string, error) {
		if len(fields) != n+1 {
			return nil, "", fmt.Errorf("value %q: want %d numbers and a name", r.Value, n)
		}
		out := make([]uint16, n)
		for i := range out {
			v, err := strconv.ParseUint(fields[i], 10, 16)
			if err != nil {
				return nil, "", fmt.Errorf("value %q: %w", r.Value, err)
			}
			out[i] = uint16(v)
		}
		name, err := target(fields[n])
		return out, name, err
	}
	switch strings.ToUpper(r.Type) {
	case "A", "AAAA":
		a, err := netip.ParseAddr(r.Value)
		if err != nil {
			return nil, err
		}
		if v4 := strings.EqualFold(r.Type, "A"); v4 != a.Is4() || a.Zone() != "" {
			return nil, fmt.Errorf("value %q is of the other family", r.Value)
		}
		if a.Is4() {
			return &dns.A{Hdr: header(dns.TypeA), A: a.AsSlice()}, nil
		}
		return &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.AsSlice()}, nil
	case "CNAME":
		name, err := target(r.Value)
		return &dns.CNAME{Hdr: header(dns.TypeCNAME), Target: name}, err
	case "PTR":
		name, err := target(r.Value)
		return &dns.PTR{Hdr: header(dns.TypePTR), Ptr: name}, err
	case "MX":
		n, name, err := numbers(1)
		if err != nil {
			return nil, err
		}
		return &dns.MX{Hdr: header(dns.TypeMX), Preference: n[0], Mx: name}, nil
	case "SRV":
		n, name, err := numbers(3)
		if err != nil {
			return nil, err
		}
		return &dns.SRV{Hdr: header(dns.TypeSRV), Priority: n[0], Weight: n[1], Port: n[2], Target: name}, nil
	case "TXT":
		t := &dns.TXT{Hdr: header(dns.TypeTXT)}
		// A character string has at most 255 bytes (RFC 1035, section 3.3).
		value := r.Value
		for len(value) > 255 {
			t.Txt, value = append(t.Txt, escapeText(value[:255])), value[255:]
		}
		t.Txt = append(t.Txt, escapeText(value))
		return t, nil
	}
	return nil, errors.New("unknown record type")
}

// escapeText keeps the library from reading backslashes in a value as escapes.
func escapeText(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// find returns the linked zone with the longest name that name is in, or the public one.
func (v *View) find(name string) *zone {
	for at := name; at != "."; at = parent(at) {
		if z := v.zones[at]; z != nil {
			return z
		}
	}
	return v.public
}

// node returns the records at a name, by wildcard where the name does not exist (RFC 4592, section 3.3.1).
func (z *zone) node(name string) (sets map[uint16][]dns.RR, exists bool) {
	if sets, exists = z.nodes[name]; exists {
		return sets, true
	}
	for at := parent(name); ; at = parent(at) {
		if _, ok := z.nodes[at]; ok {
			wildcard := "*." + at
			if at == "." {
				wildcard = "*."
			}
			sets, ok := z.nodes[wildcard]
			return sets, ok
		}
		if at == z.origin || at == "." {
			return nil, false
		}
	}
}

// resolve answers a question: the records, aliases first, and what stands behind a negative answer.
func (v *View) resolve(question string, kind uint16) (answer, authority []dns.RR, code int, private bool) {
	owner := question // as the client spelled it: some check that the spelling comes back
	name := dns.CanonicalName(question)
	private = v.find(name).private
	for range maxChain {
		z := v.find(name)
		sets, exists := z.node(name)
		if !exists {
			return answer, []dns.RR{z.soa()}, dns.RcodeNameError, private
		}
		if kind == dns.TypeANY {
			return append(answer, &dns.HINFO{
				Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 10}, Cpu: "RFC8482",
			}), nil, dns.RcodeSuccess, private
		}
		if set := sets[kind]; len(set) > 0 {
			return append(answer, owned(set, owner)...), nil, dns.RcodeSuccess, private
		}
		alias := sets[dns.TypeCNAME]
		if len(alias) == 0 {
			return answer, []dns.RR{z.soa()}, dns.RcodeSuccess, private
		}
		answer = append(answer, owned(alias[:1], owner)...)
		name = alias[0].(*dns.CNAME).Target
		owner = name
	}
	return nil, nil, dns.RcodeServerFailure, private
}

// owned copies records under the name asked for, which differs by case or by a wildcard.
func owned(set []dns.RR, owner string) []dns.RR {
	out := make([]dns.RR, len(set))
	for i, rr := range set {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = owner
	}
	return out
}
