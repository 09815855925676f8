// Package public is the process `cloister public`: what the Internet of an installation holds beside the
// services of others. It runs inside the namespace `public` and listens on two addresses there, for the
// registry mcr.microsoft.com (443) and for the public DNS (53), and on nothing else.
//
// Like vnetservices it takes its desired state from a file and needs no `cloister serve`.
package public

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/lib/filewatch"
	"github.com/cloister-dev/cloister/internal/lib/freebind"
)

// Where the public services are (the network plan in the design document).
const (
	RegistryAddress = "198.18.0.10:443"
	DNSAddress      = "198.18.0.53:53"
)

// maxConnections bounds the registry's connections.
const maxConnections = 1024

// Config is everything the process serves, in the file layout.State("public").
type Config struct {
	Records      []Record  // what public names resolve to
	Certificates []KeyPair // of the registry; the one whose names fit is shown
}

// Record is a public name; fully qualified, without the trailing dot.
type Record = privatedns.Record

// KeyPair is a certificate chain and its key.
type KeyPair struct{ CertPEM, KeyPEM string }

// Options are what Run needs.
type Options struct {
	ConfigPath string       // layout.State("public")
	Registry   http.Handler // what mcr.microsoft.com answers
	Log        *slog.Logger
}

// server is what runs.
type server struct {
	dns          *privatedns.Server
	certificates atomic.Pointer[[]tls.Certificate]
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	empty, err := view(nil)
	if err != nil {
		return err
	}
	s := &server{dns: privatedns.NewServer(empty)}
	s.certificates.Store(new([]tls.Certificate))
	// The fabric may give the namespace its addresses later.
	packets, err := freebind.ListenPacket(ctx, "udp4", DNSAddress)
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	defer packets.Close()
	dns, err := freebind.Listen(ctx, "tcp4", DNSAddress)
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	defer dns.Close()
	registry, err := freebind.Listen(ctx, "tcp4", RegistryAddress)
	if err != nil {
		return fmt.Errorf("listen for the registry: %w", err)
	}
	defer registry.Close()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return filewatch.Watch(ctx, o.ConfigPath, func() {
			if err := s.load(o.ConfigPath); err != nil {
				o.Log.ErrorContext(ctx, "the desired state was not taken over as a whole", "error", err)
			}
		})
	})
	group.Go(func() error { return s.dns.Serve(ctx, packets, dns) })
	group.Go(func() error { return s.serveRegistry(ctx, registry, o) })
	return group.Wait()
}

// load takes over the file. What makes no sense is told by the error and left out; before there is a file
// nothing resolves and no handshake succeeds.
func (s *server) load(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the desired state: %w", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("read the desired state from %s: %w", path, err)
	}
	names, err := view(c.Records)
	s.dns.SetView(names)
	errs := []error{err}
	var pairs []tls.Certificate
	for i, p := range c.Certificates {
		pair, err := tls.X509KeyPair([]byte(p.CertPEM), []byte(p.KeyPEM))
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %d: %w", i, err))
			continue
		}
		pairs = append(pairs, pair)
	}
	s.certificates.Store(&pairs)
	return errors.Join(errs...)
}

func view(records []Record) (*privatedns.View, error) {
	names, err := privatedns.NewPublic(records)
	v, err2 := privatedns.NewView(nil, names)
	return v, errors.Join(err, err2)
}

func (s *server) serveRegistry(ctx context.Context, l net.Listener, o Options) error {
	h := &http.Server{
		Handler: o.Registry, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog:  slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate},
	}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	if err := h.ServeTLS(netutil.LimitListener(l, maxConnections), "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the registry: %w", err)
	}
	return nil
}

func (s *server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := *s.certificates.Load()
	for i := range pairs {
		if hello.SupportsCertificate(&pairs[i]) == nil {
			return &pairs[i], nil
		}
	}
	return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
}
