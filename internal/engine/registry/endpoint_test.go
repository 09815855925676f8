package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestEndpointServesOnlyItsRegistrysMember(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 64)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	e.mustPull("a.azurecr.io/aks-managed-repository/pause:3.9", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	signed := e.blobAddress(t, "a.azurecr.io", "aks-managed-repository/pause", digest)
	query := signed[strings.Index(signed, ".io/")+3:]
	for _, tt := range []struct {
		address, host, path string
		want                int
	}{
		{addrA, "a.azurecr.io", "/v2/", 401},
		{addrA, "A.AzureCR.io", "/v2/", 401},
		{addrA, "b.azurecr.io", "/v2/", 421},
		{addrA, "b.azurecr.io", "/oauth2/token?scope=repository:x:pull", 421}, // b gives anonymous tokens
		{addrA, "a.eastus.data.azurecr.io", query, 421},
		{addrA, "localhost", "/v2/", 421},
		{addrAData, "a.eastus.data.azurecr.io", query, 200},
		{addrAData, "a.azurecr.io", "/v2/", 421},
		{addrAData, "a.eastus.data.azurecr.io", "/v2/", 403},
		{addrBData, "a.eastus.data.azurecr.io", query, 421},
		{addrBData, "b.eastus.data.azurecr.io", query, 403},
		{addrB, "b.azurecr.io", "/v2/", 401},
	} {
		rt := e.transport(map[string]string{"a.azurecr.io": tt.address})
		response, _ := get(t, rt, "GET", "https://a.azurecr.io"+tt.path, http.Header{"Host": {tt.host}})
		if response.StatusCode != tt.want {
			t.Errorf("%s at %s as %s: %d, want %d", tt.path, tt.address, tt.host, response.StatusCode, tt.want)
		}
	}
}

func TestPublicAccess(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 64)
	for _, path := range []string{"/v2/", "/oauth2/token", "/oauth2/exchange", "/v2/x/manifests/1"} {
		response, body := get(t, e.public(), "GET", "https://a.azurecr.io"+path, nil)
		var answer struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		const want = "client with IP '127.0.0.1' is not allowed access. Refer https://aka.ms/acr/firewall to grant access."
		if response.StatusCode != 403 || answer.Errors[0].Code != "DENIED" || answer.Errors[0].Message != want {
			t.Errorf("GET %s: %d %s", path, response.StatusCode, body)
		}
	}
	if response, _ := get(t, e.public(), "GET", "https://a.eastus.data.azurecr.io/", nil); response.StatusCode != 403 {
		t.Errorf("the data endpoint: %d", response.StatusCode)
	}
	if response, _ := get(t, e.public(), "GET", "https://a.azurecr.io/v2/", http.Header{"Host": {"c.azurecr.io"}}); response.StatusCode != 404 {
		t.Errorf("a registry that does not exist: %d", response.StatusCode)
	}
	e.config.Registries[0].PublicAccess = true
	e.apply()
	e.mustPull("a.azurecr.io/aks-managed-repository/pause:3.9", image, e.options(e.public(), e.login("a.azurecr.io", kubelet))...)
}

func TestSignedAddress(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/one:1", 64)
	other := e.push(t, "a.azurecr.io/two:1", 64)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	otherLayers, _ := other.Layers()
	otherDigest, _ := otherLayers[0].Digest()
	signed := e.blobAddress(t, "a.azurecr.io", "one", digest)
	status := func(change func(u *url.URL, q url.Values)) int {
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(u, q)
		u.RawQuery = q.Encode()
		response, _ := get(t, e.private(), "GET", u.String(), nil)
		return response.StatusCode
	}
	if got := status(func(*url.URL, url.Values) {}); got != 200 {
		t.Fatalf("as it was given: %d", got)
	}
	for name, change := range map[string]func(u *url.URL, q url.Values){
		"a later expiry":     func(_ *url.URL, q url.Values) { q.Set("se", "99999999999") },
		"another repository": func(_ *url.URL, q url.Values) { q.Set("repo", "two") },
		"another digest":     func(_ *url.URL, q url.Values) { q.Set("d", otherDigest.String()) },
		"another path": func(u *url.URL, _ url.Values) {
			u.Path = strings.Replace(u.Path, digest.Hex, otherDigest.Hex, 1)
		},
		"another digest and path": func(u *url.URL, q url.Values) {
			q.Set("d", otherDigest.String())
			u.Path = signedPath(e.server.state.Load().registries[storageKey("/subscriptions/s/a")], mustDigest(t, otherDigest.String()))
		},
		"another registry": func(u *url.URL, _ url.Values) { u.Host = "b.eastus.data.azurecr.io" },
		"no signature":     func(_ *url.URL, q url.Values) { q.Del("sig") },
		"a cut signature":  func(_ *url.URL, q url.Values) { q.Set("sig", q.Get("sig")[1:]) },
	} {
		if got := status(change); got != 403 {
			t.Errorf("with %s: %d, want 403", name, got)
		}
	}
	e.clock.Store(int64(signedLifetime + time.Second))
	if got := status(func(*url.URL, url.Values) {}); got != 403 {
		t.Errorf("expired: %d, want 403", got)
	}
}

