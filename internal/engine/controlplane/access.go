package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/cloister-dev/cloister/internal/lib/netns"
	"github.com/cloister-dev/cloister/internal/lib/pki"
	"k8s.io/client-go/rest"
)

// loopback is the API server as seen in its own namespace, where all that is not in the VNet finds it.
const (
	loopbackAddress = "127.0.0.1:443"
	loopback        = "https://" + loopbackAddress
	tunnelSocket    = "tunnel.sock"
)

// TunnelSocket is the socket at which the API server expects the tunnel.
func (e *Engine) TunnelSocket(id string) string { return filepath.Join(e.l.Tunnel(id), tunnelSocket) }

// ApproverKubeconfig is the path of the kubeconfig of the approver of kubelet serving certificates; it
// is to be dialled in the leaf namespace.
func (e *Engine) ApproverKubeconfig(id string) string { return e.path(id, "clients", "approver.conf") }

// ApproverServer is the address of the API server in the leaf namespace.
func (e *Engine) ApproverServer() string { return loopbackAddress }

// AuditLog is the path of the cluster's audit log.
func (e *Engine) AuditLog(id string) string { return e.path(id, "audit", "audit.log") }

// CertificateAuthority is the certificate, PEM, of the authority that clients of the API server trust.
func (e *Engine) CertificateAuthority(id string) ([]byte, error) {
	data, err := os.ReadFile(e.path(id, "pki", "ca.crt"))
	return data, notFound(id, err)
}

// BootstrapToken is what a kubelet joins the cluster with.
func (e *Engine) BootstrapToken(id string) (string, error) {
	data, err := os.ReadFile(e.path(id, "pki", "bootstrap-token"))
	return string(data), notFound(id, err)
}

// AdminKubeconfig is that of a member of system:masters, for a client that reaches the API server at serverURL.
func (e *Engine) AdminKubeconfig(id, serverURL string, names Names) ([]byte, error) {
	return e.kubeconfig(id, "admin", serverURL, names)
}

// UserKubeconfig is what `az aks get-credentials` gives without --admin: on a cluster with local accounts
// and without Entra integration AKS gives the same certificate, under other names.
func (e *Engine) UserKubeconfig(id, serverURL string, names Names) ([]byte, error) {
	return e.kubeconfig(id, "admin", serverURL, names)
}

// Client is Cloister's own access to the API server, as a member of system:masters. Connections are
// made inside the leaf namespace, where the API server listens on the loopback, too.
func (e *Engine) Client(id string) (*rest.Config, error) {
	c, err := e.load(id)
	if err != nil {
		return nil, err
	}
	pair, err := pki.Load(e.path(id, "clients"), "admin")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, notFound(id, err)
		}
		return nil, fmt.Errorf("control plane %s: %w", id, err)
	}
	ca, err := e.CertificateAuthority(id)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            loopback,
		UserAgent:       "cloister",
		QPS:             -1, // the API server has its own priority and fairness
		TLSClientConfig: rest.TLSClientConfig{CAData: ca, CertData: pair.CertPEM, KeyData: pair.KeyPEM},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return netns.Dial(ctx, c.NetNS, network, loopbackAddress)
		},
	}, nil
}
