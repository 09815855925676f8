package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func binaries(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containerd needs root: run the tests as root")
	}
	set, err := artifacts.Locate(layout.DefaultCacheDir)
	if err != nil {
		t.Fatalf("no artifacts: run `cloister artifacts build`: %v", err)
	}
	return set.Bin
}

func newDaemon(t *testing.T) (layout.Layout, *Daemon) {
	t.Helper()
	id := make([]byte, 3)
	rand.Read(id)
	l := layout.New(t.TempDir(), layout.DefaultCacheDir, hex.EncodeToString(id))
	d := New(l, binaries(t))
	t.Cleanup(func() {
		if err := d.Teardown(context.Background(), 0); err != nil {
			t.Errorf("teardown: %v", err)
		}
		if err := os.RemoveAll(l.RunDir); err != nil {
			t.Error(err)
		}
	})
	return l, d
}

func start(t *testing.T, d *Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func pid(t *testing.T, d *Daemon) int {
	t.Helper()
	pid, err := d.PID()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// sleeper is a container that sleeps.
func sleeper(id string) containerrun.Spec {
	s := containerrun.Spec{ID: id, Args: []string{"/bin/sleep", "1000"}, Restart: true}
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Type: "bind", Options: []string{"rbind", "ro"}})
	}
	return s
}

