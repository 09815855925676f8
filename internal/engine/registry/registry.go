// Package registry is the data plane of every container registry of an installation: the OCI
// distribution API with Azure Container Registry's token flow, cache rules and data endpoints, for
// all registries in one process.
//
// It takes its whole desired state from a file that it watches (Config), so it needs nobody else to
// be alive. It knows nothing of ARM: who may do what has been worked out before and is in
// Registry.Access. Push, pull, tags and catalog are distribution/distribution's; tokens, cache rules,
// signed blob addresses and the sharing of blobs between registries are here.
//
// Documents: https://github.com/opencontainers/distribution-spec/blob/main/spec.md,
// https://distribution.github.io/distribution/spec/auth/token/ and
// https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"
)

// Options is what Run and Open need.
type Options struct {
	ConfigPath string // required by Run: the file that holds a Config; replaced by rename
	StorageDir string // required: blobs, links and the token issuer's keys

	Log    *slog.Logger                                                                          // optional: slog.Default
	Now    func() time.Time                                                                      // optional: time.Now
	Listen func(ctx context.Context, netns string, address netip.AddrPort) (net.Listener, error) // optional: the kernel's; netns "" is the process's own
	Dial   func(ctx context.Context, netns, address string) (net.Conn, error)                    // optional: the kernel's
}

// Server serves the registries of the Config that was applied last.
//
//	Open ── Apply ── Apply ── … ── Close
//
// Apply and Close must not run at the same time as another Apply.
type Server struct {
	opts    Options
	log     *slog.Logger
	now     func() time.Time
	keys    *keys
	storage *storage
	cache   *cache
	state   atomic.Pointer[state]

	ctx       context.Context // ends with Close; what outlives a request runs under it
	cancel    context.CancelFunc
	running   sync.WaitGroup
	listeners map[listenKey]*listener
	misses    singleflight.Group

	importing   sync.Map // the imports under way, by their names
	importSlots chan struct{}
}

// Run serves what the file at opts.ConfigPath says until ctx is done. A file that cannot be read as a
// Config changes nothing.
func Run(ctx context.Context, opts Options) error {
	// distribution logs every 404 to logrus's standard logger; requests are logged here.
	logrus.SetLevel(logrus.FatalLevel)
	s, err := Open(opts)
	if err != nil {
		return err
	}
	defer s.Close()

	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", opts.ConfigPath, err)
	}
	defer watcher.Close()
	// The directory, because a rename replaces the file and a watch on the file would keep the old one.
	dir := filepath.Dir(opts.ConfigPath)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := watcher.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	// Orders to import come as files too, and are read when there is a configuration to do them in.
	imports := filepath.Dir(Imports{opts.StorageDir}.path("x"))
	if err := os.MkdirAll(imports, 0o700); err != nil {
		return err
	}
	if err := watcher.Add(imports); err != nil {
		return fmt.Errorf("watch %s: %w", imports, err)
	}
	s.reload()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return errors.New("the file watch ended")
			}
			if filepath.Clean(event.Name) == filepath.Clean(opts.ConfigPath) && event.Has(fsnotify.Create|fsnotify.Write) {
				s.reload()
			}
			if filepath.Dir(event.Name) == imports && event.Has(fsnotify.Create) {
				s.startImports()
			}
		case err, ok := <-watcher.Errors:
			if !ok {
				return errors.New("the file watch ended")
			}
			// An overflow lost events: the file may have changed.
			s.log.Warn("watching the configuration", "error", err)
			s.reload()
		}
	}
}

func (s *Server) reload() {
	config, err := ReadConfig(s.opts.ConfigPath)
	if errors.Is(err, os.ErrNotExist) {
		s.log.Info("waiting for a configuration", "path", s.opts.ConfigPath)
		return
	}
	if err == nil {
		err = s.Apply(config)
	}
	if err != nil {
		s.log.Error("the configuration is unchanged", "error", err)
		return
	}
	s.startImports()
}

// Open prepares the storage and serves nothing yet.
func Open(opts Options) (*Server, error) {
	s := &Server{opts: opts, log: opts.Log, now: opts.Now, listeners: map[listenKey]*listener{}, importSlots: make(chan struct{}, importsAtOnce)}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.opts.Listen == nil {
		s.opts.Listen = listen
	}
	if s.opts.Dial == nil {
		s.opts.Dial = dial
	}
	var err error
	if s.storage, err = openStorage(opts.StorageDir); err != nil {
		return nil, err
	}
	if s.keys, err = openKeys(filepath.Join(opts.StorageDir, "keys.json")); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.cache = &cache{ctx: s.ctx, running: &s.running, storage: s.storage, log: s.log, stall: stallTimeout, flights: map[flightKey]*flight{}}
	s.state.Store(&state{})
	s.running.Go(s.tidy)
	return s, nil
}

// Apply makes the server serve config and nothing else. Listeners that stay keep their connections.
func (s *Server) Apply(config Config) error {
	next, err := s.compile(config, s.state.Load())
	if err != nil {
		return err
	}
	old := s.state.Swap(next)
	s.applyListeners(next)
	for key, r := range old.registries {
		if next.registries[key] == nil || next.registries[key].store != r.store {
			r.store.close()
		}
	}
	due, err := s.storage.retain(next.keys, s.log)
	if due {
		s.running.Go(func() {
			if err := s.storage.sweepWhenQuiet(s.ctx); err != nil {
				s.log.Error("sweep", "error", err)
			}
		})
	}
	return err
}

// Close stops listening, ends what is being served and waits for it.
func (s *Server) Close() {
	s.cancel()
	for key, l := range s.listeners {
		l.close()
		delete(s.listeners, key)
	}
	s.running.Wait()
	for _, r := range s.state.Load().registries {
		r.store.close()
	}
}
