package app

import (
	"context"
	"sync"

	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// provisionResults lets many wait for the nodes' provisioning on the engine's one watch.
type provisionResults struct {
	engine *node.Engine

	mu      sync.Mutex
	changed map[string]chan struct{} // closed when the node's result may have changed
}

func newProvisionResults(e *node.Engine) *provisionResults {
	return &provisionResults{engine: e, changed: map[string]chan struct{}{}}
}

func (p *provisionResults) run(ctx context.Context) error {
	return p.engine.Watch(ctx, func(id string, _ bootstrap.Result) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c, ok := p.changed[id]; ok {
			close(c)
			delete(p.changed, id)
		}
	})
}

func (p *provisionResults) wait(id string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.changed[id]
	if !ok {
		c = make(chan struct{})
		p.changed[id] = c
	}
	return c
}

// poolNodes is what agent pools need of the node engine.
type poolNodes struct {
	*node.Engine
	results *provisionResults
}

// Provisioned returns the end of a node's provisioning, when it has come.
func (n poolNodes) Provisioned(ctx context.Context, id string) (bootstrap.Result, error) {
	for {
		changed := n.results.wait(id) // before looking, so that no change is missed
		result, err := n.Provision(id)
		if err != nil || result.Done {
			return result, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return bootstrap.Result{}, ctx.Err()
		}
	}
}
