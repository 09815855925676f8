package approver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	client "k8s.io/client-go/kubernetes/typed/certificates/v1"
	kubetesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var node0 = Node{Name: "aks-0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("fd00::4")}}

type template struct {
	cn        string
	org       []string
	dns       []string
	ips       []string
	email     string
	uri       string
	user      string
	groups    []string
	usages    []certificates.KeyUsage
	raw       []byte
	breakSign bool
}

func good() template {
	return template{
		cn: "system:node:aks-0", org: []string{"system:nodes"}, dns: []string{"aks-0"}, ips: []string{"10.0.0.4"},
		user: "system:node:aks-0", groups: []string{"system:nodes", "system:authenticated"},
		usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
	}
}

func (c template) spec(t *testing.T) certificates.CertificateSigningRequestSpec {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.cn, Organization: c.org}, DNSNames: c.dns}
	for _, ip := range c.ips {
		x.IPAddresses = append(x.IPAddresses, net.ParseIP(ip))
	}
	if c.email != "" {
		x.EmailAddresses = []string{c.email}
	}
	if c.uri != "" {
		u, _ := url.Parse(c.uri)
		x.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, x, key)
	if err != nil {
		t.Fatal(err)
	}
	if c.breakSign {
		der[len(der)-1] ^= 1
	}
	if c.raw == nil {
		c.raw = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	return certificates.CertificateSigningRequestSpec{
		Request: c.raw, SignerName: certificates.KubeletServingSignerName, Username: c.user, Groups: c.groups, Usages: c.usages,
	}
}

func TestPolicy(t *testing.T) {
	tests := []struct {
		name   string
		change func(*template)
		want   decision
		why    string
	}{
		{"what the kubelet asks for", func(*template) {}, approve, ""},
		{"with an RSA key", func(c *template) { c.usages = append(c.usages, certificates.UsageKeyEncipherment) }, approve, ""},
		{"both families", func(c *template) { c.ips = append(c.ips, "fd00::4") }, approve, ""},
		{"address alone", func(c *template) { c.dns = nil }, approve, ""},
		{"another node's address", func(c *template) { c.ips = []string{"10.0.0.5"} }, deny, "10.0.0.5"},
		{"its own and another's", func(c *template) { c.ips = append(c.ips, "10.0.0.5") }, deny, "10.0.0.5"},
		{"loopback", func(c *template) { c.ips = []string{"127.0.0.1"} }, deny, "127.0.0.1"},
		{"another name", func(c *template) { c.dns = []string{"kubernetes.default"} }, deny, "kubernetes.default"},
		{"wildcard", func(c *template) { c.dns = []string{"*"} }, deny, "*"},
		{"no name at all", func(c *template) { c.dns, c.ips = nil, nil }, deny, "no name"},
		{"another's common name", func(c *template) { c.cn = "system:node:aks-1" }, deny, "common name"},
		{"other organization", func(c *template) { c.org = []string{"system:masters"} }, deny, "organization"},
		{"two organizations", func(c *template) { c.org = append(c.org, "system:masters") }, deny, "organization"},
		{"a user", func(c *template) { c.user, c.cn = "admin", "admin" }, deny, "no node"},
		{"nameless node", func(c *template) { c.user, c.cn = "system:node:", "system:node:" }, deny, "no node"},
		{"not in the group", func(c *template) { c.groups = c.groups[1:] }, deny, "group"},
		{"client usage", func(c *template) { c.usages = append(c.usages, certificates.UsageClientAuth) }, deny, "client auth"},
		{"no server usage", func(c *template) { c.usages = c.usages[:1] }, deny, "server auth"},
		{"e-mail", func(c *template) { c.email = "a@b" }, deny, "e-mail"},
		{"URI", func(c *template) { c.uri = "spiffe://x" }, deny, "URI"},
		{"junk", func(c *template) { c.raw = []byte("junk") }, deny, "PEM"},
		{"certificate", func(c *template) { c.raw = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}) }, deny, "PEM"},
		{"signature of another key", func(c *template) { c.breakSign = true }, deny, ""},
		{"unknown node", func(c *template) { c.user, c.cn = "system:node:aks-9", "system:node:aks-9" }, wait, "aks-9"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := good()
			test.change(&c)
			spec := c.spec(t)
			got, why := decide(&spec, map[string]Node{node0.Name: node0})
			if got != test.want || !strings.Contains(why, test.why) {
				t.Errorf("%v %q, want %v with %q", got, why, test.want, test.why)
			}
		})
	}
}

