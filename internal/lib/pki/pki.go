// Package pki makes certificate authorities and the certificates they issue: the installation's own
// authority and those of every cluster.
//
// It knows X.509 and files, not who uses a certificate for what. Keys are ECDSA P-256, files with a key
// have mode 0600, and a pair of files is written so that a crash at any line leaves the old pair, the
// new one, or none that Load accepts. RFC 5280 is the profile.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// How long certificates live. A clock that is a little behind must not refuse a new one.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
	backdate        = 5 * time.Minute
)

// Authority is a certificate authority.
type Authority struct {
	Certificate *x509.Certificate
	CertPEM     []byte
	key         *ecdsa.PrivateKey
}

// KeyPair is a certificate with its key, both PEM.
type KeyPair struct{ CertPEM, KeyPEM []byte }

// Request says what a certificate is for.
type Request struct {
	CommonName    string
	Organizations []string // what Kubernetes takes for groups
	DNSNames      []string
	IPs           []netip.Addr
	Server        bool // may identify a TLS server
	Client        bool // may identify a TLS client
}

// OpenAuthority returns the authority kept as NAME.crt and NAME.key in dir, and makes it when there is none.
func OpenAuthority(dir, name, commonName string) (*Authority, error) {
	a, err := LoadAuthority(dir, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(commonName, authorityLife)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	pair, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", commonName, err)
	}
	if err := pair.Write(dir, name); err != nil {
		return nil, err
	}
	return LoadAuthority(dir, name)
}

// LoadAuthority returns the authority kept as NAME.crt and NAME.key in dir.
func LoadAuthority(dir, name string) (*Authority, error) {
	pair, err := Load(dir, name)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	cert, key, err := pair.parse()
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", filepath.Join(dir, name), err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("load authority %s: the certificate is not an authority's", filepath.Join(dir, name))
	}
	return &Authority{Certificate: cert, CertPEM: pair.CertPEM, key: key}, nil
}

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// Signer is the authority's key, for a certificate that Request cannot describe.
func (a *Authority) Signer() crypto.Signer { return a.key }

// Issue makes a new key and a certificate for it.
func (a *Authority) Issue(r Request) (KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, err
	}
	template, err := newTemplate(r.CommonName, certificateLife)
	if err != nil {
		return KeyPair{}, err
	}
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	template.Subject.Organization = r.Organizations
	template.DNSNames = r.DNSNames
	for _, ip := range r.IPs {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = r.usages()
	pair, err := sign(template, a.Certificate, key, a.key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	return pair, nil
}

func (r Request) usages() (out []x509.ExtKeyUsage) {
	if r.Server {
		out = append(out, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		out = append(out, x509.ExtKeyUsageClientAuth)
	}
	return out
}

// Ensure returns the pair kept as NAME.crt and NAME.key in dir, and issues it when there is none, when
// it is not what r describes, or when it is about to expire. A steady name keeps a running server's
// files unchanged.
func (a *Authority) Ensure(dir, name string, r Request) (KeyPair, error) {
	pair, err := Load(dir, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnmatched) {
		return KeyPair{}, err
	}
	if err == nil && a.satisfies(pair, r) {
		return pair, nil
	}
	if pair, err = a.Issue(r); err != nil {
		return KeyPair{}, err
	}
	return pair, pair.Write(dir, name)
}

func (a *Authority) satisfies(pair KeyPair, r Request) bool {
	cert, _, err := pair.parse()
	if err != nil || cert.CheckSignatureFrom(a.Certificate) != nil || time.Until(cert.NotAfter) < renewBefore {
		return false
	}
	var ips []netip.Addr
	for _, ip := range cert.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip)
		ips = append(ips, addr.Unmap())
	}
	return cert.Subject.CommonName == r.CommonName && slices.Equal(cert.Subject.Organization, r.Organizations) &&
		slices.Equal(cert.DNSNames, r.DNSNames) && slices.Equal(ips, r.IPs) && slices.Equal(cert.ExtKeyUsage, r.usages())
}

// Fingerprint is the SHA-256 of the first certificate in certPEM, in lower-case hexadecimal.
func Fingerprint(certPEM []byte) (string, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:]), nil
}

// PublicKeyHash is what kubeadm calls a CA certificate hash: "sha256:" and that of the public key.
func PublicKeyHash(certPEM []byte) (string, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// ParseCertificate returns the first certificate in certPEM.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// NewKey makes a private key, PEM, for what is no certificate: tokens are signed with it.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return marshalKey(key)
}

// PublicKey returns the public half, PEM, of a key that NewKey made.
func PublicKey(keyPEM []byte) ([]byte, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func newTemplate(commonName string, life time.Duration) (*x509.Certificate, error) {
	// RFC 5280, 4.1.2.2: positive and at most 20 octets.
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now().Add(-backdate)
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now,
		NotAfter:     now.Add(life),
	}, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (KeyPair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := marshalKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), KeyPEM: keyPEM}, nil
}

func marshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	// SEC 1 rather than PKCS #8: kube-controller-manager's token signer reads both, older tools this one only.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "EC PRIVATE KEY" {
		return nil, errors.New("no PEM key")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func (p KeyPair) parse() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := ParseCertificate(p.CertPEM)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(p.KeyPEM)
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errUnmatched
	}
	return cert, key, nil
}

// errUnmatched is what a crash between the writes of a pair's two files leaves.
var errUnmatched = errors.New("the key is not the certificate's")

// Load reads NAME.crt and NAME.key in dir. The error is fs.ErrNotExist when either is missing.
func Load(dir, name string) (KeyPair, error) {
	var p KeyPair
	var err error
	if p.CertPEM, err = os.ReadFile(filepath.Join(dir, name+".crt")); err != nil {
		return KeyPair{}, err
	}
	if p.KeyPEM, err = os.ReadFile(filepath.Join(dir, name+".key")); err != nil {
		return KeyPair{}, err
	}
	if _, _, err := p.parse(); err != nil {
		return KeyPair{}, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return p, nil
}

// Write keeps the pair as NAME.crt and NAME.key in dir: the key first, so that a new pair's
// certificate never stands without it.
func (p KeyPair) Write(dir, name string) error {
	if err := writeFile(filepath.Join(dir, name+".key"), p.KeyPEM, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), p.CertPEM, 0o644)
}

// writeFile replaces a file durably, and leaves one alone that has this content.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return os.Chmod(path, mode)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600 from the start
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
