package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/pki"
)

// sessions is a service that tells when a request for a session has ended, and the session with it.
type sessions struct {
	*Service
	ended chan struct{}
}

// newSessions is a service that can make sessions and nothing else, listening on its socket.
func newSessions(t *testing.T) (*sessions, *http.Client) {
	t.Helper()
	w := newWorld(t, &slowFabric{})
	root, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "root", "test")
	if err != nil {
		t.Fatal(err)
	}
	s := &sessions{ended: make(chan struct{}, 100), Service: &Service{
		API: &API{store: w.store}, ServeOptions: ServeOptions{Log: slog.New(slog.DiscardHandler)},
		layout: w.layout, world: w, root: root, ready: make(chan struct{}),
	}}
	close(s.ready)
	mux := http.NewServeMux()
	var running sync.WaitGroup
	mux.HandleFunc("POST /sessions", func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		defer func() { s.ended <- struct{}{} }()
		s.adminSession(w, r)
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		running.Wait() // an ended session still writes what the world is without it
	})
	return s, &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

// session starts one; it lasts until end is called.
func session(t *testing.T, c *http.Client, network string) (answer adminapi.Session, end func(), fault string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	body, err := json.Marshal(adminapi.SessionRequest{Network: network})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cloister/sessions", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	end = func() { cancel(); response.Body.Close() }
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		end()
		return answer, end, string(text)
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer, end, ""
}

func sessionsLeft(t *testing.T, s *sessions, want int) {
	t.Helper()
	for limit := time.After(10 * time.Second); len(s.world.Sessions()) != want; {
		select {
		case <-s.ended:
		case <-limit:
			t.Fatalf("sessions %v, want %d", s.world.Sessions(), want)
		}
	}
}

// Sessions that start together have addresses of their own, and each goes when its caller does.
func TestWorkstations(t *testing.T) {
	s, c := newSessions(t)
	var mu sync.Mutex
	addresses := map[string]int{}
	var ends []func()
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			a, end, fault := session(t, c, "")
			mu.Lock()
			defer mu.Unlock()
			if fault != "" {
				t.Error(fault)
			}
			addresses[a.Address]++
			ends = append(ends, end)
			if !strings.Contains(a.NetNS, "/shell-") || !slices.Equal(a.Nameservers, []string{"198.18.0.53"}) || a.Kubeconfig != "" || !strings.Contains(a.CABundle, "BEGIN CERTIFICATE") {
				t.Errorf("%+v", a)
			}
		})
	}
	wait.Wait()
	if len(addresses) != 8 {
		t.Errorf("8 sessions have the addresses %v", addresses)
	}
	for _, end := range ends {
		end()
	}
	sessionsLeft(t, s, 0)
	if a, end, _ := session(t, c, ""); a.Address != "198.18.8.1" {
		t.Errorf("the first address is %s", a.Address)
	} else {
		end()
	}
}

// A jump box has an address from the end of a subnet that nobody has, and that is nobody's to delegate.
func TestJumpBoxes(t *testing.T) {
	s, c := newSessions(t)
	write(t, s.store, testVNet, `{"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}`)
	write(t, s.store, testVNet+"/subnets/a-delegated", `{"properties":{"addressPrefix":"10.0.0.0/24","delegations":[{"name":"x"}]}}`)
	write(t, s.store, testVNet+"/subnets/B", `{"properties":{"addressPrefix":"10.0.1.0/29"}}`)
	nics := strings.Replace(testVNet, "virtualNetworks/v", "networkInterfaces/n", 1)
	write(t, s.store, nics, fmt.Sprintf(`{"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.0.1.6","subnet":{"id":"%s/subnets/b"}}}]}}`, testVNet))
	first, end1, fault := session(t, c, testVNet)
	second, end2, _ := session(t, c, testVNet)
	if first.Address != "10.0.1.5" || second.Address != "10.0.1.4" || !slices.Equal(first.Nameservers, []string{platformDNS}) || !strings.Contains(first.NetNS, "/jump-") {
		t.Errorf("%s %+v, %+v", fault, first, second)
	}
	end1()
	sessionsLeft(t, s, 1)
	third, end3, _ := session(t, c, testVNet)
	if third.Address != "10.0.1.5" {
		t.Errorf("a freed address is not given again: %+v", third)
	}
	end2()
	end3()
	sessionsLeft(t, s, 0)
	for network, want := range map[string]string{"nonsense": "InvalidParameter", testVNet + "x": "no subnet with a free address", testVNet + "/subnets/B": "InvalidParameter"} {
		if _, _, fault := session(t, c, network); !strings.Contains(fault, want) {
			t.Errorf("%s: %s, want %s", network, fault, want)
		}
	}
	sessionsLeft(t, s, 0)
}
