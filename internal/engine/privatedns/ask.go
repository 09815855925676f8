package privatedns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Answer is what a resolver says of a name's IPv4 addresses.
type Answer struct {
	Aliases   []string // the names that it leads over, in order, without the trailing dot
	Addresses []netip.Addr
	Missing   bool   // the name, or the last alias, does not exist (NXDOMAIN)
	Code      string // the answer's code, as RFC 6895 names it
}

// Ask asks for a name's IPv4 addresses over an open connection to a resolver.
func Ask(ctx context.Context, conn net.Conn, name string) (Answer, error) {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	question.RecursionDesired = true
	client := dns.Client{Net: conn.RemoteAddr().Network()}
	if deadline, ok := ctx.Deadline(); ok {
		client.Timeout = time.Until(deadline)
	}
	reply, _, err := client.ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s for %s: %w", conn.RemoteAddr(), name, err)
	}
	a := Answer{Missing: reply.Rcode == dns.RcodeNameError, Code: dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		switch rr := rr.(type) {
		case *dns.CNAME:
			a.Aliases = append(a.Aliases, strings.TrimSuffix(rr.Target, "."))
		case *dns.A:
			if address, ok := netip.AddrFromSlice(rr.A.To4()); ok {
				a.Addresses = append(a.Addresses, address)
			}
		}
	}
	return a, nil
}
