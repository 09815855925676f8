// Package controlplane runs the hosted control plane of each cluster: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler as containers in the cluster's leaf network namespace, and
// in it the add-ons that every cluster has.
//
// It takes a whole Config per cluster and makes it so, again and again without harm. Everything that a
// restart needs is in layout.Cluster(id) before the first container starts, so that after a crash, or a
// reboot, the restart monitor alone brings the control plane back. The package does not know ARM, how
// the namespace comes to be, who carries the API server's requests into the VNet (its sub-package
// tunnel does, unless the namespace has an interface there), or what a node is made of.
//
//	clusters/ID/config.json   the last Config
//	           /pki           authorities of the cluster, etcd and the front proxy
//	           /etcd, /kube-apiserver, …   what that container sees as /etc/kubernetes, and nothing else
//	           /data, /audit  etcd's data; the audit log
//
// It implements https://kubernetes.io/docs/reference/command-line-tools-reference/ (v1.30 and v1.31, which take the same
// flags) with the choices of AKS where Azure documents them.
package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// Config is the whole desired state of one cluster's control plane.
type Config struct {
	ID string // short, lower-case; names containers and directories

	// KubernetesVersion is what runs, 1.30.3. Another one than before replaces API server and controllers and keeps
	// etcd with its data: an upgrade.
	KubernetesVersion string

	// NetNS is the path of the leaf network namespace; layout.NetNS("cp-"+ID) when empty.
	NetNS string
	// ServiceAddress is the leaf's address that endpoints translate to; the API server listens there on 443.
	// One that is reached by its own interface alone needs none.
	ServiceAddress netip.Addr
	// EndpointAddress is where nodes and pods find the API server in the VNet. It is advertised as the
	// endpoint of the Service "kubernetes".
	EndpointAddress netip.Addr
	// Addresses are further ones that clients know it by, in the serving certificate.
	Addresses []netip.Addr
	// Direct is true where the namespace has an interface in the VNet, with EndpointAddress: the API server dials
	// nodes, pods and Services itself, and clients in the VNet use the address rather than a name.
	Direct bool

	FQDN        string   // public name, in the serving certificate
	PrivateFQDN string   // name in the private DNS zone, in the serving certificate
	Names       []string // further names in the serving certificate

	ServiceCIDR  netip.Prefix // addresses of Services; its first one is that of "kubernetes"
	DNSServiceIP netip.Addr   // address of the Service "kube-dns"
	// PodCIDRs are the addresses pods may have: kube-proxy masquerades what comes to a Service from elsewhere.
	PodCIDRs []netip.Prefix

	Nodes  int    // how many nodes there are to be; CoreDNS has one replica for one node, else two
	Images Images // zero fields stand for DefaultImages

	Stopped bool // nothing runs until the next Start; only Stop sets it
}

// Images are the add-ons' image references.
type Images struct{ CoreDNS, KubeProxy, MetricsServer string }

// DefaultImages are AKS's for a version of Kubernetes.
func DefaultImages(version string) Images {
	return Images{
		CoreDNS:       "mcr.microsoft.com/oss/kubernetes/coredns:v1.11.3",
		KubeProxy:     "mcr.microsoft.com/oss/kubernetes/kube-proxy:v" + version,
		MetricsServer: "mcr.microsoft.com/oss/kubernetes/metrics-server:v0.7.2",
	}
}

// firstVersion is that of control planes from before a Config named one.
const firstVersion = "1.30.3"

// Containers is what the engine needs of internal/lib/containerrun.
type Containers interface {
	EnsureAll(ctx context.Context, specs []containerrun.Spec) error
	RemoveAll(ctx context.Context, ids []string, grace time.Duration) error
}

// Engine runs control planes.
type Engine struct {
	l          layout.Layout
	bin        string // directory of etcd
	kubernetes string // directory with VERSION/kube-apiserver and the others
	containers Containers
}

// New returns the engine of an installation; bin is the directory of etcd, kubernetes that of a directory for each
// version with kube-apiserver and the others.
func New(l layout.Layout, bin, kubernetes string, containers Containers) *Engine {
	return &Engine{l: l, bin: bin, kubernetes: kubernetes, containers: containers}
}

// ErrNotFound is returned for a cluster that has no control plane here.
var ErrNotFound = fmt.Errorf("no such control plane: %w", fs.ErrNotExist)

// ErrStopped is returned by Resume for a control plane that Stop has stopped.
var ErrStopped = errors.New("the control plane is stopped")

