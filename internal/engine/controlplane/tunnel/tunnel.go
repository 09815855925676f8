// Package tunnel is a cluster's API server tunnel: an HTTP CONNECT proxy on a Unix socket, which
// kube-apiserver's egress selector (proxyProtocol HTTPConnect over UDS) dials for logs, exec, port-forward,
// webhooks and aggregated APIs. The control plane's namespace has no route into the network of its nodes;
// this is the only way, and it leads to the cluster's own nodes, pods and Services alone.
//
// It does not know networks: the caller gives the dialer. Names are refused, since a name would be resolved
// on this side of the tunnel and not on the nodes' side.
//
// Wire: k8s.io/apiserver/pkg/server/egressselector; RFC 9110, section 9.3.6.
// Configuration: https://kubernetes.io/docs/tasks/extend-kubernetes/setup-konnectivity
package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxConnections = 4096
	// maxDials bounds the connections being made: a dial into another namespace holds an OS thread.
	maxDials       = 64
	requestTimeout = 10 * time.Second
	dialTimeout    = 10 * time.Second
	maxRequest     = 8 << 10
	bufferSize     = 16 << 10
)

// Dialer connects to an address in the network of the cluster's nodes.
type Dialer func(ctx context.Context, address netip.AddrPort) (net.Conn, error)

// Options are what a Server is made of.
type Options struct {
	Socket string // path of the Unix socket; its directory is made with mode 0700
	Dial   Dialer
	// Idle is how long a connection may carry nothing: five hours where zero, an hour more than the
	// kubelet's own limit for streams (streamingConnectionIdleTimeout).
	Idle time.Duration
	Log  *slog.Logger
}

// Server is a tunnel.
type Server struct {
	Options
	prefixes    atomic.Pointer[[]netip.Prefix]
	connections chan struct{}
	dials       chan struct{}
}

// New returns a tunnel that leads nowhere until SetPrefixes.
func New(o Options) *Server {
	if o.Idle == 0 {
		o.Idle = 5 * time.Hour
	}
	return &Server{Options: o, connections: make(chan struct{}, maxConnections), dials: make(chan struct{}, maxDials)}
}

// SetPrefixes makes these the only addresses the tunnel leads to: those of nodes, pods and Services.
// Connections made before go on.
func (s *Server) SetPrefixes(prefixes []netip.Prefix) { s.prefixes.Store(&prefixes) }

// Run makes the socket anew and serves it until ctx ends. Connections end with it.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.listen()
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	for {
		c, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept from the API server: %w", err)
		}
		connections.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			s.serve(ctx, c)
		})
	}
}

// listen replaces what a process before left behind. The socket is made under another name and renamed
// into its place with its mode set, so that it is never there for others to open.
func (s *Server) listen() (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Socket), 0o700); err != nil {
		return nil, err
	}
	fresh := s.Socket + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// The name it would remove is gone by then; and at the end another process may have its own socket here.
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o600); err == nil {
		err = os.Rename(fresh, s.Socket)
	}
	if err != nil {
		listener.Close()
		return nil, errors.Join(err, os.Remove(fresh))
	}
	return listener, nil
}

// refusal is an answer that ends the connection.
type refusal struct {
	status int
	reason string
}

func (r refusal) Error() string { return r.reason }

func (s *Server) serve(ctx context.Context, client *net.UnixConn) {
	reader := bufio.NewReaderSize(client, 4<<10)
	upstream, target, err := s.connect(ctx, client, reader)
	if err != nil {
		var r refusal
		if errors.As(err, &r) {
			s.Log.InfoContext(ctx, "tunnel refused", "target", target, "status", r.status, "reason", r.reason)
			respond(client, r.status, r.reason)
		}
		return
	}
	defer upstream.Close()
	// One write: the API server fails a tunnel in which bytes follow the head in the same read.
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	s.join(ctx, client, reader, upstream)
}

func respond(c net.Conn, status int, reason string) {
	c.SetWriteDeadline(time.Now().Add(requestTimeout)) //nolint:errcheck // a dead connection fails the write as well
	fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(reason), reason)
}

