// Package containerd keeps the installation's private containerd: its configuration, its start as a
// daemon of its own, its health and its end.
//
// It must outlive `cloister serve`, so it is started in its own session, or by systemd where systemd
// runs the machine, and it is found again by what it was started with. It must never meet another
// containerd, Docker, or another installation on the machine: root, state, sockets, runc's root, the
// cgroup parent and the binaries are all this installation's.
//
// The package does not know what runs in containerd; internal/lib/containerrun does that.
// Configuration: https://github.com/containerd/containerd/blob/v2.1.5/docs/man/containerd-config.toml.5.md
package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	client "github.com/containerd/containerd/v2/client"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Namespace is the containerd namespace of everything Cloister runs.
const Namespace = "cloister"

// Daemon is the private containerd of one installation.
type Daemon struct {
	l   layout.Layout
	bin string // directory of containerd, its shim and runc
}

// New returns the daemon of the installation whose binaries are in the directory bin.
func New(l layout.Layout, bin string) *Daemon { return &Daemon{l: l, bin: bin} }

// RunOptions says how internal/lib/containerrun reaches the daemon. hook is the command that calls
// containerrun.CgroupHook.
func (d *Daemon) RunOptions(hook ...string) containerrun.Options {
	return containerrun.Options{
		Socket:     d.l.ContainerdSocket(),
		Namespace:  Namespace,
		Shim:       filepath.Join(d.bin, "containerd-shim-runc-v2"),
		Runc:       filepath.Join(d.bin, "runc"),
		RuncRoot:   filepath.Join(d.l.RunDir, "runc"),
		Cgroup:     d.l.Cgroup(),
		StateDir:   filepath.Join(d.l.DataDir, "containers"),
		RunDir:     d.l.RunDir,
		CgroupHook: hook,
	}
}

func (d *Daemon) binary() string     { return filepath.Join(d.bin, "containerd") }
func (d *Daemon) configPath() string { return filepath.Join(d.l.DataDir, "containerd.toml") }
func (d *Daemon) root() string       { return filepath.Join(d.l.DataDir, "containerd") }
func (d *Daemon) state() string      { return filepath.Join(d.l.RunDir, "containerd") }
func (d *Daemon) log() string        { return d.l.Log("containerd") }

// config is containerd's, rendered whole. Every plugin that is not needed to run a container from a
// directory is off: the CRI would listen for streams and take its own share of memory.
func (d *Daemon) config() []byte {
	q := strconv.Quote
	var b bytes.Buffer
	fmt.Fprintf(&b, "version = 3\nroot = %s\nstate = %s\n", q(d.root()), q(d.state()))
	// 0 is "leave it": lowering the score takes CAP_SYS_RESOURCE, which even root may lack.
	fmt.Fprintf(&b, "oom_score = 0\ndisabled_plugins = [\n")
	for _, p := range []string{
		"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
		"io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri",
		"io.containerd.monitor.task.v1.cgroups",
		"io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
		"io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
		"io.containerd.differ.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
	} {
		fmt.Fprintf(&b, "  %s,\n", q(p))
	}
	// Without it nothing would be restarted, and containerd would start all the same.
	fmt.Fprintf(&b, "]\nrequired_plugins = [\"io.containerd.monitor.container.v1.restart\"]\n\n[grpc]\n  address = %s\n", q(d.l.ContainerdSocket()))
	fmt.Fprintf(&b, "\n[ttrpc]\n  address = %s\n", q(d.l.ContainerdSocket()+".ttrpc"))
	fmt.Fprintf(&b, "\n[debug]\n  level = \"warn\"\n")
	fmt.Fprintf(&b, "\n[plugins.'io.containerd.monitor.container.v1.restart']\n  interval = \"1s\"\n")
	// A shim that a busy machine keeps from answering for two seconds would have its healthy container
	// restarted by the monitor; one that does not for five, after a restart of containerd, would have it removed.
	fmt.Fprintf(&b, "\n[timeouts]\n  \"io.containerd.timeout.task.state\" = \"1m\"\n  \"io.containerd.timeout.shim.load\" = \"1m\"\n")
	// The restart monitor's client needs the transfer plugin, and that a snapshotter; native is the one
	// that loads on every file system.
	fmt.Fprintf(&b, "\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = %s\n  snapshotter = \"native\"\n", q("linux/"+runtime.GOARCH))
	return b.Bytes()
}

