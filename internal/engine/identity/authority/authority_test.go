package authority

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenant  = "11111111-1111-1111-1111-111111111111"
	app     = "aaaaaaaa-0000-0000-0000-000000000001"
	appOID  = "bbbbbbbb-0000-0000-0000-000000000001"
	miApp   = "aaaaaaaa-0000-0000-0000-000000000002"
	miOID   = "bbbbbbbb-0000-0000-0000-000000000002"
	userOID = "bbbbbbbb-0000-0000-0000-000000000003"
	cli     = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
	mirid   = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/kubelet"
)

type directory struct {
	mu  sync.Mutex
	all []Principal
}

func (d *directory) Principal(_ context.Context, key string) (Principal, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.all {
		for _, k := range []string{p.ObjectID, p.AppID, p.UserPrincipalName} {
			if k != "" && strings.EqualFold(k, key) {
				return p, nil
			}
		}
	}
	return Principal{}, fmt.Errorf("principal %q: %w", key, ErrNotFound)
}

func (d *directory) Principals(context.Context) ([]Principal, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all, nil
}

type fixture struct {
	*Authority
	t         *testing.T
	directory *directory
	now       time.Time
	host      string
}

func newFixture(t *testing.T) *fixture {
	hash := func(s string) string {
		h, err := hashSecret(s, 10) // fast: the tests try many
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	f := &fixture{t: t, now: time.Unix(1_700_000_000, 0), host: "login.microsoftonline.com"}
	f.directory = &directory{all: []Principal{
		{Type: ServicePrincipal, ObjectID: appOID, AppID: app, DisplayName: "deployer", Secrets: []Secret{
			{Hash: hash("old"), NotAfter: f.now.Add(-time.Hour)}, {Hash: hash("s3cret")},
		}},
		{Type: ServicePrincipal, ObjectID: miOID, AppID: miApp, DisplayName: "kubelet", ManagedIdentity: mirid},
		{Type: User, ObjectID: userOID, DisplayName: "Ada O'Neil", UserPrincipalName: "ada@example.com", Secrets: []Secret{{Hash: hash("pass")}}},
	}}
	keys, err := identity.OpenKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f.Authority = New(Options{TenantID: tenant, Domains: []string{"contoso.onmicrosoft.com"}, Directory: f.directory, Keys: keys,
		Now: func() time.Time { return f.now }})
	return f
}

func (f *fixture) do(method, target string, body string, header http.Header) (int, map[string]any) {
	f.t.Helper()
	r := httptest.NewRequest(method, "https://"+f.host+target, strings.NewReader(body))
	r.Header = header
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	data, _ := io.ReadAll(w.Body)
	var m map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	if err := decoder.Decode(&m); err != nil {
		f.t.Fatalf("%s %s: %d %q is not JSON", method, target, w.Code, data)
	}
	return w.Code, m
}

func (f *fixture) get(target string) (int, map[string]any) {
	return f.do("GET", target, "", http.Header{})
}

func (f *fixture) post(target, form string) (int, map[string]any) {
	return f.do("POST", target, form, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
}

// The requests of az 2.74, as recorded in the wire reference.
const (
	azClaims = "&client_info=1&claims=%7B%22access_token%22%3A+%7B%22xms_cc%22%3A+%7B%22values%22%3A+%5B%22CP1%22%5D%7D%7D%7D"
	azScope  = "&scope=https%3A%2F%2Fmanagement.core.windows.net%2F%2F.default"
)

func claims(t *testing.T, token any) map[string]any {
	t.Helper()
	s, _ := token.(string)
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", s)
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

func expect(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if fmt.Sprint(got[k]) != fmt.Sprint(v) {
			t.Errorf("%s = %v, want %v", k, got[k], v)
		}
	}
}

func TestDiscovery(t *testing.T) {
	tests := []struct{ host, path, token, device, issuer string }{
		{"login.microsoftonline.com", "/" + tenant + "/v2.0/.well-known/openid-configuration",
			"https://login.microsoftonline.com/" + tenant + "/oauth2/v2.0/token", "https://login.microsoftonline.com/" + tenant + "/oauth2/v2.0/devicecode",
			"https://login.microsoftonline.com/" + tenant + "/v2.0"},
		{"localhost:18443", "/organizations/v2.0/.well-known/openid-configuration",
			"https://localhost:18443/organizations/oauth2/v2.0/token", "https://localhost:18443/organizations/oauth2/v2.0/devicecode",
			"https://localhost:18443/" + tenant + "/v2.0"},
		{"localhost:18443", "/adfs/.well-known/openid-configuration",
			"https://localhost:18443/adfs/oauth2/token", "https://localhost:18443/adfs/oauth2/devicecode", "https://localhost:18443/" + tenant + "/v2.0"},
		{"localhost:18443", "/adfs/contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration",
			"https://localhost:18443/adfs/oauth2/token", "https://localhost:18443/adfs/oauth2/devicecode", "https://localhost:18443/" + tenant + "/v2.0"},
		{"login.microsoftonline.com", "/contoso.onmicrosoft.com/.well-known/openid-configuration",
			"https://login.microsoftonline.com/" + tenant + "/oauth2/token", "https://login.microsoftonline.com/" + tenant + "/oauth2/devicecode",
			"https://sts.windows.net/" + tenant + "/"},
	}
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			f := newFixture(t)
			f.host = test.host
			status, got := f.get(test.path)
			if status != 200 {
				t.Fatalf("%d %v", status, got)
			}
			expect(t, got, map[string]any{"token_endpoint": test.token, "device_authorization_endpoint": test.device, "issuer": test.issuer})
			// What the document names must answer.
			u, err := url.Parse(got["jwks_uri"].(string))
			if err != nil {
				t.Fatal(err)
			}
			if status, keys := f.get(u.Path); status != 200 || len(keys["keys"].([]any)) != 1 {
				t.Errorf("%s: %d %v", u, status, keys)
			}
			token, err := url.Parse(test.token)
			if err != nil {
				t.Fatal(err)
			}
			if status, got := f.post(token.Path, "client_id="+app+"&grant_type=client_credentials&client_secret=s3cret"+azClaims+azScope); status != 200 {
				t.Errorf("%s: %d %v", token, status, got)
			}
		})
	}
}

