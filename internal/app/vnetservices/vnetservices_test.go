package vnetservices

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	api "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenant = "11111111-1111-1111-1111-111111111111"
	guest  = "10.0.0.4" // in every network
)

// space makes a network namespace at path with addresses on its loopback, as the fabric does, and a guest's
// beside them, so that the test can be that guest.
func space(t *testing.T, path string, addresses ...string) {
	t.Helper()
	if err := netns.Create(path); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { netns.Delete(path) })
	err := netns.Do(path, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range addresses {
			address, err := netlink.ParseAddr(a + "/32")
			if err != nil {
				return err
			}
			if err := h.AddrAdd(lo, address); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
}

var vnet = []string{"168.63.129.16", "169.254.169.254", guest}

// dialFrom connects from the guest's address.
func dialFrom(path, network, address string) (c net.Conn, err error) {
	err = netns.Do(path, func() error {
		d := net.Dialer{Timeout: 2 * time.Second, FallbackDelay: -1}
		switch network {
		case "tcp":
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(guest)}
		case "udp":
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(guest)}
		}
		c, err = d.Dial(network, address)
		return err
	})
	return c, err
}

func resolve(path, network, name string) (string, error) {
	c, err := dialFrom(path, network, "168.63.129.16:53")
	if err != nil {
		return "", err
	}
	defer c.Close()
	return ask(c, name)
}

func ask(c net.Conn, name string) (string, error) {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	conn := dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
		return "", err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return "", err
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String(), nil
		}
	}
	return dns.RcodeToString[m.Rcode], nil
}

func metadataGet(path, target string) (int, string, error) {
	transport := &http.Transport{DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		return dialFrom(path, network, address)
	}, DisableKeepAlives: true}
	r, err := http.NewRequest("GET", "http://169.254.169.254"+target, nil)
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Metadata", "true")
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}

// eventually waits until fn returns want.
func eventually(t *testing.T, what, want string, fn func() (string, error)) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = fn(); err == nil && got == want {
			return
		}
	}
	t.Fatalf("%s: %q %v, want %q", what, got, err, want)
}

type process struct {
	t    *testing.T
	dir  string
	keys *identity.Keys
}

