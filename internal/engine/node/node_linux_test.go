package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// TestMain lets the test binary stand for the program that is bound into nodes.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == node.InitCommand:
		fmt.Fprintln(os.Stderr, node.Init())
		os.Exit(1)
	case len(os.Args) == 2 && os.Args[1] == node.BootstrapCommand:
		os.Exit(int(bootstrap.Main(context.Background(), node.ConfigDir)))
	case len(os.Args) == 2 && os.Args[1] == "probe":
		probe()
		os.Exit(0)
	case len(os.Args) == 3 && os.Args[1] == "hook":
		if err := containerrun.CgroupHook(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// probe tries, inside a node, what reaches past namespaces.
func probe() {
	_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	fmt.Println("vsock:", err)
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
	fmt.Println("io_uring:", errno)
	fmt.Println("mknod:", unix.Mknod("/tmp/mem", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1))))
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	unix.Close(fuse)
	fmt.Println("fuse:", err)
}

const (
	base    = 7 << 24
	acr     = "testregistry.azurecr.io"
	apiName = "demo-dns.0f.privatelink.westus2.azmk8s.io"
)

var (
	imdsAddress     = netip.MustParseAddr("169.254.169.254")
	dnsAddress      = netip.MustParseAddr("168.63.129.16")
	registryAddress = netip.MustParseAddr("198.51.100.10")
	apiAddress      = netip.MustParseAddr("198.51.100.20")
	nodeAddress     = netip.MustParseAddr("10.224.0.4")
)

type installation struct {
	layout     layout.Layout
	containers *containerrun.Client
	engine     *node.Engine
	artifacts  artifacts.Set
}

// install starts an installation with nothing in it, and checks at the end of the test that nothing is left.
func install(t *testing.T) *installation {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("nodes need root: run the tests as root")
	}
	set, err := artifacts.Locate(layout.DefaultCacheDir)
	if err != nil {
		t.Fatalf("nodes need what `cloister artifacts build` makes: %v", err)
	}
	id := make([]byte, 3)
	rand.Read(id)
	l := layout.New(t.TempDir(), t.TempDir(), hex.EncodeToString(id))
	daemon := containerd.New(l, set.Bin)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	containers, err := containerrun.New(daemon.RunOptions(self, "hook", "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := node.New(node.Options{Layout: l, Containers: containers, Executable: self, CgroupV2: node.HostHasCgroupV2()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		configs, _ := engine.List()
		for _, c := range configs { // of a test that failed half way
			if err := engine.Remove(context.Background(), c.ID); err != nil {
				t.Error(err)
			}
		}
		engine.Close()
		containers.Close()
		if err := daemon.Teardown(context.Background(), 0); err != nil {
			t.Errorf("teardown: %v", err)
		}
		if err := os.RemoveAll(l.RunDir); err != nil {
			t.Errorf("remove the run directory: %v", err)
		}
		leftovers(t, l)
	})
	if err := daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &installation{l, containers, engine, set}
}

// processes are the node's, by their names, with their uids on the host.
func processes(t *testing.T, id string) map[string]uint32 {
	t.Helper()
	found := map[string]uint32{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if !strings.Contains(string(cgroup), "/node-"+id) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			found[strings.TrimSpace(string(comm))] = st.Uid
		}
	}
	return found
}

