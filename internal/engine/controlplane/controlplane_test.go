package controlplane

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/pki"
	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// machine is a scratch installation with its private containerd.
type machine struct {
	l          layout.Layout
	bin        string
	kubernetes string
	daemon     *containerd.Daemon
	containers *containerrun.Client
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a control plane needs root: run the tests as root")
	}
	set, err := artifacts.Locate(layout.DefaultCacheDir)
	if err != nil {
		t.Fatalf("no artifacts: run `cloister artifacts build`: %v", err)
	}
	id := make([]byte, 3)
	rand.Read(id)
	l := layout.New(t.TempDir(), layout.DefaultCacheDir, hex.EncodeToString(id))
	d := containerd.New(l, set.Bin)
	c, err := containerrun.New(d.RunOptions())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{l: l, bin: set.Bin, kubernetes: set.Kubernetes, daemon: d, containers: c}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(filepath.Dir(l.Log("x")), "*.log"))
			for _, path := range logs {
				data, _ := os.ReadFile(path)
				if len(data) > 6000 {
					data = data[len(data)-6000:]
				}
				t.Logf("%s:\n%s", filepath.Base(path), data)
			}
		}
		c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Teardown(ctx, 0); err != nil {
			t.Errorf("teardown: %v", err)
		}
		if err := os.RemoveAll(l.RunDir); err != nil {
			t.Errorf("run directory: %v", err)
		}
		leftovers(t, l)
	})
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// leaf makes the network namespace that the fabric makes in an installation.
func (m *machine) leaf(t *testing.T, c Config) {
	t.Helper()
	path := m.l.NetNS("cp-" + c.ID)
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	if err := netns.Do(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(c.ServiceAddress.String() + "/32")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr))
	}); err != nil {
		t.Fatal(err)
	}
}

// leftovers fails the test for every process, mount and cgroup that names the installation.
func leftovers(t *testing.T, l layout.Layout) {
	t.Helper()
	marks := []string{l.RunDir, l.DataDir}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		mounts, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "mountinfo"))
		for _, mark := range marks {
			if bytes.Contains(line, []byte(mark)) || bytes.Contains(mounts, []byte(mark)) {
				t.Errorf("process or mount left: %s %q", p, line)
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + l.Cgroup(), "/sys/fs/cgroup/*" + l.Cgroup()} {
		if dirs, _ := filepath.Glob(pattern); len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
	}
}

func testConfig() Config {
	return Config{
		ID:              "t1",
		ServiceAddress:  netip.MustParseAddr("240.0.0.9"),
		EndpointAddress: netip.MustParseAddr("10.224.0.4"),
		FQDN:            "demo-dns-12345678.hcp.eastus.azmk8s.io",
		PrivateFQDN:     "demo-dns-12345678.1111.privatelink.eastus.azmk8s.io",
		ServiceCIDR:     netip.MustParsePrefix("10.0.0.0/16"),
		DNSServiceIP:    netip.MustParseAddr("10.0.0.10"),
		PodCIDRs:        []netip.Prefix{netip.MustParsePrefix("10.224.0.0/12")},
		Nodes:           1,
	}
}

