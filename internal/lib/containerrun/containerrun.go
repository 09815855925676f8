// Package containerrun runs processes that must outlive Cloister in a private containerd: each is one
// container whose whole description is a Spec, kept alive by containerd's restart monitor, so that no
// supervisor of ours is needed and none has to run.
//
// It knows nothing of clusters, nodes or networks: it takes paths of namespaces and root file systems
// that others have made. Nothing it does is visible to a containerd or Docker that is already on the
// machine: the socket, the containerd namespace, the runc root, the cgroup parent and the runtime
// binaries are all named by Options.
//
// How a container lives:
//
//	Ensure ── create ── start ── labels for the restart monitor ──▶ running ◀─┐
//	   │ (spec changed)                                               │ exits  │ restart monitor, within 1 s
//	   └── Remove ── labels off ── SIGTERM ── grace ── SIGKILL ── delete       ┘
//
// It implements the runtime specification (https://github.com/opencontainers/runtime-spec) through
// containerd's client and the labels of containerd's core/runtime/restart.
package containerrun

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Options says which containerd is used and what marks everything as this installation's.
type Options struct {
	Socket    string // the private containerd's socket
	Namespace string // containerd namespace
	Shim      string // containerd-shim-runc-v2, absolute: nothing is looked up in PATH
	Runc      string // runc, absolute
	RuncRoot  string // runc's state; its default is shared by every containerd on the machine
	Cgroup    string // cgroup parent, relative to the hierarchy's root
	StateDir  string // durable; holds the empty root file systems of containers that bring none
	RunDir    string // fifos of Exec

	// CgroupHook is the command that calls CgroupHook of this package, as in {"/usr/bin/cloister",
	// "hook", "cgroup"}. It is needed for containers in a user namespace only.
	CgroupHook []string
}

// Client runs containers. It is safe for concurrent use and survives a restart of containerd.
type Client struct {
	opts Options
	cd   *containerd.Client

	mu    sync.Mutex
	locks map[string]chan struct{} // a change of one container at a time
}

// New returns a client. It does not connect: containerd may be started later.
func New(opts Options) (*Client, error) {
	for name, path := range map[string]string{
		"Socket": opts.Socket, "Shim": opts.Shim, "Runc": opts.Runc, "RuncRoot": opts.RuncRoot,
		"Cgroup": opts.Cgroup, "StateDir": opts.StateDir, "RunDir": opts.RunDir,
	} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("containerrun: %s is %q, not an absolute path", name, path)
		}
	}
	if opts.Namespace == "" {
		return nil, errors.New("containerrun: no containerd namespace")
	}
	cd, err := containerd.New(opts.Socket, containerd.WithDefaultNamespace(opts.Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", opts.Socket, err)
	}
	return &Client{opts: opts, cd: cd, locks: map[string]chan struct{}{}}, nil
}

// Close ends the client. What it started runs on.
func (c *Client) Close() error { return c.cd.Close() }

// Healthy asks containerd whether it serves.
func (c *Client) Healthy(ctx context.Context) error {
	ok, err := c.cd.IsServing(ctx)
	if err != nil {
		return fmt.Errorf("containerd at %s: %w", c.opts.Socket, err)
	}
	if !ok {
		return fmt.Errorf("containerd at %s is not serving", c.opts.Socket)
	}
	return nil
}

func (c *Client) namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.opts.Namespace)
}

// lock waits for the right to change the container called id.
func (c *Client) lock(ctx context.Context, id string) (unlock func(), err error) {
	c.mu.Lock()
	sem, ok := c.locks[id]
	if !ok {
		sem = make(chan struct{}, 1)
		c.locks[id] = sem
	}
	c.mu.Unlock()
	select {
	case sem <- struct{}{}:
		return func() { <-sem }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
