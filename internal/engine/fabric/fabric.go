// Package fabric makes the networks of an installation: one network namespace per VNet that routes and
// judges, one per guest, one for each service, a hub between VNets and services, and `public`, which stands for the
// Internet. It implements section 5 of the design.
//
// It takes the whole desired state and makes it so, again and again without harm: after a crash at any line, after a
// reboot, after someone removed a part. It knows nothing of ARM, of containers or of what listens in the namespaces, and
// touches nothing in the host's own network namespace.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// Fabric is the networks of one installation. One process at a time may have it.
type Fabric struct {
	layout layout.Layout
	mu     sync.Mutex

	// step is asked before every change to the machine, with what it is. Tests die there.
	step func(change string) error
}

// New returns the fabric of the installation, and changes nothing.
func New(l layout.Layout) *Fabric {
	return &Fabric{layout: l, step: func(string) error { return nil }}
}

// Set makes the networks what the Config says: adds before it deletes, leaves alone what is right, and writes down
// what it is about to do first. Flows that the new state still grants do not notice.
func (f *Fabric) Set(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	c = c.ordered()
	f.mu.Lock()
	defer f.mu.Unlock()
	s, _, err := readState(f.statePath())
	if err != nil {
		return err
	}
	s.Config = c
	if err := s.allot(c.Networks); err != nil {
		return err
	}
	if err := s.write(f.statePath()); err != nil {
		return fmt.Errorf("write down the fabric's state: %w", err)
	}
	if err := f.apply(ctx, newPlan(c, s.Slots)); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	return nil
}

// Restore makes what the last Set was asked for, as is needed after a reboot. Without a Set before, it does nothing.
func (f *Fabric) Restore(ctx context.Context) error {
	s, found, err := readState(f.statePath())
	if err != nil || !found {
		return err
	}
	return f.Set(ctx, s.Config)
}

// Teardown removes every namespace and link of the instance, and the record of what was wanted.
func (f *Fabric) Teardown(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Remove(f.statePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	pinned, err := f.pinned()
	if err != nil {
		return err
	}
	return f.removeAll(ctx, pinned)
}

// removeAll removes namespaces side by side: the kernel waits for its readers at each, and not for the processor.
func (f *Fabric) removeAll(ctx context.Context, names []string) error {
	errs := make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(16)
	for i, name := range names {
		group.Go(func() error {
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = f.remove(name)
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(errs...)
}

func (f *Fabric) statePath() string { return f.layout.State("fabric") }

// pinned lists the namespaces of the instance, half made ones too.
func (f *Fabric) pinned() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(f.layout.NetNS(hubName)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".net")
		if !ok {
			name, ok = strings.CutSuffix(e.Name(), ".user")
		}
		if ok && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, nil
}

// remove empties the namespace of links, for a process or a socket may still hold it, and unpins it.
func (f *Fabric) remove(name string) error {
	if err := f.step("remove namespace " + name); err != nil {
		return err
	}
	path := f.layout.NetNS(name)
	if netns.Is(path) {
		if err := clearLinks(path); err != nil {
			return fmt.Errorf("clear namespace %s: %w", name, err)
		}
	}
	return userns.Delete(f.layout.UserNS(name), path)
}