var validID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func (c Config) validate() error {
	var errs []error
	if !validID.MatchString(c.ID) {
		errs = append(errs, fmt.Errorf("ID %q: want up to 40 lower-case letters, digits and inner hyphens", c.ID))
	}
	for name, addr := range map[string]netip.Addr{"EndpointAddress": c.EndpointAddress, "DNSServiceIP": c.DNSServiceIP} {
		if !addr.Is4() {
			errs = append(errs, fmt.Errorf("%s %q: want an IPv4 address", name, addr))
		}
	}
	if c.ServiceAddress.IsValid() && !c.ServiceAddress.Is4() || !c.ServiceAddress.IsValid() && !c.Direct {
		errs = append(errs, fmt.Errorf("ServiceAddress %q: want an IPv4 address", c.ServiceAddress))
	}
	switch {
	case !c.ServiceCIDR.IsValid() || !c.ServiceCIDR.Addr().Is4() || c.ServiceCIDR != c.ServiceCIDR.Masked():
		errs = append(errs, fmt.Errorf("ServiceCIDR %q: want an IPv4 network", c.ServiceCIDR))
	case !c.ServiceCIDR.Contains(c.DNSServiceIP) || c.DNSServiceIP == c.kubernetesServiceIP():
		errs = append(errs, fmt.Errorf("DNSServiceIP %s: want an address of %s other than its first", c.DNSServiceIP, c.ServiceCIDR))
	}
	if c.FQDN == "" && c.PrivateFQDN == "" {
		errs = append(errs, errors.New("FQDN and PrivateFQDN are both empty"))
	}
	return errors.Join(errs...)
}

func (c Config) kubernetesServiceIP() netip.Addr { return c.ServiceCIDR.Addr().Next() }

// serverURL is how clients in the VNet reach the API server.
func (c Config) serverURL() string {
	if c.Direct {
		return "https://" + c.EndpointAddress.String() + ":443"
	}
	if c.PrivateFQDN != "" {
		return "https://" + c.PrivateFQDN + ":443"
	}
	return "https://" + c.FQDN + ":443"
}

// withDefaults fills what may be left empty.
func (e *Engine) withDefaults(c Config) Config {
	if c.NetNS == "" {
		c.NetNS = e.l.NetNS("cp-" + c.ID)
	}
	if c.KubernetesVersion == "" {
		c.KubernetesVersion = firstVersion
	}
	images := DefaultImages(c.KubernetesVersion)
	for _, image := range []struct {
		field    *string
		fallback string
	}{
		{&c.Images.CoreDNS, images.CoreDNS},
		{&c.Images.KubeProxy, images.KubeProxy},
		{&c.Images.MetricsServer, images.MetricsServer},
	} {
		if *image.field == "" {
			*image.field = image.fallback
		}
	}
	return c
}

// Set makes the control plane be as c says: Start and Apply. It returns when the API server is ready
// and holds the add-ons, and the controllers run; not when the add-ons' pods run, which takes nodes.
func (e *Engine) Set(ctx context.Context, c Config) error {
	if err := e.Start(ctx, c); err != nil {
		return err
	}
	return e.Apply(ctx, c.ID)
}

// Start writes everything down and starts etcd and the API server. It does not wait for them.
func (e *Engine) Start(ctx context.Context, c Config) error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("control plane %s: %w", c.ID, err)
	}
	c = e.withDefaults(c)
	fail := func(err error) error { return fmt.Errorf("start control plane %s: %w", c.ID, err) }
	if !netns.Is(c.NetNS) {
		return fail(fmt.Errorf("its network namespace %s is not there", c.NetNS))
	}
	if err := atomicfile.WriteJSON(e.path(c.ID, "config.json"), c, 0o600); err != nil {
		return fail(err)
	}
	if err := e.writeFiles(c); err != nil {
		return fail(err)
	}
	specs, err := e.specs(c, etcd, apiserver)
	if err != nil {
		return fail(err)
	}
	if err := e.containers.EnsureAll(ctx, specs); err != nil {
		return fail(err)
	}
	return nil
}

// Apply waits for the API server, makes it hold what every cluster holds (CoreDNS, kube-proxy and
// metrics-server, and who may join it), and runs the controllers.
//
// What comes when is due to how long the parts wait that come too early. A new API server answers a second
// before it is ready; the add-ons need not wait for that. The controllers need: they would wait by
// themselves, as they do after a reboot, but in steps of a second and more. Nodes may join when a controller lets them in: a kubelet that is refused,
// or that gets no certificate, tries again in steps that double. Pods are made when there is a node for them:
// the scheduler comes back to one that it could not place after one second, then two (see ApplyWorkloads).
func (e *Engine) Apply(ctx context.Context, id string) error {
	fail := func(err error) error { return fmt.Errorf("complete control plane %s: %w", id, err) }
	c, err := e.load(id)
	if err != nil {
		return err
	}
	specs, err := e.specs(c, controllerManager, scheduler)
	if err != nil {
		return fail(err)
	}
	var g errgroup.Group // none is undone when another fails
	g.Go(func() error { return e.makeDefaultRoles(ctx, id) })
	g.Go(func() error {
		if err := e.waitAnswer(ctx, id, "/readyz?exclude=poststarthook/rbac/bootstrap-roles&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"); err != nil {
			return err
		}
		stages := []stage{standing}
		if ready, err := e.anyNodeReady(ctx, id); err != nil {
			return err
		} else if ready {
			stages = append(stages, workloads)
		}
		return e.applyAddons(ctx, c, stages...)
	})
	g.Go(func() error {
		if err := e.WaitReady(ctx, id); err != nil {
			return err
		}
		if err := e.containers.EnsureAll(ctx, specs); err != nil {
			return err
		}
		if err := e.awaitControllers(ctx, id); err != nil {
			return err
		}
		return e.applyAddons(ctx, c, joining)
	})
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	return nil
}

