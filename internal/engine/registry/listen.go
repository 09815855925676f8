package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

const port = 443

// listenKey is one place to listen at.
type listenKey struct {
	netns   string
	address netip.Addr
}

type listener struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	server *http.Server // nil until it listens
	inode  uint64       // of the namespace it listens in: tells it from one made later at the same path
}

// inode of the namespace file at path, 0 when there is none.
func inode(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// listen binds the address whether or not it is there yet: the fabric gives the namespace its addresses at its own pace.
func listen(ctx context.Context, namespace string, address netip.AddrPort) (net.Listener, error) {
	return netns.ListenFree(ctx, namespace, "tcp4", address.String())
}

func dial(ctx context.Context, namespace, address string) (net.Conn, error) {
	if namespace == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	return netns.Dial(ctx, namespace, "tcp", address)
}

// applyListeners listens where st wants it and no longer where it does not.
func (s *Server) applyListeners(st *state) {
	want := map[listenKey]bool{}
	for address := range st.endpoints {
		want[listenKey{address: address}] = true
	}
	if st.config.PublicAddress.IsValid() {
		want[listenKey{netns: st.config.PublicNetNS, address: st.config.PublicAddress}] = true
	}
	for key, l := range s.listeners {
		if !want[key] || l.isStale(key.netns) {
			s.running.Go(l.close)
			delete(s.listeners, key)
		}
	}
	for key := range want {
		if s.listeners[key] == nil {
			ctx, cancel := context.WithCancel(s.ctx)
			l := &listener{cancel: cancel}
			s.listeners[key] = l
			s.running.Go(func() { s.listen(ctx, key, l) })
		}
	}
}

// listen serves at key until ctx is done, trying again while it cannot listen: the public namespace
// may come later than this process.
func (s *Server) listen(ctx context.Context, key listenKey, l *listener) {
	private := key.address
	if key.address == s.state.Load().config.PublicAddress {
		private = netip.Addr{}
	}
	server := &http.Server{
		Handler: s.handler(private),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: s.certificate,
		},
		// A registry's bulk is single large bodies: HTTP/2 would add a copy and a window to each.
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0), // handshakes that strangers broke off
	}
	server.Protocols.SetHTTP1(true)
	logged := false
	for ctx.Err() == nil {
		socket, err := s.opts.Listen(ctx, key.netns, netip.AddrPortFrom(key.address, port))
		if err == nil {
			l.mu.Lock()
			if ctx.Err() != nil {
				l.mu.Unlock()
				socket.Close()
				return
			}
			l.server, l.inode = server, inode(key.netns)
			l.mu.Unlock()
			s.log.Info("listening", "address", key.address, "netns", key.netns)
			err = server.ServeTLS(socket, "", "")
		}
		if errors.Is(err, http.ErrServerClosed) {
			return
		}
		if !logged {
			s.log.Warn("cannot listen yet", "address", key.address, "netns", key.netns, "error", err)
			logged = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// isStale reports whether l listens in a namespace that is no longer the one at path.
func (l *listener) isStale(path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.server != nil && l.inode != inode(path)
}

// close stops listening and ends the requests that came that way.
func (l *listener) close() {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		// The requests' context has ended; only a client that does not read keeps one any longer.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.server.Shutdown(ctx)
		l.server.Close()
	}
}

// certificate picks the certificate for the name that was asked for, the first when none fits.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificates := s.state.Load().certificates
	for _, c := range certificates {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate")
	}
	return certificates[0], nil
}
