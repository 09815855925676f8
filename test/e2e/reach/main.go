// Command reach tries to get an answer from addresses, all at once, in the network namespace that it is
// started in. It prints one line for each: what was tried, and "answered" or "no answer" with the cause.
// It is static, so that the same tries can be made on the host, in a node's namespace, on a jump box and
// in a pod.
//
//	reach tcp/198.18.0.10:443 udp/198.18.0.53 icmp/198.18.0.10 tcp/[2001:db8::10]:443 name/mcr.microsoft.com:443
//
// udp asks a DNS question; name looks the host up by the system's resolver and then connects.
//
//	reach appliance FILE
//
// is the other side of a route: it forwards and translates, until there is such a file.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// patience is for how long an answer is waited for. On a way that exists it takes milliseconds.
const patience = 3 * time.Second

func main() {
	if len(os.Args) == 3 && os.Args[1] == "appliance" {
		if err := appliance(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	results := make([]string, len(os.Args)-1)
	var wg sync.WaitGroup
	for i, target := range os.Args[1:] {
		wg.Go(func() {
			results[i] = target + " answered"
			if err := try(target); err != nil {
				results[i] = target + " no answer: " + err.Error()
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		fmt.Println(r)
	}
}

func try(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, address, _ := strings.Cut(target, "/")
	switch kind {
	case "tcp":
		return connect(ctx, address)
	case "udp":
		return ask(ctx, address)
	case "icmp":
		return ping(ctx, address)
	case "name":
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return err
		}
		return connect(ctx, net.JoinHostPort(found[0], port))
	}
	return fmt.Errorf("%q is no kind of try", kind)
}

func connect(ctx context.Context, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func ask(ctx context.Context, server string) error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", net.JoinHostPort(server, "53"))
	}}
	_, err := resolver.LookupNetIP(ctx, "ip4", "mcr.microsoft.com.")
	return err
}

func ping(ctx context.Context, address string) error {
	to, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	id := os.Getpid() & 0xffff
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("reach")}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(1, buffer[:n])
		if err != nil {
			return err
		}
		switch body := m.Body.(type) {
		case *icmp.Echo:
			if m.Type == ipv4.ICMPTypeEchoReply && body.ID == id && from.String() == address {
				return nil
			}
		case *icmp.DstUnreach:
			return errors.New("unreachable, says " + from.String())
		}
	}
}
