// Package freebind listens on addresses the machine may not have yet (IP_FREEBIND, ip(7)), so that a service
// and the network that brings its address may start in any order.
package freebind

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

func config() *net.ListenConfig {
	c := &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	// Go's default since 1.24; of no use here, and one more thing between the option and the socket.
	c.SetMultipathTCP(false)
	return c
}

// Listen is net.Listen for an IPv4 address and port.
func Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return config().Listen(ctx, network, address)
}

// ListenPacket is net.ListenPacket for an IPv4 address and port.
func ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return config().ListenPacket(ctx, network, address)
}
