package containerrun

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime/restart"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// ErrNotFound is returned for a container, or a process of one, that does not exist.
var ErrNotFound = errdefs.ErrNotFound

// Status is what is known of a container.
type Status struct {
	ID         string
	Running    bool
	PID        int    // of the first process, in the host's pid namespace; 0 when it does not run
	ExitStatus uint32 // of the last run, when it does not run
	ExitedAt   time.Time
	Restarts   int // by the restart monitor
	Labels     map[string]string
}

// Status tells how the container called id is. The error is ErrNotFound when there is none.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	ctx = c.namespaced(ctx)
	container, err := c.cd.LoadContainer(ctx, id)
	if err != nil {
		return Status{}, err
	}
	labels, err := container.Labels(ctx)
	if err != nil {
		return Status{}, err
	}
	status := newStatus(id, labels)
	reply, err := c.cd.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err != nil {
		if err := errgrpc.ToNative(err); !errdefs.IsNotFound(err) {
			return Status{}, err
		}
		return status, nil
	}
	status.add(reply.Process)
	return status, nil
}

// List tells how every container is that has these labels, all of them when labels is nil.
func (c *Client) List(ctx context.Context, labels map[string]string) ([]Status, error) {
	ctx = c.namespaced(ctx)
	containers, err := c.cd.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	reply, err := c.cd.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	processes := make(map[string]*tasktypes.Process, len(reply.Tasks))
	for _, p := range reply.Tasks {
		processes[p.ID] = p
	}
	var out []Status
next:
	for _, container := range containers {
		for k, v := range labels {
			if container.Labels[k] != v {
				continue next
			}
		}
		status := newStatus(container.ID, container.Labels)
		status.add(processes[container.ID])
		out = append(out, status)
	}
	return out, nil
}

func newStatus(id string, labels map[string]string) Status {
	restarts, _ := strconv.Atoi(labels[restart.CountLabel])
	return Status{ID: id, Labels: labels, Restarts: restarts}
}

func (s *Status) add(p *tasktypes.Process) {
	if p == nil {
		return
	}
	if p.Status == tasktypes.Status_RUNNING {
		s.Running, s.PID = true, int(p.Pid)
		return
	}
	s.ExitStatus = p.ExitStatus
	if p.ExitedAt != nil {
		s.ExitedAt = p.ExitedAt.AsTime()
	}
}

// Wait returns when the container's present run ends, with its exit status. The error is ErrNotFound
// when it does not run.
func (c *Client) Wait(ctx context.Context, id string) (uint32, error) {
	ctx = c.namespaced(ctx)
	container, err := c.cd.LoadContainer(ctx, id)
	if err != nil {
		return 0, err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return 0, err
	}
	exited, err := task.Wait(ctx)
	if err != nil {
		return 0, err
	}
	exit := <-exited
	return exit.ExitCode(), exit.Error()
}

// Kind says what happened to a container.
type Kind string

// The kinds of Event.
const (
	Started Kind = "started"
	Exited  Kind = "exited"
	OOM     Kind = "oom" // the kernel killed a process of it for want of memory
)

// Event is something that happened to a container's first process.
type Event struct {
	Time       time.Time
	ID         string
	Kind       Kind
	ExitStatus uint32 // of Exited
}

// Events calls fn for everything that happens from now on, until ctx ends or containerd goes away,
// which is an error. What happened while nobody listened is lost: call List after ready is closed.
func (c *Client) Events(ctx context.Context, ready chan<- struct{}, fn func(Event)) error {
	ctx, cancel := context.WithCancel(c.namespaced(ctx))
	defer cancel()
	filter := fmt.Sprintf("namespace==%q,topic~=%q", c.opts.Namespace, "^/tasks/(start|exit|oom)$")
	envelopes, failed := c.cd.Subscribe(ctx, filter)
	if ready != nil {
		close(ready)
	}
	for {
		select {
		case envelope := <-envelopes:
			body, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				return fmt.Errorf("containerd event %s: %w", envelope.Topic, err)
			}
			switch e := body.(type) {
			case *apievents.TaskStart:
				fn(Event{Time: envelope.Timestamp, ID: e.ContainerID, Kind: Started})
			case *apievents.TaskExit:
				if e.ID == e.ContainerID { // else a process of Exec
					fn(Event{Time: envelope.Timestamp, ID: e.ContainerID, Kind: Exited, ExitStatus: e.ExitStatus})
				}
			case *apievents.TaskOOM:
				fn(Event{Time: envelope.Timestamp, ID: e.ContainerID, Kind: OOM})
			}
		case err := <-failed:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				err = errors.New("the stream ended")
			}
			return fmt.Errorf("containerd events: %w", err)
		}
	}
}

// Kill sends a signal to the container's first process.
func (c *Client) Kill(ctx context.Context, id string, signal syscall.Signal) error {
	ctx = c.namespaced(ctx)
	container, err := c.cd.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	return task.Kill(ctx, signal)
}
