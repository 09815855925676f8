package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	tenant = "11111111-1111-1111-1111-111111111111"
	object = "22222222-2222-2222-2222-222222222222"
	arm    = "https://management.azure.com/"
)

func open(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := OpenKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func payload(t *testing.T, token string) map[string]any {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestKeysAreSharedAndSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	// Processes that start at once must not each sign with a key the others do not know.
	all := make([]*Keys, 4)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i], _ = OpenKeys(dir) })
	}
	wg.Wait()
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key file is %o, want 600", info.Mode().Perm())
	}
	first, err := all[0].JWKS()
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range all[1:] {
		other, err := k.JWKS()
		if err != nil || string(other) != string(first) {
			t.Errorf("process %d has other keys: %v", i+1, err)
		}
	}
	if strings.Contains(string(first), `"d"`) {
		t.Error("the key set shows a private exponent")
	}
}

func TestRotationKeepsOldTokensValidInOtherProcesses(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	v := Verifier{Keys: b, Issuers: []string{V1Issuer(tenant)}, Audiences: []string{arm}}
	claims := Claims{TenantID: tenant, ObjectID: object, Audience: arm}
	before, err := NewIssuer(a, nil).Issue(claims)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Rotate(); err != nil {
		t.Fatal(err)
	}
	after, err := NewIssuer(a, nil).Issue(claims)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Split(before.Value, ".")[0] == strings.Split(after.Value, ".")[0] {
		t.Error("both tokens were signed by the same key")
	}
	for name, token := range map[string]string{"before": before.Value, "after": after.Value} {
		if _, err := v.Verify(token); err != nil {
			t.Errorf("token from %s the rotation: %v", name, err)
		}
	}
	jwks, err := b.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseKeySet(jwks)
	if err != nil {
		t.Fatal(err)
	}
	v.Keys = set
	if _, err := v.Verify(before.Value); err != nil {
		t.Errorf("by the published key set: %v", err)
	}
}

func TestTokenHasEntrasClaims(t *testing.T) {
	mirid := "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/kubelet"
	now := time.Unix(1_700_000_000, 0)
	i := NewIssuer(open(t, t.TempDir()), func() time.Time { return now })
	token, err := i.Issue(Claims{TenantID: tenant, ObjectID: object, AppID: "app", Audience: arm, ManagedIdentity: mirid})
	if err != nil {
		t.Fatal(err)
	}
	got := payload(t, token.Value)
	want := map[string]any{
		"aud": arm, "iss": "https://sts.windows.net/" + tenant + "/", "tid": tenant, "oid": object, "sub": object,
		"appid": "app", "idtyp": "app", "ver": "1.0", "xms_mirid": mirid,
		"iat": 1.7e9, "nbf": 1.7e9, "exp": 1.7e9 + 86400,
	}
	for k, v := range want {
		// An audience of one value is a string: clients compare it as one.
		if got[k] != v {
			t.Errorf("%s = %v, want %v", k, got[k], v)
		}
	}

	token, err = i.Issue(Claims{TenantID: tenant, ObjectID: object, AppID: "cli", Audience: "cli", Version: V2, IDType: User, UserPrincipalName: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	got = payload(t, token.Value)
	for k, v := range map[string]any{
		"iss": "https://login.microsoftonline.com/" + tenant + "/v2.0", "azp": "cli", "ver": "2.0", "preferred_username": "ada@example.com",
	} {
		if got[k] != v {
			t.Errorf("%s = %v, want %v", k, got[k], v)
		}
	}
}

func TestVerify(t *testing.T) {
	keys := open(t, t.TempDir())
	now := time.Unix(1_700_000_000, 0)
	at := func(d time.Duration) *Issuer { return NewIssuer(keys, func() time.Time { return now.Add(d) }) }
	good := Claims{TenantID: tenant, ObjectID: object, AppID: "app", Audience: arm, Lifetime: time.Hour}
	issue := func(i *Issuer, change func(*Claims)) string {
		c := good
		if change != nil {
			change(&c)
		}
		token, err := i.Issue(c)
		if err != nil {
			t.Fatal(err)
		}
		return token.Value
	}
	valid := issue(at(0), nil)
	parts := strings.Split(valid, ".")
	forged := func() string {
		m := payload(t, valid)
		m["oid"] = "someone else"
		data, _ := json.Marshal(m)
		return parts[0] + "." + base64.RawURLEncoding.EncodeToString(data) + "." + parts[2]
	}()
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	eternal := func() string {
		signer, err := keys.signer()
		if err != nil {
			t.Fatal(err)
		}
		s, err := jwt.Signed(signer).Claims(map[string]any{"aud": arm, "iss": V1Issuer(tenant), "oid": object}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}()
	// An HMAC under the public key is the classic confusion of algorithms.
	confused := func() string {
		jwks, _ := keys.JWKS()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jwks}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := jwt.Signed(signer).Claims(payload(t, valid)).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}()

	tests := []struct {
		name, token string
		want        error
	}{
		{"valid", valid, nil},
		{"audience without its slash", issue(at(0), func(c *Claims) { c.Audience = "https://Management.azure.com" }), nil},
		{"just expired, within the skew", issue(at(-61*time.Minute), nil), nil},
		{"expired", issue(at(-63*time.Minute), nil), ErrExpired},
		{"from the future", issue(at(3*time.Minute), nil), ErrNotYetValid},
		{"other tenant", issue(at(0), func(c *Claims) { c.TenantID = "other" }), ErrIssuer},
		{"other audience", issue(at(0), func(c *Claims) { c.Audience = "https://vault.azure.net" }), ErrAudience},
		{"foreign key", issue(NewIssuer(open(t, t.TempDir()), func() time.Time { return now }), nil), ErrSignature},
		{"changed payload", forged, ErrSignature},
		{"no signature", unsigned, ErrMalformed},
		{"hmac", confused, ErrMalformed},
		{"no times", eternal, ErrMalformed},
		{"empty", "", ErrMalformed},
		{"words", "not a token", ErrMalformed},
		{"huge", strings.Repeat("a", maxToken+1), ErrMalformed},
	}
	v := Verifier{Keys: keys, Issuers: []string{V1Issuer(tenant)}, Audiences: []string{arm}, Now: func() time.Time { return now }}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := v.Verify(test.token)
			if !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil && (c.ObjectID != object || c.AppID != "app" || c.TenantID != tenant) {
				t.Errorf("claims %+v", c)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	keys, err := OpenKeys(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	token, err := NewIssuer(keys, nil).Issue(Claims{TenantID: tenant, ObjectID: object, Audience: arm})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Value)
	f.Add("..")
	f.Add("eyJhbGciOiJSUzI1NiJ9.e30.")
	v := Verifier{Keys: keys, Issuers: []string{V1Issuer(tenant)}, Audiences: []string{arm}}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := v.Verify(s); err == nil && c.ObjectID != object {
			t.Errorf("accepted %q as %+v", s, c)
		}
	})
}
