package bootstrap

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const orasConfig = "/etc/oras/config.yaml"

// errUnauthorized is the registry's answer to who may not list it without a login.
var errUnauthorized = errors.New("unauthorized: authentication required")

// login is oras_login_with_kubelet_identity of cse_helpers.sh: it finds out whether the registry serves
// everyone, and if not exchanges the kubelet identity's token for the registry's.
func (r *runner) login(ctx context.Context) (authn.Authenticator, error) {
	id := r.config.Identity
	if id.ClientID == "" || id.TenantID == "" {
		r.logf("no kubelet identity is given: the registry is taken to serve everyone")
		return authn.Anonymous, nil
	}
	host := r.config.registryHost()
	anonymous, err := r.probe(ctx, host)
	if err != nil {
		return nil, err
	}
	if anonymous {
		r.logf("%s serves everyone", host)
		return authn.Anonymous, nil
	}
	refresh, err := r.exchange(ctx, host)
	if err != nil {
		return nil, err
	}
	if err := assertRefreshToken(refresh, "read"); err != nil {
		return nil, fail(OrasPullUnauthorized, "%s: %w", host, err)
	}
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"identitytoken": refresh}}})
	if err != nil {
		return nil, err
	}
	if err := r.writeFiles(map[string]string{orasConfig: string(config)}, 0o600); err != nil {
		return nil, err
	}
	return authn.FromConfig(authn.AuthConfig{IdentityToken: refresh}), nil
}

// probe lists the registry as nobody, as `oras repo ls` does.
func (r *runner) probe(ctx context.Context, host string) (anonymous bool, err error) {
	p := policy{tries: 10, timeout: time.Minute}
	err = r.retry(ctx, p, "list "+host+" without a login", func(ctx context.Context) error {
		err := r.catalog(ctx, p, host)
		if errors.Is(err, errUnauthorized) {
			return &permanent{err}
		}
		return err
	})
	if err == nil {
		return true, nil
	}
	if errors.Is(err, errUnauthorized) {
		return false, nil
	}
	return false, fail(OrasPullNetworkTimeout, "%w", err)
}

func (r *runner) catalog(ctx context.Context, p policy, host string) error {
	transport := r.transport(p)
	get := func(address, token string) (int, http.Header, []byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return 0, nil, nil, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return doHeader(transport, req)
	}
	defer transport.CloseIdleConnections()
	list := "https://" + host + "/v2/_catalog"
	status, header, body, err := get(list, "")
	if err != nil {
		return err
	}
	if status == http.StatusUnauthorized {
		realm, query, ok := bearerChallenge(header.Get("WWW-Authenticate"))
		if !ok {
			return refusal(list, status, body)
		}
		var token []byte
		address := realm + "?" + query.Encode()
		status, _, token, err = get(address, "")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return refusal(address, status, token)
		}
		var answer struct {
			Token       string `json:"token"`
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal(token, &answer); err != nil {
			return fmt.Errorf("%s: %w", realm, err)
		}
		if answer.AccessToken == "" {
			answer.AccessToken = answer.Token
		}
		if status, _, body, err = get(list, answer.AccessToken); err != nil {
			return err
		}
	}
	if status != http.StatusOK {
		return refusal(list, status, body)
	}
	return nil
}

func refusal(address string, status int, body []byte) error {
	address, _, _ = strings.Cut(address, "?")
	if status == http.StatusUnauthorized && bytes.Contains(bytes.ToLower(body), []byte("authentication required")) {
		return fmt.Errorf("GET %s: %w", address, errUnauthorized)
	}
	return fmt.Errorf("GET %s: answered %d: %s", address, status, bytes.TrimSpace(body[:min(len(body), 300)]))
}

// bearerChallenge reads a WWW-Authenticate header (RFC 6750, with the scope of the distribution specification).
func bearerChallenge(header string) (realm string, query url.Values, ok bool) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil, false
	}
	query = url.Values{}
	for rest != "" {
		var key, value string
		if key, rest, ok = strings.Cut(strings.TrimLeft(rest, ", "), "=\""); !ok {
			break
		}
		if value, rest, ok = strings.Cut(rest, "\""); !ok {
			break
		}
		if key == "realm" {
			realm = value
		} else {
			query.Set(key, value)
		}
	}
	return realm, query, strings.HasPrefix(realm, "https://")
}

