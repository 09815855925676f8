// Package node runs AKS nodes: each a container with its own user, network, pid, mount and cgroup
// namespaces and its own writable disk, which starts as a freshly installed machine and provisions
// itself (package bootstrap) inside.
//
// It follows "Running Kubernetes Node Components as a Non-root User" of the Kubernetes documentation, with
// the host's root delegating cgroups and mapping ids. It knows namespaces by the names the layout gives
// them and containers by lib/containerrun; it must not know virtual networks, registries or ARM.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/node/rootfs"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Config is the whole desired state of one node.
type Config struct {
	ID    string // short, unique in the installation: part of paths and of the container's name
	Name  string // host name and Kubernetes name, aks-nodepool1-12345678-vmss000000
	Guest string // the namespaces' name in the layout; "node-"+ID when empty

	UIDBase, UIDCount uint32 // the map of the user namespace; 16777216 ids so that every image unpacks

	// Rootfs is the shared root file system of the node image; it is only ever read. A disk stays with the one that it
	// was made on: a newer image reaches a node by a reimage only.
	Rootfs string

	// Image names what the node's disk was made from (the node image version, a reimage's number). When it
	// changes, the node starts again with an empty disk: a reimage.
	Image string

	// Attempt asks a node that failed to provision to try again, with the Bootstrap given now, when it is another
	// number than before. A provisioned node does not look at it, nor at a changed Bootstrap.
	Attempt int

	MemoryBytes int64 // of the VM size: the limit, and the capacity the node reports
	CPUs        int

	CA        string // PEM of the installation's own authority, trusted by everything in the node
	Bootstrap bootstrap.Config
}

// Containers is what the engine needs of lib/containerrun.
type Containers interface {
	Ensure(context.Context, containerrun.Spec) error
	Remove(ctx context.Context, id string, grace time.Duration) error
}

// Options are the engine's dependencies.
type Options struct {
	Layout     layout.Layout
	Containers Containers
	Executable string // the program that has InitCommand and BootstrapCommand; bound into every node
	CgroupV2   bool
}

// Engine runs the nodes of one installation. It is safe for concurrent use.
type Engine struct {
	opts    Options
	watcher *fsnotify.Watcher

	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

// New returns an engine. It touches nothing until it is asked to.
func New(opts Options) (*Engine, error) {
	if !filepath.IsAbs(opts.Executable) {
		return nil, fmt.Errorf("node: executable %q is not an absolute path", opts.Executable)
	}
	// One for all nodes: users have few inotify instances.
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("node: watch provisioning results: %w", err)
	}
	return &Engine{opts: opts, watcher: watcher, locks: map[string]*sync.Mutex{}}, nil
}

// Close stops watching. Nodes run on.
func (e *Engine) Close() error { return e.watcher.Close() }

// HostHasCgroupV2 reports whether the machine's controllers are in the unified hierarchy.
func HostHasCgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

var validID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func (c Config) validate() error {
	switch {
	case !validID.MatchString(c.ID):
		return fmt.Errorf("node: %q is no node ID: lower-case letters, digits and hyphens, 40 at most", c.ID)
	case c.Name == "" || len(c.Name) > 63:
		return fmt.Errorf("node %s: name %q is no host name", c.ID, c.Name)
	case c.UIDBase == 0 || c.UIDCount == 0:
		return fmt.Errorf("node %s: no uid range", c.ID)
	case c.MemoryBytes <= 0 || c.CPUs <= 0:
		return fmt.Errorf("node %s: no size: %d bytes, %d CPUs", c.ID, c.MemoryBytes, c.CPUs)
	case !filepath.IsAbs(c.Rootfs):
		return fmt.Errorf("node %s: root file system %q is not an absolute path", c.ID, c.Rootfs)
	case c.Bootstrap.NodeName != c.Name:
		return fmt.Errorf("node %s: bootstrap is for %q, not %q", c.ID, c.Bootstrap.NodeName, c.Name)
	}
	return nil
}

