package containerrun

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/runtime/restart"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
)

// replaceGrace is how long a container that is replaced may take to end.
const replaceGrace = 10 * time.Second

// Ensure makes the container described by s run. It does nothing when it already does, starts it when
// it has stopped, and replaces it when it was made from another description.
func (c *Client) Ensure(ctx context.Context, s Spec) error {
	ctx = c.namespaced(ctx)
	unlock, err := c.lock(ctx, s.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.ensure(ctx, s); err != nil {
		return fmt.Errorf("run container %s: %w", s.ID, err)
	}
	return nil
}

// EnsureAll is Ensure of all of them at once.
func (c *Client) EnsureAll(ctx context.Context, all []Spec) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range all {
		g.Go(func() error { return c.Ensure(ctx, s) })
	}
	return g.Wait()
}

func (c *Client) ensure(ctx context.Context, s Spec) error {
	spec, err := c.oci(s)
	if err != nil {
		return err
	}
	hash, err := c.hash(s, spec)
	if err != nil {
		return err
	}
	container, err := c.cd.LoadContainer(ctx, s.ID)
	switch {
	case errdefs.IsNotFound(err):
		container = nil
	case err != nil:
		return err
	default:
		labels, err := container.Labels(ctx)
		if err != nil {
			return err
		}
		if labels[labelSpec] != hash {
			if err := c.remove(ctx, s.ID, replaceGrace); err != nil {
				return fmt.Errorf("replace: %w", err)
			}
			container = nil
		}
	}
	if container == nil {
		container, err = c.create(ctx, s, spec, hash)
		if errdefs.IsAlreadyExists(err) { // a client that has gone asked for it a moment ago
			container, err = c.cd.LoadContainer(ctx, s.ID)
		}
		if err != nil {
			return err
		}
	}
	if err := c.start(ctx, container, s); err != nil {
		return err
	}
	return c.keepRunning(ctx, container, s)
}

func (c *Client) create(ctx context.Context, s Spec, spec *specs.Spec, hash string) (containerd.Container, error) {
	if s.Rootfs == "" {
		if err := os.MkdirAll(c.emptyRootfs(s.ID), 0o700); err != nil {
			return nil, err
		}
	}
	labels := map[string]string{labelSpec: hash}
	for k, v := range s.Labels {
		labels[k] = v
	}
	return c.cd.NewContainer(ctx, s.ID,
		containerd.WithRuntime(c.opts.Shim, &options.Options{
			BinaryName: c.opts.Runc, Root: c.opts.RuncRoot,
			IoUid: s.UIDBase, IoGid: s.UIDBase, // else /dev/stdout could not be opened inside
		}),
		containerd.WithSpec(spec),
		containerd.WithContainerLabels(labels),
	)
}

// monitorPatience is how long the restart monitor may take to start what is in its care. It tries each
// second, and all containers at once when the machine has booted.
const monitorPatience = 30 * time.Second

// createPatience is how long containerd may take to be done with a create whose client has gone away, as a
// service that died. Till then another create of the same container meets its traces.
const createPatience = 10 * time.Second

