package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/app/diagnosis"
	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/privatedns"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

// probe asks the machine what a diagnosis wants to know: from inside the networks, as guests and nodes do.
type probe struct {
	s *Service
	// slots bounds how many questions are under way: each holds a thread in its namespace until it is connected.
	slots chan struct{}
}

const (
	// A SYN that was lost is sent again after a second; whoever has not answered by then does not.
	probePatience = 1500 * time.Millisecond
	// An API server that does not list its pods within this does not answer: everything is on one machine.
	podsPatience = 2 * time.Second
	// probesAtOnce is more than there are questions about a cluster with everything broken.
	probesAtOnce = 16
)

func newProbe(s *Service) probe { return probe{s, make(chan struct{}, probesAtOnce)} }

// enter waits for a slot. A question's patience begins after that: who waits for a slot waits for others, not for an answer.
func (p probe) enter(ctx context.Context) (leave func(), err error) {
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Lookup implements diagnosis.Machine.
func (p probe) Lookup(ctx context.Context, network resourceid.ID, name string) (privatedns.Answer, error) {
	return p.ask(ctx, "vnet-"+projection.NetworkID(network), bootstrap.AzureDNS, name)
}

// LookupAt implements diagnosis.Machine.
func (p probe) LookupAt(ctx context.Context, machine string, server netip.Addr, name string) (privatedns.Answer, error) {
	return p.ask(ctx, "node-"+machine, server, name)
}

// ask asks a DNS server from a namespace.
func (p probe) ask(ctx context.Context, namespace string, server netip.Addr, name string) (privatedns.Answer, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return privatedns.Answer{}, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	const domain = 53
	conn, err := netns.Dial(ctx, p.s.layout.NetNS(namespace), "udp", netip.AddrPortFrom(server, domain).String())
	if err != nil {
		return privatedns.Answer{}, err
	}
	defer conn.Close()
	return privatedns.Ask(ctx, conn, name)
}

// dial connects from a node.
func (p probe) dial(ctx context.Context, machine string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	conn, err := netns.Dial(ctx, p.s.layout.NetNS("node-"+machine), "tcp", to.String())
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return nil, errors.New("no answer")
	}
	return conn, err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// Connect implements diagnosis.Machine.
func (p probe) Connect(ctx context.Context, machine string, to netip.AddrPort) error {
	leave, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	conn, err := p.dial(ctx, machine, to)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Metadata implements diagnosis.Machine.
func (p probe) Metadata(ctx context.Context, machine string) error {
	leave, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	client := p.client(machine, netip.MustParseAddrPort("169.254.169.254:80"))
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://169.254.169.254/metadata/instance?api-version=2021-02-01", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Metadata", "true")
	status, _, err := answer(client, req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("it answers %d", status)
	}
	return err
}

// client speaks HTTP from a node to one address, whatever the name.
func (p probe) client(machine string, to netip.AddrPort) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.s.root.CertPEM)
	return &http.Client{
		Timeout: 2 * probePatience,
		Transport: &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, machine, to) },
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answerLimit is how much of an answer is read: tokens and errors are shorter.
const answerLimit = 64 << 10

func answer(client *http.Client, req *http.Request) (status int, body []byte, err error) {
	resp, err := client.Do(req)
	if err != nil {
		if u := new(url.Error); errors.As(err, &u) {
			err = u.Err // without the address, which may carry a question
		}
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	return resp.StatusCode, body, err
}

// Manifest implements diagnosis.Machine. It goes the way of https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md.
func (p probe) Manifest(ctx context.Context, machine string, q diagnosis.ManifestQuestion) (diagnosis.ManifestAnswer, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return diagnosis.ManifestAnswer{}, err
	}
	defer leave()
	client := p.client(machine, netip.AddrPortFrom(q.Address, 443))
	defer client.CloseIdleConnections()
	base := "https://" + q.Host
	var out diagnosis.ManifestAnswer
	send := func(step, method, path, token string, form url.Values) ([]byte, error) {
		var body io.Reader
		if form != nil {
			body = strings.NewReader(form.Encode())
		}
		req, err := http.NewRequestWithContext(ctx, method, base+path, body)
		if err != nil {
			return nil, err
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		for _, kind := range []string{"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json"} {
			req.Header.Add("Accept", kind)
		}
		status, answer, err := answer(client, req)
		out.Step, out.Status, out.Text = step, status, ""
		if status >= 300 {
			out.Text = refusalText(answer)
		}
		return answer, err
	}
	if _, err := send("/v2/", http.MethodGet, "/v2/", "", nil); err != nil || out.Status == http.StatusForbidden {
		return out, err
	}
	scope := "repository:" + q.Repository + ":pull"
	var tokens struct {
		RefreshToken string `json:"refresh_token"`
		AccessToken  string `json:"access_token"`
	}
	if q.Principal != "" {
		entra, err := p.s.issuer.Issue(identity.Claims{TenantID: p.s.instance.TenantID, ObjectID: q.Principal, AppID: q.ClientID, Audience: "https://containerregistry.azure.net", Lifetime: time.Minute})
		if err != nil {
			return out, err
		}
		body, err := send("/oauth2/exchange", http.MethodPost, "/oauth2/exchange", "", url.Values{
			"grant_type": {"access_token"}, "service": {q.Host}, "tenant": {p.s.instance.TenantID}, "access_token": {entra.Value},
		})
		if err != nil || out.Status != http.StatusOK || json.Unmarshal(body, &tokens) != nil {
			return out, err
		}
		body, err = send("/oauth2/token", http.MethodPost, "/oauth2/token", "", url.Values{
			"grant_type": {"refresh_token"}, "service": {q.Host}, "scope": {scope}, "refresh_token": {tokens.RefreshToken},
		})
		if err != nil || out.Status != http.StatusOK || json.Unmarshal(body, &tokens) != nil {
			return out, err
		}
	} else {
		body, err := send("/oauth2/token", http.MethodGet, "/oauth2/token?"+url.Values{"service": {q.Host}, "scope": {scope}}.Encode(), "", nil)
		if err != nil || out.Status != http.StatusOK || json.Unmarshal(body, &tokens) != nil {
			return out, err
		}
	}
	// GET, since a HEAD's refusal says nothing.
	_, err = send("manifest", http.MethodGet, "/v2/"+q.Repository+"/manifests/"+q.Reference, tokens.AccessToken, nil)
	return out, err
}

// refusalText is what the errors of an answer say (distribution specification, "Error Codes").
func refusalText(body []byte) string {
	var of struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &of) == nil && len(of.Errors) > 0 {
		return of.Errors[0].Code + ": " + of.Errors[0].Message
	}
	return string(bytes.TrimSpace(body[:min(len(body), 200)]))
}

// Provision implements diagnosis.Machine.
func (p probe) Provision(machine string) (bootstrap.Result, error) {
	return p.s.nodes.Provision(machine)
}

// Pods implements diagnosis.Machine.
func (p probe) Pods(ctx context.Context, cluster string) ([]diagnosis.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podsPatience)
	defer cancel()
	waiting, err := p.s.planes.Waiting(ctx, cluster)
	if err != nil {
		return nil, err
	}
	out := make([]diagnosis.Pod, 0, len(waiting))
	for _, w := range waiting {
		out = append(out, diagnosis.Pod(w))
	}
	return out, nil
}
