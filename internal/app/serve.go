// Package app is the composition root: it builds the engines, lists the resource types, and starts the
// service. Nothing but cmd and test imports it.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/app/azextension"
	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/app/public"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcemanager"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/sqlite"
	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/runcommand"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/identity/authority"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/logrotate"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/pki"
	"github.com/cloister-dev/cloister/internal/lib/settings"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/operationreport"
)

// ServeOptions say which installation to serve.
type ServeOptions struct {
	DataDir, CacheDir string
	Version, Program  string
	Log               *slog.Logger
}

// Service is one running `cloister serve`.
type Service struct {
	*API
	ServeOptions
	layout     layout.Layout
	set        artifacts.Set
	programs   programs
	root       *pki.Authority
	daemon     *containerd.Daemon
	containers *containerrun.Client
	fabric     *fabric.Fabric
	world      *World
	nodes      *node.Engine
	results    *provisionResults
	planes     *controlplane.Engine
	commands   *runcommand.Runner
	clusters   *clusters
	diagnoser  *diagnosis.Diagnoser
	started    time.Time

	exit  context.CancelFunc
	ready chan struct{} // closed when all is up, or problem is set

	placing   sync.Mutex // held while a session's address is chosen
	mu        sync.Mutex
	problem   error  // the start failed
	degraded  error  // the start went on without something
	listening string // on the loopback interface
}

// errLocked is told to a second service on the same data directory.
var errLocked = errors.New("another `cloister serve` runs on this data directory")

// lockData takes the data directory for one process; the kernel gives it back however the process ends.
func lockData(dataDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dataDir, "serve.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errLocked
	}
	return f, nil
}

// handOver is how long a new service waits for the one that it replaces to end.
const handOver = 10 * time.Second

