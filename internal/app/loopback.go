package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/engine/identity/authority"
	"github.com/cloister-dev/cloister/internal/lib/pki"
)

// mirror is the path below which a cloud of its own name has the extensions of the Azure CLI.
const mirror = "/azmirror"

// cloud describes the installation as a cloud of its own, to a client that has reached it on the loopback interface.
// An authority that ends in adfs is one of which clients do not ask login.microsoftonline.com whether it is genuine.
func cloud(host string) frontdoor.Metadata {
	root := "https://" + host
	m := publicCloud()
	m.Name, m.Portal, m.ResourceManager = "Cloister", "", root+"/"
	m.Authentication.LoginEndpoint, m.Authentication.Tenant, m.Authentication.IdentityProvider = root+"/adfs", "adfs", "ADFS"
	m.MicrosoftGraphResourceID, m.AzureMirror = root+"/", root+mirror
	return m
}

// listenLoopback serves everything that has a public name at one address of the loopback interface, if that was
// asked for. The administration API stays on its socket.
func (s *Service) listenLoopback(ctx context.Context, g *errgroup.Group, arm http.Handler, login *authority.Authority, extensions http.Handler) error {
	if s.settings.Listen == "" {
		return nil
	}
	pair, err := s.root.Ensure(s.layout.PKI(), "loopback", pki.Request{
		CommonName: "localhost", DNSNames: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, Server: true,
	})
	if err != nil {
		return err
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.settings.Listen)
	if err != nil {
		return fmt.Errorf("listen for the host's own programs: %w; choose another address with `cloister up --listen`", err)
	}
	arm = withoutAdministration(arm)
	mux := http.NewServeMux()
	mux.Handle(mirror+"/", extensions)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.settings.Names(r.Host): // a page in a browser that has a name point here
			http.Error(w, "Misdirected Request", http.StatusMisdirectedRequest)
		case login.Serves(r):
			login.ServeHTTP(w, r)
		default:
			arm.ServeHTTP(w, r)
		}
	})
	serveHTTP(ctx, g, mux, tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}))
	s.mu.Lock()
	s.listening = s.settings.Listen
	s.mu.Unlock()
	return nil
}

// graphAudiences are what tokens for Graph are asked for by.
func (s *Service) graphAudiences() []string {
	audiences := []string{"https://graph.microsoft.com/"}
	if _, port, err := net.SplitHostPort(s.settings.Listen); err == nil {
		for _, name := range []string{"localhost", "127.0.0.1", "[::1]"} {
			audiences = append(audiences, "https://"+name+":"+port+"/")
		}
	}
	return audiences
}
