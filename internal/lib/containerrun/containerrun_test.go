package containerrun_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/userns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], []string{"hook", "cgroup"}) {
		if err := containerrun.CgroupHook(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// start runs a private containerd for the test and, at its end, checks that nothing is left of it.
func start(t *testing.T) (layout.Layout, *containerd.Daemon, *containerrun.Client) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers need root: run the tests as root")
	}
	set, err := artifacts.Locate(layout.DefaultCacheDir)
	if err != nil {
		t.Fatalf("no artifacts: run `cloister artifacts build`: %v", err)
	}
	id := make([]byte, 3)
	rand.Read(id)
	l := layout.New(t.TempDir(), t.TempDir(), hex.EncodeToString(id))
	d := containerd.New(l, set.Bin)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := containerrun.New(d.RunOptions(self, "hook", "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			log, _ := os.ReadFile(l.Log("containerd"))
			t.Logf("containerd's log:\n%s", log)
		}
		if err := d.Teardown(context.Background(), 0); err != nil {
			t.Errorf("teardown: %v", err)
		}
		if err := os.RemoveAll(l.RunDir); err != nil {
			t.Errorf("run directory: %v", err)
		}
		leftovers(t, l)
	})
	begin := time.Now()
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("containerd serves after %v", time.Since(begin).Round(time.Millisecond))
	return l, d, c
}

// leftovers fails the test for every process, mount and cgroup that names the installation.
func leftovers(t *testing.T, l layout.Layout) {
	t.Helper()
	marks := []string{l.RunDir, l.DataDir}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		for _, mark := range marks {
			if bytes.Contains(line, []byte(mark)) {
				t.Errorf("process left: %s %q", p, line)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		for _, mark := range marks {
			if strings.Contains(line, mark) {
				t.Errorf("mount left: %s", line)
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + l.Cgroup(), "/sys/fs/cgroup/*" + l.Cgroup()} {
		if dirs, _ := filepath.Glob(pattern); len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
	}
}

// host is a container that sees the machine's programs, read-only.
func host(id, script string) containerrun.Spec {
	s := containerrun.Spec{ID: id, Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Restart: true}
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Type: "bind", Options: []string{"rbind", "ro"}})
	}
	return s
}

