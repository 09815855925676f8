package vnetservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/identity/metadata"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/lib/freebind"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// Where a virtual network finds its services: the fabric puts these addresses on the loopback of each
// network's namespace, so equal addresses of two networks never meet.
const (
	dnsAddress      = "168.63.129.16:53"
	metadataAddress = "169.254.169.254:80"
)

// maxMetadataConnections bounds the connections one network can hold.
const maxMetadataConnections = 256

// network is the services of one virtual network.
type network struct {
	id, netns string
	log       *slog.Logger
	dns       *privatedns.Server
	metadata  *metadata.Server
	guests    atomic.Pointer[map[netip.Addr]Guest]
	stop      func()
}

func newNetwork(c Network, view *privatedns.View, issuer *identity.Issuer, log *slog.Logger) *network {
	n := &network{id: c.ID, netns: c.NetNS, log: log.With("network", c.ID), dns: privatedns.NewServer(view)}
	n.setGuests(c.Guests)
	n.metadata = metadata.New(n.guest, issuer, n.log)
	return n
}

func (n *network) setGuests(guests []Guest) {
	byAddress := map[netip.Addr]Guest{}
	for _, g := range guests {
		for _, a := range g.Addresses {
			byAddress[a.Unmap()] = g
		}
	}
	n.guests.Store(&byAddress)
}

func (n *network) guest(a netip.Addr) (Guest, bool) {
	g, ok := (*n.guests.Load())[a]
	return g, ok
}

// run serves in the namespace that is pinned at the network's path, whichever that is at the time.
func (n *network) run(ctx context.Context, m *mounts) {
	keep(ctx, n.log, "services of the network", m.Changed, func(ctx context.Context) error {
		for {
			changed := m.Changed()
			space, ok := namespace(n.netns)
			if ok {
				if err := n.serve(ctx, space, m); err != nil || ctx.Err() != nil {
					return err
				}
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// inode tells namespaces apart.
type inode struct{ device, number uint64 }

// namespace returns which network namespace is pinned at path, if one is.
func namespace(path string) (inode, bool) {
	var st unix.Stat_t
	if !netns.Is(path) || unix.Stat(path, &st) != nil {
		return inode{}, false
	}
	return inode{st.Dev, st.Ino}, true
}

// serve opens the sockets and serves on them until another namespace, or none, is pinned at the path.
func (n *network) serve(ctx context.Context, space inode, m *mounts) error {
	var packets net.PacketConn
	var dns, http80 net.Listener
	err := netns.Do(n.netns, func() (err error) {
		// The address may come after the namespace; a socket bound freely does not mind.
		if packets, err = freebind.ListenPacket(ctx, "udp4", dnsAddress); err != nil {
			return err
		}
		if dns, err = freebind.Listen(ctx, "tcp4", dnsAddress); err != nil {
			return err
		}
		http80, err = freebind.Listen(ctx, "tcp4", metadataAddress)
		return err
	})
	if err != nil {
		if packets != nil {
			packets.Close()
		}
		if dns != nil {
			dns.Close()
		}
		return fmt.Errorf("listen in %s: %w", n.netns, err)
	}
	n.log.InfoContext(ctx, "serving", "namespace", n.netns)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		for {
			changed := m.Changed()
			if now, ok := namespace(n.netns); !ok || now != space {
				return nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	group.Go(func() error { return n.dns.Serve(ctx, packets, dns) })
	group.Go(func() error {
		server := newHTTPServer(n.metadata, n.log)
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		if err := server.Serve(netutil.LimitListener(http80, maxMetadataConnections)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}
