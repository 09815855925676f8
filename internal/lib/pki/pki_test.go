package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, "ca", "test authority")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, b := open(t, dir), open(t, dir)
	if !bytes.Equal(a.CertPEM, b.CertPEM) {
		t.Error("opened again, the authority is another")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if _, err := LoadAuthority(t.TempDir(), "ca"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load of none: %v", err)
	}
}

// TestHandshake proves the certificates by their use: both sides verify each other.
func TestHandshake(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	server, err := a.Issue(Request{CommonName: "server", DNSNames: []string{"api.test"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.Issue(Request{CommonName: "alice", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, a, server, client, "api.test"); err != nil {
		t.Errorf("by name: %v", err)
	}
	peer, err := dial(t, a, server, client, "10.0.0.1")
	if err != nil {
		t.Errorf("by address: %v", err)
	} else if peer.Subject.CommonName != "alice" || len(peer.Subject.Organization) != 1 {
		t.Errorf("the server saw %v", peer.Subject)
	}
	if _, err := dial(t, a, server, client, "other.test"); err == nil {
		t.Error("another name was accepted")
	}
	if _, err := dial(t, a, server, server, "api.test"); err == nil {
		t.Error("a server's certificate was accepted from a client")
	}
	other := open(t, t.TempDir())
	if _, err := dial(t, other, server, client, "api.test"); err == nil {
		t.Error("another authority's certificate was accepted")
	}
}

func dial(t *testing.T, a *Authority, server, client KeyPair, name string) (*x509.Certificate, error) {
	t.Helper()
	load := func(p KeyPair) tls.Certificate {
		c, err := tls.X509KeyPair(p.CertPEM, p.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{load(server)}, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	type result struct {
		peer *x509.Certificate
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			accepted <- result{err: err}
			return
		}
		defer conn.Close()
		s := conn.(*tls.Conn)
		if err := s.Handshake(); err != nil {
			accepted <- result{err: err}
			return
		}
		accepted <- result{peer: s.ConnectionState().PeerCertificates[0]}
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	err = tls.Client(raw, &tls.Config{Certificates: []tls.Certificate{load(client)}, RootCAs: a.Pool(), ServerName: name}).Handshake()
	if err != nil {
		raw.Close()
	}
	r := <-accepted
	return r.peer, errors.Join(err, r.err)
}

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	r := Request{CommonName: "server", DNSNames: []string{"a.test"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Server: true, Client: true}
	ensure := func(a *Authority, r Request) KeyPair {
		t.Helper()
		p, err := a.Ensure(dir, "server", r)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := ensure(a, r)
	if again := ensure(a, r); !bytes.Equal(first.CertPEM, again.CertPEM) {
		t.Error("issued again without need")
	}
	r.DNSNames = append(r.DNSNames, "b.test")
	second := ensure(a, r)
	if bytes.Equal(first.CertPEM, second.CertPEM) {
		t.Error("not issued again for another name")
	}
	// A crash between the two files of a pair.
	if err := os.WriteFile(filepath.Join(dir, "server.key"), first.KeyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	third := ensure(a, r)
	if _, err := tls.X509KeyPair(third.CertPEM, third.KeyPEM); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	if fourth := ensure(open(t, t.TempDir()), r); bytes.Equal(third.CertPEM, fourth.CertPEM) {
		t.Error("another authority's certificate was kept")
	}
	cert, err := ParseCertificate(third.CertPEM)
	if err != nil || time.Until(cert.NotAfter) < 360*24*time.Hour || !cert.NotBefore.Before(time.Now()) {
		t.Errorf("valid from %v to %v, %v", cert.NotBefore, cert.NotAfter, err)
	}
}

func TestKeysAndFingerprints(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if public, err := PublicKey(key); err != nil || !bytes.Contains(public, []byte("BEGIN PUBLIC KEY")) || bytes.Contains(public, []byte("PRIVATE")) {
		t.Errorf("public key %q, %v", public, err)
	}
	a := open(t, t.TempDir())
	print1, err := Fingerprint(a.CertPEM)
	if err != nil || len(print1) != 64 {
		t.Errorf("fingerprint %q, %v", print1, err)
	}
	if _, err := Fingerprint([]byte("nothing")); err == nil {
		t.Error("a fingerprint of nothing")
	}
	if h, err := PublicKeyHash(a.CertPEM); err != nil || len(h) != len("sha256:")+64 {
		t.Errorf("public key hash %q, %v", h, err)
	}
}
