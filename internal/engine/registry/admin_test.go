package registry

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestAdminUser(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	hash := func(password string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(password))) }
	e.config.Registries[0].Admin = &Admin{User: "Registry", Passwords: []string{hash("one"), hash("two")}}
	e.apply()
	basic := func(user, password string) authn.Authenticator {
		return &authn.Basic{Username: user, Password: password}
	}
	image := e.push(t, "a.azurecr.io/app:1", 64)
	for _, password := range []string{"one", "two"} {
		e.mustPull("a.azurecr.io/app:1", image, e.options(e.private(), basic("registry", password))...)
	}
	ref, _ := name.ParseReference("a.azurecr.io/app:2")
	if err := remote.Write(ref, image, e.options(e.private(), basic("registry", "two"))...); err != nil {
		t.Errorf("push: %v", err)
	}
	for _, c := range [][2]string{{"registry", "three"}, {"registry", ""}, {"other", "one"}, {"admin", "one"}, {nullUser, "one"}} {
		if _, err := e.pull("a.azurecr.io/app:1", e.options(e.private(), basic(c[0], c[1]))...); err == nil {
			t.Errorf("%q with %q pulls", c[0], c[1])
		}
	}
	if _, err := e.pull("b.azurecr.io/app:1", e.options(e.private(), basic("registry", "one"))...); err == nil {
		t.Error("it is an account of another registry")
	}
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/app/manifests/1", http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("registry:one"))}})
	if response.StatusCode != 200 {
		t.Errorf("without a token: %d", response.StatusCode)
	}
	// Disabled, or with other passwords, it ends with the tokens it got.
	token := e.adminToken(t, "one")
	header := http.Header{"Authorization": {"Bearer " + token}}
	if response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/app/manifests/1", header); response.StatusCode != 200 {
		t.Errorf("its token: %d", response.StatusCode)
	}
	e.config.Registries[0].Admin = nil
	e.apply()
	if response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/app/manifests/1", header); response.StatusCode != 401 {
		t.Errorf("its token after it was disabled: %d", response.StatusCode)
	}
	if e.adminToken(t, "one") != "" {
		t.Error("it is disabled and gets a token")
	}
}

// adminToken is an access token for the admin user of a.
func (e *env) adminToken(t *testing.T, password string) string {
	t.Helper()
	_, token := form(t, e.private(), "https://a.azurecr.io/oauth2/token", url.Values{
		"grant_type": {"password"}, "service": {"a.azurecr.io"}, "username": {"registry"}, "password": {password}, "scope": {"repository:app:pull"},
	}, "access_token")
	return token
}
