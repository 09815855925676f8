// Package vnetservices is the process `cloister vnetservices`: what every virtual network finds at
// 168.63.129.16 (DNS) and 169.254.169.254 (instance metadata), and for every cluster the API server's tunnel
// and the approver of serving certificates. It joins the engines that do these things and does none itself.
//
// It lives apart from `cloister serve`: its desired state is a file that it watches, and with serve dead it
// goes on, and starts again, from what the file said last. Its sockets are opened inside each network's
// namespace; what did not change in a new state is not touched.
//
// The wire server (168.63.129.16:80) is closed: a node of ours asks it nothing.
package vnetservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/lib/filewatch"
)

// Options are what Run needs.
type Options struct {
	ConfigPath string // layout.State("vnetservices")
	// StatusSocket is the path of a Unix socket (0600) that answers what the process sees; none where empty.
	StatusSocket string
	Log          *slog.Logger
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	mounts, err := watchMounts()
	if err != nil {
		return err
	}
	defer mounts.Close()
	s := &services{log: o.Log, mounts: mounts, networks: map[string]*network{}, clusters: map[string]*cluster{}}
	ctx, cancel := context.WithCancel(ctx)
	defer s.wait()
	defer cancel()
	if o.StatusSocket != "" {
		stop, err := s.serveStatus(o.StatusSocket)
		if err != nil {
			return err
		}
		defer stop()
	}
	return filewatch.Watch(ctx, o.ConfigPath, func() {
		c, err := load(o.ConfigPath)
		if err == nil {
			err = s.apply(ctx, c)
		}
		if err != nil {
			o.Log.ErrorContext(ctx, "the desired state was not taken over as a whole", "error", err)
		}
	})
}

// services is what runs.
type services struct {
	log    *slog.Logger
	mounts *mounts
	tasks  sync.WaitGroup

	mu       sync.Mutex
	keys     string
	issuer   *identity.Issuer
	networks map[string]*network
	clusters map[string]*cluster
}

func (s *services) wait() { s.tasks.Wait() }

// apply makes c what is served. A part that makes no sense is told by the error and left out; the rest is served.
func (s *services) apply(ctx context.Context, c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if len(c.Networks) > 0 && (s.issuer == nil || s.keys != c.Authority.Keys) {
		keys, err := identity.OpenKeys(c.Authority.Keys)
		if err != nil {
			return err
		}
		s.keys, s.issuer = c.Authority.Keys, identity.NewIssuer(keys, nil)
		for id, n := range s.networks {
			n.stop()
			delete(s.networks, id)
		}
	}
	public, err := privatedns.NewPublic(c.Public)
	errs = append(errs, err)
	kept := map[string]bool{}
	for _, want := range c.Networks {
		kept[want.ID] = true
		view, err := privatedns.NewView(want.Zones, public)
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", want.ID, err))
		}
		n := s.networks[want.ID]
		if n != nil && n.netns != want.NetNS {
			n.stop()
			n = nil
		}
		if n == nil {
			n = newNetwork(want, view, s.issuer, s.log)
			s.networks[want.ID] = n
			s.start(ctx, &n.stop, func(ctx context.Context) { n.run(ctx, s.mounts) })
			continue
		}
		n.dns.SetView(view)
		n.setGuests(want.Guests)
	}
	for id, n := range s.networks {
		if !kept[id] {
			n.stop()
			delete(s.networks, id)
		}
	}
	clear(kept)
	for _, want := range c.Clusters {
		kept[want.ID] = true
		k := s.clusters[want.ID]
		if k != nil && !k.same(want) {
			k.stop()
			k = nil
		}
		if k == nil {
			k = newCluster(want, s.log)
			s.clusters[want.ID] = k
			s.start(ctx, &k.stop, k.run)
		}
		k.set(want)
	}
	for id, k := range s.clusters {
		if !kept[id] {
			k.stop()
			delete(s.clusters, id)
		}
	}
	return errors.Join(errs...)
}

// start runs fn until ctx ends or *stop is called, which does not return before fn does: whoever comes next
// finds the addresses and sockets free.
func (s *services) start(ctx context.Context, stop *func(), fn func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	*stop = func() {
		cancel()
		<-done
	}
	s.tasks.Go(func() {
		defer close(done)
		defer cancel()
		fn(ctx)
	})
}

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// keep calls fn again, with growing pauses, for as long as it fails. A pause ends early when wake is closed.
func keep(ctx context.Context, log *slog.Logger, what string, wake func() <-chan struct{}, fn func(context.Context) error) {
	backoff := minBackoff
	for {
		var woken <-chan struct{}
		if wake != nil {
			woken = wake() // taken before the try: what changes during it counts
		}
		began := time.Now()
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		log.WarnContext(ctx, what+" ended; trying again", "error", err, "pause", backoff)
		select {
		case <-ctx.Done():
			return
		case <-woken:
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// newHTTPServer is an HTTP server for strangers: nothing they do holds on to much.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
