package vnetservices

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/cloister-dev/cloister/internal/engine/privatedns"
)

// Status is what the process sees.
type Status struct {
	Networks map[string]NetworkStatus // by ID
	Clusters []string                 // IDs
}

// NetworkStatus is what the process sees in one network.
type NetworkStatus struct {
	Queries []privatedns.Query // names asked for since the process started
}

func (s *services) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{Networks: map[string]NetworkStatus{}, Clusters: []string{}}
	for id, n := range s.networks {
		out.Networks[id] = NetworkStatus{Queries: n.dns.Queries()}
	}
	for id := range s.clusters {
		out.Clusters = append(out.Clusters, id)
	}
	return out
}

// serveStatus answers GET /status on a Unix socket until stop is called.
func (s *services) serveStatus(path string) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen for status requests: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for status requests: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for status requests: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for status requests: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s.status()) //nolint:errcheck // the client is gone; there is nobody to tell
	})
	server := newHTTPServer(mux, s.log)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l) //nolint:errcheck // ends with Close
	}()
	return func() { server.Close(); <-done }, nil
}