// leftovers fails the test for every process, mount and cgroup of the installation.
func leftovers(t *testing.T, l layout.Layout) {
	t.Helper()
	status, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range status {
		data, _ := os.ReadFile(file)
		for line := range strings.Lines(string(data)) {
			var uid uint32
			if _, err := fmt.Sscanf(line, "Uid:\t%d", &uid); err == nil && uid >= base && uid < base+1<<24 {
				t.Errorf("process left: %s", data[:bytes.IndexByte(data, '\n')])
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.RunDir) || strings.Contains(line, l.DataDir) {
			t.Errorf("mount left: %s", line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + l.Cgroup(), "/sys/fs/cgroup/*" + l.Cgroup()} {
		if dirs, _ := filepath.Glob(pattern); len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
	}
}

func config(in *installation, s *surroundings, id string) node.Config {
	const name = "aks-nodepool1-12345678-vmss000000"
	return node.Config{
		ID: id, Name: name, UIDBase: base, UIDCount: 1 << 24, Rootfs: in.artifacts.NodeRootfs, Image: "1",
		MemoryBytes: 4 << 30, CPUs: 2, CA: s.authority.pem,
		Bootstrap: bootstrap.Config{
			NodeName: name, NodeAddress: nodeAddress, KubernetesVersion: "1.30.3", RegistryServer: acr + "/aks-managed-repository",
			APIServerName: apiName, ClusterCA: s.authority.pem, BootstrapToken: "abcdef.0123456789abcdef",
			Pods:    bootstrap.PodNetwork{Subnet: netip.MustParsePrefix("10.224.0.0/16"), Ranges: []ipam.Range{{First: netip.MustParseAddr("10.224.0.5"), Last: netip.MustParseAddr("10.224.0.34")}}},
			Kubelet: bootstrap.Kubelet{ClusterDNS: netip.MustParseAddr("10.0.0.10"), MaxPods: 30, Labels: map[string]string{"agentpool": "nodepool1"}},
		},
	}
}

// hostSettings are those that a kubelet or a privileged pod on an unshared machine changes.
func hostSettings(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "kernel/core_pattern", "net/ipv4/ip_forward", "kernel/keys/root_maxkeys"} {
		data, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s=%s", name, data)
	}
	return all.String()
}

// in runs a command in the node.
func (in *installation) exec(t *testing.T, id string, command ...string) (string, uint32) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status, err := in.containers.Exec(t.Context(), "node-"+id, containerrun.Process{Args: command, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatalf("exec %q in the node: %v", command, err)
	}
	if status != 0 {
		stdout.Write(stderr.Bytes())
	}
	return stdout.String(), status
}

func (in *installation) mustExec(t *testing.T, id string, command ...string) string {
	t.Helper()
	out, status := in.exec(t, id, command...)
	if status != 0 {
		t.Fatalf("%q in the node: exit status %d: %s", command, status, out)
	}
	return strings.TrimSpace(out)
}

// provisioned waits until the node has finished provisioning.
func (in *installation) provisioned(t *testing.T, id string) bootstrap.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var result bootstrap.Result
	in.engine.Watch(ctx, func(changed string, r bootstrap.Result) {
		if changed == id && r.Done {
			result = r
			cancel()
		}
	})
	if !result.Done {
		for _, name := range []string{"provision", "bootstrap", "containerd"} {
			if f, err := in.engine.Logs(id, name); err == nil {
				data, _ := io.ReadAll(f)
				t.Logf("%s:\n%s", name, data)
				f.Close()
			}
		}
		own, _ := os.ReadFile(in.layout.Log("node-" + id))
		t.Fatalf("the node has not finished provisioning; its own log:\n%s", own)
	}
	return result
}

// awaitProcess waits until the node runs a process called name.
func awaitProcess(t *testing.T, id, name string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, ok := processes(t, id)[name]; ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not run %s, only %v", name, processes(t, id))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestNode(t *testing.T) {
	in := install(t)
	s := surround(t, in, "node-n1")
	before := hostSettings(t)
	c := config(in, s, "n1")
	ctx := t.Context()

	start := time.Now()
	if err := in.engine.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	t.Logf("first process after %s", time.Since(start).Round(time.Millisecond))
	result := in.provisioned(t, "n1")
	t.Logf("provisioned after %s", time.Since(start).Round(time.Millisecond))
	if result.ExitCode != bootstrap.Success {
		t.Fatalf("exit code %d: %s\n%s", result.ExitCode, result.Error, result.Output)
	}
	events, err := in.engine.Events("n1")
	if err != nil || len(events) < 10 {
		t.Errorf("events %v: %v", events, err)
	}
	for _, e := range events {
		t.Logf("%8s %8s %s", e.Start.Sub(start).Round(time.Millisecond), e.End.Sub(e.Start).Round(time.Millisecond), e.Step)
	}

	for name, uid := range processes(t, "n1") {
		if uid < base || uid >= base+1<<24 {
			t.Errorf("%s has the host uid %d", name, uid)
		}
	}
	if out := in.mustExec(t, "n1", "ctr", "-n", "k8s.io", "images", "ls", "-q"); out != "mcr.microsoft.com/oss/kubernetes/pause:3.6" {
		t.Errorf("images in the node: %q", out)
	}
	want := "vsock: address family not supported by protocol\nio_uring: operation not permitted\nmknod: operation not permitted\nfuse: <nil>"
	if out := in.mustExec(t, "n1", "/opt/cloister/bin/cloister", "probe"); out != want {
		t.Errorf("probe in the node:\n%s\nwant\n%s", out, want)
	}
	for path, want := range map[string]string{
		"/proc/meminfo": "MemTotal:        4194304 kB\n", "/etc/hostname": c.Name + "\n", "/etc/resolv.conf": "nameserver 168.63.129.16\n",
		"/sys/devices/system/cpu/online": "0-1\n", "/etc/ssl/certs/ca-certificates.crt": c.CA,
	} {
		if out := in.mustExec(t, "n1", "cat", path); !strings.Contains(out+"\n", want) {
			t.Errorf("%s does not hold %q", path, want)
		}
	}

	limit := in.mustExec(t, "n1", "sh", "-c", "grep 'open files' /proc/1/limits")
	if fields := strings.Fields(limit); len(fields) < 5 || fields[3] != fields[4] {
		t.Errorf("the node's limit is below what it may have: %s", limit)
	}

	// Set again: nothing happens.
	pid := in.pid(t, "n1")
	if err := in.engine.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if again := in.pid(t, "n1"); again != pid {
		t.Error("the same config again made the node start again")
	}

	// A node whose first process dies starts again, with its disk, and does not provision itself again.
	in.mustExec(t, "n1", "sh", "-c", "echo kept > /etc/kept; echo kept > /var/kept")
	asked := s.requests()
	if err := in.containers.Kill(ctx, "node-n1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); in.pid(t, "n1") == pid || in.pid(t, "n1") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the node does not start again")
		}
		time.Sleep(50 * time.Millisecond)
	}
	awaitProcess(t, "n1", "kubelet")
	if out := in.mustExec(t, "n1", "cat", "/etc/kept", "/var/kept"); out != "kept\nkept" {
		t.Errorf("after the restart the disk holds %q", out)
	}
	if s.requests() != asked {
		t.Error("a restarted node asked the registry again")
	}

	// A reimage starts from an empty disk.
	c.Image = "2"
	if err := in.engine.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if result := in.provisioned(t, "n1"); result.ExitCode != bootstrap.Success {
		t.Fatalf("reimage: exit code %d: %s", result.ExitCode, result.Error)
	}
	if out, status := in.exec(t, "n1", "ls", "/etc/kept", "/var/kept"); status == 0 {
		t.Errorf("after the reimage there is still %s", out)
	}
	if s.requests() == asked {
		t.Error("a reimaged node did not ask the registry")
	}

	if after := hostSettings(t); after != before {
		t.Errorf("the node changed the host:\nbefore %s\nafter %s", before, after)
	}
	start = time.Now()
	for range 2 { // the second time there is none
		if err := in.engine.Remove(ctx, "n1"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("removed after %s", time.Since(start).Round(time.Millisecond))
	if left := processes(t, "n1"); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	for _, path := range []string{in.layout.Node("n1"), filepath.Join(in.layout.RunDir, "nodes", "n1")} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func (in *installation) pid(t *testing.T, id string) int {
	t.Helper()
	status, err := in.containers.Status(t.Context(), "node-"+id)
	if err != nil {
		t.Fatal(err)
	}
	return status.PID
}

// TestAttempt provisions a node whose API server has no record, then again with one.
func TestAttempt(t *testing.T) {
	in := install(t)
	s := surround(t, in, "node-n2")
	c := config(in, s, "n2")
	s.mu.Lock()
	delete(s.records, apiName)
	s.mu.Unlock()
	if err := in.engine.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.engine.Remove(context.WithoutCancel(t.Context()), "n2"); err != nil {
			t.Error(err)
		}
	}()
	if result := in.provisioned(t, "n2"); result.ExitCode != bootstrap.APIServerAzureDNSLookup {
		t.Fatalf("exit code %d: %s", result.ExitCode, result.Error)
	}
	// The failed machine stays, to be looked at.
	awaitProcess(t, "n2", "containerd")
	s.mu.Lock()
	s.records[apiName] = apiAddress
	s.mu.Unlock()
	c.Attempt = 1
	if err := in.engine.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if result := in.provisioned(t, "n2"); result.ExitCode != bootstrap.Success {
		t.Fatalf("second attempt: exit code %d: %s", result.ExitCode, result.Error)
	}
}
