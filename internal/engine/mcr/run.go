package mcr

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// Options is what Run needs.
type Options struct {
	LayoutDir    string
	NetNS        string            // file of the namespace to listen in; "" is the process's own
	Address      netip.Addr        // port 443
	Certificates []tls.Certificate // for mcr.microsoft.com
	Log          *slog.Logger      // optional
}

// Run serves the layout over TLS until ctx is done. The address need not be there yet.
func Run(ctx context.Context, opts Options) error {
	address := netip.AddrPortFrom(opts.Address, 443).String()
	socket, err := netns.ListenFree(ctx, opts.NetNS, "tcp4", address)
	if err != nil {
		return fmt.Errorf("listen for mcr.microsoft.com: %w", err)
	}
	server := &http.Server{
		Handler:           Handler(opts.LayoutDir, opts.Log),
		TLSConfig:         &tls.Config{Certificates: opts.Certificates, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		Protocols:         new(http.Protocols),
		ErrorLog:          log.New(io.Discard, "", 0), // handshakes that strangers broke off
	}
	server.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ServeTLS(socket, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