func TestClientCredentials(t *testing.T) {
	f := newFixture(t)
	status, got := f.post("/"+tenant+"/oauth2/v2.0/token", "client_id="+app+"&grant_type=client_credentials&client_secret=s3cret"+azClaims+azScope)
	if status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	expect(t, got, map[string]any{"token_type": "Bearer", "expires_in": 86399})
	if got["refresh_token"] != nil {
		t.Error("a client got a refresh token")
	}
	expect(t, claims(t, got["access_token"]), map[string]any{
		"aud": "https://management.core.windows.net/", "iss": "https://sts.windows.net/" + tenant + "/",
		"oid": appOID, "sub": appOID, "appid": app, "tid": tenant, "idtyp": "app", "ver": "1.0",
	})

	status, got = f.post("/"+tenant+"/oauth2/token", "client_id="+app+"&grant_type=client_credentials&client_secret=s3cret&resource=https%3A%2F%2Fmanagement.azure.com%2F")
	if status != 200 {
		t.Fatalf("v1: %d %v", status, got)
	}
	expect(t, got, map[string]any{"resource": "https://management.azure.com/", "expires_in": "86399", "expires_on": fmt.Sprint(f.now.Unix() + 86400)})

	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"},
		"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(app+":s3cret"))}}
	if status, got := f.do("POST", "/"+tenant+"/oauth2/v2.0/token", "grant_type=client_credentials"+azScope, header); status != 200 {
		t.Errorf("client_secret_basic: %d %v", status, got)
	}
}

