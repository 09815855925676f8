package registry

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func payload(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", token)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// form posts a form and returns the status and the named token.
func form(t testing.TB, rt http.RoundTripper, address string, values url.Values, name string) (int, string) {
	t.Helper()
	response, err := (&http.Client{Transport: rt}).PostForm(address, values)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	var m map[string]any
	_ = json.Unmarshal(body, &m)
	token, _ := m[name].(string)
	return response.StatusCode, token
}

// access gets an access token as az and containerd do.
func (e *env) access(t testing.TB, host, principal, scope string) (int, string) {
	t.Helper()
	_, refresh := e.exchange(e.private(), host, testAuthority().token(principal, nil))
	return form(t, e.private(), "https://"+host+"/oauth2/token", url.Values{
		"grant_type": {"refresh_token"}, "service": {host}, "scope": {scope}, "refresh_token": {refresh},
	}, "access_token")
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for path, scope := range map[string]string{
		"/v2/":                             "",
		"/v2/_catalog":                     `,scope="registry:catalog:*"`,
		"/v2/x/y/manifests/1":              `,scope="repository:x/y:pull"`,
		"/v2/x/y/tags/list":                `,scope="repository:x/y:pull"`,
		"/v2/x/y/blobs/uploads/":           `,scope="repository:x/y:pull,push"`,
		"/v2/x/y/referrers/" + emptyDigest: `,scope="repository:x/y:pull"`,
	} {
		response, body := get(t, e.private(), "GET", "https://a.azurecr.io"+path, nil)
		want := `Bearer realm="https://a.azurecr.io/oauth2/token",service="a.azurecr.io"` + scope
		if got := response.Header.Get("Www-Authenticate"); response.StatusCode != 401 || got != want {
			t.Errorf("GET %s: %d %s, want %s", path, response.StatusCode, got, want)
		}
		var answer struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &answer); err != nil || len(answer.Errors) != 1 {
			t.Fatalf("GET %s: %s", path, body)
		}
		// The nodes' bootstrap looks for "unauthorized: authentication required" in what oras prints of this.
		if answer.Errors[0].Code != "UNAUTHORIZED" || !strings.HasPrefix(answer.Errors[0].Message, "authentication required") {
			t.Errorf("GET %s: %s", path, body)
		}
	}
}

const emptyDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestRefreshTokenSaysWhatItsHolderMay(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for principal, want := range map[string][]any{
		kubelet:  {"read"},
		pusher:   {"read", "write", "delete"},
		stranger: {}, // how a node finds that AcrPull is missing
	} {
		for _, audience := range []string{"https://management.azure.com/", "https://management.core.windows.net/", "https://containerregistry.azure.net"} {
			status, refresh := e.exchange(e.private(), "a.azurecr.io", testAuthority().token(principal, func(c map[string]any) { c["aud"] = audience }))
			if status != http.StatusOK {
				t.Fatalf("%s with audience %s: %d", principal, audience, status)
			}
			claims := payload(t, refresh)
			if got := claims["permissions"].(map[string]any)["actions"]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s: actions %v, want %v", principal, got, want)
			}
			for claim, want := range map[string]any{
				"iss": "Azure Container Registry", "aud": "a.azurecr.io", "version": "1.0", "grant_type": "refresh_token", "tenant": testTenant, "sub": principal,
			} {
				if claims[claim] != want {
					t.Errorf("%s = %v, want %v", claim, claims[claim], want)
				}
			}
		}
	}
}