// awaitLock is lockData, but gives a service that is just ending the time to do so.
func awaitLock(ctx context.Context, dataDir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for {
		f, err := lockData(dataDir)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Serve runs the service until ctx ends or it is asked to exit. Clusters run on without it.
func Serve(ctx context.Context, o ServeOptions) error {
	in, err := LoadInstance(o.DataDir)
	if err != nil {
		return fmt.Errorf("there is no installation to serve: %w", err)
	}
	lock, err := awaitLock(ctx, o.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	s := &Service{ServeOptions: o, layout: in.Layout(o.DataDir, o.CacheDir), started: time.Now(), ready: make(chan struct{})}
	if s.set, err = artifacts.Locate(o.CacheDir); err != nil {
		return err
	}
	ctx, s.exit = context.WithCancel(ctx)
	defer s.exit()
	if err := s.open(in); err != nil {
		return err
	}
	defer s.close()

	socket, err := s.listenSocket()
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := notifyListening(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	login := s.authority()
	handler := s.handler(login)
	serveHTTP(ctx, g, handler, socket)
	g.Go(func() error {
		// What fails here is told to whoever asks, and the service stays to tell it.
		if err := s.start(ctx, g, handler, login); err != nil && ctx.Err() == nil {
			s.Log.Error("the start failed", "error", err)
			s.mu.Lock()
			s.problem = err
			s.mu.Unlock()
		}
		close(s.ready)
		return nil
	})
	err = g.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// open loads and connects everything that needs nothing to run.
func (s *Service) open(in Instance) (err error) {
	l := s.layout
	for _, dir := range []string{l.RunDir, filepath.Dir(l.Tunnel("x"))} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := shareNamespaces(l); err != nil {
		return err
	}
	if s.programs, err = installPrograms(l); err != nil {
		return fmt.Errorf("install the program: %w", err)
	}
	if s.root, err = pki.OpenAuthority(l.PKI(), "root", "Cloister root "+in.ID); err != nil {
		return err
	}
	keys, err := identity.OpenKeys(l.Identity())
	if err != nil {
		return err
	}
	store, err := sqlite.Open(context.Background(), filepath.Join(l.DataDir, "cloister.db"))
	if err != nil {
		return err
	}
	s.fabric = fabric.New(l)
	s.daemon = containerd.New(l, s.set.Bin)
	if s.containers, err = containerrun.New(s.daemon.RunOptions(s.programs.stable, "hook", "cgroup")); err != nil {
		return err
	}
	if s.nodes, err = node.New(node.Options{Layout: l, Containers: s.containers, Executable: s.programs.stable, CgroupV2: node.HostHasCgroupV2()}); err != nil {
		return err
	}
	s.results = newProvisionResults(s.nodes)
	s.planes = controlplane.New(l, s.set.Bin, s.set.Kubernetes, s.containers)
	s.commands = runcommand.New(runcommand.Options{
		Image: commandImage, Log: s.Log, Client: s.planes.Client,
		Dir: func(cluster string) string { return filepath.Join(l.Cluster(cluster), "commands") },
	})
	s.clusters = &clusters{layout: l, engine: s.planes, commands: s.commands, leaf: func(name string) (netip.Addr, bool) { return s.world.LeafAddress(name) }}
	s.world = &World{layout: l, store: store, fabric: s.fabric, input: s.projectionInput, log: s.Log, public: s.publicConfig, sessions: map[string]projection.Session{}}
	s.diagnoser = s.newDiagnoser()
	s.API, err = NewAPI(in, store, keys, Engines{
		World: s.world, ControlPlane: s.clusters, Nodes: poolNodes{s.nodes, s.results}, Commands: s.commands, Imports: registry.Imports{Dir: l.Registry()},
		RegistrySize: func(id resourceid.ID) (int64, error) {
			return registry.Size(l.Registry(), projection.RegistryPrefix(id))
		},
		OccupiedRepositories: func(id resourceid.ID, source, target string) ([]string, error) {
			return registry.Occupied(l.Registry(), projection.RegistryPrefix(id), registry.CacheRule{Source: source, Target: target})
		},
		Reports:    operationreport.Source{Warnings: s.diagnoser.Warnings, Diagnose: s.diagnoser.Cluster},
		NodeRootfs: s.set.NodeRootfs, AuthorityPEM: string(s.root.CertPEM),
		InSteps: func() (bool, error) {
			chosen, err := settings.Load(l.DataDir)
			return chosen.Conversion == settings.ConversionInSteps, err
		},
		Throttled: func() (bool, error) {
			chosen, err := settings.Load(l.DataDir)
			return chosen.Throttling == settings.ThrottlingAzure, err
		},
		AzureTiming: func() (bool, error) {
			chosen, err := settings.Load(l.DataDir)
			return chosen.AzureTiming, err
		},
	}, s.Log)
	if err != nil {
		return err
	}
	s.API.settings, err = settings.Load(l.DataDir)
	return err
}

func (s *Service) close() {
	for _, c := range []interface{ Close() error }{s.commands, s.nodes, s.containers, s.store} {
		if err := c.Close(); err != nil {
			s.Log.Warn("close", "error", err)
		}
	}
}

// start brings the machine to what the documents say: namespaces first, then what runs in them, then the
// reconciles that were cut off.
func (s *Service) start(ctx context.Context, g *errgroup.Group, handler http.Handler, login *authority.Authority) error {
	if err := s.Seed(ctx); err != nil {
		return err
	}
	// The fabric and containerd need nothing of each other but that nothing is started before its namespace is there.
	// What fails for one guest or node is told by status, and stops nobody else.
	if err := errors.Join(s.world.Sync(ctx), s.nodes.Restore(ctx)); err != nil {
		s.Log.Error("not everything could be restored", "error", err)
		s.mu.Lock()
		s.degraded = err
		s.mu.Unlock()
	}
	if err := s.planes.Restore(); err != nil {
		return err
	}
	if err := s.daemon.Start(ctx); err != nil {
		return err
	}
	if err := startProcesses(ctx, s.layout, s.containers, processes(s.layout, s.programs.versioned, s.set.MCR)); err != nil {
		return err
	}
	g.Go(func() error { return s.results.run(ctx) })
	g.Go(func() error {
		logrotate.Run(ctx, s.layout.Log("*"), logLimits, func(err error) { s.Log.Warn("logs grow", "error", err) })
		return nil
	})
	// A container whose making was cut off a moment ago may still be in its own way; it is tried again
	// beside everything else, as a reconcile would.
	if err := s.resume(ctx, g); err != nil {
		g.Go(func() error {
			for n := 1; ctx.Err() == nil && err != nil; n++ {
				s.Log.Warn("what ran before is not all running yet", "error", err)
				select {
				case <-time.After(time.Duration(min(n, 10)) * 500 * time.Millisecond):
					err = s.resume(ctx, g)
				case <-ctx.Done():
				}
			}
			return nil
		})
	}
	g.Go(func() error { return s.reconciler.Run(ctx) })
	return s.listenPublic(ctx, g, handler, login)
}

// logLimits bound the logs of the processes that outlive the service, its own among them.
var logLimits = logrotate.Limits{Size: 32 << 20, Every: time.Minute}

// resume makes clusters run that a stop of the installation has ended; those that run are left alone. It
// returns when their containers run. API servers take some seconds more.
func (s *Service) resume(ctx context.Context, background *errgroup.Group) error {
	g, starting := errgroup.WithContext(ctx)
	planes, err := s.planes.List()
	if err != nil {
		return err
	}
	for _, id := range planes {
		g.Go(func() error {
			err := s.planes.Resume(starting, id)
			if errors.Is(err, controlplane.ErrNotFound) || errors.Is(err, controlplane.ErrStopped) {
				return nil // half made: its reconcile goes on with it; or stopped by its user
			}
			if err != nil {
				return err
			}
			if err := s.commands.Resume(id); err != nil {
				s.Log.Error("commands of a cluster cannot go on", "cluster", id, "error", err)
			}
			background.Go(func() error {
				if err := s.planes.Apply(ctx, id); err != nil && ctx.Err() == nil {
					s.Log.Error("a control plane has not come back", "cluster", id, "error", err)
				}
				return nil
			})
			return nil
		})
	}
	nodes, err := s.nodes.List()
	if err != nil {
		return err
	}
	for _, c := range nodes {
		g.Go(func() error { return s.nodes.Set(starting, c) })
	}
	return g.Wait()
}

// listenSocket listens on the administration socket. A socket that a crash left is replaced: the lock on
// the data directory says that nobody listens on it.
func (s *Service) listenSocket() (net.Listener, error) {
	path := s.layout.ServeSocket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	return net.Listen("unix", path)
}

// listenPublic listens for the public Azure names, in the namespace where they are.
func (s *Service) listenPublic(ctx context.Context, g *errgroup.Group, handler http.Handler, login *authority.Authority) error {
	certificate, err := s.certificate("management.azure.com", "login.microsoftonline.com", "graph.microsoft.com", "login.windows.net", "sts.windows.net", "aka.ms", "*.blob.core.windows.net")
	if err != nil {
		return err
	}
	extensions, err := azextension.New()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		address string
		handler http.Handler
	}{
		{projection.AddressManagement.String(), withoutAdministration(handler)},
		{projection.AddressLogin.String(), login},
		{projection.AddressGraph.String(), login},
		{projection.AddressExtensions.String(), extensions},
	} {
		listener, err := netns.Listen(s.layout.NetNS("public"), "tcp4", net.JoinHostPort(l.address, "443"))
		if err != nil {
			return fmt.Errorf("listen in public: %w", err)
		}
		serveHTTP(ctx, g, l.handler, tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}))
	}
	// What the host's own programs do without must not keep clusters from running.
	if err := s.listenLoopback(ctx, g, handler, login, extensions); err != nil {
		s.Log.Error("the loopback interface is not listened on", "error", err)
		s.mu.Lock()
		s.degraded = errors.Join(s.degraded, err)
		s.mu.Unlock()
	}
	return nil
}

func (s *Service) authority() *authority.Authority {
	return authority.New(authority.Options{TenantID: s.instance.TenantID, Directory: s.directory, Keys: s.keys, GraphAudiences: s.graphAudiences(), Log: s.Log})
}

func (s *Service) certificate(names ...string) (tls.Certificate, error) {
	pair, err := s.root.Ensure(s.layout.PKI(), "public", pki.Request{CommonName: names[0], DNSNames: names, Server: true})
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, g *errgroup.Group, handler http.Handler, l net.Listener) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	g.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		// Answers under way are short; status requests that hang are not waited for.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		defer cancel()
		if server.Shutdown(stop) != nil {
			server.Close()
		}
		return nil
	})
}

