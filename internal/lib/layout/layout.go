// Package layout names every path of one Cloister installation. It is the only place that knows
// where a thing lies on the machine; it creates nothing.
//
// What is global on the machine (the run directory, cgroups, namespace files) carries the instance
// ID, so that installations with different data directories live side by side.
package layout

import "path/filepath"

// DefaultDataDir is where an installation lives unless --data-dir or CLOISTER_DATA_DIR says otherwise.
const DefaultDataDir = "/var/lib/cloister"

// DefaultCacheDir holds what is built from pinned sources, keyed by content, for every data
// directory and every clone on the machine.
const DefaultCacheDir = "/var/cache/cloister"

// Layout is the set of paths of one installation.
type Layout struct {
	DataDir  string // durable state, /var/lib/cloister
	RunDir   string // /run/cloister-INSTANCE: sockets and namespace files, gone after a reboot
	CacheDir string // built artifacts, shared by all installations
	Instance string // six lower-case hexadecimal digits
}

// New returns the layout of the instance. A socket path may not exceed 107 bytes (unix(7)), so
// sockets are in the short run directory and never below the data directory.
func New(dataDir, cacheDir, instance string) Layout {
	return Layout{DataDir: dataDir, RunDir: "/run/cloister-" + instance, CacheDir: cacheDir, Instance: instance}
}

// NetNS is the file that pins the network namespace called name.
func (l Layout) NetNS(name string) string { return filepath.Join(l.RunDir, "ns", name+".net") }

// UserNS is the file that pins the user namespace called name.
func (l Layout) UserNS(name string) string { return filepath.Join(l.RunDir, "ns", name+".user") }

// ServeSocket is where `cloister serve` answers ARM and its own administration calls.
func (l Layout) ServeSocket() string { return filepath.Join(l.RunDir, "serve.sock") }

// ContainerdSocket is the private containerd's socket.
func (l Layout) ContainerdSocket() string { return filepath.Join(l.RunDir, "containerd.sock") }

// Tunnel is the directory of a cluster's API server tunnel socket; it is bound into the API server's container.
func (l Layout) Tunnel(cluster string) string { return filepath.Join(l.RunDir, "tunnel", cluster) }

// State is the file in which the desired state of a data-plane process is written for it to watch.
func (l Layout) State(name string) string { return filepath.Join(l.DataDir, "state", name+".json") }

// Log is the log file of the process called name.
func (l Layout) Log(name string) string { return filepath.Join(l.DataDir, "log", name+".log") }

// Cluster is the directory of a cluster's control plane.
func (l Layout) Cluster(id string) string { return filepath.Join(l.DataDir, "clusters", id) }

// Approver is the kubeconfig with which the approver of a cluster's kubelet certificates is known to its API
// server. It is apart from the cluster's keys, which the process that approves need not see.
func (l Layout) Approver(id string) string { return filepath.Join(l.DataDir, "approver", id+".conf") }

// Node is the directory of a node's disk and provisioning state.
func (l Layout) Node(id string) string { return filepath.Join(l.DataDir, "nodes", id) }

// Registry is the directory of the registry engine's storage.
func (l Layout) Registry() string { return filepath.Join(l.DataDir, "registry") }

// PKI is the directory of the installation's own certificate authority.
func (l Layout) PKI() string { return filepath.Join(l.DataDir, "pki") }

// Identity is the directory of the token issuer's signing keys.
func (l Layout) Identity() string { return filepath.Join(l.DataDir, "identity") }

// Cgroup is the cgroup parent, relative to the hierarchy's root, of everything this instance runs.
func (l Layout) Cgroup() string { return "/cloister-" + l.Instance }