func TestExchangeRefusesTokens(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	good := testAuthority().token(kubelet, nil)
	parts := strings.Split(good, ".")
	sign := func(algorithm jose.SignatureAlgorithm, key any, kid string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
		if err != nil {
			t.Fatal(err)
		}
		s, err := jwt.Signed(signer).Claims(payload(t, good)).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	change := func(claim string, value any) string {
		return testAuthority().token(kubelet, func(c map[string]any) {
			if c[claim] = value; value == nil {
				delete(c, claim)
			}
		})
	}
	for name, token := range map[string]string{
		"nothing":                      "",
		"no JWT":                       "x.y.z",
		"expired":                      change("exp", time.Now().Add(-time.Hour).Unix()),
		"not yet valid":                change("nbf", time.Now().Add(time.Hour).Unix()),
		"without expiry":               change("exp", nil),
		"of another issuer":            change("iss", "https://sts.windows.net/other/"),
		"for another audience":         change("aud", "https://graph.microsoft.com"),
		"of another tenant":            change("tid", "99999999-0000-0000-0000-000000000000"),
		"of nobody":                    change("oid", nil),
		"signed by another key":        sign(jose.RS256, other, "k1"),
		"signed by an unknown key":     sign(jose.RS256, other, "k2"),
		"signed with the public key":   sign(jose.HS256, []byte(testAuthority().jwks()), "k1"),
		"unsigned":                     base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"with another's signature":     parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"`+pusher+`"}`)) + "." + parts[2],
		"a refresh token, not Entra's": func() string { _, r := e.exchange(e.private(), "a.azurecr.io", good); return r }(),
	} {
		status, refresh := e.exchange(e.private(), "a.azurecr.io", token)
		if status != http.StatusUnauthorized || refresh != "" {
			t.Errorf("a token %s: %d", name, status)
		}
	}
	for name, values := range map[string]url.Values{
		"another grant type": {"grant_type": {"password"}, "service": {"a.azurecr.io"}, "access_token": {good}},
		"another service":    {"grant_type": {"access_token"}, "service": {"b.azurecr.io"}, "access_token": {good}},
		"a huge body":        {"grant_type": {"access_token"}, "access_token": {strings.Repeat("x", 1<<20)}},
	} {
		if status, _ := form(t, e.private(), "https://a.azurecr.io/oauth2/exchange", values, "refresh_token"); status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, status)
		}
	}
	values := url.Values{"grant_type": {"access_token"}, "tenant": {"other"}, "access_token": {good}}
	if status, _ := form(t, e.private(), "https://a.azurecr.io/oauth2/exchange", values, "refresh_token"); status != http.StatusUnauthorized {
		t.Errorf("another tenant: %d", status)
	}
}

func TestAccessTokenHasOnlyWhatItsHolderMay(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tt := range []struct {
		principal, scope string
		status           int
		want             []any
	}{
		{kubelet, "repository:x:pull", 200, []any{"pull"}},
		{kubelet, "repository:x:pull,push", 200, []any{"pull"}},
		{kubelet, "repository:x:*", 200, []any{"pull", "metadata_read"}},
		{kubelet, "repository:x:push", 401, nil},
		{kubelet, "registry:catalog:*", 200, []any{"*"}},
		{pusher, "repository:x:pull,push", 200, []any{"pull", "push"}},
		{stranger, "repository:x:pull", 401, nil},
		{stranger, "registry:catalog:*", 401, nil},
	} {
		status, token := e.access(t, "a.azurecr.io", tt.principal, tt.scope)
		if status != tt.status {
			t.Errorf("%s asks for %s: %d, want %d", tt.principal, tt.scope, status, tt.status)
			continue
		}
		if status != 200 {
			continue
		}
		entries := payload(t, token)["access"].([]any)
		if got := entries[0].(map[string]any)["actions"]; len(entries) != 1 || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s asks for %s: %v, want %v", tt.principal, tt.scope, entries, tt.want)
		}
	}
}

func TestTokensAreOfOneRegistryAndOneUse(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish("x:1", 64)
	bearer := func(host, token string) int {
		response, _ := get(t, e.private(), "GET", "https://"+host+"/v2/", http.Header{"Authorization": {"Bearer " + token}})
		return response.StatusCode
	}
	_, refresh := e.exchange(e.private(), "a.azurecr.io", testAuthority().token(pusher, nil))
	_, access := e.access(t, "a.azurecr.io", pusher, "repository:x:pull")
	if got := bearer("a.azurecr.io", access); got != 200 {
		t.Errorf("its own registry: %d", got)
	}
	for name, got := range map[string]int{
		"another registry's access token": bearer("b.azurecr.io", access),
		"a refresh token as access token": bearer("a.azurecr.io", refresh),
		"a changed token":                 bearer("a.azurecr.io", access[:len(access)-4]+"AAAA"),
	} {
		if got != 401 {
			t.Errorf("%s: %d", name, got)
		}
	}
	for name, token := range map[string]string{"an access token as refresh token": access, "nothing": ""} {
		status, _ := form(t, e.private(), "https://a.azurecr.io/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}, "access_token")
		if status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
	status, _ := form(t, e.private(), "https://b.azurecr.io/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, "access_token")
	if status != 401 {
		t.Errorf("another registry's refresh token: %d", status)
	}
	e.clock.Store(int64(accessLifetime + time.Second))
	if got := bearer("a.azurecr.io", access); got != 401 {
		t.Errorf("an expired access token: %d", got)
	}
}

func TestRegistryThatIsMadeAgain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, refresh := e.exchange(e.private(), "a.azurecr.io", testAuthority().token(kubelet, nil))
	_, access := e.access(t, "a.azurecr.io", kubelet, "repository:aks-managed-repository/pause:pull")
	e.config.Registries[0].ID += "-again"
	e.apply()
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/", http.Header{"Authorization": {"Bearer " + access}})
	if response.StatusCode != 401 {
		t.Errorf("what the registry before it granted: %d", response.StatusCode)
	}
	values := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "scope": {"repository:aks-managed-repository/pause:pull"}}
	if status, token := form(t, e.private(), "https://a.azurecr.io/oauth2/token", values, "access_token"); status != 200 || token == "" {
		t.Errorf("who may pull from both: %d", status)
	}
	delete(e.config.Registries[0].Access, kubelet)
	e.apply()
	if status, _ := form(t, e.private(), "https://a.azurecr.io/oauth2/token", values, "access_token"); status != 401 {
		t.Errorf("who could pull from the registry before it alone: %d", status)
	}
}

func TestPasswordOfTheNullUser(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, refresh := e.exchange(e.private(), "a.azurecr.io", testAuthority().token(kubelet, nil))
	basic := func(user string) http.Header {
		return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+refresh))}}
	}
	address := "https://a.azurecr.io/oauth2/token?service=a.azurecr.io&scope=repository:x:pull"
	if response, body := get(t, e.private(), "GET", address, basic(nullUser)); response.StatusCode != 200 || !strings.Contains(string(body), "access_token") {
		t.Errorf("null user: %d %s", response.StatusCode, body)
	}
	if response, _ := get(t, e.private(), "GET", address, basic("admin")); response.StatusCode != 401 {
		t.Errorf("another user: %d", response.StatusCode)
	}
	if response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/_catalog", basic(nullUser)); response.StatusCode != 200 {
		t.Errorf("the catalog with a refresh token as password: %d", response.StatusCode)
	}
	values := url.Values{"grant_type": {"password"}, "username": {nullUser}, "password": {refresh}, "scope": {"repository:x:pull"}}
	if status, token := form(t, e.private(), "https://a.azurecr.io/oauth2/token", values, "access_token"); status != 200 || token == "" {
		t.Errorf("password grant: %d", status)
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 512)
	if _, err := e.pull("a.azurecr.io/aks-managed-repository/pause:3.9", e.options(e.private(), e.login("a.azurecr.io", ""))...); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("anonymous pull is off, and: %v", err)
	}
	e.mustPull("b.azurecr.io/pause:3.9", image, e.options(e.private(), e.login("b.azurecr.io", ""))...)

	_, token := get(t, e.private(), "GET", "https://b.azurecr.io/oauth2/token?service=b.azurecr.io&scope=registry:catalog:*", nil)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(token, &answer); err != nil {
		t.Fatal(err)
	}
	// The nodes' probe for anonymous pull is this listing.
	response, _ := get(t, e.private(), "GET", "https://b.azurecr.io/v2/_catalog", http.Header{"Authorization": {"Bearer " + answer.AccessToken}})
	if response.StatusCode != 200 {
		t.Errorf("anonymous catalog: %d", response.StatusCode)
	}
	response, _ = get(t, e.private(), "GET", "https://b.azurecr.io/oauth2/token?scope=repository:x:push", nil)
	if response.StatusCode != 401 {
		t.Errorf("anonymous push: %d", response.StatusCode)
	}
}

func TestRoleThatIsRemovedIsGone(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 512)
	const ref = "a.azurecr.io/aks-managed-repository/pause:3.9"
	auth := e.login("a.azurecr.io", kubelet)
	e.mustPull(ref, image, e.options(e.private(), auth)...)
	_, access := e.access(t, "a.azurecr.io", kubelet, "repository:aks-managed-repository/pause:pull")

	delete(e.config.Registries[0].Access, kubelet)
	e.apply()
	if _, err := e.pull(ref, e.options(e.private(), auth)...); err == nil {
		t.Error("the refresh token still pulls")
	}
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/aks-managed-repository/pause/manifests/3.9", http.Header{
		"Authorization": {"Bearer " + access}, "Accept": {"application/vnd.docker.distribution.manifest.v2+json"},
	})
	if response.StatusCode != 401 {
		t.Errorf("the access token still pulls: %d", response.StatusCode)
	}
}

func FuzzParseScope(f *testing.F) {
	f.Add("repository:a/b:pull,push registry:catalog:*")
	f.Add("repository:a:pull:push")
	f.Add("::: repository::")
	f.Fuzz(func(t *testing.T, s string) {
		for _, entry := range parseScope([]string{s}) {
			if entry.Type == "repository" && !isRepository(entry.Name) || entry.Type == "registry" && entry.Name != "catalog" {
				t.Errorf("%q gave %+v", s, entry)
			}
			if strings.ContainsAny(entry.Name, " \"\n:") {
				t.Errorf("%q gave the name %q", s, entry.Name)
			}
		}
	})
}

func FuzzParseCall(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2/a/b/manifests/1", "/v2/a/blobs/" + emptyDigest, "/v2/a/../b/manifests/1", "/v2//a/manifests/1", "/v2/_catalog", "/v2/a/referrers/" + emptyDigest,
		"/acr/v1/_catalog", "/acr/v1/a/b", "/acr/v1/a/_tags", "/acr/v1/a/_tags/1", "/acr/v1/a/_tags/1/_tags", "/acr/v1/a/_manifests/" + emptyDigest, "/acr/v1/a/_tags/../b"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := &http.Request{Method: "GET", URL: &url.URL{Path: path}, Host: "a.azurecr.io"}
		c, ok := parseCall(r)
		if !ok {
			return
		}
		if c.repository != "" && (!isRepository(c.repository) || !strings.Contains(path, c.repository)) {
			t.Errorf("%q is about repository %q", path, c.repository)
		}
		if needs(r, c) != "" && c.repository == "" && c.route != "catalog" && c.route != routeACRCatalog {
			t.Errorf("%q needs a right on no repository: %+v", path, c)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	s := &Server{keys: &keys{signing: testAuthority().key}, now: time.Now}
	reg := &registry{Registry: Registry{LoginServer: "a.azurecr.io"}, key: "k"}
	good, err := s.issue(reg, time.Hour, claims{GrantType: accessToken})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := s.parseToken(reg, token, accessToken); err == nil && token != good {
			t.Errorf("accepted %q", token)
		}
		_, _ = (&entraVerifier{}).verify(token, true, time.Now())
	})
}