func request(t *testing.T, name string, c template) *certificates.CertificateSigningRequest {
	return &certificates.CertificateSigningRequest{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: c.spec(t)}
}

func run(t *testing.T, connect Connect) *Approver {
	t.Helper()
	a := New(connect, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

// conditions waits until the request has as many conditions, and returns their types.
func conditions(t *testing.T, c client.CertificateSigningRequestInterface, name string) string {
	t.Helper()
	for range 500 {
		r, err := c.Get(t.Context(), name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Status.Conditions) > 0 {
			var out []string
			for _, k := range r.Status.Conditions {
				out = append(out, string(k.Type)+"/"+k.Reason)
			}
			return strings.Join(out, " ")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "none"
}

func TestApproverDecidesWhatIsThereAndWhatComes(t *testing.T) {
	before := request(t, "before", good())
	foreign := request(t, "foreign", good())
	foreign.Spec.SignerName = certificates.KubeAPIServerClientKubeletSignerName
	set := fake.NewClientset(before, foreign)
	c := set.CertificatesV1().CertificateSigningRequests()
	a := run(t, func() (client.CertificateSigningRequestInterface, error) { return c, nil })
	a.SetNodes([]Node{node0})
	if got := conditions(t, c, "before"); got != "Approved/NodeServingCertificate" {
		t.Error(got)
	}
	bad := good()
	bad.ips = []string{"10.0.0.9"}
	for name, want := range map[string]struct {
		template
		conditions string
	}{"good": {good(), "Approved/NodeServingCertificate"}, "bad": {bad, "Denied/NotTheNodesOwn"}} {
		if _, err := c.Create(t.Context(), request(t, name, want.template), meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := conditions(t, c, name); got != want.conditions {
			t.Errorf("%s: %s", name, got)
		}
	}
	if r, err := c.Get(t.Context(), "foreign", meta.GetOptions{}); err != nil || len(r.Status.Conditions) != 0 {
		t.Errorf("another signer's request was touched: %v %v", r, err)
	}
}

func TestRequestWaitsForItsNode(t *testing.T) {
	set := fake.NewClientset(request(t, "early", good()))
	c := set.CertificatesV1().CertificateSigningRequests()
	watching := make(chan struct{}, 10)
	set.PrependWatchReactor("*", func(kubetesting.Action) (bool, watch.Interface, error) {
		watching <- struct{}{}
		return false, nil, nil
	})
	a := run(t, func() (client.CertificateSigningRequestInterface, error) { return c, nil })
	<-watching
	if r, err := c.Get(t.Context(), "early", meta.GetOptions{}); err != nil || len(r.Status.Conditions) != 0 {
		t.Fatalf("decided without the node: %v %v", r.Status, err)
	}
	a.SetNodes([]Node{node0})
	if got := conditions(t, c, "early"); got != "Approved/NodeServingCertificate" {
		t.Error(got)
	}
}

func TestApproverOutlivesTheAPIServersAbsence(t *testing.T) {
	set := fake.NewClientset(request(t, "r", good()))
	c := set.CertificatesV1().CertificateSigningRequests()
	var tries, updates atomic.Int32
	set.PrependReactor("update", "*", func(kubetesting.Action) (bool, runtime.Object, error) {
		// The API server goes away in the middle.
		return updates.Add(1) == 1, nil, errors.New("connection refused")
	})
	a := run(t, func() (client.CertificateSigningRequestInterface, error) {
		if tries.Add(1) < 3 {
			return nil, errors.New("no kubeconfig yet")
		}
		return c, nil
	})
	a.SetNodes([]Node{node0})
	if got := conditions(t, c, "r"); got != "Approved/NodeServingCertificate" {
		t.Errorf("%s after %d tries and %d updates", got, tries.Load(), updates.Load())
	}
}
