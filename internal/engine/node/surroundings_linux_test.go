package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
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

	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

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

func (s *surroundings) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pulled)
}
