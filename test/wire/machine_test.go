package wire

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// machine is what the engines would run on, without running anything.
type machine struct {
	mu      sync.Mutex
	planes  map[string]bool
	nodes   map[string]node.Config
	failing bool // nodes cannot reach their registry
}

func newMachine() *machine {
	return &machine{planes: map[string]bool{}, nodes: map[string]node.Config{}}
}

func (m *machine) left() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.planes)+len(m.nodes) == 0 {
		return ""
	}
	return fmt.Sprint(m.planes, m.nodes)
}

func (m *machine) Sync(context.Context) error { return nil }

// control is the machine's control planes, with the nodes in them.
type control struct{ *machine }

func (c control) Start(_ context.Context, cluster managedclusters.Cluster) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.planes[cluster.ID] = true
	return nil
}

func (c control) Ready(context.Context, string) error       { return nil }
func (c control) SystemReady(context.Context, string) error { return nil }

func (c control) Remove(_ context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.planes, id)
	return nil
}

func (c control) Kubeconfig(_ context.Context, _, server, _, _ string, admin bool) ([]byte, error) {
	return fmt.Appendf(nil, "%s admin=%v", server, admin), nil
}

func (c control) Join(_ context.Context, id string) (ca, token string, err error) {
	return "ca", "token", nil
}

func (c control) NodesReady(context.Context, string, []string) error         { return nil }
func (c control) Drain(context.Context, string, string, time.Duration) error { return nil }
func (c control) DeleteNode(context.Context, string, string) error           { return nil }
func (c control) Stop(context.Context, string) error                         { return nil }
func (c control) ChangeNode(context.Context, string, string, controlplane.NodeChange) error {
	return nil
}

// nodes are the machine's.
type nodes struct{ *machine }

func (n nodes) Set(_ context.Context, c node.Config) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[c.ID] = c
	return nil
}

func (n nodes) Remove(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nodes, id)
	return nil
}

func (n nodes) Provisioned(_ context.Context, id string) (bootstrap.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := bootstrap.Result{Done: true, Output: strings.Repeat("log ", 3)}
	if n.failing {
		r.ExitCode = bootstrap.OrasPullNetworkTimeout
	}
	return r, nil
}
