// Package runcommand runs users' commands inside clusters, each in a pod of its own with cluster-admin rights, as `az aks
// command invoke` does: whoever cannot reach the API server asks the service to run kubectl next to it.
//
// A command is written down before it is started, its result before its traces are removed: a process that dies goes
// on where it was (Resume).
//
// After https://learn.microsoft.com/azure/aks/access-private-cluster.
package runcommand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

const (
	// startLimit is how long the pod may take until its container runs.
	startLimit = 60 * time.Second
	// timeLimit is how long a command may run.
	timeLimit = time.Hour
	// maxLogs is how much of its output is kept.
	maxLogs = 512 << 10
	// maxKept is how many results of a cluster are kept, maxRunning how many of its commands run at a time.
	maxKept    = 50
	maxRunning = 10
	// pause is between tries to speak to an API server that does not answer.
	pause = time.Second
)

// Command is what a user asks for.
type Command struct {
	ID      string // 32 hexadecimal digits
	Cluster string
	Text    string
	Context []byte `json:",omitempty"` // zip of the files that come with it
}

// States of a command.
const (
	Running   = "Running"
	Succeeded = "Succeeded" // it ran; its exit code says how that went
	Failed    = "Failed"
)

// Result is what came of a command.
type Result struct {
	State      string
	ExitCode   int
	StartedAt  time.Time
	FinishedAt time.Time
	Logs       string
	Reason     string // of Failed
	NotStarted bool   // Failed, for the pod did not start in time
}

// Errors.
var (
	ErrNotFound = fmt.Errorf("no such command: %w", fs.ErrNotExist)
	ErrContext  = errors.New("the context of the command cannot be used")
	ErrBusy     = errors.New("too many commands run in the cluster")
)

// record is a command's file.
type record struct {
	Command Command
	Asked   time.Time
	Result  Result
	Cleaned bool
}

// Options of a Runner.
type Options struct {
	Image  string                                     // with sh and kubectl
	Dir    func(cluster string) string                // where a cluster's commands are kept
	Client func(cluster string) (*rest.Config, error) // as a cluster administrator
	Log    *slog.Logger
}

// Runner runs commands.
type Runner struct {
	Options
	ctx   context.Context
	stop  context.CancelFunc
	since time.Time

	mu      sync.Mutex
	running map[string]map[string]task // by cluster and command
	tasks   sync.WaitGroup
}