// connect reads the request and dials its target.
func (s *Server) connect(ctx context.Context, client net.Conn, reader *bufio.Reader) (upstream net.Conn, target string, err error) {
	select {
	case s.connections <- struct{}{}:
	default:
		return nil, "", refusal{http.StatusServiceUnavailable, "too many connections"}
	}
	release := sync.OnceFunc(func() { <-s.connections })
	defer func() {
		if err != nil {
			release()
		}
	}()
	client.SetDeadline(time.Now().Add(requestTimeout)) //nolint:errcheck // a dead connection fails the read as well
	request, err := readRequest(reader)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, "", err
		}
		return nil, "", refusal{http.StatusBadRequest, "malformed request"}
	}
	target = request.RequestURI
	if request.Method != http.MethodConnect {
		return nil, target, refusal{http.StatusMethodNotAllowed, "only CONNECT is served here"}
	}
	address, err := s.target(target)
	if err != nil {
		return nil, target, err
	}
	client.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails what follows
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	select {
	case s.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, target, refusal{http.StatusServiceUnavailable, "too many connections are being made"}
	}
	c, err := s.Dial(ctx, address)
	<-s.dials
	if err != nil {
		status := http.StatusBadGateway
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			status = http.StatusGatewayTimeout
		}
		return nil, target, refusal{status, fmt.Sprintf("connect to %s: %v", address, err)}
	}
	return &held{Conn: c, release: release}, target, nil
}

// readRequest reads a request's head and not a byte more: what follows belongs to the tunnel.
func readRequest(reader *bufio.Reader) (*http.Request, error) {
	var head []byte
	for {
		line, err := reader.ReadSlice('\n')
		if len(head)+len(line) > maxRequest {
			return nil, errors.New("request head too long")
		}
		head = append(head, line...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(line) <= 2 && (line[0] == '\n' || line[0] == '\r') {
			break
		}
	}
	return http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
}

// target checks that an address is one of the cluster's.
func (s *Server) target(target string) (netip.AddrPort, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return netip.AddrPort{}, refusal{http.StatusBadRequest, "the target must be an address and a port"}
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return netip.AddrPort{}, refusal{http.StatusForbidden, "names are not resolved here; the target must be an IP address"}
	}
	address, err := netip.ParseAddrPort(target)
	if err != nil || address.Port() == 0 {
		return netip.AddrPort{}, refusal{http.StatusBadRequest, "the target's port is invalid"}
	}
	ip := address.Addr().Unmap()
	if prefixes := s.prefixes.Load(); prefixes != nil && ip.Zone() == "" {
		for _, p := range *prefixes {
			if p.Contains(ip) {
				return netip.AddrPortFrom(ip, address.Port()), nil
			}
		}
	}
	return netip.AddrPort{}, refusal{http.StatusForbidden, "the target is no node, pod or Service of this cluster"}
}

// held gives its place in the count back when it is closed.
type held struct {
	net.Conn
	release func()
}

func (h *held) Close() error {
	defer h.release()
	return h.Conn.Close()
}

func (h *held) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return h.Conn.Close()
}

// join carries bytes both ways until both ends are done, one breaks, or nothing moves for too long. The end
// of one direction is passed on and leaves the other open.
func (s *Server) join(ctx context.Context, client *net.UnixConn, fromClient io.Reader, upstream net.Conn) {
	abort := func() {
		client.Close()
		upstream.Close()
	}
	stop := context.AfterFunc(ctx, abort)
	defer stop()
	idle := time.AfterFunc(s.Idle, abort)
	defer idle.Stop()
	var up sync.WaitGroup
	up.Go(func() {
		if !s.carry(upstream, fromClient, idle) {
			abort()
		}
	})
	if !s.carry(client, upstream, idle) {
		abort()
	}
	up.Wait()
}

// carry copies one direction, then ends it. It reports whether it ended well.
func (s *Server) carry(to net.Conn, from io.Reader, idle *time.Timer) bool {
	buffer := make([]byte, bufferSize)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			idle.Reset(s.Idle)
			if _, err := to.Write(buffer[:n]); err != nil {
				return false
			}
		}
		if err == io.EOF {
			return to.(interface{ CloseWrite() error }).CloseWrite() == nil
		}
		if err != nil {
			return false
		}
	}
}
