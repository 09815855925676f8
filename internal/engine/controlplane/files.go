package controlplane

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/pki"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The components, each with a container and a directory of its own.
const (
	etcd              = "etcd"
	apiserver         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

var components = []string{etcd, apiserver, controllerManager, scheduler}

// Who the API server takes its clients for.
const (
	userAdmin         = "masterclient" // AKS's name for it
	userApprover      = "cloister:kubelet-serving-approver"
	userKubeletClient = "kube-apiserver-kubelet-client"
	groupMasters      = "system:masters"
)

// authorities are a cluster's.
type authorities struct{ cluster, etcd, frontProxy *pki.Authority }

func (e *Engine) authorities(id string) (a authorities, err error) {
	dir := e.path(id, "pki")
	if a.cluster, err = pki.OpenAuthority(dir, "ca", "ca"); err != nil {
		return a, err
	}
	if a.etcd, err = pki.OpenAuthority(dir, "etcd-ca", "etcd-ca"); err != nil {
		return a, err
	}
	a.frontProxy, err = pki.OpenAuthority(dir, "front-proxy-ca", "front-proxy-ca")
	return a, err
}

// writeFiles writes all that the containers read. Each sees its own directory only: a scheduler has no
// use for the key that signs certificates.
func (e *Engine) writeFiles(c Config) error {
	a, err := e.authorities(c.ID)
	if err != nil {
		return err
	}
	for _, dir := range []string{"data", "audit"} {
		if err := os.MkdirAll(e.path(c.ID, dir), 0o700); err != nil {
			return err
		}
	}
	// The API server's container binds the tunnel's directory, not its socket, which the other end
	// makes anew at each start.
	if err := os.MkdirAll(e.l.Tunnel(c.ID), 0o700); err != nil {
		return err
	}
	loopbackIP := netip.MustParseAddr("127.0.0.1")
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, name := range append([]string{c.FQDN, c.PrivateFQDN}, c.Names...) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range []struct {
		authority       *pki.Authority
		component, name string
		request         pki.Request
	}{
		{a.etcd, etcd, "server", pki.Request{CommonName: "etcd", IPs: []netip.Addr{loopbackIP}, Server: true, Client: true}},
		{a.etcd, apiserver, "etcd-client", pki.Request{CommonName: "kube-apiserver", Client: true}},
		{a.cluster, apiserver, "server", pki.Request{CommonName: "apiserver", DNSNames: names,
			IPs: c.addresses(loopbackIP), Server: true}},
		{a.cluster, apiserver, "kubelet-client", pki.Request{CommonName: userKubeletClient, Client: true}},
		{a.frontProxy, apiserver, "front-proxy-client", pki.Request{CommonName: "front-proxy-client", Client: true}},
		{a.cluster, controllerManager, "server", pki.Request{CommonName: controllerManager, IPs: []netip.Addr{loopbackIP}, Server: true}},
		{a.cluster, scheduler, "server", pki.Request{CommonName: scheduler, IPs: []netip.Addr{loopbackIP}, Server: true}},
		{a.cluster, "clients", "admin", pki.Request{CommonName: userAdmin, Organizations: []string{groupMasters}, Client: true}},
		{a.cluster, "clients", "approver", pki.Request{CommonName: userApprover, Client: true}},
		{a.cluster, "clients", "controller-manager", pki.Request{CommonName: "system:kube-controller-manager", Client: true}},
		{a.cluster, "clients", "scheduler", pki.Request{CommonName: "system:kube-scheduler", Client: true}},
		{a.cluster, "clients", "metrics-server", pki.Request{CommonName: "metrics-server", DNSNames: []string{"metrics-server.kube-system.svc"}, Server: true}},
	} {
		if _, err := p.authority.Ensure(e.path(c.ID, p.component), p.name, p.request); err != nil {
			return fmt.Errorf("certificate %s/%s: %w", p.component, p.name, err)
		}
	}

	accountKey, err := e.keep(c.ID, "pki/sa.key", pki.NewKey)
	if err != nil {
		return err
	}
	accountPub, err := pki.PublicKey(accountKey)
	if err != nil {
		return err
	}
	encryption, err := e.keep(c.ID, "pki/encryption.yaml", newEncryption)
	if err != nil {
		return err
	}
	if _, err := e.keep(c.ID, "pki/bootstrap-token", newBootstrapToken); err != nil {
		return err
	}
	clusterKey, err := os.ReadFile(e.path(c.ID, "pki", "ca.key"))
	if err != nil {
		return err
	}
	files := map[string][]byte{
		etcd + "/ca.crt":                   a.etcd.CertPEM,
		apiserver + "/ca.crt":              a.cluster.CertPEM,
		apiserver + "/etcd-ca.crt":         a.etcd.CertPEM,
		apiserver + "/front-proxy-ca.crt":  a.frontProxy.CertPEM,
		apiserver + "/sa.key":              accountKey,
		apiserver + "/sa.pub":              accountPub,
		apiserver + "/encryption.yaml":     encryption,
		apiserver + "/audit-policy.yaml":   []byte(auditPolicy),
		apiserver + "/egress.yaml":         []byte(c.egress()),
		controllerManager + "/ca.crt":      a.cluster.CertPEM,
		controllerManager + "/ca.key":      clusterKey,
		controllerManager + "/sa.key":      accountKey,
		controllerManager + "/client.conf": nil,
		scheduler + "/client.conf":         nil,
		"clients/approver.conf":            nil,
	}
	for file, client := range map[string]string{
		controllerManager + "/client.conf": "controller-manager", scheduler + "/client.conf": "scheduler", "clients/approver.conf": "approver",
	} {
		if files[file], err = e.kubeconfig(c.ID, client, loopback, Names{Cluster: c.ID, User: client, Context: client}); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := writeChanged(e.path(c.ID, name), data); err != nil {
			return err
		}
	}
	return nil
}

// fixed are the files that a component reads at its start only: a change of one must restart it.
// Certificates of servers, and clients' given as files, are read again by themselves.
var fixed = map[string][]string{
	etcd:              {"ca.crt"},
	apiserver:         {"etcd-ca.crt", "sa.key", "encryption.yaml", "audit-policy.yaml", "egress.yaml"},
	controllerManager: {"ca.crt", "ca.key", "sa.key", "client.conf"},
	scheduler:         {"client.conf"},
}

func (e *Engine) fixedHash(id, component string) (string, error) {
	h := sha256.New()
	for _, name := range fixed[component] {
		data, err := os.ReadFile(e.path(id, component, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(data))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// keep returns the file's content, and makes it once.
func (e *Engine) keep(id, name string, make func() ([]byte, error)) ([]byte, error) {
	path := e.path(id, filepath.FromSlash(name))
	data, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = make(); err != nil {
		return nil, err
	}
	return data, atomicfile.Write(path, data, 0o600)
}

func writeChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return atomicfile.Write(path, data, 0o600)
}

func newEncryption() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox:
      keys:
      - name: key1
        secret: %s
  - identity: {}
`, base64.StdEncoding.EncodeToString(key)), nil
}

// newBootstrapToken is ID.SECRET, six and sixteen characters of a-z0-9
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
func newBootstrapToken() ([]byte, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, 23)
	var b [1]byte
	for len(out) < 23 {
		if len(out) == 6 {
			out = append(out, '.')
			continue
		}
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		if int(b[0]) < 256-256%len(alphabet) { // else the first letters would come more often
			out = append(out, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return out, nil
}

// addresses are all those that clients of the API server dial.
func (c Config) addresses(loopback netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range slices.Concat([]netip.Addr{c.kubernetesServiceIP(), c.EndpointAddress, c.ServiceAddress}, c.Addresses, []netip.Addr{loopback}) {
		if a.IsValid() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func (c Config) egress() string {
	if c.Direct {
		return directEgress
	}
	return tunnelledEgress
}

// Everything is dialled from the namespace.
const directEgress = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: Direct
- name: controlplane
  connection:
    proxyProtocol: Direct
- name: etcd
  connection:
    proxyProtocol: Direct
`

// Nodes, pods and Services are reached through the tunnel; etcd is next door.
const tunnelledEgress = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      uds:
        udsName: /run/tunnel/` + tunnelSocket + `
- name: controlplane
  connection:
    proxyProtocol: Direct
- name: etcd
  connection:
    proxyProtocol: Direct
`

// The policy leaves out what control plane and nodes do all the time, and never logs the content of
// what may be secret.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"]
- level: None
  resources:
  - group: ""
    resources: [events]
  - group: events.k8s.io
  - group: coordination.k8s.io
    resources: [leases]
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:apiserver"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes"]
  resources:
  - group: ""
    resources: ["nodes/status", "pods/status"]
- level: Metadata
`

// Names are what a kubeconfig calls its entries.
type Names struct{ Cluster, User, Context string }

// kubeconfig renders one with the client certificate called client.
func (e *Engine) kubeconfig(id, client, server string, names Names) ([]byte, error) {
	pair, err := pki.Load(e.path(id, "clients"), client)
	if err != nil {
		return nil, notFound(id, err)
	}
	ca, err := e.CertificateAuthority(id)
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[names.Cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[names.User] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.CertPEM, ClientKeyData: pair.KeyPEM}
	config.Contexts[names.Context] = &clientcmdapi.Context{Cluster: names.Cluster, AuthInfo: names.User}
	config.CurrentContext = names.Context
	return clientcmd.Write(*config)
}

func notFound(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return err
}
