package privatedns

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func public(t testing.TB) *Public {
	p, err := NewPublic([]Record{
		{"mcr.microsoft.com", "A", "198.18.0.10", 60},
		{"acr1.azurecr.io", "CNAME", "acr1.privatelink.azurecr.io", 60},
		{"acr1.privatelink.azurecr.io", "CNAME", "westus2.cloudapp.azure.com", 60},
		{"acr2.azurecr.io", "CNAME", "acr2.privatelink.azurecr.io", 60},
		{"acr2.privatelink.azurecr.io", "CNAME", "westus2.cloudapp.azure.com", 60},
		{"westus2.cloudapp.azure.com", "A", "198.18.0.20", 60},
		{"loop.example.com", "CNAME", "pool.example.com", 60},
		{"pool.example.com", "CNAME", "loop.example.com", 60},
		{"dangling.example.com", "CNAME", "nowhere.example.com", 60},
		{"db.corp.internal", "A", "198.18.0.99", 60},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func view(t testing.TB) *View {
	many := []Record{}
	for i := range 120 {
		many = append(many, Record{"many", "A", fmt.Sprintf("10.9.0.%d", i), 10})
	}
	v, err := NewView([]Zone{
		{"privatelink.azurecr.io", []Record{{"acr1", "A", "10.0.0.5", 10}, {"acr1.westus2.data", "A", "10.0.0.4", 10}}},
		{"Corp.Internal", append([]Record{
			{"@", "A", "10.1.0.1", 30}, {"*", "A", "10.1.0.9", 30}, {"db", "A", "10.1.0.2", 30}, {"db", "A", "10.1.0.3", 30},
			{"deep.branch", "A", "10.1.0.4", 30}, {"www", "CNAME", "db.corp.internal", 30}, {"out", "CNAME", "mcr.microsoft.com", 30},
			{"text", "TXT", `v=1 "quoted" \ ` + strings.Repeat("x", 300), 30}, {"mail", "MX", "10 db.corp.internal", 30},
			{"_k._tcp", "SRV", "1 2 443 db.corp.internal", 30},
		}, many...)},
		{"sub.corp.internal", []Record{{"a", "A", "10.2.0.1", 30}}},
	}, public(t))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func ask(s *Server, name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	return s.Answer(m, true)
}

// short writes an answer as: code, "aa", the answer's records, and "soa=zone".
func short(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	if m.Authoritative {
		out = append(out, "aa")
	}
	for _, rr := range m.Answer {
		h := rr.Header()
		out = append(out, fmt.Sprintf("%s/%d/%s", h.Name, h.Ttl, strings.TrimPrefix(rr.String(), h.String())))
	}
	for _, rr := range m.Ns {
		out = append(out, "soa="+rr.(*dns.SOA).Hdr.Name)
	}
	return strings.Join(out, " ")
}

func TestRules(t *testing.T) {
	linked := NewServer(view(t))
	none, err := NewView(nil, public(t))
	if err != nil {
		t.Fatal(err)
	}
	unlinked := NewServer(none)
	tests := []struct {
		name   string
		server *Server
		query  string
		kind   uint16
		want   string
	}{
		{"public name", linked, "mcr.microsoft.com.", dns.TypeA, "NOERROR mcr.microsoft.com./60/198.18.0.10"},
		{"registry with an endpoint here", linked, "acr1.azurecr.io.", dns.TypeA,
			"NOERROR acr1.azurecr.io./60/acr1.privatelink.azurecr.io. acr1.privatelink.azurecr.io./10/10.0.0.5"},
		{"its data endpoint, directly", linked, "acr1.westus2.data.privatelink.azurecr.io.", dns.TypeA,
			"NOERROR aa acr1.westus2.data.privatelink.azurecr.io./10/10.0.0.4"},
		{"registry that the linked zone lacks: no way back to the public", linked, "acr2.azurecr.io.", dns.TypeA,
			"NXDOMAIN acr2.azurecr.io./60/acr2.privatelink.azurecr.io. soa=privatelink.azurecr.io."},
		{"the same without the link", unlinked, "acr2.azurecr.io.", dns.TypeA,
			"NOERROR acr2.azurecr.io./60/acr2.privatelink.azurecr.io. acr2.privatelink.azurecr.io./60/westus2.cloudapp.azure.com. westus2.cloudapp.azure.com./60/198.18.0.20"},
		{"other case comes back as asked", linked, "DB.Corp.INTERNAL.", dns.TypeA, "NOERROR aa DB.Corp.INTERNAL./30/10.1.0.2 DB.Corp.INTERNAL./30/10.1.0.3"},
		{"a linked zone hides public names", linked, "db.corp.internal.", dns.TypeA, "NOERROR aa db.corp.internal./30/10.1.0.2 db.corp.internal./30/10.1.0.3"},
		{"the public one without it", unlinked, "db.corp.internal.", dns.TypeA, "NOERROR db.corp.internal./60/198.18.0.99"},
		{"other type", linked, "db.corp.internal.", dns.TypeAAAA, "NOERROR aa soa=corp.internal."},
		{"apex", linked, "corp.internal.", dns.TypeA, "NOERROR aa corp.internal./30/10.1.0.1"},
		{"wildcard", linked, "anything.corp.internal.", dns.TypeA, "NOERROR aa anything.corp.internal./30/10.1.0.9"},
		{"wildcard, deeper", linked, "a.b.corp.internal.", dns.TypeA, "NOERROR aa a.b.corp.internal./30/10.1.0.9"},
		{"wildcard, other type", linked, "anything.corp.internal.", dns.TypeAAAA, "NOERROR aa soa=corp.internal."},
		{"no wildcard below a name that exists", linked, "x.db.corp.internal.", dns.TypeA, "NXDOMAIN aa soa=corp.internal."},
		{"empty non-terminal", linked, "branch.corp.internal.", dns.TypeA, "NOERROR aa soa=corp.internal."},
		{"the longest zone wins", linked, "a.sub.corp.internal.", dns.TypeA, "NOERROR aa a.sub.corp.internal./30/10.2.0.1"},
		{"and lacks the name", linked, "b.sub.corp.internal.", dns.TypeA, "NXDOMAIN aa soa=sub.corp.internal."},
		{"alias in the zone", linked, "www.corp.internal.", dns.TypeA,
			"NOERROR aa www.corp.internal./30/db.corp.internal. db.corp.internal./30/10.1.0.2 db.corp.internal./30/10.1.0.3"},
		{"alias out of the zone", linked, "out.corp.internal.", dns.TypeA, "NOERROR aa out.corp.internal./30/mcr.microsoft.com. mcr.microsoft.com./60/198.18.0.10"},
		{"the alias itself", linked, "www.corp.internal.", dns.TypeCNAME, "NOERROR aa www.corp.internal./30/db.corp.internal."},
		{"alias, other type at its end", linked, "out.corp.internal.", dns.TypeAAAA, "NOERROR aa out.corp.internal./30/mcr.microsoft.com. soa=."},
		{"unknown public name", linked, "example.org.", dns.TypeA, "NXDOMAIN soa=."},
		{"above public names", linked, "microsoft.com.", dns.TypeA, "NOERROR soa=."},
		{"alias to nothing", linked, "dangling.example.com.", dns.TypeA, "NXDOMAIN dangling.example.com./60/nowhere.example.com. soa=."},
		{"aliases in a circle", linked, "loop.example.com.", dns.TypeA, "SERVFAIL"},
		{"mail exchange", linked, "mail.corp.internal.", dns.TypeMX, "NOERROR aa mail.corp.internal./30/10 db.corp.internal."},
		{"service", linked, "_k._tcp.corp.internal.", dns.TypeSRV, "NOERROR aa _k._tcp.corp.internal./30/1 2 443 db.corp.internal."},
		{"start of authority", linked, "sub.corp.internal.", dns.TypeSOA,
			"NOERROR aa sub.corp.internal./10/azureprivatedns.net. azureprivatedns-host.microsoft.com. 1 3600 300 2419200 10"},
		{"any", linked, "db.corp.internal.", dns.TypeANY, `NOERROR aa db.corp.internal./10/"RFC8482" ""`},
		{"transfer", linked, "corp.internal.", dns.TypeAXFR, "REFUSED"},
		{"root", linked, ".", dns.TypeA, "NOERROR soa=."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := short(ask(test.server, test.query, test.kind)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestText(t *testing.T) {
	m := ask(NewServer(view(t)), "text.corp.internal.", dns.TypeTXT)
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	// 14 bytes of text before the x's, split at 255 into two strings.
	if want := `v=1 "quoted" \ ` + strings.Repeat("x", 240); !strings.Contains(string(packed), want) {
		t.Errorf("text is not on the wire: %q", packed)
	}
}

func TestMessages(t *testing.T) {
	s := NewServer(view(t))
	query := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion("mcr.microsoft.com.", dns.TypeA)
		change(m)
		return s.Answer(m, true)
	}
	if query(func(m *dns.Msg) { m.Response = true }) != nil {
		t.Error("an answer was answered")
	}
	for name, test := range map[string]struct {
		change func(*dns.Msg)
		code   int
	}{
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"chaos":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"EDNS 1":        {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		if got := query(test.change); got.Rcode != test.code {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[got.Rcode], dns.RcodeToString[test.code])
		}
	}
	if got := query(func(m *dns.Msg) { m.SetEdns0(4096, false) }); got.IsEdns0() == nil || !got.RecursionAvailable || got.Authoritative {
		t.Errorf("EDNS: %v", got)
	}
}

func TestBadRecordsDoNotSilenceANetwork(t *testing.T) {
	v, err := NewView([]Zone{
		{"good.example", []Record{{"a", "A", "10.0.0.1", 10}, {"b", "A", "not an address", 10}, {"c", "A", "fe80::1", 10}, {"d", "CNAME", "a..b", 10}, {"e", "NSEC", "x", 10}, {strings.Repeat("l", 64), "A", "10.0.0.2", 10}, {"m", "MX", "db", 10}}},
		{"", nil}, {"good.example.", nil},
	}, public(t))
	for _, name := range []string{`"b"`, `"c"`, `"d"`, `"e"`, `lll"`, `"m"`, `zone ""`, "linked twice"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	if got := short(ask(NewServer(v), "a.good.example.", dns.TypeA)); got != "NOERROR aa a.good.example./10/10.0.0.1" {
		t.Error(got)
	}
}

func TestQueriesAreCountedAndBounded(t *testing.T) {
	s := NewServer(view(t))
	for range 3 {
		ask(s, "Example.ORG.", dns.TypeA)
	}
	ask(s, "db.corp.internal.", dns.TypeA)
	got := s.Queries()
	if len(got) != 2 || got[0].Name != "example.org." || got[0].Count != 3 || got[0].Missing != 3 || got[0].Private || !got[1].Private || got[1].Missing != 0 {
		t.Errorf("%+v", got)
	}
	for i := range maxNames + 10 {
		ask(s, fmt.Sprintf("tunnelled-%d.example.net.", i), dns.TypeA)
	}
	if got := s.Queries(); len(got) != maxNames+1 || got[0].Name != "" || got[0].Count != 12 {
		t.Errorf("%d names, first %+v", len(got), got[0])
	}
}

// listen takes one port for both protocols: one that is free for UDP may be taken for TCP.
func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var last error
	for range 100 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, listener
		}
		last = err
		packets.Close()
	}
	t.Fatal(last)
	return nil, nil
}

func serve(t *testing.T, s *Server) string {
	t.Helper()
	packets, listener := listen(t)
	address := packets.LocalAddr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, packets, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return address
}

func TestServe(t *testing.T) {
	s := NewServer(view(t))
	address := serve(t, s)
	exchange := func(network, name string, size uint16) *dns.Msg {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		if size > 0 {
			m.SetEdns0(size, false)
		}
		c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
		got, _, err := c.Exchange(m, address)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := exchange("udp", "mcr.microsoft.com.", 0); short(got) != "NOERROR mcr.microsoft.com./60/198.18.0.10" {
		t.Error(short(got))
	}
	for size, limit := range map[uint16]int{0: 512, 800: 800, 4096: maxUDP} {
		got := exchange("udp", "many.corp.internal.", size)
		got.Compress = true // as it was on the wire
		if !got.Truncated || got.Len() > limit {
			t.Errorf("EDNS %d: truncated %v, %d bytes, want at most %d", size, got.Truncated, got.Len(), limit)
		}
	}
	if got := exchange("tcp", "many.corp.internal.", 0); got.Truncated || len(got.Answer) != 120 {
		t.Errorf("TCP: truncated %v, %d records", got.Truncated, len(got.Answer))
	}
	// The network is linked to nothing any more, while the sockets stay.
	none, err := NewView(nil, public(t))
	if err != nil {
		t.Fatal(err)
	}
	s.SetView(none)
	if got := exchange("udp", "many.corp.internal.", 0); got.Rcode != dns.RcodeNameError {
		t.Error(short(got))
	}
}

func TestIdleClientsDoNotHoldUpTheEnd(t *testing.T) {
	address := serve(t, NewServer(view(t)))
	for range 3 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("mcr.microsoft.com.", dns.TypeA), address); err != nil || len(got.Answer) != 1 {
		t.Errorf("%v %v", got, err)
	}
}

func FuzzAnswer(f *testing.F) {
	s := NewServer(view(f))
	for _, name := range []string{"acr1.azurecr.io.", "x.corp.internal.", ".", "many.corp.internal."} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, true)
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, udp bool) {
		m := new(dns.Msg)
		if m.Unpack(data) != nil {
			return
		}
		got := s.Answer(m, udp)
		if got == nil {
			return
		}
		packed, err := got.Pack()
		if err != nil {
			t.Fatalf("answer cannot be packed: %v\n%v", err, got)
		}
		if udp && len(packed) > maxUDP || got.Id != m.Id || !got.Response {
			t.Fatalf("%d bytes: %v", len(packed), got)
		}
	})
}
