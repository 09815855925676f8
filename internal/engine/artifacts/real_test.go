package artifacts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// realSet builds the real artifacts into the machine's shared cache, which takes no time when they are there.
// They need root, as the cluster that is made of them does.
func realSet(t *testing.T) Set {
	t.Helper()
	cacheDir := os.Getenv("CLOISTER_CACHE_DIR")
	if cacheDir == "" {
		cacheDir = "/var/cache/cloister"
	}
	set, err := Build(t.Context(), Options{CacheDir: cacheDir, Source: os.DirFS(sourceDir)})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestProgramsAreWhatTheySay(t *testing.T) {
	set := realSet(t)
	for _, tc := range []struct{ program, args, want string }{
		{"kube-apiserver", "--version", "Kubernetes v1.30.3"},
		{"kube-controller-manager", "--version", "Kubernetes v1.30.3"},
		{"kube-scheduler", "--version", "Kubernetes v1.30.3"},
		{"kubectl", "version --client -o json", `"gitCommit": "6fc0a69044f1ac4c13841ec4391224a2df241460"`},
		{"containerd", "--version", "v2.1.5"},
		{"containerd-shim-runc-v2", "-v", "v2.1.5"},
		{"ctr", "--version", "v2.1.5"},
		{"runc", "--version", "libseccomp:"}, // without it kubelet's default profile fails
		{"etcd", "--version", "etcd Version: 3.5."},
		{"etcdctl", "version", "etcdctl version: 3.5."},
		{"oras", "version", "1.3.3"},
		{"crane", "version", "v0.22.1"},
	} {
		path := filepath.Join(set.Bin, tc.program)
		if got := output(t, path, strings.Fields(tc.args)...); !strings.Contains(got, tc.want) {
			t.Errorf("%s %s says %q, want %q", tc.program, tc.args, got, tc.want)
		}
		if needed, err := libraries(path); err != nil || len(needed) > 0 {
			t.Errorf("%s is not static: %v, %v", tc.program, needed, err)
		}
	}
}

func TestNodeRootFileSystem(t *testing.T) {
	root := realSet(t).NodeRootfs
	for _, command := range []string{
		"s6-svscan", "s6-supervise", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "oras", "iptables",
		"ip6tables", "iptables-restore", "nft", "ip", "conntrack", "mount", "umount", "losetup", "nsenter", "curl", "nc",
		"nslookup", "dig", "jq", "tar", "ps", "sysctl", "ethtool", "socat", "ebtables", "modprobe", "update-ca-certificates",
	} {
		out, err := exec.CommandContext(t.Context(), "chroot", root, "sh", "-c", "command -v "+command).CombinedOutput()
		if err != nil {
			t.Errorf("no %s: %v %s", command, err, out)
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "ptp"} {
		if info, err := os.Stat(filepath.Join(root, "opt/cni/bin", plugin)); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("CNI plugin %s: %v", plugin, err)
		}
	}
	// These come through the registry's cache, or the node would prove nothing.
	for _, absent := range []string{"usr/bin/kubelet", "usr/local/bin/kubelet", "opt/bin/kubelet", "usr/bin/kube-proxy"} {
		if _, err := os.Stat(filepath.Join(root, absent)); err == nil {
			t.Errorf("%s is baked in", absent)
		}
	}
	if list, err := os.ReadFile(filepath.Join(root, "etc/apt/sources.list")); err != nil || len(list) > 0 {
		t.Errorf("this machine's mirror is in the image: %s, %v", list, err)
	}
	var size int64
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		size += st.Blocks * 512
		if st.Uid != 0 {
			t.Errorf("%s belongs to user %d", path, st.Uid)
		}
		if info.Mode()&(fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe) != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if size > 300<<20 {
		t.Errorf("%d MiB, want at most 300", size>>20)
	}
}

// referenced returns the layout's manifests by reference.
func referenced(t *testing.T, dir string) map[string]ggcr.Descriptor {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	refs := map[string]ggcr.Descriptor{}
	for _, d := range m.Manifests {
		refs[d.Annotations[v1.AnnotationRefName]] = d
	}
	return refs
}

func TestLayoutServesEveryReference(t *testing.T) {
	dir := realSet(t).MCR
	v, err := readVersions(os.DirFS(sourceDir))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, i := range v.MCR.Images {
		want = append(want, i.Reference)
	}
	for _, a := range v.MCR.Artifacts {
		want = append(want, strings.ReplaceAll(a.Reference, "{arch}", arch()))
	}
	refs := referenced(t, dir)
	if len(refs) != len(want) {
		t.Errorf("%d references, want %d", len(refs), len(want))
	}
	used := map[string]bool{}
	for _, reference := range want {
		d, ok := refs[reference]
		if !ok {
			t.Errorf("no %s", reference)
			continue
		}
		image, err := layout.Path(dir).Image(d.Digest)
		if err != nil {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		m, err := image.Manifest()
		if err != nil {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		used[d.Digest.Hex] = true
		for _, blob := range append([]ggcr.Descriptor{m.Config}, m.Layers...) {
			used[blob.Digest.Hex] = true
			sum, err := fileDigest(filepath.Join(dir, "blobs/sha256", blob.Digest.Hex))
			if err != nil || sum != blob.Digest.Hex {
				t.Errorf("%s: blob %s has digest %s, %v", reference, blob.Digest, sum, err)
			}
		}
		if m.Config.MediaType == v1.MediaTypeImageConfig {
			if err := validate.Image(image); err != nil {
				t.Errorf("%s: %v", reference, err)
			}
		}
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if !used[b.Name()] {
			t.Errorf("blob %s belongs to nothing", b.Name())
		}
	}
}

// unpack extracts an image of the layout, as a container runtime would.
func unpack(t *testing.T, mcr, reference string) (root string, config ggcr.Config) {
	t.Helper()
	image, err := layout.Path(mcr).Image(referenced(t, mcr)[reference].Digest)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root = t.TempDir()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "tar", "-x", "-C", root)
		cmd.Stdin = r
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v: %s", reference, err, out)
		}
		r.Close()
	}
	return root, file.Config
}