// Set makes the node described by c exist and run. It returns as soon as the node's first process runs;
// how provisioning goes is told by Watch and Provision. It may be called again at any time, and after a crash at any line.
func (e *Engine) Set(ctx context.Context, c Config) error {
	if c.Guest == "" {
		c.Guest = "node-" + c.ID
	}
	if err := c.validate(); err != nil {
		return err
	}
	defer e.lock(c.ID)()
	p := e.paths(c.ID)
	c.Rootfs = rootfsOf(c, p)
	if err := atomicfile.WriteJSON(p.config, c, 0o600); err != nil {
		return fmt.Errorf("node %s: write down its config: %w", c.ID, err)
	}
	attempt, err := e.disk(ctx, c, p)
	if err != nil {
		return fmt.Errorf("node %s: make its disk: %w", c.ID, err)
	}
	mounts, err := machine(p.machine, c.MemoryBytes, c.CPUs)
	if err != nil {
		return fmt.Errorf("node %s: describe its machine: %w", c.ID, err)
	}
	if err := e.mount(c, p); err != nil {
		return fmt.Errorf("node %s: mount its root file system: %w", c.ID, err)
	}
	if err := e.opts.Containers.Ensure(ctx, e.spec(c, p, mounts, attempt)); err != nil {
		return fmt.Errorf("node %s: %w", c.ID, err)
	}
	return nil
}

// rootfsOf is the root file system that the node's disk was made on, if it has one and that is there still.
func rootfsOf(c Config, p paths) string {
	disk, err := readDisk(p)
	if err != nil || disk.Image != c.Image {
		return c.Rootfs
	}
	data, err := os.ReadFile(p.config)
	if err != nil {
		return c.Rootfs
	}
	var old Config
	if json.Unmarshal(data, &old) != nil || old.Rootfs == "" || old.Image != c.Image {
		return c.Rootfs
	}
	if _, err := os.Stat(old.Rootfs); err != nil {
		return c.Rootfs
	}
	return old.Rootfs
}