func clientset(t *testing.T, e *Engine, id string) *kubernetes.Clientset {
	t.Helper()
	config, err := e.Client(id)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestControlPlane(t *testing.T) {
	m := newMachine(t)
	c := testConfig()
	m.leaf(t, c)
	e := New(m.l, m.bin, m.kubernetes, m.containers)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	begin := time.Now()
	step := func(what string) { t.Logf("%6.2fs %s", time.Since(begin).Seconds(), what) }
	if err := e.Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	step("containers started")
	readyz := make(chan error, 1)
	go func() {
		err := e.WaitReady(ctx, c.ID)
		step("readyz")
		readyz <- err
	}()
	if err := e.Apply(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	step("add-ons applied, controllers started")
	if err := <-readyz; err != nil {
		t.Fatal(err)
	}
	client := clientset(t, e, c.ID)
	// Who may join is said last: from here on a kubelet gets its certificate at once.
	if _, err := client.CoreV1().ConfigMaps("kube-system").Get(ctx, rootCA, meta.GetOptions{}); err != nil {
		t.Errorf("nodes may join, and no controller works: %v", err)
	}
	if deployments, err := client.AppsV1().Deployments("").List(ctx, meta.ListOptions{}); err != nil || len(deployments.Items) > 0 {
		t.Errorf("%d deployments are there before a node is, %v", len(deployments.Items), err)
	}
	if err := e.ApplyWorkloads(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, "the controllers' and the scheduler's work on CoreDNS", func() error {
		pods, err := client.CoreV1().Pods("kube-system").List(ctx, meta.ListOptions{LabelSelector: "k8s-app=kube-dns"})
		if err != nil || len(pods.Items) != 1 {
			return fmt.Errorf("%d pods, %v", len(pods.Items), err)
		}
		for _, condition := range pods.Items[0].Status.Conditions {
			if condition.Type == core.PodScheduled && condition.Reason == core.PodReasonUnschedulable {
				return nil // there is no node
			}
		}
		return errors.New("the scheduler has not seen the pod")
	})
	step("scheduler has looked at CoreDNS's pod")

	before := pids(t, m)
	if err := e.Set(ctx, c); err != nil {
		t.Fatalf("Set of what is: %v", err)
	}
	step("set again")
	if after := pids(t, m); after != before {
		t.Errorf("Set of what is restarted containers: %v, then %v", before, after)
	}

	t.Run("SecretsAreEncrypted", func(t *testing.T) { testEncryption(t, ctx, m, e, client, c) })
	t.Run("AuditLog", func(t *testing.T) { testAudit(t, ctx, e, client, c) })
	t.Run("Endpoint", func(t *testing.T) { testEndpoint(t, ctx, e, client, c) })
	t.Run("Rights", func(t *testing.T) { testRights(t, ctx, e, c) })
	t.Run("DefaultRoles", func(t *testing.T) { testDefaultRoles(t, ctx, m, e, c) })
	t.Run("RestartMonitorHeals", func(t *testing.T) { testHealing(t, ctx, m, e, c) })
	t.Run("AnotherName", func(t *testing.T) { testAnotherName(t, ctx, m, e, c) })
	t.Run("NodesAreWatchedDrainedDeleted", func(t *testing.T) { testNodes(t, ctx, e, client, c) })
	t.Run("Upgrade", func(t *testing.T) { testUpgrade(t, ctx, m, e, c) })
	c.KubernetesVersion = "1.31.0"
	t.Run("StopAndStart", func(t *testing.T) { testStop(t, ctx, m, e, c) })
	t.Run("Reboot", func(t *testing.T) { testReboot(t, ctx, m, e, c) })
	t.Run("Memory", func(t *testing.T) { testMemory(t, m) })

	begin = time.Now()
	if err := e.Remove(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	step("removed")
	if err := e.Remove(ctx, c.ID); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
	left, err := m.containers.List(ctx, nil)
	if err != nil || len(left) != 0 {
		t.Errorf("containers left: %v, %v", left, err)
	}
	for _, path := range []string{m.l.Cluster(c.ID), m.l.Tunnel(c.ID), m.l.Log(containerID(c.ID, etcd))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, p := range procs {
		if data, _ := os.ReadFile(p); bytes.Contains(data, []byte(m.l.Cluster(c.ID))) {
			t.Errorf("%s still sees the cluster's directory", p)
		}
	}
	if _, err := e.Client(c.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("client of a removed cluster: %v", err)
	}
}

func waitFor(t *testing.T, ctx context.Context, what string, try func() error) {
	t.Helper()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

func pids(t *testing.T, m *machine) string {
	t.Helper()
	all, err := m.containers.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range all {
		if !s.Running {
			t.Errorf("%s does not run", s.ID)
		}
		out[s.ID] = s.PID
	}
	return fmt.Sprint(out)
}

func testEncryption(t *testing.T, ctx context.Context, m *machine, e *Engine, client *kubernetes.Clientset, c Config) {
	if _, err := client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: "shop"}}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const plain = "the-very-secret-value"
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "password"}, StringData: map[string]string{"key": plain}}
	if _, err := client.CoreV1().Secrets("shop").Create(ctx, secret, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Secrets("shop").Get(ctx, "password", meta.GetOptions{})
	if err != nil || string(got.Data["key"]) != plain {
		t.Fatalf("read back %q, %v", got.Data["key"], err)
	}
	stored := etcdctl(t, m, e, c, "get", "/registry/secrets/shop/password", "--print-value-only")
	if !bytes.HasPrefix(stored, []byte("k8s:enc:secretbox:v1:key1:")) || bytes.Contains(stored, []byte(plain)) {
		t.Errorf("etcd holds %.60q", stored)
	}
	// The probe itself must be able to see a plain value.
	if namespace := etcdctl(t, m, e, c, "get", "/registry/namespaces/shop", "--print-value-only"); !bytes.Contains(namespace, []byte("shop")) {
		t.Errorf("etcd holds for the namespace %.60q", namespace)
	}
}

func etcdctl(t *testing.T, m *machine, e *Engine, c Config, args ...string) []byte {
	t.Helper()
	dir := e.path(c.ID, apiserver)
	args = append([]string{"--net=" + m.l.NetNS("cp-"+c.ID), filepath.Join(m.bin, "etcdctl"), "--endpoints=https://127.0.0.1:2379",
		"--cacert=" + dir + "/etcd-ca.crt", "--cert=" + dir + "/etcd-client.crt", "--key=" + dir + "/etcd-client.key"}, args...)
	cmd := exec.Command("nsenter", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("etcdctl: %v: %s", err, &stderr)
	}
	return out
}

func testAudit(t *testing.T, ctx context.Context, e *Engine, client *kubernetes.Clientset, c Config) {
	waitFor(t, ctx, "the audit log to name the secret", func() error {
		data, err := os.ReadFile(e.AuditLog(c.ID))
		if err != nil {
			return err
		}
		if !bytes.Contains(data, []byte(`"resource":"secrets","namespace":"shop","name":"password"`)) {
			return errors.New("not there")
		}
		if bytes.Contains(data, []byte("the-very-secret-value")) {
			t.Error("the audit log holds a secret's value")
		}
		return nil
	})
}

// testEndpoint checks what the VNet sees: the endpoint's address, and names and addresses of the certificate.
func testEndpoint(t *testing.T, ctx context.Context, e *Engine, client *kubernetes.Clientset, c Config) {
	endpoints, err := client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", meta.GetOptions{})
	if err != nil || len(endpoints.Subsets) != 1 || endpoints.Subsets[0].Addresses[0].IP != "10.224.0.4" || endpoints.Subsets[0].Ports[0].Port != 443 {
		t.Errorf("endpoints of the Service kubernetes: %+v, %v", endpoints, err)
	}
	service, err := client.CoreV1().Services("kube-system").Get(ctx, "kube-dns", meta.GetOptions{})
	if err != nil || service.Spec.ClusterIP != "10.0.0.10" {
		t.Errorf("kube-dns: %v, %v", service.Spec.ClusterIP, err)
	}
	for _, name := range []string{c.FQDN, c.PrivateFQDN, "kubernetes.default.svc", "10.0.0.1", "10.224.0.4", "240.0.0.9"} {
		if err := version(ctx, e, c, name); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if err := version(ctx, e, c, "other.example"); err == nil {
		t.Error("the certificate is good for any name")
	}
}

// version asks for /version of the API server under a name.
func version(ctx context.Context, e *Engine, c Config, name string) error {
	kubeconfig, err := e.AdminKubeconfig(c.ID, "https://"+name+":443", Names{Cluster: "demo", User: "clusterAdmin_rg_demo", Context: "demo-admin"})
	if err != nil {
		return err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return err
	}
	return versionWith(ctx, e, c, config)
}

func versionWith(ctx context.Context, e *Engine, c Config, config *rest.Config) error {
	own, err := e.Client(c.ID)
	if err != nil {
		return err
	}
	config.Dial = own.Dial
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	info, err := client.Discovery().ServerVersion()
	if err == nil && info.GitVersion != "v1.30.3" {
		err = fmt.Errorf("version %s", info.GitVersion)
	}
	return err
}

// testRights checks that each client may do what it is for, and no more.
func testRights(t *testing.T, ctx context.Context, e *Engine, c Config) {
	own, err := e.Client(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := &rest.Config{Host: own.Host, Dial: own.Dial, TLSClientConfig: rest.TLSClientConfig{CAData: own.CAData}}
	if err := versionWith(ctx, e, c, anonymous); !apierrors.IsUnauthorized(err) {
		t.Errorf("without credentials: %v", err)
	}

	token, err := e.BootstrapToken(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	joining := rest.CopyConfig(anonymous)
	joining.BearerToken = token
	kubelet, err := kubernetes.NewForConfig(joining)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kubelet.CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{}); err != nil && !apierrors.IsForbidden(err) {
		t.Errorf("the bootstrap token is not taken: %v", err)
	}
	if _, err := kubelet.CoreV1().Secrets("kube-system").List(ctx, meta.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the bootstrap token reads secrets: %v", err)
	}

	config, err := clientcmd.BuildConfigFromFlags("", e.ApproverKubeconfig(c.ID))
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = own.Dial
	approver, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := approver.CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{}); err != nil {
		t.Errorf("the approver cannot see requests: %v", err)
	}
	if _, err := approver.CoreV1().Secrets("shop").List(ctx, meta.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the approver reads secrets: %v", err)
	}
}

func testHealing(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	begin := time.Now()
	restartAPIServer(t, ctx, m, e, c)
	t.Logf("ready %v after kill -9 of kube-apiserver", time.Since(begin).Round(10*time.Millisecond))
	secret, err := clientset(t, e, c.ID).CoreV1().Secrets("shop").Get(ctx, "password", meta.GetOptions{})
	if err != nil || len(secret.Data) != 1 {
		t.Errorf("the secret afterwards: %v", err)
	}
}

// testAnotherName adds a name to the certificate, which the running API server takes up.
func testAnotherName(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	before := pids(t, m)
	c.Names = []string{"other.example"}
	if err := e.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if after := pids(t, m); after != before {
		t.Errorf("a name in the certificate restarted containers: %v, then %v", before, after)
	}
	begin := time.Now()
	waitFor(t, ctx, "the new certificate", func() error { return version(ctx, e, c, "other.example") })
	t.Logf("the new certificate is served after %v", time.Since(begin).Round(10*time.Millisecond))
}

// testMemory prints the proportional set size of everything the control plane is.
func testMemory(t *testing.T, m *machine) {
	time.Sleep(5 * time.Second) // at rest
	all, err := m.containers.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, s := range all {
		own, parent := pss(t, s.PID), parent(t, s.PID)
		shim := pss(t, parent)
		t.Logf("%-30s %4d MB, its shim %3d MB", s.ID, own>>10, shim>>10)
		sum += own + shim
	}
	if pid, err := m.daemon.PID(); err == nil && pid != 0 {
		t.Logf("%-30s %4d MB (shared by all clusters)", "containerd", pss(t, pid)>>10)
	}
	t.Logf("%-30s %4d MB", "control plane", sum>>10)
	if sum>>10 > 620 {
		t.Errorf("the control plane takes %d MB, more than 620", sum>>10)
	}
}

// pss is in KiB.
func pss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
			kb, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatalf("no Pss of process %d", pid)
	return 0
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

func TestConfigIsChecked(t *testing.T) {
	if err := testConfig().validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"ID":              func(c *Config) { c.ID = "../x" },
		"EndpointAddress": func(c *Config) { c.EndpointAddress = netip.Addr{} },
		"ServiceCIDR":     func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.0.0.1/16") },
		"DNSServiceIP":    func(c *Config) { c.DNSServiceIP = netip.MustParseAddr("10.0.0.1") },
		"FQDN":            func(c *Config) { c.FQDN, c.PrivateFQDN = "", "" },
	} {
		c := testConfig()
		change(&c)
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
}

// With an interface in the VNet there is no tunnel, and the address is what clients there use.
func TestDirect(t *testing.T) {
	c := testConfig()
	c.ServiceAddress = netip.Addr{}
	if err := c.validate(); err == nil || !strings.Contains(err.Error(), "ServiceAddress") {
		t.Errorf("neither an interface nor an address for endpoints: %v", err)
	}
	c.Direct, c.Addresses = true, []netip.Addr{netip.MustParseAddr("198.18.16.1")}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.egress(), "HTTPConnect") || !strings.Contains(testConfig().egress(), "HTTPConnect") {
		t.Errorf("the egress is\n%s", c.egress())
	}
	if c.serverURL() != "https://10.224.0.4:443" {
		t.Errorf("clients in the VNet use %s", c.serverURL())
	}
	var got []string
	for _, a := range c.addresses(netip.MustParseAddr("127.0.0.1")) {
		got = append(got, a.String())
	}
	if s := strings.Join(got, " "); s != "10.0.0.1 10.224.0.4 198.18.16.1 127.0.0.1" {
		t.Errorf("the certificate is for %s", s)
	}
}

// TestManifestsRender checks that every manifest is whole and of a kind that can be applied.
func TestManifestsRender(t *testing.T) {
	c := testConfig()
	e := New(layout.New(t.TempDir(), t.TempDir(), "abcdef"), "/nowhere", "/nowhere", nil)
	c = e.withDefaults(c)
	c.Nodes = 3
	if err := e.writeFiles(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(e.l.RunDir) })
	v, err := e.values(c)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := render(v)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range objects {
		k, known := kinds[o.GetKind()]
		if !known || o.GetName() == "" || k.clustered == (o.GetNamespace() == "kube-system") {
			t.Errorf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
		}
		seen[o.GetKind()+"/"+o.GetName()] = true
	}
	for _, want := range []string{"Deployment/coredns", "Service/kube-dns", "DaemonSet/kube-proxy", "Deployment/metrics-server", "APIService/v1beta1.metrics.k8s.io"} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
	// A second write keeps every key: clients in the VNet hold certificates of the first.
	token, _ := e.BootstrapToken(c.ID)
	before, _ := pki.Load(e.path(c.ID, "pki"), "ca")
	if err := e.writeFiles(c); err != nil {
		t.Fatal(err)
	}
	after, _ := pki.Load(e.path(c.ID, "pki"), "ca")
	if again, _ := e.BootstrapToken(c.ID); again != token || len(token) != 23 || !bytes.Equal(before.CertPEM, after.CertPEM) {
		t.Errorf("token %q, then %q; or the authority changed", token, again)
	}
}