// exchange gets the registry's refresh token for the kubelet identity.
func (r *runner) exchange(ctx context.Context, host string) (string, error) {
	var lastErr error
	for _, resource := range []string{"https://containerregistry.azure.net", "https://management.azure.com/"} {
		token, err := r.identityToken(ctx, resource)
		if err != nil {
			return "", err
		}
		refresh, err := r.exchangeToken(ctx, host, token)
		if err == nil {
			return refresh, nil
		}
		if codeOf(err) != OrasPullUnauthorized {
			return "", err
		}
		r.logf("token for %s: %v", resource, err)
		lastErr = err
	}
	return "", lastErr
}

// identityToken asks the instance metadata service for the kubelet identity's token.
func (r *runner) identityToken(ctx context.Context, resource string) (string, error) {
	p := policy{tries: 5, sleep: 15 * time.Second, timeout: time.Minute}
	query := url.Values{"api-version": {"2018-02-01"}, "resource": {resource}, "client_id": {r.config.Identity.ClientID}}
	var token string
	answered := false
	err := r.retry(ctx, p, "token of the kubelet identity", func(ctx context.Context) error {
		status, body, err := r.imds(ctx, p, "/metadata/identity/oauth2/token?"+query.Encode())
		if err != nil {
			return err
		}
		answered = true
		if status != http.StatusOK {
			return fmt.Errorf("the instance metadata service answered %d: %s", status, bytes.TrimSpace(body[:min(len(body), 300)]))
		}
		var answer struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
			return fmt.Errorf("the instance metadata service's answer holds no access token (%w)", err)
		}
		token = answer.AccessToken
		return nil
	})
	switch {
	case err == nil:
		return token, nil
	case !answered:
		return "", fail(OrasIMDSTimeout, "%w", err)
	default:
		return "", fail(OrasPullUnauthorized, "%w", err)
	}
}

func (r *runner) exchangeToken(ctx context.Context, host, token string) (string, error) {
	p := policy{tries: 10, sleep: 5 * time.Second, timeout: time.Minute}
	form := url.Values{"grant_type": {"access_token"}, "service": {host}, "tenant": {r.config.Identity.TenantID}, "access_token": {token}}.Encode()
	var body []byte
	err := r.retry(ctx, p, "exchange of the kubelet identity's token", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/oauth2/exchange", strings.NewReader(form))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if _, body, err = do(r.transport(p), req); err != nil {
			return err
		}
		if len(body) == 0 {
			return errors.New("empty answer")
		}
		return nil
	})
	if err != nil {
		return "", fail(OrasPullNetworkTimeout, "%w", err)
	}
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	// AKS looks for the word error in the body, whatever the status.
	if bytes.Contains(body, []byte("error")) || json.Unmarshal(body, &answer) != nil || answer.RefreshToken == "" {
		return "", fail(OrasPullUnauthorized, "%s refuses the kubelet identity: %s", host, bytes.TrimSpace(body[:min(len(body), 300)]))
	}
	return answer.RefreshToken, nil
}

// assertRefreshToken reads the token's claims, as AKS does: without the claim it is an ABAC token, whose
// rights are per repository.
func assertRefreshToken(token, action string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("the refresh token is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fmt.Errorf("the refresh token's payload: %w", err)
	}
	var claims struct {
		Permissions *struct {
			Actions []string `json:"actions"`
		} `json:"permissions"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return fmt.Errorf("the refresh token's payload: %w", err)
	}
	if claims.Permissions != nil && !slices.Contains(claims.Permissions.Actions, action) {
		return fmt.Errorf("the kubelet identity may not %s the registry (its permissions are %q): it needs the role AcrPull there", action, claims.Permissions.Actions)
	}
	return nil
}