// projectionInput is what the desired state follows from beside documents and sessions.
func (s *Service) projectionInput() (projection.Input, error) {
	in := projection.Input{Layout: s.layout, TenantID: s.instance.TenantID, Access: s.RegistryAccess, Password: s.instance.RegistryPassword, ExtensionHosts: azextension.Hosts}
	jwks, err := s.keys.JWKS()
	if err != nil {
		return in, fmt.Errorf("read the signing keys: %w", err)
	}
	in.Services.Authority.Keys = s.layout.Identity()
	in.Registry = registry.Config{
		TenantID: s.instance.TenantID, Issuers: []string{identity.V1Issuer(s.instance.TenantID), identity.V2Issuer(s.instance.TenantID)},
		JWKS: jwks, PublicNetNS: s.layout.NetNS("public"), PublicAddress: projection.AddressRegistries,
		Upstreams: map[string]string{"mcr.microsoft.com": net.JoinHostPort(projection.AddressMCR.String(), "443")},
		CAFile:    filepath.Join(s.layout.PKI(), "root.crt"),
	}
	names := []string{"*.azurecr.io"}
	for _, l := range locations {
		names = append(names, "*."+l.Name+".data.azurecr.io")
	}
	pair, err := s.root.Ensure(s.layout.PKI(), "registries", pki.Request{CommonName: names[0], DNSNames: names, Server: true})
	if err != nil {
		return in, fmt.Errorf("issue the registries' certificate: %w", err)
	}
	in.Registry.Certificates = []registry.KeyPair{{CertPEM: string(pair.CertPEM), KeyPEM: string(pair.KeyPEM)}}
	return in, nil
}