// run starts a container called "same" that sleeps.
func run(t *testing.T, d *Daemon) (*containerrun.Client, containerrun.Status) {
	t.Helper()
	c, err := containerrun.New(d.RunOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Ensure(t.Context(), sleeper("same")); err != nil {
		t.Fatal(err)
	}
	status, err := c.Status(t.Context(), "same")
	if err != nil {
		t.Fatal(err)
	}
	return c, status
}

func TestStartFindsHealsStops(t *testing.T) {
	l, d := newDaemon(t)
	if got := pid(t, d); got != 0 {
		t.Fatalf("before Start: pid %d", got)
	}
	start(t, d)
	first := pid(t, d)
	for _, path := range []string{l.ContainerdSocket(), l.ContainerdSocket() + ".ttrpc"} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if sid, err := unix.Getsid(first); err != nil || (sid != first && !systemd()) {
		t.Errorf("it shares our session (%d, %v) and would end with it", sid, err)
	}
	// Another process of the installation, such as `up` beside `serve`, finds it.
	again := New(l, d.bin)
	start(t, again)
	if got := pid(t, again); got != first || first == 0 {
		t.Errorf("a second Start: pid %d, then %d", first, got)
	}

	ended := make(chan error, 1)
	go func() { ended <- d.Wait(t.Context()) }()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Wait does not return after kill -9")
	}
	start(t, d) // with the dead one's socket in the way
	second := pid(t, d)
	if second == first || second == 0 {
		t.Errorf("after kill -9: pid %d", second)
	}

	// A configuration that is no longer the right one, as after an upgrade.
	if err := os.WriteFile(d.configPath(), append(d.config(), "# old\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, d)
	third := pid(t, d)
	if third == second {
		t.Error("it was not restarted for another configuration")
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := pid(t, d); got != 0 {
		t.Errorf("after Stop: pid %d", got)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

// After a boot of the machine there is nothing in the run directory, and the restart monitor starts every
// container as the service does.
func TestBoot(t *testing.T) {
	l, d := newDaemon(t)
	start(t, d)
	c, err := containerrun.New(d.RunOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []containerrun.Spec
	for i := range 6 {
		all = append(all, sleeper(fmt.Sprint("c", i)))
	}
	if err := c.EnsureAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid(t, d), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var killed []unix.PollFd
	for _, s := range all {
		procs, err := os.ReadFile(filepath.Join(l.RunDir, "containerd", "io.containerd.runtime.v2.task", Namespace, s.ID, "init.pid"))
		if err != nil {
			t.Fatal(err)
		}
		process, err := strconv.Atoi(string(procs))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []int{parent(t, process), process} {
			fd, err := unix.PidfdOpen(p, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			killed = append(killed, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			if err := unix.Kill(p, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The shims are gone then, and their sockets refuse; what they mounted is none of a boot's.
	for i := range killed {
		if n, err := unix.Poll(killed[i:i+1], 10_000); n != 1 || err != nil {
			t.Fatalf("a process lives on after SIGKILL: %v", err)
		}
	}
	for _, dir := range []string{"containerd", "runc"} {
		if err := os.RemoveAll(filepath.Join(l.RunDir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	start(t, d)
	if err := c.EnsureAll(t.Context(), all); err != nil {
		t.Error(err)
	}
	for _, s := range all {
		if status, err := c.Status(t.Context(), s.ID); err != nil || !status.Running {
			t.Errorf("%s after the boot: %+v, %v", s.ID, status, err)
		}
	}
}

// parent is the process's parent.
func parent(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var ppid int
	if _, err := fmt.Sscan(string(stat[strings.LastIndexByte(string(stat), ')')+2:]), &state, &ppid); err != nil || ppid < 2 {
		t.Fatalf("process %d has no parent: %v, %s", pid, err, stat)
	}
	return ppid
}

// On a machine that is short of time a shim may not answer for seconds. Its container is healthy all the
// same: neither the restart monitor nor a restart of containerd may end it.
func TestStalledShimKeepsItsContainer(t *testing.T) {
	_, d := newDaemon(t)
	start(t, d)
	c, before := run(t, d)
	shim := parent(t, before.PID)
	stall := func(d time.Duration) {
		if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
			t.Error(err)
		}
		time.Sleep(d)
		if err := unix.Kill(shim, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	stall(4 * time.Second) // the monitor asks each second, and gave up after two
	if err := unix.Kill(pid(t, d), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { stall(7 * time.Second) }) // loading gave up after five
	start(t, d)
	time.Sleep(3 * time.Second) // time for the monitor to do wrong
	after, err := c.Status(t.Context(), "same")
	if err != nil || after.PID != before.PID {
		t.Errorf("the container was process %d, and is %d (%v)", before.PID, after.PID, err)
	}
}

// A service that ends in the middle of a start leaves a shim that containerd forgets, and the process that
// the shim has made: neither is in any list, and both must go with the installation.
func TestTeardownEndsStrays(t *testing.T) {
	l, d := newDaemon(t)
	start(t, d)
	run(t, d) // makes the cgroups
	var strays []*exec.Cmd
	stray := func(args ...string) *exec.Cmd {
		cmd := exec.Command("/bin/sh")
		cmd.Args = append([]string{"containerd-shim-runc-v2", "-c", "read line", "sh"}, args...)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		strays = append(strays, cmd)
		return cmd
	}
	stray("-namespace", Namespace, "-id", "gone", "-address", l.ContainerdSocket())
	made := stray()
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + l.Cgroup() + "/same")
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) == 0 { // cgroup v2
		groups = []string{"/sys/fs/cgroup" + l.Cgroup() + "/same"}
	}
	inside := filepath.Join(groups[0], "..", "gone")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inside, "cgroup.procs"), fmt.Append(nil, made.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	foreign := stray("-namespace", Namespace, "-id", "gone", "-address", "/run/containerd/containerd.sock")

	if err := d.Teardown(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range strays[:2] {
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%v still runs", cmd.Args)
			_ = cmd.Process.Kill()
		}
	}
	if err := foreign.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a shim of another containerd was ended: %v", err)
	}
	_ = foreign.Process.Kill()
	_ = foreign.Wait()
	if left, _ := filepath.Glob("/sys/fs/cgroup/*" + l.Cgroup()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestStartSaysWhyItFails(t *testing.T) {
	l, d := newDaemon(t)
	// A directory where containerd wants to write its database.
	if err := os.MkdirAll(filepath.Join(d.root(), "io.containerd.metadata.v1.bolt", "meta.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := d.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "meta.db") || time.Since(begin) > 15*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	if err := os.RemoveAll(d.root()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.RunDir); err != nil {
		t.Error(err)
	}
	if err := New(l, t.TempDir()).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "artifacts build") {
		t.Errorf("without binaries: %v", err)
	}
}

// TestUnitFile holds what keeps containers alive when systemd runs the machine, which this one may not.
func TestUnitFile(t *testing.T) {
	d := New(layout.New("/var/lib/a 50% \"cloister\"", "/var/cache/cloister", "abcdef"), "/opt/bin")
	unit := string(d.unitFile())
	for _, want := range []string{
		`ExecStart="/opt/bin/containerd" "--config" "/var/lib/a 50%% \"cloister\"/containerd.toml"` + "\n",
		"\nDelegate=yes\n", "\nKillMode=process\n", "\nRestart=always\n", "\nType=notify\n", "StartLimitIntervalSec=0\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("no %q in\n%s", want, unit)
		}
	}
	if d.unit() != "cloister-abcdef-containerd.service" {
		t.Errorf("unit %s", d.unit())
	}
}

// TestInstallationsDoNotMeet runs a container of the same name, in a containerd namespace of the same
// name, under two installations and a containerd of somebody else, and ends one installation.
func TestInstallationsDoNotMeet(t *testing.T) {
	_, a := newDaemon(t)
	_, b := newDaemon(t)
	start(t, a)
	start(t, b)
	foreign := startForeign(t)
	_, inA := run(t, a)
	clientB, inB := run(t, b)

	if err := a.Teardown(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(inA.PID, 0); err != unix.ESRCH {
		t.Errorf("the ended installation's process: %v", err)
	}
	after, err := clientB.Status(t.Context(), "same")
	if err != nil || !after.Running || after.PID != inB.PID || after.Restarts != 0 {
		t.Errorf("the other installation's container: %+v, %v; was pid %d", after, err, inB.PID)
	}
	if err := foreign(); err != nil {
		t.Errorf("the foreign containerd's container: %v", err)
	}
	if got := pid(t, a); got != 0 {
		t.Errorf("the ended installation's containerd runs as %d", got)
	}
}

// startForeign runs a containerd as a distribution ships it, but for its directories, and a container
// in it; running tells whether that still runs.
func startForeign(t *testing.T) (running func() error) {
	t.Helper()
	bin, dir := binaries(t), t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n", dir+"/root", dir+"/state", socket)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	daemon := exec.Command(filepath.Join(bin, "containerd"), "--config", dir+"/config.toml")
	daemon.Env = append(os.Environ(), path)
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ctr := func(args ...string) ([]byte, error) {
		cmd := exec.Command(filepath.Join(bin, "ctr"), append([]string{"--address", socket, "--namespace", Namespace}, args...)...)
		cmd.Env = append(os.Environ(), path)
		return cmd.CombinedOutput()
	}
	t.Cleanup(func() {
		if out, err := ctr("task", "delete", "--force", "same"); err != nil {
			t.Errorf("foreign task: %v: %s", err, out)
		}
		if out, err := ctr("container", "delete", "same"); err != nil {
			t.Errorf("foreign container: %v: %s", err, out)
		}
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
		if err := containerrun.RemoveCgroup("/" + Namespace); err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := ctr("version"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the foreign containerd does not answer")
		}
		time.Sleep(100 * time.Millisecond)
	}
	args := []string{"run", "--detach", "--rootfs"}
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		args = append(args, "--mount", "type=bind,src="+dir+",dst="+dir+",options=rbind:ro")
	}
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := ctr(append(args, rootfs, "same", "/bin/sleep", "1000")...); err != nil {
		t.Fatalf("foreign container: %v: %s", err, out)
	}
	return func() error {
		out, err := ctr("task", "list")
		if err == nil && !strings.Contains(string(out), "RUNNING") {
			err = fmt.Errorf("%s", out)
		}
		return err
	}
}