// ApplyWorkloads makes the cluster hold the add-ons that run on some of its nodes, CoreDNS and metrics-server.
// It is for when the first nodes are ready; from then on Apply does it, too.
func (e *Engine) ApplyWorkloads(ctx context.Context, id string) error {
	c, err := e.load(id)
	if err != nil {
		return err
	}
	if err := e.applyAddons(ctx, c, workloads); err != nil {
		return fmt.Errorf("apply the workloads of control plane %s: %w", id, err)
	}
	return nil
}

// Remove ends the control plane and deletes everything of it. It is no error when there is none.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("remove control plane %q: not an ID", id)
	}
	ids := make([]string, len(components))
	for i, name := range components {
		ids[i] = containerID(id, name)
	}
	// No grace: the data goes, too, and a graceful end would only write more of it.
	if err := e.containers.RemoveAll(ctx, ids, 0); err != nil {
		return fmt.Errorf("remove control plane %s: %w", id, err)
	}
	paths := []string{e.l.Tunnel(id), e.l.Cluster(id)}
	for _, id := range ids {
		paths = append(paths, e.l.Log(id))
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove control plane %s: %w", id, err)
		}
	}
	return nil
}

// Restore makes what control planes need of the run directory, which a reboot empties. It is called
// before containerd is started, so that the restart monitor finds everything in place.
func (e *Engine) Restore() error {
	ids, err := e.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := os.MkdirAll(e.l.Tunnel(id), 0o700); err != nil {
			return fmt.Errorf("restore control plane %s: %w", id, err)
		}
	}
	return nil
}

// List names the clusters that have a control plane here, half made ones included.
func (e *Engine) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(e.l.Cluster("x")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list control planes: %w", err)
	}
	var out []string
	for _, entry := range entries {
		out = append(out, entry.Name())
	}
	return out, nil
}

// Ready reports, as nil, that the API server says it is ready.
func (e *Engine) Ready(ctx context.Context, id string) error {
	client, done, err := e.httpClient(id)
	if err != nil {
		return err
	}
	defer done()
	return ask(ctx, client, "/readyz")
}

// WaitReady returns when the API server is ready.
func (e *Engine) WaitReady(ctx context.Context, id string) error {
	return e.waitAnswer(ctx, id, "/readyz")
}

// waitAnswer returns when the API server answers 200.
func (e *Engine) waitAnswer(ctx context.Context, id, path string) error {
	client, done, err := e.httpClient(id)
	if err != nil {
		return err
	}
	defer done()
	// The API server announces its readiness to nobody, so this asks.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		last := ask(ctx, client, path)
		if last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("control plane %s is not ready: %w (%w)", id, ctx.Err(), last)
		}
	}
}

func (e *Engine) httpClient(id string) (client *http.Client, done func(), err error) {
	config, err := e.Client(id)
	if err != nil {
		return nil, nil, err
	}
	config.Timeout = 2 * time.Second
	client, err = rest.HTTPClientFor(config)
	if err != nil {
		return nil, nil, fmt.Errorf("control plane %s: %w", id, err)
	}
	return client, client.CloseIdleConnections, nil
}

func ask(ctx context.Context, client *http.Client, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, loopback+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, response.Status)
	}
	return nil
}

func (e *Engine) path(id string, elem ...string) string {
	return filepath.Join(append([]string{e.l.Cluster(id)}, elem...)...)
}

// load returns the cluster's last Config.
func (e *Engine) load(id string) (Config, error) {
	var c Config
	data, err := os.ReadFile(e.path(id, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if err != nil {
		return c, fmt.Errorf("control plane %s: %w", id, err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("control plane %s: config.json: %w", id, err)
	}
	return e.withDefaults(c), nil
}

// Resume is Start with the last Config, for a control plane whose installation was stopped; Apply completes it. One that
// was stopped itself stays so.
func (e *Engine) Resume(ctx context.Context, id string) error {
	c, err := e.load(id)
	if err != nil {
		return err
	}
	if c.Stopped {
		return fmt.Errorf("%s: %w", id, ErrStopped)
	}
	return e.Start(ctx, c)
}

// Stop ends the control plane and keeps its data. It stays stopped, over restarts and reboots, until the next Start.
// Nothing there is no error.
func (e *Engine) Stop(ctx context.Context, id string) error {
	c, err := e.load(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("stop control plane %s: %w", id, err) }
	c.Stopped = true
	if err := atomicfile.WriteJSON(e.path(id, "config.json"), c, 0o600); err != nil {
		return fail(err)
	}
	// etcd last: the others would only complain that it is gone.
	for _, those := range [][]string{{scheduler, controllerManager, apiserver}, {etcd}} {
		ids := make([]string, len(those))
		for i, component := range those {
			ids[i] = containerID(id, component)
		}
		if err := e.containers.RemoveAll(ctx, ids, stopGrace); err != nil {
			return fail(err)
		}
	}
	return nil
}

// stopGrace is how long a component may take to end. An API server waits for its watchers, who do not leave.
const stopGrace = 3 * time.Second