func TestImagesRun(t *testing.T) {
	mcr := realSet(t).MCR
	for _, tc := range []struct {
		reference string
		command   []string
		want      string
	}{
		{"oss/kubernetes/pause:3.6", []string{"/pause", "-v"}, "pause.c v3.6"},
		{"oss/kubernetes/pause:3.9", []string{"/pause", "-v"}, "pause.c v3.9"},
		{"oss/kubernetes/coredns:v1.11.3", []string{"/coredns", "-version"}, "CoreDNS-1.11.3"},
		{"oss/kubernetes/metrics-server:v0.7.2", []string{"/metrics-server", "--version"}, "v0.7.2"},
		{"oss/kubernetes/kube-proxy:v1.30.3", []string{"/usr/local/bin/kube-proxy", "--version"}, "Kubernetes v1.30.3"},
		{"oss/kubernetes/kube-proxy:v1.30.3", []string{"iptables", "-m", "comment", "-m", "statistic", "-m", "conntrack", "-j", "DNAT", "--help"}, "DNAT target options"},
		{"oss/kubernetes/kube-proxy:v1.30.3", []string{"ip6tables-restore", "--version"}, "nf_tables"},
		{"oss/kubernetes/kube-proxy:v1.30.3", []string{"conntrack", "--version"}, "conntrack v"},
		{"oss/kubernetes/kube-proxy:v1.30.3", []string{"nft", "--version"}, "nftables v"},
		{"cbl-mariner/busybox:2.0", []string{"curl", "--version"}, "libcurl"},
		{"cbl-mariner/busybox:2.0", []string{"sh", "-c", "nc -h 2>&1 | grep -q OpenBSD || echo no openbsd nc; for a in nc ping ping6 wget nslookup traceroute; do test -x /bin/$a || echo no $a; done; echo ok"}, "ok"},
	} {
		root, _ := unpack(t, mcr, tc.reference)
		if got := output(t, "chroot", append([]string{root}, tc.command...)...); !strings.Contains(got, tc.want) || strings.HasPrefix(got, "no ") {
			t.Errorf("%s: %v says %q, want %q", tc.reference, tc.command, got, tc.want)
		}
	}
}

func TestDemoServesItsTitle(t *testing.T) {
	root, config := unpack(t, realSet(t).MCR, "azuredocs/aks-helloworld:v1")
	ns := newNetNS(t)
	cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + ns, "chroot", root}, config.Entrypoint...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TITLE=Fish & <Chips>"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	page := output(t, "nsenter", "--net="+ns, "curl", "-sS", "--retry", "30", "--retry-connrefused", "--retry-delay", "0", "--retry-max-time", "10", "http://127.0.0.1/")
	if !strings.Contains(page, "<h1>Fish &amp; &lt;Chips></h1>") {
		t.Errorf("page %q", page)
	}
}

// newNetNS makes a network namespace with the addresses on its loopback.
func newNetNS(t *testing.T, addresses ...string) string {
	t.Helper()
	ns := filepath.Join(t.TempDir(), "net")
	if err := netns.Create(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			t.Error(err)
		}
	})
	output(t, "nsenter", "--net="+ns, "ip", "link", "set", "lo", "up")
	for _, a := range addresses {
		output(t, "nsenter", "--net="+ns, "ip", "address", "add", a, "dev", "lo")
	}
	return ns
}

