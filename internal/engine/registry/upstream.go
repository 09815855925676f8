package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

const (
	manifestTimeout = 45 * time.Second
	headerTimeout   = 30 * time.Second // until an upstream begins to answer
	maxManifest     = 4 << 20          // as distribution's
)

// errNotUpstream means that the upstream answered, and has no such thing or shows it to nobody.
var errNotUpstream = errors.New("not found upstream")

// upstream pulls from the registries that Config.Upstreams names and from nowhere else: whatever name
// a redirect or token server has is dialled through the same table.
type upstream struct {
	hosts  map[string]string
	netns  string
	roots  string // PEM, to tell whether a new Config changes anything
	puller *remote.Puller
}

func newUpstream(c Config, old *upstream, dial func(ctx context.Context, netns, address string) (net.Conn, error), log *slog.Logger) (*upstream, error) {
	u := &upstream{hosts: map[string]string{}, netns: c.PublicNetNS}
	for host, address := range c.Upstreams {
		u.hosts[strings.ToLower(host)] = address
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if c.CAFile != "" {
		data, err := os.ReadFile(c.CAFile)
		if err == nil && !pool.AppendCertsFromPEM(data) {
			err = fmt.Errorf("%s holds no certificate", c.CAFile)
		}
		// What is stored can be served all the same.
		if err != nil {
			log.Error("upstreams will not be trusted", "error", err)
		}
		u.roots = string(data)
	}
	if old != nil && old.netns == u.netns && old.roots == u.roots && maps.Equal(old.hosts, u.hosts) {
		return old, nil // with its connections and tokens
	}
	rt := &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
		DisableCompression:    true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host := strings.ToLower(hostname(address))
			to, ok := u.hosts[host]
			if !ok {
				return nil, fmt.Errorf("there is no way to upstream %s", host)
			}
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return dial(ctx, u.netns, to)
		},
	}
	u.puller, err = remote.NewPuller(
		remote.WithTransport(rt),
		remote.WithUserAgent("cloister"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 2}),
	)
	return u, err
}

// repository is o as go-containerregistry has it.
func (o origin) named() (name.Repository, error) {
	// Docker Hub's API is not at the name its images carry.
	host := o.host
	if host == "docker.io" {
		host = name.DefaultRegistry
	}
	registry, err := name.NewRegistry(host, name.StrictValidation)
	if err != nil {
		return name.Repository{}, err
	}
	return registry.Repo(o.repository), nil
}

// manifest fetches what the reference, a tag or digest, names. A digest is verified.
func (u *upstream) manifest(ctx context.Context, o origin, reference string) (mediaType string, payload []byte, err error) {
	repository, err := o.named()
	if err != nil {
		return "", nil, err
	}
	var ref name.Reference = repository.Tag(reference)
	if _, err := digest.Parse(reference); err == nil {
		ref = repository.Digest(reference)
	}
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	d, err := u.puller.Get(ctx, ref)
	if err != nil {
		return "", nil, upstreamError(o, err)
	}
	if len(d.Manifest) > maxManifest {
		return "", nil, fmt.Errorf("the manifest of %s at %s is larger than %d bytes", reference, o, maxManifest)
	}
	return string(d.MediaType), d.Manifest, nil
}

// blob begins to fetch a blob. The reader fails at its end when the content does not have the digest.
func (u *upstream) blob(ctx context.Context, o origin, d digest.Digest) (content io.ReadCloser, size int64, err error) {
	repository, err := o.named()
	if err != nil {
		return nil, 0, err
	}
	layer, err := u.puller.Layer(ctx, repository.Digest(d.String()))
	if err != nil {
		return nil, 0, upstreamError(o, err)
	}
	if size, err = layer.Size(); err != nil {
		return nil, 0, upstreamError(o, err)
	}
	if size < 0 {
		return nil, 0, fmt.Errorf("%s does not say how large %s is", o, d)
	}
	if content, err = layer.Compressed(); err != nil {
		return nil, 0, upstreamError(o, err)
	}
	return content, size, nil
}

// upstreamError tells "it has no such thing" from every other failure. Registries answer 401 and 403
// for repositories that do not exist.
func upstreamError(o origin, err error) error {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: %s answered %d", errNotUpstream, o.host, answer.StatusCode)
		}
	}
	return fmt.Errorf("fetch from %s: %w", o, err)
}