func TestTokenErrors(t *testing.T) {
	const ok = "client_id=" + app + "&client_secret=s3cret&grant_type=client_credentials" + azScope
	v2 := "/" + tenant + "/oauth2/v2.0/token"
	tests := []struct {
		name, path, form string
		status           int
		err              string
		code             int
	}{
		{"bad secret", v2, strings.Replace(ok, "s3cret", "wrong", 1), 401, "invalid_client", 7000215},
		{"no secret", v2, strings.Replace(ok, "&client_secret=s3cret", "", 1), 401, "invalid_client", 7000216},
		{"expired secret", v2, strings.Replace(ok, "s3cret", "old", 1), 401, "invalid_client", 7000222},
		{"unknown application", v2, strings.Replace(ok, app, miOID, 1), 400, "unauthorized_client", 700016},
		{"object ID in place of the application's", v2, strings.Replace(ok, app, appOID, 1), 400, "unauthorized_client", 700016},
		{"managed identity has no secret", v2, strings.Replace(ok, app, miApp, 1), 401, "invalid_client", 7000215},
		{"user as a client", v2, strings.Replace(strings.Replace(ok, app, "ada@example.com", 1), "s3cret", "pass", 1), 400, "unauthorized_client", 700016},
		{"other tenant", strings.Replace(v2, tenant, "22222222-2222-2222-2222-222222222222", 1), ok, 400, "invalid_tenant", 90002},
		{"no grant type", v2, "client_id=" + app, 400, "invalid_request", 900144},
		{"no client", v2, "grant_type=client_credentials", 400, "invalid_request", 900144},
		{"no scope", v2, strings.Replace(ok, azScope, "", 1), 400, "invalid_request", 900144},
		{"scope without .default", v2, strings.Replace(ok, ".default", "read", 1), 400, "invalid_scope", 1002012},
		{"two resources", v2, ok + "+https%3A%2F%2Fvault.azure.net%2F.default", 400, "invalid_request", 28000},
		{"unknown grant", v2, strings.Replace(ok, "client_credentials", "implicit", 1), 400, "unsupported_grant_type", 70003},
		{"wrong password", v2, "client_id=" + cli + "&grant_type=password&username=ada%40example.com&password=no" + azScope, 400, "invalid_grant", 50126},
		{"unknown user", v2, "client_id=" + cli + "&grant_type=password&username=bob&password=no" + azScope, 400, "invalid_grant", 50034},
		{"junk refresh token", v2, "client_id=" + cli + "&grant_type=refresh_token&refresh_token=x" + azScope, 400, "invalid_grant", 9002313},
		{"unknown device code", v2, "client_id=" + cli + "&grant_type=" + url.QueryEscape(deviceGrant) + "&device_code=x" + azScope, 400, "expired_token", 70020},
		{"too much", v2, ok + "&pad=" + strings.Repeat("x", maxBody), 400, "invalid_request", 900144},
	}
	f := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f.t = t
			status, got := f.post(test.path, test.form)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			expect(t, got, map[string]any{"error": test.err, "error_codes": []int{test.code}})
			if d, _ := got["error_description"].(string); !strings.HasPrefix(d, fmt.Sprintf("AADSTS%d: ", test.code)) {
				t.Errorf("description %q", d)
			}
		})
	}
}