func TestBlobOfARegistryWithoutDataEndpointIsServedDirectly(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.config.Registries[0].DataEndpoint = ""
	e.config.Registries[0].Endpoints = e.config.Registries[0].Endpoints[:1]
	e.apply()
	image := e.push(t, "a.azurecr.io/one:1", 64)
	e.mustPull("a.azurecr.io/one:1", image, e.options(e.transport(map[string]string{"a.azurecr.io": addrA}), e.login("a.azurecr.io", kubelet))...)
}

func TestDataEndpointThatDoesNotResolveFailsThePull(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish("pause:3.9", 64)
	rt := e.transport(map[string]string{"a.azurecr.io": addrA})
	_, err := e.pull("a.azurecr.io/aks-managed-repository/pause:3.9", e.options(rt, e.login("a.azurecr.io", kubelet))...)
	if err == nil || !strings.Contains(err.Error(), "a.eastus.data.azurecr.io") {
		t.Errorf("err = %v", err)
	}
}

// TestApplyKeepsConnections: a change elsewhere does not touch a connection, and one that removes its endpoint ends it.
func TestApplyKeepsConnections(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	rt := e.private()
	get(t, rt, "GET", "https://a.azurecr.io/v2/", nil)
	dials := e.dials.Load()
	e.config.Registries[0].CacheRules = nil
	e.config.Registries[1].Endpoints[0].ServiceAddress = netip.MustParseAddr("240.0.0.9")
	e.apply()
	get(t, rt, "GET", "https://a.azurecr.io/v2/", nil)
	if e.dials.Load() != dials {
		t.Error("the connection did not survive")
	}
	moved := e.transport(map[string]string{"b.azurecr.io": "240.0.0.9"})
	if response, _ := get(t, moved, "GET", "https://b.azurecr.io/v2/", nil); response.StatusCode != 401 {
		t.Errorf("at the new address: %d", response.StatusCode)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		request, _ := http.NewRequestWithContext(ctx, "GET", "https://b.azurecr.io/v2/", nil)
		response, err := e.private().RoundTrip(request)
		if err != nil {
			break
		}
		response.Body.Close()
		if time.Now().After(deadline) {
			t.Fatal("the old address still answers")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestFaultsStayWithTheirOwner: one registry's bad configuration leaves the others served, and its content alone.
func TestFaultsStayWithTheirOwner(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/one:1", 64)
	login := e.config.Registries[0].LoginServer
	e.config.Registries[0].LoginServer = ""
	e.config.Registries[1].CacheRules = []CacheRule{{"bad", "nonsense", "*"}}
	e.apply()
	if response, _ := get(t, e.private(), "GET", "https://b.azurecr.io/v2/", nil); response.StatusCode != 401 {
		t.Errorf("the other registry: %d", response.StatusCode)
	}
	e.config.Registries[0].LoginServer = login
	e.apply()
	e.mustPull("a.azurecr.io/one:1", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)

	bad := e.config
	bad.JWKS = json.RawMessage(`{"keys":[{"kty":"none"}]}`)
	bad.Certificates = []KeyPair{{CertPEM: "x"}}
	if err := e.server.Apply(bad); err == nil {
		t.Error("a bad certificate was accepted")
	}
	if response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/", nil); response.StatusCode != 401 {
		t.Errorf("after a bad configuration: %d", response.StatusCode)
	}
}

func mustDigest(t *testing.T, s string) digest.Digest {
	t.Helper()
	d, err := digest.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
