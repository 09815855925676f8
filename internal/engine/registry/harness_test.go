package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sirupsen/logrus"
)

const (
	testTenant = "11111111-2222-3333-4444-555555555555"
	testIssuer = "https://sts.windows.net/" + testTenant + "/"
	acrName    = "containerregistry.azure.net"

	kubelet  = "aaaaaaaa-0000-0000-0000-000000000001" // AcrPull
	pusher   = "aaaaaaaa-0000-0000-0000-000000000002"
	stranger = "aaaaaaaa-0000-0000-0000-000000000003"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(processDir); dir != "" {
		os.Exit(process(dir))
	}
	logrus.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// authority signs certificates and Entra-like tokens.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	entra       *rsa.PrivateKey
}

var testAuthority = sync.OnceValue(func() *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	entra, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), entra}
})

func (a *authority) issue(names ...string) KeyPair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return KeyPair{
		CertPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		KeyPEM:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) jwks() json.RawMessage {
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &a.entra.PublicKey, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		panic(err)
	}
	return data
}

// token is an Entra-like token; change may spoil it.
func (a *authority) token(principal string, change func(map[string]any)) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: a.entra}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		panic(err)
	}
	claims := map[string]any{
		"iss": testIssuer, "aud": "https://" + acrName, "tid": testTenant, "oid": principal,
		"exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(),
	}
	if change != nil {
		change(claims)
	}
	s, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err)
	}
	return s
}

// upstreamServer is an upstream registry that counts what is asked of it.
type upstreamServer struct {
	address   string
	manifests atomic.Int64 // GETs
	blobs     atomic.Int64 // GETs
	down      atomic.Bool
	intercept atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool] // true: it has answered
}

func newUpstreamServer(t testing.TB, hosts ...string) *upstreamServer {
	u := &upstreamServer{}
	content := ggcrregistry.New(ggcrregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodGet {
			switch {
			case strings.Contains(r.URL.Path, "/manifests/"):
				u.manifests.Add(1)
			case strings.Contains(r.URL.Path, "/blobs/"):
				u.blobs.Add(1)
			}
		}
		if f := u.intercept.Load(); f != nil && (*f)(w, r) {
			return
		}
		content.ServeHTTP(w, r)
	}))
	pair := testAuthority().issue(hosts...)
	certificate, err := tls.X509KeyPair([]byte(pair.CertPEM), []byte(pair.KeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	u.address = server.Listener.Addr().String()
	return u
}

// env is a registry process with its config, and clients that reach it as through private endpoints.
type env struct {
	t        testing.TB
	dir      string
	config   Config
	upstream *upstreamServer
	server   *Server
	clock    atomic.Int64 // added to the time

	mu        sync.Mutex
	listeners map[netip.Addr]string // where a service address really is
	dials     atomic.Int64
}

const (
	addrA     = "240.0.0.1" // registry a, member registry
	addrAData = "240.0.0.2"
	addrB     = "240.0.0.3"
	addrBData = "240.0.0.4"
	addrOut   = "198.18.0.20"
)

func newEnv(t testing.TB) *env {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, testAuthority().pem, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, dir: t.TempDir(), upstream: newUpstreamServer(t, "mcr.microsoft.com"), listeners: map[netip.Addr]string{}}
	endpoints := func(registry, data string) []Endpoint {
		return []Endpoint{
			{ServiceAddress: netip.MustParseAddr(registry), Member: "registry"},
			{ServiceAddress: netip.MustParseAddr(data), Member: "registry_data_eastus"},
		}
	}
	e.config = Config{
		TenantID: testTenant, Issuers: []string{testIssuer}, JWKS: testAuthority().jwks(),
		Certificates:  []KeyPair{testAuthority().issue("*.azurecr.io", "*.eastus.data.azurecr.io")},
		PublicAddress: netip.MustParseAddr(addrOut),
		Upstreams:     map[string]string{"mcr.microsoft.com": e.upstream.address},
		CAFile:        ca,
		Registries: []Registry{
			{
				ID: "/subscriptions/s/a", Name: "a", LoginServer: "a.azurecr.io", Region: "eastus", DataEndpoint: "a.eastus.data.azurecr.io",
				Endpoints: endpoints(addrA, addrAData),
				CacheRules: []CacheRule{
					{Name: "aks", Source: "mcr.microsoft.com/*", Target: "aks-managed-repository/*"},
				},
				Access: map[string][]string{kubelet: {Pull, List}, pusher: {Pull, Push, Delete, List}},
			},
			{
				ID: "/subscriptions/s/b", Name: "b", LoginServer: "b.azurecr.io", Region: "eastus", DataEndpoint: "b.eastus.data.azurecr.io",
				Endpoints:     endpoints(addrB, addrBData),
				AnonymousPull: true,
				CacheRules:    []CacheRule{{Name: "all", Source: "mcr.microsoft.com/*", Target: "*"}},
				Access:        map[string][]string{pusher: {Pull, Push, Delete, List}},
			},
		},
	}
	e.start()
	t.Cleanup(func() { e.server.Close() })
	return e
}