func TestUserPasswordAndRefresh(t *testing.T) {
	f := newFixture(t)
	if status, got := f.get("/common/userrealm/ada@example.com?api-version=1.0"); status != 200 || got["account_type"] != "Managed" {
		t.Errorf("user realm: %d %v", status, got)
	}
	path := "/organizations/oauth2/v2.0/token"
	status, first := f.post(path, "client_id="+cli+"&grant_type=password&username=Ada%40example.com&password=pass&scope=https%3A%2F%2Fmanagement.azure.com%2F%2F.default+offline_access+openid+profile")
	if status != 200 {
		t.Fatalf("%d %v", status, first)
	}
	expect(t, claims(t, first["access_token"]), map[string]any{"oid": userOID, "idtyp": "user", "upn": "ada@example.com", "scp": "user_impersonation", "aud": "https://management.azure.com/"})
	expect(t, claims(t, first["id_token"]), map[string]any{"preferred_username": "ada@example.com", "tid": tenant, "aud": cli, "oid": userOID})
	info, err := base64.RawURLEncoding.DecodeString(first["client_info"].(string))
	if err != nil || string(info) != `{"uid":"`+userOID+`","utid":"`+tenant+`"}` {
		t.Errorf("client_info %s %v", info, err)
	}

	form := "client_id=" + cli + "&grant_type=refresh_token&scope=https%3A%2F%2Fgraph.microsoft.com%2F%2F.default&refresh_token=" + first["refresh_token"].(string)
	status, second := f.post("/"+tenant+"/oauth2/v2.0/token", form)
	if status != 200 {
		t.Fatalf("refresh: %d %v", status, second)
	}
	expect(t, claims(t, second["access_token"]), map[string]any{"oid": userOID, "aud": "https://graph.microsoft.com/"})

	status, third := f.post(path, "client_id="+cli+"&grant_type=refresh_token&refresh_token="+first["refresh_token"].(string))
	if status != 200 {
		t.Fatalf("refresh without a scope: %d %v", status, third)
	}
	expect(t, claims(t, third["access_token"]), map[string]any{"aud": "https://management.azure.com/"})

	// A refresh token is no access token, an access token no refresh token, and neither is another client's.
	if status, _ := f.do("GET", "/v1.0/me", "", http.Header{"Authorization": {"Bearer " + first["refresh_token"].(string)}}); status != 401 {
		t.Errorf("Graph took a refresh token: %d", status)
	}
	if status, _ := f.post(path, strings.Replace(form, first["refresh_token"].(string), first["access_token"].(string), 1)); status != 400 {
		t.Errorf("an access token was redeemed: %d", status)
	}
	if status, _ := f.post(path, strings.Replace(form, cli, app, 1)); status != 400 {
		t.Errorf("another client redeemed the refresh token: %d", status)
	}
	f.directory.mu.Lock()
	f.directory.all = f.directory.all[:2]
	f.directory.mu.Unlock()
	if status, got := f.post(path, form); status != 400 || got["error"] != "invalid_grant" {
		t.Errorf("a user who is gone: %d %v", status, got)
	}
}

func TestDeviceCode(t *testing.T) {
	for _, prefix := range []string{"/organizations/oauth2/v2.0/", "/adfs/oauth2/"} {
		t.Run(prefix, func(t *testing.T) {
			f := newFixture(t)
			start := func() (user string, form string) {
				status, d := f.post(prefix+"devicecode", "client_id="+cli+"&scope=https%3A%2F%2Fmanagement.core.windows.net%2F%2F.default+offline_access+openid+profile")
				if status != 200 {
					t.Fatalf("%d %v", status, d)
				}
				code := d["device_code"].(string)
				return d["user_code"].(string), "client_id=" + cli + "&grant_type=" + url.QueryEscape(deviceGrant) + azClaims + "&code=" + code + "&device_code=" + code
			}
			user, form := start()
			if status, got := f.post(prefix+"token", form); status != 400 || got["error"] != "authorization_pending" {
				t.Fatalf("before approval: %d %v", status, got)
			}
			if pending := f.PendingDevices(); len(pending) != 1 || pending[0].UserCode != user {
				t.Errorf("pending %v", pending)
			}
			page := func(password string) int {
				r := httptest.NewRequest("POST", "/device", strings.NewReader(url.Values{"user_code": {strings.ToLower(user)}, "username": {"ada@example.com"}, "password": {password}}.Encode()))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				f.ServeHTTP(w, r)
				return w.Code
			}
			if code := page("wrong"); code != 403 {
				t.Errorf("approved with a wrong password: %d", code)
			}
			if status, got := f.post(prefix+"token", form); got["error"] != "authorization_pending" {
				t.Fatalf("after a wrong password: %d %v", status, got)
			}
			if code := page("pass"); code != 200 {
				t.Fatalf("approval: %d", code)
			}
			status, got := f.post(prefix+"token", form)
			if status != 200 {
				t.Fatalf("%d %v", status, got)
			}
			// The audience is that of the first request: the second, as az sends it, names none.
			expect(t, claims(t, got["access_token"]), map[string]any{"oid": userOID, "appid": cli, "aud": "https://management.core.windows.net/"})
			if got["refresh_token"] == nil {
				t.Error("no refresh token")
			}
			if status, got := f.post(prefix+"token", form); status != 400 {
				t.Errorf("a code was redeemed twice: %v", got)
			}

			user, form = start()
			if err := f.DenyDevice(user); err != nil {
				t.Fatal(err)
			}
			if _, got := f.post(prefix+"token", form); got["error"] != "authorization_declined" {
				t.Errorf("denied: %v", got)
			}
			user, form = start()
			f.now = f.now.Add(deviceLifetime + time.Second)
			if err := f.ApproveDevice(t.Context(), user, userOID); err == nil {
				t.Error("an expired code was approved")
			}
			if _, got := f.post(prefix+"token", form); got["error"] != "expired_token" {
				t.Errorf("expired: %v", got)
			}
		})
	}
}

