package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// Outside makes a client that stands where a workstation does, in a session of its own: public Azure names are
// the installation's there. end ends the session.
func Outside(ctx context.Context, g Globals) (outside *http.Client, end func(), err error) {
	c, err := connected(g)
	if err != nil {
		return nil, nil, err
	}
	held, cancel := context.WithCancel(ctx) // the session lasts as long as its connection
	resp, err := c.open(held, http.MethodPost, "/cloister/v1/sessions", nil, adminapi.SessionRequest{})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	end = func() {
		cancel()
		_ = resp.Body.Close()
	}
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	var s adminapi.Session
	if err == nil {
		err = json.Unmarshal(line, &s)
	}
	roots := x509.NewCertPool()
	if err == nil && len(s.Nameservers) == 0 {
		err = errors.New("it has no DNS server")
	}
	if err == nil && !roots.AppendCertsFromPEM([]byte(s.CABundle)) {
		err = errors.New("it has no certificates")
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("open a session: %w", err)
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return netns.Dial(ctx, s.NetNS, network, address)
	}
	names := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, net.JoinHostPort(s.Nameservers[0], "53"))
	}}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			found, err := names.LookupNetIP(ctx, "ip4", host)
			if err != nil {
				return nil, err
			}
			return dial(ctx, "tcp4", net.JoinHostPort(found[0].String(), port))
		},
	}}, end, nil
}
