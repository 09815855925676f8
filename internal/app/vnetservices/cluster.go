package vnetservices

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cloister-dev/cloister/internal/engine/controlplane/approver"
	"github.com/cloister-dev/cloister/internal/engine/controlplane/tunnel"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// cluster is the services of one hosted control plane.
type cluster struct {
	config   Cluster // without what set changes
	log      *slog.Logger
	tunnel   *tunnel.Server
	approver *approver.Approver
	stop     func()

	transport *http.Transport // of the last connection to the API server
}

func newCluster(c Cluster, log *slog.Logger) *cluster {
	k := &cluster{config: c, log: log.With("cluster", c.ID)}
	if c.TunnelSocket != "" {
		k.tunnel = tunnel.New(tunnel.Options{
			Socket: c.TunnelSocket, Log: k.log,
			Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
				return netns.Dial(ctx, c.NetworkNetNS, "tcp", a.String())
			},
		})
	}
	if c.Server != "" {
		k.approver = approver.New(k.connect, k.log)
	}
	return k
}

// same reports whether c can be taken over by set.
func (k *cluster) same(c Cluster) bool {
	a := k.config
	return a.TunnelSocket == c.TunnelSocket && a.NetworkNetNS == c.NetworkNetNS &&
		a.ControlPlaneNetNS == c.ControlPlaneNetNS && a.Server == c.Server && a.Kubeconfig == c.Kubeconfig
}

// set takes over what may change while connections live.
func (k *cluster) set(c Cluster) {
	if k.tunnel != nil {
		k.tunnel.SetPrefixes(c.TunnelPrefixes)
	}
	if k.approver != nil {
		k.approver.SetNodes(c.Nodes)
	}
}

func (k *cluster) run(ctx context.Context) {
	var tasks sync.WaitGroup
	if k.tunnel != nil {
		tasks.Go(func() { keep(ctx, k.log, "API server tunnel", nil, k.tunnel.Run) })
	}
	if k.approver != nil {
		tasks.Go(func() { keep(ctx, k.log, "certificate approver", nil, k.approver.Run) })
	}
	tasks.Wait()
	if k.transport != nil {
		k.transport.CloseIdleConnections()
	}
}

// connect makes a client of the cluster's API. The transport is made here and not by client-go, which
// would keep one for each connection forever: its cache cannot know that two dialers are alike.
func (k *cluster) connect() (v1.CertificateSigningRequestInterface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", k.config.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", k.config.Kubeconfig, err)
	}
	config.UserAgent = "cloister-vnetservices"
	security, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("read the credentials of %s: %w", k.config.Kubeconfig, err)
	}
	if k.transport != nil {
		k.transport.CloseIdleConnections()
	}
	k.transport = &http.Transport{
		// Whatever the kubeconfig calls the server, it is reached here.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return netns.Dial(ctx, k.config.ControlPlaneNetNS, network, k.config.Server)
		},
		TLSClientConfig: security, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		// A watch on a server that vanished without a word is noticed by the missing answer to a ping.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	wrapped, err := rest.HTTPWrappersForConfig(config, k.transport)
	if err != nil {
		return nil, err
	}
	c, err := v1.NewForConfigAndClient(config, &http.Client{Transport: wrapped})
	if err != nil {
		return nil, fmt.Errorf("make a client from %s: %w", k.config.Kubeconfig, err)
	}
	return c.CertificateSigningRequests(), nil
}