// unfinished tells that a create met another one of the same container, or its cleaning up: what is there
// already, or is gone again. Much of it comes from containerd's own directories and from runc, as text.
func unfinished(err error) bool {
	if err == nil || errdefs.IsAlreadyExists(err) {
		return err != nil
	}
	for _, text := range []string{"already exists", "io.containerd.runtime.v2.task", "failed to start shim"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// start starts the container's task unless it runs. One that the restart monitor keeps, and that does not run
// as after a boot of the machine, is the monitor's to start: of two who start the same task one fails, with an error
// that cannot be told from others, or ends what the other has just made. When the monitor does not succeed,
// ours is the try that says why.
func (c *Client) start(ctx context.Context, container containerd.Container, s Spec) error {
	if s.Log != "" {
		if err := os.MkdirAll(filepath.Dir(s.Log), 0o700); err != nil {
			return err
		}
		// The shim would make it readable by everyone.
		f, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		f.Close()
	}
	output := cio.NullIO
	if s.Log != "" {
		output = cio.LogURI(logURI(s.Log))
	}
	labels, err := container.Labels(ctx)
	if err != nil {
		return err
	}
	kept := labels[restart.StatusLabel] == string(containerd.Running)
	for began := time.Now(); ; {
		task, err := container.Task(ctx, nil)
		if kept && time.Since(began) < monitorPatience {
			if err == nil {
				if status, err := task.Status(ctx); err == nil && status.Status == containerd.Running {
					return nil
				}
			}
			if err := pause(ctx); err != nil {
				return err
			}
			continue
		}
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return err
		default:
			status, err := task.Status(ctx)
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			if err == nil && status.Status == containerd.Running {
				return nil
			}
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("delete its ended task: %w", err)
			}
		}
		// What is there without a task was left by a start that was cut off. A shim of those would be used
		// again, and never answer: it waits for a process that nobody starts.
		if err := EndStrays(c.opts, s.ID, c.cgroupPath(s)); err != nil {
			return err
		}
		task, err = container.NewTask(ctx, output)
		if unfinished(err) && time.Since(began) < createPatience {
			if err := pause(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := task.Start(ctx); err != nil {
			_, deleteErr := task.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
			if errdefs.IsNotFound(deleteErr) {
				deleteErr = nil
			}
			return errors.Join(err, deleteErr)
		}
		return nil
	}
}

// pause lets the restart monitor finish what it is doing to the same container. containerd has no
// event for "a create was given up", so there is nothing to watch.
func pause(ctx context.Context) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keepRunning hands the container to the restart monitor, or takes it away. This comes after the
// start: a labelled container without a task would be started by the monitor and by us at once.
func (c *Client) keepRunning(ctx context.Context, container containerd.Container, s Spec) error {
	labels, err := container.Labels(ctx)
	if err != nil {
		return err
	}
	kept := labels[restart.StatusLabel] == string(containerd.Running)
	switch {
	case s.Restart && !kept:
		add := map[string]string{restart.StatusLabel: string(containerd.Running), restart.PolicyLabel: "always"}
		if s.Log != "" {
			add[restart.LogURILabel] = logURI(s.Log).String()
		}
		_, err = container.SetLabels(ctx, add)
	case !s.Restart && kept:
		err = container.Update(ctx, containerd.UpdateContainerOpts(restart.WithNoRestarts))
	}
	return err
}

func logURI(path string) *url.URL { return &url.URL{Scheme: "file", Path: path} }

// Remove ends the container called id, with SIGTERM first and SIGKILL after grace, and removes all it
// left on the machine but its log. It is no error when there is none.
func (c *Client) Remove(ctx context.Context, id string, grace time.Duration) error {
	ctx = c.namespaced(ctx)
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.remove(ctx, id, grace); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// RemoveAll is Remove of all of them at once.
func (c *Client) RemoveAll(ctx context.Context, ids []string, grace time.Duration) error {
	var g errgroup.Group // one that fails must not keep the others
	for _, id := range ids {
		g.Go(func() error { return c.Remove(ctx, id, grace) })
	}
	return g.Wait()
}

func (c *Client) remove(ctx context.Context, id string, grace time.Duration) error {
	cgroup := filepath.Join(c.opts.Cgroup, id)
	for {
		container, err := c.cd.LoadContainer(ctx, id)
		if errdefs.IsNotFound(err) {
			break
		}
		if err != nil {
			return err
		}
		if spec, err := container.Spec(ctx); err == nil && spec.Linux != nil && spec.Linux.CgroupsPath != "" {
			cgroup = spec.Linux.CgroupsPath
		}
		if err := container.Update(ctx, containerd.UpdateContainerOpts(restart.WithNoRestarts)); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("take it from the restart monitor: %w", err)
		}
		if err := stop(ctx, container, grace); err != nil {
			return err
		}
		err = container.Delete(ctx)
		if err == nil || errdefs.IsNotFound(err) {
			break
		}
		// The restart monitor had the container on its list before the labels went, and has just
		// started it once more.
		if !errdefs.IsFailedPrecondition(err) {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	if err := EndStrays(c.opts, id, cgroup); err != nil {
		return err
	}
	if err := RemoveCgroup(cgroup); err != nil { // when it goes, so have those who wrote into the root file system
		return err
	}
	return os.RemoveAll(filepath.Join(c.opts.StateDir, id))
}

func stop(ctx context.Context, container containerd.Container, grace time.Duration) error {
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if grace > 0 {
		exited, err := task.Wait(ctx)
		if err == nil {
			err = task.Kill(ctx, syscall.SIGTERM)
		}
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("send SIGTERM: %w", err)
		}
		if err == nil {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-exited:
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}