// args is the command line, by which a running daemon is recognised as this installation's.
func (d *Daemon) args() []string { return []string{d.binary(), "--config", d.configPath()} }

// Start starts the daemon and returns when it serves. One that runs is left alone, unless its binary
// or configuration is no longer the right one: then it is restarted, which its containers do not notice.
func (d *Daemon) Start(ctx context.Context) error {
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := os.Stat(filepath.Join(d.bin, name)); err != nil {
			return fmt.Errorf("containerd: a binary is missing, run `cloister artifacts build`: %w", err)
		}
	}
	for dir, mode := range map[string]fs.FileMode{d.l.RunDir: 0o711, d.root(): 0o711, filepath.Dir(d.log()): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer unlock()

	config := d.config()
	old, err := os.ReadFile(d.configPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("containerd: %w", err)
	}
	current := bytes.Equal(old, config)
	pid, args, err := d.find()
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	if pid != 0 && current && args[0] == d.binary() {
		ended, err := d.waitRunning(ctx, pid)
		if !ended {
			return err
		}
		pid = 0
	}
	if pid != 0 {
		if err := d.stop(ctx, pid); err != nil {
			return fmt.Errorf("containerd: restart: %w", err)
		}
	}
	if err := atomicfile.Write(d.configPath(), config, 0o600); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	// What a crash left would be taken for a sign of life.
	if err := os.Remove(d.l.ContainerdSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("containerd: %w", err)
	}
	exited, err := d.spawn(ctx)
	if err != nil {
		return fmt.Errorf("containerd: start: %w", err)
	}
	return d.waitServing(ctx, exited)
}

// lock keeps two starts or ends, of two processes too, from crossing.
func (d *Daemon) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.l.RunDir, "containerd.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-done:
		if err != nil {
			f.Close()
			return nil, err
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		go func() {
			<-done //nolint:errcheck // nobody asks any more
			f.Close()
		}()
		return nil, ctx.Err()
	}
}

// environ is all that the daemon and the shims get of ours. Nothing is looked up in PATH but the
// tools that runc itself calls.
func environ() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOGC=50"}
}

// spawn starts the daemon; exited gives its end, where that can be known.
func (d *Daemon) spawn(ctx context.Context) (exited <-chan error, err error) {
	if systemd() {
		return nil, d.spawnUnit(ctx)
	}
	logFile, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	args := d.args()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = environ(), "/", logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }() // reaped while we live; later, by init
	return end, nil
}

// waitRunning is waitServing for a daemon that runs already. It may be about to end, killed a moment ago:
// then ended is true, and another one is to be started.
func (d *Daemon) waitRunning(ctx context.Context, pid int) (ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		if waitPID(ctx, pid) == nil {
			close(gone)
			cancel()
		}
	}()
	err = d.waitServing(ctx, nil)
	select {
	case <-gone:
		return true, nil
	default:
		return false, err
	}
}

// waitServing returns when the daemon answers on its socket. It watches the directory for the socket.
func (d *Daemon) waitServing(ctx context.Context, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	socket := d.l.ContainerdSocket()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("containerd: watch for its socket: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(socket)); err != nil {
		return fmt.Errorf("containerd: watch for its socket: %w", err)
	}
	for {
		// The file appears a moment before it can be connected to; then containerd changes its mode,
		// which is the event that ends the loop.
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			return fmt.Errorf("containerd: watch for its socket: %w", err)
		case err := <-exited:
			return fmt.Errorf("containerd ended at once (%v); the end of %s: %s", err, d.log(), tail(d.log()))
		case <-ctx.Done():
			return fmt.Errorf("containerd: no socket yet: %w; the end of %s: %s", ctx.Err(), d.log(), tail(d.log()))
		}
	}
	if err := d.Healthy(ctx); err != nil {
		return fmt.Errorf("%w; the end of %s: %s", err, d.log(), tail(d.log()))
	}
	// containerd makes its sockets 0660.
	for _, path := range []string{socket, socket + ".ttrpc"} {
		if err := os.Chmod(path, 0o600); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return nil
}

