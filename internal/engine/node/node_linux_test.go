package node_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// TestMain lets the test binary stand for the program that is bound into nodes.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == node.InitCommand:
		fmt.Fprintln(os.Stderr, node.Init())
		os.Exit(1)
	case len(os.Args) == 2 && os.Args[1] == node.BootstrapCommand:
		os.Exit(int(bootstrap.Main(context.Background(), node.ConfigDir)))
	case len(os.Args) == 3 && os.Args[1] == "hook":
		if err := containerrun.CgroupHook(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
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

// authority signs certificates of the test's services.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a *authority) serving(t *testing.T, dnsName string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: dnsName}, DNSNames: []string{dnsName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// surroundings are the services that a node meets, inside its network namespace.
type surroundings struct {
	authority *authority

	mu      sync.Mutex
	records map[string]netip.Addr
	pulled  []string
}

// surround is surroundWithoutAPI and an API server that only answers.
func surround(t *testing.T, in *installation, guest string) *surroundings {
	t.Helper()
	s := surroundWithoutAPI(t, in, guest)
	s.serve(t, in.layout.NetNS(guest), netip.AddrPortFrom(apiAddress, 443), s.authority.serving(t, apiName), http.NotFoundHandler())
	return s
}

// surroundWithoutAPI makes the node's namespaces, with the addresses of its services on the loopback.
func surroundWithoutAPI(t *testing.T, in *installation, guest string) *surroundings {
	t.Helper()
	user, network := in.layout.UserNS(guest), in.layout.NetNS(guest)
	if err := userns.Create(user, network, userns.Map{Base: base, Count: 1 << 24}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := userns.Delete(user, network); err != nil {
			t.Error(err)
		}
	})
	err := netns.Do(network, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{imdsAddress, dnsAddress, registryAddress, apiAddress, nodeAddress} {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &surroundings{authority: newAuthority(t), records: map[string]netip.Addr{acr: registryAddress, apiName: apiAddress}}

	packets, err := netns.ListenPacket(network, "udp", netip.AddrPortFrom(dnsAddress, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	resolver := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(s.resolve)}
	go resolver.ActivateAndServe()
	t.Cleanup(func() { resolver.Shutdown() })

	s.serve(t, network, netip.AddrPortFrom(imdsAddress, 80), nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"compute":{"name":"vmss000000"}}`)
	}))
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	fill(t, images, in.artifacts.MCR)
	s.serve(t, network, netip.AddrPortFrom(registryAddress, 443), s.authority.serving(t, acr), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.pulled = append(s.pulled, r.URL.Path)
		s.mu.Unlock()
		images.ServeHTTP(w, r)
	}))
	return s
}

func (s *surroundings) serve(t *testing.T, network string, address netip.AddrPort, config *tls.Config, h http.Handler) {
	t.Helper()
	l, err := netns.Listen(network, "tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func (s *surroundings) resolve(w dns.ResponseWriter, q *dns.Msg) {
	answer := new(dns.Msg).SetReply(q)
	s.mu.Lock()
	address, ok := s.records[strings.TrimSuffix(q.Question[0].Name, ".")]
	s.mu.Unlock()
	if !ok {
		answer.Rcode = dns.RcodeNameError
	} else if q.Question[0].Qtype == dns.TypeA {
		answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 10}, A: address.AsSlice()}}
	}
	w.WriteMsg(answer)
}

// fill pushes what the node needs of MCR into the registry, below the prefix of a cache rule.
func fill(t *testing.T, h http.Handler, mcr string) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	index, err := ocilayout.ImageIndexFromPath(mcr)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		refName := m.Annotations["org.opencontainers.image.ref.name"]
		if !strings.HasPrefix(refName, "oss/binaries/") && refName != "oss/kubernetes/pause:3.6" && !strings.HasPrefix(refName, "cbl-mariner/busybox:") {
			continue
		}
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/aks-managed-repository/" + refName)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
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
			Pods:    bootstrap.PodNetwork{Subnet: netip.MustParsePrefix("10.224.0.0/16"), First: netip.MustParseAddr("10.224.0.5"), Last: netip.MustParseAddr("10.224.0.34")},
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

func TestNode(t *testing.T) {
	in := install(t)
	s := surround(t, in, "node-n1")
	before := hostSettings(t)
	c := config(in, s, "n1")

	start := time.Now()
	if err := in.engine.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Logf("first process after %s", time.Since(start).Round(time.Millisecond))
	result := in.provisioned(t, "n1")
	t.Logf("provisioned after %s", time.Since(start).Round(time.Millisecond))
	events, err := in.engine.Events("n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		t.Logf("%8s %8s %s", e.Start.Sub(start).Round(time.Millisecond), e.End.Sub(e.Start).Round(time.Millisecond), e.Step)
	}
	if result.ExitCode != bootstrap.Success {
		t.Fatalf("exit code %d: %s\n%s", result.ExitCode, result.Error, result.Output)
	}
	t.Log(in.mustExec(t, "n1", "ps", "-ef"))
	t.Log(in.mustExec(t, "n1", "ctr", "-n", "k8s.io", "images", "ls"))
	if after := hostSettings(t); after != before {
		t.Errorf("the node changed the host:\nbefore %s\nafter %s", before, after)
	}
	if err := in.engine.Remove(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
}