// publicConfig is what the process in `public` serves.
func (s *Service) publicConfig(state projection.State) (public.Config, error) {
	c := public.Config{Records: state.Services.Public}
	names := []string{"mcr.microsoft.com", "*.data.mcr.microsoft.com"}
	pair, err := s.root.Ensure(s.layout.PKI(), "mcr", pki.Request{CommonName: names[0], DNSNames: names, Server: true})
	if err != nil {
		return c, fmt.Errorf("issue the certificate of mcr.microsoft.com: %w", err)
	}
	c.Certificates = []public.KeyPair{{CertPEM: string(pair.CertPEM), KeyPEM: string(pair.KeyPEM)}}
	return c, nil
}

// locations are the regions that there are.
var locations = []resourcemanager.Location{
	{Name: "eastus", DisplayName: "East US"}, {Name: "eastus2", DisplayName: "East US 2"}, {Name: "westus", DisplayName: "West US"},
	{Name: "westus2", DisplayName: "West US 2"}, {Name: "westus3", DisplayName: "West US 3"}, {Name: "centralus", DisplayName: "Central US"},
	{Name: "southcentralus", DisplayName: "South Central US"}, {Name: "northcentralus", DisplayName: "North Central US"},
	{Name: "canadacentral", DisplayName: "Canada Central"}, {Name: "northeurope", DisplayName: "North Europe"}, {Name: "westeurope", DisplayName: "West Europe"},
	{Name: "uksouth", DisplayName: "UK South"}, {Name: "francecentral", DisplayName: "France Central"}, {Name: "germanywestcentral", DisplayName: "Germany West Central"},
	{Name: "swedencentral", DisplayName: "Sweden Central"}, {Name: "switzerlandnorth", DisplayName: "Switzerland North"}, {Name: "norwayeast", DisplayName: "Norway East"},
	{Name: "australiaeast", DisplayName: "Australia East"}, {Name: "japaneast", DisplayName: "Japan East"}, {Name: "southeastasia", DisplayName: "Southeast Asia"},
	{Name: "centralindia", DisplayName: "Central India"}, {Name: "brazilsouth", DisplayName: "Brazil South"},
}
