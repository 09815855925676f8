package registry

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"

	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// namespace makes a network namespace whose loopback is up.
func namespace(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := netns.Create(path); err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() { netns.Delete(path) })
	err := netns.Do(path, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// setAddress gives the namespace's loopback a further address.
func setAddress(t *testing.T, path string, address netip.Addr) {
	t.Helper()
	err := netns.Do(path, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo:1")
		if err != nil {
			return err
		}
		ip := address.As4()
		if err := request.SetInet4Addr(ip[:]); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPublicNamespace: the public endpoint and the way upstream are in the public namespace, whose
// address may come after the registry listens.
func TestPublicNamespace(t *testing.T) {
	public := namespace(t, "public")
	address := netip.MustParseAddr("198.18.0.20")

	e := newEnv(t)
	image := e.publish("pause:3.9", 64)
	e.server.Close()
	// The same upstream, but reached only inside the namespace.
	socket, err := netns.Listen(public, "tcp4", "127.0.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := e.upstreamTransport().RoundTrip(&http.Request{Method: r.Method, URL: &url.URL{Scheme: "https", Host: "mcr.microsoft.com", Path: r.URL.Path}, Header: r.Header})
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		for k, v := range response.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	}))
	pair := testAuthority().issue("mcr.microsoft.com")
	certificate, err := tls.X509KeyPair([]byte(pair.CertPEM), []byte(pair.KeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	front.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	front.Listener.Close()
	front.Listener = socket
	front.StartTLS()
	t.Cleanup(front.Close)

	e.config.PublicNetNS, e.config.PublicAddress = public, address
	e.config.Upstreams = map[string]string{"mcr.microsoft.com": "127.0.0.1:8443"}
	for i := range e.config.Registries {
		e.config.Registries[i].Endpoints = nil
		e.config.Registries[i].PublicAccess = true
	}
	server, err := Open(Options{StorageDir: filepath.Join(e.dir, "registry"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	e.server = server
	e.apply()
	time.Sleep(50 * time.Millisecond)
	setAddress(t, public, address)
	rt := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: testAuthority().pool()},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return netns.Dial(ctx, public, "tcp", netip.AddrPortFrom(address, 443).String())
		},
	}
	e.mustPull("b.azurecr.io/pause:3.9", image, e.options(rt, e.login("b.azurecr.io", ""))...)
}

// TestCloseLeavesNothing: no goroutine outlives the server.
func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	server, err := Open(Options{StorageDir: dir, Log: slog.New(slog.DiscardHandler), Listen: func(context.Context, string, netip.AddrPort) (net.Listener, error) {
		return net.Listen("tcp", "127.0.0.1:0")
	}})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{PublicAddress: netip.MustParseAddr("198.18.0.20"), Registries: []Registry{{
		ID: "x", LoginServer: "x.azurecr.io", Endpoints: []Endpoint{{ServiceAddress: netip.MustParseAddr("240.0.0.1"), Member: "registry"}},
	}}}
	if err := server.Apply(config); err != nil {
		t.Fatal(err)
	}
	config.Registries = nil
	if err := server.Apply(config); err != nil {
		t.Fatal(err)
	}
	server.Close()
	// distribution gives every App a goroutine for events that Shutdown does not end.
	goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"))
}
