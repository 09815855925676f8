package public

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs the process in a namespace of its own, as it is run in `public`.
func run(t *testing.T, dir string) (space string) {
	t.Helper()
	space = filepath.Join(dir, "public.net")
	if err := netns.Create(space); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { netns.Delete(space) })
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		// The sockets are made on this thread, which ends with the goroutine.
		runtime.LockOSThread()
		err := enter(space)
		close(started)
		if err == nil {
			err = Run(ctx, Options{
				ConfigPath: filepath.Join(dir, "public.json"), Log: slog.New(slog.DiscardHandler),
				Registry: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the registry") }),
			})
		}
		done <- err
	}()
	<-started
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return space
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

func addresses(t *testing.T, space string, list ...string) {
	t.Helper()
	err := netns.Do(space, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range list {
			address, err := netlink.ParseAddr(a + "/32")
			if err != nil {
				return err
			}
			if err := h.AddrAdd(lo, address); err != nil {
				return err
			}
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what, want string, fn func() (string, error)) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = fn(); err == nil && got == want {
			return
		}
	}
	t.Fatalf("%s: %q %v, want %q", what, got, err, want)
}

func TestPublic(t *testing.T) {
	dir := t.TempDir()
	space := run(t, dir)
	// Later than the sockets, as the fabric may be.
	addresses(t, space, "198.18.0.10", "198.18.0.53", "198.18.0.11")

	authority, err := pki.OpenAuthority(filepath.Join(dir, "pki"), "ca", "test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{CommonName: "mcr.microsoft.com", DNSNames: []string{"mcr.microsoft.com"}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func(address string) {
		t.Helper()
		err := atomicfile.WriteJSON(filepath.Join(dir, "public.json"), Config{
			Records:      []Record{{Name: "mcr.microsoft.com", Type: "A", Value: address, TTL: 60}, {Name: "bad", Type: "A", Value: "x"}},
			Certificates: []KeyPair{{CertPEM: string(pair.CertPEM), KeyPEM: string(pair.KeyPEM)}, {CertPEM: "junk"}},
		}, 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	resolve := func(network string) func() (string, error) {
		return func() (string, error) {
			c, err := netns.Dial(t.Context(), space, network, DNSAddress)
			if err != nil {
				return "", err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Second))
			conn := dns.Conn{Conn: c}
			if err := conn.WriteMsg(new(dns.Msg).SetQuestion("mcr.microsoft.com.", dns.TypeA)); err != nil {
				return "", err
			}
			m, err := conn.ReadMsg()
			if err != nil {
				return "", err
			}
			if len(m.Answer) == 1 {
				return m.Answer[0].(*dns.A).A.String(), nil
			}
			return dns.RcodeToString[m.Rcode], nil
		}
	}
	eventually(t, "before the state", "NXDOMAIN", resolve("udp"))
	write("198.18.0.10")
	eventually(t, "UDP", "198.18.0.10", resolve("udp"))
	eventually(t, "TCP", "198.18.0.10", resolve("tcp"))

	get := func(server string) (string, error) {
		transport := &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return netns.Dial(ctx, space, network, RegistryAddress)
			},
			TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}, DisableKeepAlives: true,
		}
		response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("https://" + server + "/v2/")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		return fmt.Sprint(response.StatusCode, " ", string(data)), err
	}
	eventually(t, "registry", "200 the registry", func() (string, error) { return get("mcr.microsoft.com") })
	if got, err := get("management.azure.com"); err == nil {
		t.Errorf("another name was served: %s", got)
	}

	// Nothing else listens: not the registry without TLS, and not on addresses of others.
	for _, address := range []string{"198.18.0.10:80", "198.18.0.10:53", "198.18.0.53:443", "198.18.0.11:443", "198.18.0.11:53"} {
		if c, err := netns.Dial(t.Context(), space, "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", address, err)
			if err == nil {
				c.Close()
			}
		}
	}
	write("198.18.0.99")
	eventually(t, "a new state", "198.18.0.99", resolve("udp"))
}