// Remove ends the node called id and deletes its disk. Nothing there is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("node: %q is no node ID", id)
	}
	defer e.lock(id)()
	p := e.paths(id)
	// Without its config a node is not restored after a reboot, whatever a crash leaves of it below.
	if err := os.Remove(p.config); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("node %s: %w", id, err)
	}
	if err := e.wipe(ctx, id, p); err != nil {
		return fmt.Errorf("node %s: %w", id, err)
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("node %s: delete its disk: %w", id, err)
	}
	if err := os.Remove(e.opts.Layout.Log(containerID(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("node %s: delete its log: %w", id, err)
	}
	return nil
}

// wipe takes the node's container and disk away.
func (e *Engine) wipe(ctx context.Context, id string, p paths) error {
	// Its disk goes with it: there is nothing to shut down in order.
	if err := e.opts.Containers.Remove(ctx, containerID(id), 0); err != nil {
		return err
	}
	// The error says that it was not watched.
	_ = e.watcher.Remove(provisionDir(p))
	if err := rootfs.Unmount(p.rootfs); err != nil {
		return err
	}
	return os.RemoveAll(p.disk)
}

// Restore mounts what a reboot of the machine has taken from the nodes. It comes after the namespaces are
// pinned again and before containerd starts, whose restart monitor starts the nodes.
func (e *Engine) Restore(ctx context.Context) error {
	configs, err := e.List()
	if err != nil {
		return err
	}
	var failed []error
	for _, c := range configs {
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
		p := e.paths(c.ID)
		if onDisk, err := readDisk(p); err != nil || onDisk.Image != c.Image {
			continue // half made: Set will finish it
		}
		if err := e.mount(c, p); err != nil {
			failed = append(failed, fmt.Errorf("node %s: mount its root file system: %w", c.ID, err))
		}
	}
	return errors.Join(failed...)
}

// List returns the nodes there are, as they were last set.
func (e *Engine) List() ([]Config, error) {
	files, err := filepath.Glob(e.paths("*").config)
	if err != nil {
		return nil, err
	}
	var out []Config
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var c Config
		if err := json.Unmarshal(data, &c); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (e *Engine) mount(c Config, p paths) error {
	return rootfs.Mount(rootfs.Spec{
		Lower: c.Rootfs, Disk: p.disk, UserNS: e.opts.Layout.UserNS(c.Guest),
		UIDBase: c.UIDBase, GIDBase: c.UIDBase, Target: p.rootfs,
	})
}

func (e *Engine) lock(id string) (unlock func()) {
	e.mu.Lock()
	l, ok := e.locks[id]
	if !ok {
		l = new(sync.Mutex)
		e.locks[id] = l
	}
	e.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// onDisk says what a disk was made from. It is written when the disk is complete.
type onDisk struct {
	Image   string
	Attempt int
}

func readDisk(p paths) (onDisk, error) {
	data, err := os.ReadFile(filepath.Join(p.disk, "made-from"))
	if err != nil {
		return onDisk{}, err
	}
	attempt, image, _ := strings.Cut(string(data), " ")
	n, err := strconv.Atoi(attempt)
	return onDisk{Image: image, Attempt: n}, err
}

// disk makes the node's disk, or what a changed config asks for, and returns the attempt at provisioning that is on it.
func (e *Engine) disk(ctx context.Context, c Config, p paths) (attempt int, err error) {
	have, err := readDisk(p)
	fresh := err != nil || have.Image != c.Image
	if fresh {
		if err := e.wipe(ctx, c.ID, p); err != nil {
			return 0, err
		}
	}
	// What a node has made unreadable counts as no result: it must not keep its own config from being set.
	provision, _ := e.provision(p)
	retry := !fresh && have.Attempt != c.Attempt && provision.Done && provision.ExitCode != bootstrap.Success
	if fresh || retry {
		if err := e.tell(c, p); err != nil {
			return 0, err
		}
	}
	if fresh {
		if err := e.format(c, p); err != nil {
			return 0, err
		}
	}
	if retry {
		if err := e.forget(p); err != nil {
			return 0, err
		}
	}
	// Root in the node may have deleted the directory, which then has no more to tell.
	if err := e.watcher.Add(provisionDir(p)); err != nil && !errors.Is(err, fsnotify.ErrClosed) && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("watch %s: %w", provisionDir(p), err)
	}
	if !fresh && !retry {
		return have.Attempt, nil
	}
	made := strconv.Itoa(c.Attempt) + " " + c.Image
	return c.Attempt, atomicfile.Write(filepath.Join(p.disk, "made-from"), []byte(made), 0o600)
}

// tell writes what the node is told at provisioning; it is the node's root that reads it.
func (e *Engine) tell(c Config, p paths) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := rootfs.OwnedDir(p.etc, 0o700, c.UIDBase, c.UIDBase); err != nil {
		return err
	}
	boot, err := json.MarshalIndent(c.Bootstrap, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{bootstrap.ConfigName: boot, bootstrap.CAName: []byte(c.CA)} {
		path := filepath.Join(p.etc, name)
		if err := atomicfile.Write(path, data, 0o600); err != nil {
			return err
		}
		if err := os.Chown(path, int(c.UIDBase), int(c.UIDBase)); err != nil {
			return err
		}
	}
	return nil
}

// format makes the directories of an empty disk.
func (e *Engine) format(c Config, p paths) error {
	if err := os.MkdirAll(p.disk, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{p.varDir, filepath.Join(p.varDir, "log"), provisionDir(p)} {
		if err := rootfs.OwnedDir(dir, 0o755, c.UIDBase, c.UIDBase); err != nil {
			return err
		}
	}
	// The host's own /dev/fuse is its root's alone, which nobody in the node is.
	err := unix.Mknod(p.fuse, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mknod %s: %w", p.fuse, err)
	}
	return os.Chmod(p.fuse, 0o666)
}
