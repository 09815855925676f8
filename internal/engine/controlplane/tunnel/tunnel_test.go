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
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a server on the nodes' side that answers each connection's whole input in capitals.
func node(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				data, _ := io.ReadAll(c) // until the client has ended its direction
				c.Write(bytes.ToUpper(data))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", a.String())
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.Socket = filepath.Join(t.TempDir(), "cluster", "tunnel.sock")
	o.Log = slog.New(slog.DiscardHandler)
	if o.Dial == nil {
		o.Dial = dial
	}
	s := New(o)
	s.SetPrefixes([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/29")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for range 200 {
		if _, err := os.Stat(o.Socket); err == nil {
			return s
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("no socket")
	return nil
}

// connect does what tunnelHTTPConnect in k8s.io/apiserver does.
func connect(t *testing.T, s *Server, target string) (*net.UnixConn, *http.Response, error) {
	t.Helper()
	c, err := net.Dial("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, "127.0.0.1")
	reader := bufio.NewReader(c)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode == 200 && reader.Buffered() > 0 {
		return nil, nil, errors.New("unexpected buffered data from CONNECT proxy")
	}
	if response.StatusCode != 200 {
		data, _ := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(data))
	}
	return c.(*net.UnixConn), response, nil
}

func TestConnectAndHalfClose(t *testing.T) {
	s, target := start(t, Options{}), node(t)
	c, response, err := connect(t, s, target.String())
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response, err)
	}
	big := strings.Repeat("kubelet logs ", 100_000)
	go func() {
		io.WriteString(c, big)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != strings.ToUpper(big) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(big), err)
	}
}

func TestBytesThatFollowTheRequestAtOnceAreCarried(t *testing.T) {
	s, target := start(t, Options{}), node(t)
	c, err := net.Dial("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nhello", target)
	c.(*net.UnixConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "HTTP/1.1 200 Connection established\r\n\r\nHELLO" {
		t.Errorf("%q %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	dialled := make(chan netip.AddrPort, 10)
	s := start(t, Options{Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		dialled <- a
		return nil, errors.New("connection refused")
	}})
	for target, want := range map[string]int{
		"127.0.0.8:10250":          403, // outside the prefixes
		"168.63.129.16:80":         403,
		"169.254.169.254:80":       403,
		"[::1]:80":                 403,
		"[::ffff:127.0.0.9]:80":    403,
		"[fe80::1%25eth0]:80":      403,
		"node-1.internal:10250":    403,
		"localhost:10250":          403,
		"127.0.0.1":                400,
		"127.0.0.1:0":              400,
		"127.0.0.1:70000":          400,
		"127.1:80":                 403,
		"/":                        400,
		"http://127.0.0.1:10250/x": 400,
	} {
		_, response, err := connect(t, s, target)
		if err != nil || response.StatusCode != want {
			t.Errorf("%s: %v %v, want %d", target, response, err, want)
		}
	}
	if len(dialled) != 0 {
		t.Errorf("dialled %v", <-dialled)
	}
	if _, response, err := connect(t, s, "[::ffff:127.0.0.1]:80"); err != nil || response.StatusCode != 502 {
		t.Errorf("allowed but down: %v %v", response, err)
	} else if got := <-dialled; got != netip.MustParseAddrPort("127.0.0.1:80") {
		t.Errorf("dialled %v", got)
	}
	for name, request := range map[string]string{
		"other method": "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"junk":         "\x16\x03\x01\r\n\r\n",
		"long head":    "CONNECT 127.0.0.1:1 HTTP/1.1\r\nX: " + strings.Repeat("x", maxRequest) + "\r\n\r\n",
	} {
		c, err := net.Dial("unix", s.Socket)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, request)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && response.StatusCode/100 != 4 {
			t.Errorf("%s: %v", name, response.Status)
		}
		c.Close()
	}
	if len(dialled) != 0 {
		t.Errorf("dialled %v", <-dialled)
	}
}

func TestPrefixesChangeWhileServing(t *testing.T) {
	s, target := start(t, Options{}), node(t)
	old, response, err := connect(t, s, target.String())
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response, err)
	}
	s.SetPrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	if _, response, err := connect(t, s, target.String()); err != nil || response.StatusCode != 403 {
		t.Errorf("%v %v", response, err)
	}
	io.WriteString(old, "still")
	old.CloseWrite()
	if got, err := io.ReadAll(old); string(got) != "STILL" {
		t.Errorf("%q %v", got, err)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	s, target := start(t, Options{Idle: 50 * time.Millisecond}), node(t)
	c, response, err := connect(t, s, target.String())
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response, err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the idle connection is still there: %v", err)
	}
}

func TestManyConnections(t *testing.T) {
	s, target := start(t, Options{}), node(t)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			c, err := net.Dial("unix", s.Socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nconnection %d", target, i)
			c.(*net.UnixConn).CloseWrite()
			got, err := io.ReadAll(c)
			if want := fmt.Sprintf("CONNECTION %d", i); !strings.HasSuffix(string(got), want) {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	wg.Wait()
}

func TestSocketIsPrivateAndReplaced(t *testing.T) {
	s := start(t, Options{})
	info, err := os.Stat(s.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	// A process that was killed leaves its socket; the next one takes its place.
	next := New(Options{Socket: s.Socket, Dial: dial, Log: slog.New(slog.DiscardHandler)})
	next.SetPrefixes(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- next.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for range 200 {
		if _, response, err := connect(t, s, "127.0.0.1:1"); err == nil && response.StatusCode == 403 {
			return // by the next one, which leads nowhere
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the old socket is still in its place")
}

func FuzzTarget(f *testing.F) {
	s := New(Options{})
	prefix := netip.MustParsePrefix("10.0.0.0/8")
	s.SetPrefixes([]netip.Prefix{prefix})
	for _, seed := range []string{"10.0.0.1:80", "[::ffff:10.0.0.1]:80", "host:80", "[fe80::1%eth0]:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if a, err := s.target(target); err == nil && (!prefix.Contains(a.Addr()) || a.Port() == 0) {
			t.Errorf("%q leads to %v", target, a)
		}
	})
}
