package privatedns

import (
	"context"
	"errors"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

const (
	// maxUDP is the largest answer sent over UDP: what passes any link unfragmented (DNS flag day 2020).
	maxUDP = 1232
	// maxConnections bounds the TCP connections of a network.
	maxConnections = 128
	// maxNames bounds how many names are counted: they are of the guests' choosing.
	maxNames = 4096
)

// Server answers for one network. Its view may change at any time.
type Server struct {
	view atomic.Pointer[View]

	mu      sync.Mutex
	queries map[string]*Query
}

// Query is how often a name was asked for.
type Query struct {
	Name    string // lower case, with the trailing dot; "" stands for all names past the number that is kept
	Count   uint64
	Missing uint64 // how many of these were answered NXDOMAIN
	Private bool   // the last answer came from a linked zone
	Last    time.Time
}

// NewServer returns a Server that answers by view.
func NewServer(view *View) *Server {
	s := &Server{queries: map[string]*Query{}}
	s.view.Store(view)
	return s
}

// SetView makes view what is answered from now on.
func (s *Server) SetView(view *View) { s.view.Store(view) }

// Serve answers on both sockets until ctx ends, and closes them.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	servers := []*dns.Server{
		{PacketConn: packets, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: netutil.LimitListener(listener, maxConnections), Handler: s,
			IdleTimeout: func() time.Duration { return 10 * time.Second }, ReadTimeout: 5 * time.Second},
	}
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		served := make(chan struct{})
		group.Go(func() error {
			defer close(served)
			err := server.ActivateAndServe()
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("the DNS socket was closed")
			}
			return err
		})
		group.Go(func() error {
			select {
			case <-started:
				<-ctx.Done()
				stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer cancel()
				return ignoreDeadline(server.ShutdownContext(stop))
			case <-served:
				return nil
			}
		})
	}
	err := group.Wait()
	packets.Close()
	listener.Close()
	return err
}

// ignoreDeadline: a client that holds its connection past the shutdown is cut off, which is no failure.
func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if answer := s.Answer(request, udp); answer != nil {
		w.WriteMsg(answer) //nolint:errcheck // the client asks again
	}
}

// Answer returns the answer to a message, or nil where there is none to give. Over UDP it is cut to what
// the client can take.
func (s *Server) Answer(request *dns.Msg, udp bool) *dns.Msg {
	if request.Response {
		// Two servers that answered answers would never stop.
		return nil
	}
	m := new(dns.Msg)
	m.SetReply(request)
	m.RecursionAvailable = true
	m.Compress = true
	size := dns.MinMsgSize
	if opt := request.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, false)
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		if opt.Version() != 0 {
			// Extended codes need the OPT record to carry their upper bits.
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	switch {
	case request.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case len(request.Question) != 1:
		m.Rcode = dns.RcodeFormatError
	case request.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	default:
		q := request.Question[0]
		switch q.Qtype {
		case dns.TypeAXFR, dns.TypeIXFR:
			m.Rcode = dns.RcodeRefused
		default:
			var private bool
			m.Answer, m.Ns, m.Rcode, private = s.view.Load().resolve(q.Name, q.Qtype)
			m.Authoritative = private
			s.count(q.Name, m.Rcode == dns.RcodeNameError, private)
		}
	}
	if !udp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	return m
}

func (s *Server) count(name string, missing, private bool) {
	name = dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queries[name]
	if q == nil {
		if len(s.queries) >= maxNames {
			name = ""
		}
		if q = s.queries[name]; q == nil {
			q = &Query{Name: name}
			s.queries[name] = q
		}
	}
	q.Count++
	if missing {
		q.Missing++
	}
	q.Private, q.Last = private, time.Now()
}

// Queries are the names asked for since the start, the most asked first.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Query, 0, len(s.queries))
	for _, q := range s.queries {
		out = append(out, *q)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Count != out[j].Count {
			return out[i].Count > out[j].Count
		}
		return out[i].Name < out[j].Name
	})
	return out
}