type task struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a Runner that runs nothing.
func New(o Options) *Runner {
	r := &Runner{Options: o, since: time.Now(), running: map[string]map[string]task{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Close leaves running commands to the next process.
func (r *Runner) Close() error {
	r.stop()
	r.tasks.Wait()
	return nil
}

var validID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (r *Runner) path(cluster, id string) string {
	return filepath.Join(r.Dir(cluster), id+".json")
}

// Run writes the command down and starts it.
func (r *Runner) Run(c Command) error {
	if !validID.MatchString(c.ID) {
		return fmt.Errorf("run command %q: not an ID", c.ID)
	}
	if _, err := unpack(c.Context); err != nil {
		return fmt.Errorf("%w: %w", ErrContext, err)
	}
	r.mu.Lock()
	n := len(r.running[c.Cluster])
	r.mu.Unlock()
	if n >= maxRunning {
		return ErrBusy
	}
	if err := r.forgetOld(c.Cluster); err != nil {
		return err
	}
	rec := record{Command: c, Asked: time.Now().UTC(), Result: Result{State: Running}}
	if err := r.write(rec); err != nil {
		return fmt.Errorf("write down command %s: %w", c.ID, err)
	}
	r.launch(rec)
	return nil
}

func (r *Runner) write(rec record) error {
	return atomicfile.WriteJSON(r.path(rec.Command.Cluster, rec.Command.ID), rec, 0o600)
}

func (r *Runner) read(cluster, id string) (record, error) {
	var rec record
	if !validID.MatchString(id) {
		return rec, ErrNotFound
	}
	data, err := os.ReadFile(r.path(cluster, id))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, ErrNotFound
	}
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, fmt.Errorf("read command %s: %w", id, err)
	}
	return rec, nil
}

// Result tells how it stands with a command.
func (r *Runner) Result(cluster, id string) (Result, error) {
	rec, err := r.read(cluster, id)
	return rec.Result, err
}

// records are those of a cluster, oldest first.
func (r *Runner) records(cluster string) ([]record, error) {
	entries, err := os.ReadDir(r.Dir(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		rec, err := r.read(cluster, id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b record) int { return a.Asked.Compare(b.Asked) })
	return out, nil
}

func (r *Runner) forgetOld(cluster string) error {
	all, err := r.records(cluster)
	if err != nil {
		return fmt.Errorf("read earlier commands: %w", err)
	}
	for i := 0; i < len(all)-maxKept+1; i++ {
		if all[i].Cleaned {
			if err := os.Remove(r.path(cluster, all[i].Command.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Resume goes on with the commands of a cluster that an earlier process was about.
func (r *Runner) Resume(cluster string) error {
	all, err := r.records(cluster)
	if err != nil {
		return fmt.Errorf("read the commands of cluster %s: %w", cluster, err)
	}
	for _, rec := range all {
		if !rec.Cleaned {
			r.launch(rec)
		}
	}
	return nil
}

// Forget ends what runs in a cluster that is about to go, and returns when nothing writes there any more.
func (r *Runner) Forget(cluster string) {
	r.mu.Lock()
	tasks := slices.Collect(maps.Values(r.running[cluster]))
	r.mu.Unlock()
	for _, t := range tasks {
		t.cancel()
		<-t.done
	}
}

// launch runs the command beside the caller, unless it runs already.
func (r *Runner) launch(rec record) {
	cluster, id := rec.Command.Cluster, rec.Command.ID
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[cluster] == nil {
		r.running[cluster] = map[string]task{}
	}
	if _, already := r.running[cluster][id]; already || r.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	t := task{cancel, make(chan struct{})}
	r.running[cluster][id] = t
	r.tasks.Go(func() {
		defer cancel()
		if err := r.carryOut(ctx, rec); err != nil && ctx.Err() == nil {
			r.Log.Error("a command was not brought to its end", "cluster", cluster, "command", id, "error", err)
		}
		r.mu.Lock()
		delete(r.running[cluster], id)
		r.mu.Unlock()
		close(t.done)
	})
}

// carryOut brings the command to its end: a result, and no traces of it in the cluster.
func (r *Runner) carryOut(ctx context.Context, rec record) error {
	config, err := r.Client(rec.Command.Cluster)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if rec.Result.State == Running {
		rec.Result = r.await(ctx, client, config.CAData, rec)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rec.Command.Context = nil
		if err := r.write(rec); err != nil {
			return err
		}
	}
	if err := again(ctx, timeLimit, func() error { return cleanUp(ctx, client, rec.Command.ID) }); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rec.Cleaned = true
	return r.write(rec)
}

// again tries until it works or is too late: an API server may be starting.
func again(ctx context.Context, limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil || ctx.Err() != nil || !time.Now().Before(deadline) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			return err
		}
		select {
		case <-time.After(min(pause, time.Until(deadline))):
		case <-ctx.Done():
		}
	}
}

// await starts the pod and waits for its end.
func (r *Runner) await(ctx context.Context, client kubernetes.Interface, ca []byte, rec record) Result {
	failed := func(reason string, notStarted bool) Result {
		return Result{State: Failed, Reason: reason, NotStarted: notStarted}
	}
	late := rec.Asked.Add(startLimit)
	if late.Before(r.since.Add(startLimit)) {
		late = r.since.Add(startLimit) // an API server may have to start first
	}
	if err := again(ctx, time.Until(late), func() error { return ensure(ctx, client, r.Image, rec.Command, ca) }); err != nil {
		return failed(err.Error(), false)
	}
	var last *core.Pod
	for {
		pod, err := r.follow(ctx, client, rec.Command.ID, late)
		if pod != nil {
			last = pod
		}
		switch {
		case ctx.Err() != nil:
			return rec.Result
		case err == nil && pod == nil:
			return failed("the pod of the command was deleted before it ended", false)
		case err == nil && ended(pod) != nil:
			return r.finish(ctx, client, pod)
		case err == nil && (pod.Status.Phase == core.PodFailed || pod.Status.Phase == core.PodSucceeded):
			return failed(strings.TrimSpace("the pod of the command has failed: "+pod.Status.Reason+" "+pod.Status.Message), false)
		case (last == nil || !begun(last)) && time.Now().After(late):
			return failed(waitingFor(last), true)
		case time.Now().After(late.Add(timeLimit)):
			return failed("the command has not ended in time", false)
		}
		if err != nil {
			r.Log.Debug("watch a command", "command", rec.Command.ID, "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// follow watches the pod until it has ended, or has not begun when it is late; nil, nil says that there is none.
func (r *Runner) follow(ctx context.Context, client kubernetes.Interface, id string, late time.Time) (*core.Pod, error) {
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, objectName(id), meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, meta.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(), ResourceVersion: pod.ResourceVersion,
	})
	if err != nil {
		return pod, err
	}
	defer w.Stop()
	timer := time.NewTimer(time.Until(late))
	defer timer.Stop()
	for ended(pod) == nil && pod.Status.Phase != core.PodFailed && pod.Status.Phase != core.PodSucceeded {
		select {
		case event, ok := <-w.ResultChan():
			if !ok || event.Type == watch.Error {
				return pod, errors.New("the watch has ended")
			}
			if event.Type == watch.Deleted {
				return nil, nil
			}
			if p, ok := event.Object.(*core.Pod); ok {
				pod = p
			}
		case <-timer.C:
			if !begun(pod) {
				return pod, nil
			}
		case <-ctx.Done():
			return pod, ctx.Err()
		}
	}
	return pod, nil
}

func ended(p *core.Pod) *core.ContainerStateTerminated {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == containerName && s.State.Terminated != nil {
			return s.State.Terminated
		}
	}
	return nil
}

func begun(p *core.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == containerName && (s.State.Running != nil || s.State.Terminated != nil) {
			return true
		}
	}
	return false
}

// waitingFor says why a pod has not begun.
func waitingFor(p *core.Pod) string {
	if p == nil {
		return "the API server did not answer"
	}
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return strings.TrimSpace(w.Reason + ": " + w.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodScheduled && c.Status == core.ConditionFalse {
			return strings.TrimSpace(c.Reason + ": " + c.Message)
		}
	}
	return "its container is being made"
}

// finish reads what the command printed.
func (r *Runner) finish(ctx context.Context, client kubernetes.Interface, pod *core.Pod) Result {
	end := ended(pod)
	out := Result{State: Succeeded, ExitCode: int(end.ExitCode), StartedAt: end.StartedAt.UTC(), FinishedAt: end.FinishedAt.UTC()}
	limit := int64(maxLogs)
	err := again(ctx, startLimit, func() error {
		stream, err := client.CoreV1().Pods(namespace).GetLogs(pod.Name, &core.PodLogOptions{Container: containerName, LimitBytes: &limit}).Stream(ctx)
		if err != nil {
			return err
		}
		defer stream.Close()
		data, err := io.ReadAll(io.LimitReader(stream, limit))
		out.Logs = strings.ToValidUTF8(string(data), "\uFFFD")
		return err
	})
	if err != nil {
		return Result{State: Failed, Reason: "read what the command printed: " + err.Error()}
	}
	return out
}