func TestDeviceCodesAreBounded(t *testing.T) {
	f := newFixture(t)
	for range maxDevices {
		if _, _, err := f.devices.start(cli, grant{}); err != nil {
			t.Fatal(err)
		}
	}
	if status, _ := f.post("/common/oauth2/v2.0/devicecode", "client_id="+cli); status != 429 {
		t.Errorf("status %d, want 429", status)
	}
	f.now = f.now.Add(deviceLifetime + time.Second)
	if status, _ := f.post("/common/oauth2/v2.0/devicecode", "client_id="+cli); status != 200 {
		t.Errorf("status after expiry %d, want 200", status)
	}
}

func TestInstanceDiscovery(t *testing.T) {
	f := newFixture(t)
	f.host = "localhost:18443"
	status, got := f.get("/common/discovery/instance?api-version=1.1&authorization_endpoint=https%3A%2F%2Flocalhost%3A18443%2Fcommon%2Foauth2%2Fauthorize")
	data, _ := json.Marshal(got["metadata"])
	if status != 200 || !strings.Contains(string(data), `"localhost:18443"`) || !strings.Contains(string(data), `"login.windows.net"`) {
		t.Errorf("%d %v", status, got)
	}
	f.host = "evil.example/@x"
	r := httptest.NewRequest("GET", "/common/discovery/instance", nil)
	r.Host = f.host
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "evil") {
		t.Errorf("a malformed Host is repeated: %s", w.Body)
	}
}

