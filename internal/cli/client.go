package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// errNotRunning is what every command says that needs a running installation.
var errNotRunning = errors.New("Cloister is not running here; start it with `cloister up`")

// installation finds the layout of the installation in the data directory by its instance ID, which is
// all that the command line reads of it.
func (g *globals) installation() (layout.Layout, error) {
	data, err := os.ReadFile(filepath.Join(g.dataDir, "instance.json"))
	if errors.Is(err, os.ErrNotExist) {
		return layout.Layout{}, fmt.Errorf("there is no installation in %s; make one with `cloister up`, or name another with --data-dir", g.dataDir)
	} else if err != nil {
		return layout.Layout{}, err
	}
	var in struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(data, &in); err != nil || in.ID == "" {
		return layout.Layout{}, fmt.Errorf("%s/instance.json is damaged; remove the installation with `cloister down --purge`", g.dataDir)
	}
	return layout.New(g.dataDir, g.cacheDir, in.ID), nil
}

// client speaks to the installation's socket.
type client struct {
	http *http.Client
}

func newClient(l layout.Layout) *client {
	return &client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", l.ServeSocket())
			if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
				return nil, errNotRunning
			}
			return c, err
		},
	}}}
}

// connect is newClient for the installation of the flags.
func (g *globals) connect() (*client, layout.Layout, error) {
	l, err := g.installation()
	if err != nil {
		return nil, l, err
	}
	return newClient(l), l, nil
}

// do sends a request; answer may be nil. The response is returned open when stream is true.
func (c *client) do(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	resp, err := c.open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// open sends a request and returns the response when its status is of the 200s.
func (c *client) open(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(data)
	}
	u := url.URL{Scheme: "http", Host: "cloister", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, errNotRunning) {
			return nil, errNotRunning
		}
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the service ended before it answered; start it with `cloister up`: %w", err)
		}
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var fault struct {
		Error struct{ Code, Message string }
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(data, &fault) == nil && fault.Error.Message != "" {
		return nil, fmt.Errorf("(%s) %s", fault.Error.Code, fault.Error.Message)
	}
	return nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
}

func (c *client) status(ctx context.Context) (adminapi.Status, error) {
	var s adminapi.Status
	err := c.do(ctx, http.MethodGet, "/cloister/v1/status", nil, nil, &s)
	return s, err
}

func (c *client) token(ctx context.Context) (adminapi.Token, error) {
	var t adminapi.Token
	err := c.do(ctx, http.MethodPost, "/cloister/v1/token", nil, struct{}{}, &t)
	return t, err
}

// Connect returns how a command reaches the running installation, and who it is there.
func Connect(ctx context.Context, g Globals) (*http.Client, adminapi.Token, error) {
	c, err := connected(g)
	if err != nil {
		return nil, adminapi.Token{}, err
	}
	t, err := c.token(ctx)
	return c.http, t, err
}

func connected(g Globals) (*client, error) {
	c, _, err := (&globals{dataDir: g.DataDir(), cacheDir: g.CacheDir()}).connect()
	return c, err
}

// Token is a token of the local administrator for a resource.
func Token(ctx context.Context, g Globals, resource string) (string, error) {
	c, err := connected(g)
	if err != nil {
		return "", err
	}
	var t adminapi.Token
	err = c.do(ctx, http.MethodPost, "/cloister/v1/token", nil, map[string]string{"resource": resource}, &t)
	return t.AccessToken, err
}
