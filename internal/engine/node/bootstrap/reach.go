package bootstrap

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// outboundSkipped marks, on AKS, that the outbound check was left out.
var outboundSkipped = []string{"/var/run/outbound-check-skipped", "/opt/azure/outbound-check-skipped"}

// checkOutbound is what OUTBOUND_COMMAND does: curl --insecure to MCR, where any answer will do.
func (r *runner) checkOutbound(ctx context.Context) error {
	if r.config.OutboundURL == "" {
		if r.config.RegistryServer == "" {
			return nil
		}
		marks := map[string]string{}
		for _, path := range outboundSkipped {
			marks[path] = ""
		}
		return r.writeFiles(marks, 0o644)
	}
	p := policy{tries: 20, sleep: 15 * time.Second, timeout: 15 * time.Second}
	err := r.retry(ctx, p, "outbound check", func(ctx context.Context) error {
		transport := r.transport(p)
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.config.OutboundURL, nil)
		if err != nil {
			return &permanent{err}
		}
		_, _, err = do(transport, req)
		return err
	})
	if err != nil {
		return fail(OutboundConnection, "%w", err)
	}
	return nil
}

func (c Config) privateLink() bool { return strings.Contains(c.APIServerName, ".privatelink.") }

// lookupAPIServer resolves the API server's name.
func (r *runner) lookupAPIServer(ctx context.Context) error {
	if _, err := netip.ParseAddr(r.config.APIServerName); err == nil {
		return nil
	}
	p := policy{tries: 300, sleep: time.Second, timeout: 10 * time.Second}
	if r.config.privateLink() {
		p.tries = 600
	}
	err := r.retry(ctx, p, "look up "+r.config.APIServerName, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.connectTimeout(p))
		defer cancel()
		_, err := r.env.LookupHost(ctx, r.config.APIServerName)
		return err
	})
	if err == nil {
		return nil
	}
	if r.nameserver() == AzureDNS.String() {
		return fail(APIServerAzureDNSLookup, "%w", err)
	}
	return fail(APIServerDNSLookup, "%w", err)
}

// nameserver is the first one of resolv.conf.
func (r *runner) nameserver() string {
	f, err := os.Open(r.path("/etc/resolv.conf"))
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			return fields[1]
		}
	}
	return ""
}

// connectAPIServer connects to the API server and, when it has a name, checks its certificate.
func (r *runner) connectAPIServer(ctx context.Context) error {
	name := r.config.APIServerName
	if _, err := netip.ParseAddr(name); err == nil {
		p := policy{tries: 300, sleep: 10 * time.Second, timeout: 10 * time.Second}
		err := r.retry(ctx, p, "connect to the API server", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, r.connectTimeout(p))
			defer cancel()
			conn, err := r.env.Dial(ctx, "tcp", net.JoinHostPort(name, "443"))
			if errors.Is(err, unix.ECONNREFUSED) {
				return &starting{err}
			}
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err != nil {
			return fail(APIServerConnection, "%w", err)
		}
		return nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(r.config.ClusterCA)) {
		return fail(APIServerConnection, "the cluster's certificate authority is not a PEM certificate")
	}
	p := policy{tries: 34, sleep: 15 * time.Second, timeout: 15 * time.Second}
	if r.config.privateLink() {
		p.tries = 68
	}
	err := r.retry(ctx, p, "connect to the API server", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.connectTimeout(p)+3*time.Second)
		defer cancel()
		transport := r.transport(p)
		transport.TLSClientConfig = tlsConfig(roots)
		var reached atomic.Bool
		dial := transport.DialContext
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			reached.Store(err == nil || errors.Is(err, unix.ECONNREFUSED))
			return conn, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+":443/", nil)
		if err != nil {
			return &permanent{err}
		}
		_, _, err = do(transport, req) // 401 and 403 are answers, too
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		if err = diagnose(err); err != nil && reached.Load() && !untrusted {
			return &starting{err}
		}
		return err
	})
	if err != nil {
		return fail(APIServerConnection, "%w", err)
	}
	return nil
}

// tokenWait bounds awaitToken.
const tokenWait = 30 * time.Second

// awaitToken waits until the API server knows the bootstrap token. AKS does not: there the control plane is minutes
// older than the node. Here it is seconds, and a kubelet that is refused once backs off for longer than this
// takes. Whatever comes of it, the kubelet is started, and says itself what is wrong.
func (r *runner) awaitToken(ctx context.Context) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(r.config.ClusterCA))
	transport := r.transport(policy{timeout: tokenWait})
	transport.TLSClientConfig = tlsConfig(roots)
	defer transport.CloseIdleConnections()
	limit := r.scaled(tokenWait)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(r.config.APIServerName, "443")+"/version", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+r.config.BootstrapToken)
		status, _, _, err := doHeader(transport, req)
		if err == nil && status != http.StatusUnauthorized {
			return nil
		}
		select {
		case <-ctx.Done():
			r.logf("the API server does not accept the bootstrap token after %s (status %d, %v)", limit, status, err)
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// diagnose puts into AKS's words why a connection failed.
func diagnose(err error) error {
	if err == nil {
		return nil
	}
	text, reason := err.Error(), ""
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case untrusted, strings.Contains(text, "tls:"), strings.Contains(text, "TLS handshake"):
		reason = "TLS handshake failed"
	case errors.Is(err, unix.ECONNREFUSED):
		reason = "Connection refused"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		reason = "No route to host"
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "timeout"):
		reason = "Connection timed out"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", reason, err)
}
