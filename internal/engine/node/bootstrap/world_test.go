package bootstrap_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/ipam"
)

const (
	acr     = "testregistry.azurecr.io"
	data    = "testregistry.westus2.data.azurecr.io"
	mcr     = "mcr.microsoft.com"
	apiName = "demo-dns.0f.privatelink.westus2.azmk8s.io"
	imds    = "169.254.169.254"

	kubernetesNode = "oss/binaries/kubernetes/kubernetes-node"
	provider       = "oss/binaries/kubernetes/azure-acr-credential-provider"
	pause          = "oss/kubernetes/pause"
	prefix         = "aks-managed-repository/"
)

// world is everything a node meets while it provisions itself. Its fields are the causes of failure.
type world struct {
	t     *testing.T
	root  string
	roots *x509.CertPool
	ca    string // PEM

	mu        sync.Mutex
	hosts     map[string]string // name → address of a listener, or one of the two below; none: it does not resolve
	anonymous bool              // the registry serves everyone
	forbidden bool              // … nobody from here: public access is off
	actions   string            // of the refresh token
	exchange  string            // answer to the exchange instead of a token
	identity  int               // status of IMDS's token answer, 0: silence
	missing   []string          // repositories that the cache rule does not yield
	broken    []string          // … whose tarball is no tarball
	strangers int               // requests with the bootstrap token that the API server refuses before it knows it
	services  map[string]error  // what starting a service gives
	started   []string
	imported  []string
	pulled    []string
	pull      func(context.Context) error // what pulling an image gives; nil: the image
	asked     []string                    // hosts and paths
}