func status(t *testing.T, c *containerrun.Client, id string) containerrun.Status {
	t.Helper()
	s, err := c.Status(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLifecycle(t *testing.T) {
	l, d, c := start(t)
	ctx := t.Context()
	log := l.Log("sleeper")
	spec := host("sleeper", `trap "exit 0" TERM; echo "generation $GENERATION caps $(grep CapEff /proc/self/status | cut -f2)"; sleep 1000 & wait`)
	spec.Log = log
	spec.Env = append(spec.Env, "GENERATION=1")
	// One that this machine's root may lack: it must be left out, not refused.
	spec.Capabilities = []string{"CAP_SYS_RESOURCE", "CAP_NET_BIND_SERVICE"}

	events := make(chan containerrun.Event, 100)
	ready := make(chan struct{})
	go c.Events(ctx, ready, func(e containerrun.Event) { events <- e })
	<-ready

	begin := time.Now()
	if err := c.Ensure(ctx, spec); err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	first := status(t, c, "sleeper")
	if !first.Running {
		t.Fatalf("not running after Ensure: %+v", first)
	}
	if err := c.Ensure(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if again := status(t, c, "sleeper"); again.PID != first.PID {
		t.Errorf("Ensure of the same description restarted the container: pid %d, then %d", first.PID, again.PID)
	}

	spec.Env[len(spec.Env)-1] = "GENERATION=2"
	if err := c.Ensure(ctx, spec); err != nil {
		t.Fatal(err)
	}
	second := status(t, c, "sleeper")
	if second.PID == first.PID {
		t.Error("Ensure of another description left the old container running")
	}
	// Exec, with all three streams and an exit status.
	var out, errOut bytes.Buffer
	code, err := c.Exec(ctx, "sleeper", containerrun.Process{
		Args: []string{"/bin/sh", "-c", "cat; echo problem >&2; exit 3"}, Stdin: strings.NewReader("through stdin"), Stdout: &out, Stderr: &errOut,
	})
	if err != nil || code != 3 || out.String() != "through stdin" || errOut.String() != "problem\n" {
		t.Errorf("exec: status %d, stdout %q, stderr %q, error %v", code, out.String(), errOut.String(), err)
	}

	// The restart monitor heals a killed process, and containerd a restart of its own.
	if err := unix.Kill(second.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third := next(t, events, containerrun.Started, func() containerrun.Status { return status(t, c, "sleeper") }, second.PID)
	if third.Restarts != 1 {
		t.Errorf("%d restarts counted, want 1", third.Restarts)
	}
	if err := d.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(third.PID, 0); err != nil {
		t.Errorf("the container did not outlive containerd: %v", err)
	}
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := status(t, c, "sleeper"); after.PID != third.PID || !after.Running {
		t.Errorf("after containerd's restart: %+v, want pid %d running", after, third.PID)
	}

	if data, _ := os.ReadFile(log); !bytes.Contains(data, []byte("generation 1 caps 0000000000000400")) || !bytes.Contains(data, []byte("generation 2 ")) {
		t.Errorf("the log has not both runs: %q", data)
	}

	if info, err := os.Stat(log); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}

	begin = time.Now()
	if err := c.Remove(ctx, "sleeper", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("removed in %v", time.Since(begin).Round(time.Millisecond))
	if err := c.Remove(ctx, "sleeper", 0); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
	if _, err := c.Status(ctx, "sleeper"); !errors.Is(err, containerrun.ErrNotFound) {
		t.Errorf("status of a removed container: %v", err)
	}
	if err := unix.Kill(third.PID, 0); err != unix.ESRCH {
		t.Errorf("its process after Remove: %v", err)
	}
}

// next waits for an event of the kind after which the container runs with another pid.
func next(t *testing.T, events <-chan containerrun.Event, kind containerrun.Kind, status func() containerrun.Status, old int) containerrun.Status {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if s := status(); e.Kind == kind && s.Running && s.PID != old {
				return s
			}
		case <-timeout:
			t.Fatalf("no %s event with another pid than %d; now %+v", kind, old, status())
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	_, _, c := start(t)
	var all []containerrun.Spec
	var ids []string
	for i := range 8 {
		s := host("many-"+strconv.Itoa(i), "trap 'exit 0' TERM; sleep 1000 & wait")
		all, ids = append(all, s), append(ids, s.ID)
	}
	begin := time.Now()
	if err := c.EnsureAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	t.Logf("8 started in %v", time.Since(begin).Round(time.Millisecond))
	list, err := c.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if !s.Running {
			t.Errorf("%s does not run", s.ID)
		}
	}
	if len(list) != 8 {
		t.Errorf("%d containers listed, want 8", len(list))
	}
	begin = time.Now()
	if err := c.RemoveAll(t.Context(), ids, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("8 removed in %v", time.Since(begin).Round(time.Millisecond))
}

func TestMemoryLimit(t *testing.T) {
	_, _, c := start(t)
	events := make(chan containerrun.Event, 100)
	ready := make(chan struct{})
	go c.Events(t.Context(), ready, func(e containerrun.Event) { events <- e })
	<-ready
	spec := host("eater", "sleep 1; tail -c 200000000 /dev/zero | tail -c 200000000 >/dev/null")
	spec.Restart = false
	limit := int64(32 << 20)
	spec.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	if err := c.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Kind == containerrun.OOM && e.ID == "eater" {
				return
			}
		case <-timeout:
			t.Fatal("no event tells that the container ran out of memory")
		}
	}
}

// TestUserNamespace runs what a node is: root in a user namespace makes cgroups in its own, and cannot
// lift the limit the host set; all this also when the restart monitor has started it.
func TestUserNamespace(t *testing.T) {
	l, _, c := start(t)
	const base, count = 1 << 24, 1 << 16
	if err := userns.Create(l.UserNS("box"), l.NetNS("box"), userns.Map{Base: base, Count: count}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := userns.Delete(l.UserNS("box"), l.NetNS("box")); err != nil {
			t.Error(err)
		}
	})
	spec := host("box", `
cd /sys/fs/cgroup
if [ -e cgroup.procs ]; then m=. limit=memory.max; else m=memory limit=memory.limit_in_bytes; fi
mkdir $m/child && echo child made
echo max 2>/dev/null > $m/$limit || echo limit kept
echo "uid map $(tr -s ' ' < /proc/self/uid_map)"
trap "exit 0" TERM; sleep 1000 & wait`)
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(rootfs, base, base); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(rootfs); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o711) // the container's root passes through
	}
	limit := int64(256 << 20)
	spec.Rootfs, spec.Log = rootfs, l.Log("box")
	spec.UserNS, spec.NetNS, spec.UIDBase, spec.UIDCount = l.UserNS("box"), l.NetNS("box"), base, count
	spec.Capabilities = containerrun.AllCapabilities()
	spec.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime"}},
	)
	events := make(chan containerrun.Event, 100)
	ready := make(chan struct{})
	go c.Events(t.Context(), ready, func(e containerrun.Event) { events <- e })
	<-ready
	if err := c.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("child made\nlimit kept\nuid map  0 %d %d\n", base, count)
	waitLog(t, spec.Log, want)
	first := status(t, c, "box")
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next(t, events, containerrun.Started, func() containerrun.Status { return status(t, c, "box") }, first.PID)
	waitLog(t, spec.Log, want+want)
	var out bytes.Buffer
	if code, err := c.Exec(t.Context(), "box", containerrun.Process{Args: []string{"cat", "/proc/self/uid_map"}, Stdout: &out}); err != nil || code != 0 || !strings.Contains(out.String(), strconv.Itoa(base)) {
		t.Errorf("exec in the user namespace: %d %v %q", code, err, out.String())
	}
	if err := c.Remove(t.Context(), "box", time.Second); err != nil {
		t.Fatal(err)
	}
}

func waitLog(t *testing.T, path, want string) {
	t.Helper()
	var data []byte
	for range 100 {
		if data, _ = os.ReadFile(path); string(data) == want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the log is %q, want %q", data, want)
}