func (e *env) start() {
	e.t.Helper()
	e.mu.Lock()
	clear(e.listeners)
	e.mu.Unlock()
	var err error
	e.server, err = Open(Options{
		StorageDir: filepath.Join(e.dir, "registry"),
		Log:        slog.New(slog.DiscardHandler),
		Now:        func() time.Time { return time.Now().Add(time.Duration(e.clock.Load())) },
		Listen: func(_ context.Context, _ string, address netip.AddrPort) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.listeners[address.Addr()] = l.Addr().String()
			return forgottenListener{l, e, address.Addr()}, nil
		},
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.apply()
}

// forgottenListener is no longer found once it is closed.
type forgottenListener struct {
	net.Listener
	env     *env
	address netip.Addr
}

func (l forgottenListener) Close() error {
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	if l.env.listeners[l.address] == l.Addr().String() {
		delete(l.env.listeners, l.address)
	}
	return l.Listener.Close()
}

func (e *env) apply() {
	e.t.Helper()
	if err := e.server.Apply(e.config); err != nil {
		e.t.Fatal(err)
	}
}

// transport reaches hosts at the service addresses given: what private DNS says in a VNet.
func (e *env) transport(hosts map[string]string) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: testAuthority().pool()},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			to, ok := hosts[host]
			if !ok {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			deadline := time.Now().Add(5 * time.Second)
			for {
				e.mu.Lock()
				real, ok := e.listeners[netip.MustParseAddr(to)]
				e.mu.Unlock()
				if ok {
					e.dials.Add(1)
					return (&net.Dialer{}).DialContext(ctx, "tcp", real)
				}
				if time.Now().After(deadline) || ctx.Err() != nil {
					return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
				}
				time.Sleep(time.Millisecond)
			}
		},
	}
}

func (e *env) private() *http.Transport {
	return e.transport(map[string]string{
		"a.azurecr.io": addrA, "a.eastus.data.azurecr.io": addrAData,
		"b.azurecr.io": addrB, "b.eastus.data.azurecr.io": addrBData,
	})
}

func (e *env) public() *http.Transport {
	return e.transport(map[string]string{
		"a.azurecr.io": addrOut, "a.eastus.data.azurecr.io": addrOut, "b.azurecr.io": addrOut, "b.eastus.data.azurecr.io": addrOut,
	})
}

// exchange logs a principal in, as oras_login_with_kubelet_identity does.
func (e *env) exchange(rt http.RoundTripper, host, entra string) (status int, refresh string) {
	e.t.Helper()
	response, err := (&http.Client{Transport: rt}).PostForm("https://"+host+"/oauth2/exchange", url.Values{
		"grant_type": {"access_token"}, "service": {host}, "tenant": {testTenant}, "access_token": {entra},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		RefreshToken string `json:"refresh_token"`
	}
	_ = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body.RefreshToken
}

// login is a client's credentials for a principal, "" for anonymous.
func (e *env) login(host, principal string) authn.Authenticator {
	e.t.Helper()
	if principal == "" {
		return authn.Anonymous
	}
	status, refresh := e.exchange(e.private(), host, testAuthority().token(principal, nil))
	if status != http.StatusOK || refresh == "" {
		e.t.Fatalf("exchange at %s: %d", host, status)
	}
	return authn.FromConfig(authn.AuthConfig{IdentityToken: refresh})
}

// options are those of a go-containerregistry client that does not retry.
func (e *env) options(rt http.RoundTripper, auth authn.Authenticator) []remote.Option {
	return []remote.Option{
		remote.WithTransport(rt), remote.WithAuth(auth), remote.WithContext(e.t.Context()),
		remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 1}), remote.WithRetryStatusCodes(),
	}
}

// publish puts a random image into the upstream.
func (e *env) publish(reference string, size int64) v1.Image {
	e.t.Helper()
	image, err := random.Image(size, 2)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := remote.Write(e.upstreamTag(reference), image, remote.WithTransport(e.upstreamTransport())); err != nil {
		e.t.Fatal(err)
	}
	return image
}

func (e *env) upstreamTag(reference string) name.Tag {
	tag, err := name.NewTag("mcr.microsoft.com/" + reference)
	if err != nil {
		e.t.Fatal(err)
	}
	return tag
}

func (e *env) upstreamTransport() *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: testAuthority().pool()},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", e.upstream.address)
		},
	}
}

// pull downloads an image whole, and fails as a client would.
func (e *env) pull(reference string, options ...remote.Option) (v1.Image, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	image, err := remote.Image(ref, options...)
	if err != nil {
		return nil, err
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	if _, err := image.RawConfigFile(); err != nil {
		return nil, err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, content)
		content.Close()
		if err != nil {
			return nil, err
		}
	}
	return image, nil
}

func (e *env) mustPull(reference string, want v1.Image, options ...remote.Option) {
	e.t.Helper()
	image, err := e.pull(reference, options...)
	if err != nil {
		e.t.Fatalf("pull %s: %v", reference, err)
	}
	got, err := image.Digest()
	if err != nil {
		e.t.Fatal(err)
	}
	if wanted, _ := want.Digest(); got != wanted {
		e.t.Fatalf("pull %s gave %s, want %s", reference, got, wanted)
	}
}

// get is one plain request.
func get(t testing.TB, rt http.RoundTripper, method, address string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		request.Header[k] = v
	}
	if host := header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := rt.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, bytes.TrimSpace(body)
}