func TestGraph(t *testing.T) {
	f := newFixture(t)
	_, got := f.post("/"+tenant+"/oauth2/v2.0/token", "client_id="+app+"&grant_type=client_credentials&client_secret=s3cret&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default")
	bearer := http.Header{"Authorization": {"Bearer " + got["access_token"].(string)}}

	if status, got := f.get("/v1.0/servicePrincipals"); status != 401 || got["error"].(map[string]any)["code"] != "InvalidAuthenticationToken" {
		t.Errorf("without a token: %d %v", status, got)
	}
	ids := func(m map[string]any) string {
		var out []string
		for _, o := range m["value"].([]any) {
			out = append(out, o.(map[string]any)["id"].(string))
		}
		return strings.Join(out, " ")
	}
	for filter, want := range map[string]string{
		"": appOID + " " + miOID,
		"servicePrincipalNames/any(c:c eq '" + app + "')":                                    appOID,
		"appId eq '" + strings.ToUpper(miApp) + "'":                                          miOID,
		"startswith(displayName,'DEP')":                                                      appOID,
		"startswith(displayName,'DEP') and appId eq 'nobody'":                                "",
		"startswith(displayName,'DEP') and startswith(displayName,'d') or appId eq 'nobody'": appOID,
		"displayName eq 'kubelet' or displayName eq 'deployer'":                              appOID + " " + miOID,
		"displayName eq 'x or y'":                                                            "",
		"alternativeNames/any(x:x eq '" + mirid + "')":                                       miOID,
	} {
		status, got := f.do("GET", "/v1.0/servicePrincipals?$filter="+url.QueryEscape(filter), "", bearer)
		if status != 200 || ids(got) != want {
			t.Errorf("%q: %d %v, want %q", filter, status, got, want)
		}
	}
	if status, got := f.do("GET", "/v1.0/users?$filter="+url.QueryEscape("displayName eq 'Ada O''Neil'"), "", bearer); status != 200 || ids(got) != userOID {
		t.Errorf("users: %d %v", status, got)
	}
	for _, filter := range []string{"appId ne 'x'", "appId eq 'x' and", "any(", "x/any(a:b eq 'c')"} {
		if status, got := f.do("GET", "/v1.0/servicePrincipals?$filter="+url.QueryEscape(filter), "", bearer); status != 400 {
			t.Errorf("%q: %d %v", filter, status, got)
		}
	}
	if status, got := f.do("GET", "/v1.0/servicePrincipals/"+miOID, "", bearer); status != 200 || got["servicePrincipalType"] != "ManagedIdentity" {
		t.Errorf("by ID: %d %v", status, got)
	}
	if status, _ := f.do("GET", "/v1.0/servicePrincipals/"+userOID, "", bearer); status != 404 {
		t.Errorf("a user as a service principal: %d", status)
	}

	// As recorded from az role assignment list.
	body := `{"ids": ["` + appOID + `", "` + userOID + `", "95a78de3-a160-489a-b7d1-8a9d963e7eda"], "types": ["user", "group", "servicePrincipal", "directoryObjectPartnerReference"]}`
	status, got := f.do("POST", "/v1.0/directoryObjects/getByIds", body, bearer)
	if status != 200 || ids(got) != appOID+" "+userOID {
		t.Fatalf("%d %v", status, got)
	}
	expect(t, got["value"].([]any)[0].(map[string]any), map[string]any{"@odata.type": "#microsoft.graph.servicePrincipal", "displayName": "deployer"})
	if _, got := f.do("POST", "/v1.0/directoryObjects/getByIds", `{"ids":["`+appOID+`","`+userOID+`"],"types":["user"]}`, bearer); ids(got) != userOID {
		t.Errorf("only users: %v", got)
	}
}

func TestSecretsAreHashed(t *testing.T) {
	a, err := HashSecret("s3cret")
	if err != nil {
		t.Fatal(err)
	}
	b, err := HashSecret("s3cret")
	if err != nil {
		t.Fatal(err)
	}
	if a == b || strings.Contains(a, "s3cret") || !strings.Contains(a, "$100000$") {
		t.Errorf("%s %s", a, b)
	}
	if !matches(a, "s3cret") || matches(a, "S3cret") {
		t.Error("the hash does not tell secrets apart")
	}
	for _, broken := range []string{"", "s3cret", "pbkdf2-sha256$1$$", "pbkdf2-sha256$0$AA$AA", "md5$1$AA$AA", "pbkdf2-sha256$9999999999$AA$AA"} {
		if matches(broken, "s3cret") || matches(broken, "") {
			t.Errorf("%q matches", broken)
		}
	}
}

func TestServes(t *testing.T) {
	f := newFixture(t)
	for target, want := range map[string]bool{
		"GET /" + tenant + "/v2.0/.well-known/openid-configuration": true,
		"POST /adfs/oauth2/token":                                   true,
		"GET /v1.0/servicePrincipals?$filter=x":                     true,
		"GET /subscriptions?api-version=2022-12-01":                 false,
		"GET /metadata/endpoints":                                   false,
		"PUT /subscriptions/s/resourcegroups/g":                     false,
		"GET /subscriptions/s/providers/Microsoft.Network":          false,
	} {
		method, path, _ := strings.Cut(target, " ")
		if got := f.Serves(httptest.NewRequest(method, path, nil)); got != want {
			t.Errorf("%s: %v", target, got)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("servicePrincipalNames/any(c:c eq 'spapp')")
	f.Add("startswith(displayName,'a') or appId eq 'b''c'")
	o := object(Principal{Type: ServicePrincipal, AppID: "a", ObjectID: "b"})
	f.Fuzz(func(t *testing.T, s string) {
		if test, err := parseFilter(s); err == nil {
			test(o)
		}
	})
}