const (
	blackhole = "blackhole"
	refused   = "refused"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir(), actions: `["read"]`, identity: http.StatusOK, services: map[string]error{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{acr, data, mcr, apiName}, IPAddresses: []net.IP{net.IPv4(10, 224, 0, 9)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM([]byte(w.ca))
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}

	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	plain := httptest.NewServer(store)
	t.Cleanup(plain.Close)
	for repo, img := range map[string]v1.Image{
		kubernetesNode + ":v1.30.3-linux-amd64": artifact(t, tarball(t, map[string]string{
			"kubernetes/node/bin/kubelet": "kubelet binary", "kubernetes/node/bin/kubectl": "kubectl binary", "kubernetes/LICENSES": "text",
		})),
		provider + ":v1.32.3-linux-amd64": artifact(t, tarball(t, map[string]string{"azure-acr-credential-provider": "provider binary"})),
		pause + ":3.6":                    artifact(t, tarball(t, map[string]string{"pause": "pause binary"})),
	} {
		for _, at := range []string{"", prefix} {
			ref, err := name.ParseReference(strings.TrimPrefix(plain.URL, "http://") + "/" + at + repo)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
		}
	}
	serve := func(h http.Handler, secure bool) string {
		server := httptest.NewUnstartedServer(h)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		if secure {
			server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
		return server.Listener.Addr().String()
	}
	w.hosts = map[string]string{
		imds:         serve(http.HandlerFunc(w.serveIMDS), false),
		acr:          serve(w.serveRegistry(store), true),
		data:         serve(w.onlyWhatIsThere(store), true),
		mcr:          serve(w.onlyWhatIsThere(store), true),
		apiName:      serve(http.HandlerFunc(w.serveAPI), true),
		"10.224.0.9": "",
	}
	w.hosts["10.224.0.9"] = w.hosts[apiName]
	w.write("/etc/resolv.conf", "nameserver 168.63.129.16\n")
	return w
}

func (w *world) write(path, content string) {
	w.t.Helper()
	path = filepath.Join(w.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(path string) string {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(w.root, path))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(content)
}

func (w *world) do(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for path, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func artifact(t *testing.T, blob []byte) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(blob, types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (w *world) serveIMDS(rw http.ResponseWriter, r *http.Request) {
	var identity int
	w.do(func() { w.asked = append(w.asked, imds+r.URL.Path); identity = w.identity })
	if r.Header.Get("Metadata") != "true" {
		http.Error(rw, "no Metadata header", http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/metadata/instance":
		fmt.Fprint(rw, `{"compute":{"name":"node"}}`)
	case "/metadata/identity/oauth2/token":
		if identity == 0 {
			<-r.Context().Done()
			return
		}
		if identity != http.StatusOK {
			rw.WriteHeader(identity)
			fmt.Fprint(rw, `{"error":"invalid_request","error_description":"Identity not found"}`)
			return
		}
		fmt.Fprintf(rw, `{"access_token":"aad for %s"}`, r.URL.Query().Get("resource"))
	}
}

func (w *world) serveAPI(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Header.Get("Authorization") == "Bearer abcdef.0123456789abcdef" && w.strangers > 0 {
		w.strangers--
		rw.WriteHeader(http.StatusUnauthorized)
	}
}

// onlyWhatIsThere leaves out what is missing upstream or under the cache rule.
func (w *world) onlyWhatIsThere(store http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var missing, broken []string
		w.do(func() { missing, broken = slices.Clone(w.missing), slices.Clone(w.broken) })
		for _, repo := range missing {
			if strings.Contains(r.URL.Path, "/"+repo+"/") {
				rw.WriteHeader(http.StatusNotFound)
				fmt.Fprint(rw, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
				return
			}
		}
		for _, repo := range broken {
			if strings.Contains(r.URL.Path, "/"+repo+"/manifests/") {
				img := artifact(w.t, []byte("no gzip stream at all"))
				manifest, _ := img.RawManifest()
				rw.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				rw.Write(manifest)
				return
			}
			if strings.Contains(r.URL.Path, "/"+repo+"/blobs/") {
				fmt.Fprint(rw, "no gzip stream at all")
				return
			}
		}
		store.ServeHTTP(rw, r)
	})
}

// serveRegistry answers as ACR does.
func (w *world) serveRegistry(store http.Handler) http.Handler {
	unauthorized := func(rw http.ResponseWriter) {
		rw.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information."}]}`)
	}
	artifacts := w.onlyWhatIsThere(store)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var anonymous, forbidden bool
		var actions, exchange string
		w.do(func() {
			w.asked = append(w.asked, acr+r.URL.Path)
			anonymous, forbidden, actions, exchange = w.anonymous, w.forbidden, w.actions, w.exchange
		})
		switch {
		case forbidden:
			rw.WriteHeader(http.StatusForbidden)
			fmt.Fprint(rw, `{"errors":[{"code":"DENIED","message":"client with IP '198.18.0.1' is not allowed access"}]}`)
		case r.URL.Path == "/oauth2/exchange":
			if exchange != "" {
				fmt.Fprint(rw, exchange)
				return
			}
			if !strings.HasPrefix(r.FormValue("access_token"), "aad for ") || r.FormValue("service") != acr {
				http.Error(rw, `{"errors":"bad request"}`, http.StatusBadRequest)
				return
			}
			claims := base64.RawURLEncoding.EncodeToString([]byte(`{"permissions":{"actions":` + actions + `}}`))
			fmt.Fprintf(rw, `{"refresh_token":"header.%s.signature"}`, claims)
		case r.URL.Path == "/oauth2/token" && r.Method == http.MethodPost:
			if !strings.HasPrefix(r.FormValue("refresh_token"), "header.") {
				unauthorized(rw)
				return
			}
			fmt.Fprint(rw, `{"access_token":"good"}`)
		case r.URL.Path == "/oauth2/token":
			if !anonymous {
				unauthorized(rw)
				return
			}
			fmt.Fprint(rw, `{"access_token":"good"}`)
		case r.Header.Get("Authorization") != "Bearer good":
			scope := "registry:catalog:*"
			if r.URL.Path != "/v2/_catalog" {
				scope = "repository:any:pull"
			}
			rw.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/oauth2/token",service="%s",scope="%s"`, acr, acr, scope))
			unauthorized(rw)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(rw, r, (&url.URL{Scheme: "https", Host: data, Path: r.URL.Path}).String(), http.StatusTemporaryRedirect)
		default:
			artifacts.ServeHTTP(rw, r)
		}
	})
}

func (w *world) environment() bootstrap.Environment {
	lookup := func(host string) (string, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if address, ok := w.hosts[host]; ok {
			return address, nil
		}
		return "", &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return bootstrap.Environment{
		Root: w.root, IMDS: "http://" + imds, Roots: w.roots,
		LookupHost: func(ctx context.Context, host string) ([]string, error) {
			if _, err := lookup(host); err != nil {
				return nil, err
			}
			return []string{"10.224.0.9"}, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			to, err := lookup(host)
			if err != nil {
				return nil, err
			}
			switch to {
			case blackhole:
				<-ctx.Done()
				return nil, ctx.Err()
			case refused:
				to = "127.0.0.1:1"
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
		Services: w, Runtime: w,
		Firewall: func(context.Context) error { return nil },
	}
}

// Start, Ready, Import and Pull make the world the node's supervisor and runtime.
func (w *world) Start(_ context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = append(w.started, name)
	return w.services[name]
}

func (w *world) Ready(context.Context) error { return nil }

func (w *world) Import(_ context.Context, name string, archive io.Reader) error {
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return err
	}
	w.do(func() { w.imported = append(w.imported, name) })
	return nil
}

func (w *world) Pull(ctx context.Context, name, user, password string) error {
	w.mu.Lock()
	w.pulled = append(w.pulled, name+" as "+user+", "+map[bool]string{true: "token", false: "nobody"}[password != ""])
	pull := w.pull
	w.mu.Unlock()
	if pull != nil {
		return pull(ctx)
	}
	return nil
}

func (w *world) config() bootstrap.Config {
	return bootstrap.Config{
		NodeName: "aks-nodepool1-12345678-vmss000000", NodeAddress: netip.MustParseAddr("10.224.0.4"), KubernetesVersion: "1.30.3",
		RegistryServer: acr + "/aks-managed-repository",
		Identity:       bootstrap.Identity{ClientID: "11111111-2222-3333-4444-555555555555", TenantID: "99999999-8888-7777-6666-555555555555"},
		APIServerName:  apiName, ClusterCA: w.ca, BootstrapToken: "abcdef.0123456789abcdef",
		Pods: bootstrap.PodNetwork{Subnet: netip.MustParsePrefix("10.224.0.0/16"), Ranges: []ipam.Range{
			{First: netip.MustParseAddr("10.224.0.5"), Last: netip.MustParseAddr("10.224.0.19")}, {First: netip.MustParseAddr("10.224.0.21"), Last: netip.MustParseAddr("10.224.0.35")},
		}},
		Kubelet: bootstrap.Kubelet{
			ClusterDNS: netip.MustParseAddr("10.0.0.10"), MaxPods: 30, Taints: []string{"CriticalAddonsOnly=true:NoSchedule"},
			Labels:     map[string]string{"agentpool": "nodepool1", "kubernetes.azure.com/mode": "system"},
			ProviderID: "azure:///subscriptions/0/resourceGroups/mc/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodepool1-12345678-vmss/virtualMachines/0",
		},
		Azure: bootstrap.Azure{SubscriptionID: "0", ResourceGroup: "MC_demo_demo_westus2", Location: "westus2", VNetName: "aks-vnet-12345678", SubnetName: "aks-subnet"},
	}
}

// result is what ARM would show.
func (w *world) result() bootstrap.Result {
	w.t.Helper()
	result, err := bootstrap.ParseResult([]byte(w.read("/var/" + bootstrap.ResultPath)))
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}