// Healthy asks the daemon whether it serves, and waits for it until ctx ends.
func (d *Daemon) Healthy(ctx context.Context) error {
	c, err := client.New(d.l.ContainerdSocket(), client.WithDefaultNamespace(Namespace))
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer c.Close()
	ok, err := c.IsServing(ctx)
	if err != nil {
		return fmt.Errorf("containerd does not answer: %w", err)
	}
	if !ok {
		return errors.New("containerd answers that it does not serve")
	}
	return nil
}

// PID is the daemon's process, 0 when it does not run.
func (d *Daemon) PID() (int, error) {
	pid, _, err := d.find()
	return pid, err
}

// find looks for a process with our command line. A pid file would be wrong after a crash at the
// wrong line and after a pid came round again; the configuration's path is nobody else's.
func (d *Daemon) find() (pid int, args []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if len(args) == 3 && filepath.Base(args[0]) == "containerd" && args[1] == "--config" && args[2] == d.configPath() {
			return pid, args, nil
		}
	}
	return 0, nil, nil
}

// Wait returns when the running daemon ends, at once when there is none, so that a caller can Start
// it again where systemd does not.
func (d *Daemon) Wait(ctx context.Context) error {
	pid, _, err := d.find()
	if err != nil || pid == 0 {
		return err
	}
	return waitPID(ctx, pid)
}

// Stop ends the daemon. Containers run on, as they do when it crashes.
func (d *Daemon) Stop(ctx context.Context) error {
	if _, err := os.Stat(d.l.RunDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer unlock()
	pid, _, err := d.find()
	if err == nil {
		err = d.stop(ctx, pid)
	}
	if err != nil {
		return fmt.Errorf("containerd: stop: %w", err)
	}
	for _, path := range []string{d.l.ContainerdSocket(), d.l.ContainerdSocket() + ".ttrpc"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return nil
}

func (d *Daemon) stop(ctx context.Context, pid int) error {
	if systemd() {
		if err := d.stopUnit(ctx); err != nil {
			return err
		}
	}
	if pid == 0 {
		return nil
	}
	ended, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := unix.Kill(pid, unix.SIGTERM); err == unix.ESRCH {
		return nil
	} else if err != nil {
		return err
	}
	if err := waitPID(ended, pid); err == nil || ctx.Err() != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return err
	}
	return waitPID(ctx, pid)
}

// Teardown removes every container, ends the daemon and removes its state and cgroups; logs stay.
// The next Start begins with nothing.
func (d *Daemon) Teardown(ctx context.Context, grace time.Duration) error {
	pid, _, err := d.find()
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	if _, err := os.Stat(d.root()); pid == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Only containerd knows what its shims run, so it is needed for the end, too.
	if err := d.Start(ctx); err != nil {
		return err
	}
	containers, err := containerrun.New(d.RunOptions())
	if err != nil {
		return err
	}
	defer containers.Close()
	all, err := containers.List(ctx, nil)
	if err != nil {
		return err
	}
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	if err := containers.RemoveAll(ctx, ids, grace); err != nil {
		return err
	}
	if err := d.Stop(ctx); err != nil {
		return err
	}
	if systemd() {
		if err := d.removeUnit(ctx); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	options := d.RunOptions()
	if err := containerrun.EndStrays(options, "", d.l.Cgroup()); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	for _, path := range []string{d.state(), d.root(), d.configPath(), options.StateDir, options.RuncRoot,
		filepath.Join(d.l.RunDir, "fifo"), filepath.Join(d.l.RunDir, "containerd.lock")} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return containerrun.RemoveCgroup(d.l.Cgroup())
}

// waitPID waits for the end of a process that need not be a child.
func waitPID(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	written := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(written)
		_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !cancel() {
			<-written
		}
		unix.Close(stop)
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("watch process %d: %w", pid, err)
		case fds[0].Revents != 0:
			return nil
		default:
			return ctx.Err()
		}
	}
}

// tail is the end of a log, for an error message.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 2000 {
		if _, err := f.Seek(-2000, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}