func TestOrasPullsNodeBinaries(t *testing.T) {
	set := realSet(t)
	for reference, want := range map[string]struct {
		title string
		files []string
	}{
		"oss/binaries/kubernetes/kubernetes-node:v1.30.3-linux-" + arch(): {
			"kubernetes-node-linux-" + arch() + ".tar.gz", []string{"kubernetes/node/bin/kubectl", "kubernetes/node/bin/kubelet"}},
		"oss/binaries/kubernetes/azure-acr-credential-provider:v1.32.3-linux-" + arch(): {
			"azure-acr-credential-provider-linux-" + arch() + "-v1.32.3.tar.gz", []string{"azure-acr-credential-provider"}},
	} {
		dir := t.TempDir()
		output(t, filepath.Join(set.Bin, "oras"), "pull", "--oci-layout", "-o", dir, set.MCR+"@"+referenced(t, set.MCR)[reference].Digest.String())
		f, err := os.Open(filepath.Join(dir, want.title))
		if err != nil {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeReg {
				files = append(files, h.Name)
			}
		}
		if !slices.Equal(files, want.files) {
			t.Errorf("%s holds %v, want %v", reference, files, want.files)
		}
		if !strings.Contains(reference, "kubernetes-node") {
			continue
		}
		output(t, "tar", "-xzf", f.Name(), "-C", dir)
		if got := output(t, filepath.Join(dir, "kubernetes/node/bin/kubelet"), "--version"); strings.TrimSpace(got) != "Kubernetes v1.30.3" {
			t.Errorf("kubelet says %q", got)
		}
	}
}

// The kubelet asks the provider for an image of mcr.microsoft.com; it must get the credentials of the mirror, whose name
// and certificate only this node knows.
func TestCredentialProviderFollowsTheRegistryMirror(t *testing.T) {
	set := realSet(t)
	ns := newNetNS(t, "169.254.169.254/32")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const registry = "hidden.azurecr.io"
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: registry}, DNSNames: []string{registry},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))

	var mu sync.Mutex
	var asked []string
	record := func(s string) { mu.Lock(); defer mu.Unlock(); asked = append(asked, s) }
	imds := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record("imds " + r.URL.Path + " " + r.Header.Get("Metadata") + " " + r.FormValue("client_id"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"entra","expires_in":"3600","expires_on":"%d","token_type":"Bearer"}`, time.Now().Add(time.Hour).Unix())
	})
	acr := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth2/exchange" {
			record("exchange " + r.FormValue("service") + " " + r.FormValue("access_token"))
			fmt.Fprint(w, `{"refresh_token":"secret"}`)
			return
		}
		w.Header().Set("Www-Authenticate", `Bearer realm="https://`+registry+`/oauth2/token",service="`+registry+`"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	serve := func(address string, h http.Handler, certificates ...tls.Certificate) {
		l, err := netns.Listen(ns, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if len(certificates) > 0 {
			l = tls.NewListener(l, &tls.Config{Certificates: certificates})
		}
		s := &http.Server{Handler: h}
		t.Cleanup(func() { s.Close() })
		go s.Serve(l)
	}
	serve("169.254.169.254:80", imds)
	serve("127.0.0.1:443", acr, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})

	hosts := write("hosts", "127.0.0.1 "+registry+"\n")
	config := write("azure.json", `{"cloud":"AzurePublicCloud","tenantId":"tenant","useManagedIdentityExtension":true,"userAssignedIdentityID":"client"}`)
	oras := filepath.Join(set.Bin, "oras")
	output(t, oras, "pull", "--oci-layout", "-o", dir, set.MCR+"@"+
		referenced(t, set.MCR)["oss/binaries/kubernetes/azure-acr-credential-provider:v1.32.3-linux-"+arch()].Digest.String())
	output(t, "tar", "-xzf", filepath.Join(dir, "azure-acr-credential-provider-linux-"+arch()+"-v1.32.3.tar.gz"), "-C", dir)
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+ns, "unshare", "--mount", "sh", "-ec", `mount --bind "$1" /etc/hosts; shift; exec "$@"`, "sh",
		hosts, filepath.Join(dir, "azure-acr-credential-provider"), config, "--registry-mirror=mcr.microsoft.com:"+registry+"/aks-managed-repository")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + ca}
	cmd.Stdin = strings.NewReader(`{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"mcr.microsoft.com/oss/kubernetes/pause:3.9"}`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var response struct {
		Auth map[string]struct{ Username, Password string }
	}
	if err := json.Unmarshal(out, &response); err != nil {
		t.Fatal(err)
	}
	if got := response.Auth["mcr.microsoft.com"]; got.Password != "secret" || got.Username != "00000000-0000-0000-0000-000000000000" {
		t.Errorf("credentials for mcr.microsoft.com: %+v", got)
	}
	want := []string{"imds /metadata/identity/oauth2/token true client", "exchange " + registry + " entra"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}