func start(t *testing.T) *process {
	dir := t.TempDir()
	keys, err := identity.OpenKeys(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir, keys: keys}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			ConfigPath: p.path("vnetservices.json"), StatusSocket: p.path("status.sock"), Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (p *process) path(name string) string { return filepath.Join(p.dir, name) }

func (p *process) set(c Config) {
	p.t.Helper()
	c.Authority.Keys = p.path("identity")
	if c.Public == nil {
		c.Public = []Record{{Name: "mcr.microsoft.com", Type: "A", Value: "198.18.0.10", TTL: 60}}
	}
	if err := atomicfile.WriteJSON(p.path("vnetservices.json"), c, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// network is a network with a zone, and a guest that has the same address in each.
func (p *process) network(id, value string) Network {
	return Network{
		ID: id, NetNS: p.path(id + ".net"),
		Zones: []Zone{{Name: "privatelink.azurecr.io", Records: []Record{{Name: "acr", Type: "A", Value: value, TTL: 10}}}},
		Guests: []Guest{{
			Addresses: []netip.Addr{netip.MustParseAddr(guest)}, Name: "vm-" + id, ResourceID: "/vm/" + id,
			Identities: []Identity{{ClientID: "client-" + id, PrincipalID: "principal-" + id, TenantID: tenant, ResourceID: "/id/" + id}},
		}},
	}
}

func TestNetworksWithEqualAddressesAreToldApart(t *testing.T) {
	p := start(t)
	a, b := p.network("a", "10.0.0.5"), p.network("b", "10.0.0.6")
	// The state comes first, the namespaces after it: nothing orders them.
	p.set(Config{Networks: []Network{a, b}})
	space(t, a.NetNS, vnet...)
	space(t, b.NetNS, vnet...)
	const name = "acr.privatelink.azurecr.io."
	for _, network := range []string{"udp", "tcp"} {
		eventually(t, network+" in a", "10.0.0.5", func() (string, error) { return resolve(a.NetNS, network, name) })
		eventually(t, network+" in b", "10.0.0.6", func() (string, error) { return resolve(b.NetNS, network, name) })
	}
	eventually(t, "public name", "198.18.0.10", func() (string, error) { return resolve(a.NetNS, "udp", "mcr.microsoft.com.") })

	verifier := identity.Verifier{Keys: p.keys, Issuers: []string{identity.V1Issuer(tenant)}, Audiences: []string{"https://management.azure.com/"}}
	for _, n := range []Network{a, b} {
		const target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
		status, body, err := metadataGet(n.NetNS, target)
		if err != nil || status != 200 {
			t.Fatalf("%s: %d %s %v", n.ID, status, body, err)
		}
		var token struct {
			Token string `json:"access_token"`
		}
		if err := json.Unmarshal([]byte(body), &token); err != nil {
			t.Fatal(err)
		}
		if c, err := verifier.Verify(token.Token); err != nil || c.ObjectID != "principal-"+n.ID {
			t.Errorf("%s: %+v %v", n.ID, c, err)
		}
		if _, vm, err := metadataGet(n.NetNS, "/metadata/instance/compute/name?api-version=2021-02-01&format=text"); err != nil || vm != "vm-"+n.ID {
			t.Errorf("%s: %s %v", n.ID, vm, err)
		}
		// An identity of the other network's guest of the same address.
		if status, body, err := metadataGet(n.NetNS, target+"&client_id=client-"+map[string]string{"a": "b", "b": "a"}[n.ID]); status != 400 || err != nil {
			t.Errorf("%s: got another's token: %d %s %v", n.ID, status, body, err)
		}
	}

	// What does not change is not touched: a connection in b lives through all that follows.
	old, err := dialFrom(b.NetNS, "tcp", "168.63.129.16:53")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	alive := func(when string) {
		t.Helper()
		if got, err := ask(old, name); got != "10.0.0.6" || err != nil {
			t.Errorf("%s the old connection answers %q %v", when, got, err)
		}
	}
	alive("at first")
	a.Zones = nil
	p.set(Config{Networks: []Network{a, b}})
	eventually(t, "unlinked", "NXDOMAIN", func() (string, error) { return resolve(a.NetNS, "udp", name) })
	alive("after a change of the other network")
	if err := os.WriteFile(p.path("vnetservices.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	alive("after a broken state")
	p.set(Config{Networks: []Network{b}})
	eventually(t, "a network that left", "refused", func() (string, error) {
		c, err := dialFrom(a.NetNS, "tcp", "168.63.129.16:53")
		if err == nil {
			c.Close()
			return "open", nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return "refused", nil
		}
		return "", err
	})
	alive("after the other network left")

	// The namespace is made anew at the same path, as after a teardown.
	if err := netns.Delete(b.NetNS); err != nil {
		t.Fatal(err)
	}
	space(t, b.NetNS, vnet...)
	eventually(t, "a new namespace", "10.0.0.6", func() (string, error) { return resolve(b.NetNS, "udp", name) })

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", p.path("status.sock"))
	}}}
	response, err := client.Get("http://vnetservices/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var status Status
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	if q := status.Networks["b"].Queries; len(status.Networks) != 1 || len(q) != 1 || q[0].Name != name || q[0].Count < 3 {
		t.Errorf("status %+v", status)
	}
}

func TestTunnelDialsInTheClustersNetwork(t *testing.T) {
	p := start(t)
	path := p.path("a.net")
	space(t, path, vnet...)
	l, err := netns.Listen(path, "tcp", guest+":10250")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var kubelet sync.WaitGroup
	kubelet.Go(func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	})
	defer kubelet.Wait()
	defer l.Close()
	socket := p.path("tunnel/c1/tunnel.sock")
	p.set(Config{Clusters: []Cluster{{
		ID: "c1", TunnelSocket: socket, NetworkNetNS: path, TunnelPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
	}}})
	connect := func(target string) (net.Conn, string, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return nil, "", err
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", target)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			c.Close()
			return nil, "", err
		}
		return c, response.Status, nil
	}
	eventually(t, "outside the cluster", "403 Forbidden", func() (string, error) {
		c, status, err := connect("169.254.169.254:80")
		if err == nil {
			c.Close()
		}
		return status, err
	})
	c, status, err := connect(guest + ":10250")
	if err != nil || status != "200 Connection established" {
		t.Fatal(status, err)
	}
	defer c.Close()
	fmt.Fprintln(c, "logs")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "logs\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
}

// certificate makes one that serves a test API server, its client and as their authority.
func certificate(t *testing.T, dir string) (server tls.Certificate, ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "approver"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, DNSNames: []string{"api.example"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	ca, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{ca: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, ca, ca, key
}

func TestApproverReachesTheAPIServerInItsNamespace(t *testing.T) {
	p := start(t)
	path := p.path("cp-c1.net")
	space(t, path, "240.0.0.1")
	pair, ca, cert, key := certificate(t, p.dir)
	kubeconfig := p.path("approver.kubeconfig")
	node := Cluster{
		ID: "c1", ControlPlaneNetNS: path, Server: "240.0.0.1:443", Kubeconfig: kubeconfig,
		Nodes: []ClusterNode{{Name: "aks-0", Addresses: []netip.Addr{netip.MustParseAddr(guest)}}},
	}
	p.set(Config{Clusters: []Cluster{node}}) // before there is a kubeconfig or a server

	config := api.NewConfig()
	config.Clusters["c"] = &api.Cluster{Server: "https://api.example:443", CertificateAuthority: ca}
	config.AuthInfos["u"] = &api.AuthInfo{ClientCertificate: cert, ClientKey: key}
	config.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}

	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:aks-0", Organization: []string{"system:nodes"}},
		DNSNames: []string{"aks-0"}, IPAddresses: []net.IP{net.ParseIP(guest)},
	}, private)
	if err != nil {
		t.Fatal(err)
	}
	request := certificates.CertificateSigningRequest{
		TypeMeta: meta.TypeMeta{Kind: "CertificateSigningRequest", APIVersion: "certificates.k8s.io/v1"}, ObjectMeta: meta.ObjectMeta{Name: "csr-1"},
		Spec: certificates.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificates.KubeletServingSignerName,
			Username: "system:node:aks-0", Groups: []string{"system:nodes"}, Usages: []certificates.KeyUsage{certificates.UsageServerAuth},
		},
	}
	approved := make(chan certificates.CertificateSigningRequest, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/certificates.k8s.io/v1/certificatesigningrequests", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		json.NewEncoder(w).Encode(certificates.CertificateSigningRequestList{
			TypeMeta: meta.TypeMeta{Kind: "CertificateSigningRequestList", APIVersion: "certificates.k8s.io/v1"},
			ListMeta: meta.ListMeta{ResourceVersion: "1"}, Items: []certificates.CertificateSigningRequest{request},
		})
	})
	mux.HandleFunc("PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/csr-1/approval", func(w http.ResponseWriter, r *http.Request) {
		var got certificates.CertificateSigningRequest
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, _, err = scheme.Codecs.UniversalDeserializer().Decode(body, nil, &got)
		}
		if err != nil || r.TLS.PeerCertificates[0].Subject.CommonName != "approver" {
			t.Errorf("%v %v", err, r.TLS.PeerCertificates)
		}
		approved <- got
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(got)
	})
	l, err := netns.Listen(path, "tcp", "240.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	root, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(root)
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}}
	var tasks sync.WaitGroup
	tasks.Go(func() { server.ServeTLS(l, "", "") })
	defer tasks.Wait()
	defer server.Close()
	select {
	case got := <-approved:
		if c := got.Status.Conditions; len(c) != 1 || c[0].Type != certificates.CertificateApproved {
			t.Errorf("conditions %v", c)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the request was not approved")
	}
}
