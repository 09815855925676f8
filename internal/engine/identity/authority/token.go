package authority

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

const (
	// deviceGrant is the grant type of RFC 8628, section 3.4.
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// refreshAudience sets refresh tokens apart from everything a resource would accept.
	refreshAudience = "urn:cloister:refresh"
	// refreshLifetime is Entra's, for clients that are not single-page applications.
	refreshLifetime = 90 * 24 * time.Hour
)

// oidc are the scopes that ask for something of the answer and name no resource.
var oidc = []string{"openid", "profile", "offline_access", "email"}

// grant is a token request understood.
type grant struct {
	principal Principal
	client    string
	audience  string
	scopes    []string
	v1        bool // asked for by resource
}

// token is the token endpoint of both generations: v2 names what the token is for by scope, v1 by resource.
func (a *Authority) token(r *http.Request) (any, error) {
	if err := a.tenant(r); err != nil {
		return nil, err
	}
	if err := r.ParseForm(); err != nil {
		return nil, oauth(http.StatusBadRequest, "invalid_request", 900144, "The request body must be a form: %v.", err)
	}
	form := r.PostForm
	kind, err := require(form, "grant_type")
	if err != nil {
		return nil, err
	}
	client, secret, err := credentials(r, form)
	if err != nil {
		return nil, err
	}
	g := grant{client: client}
	if err := g.target(form, kind); err != nil {
		return nil, err
	}
	switch kind {
	case "client_credentials":
		err = a.clientCredentials(r.Context(), &g, form, secret)
	case "password":
		err = a.password(r.Context(), &g, form)
	case "refresh_token":
		err = a.redeem(r.Context(), &g, form)
	case deviceGrant, "device_code":
		err = a.redeemDevice(r.Context(), &g, form)
	default:
		err = oauth(http.StatusBadRequest, "unsupported_grant_type", 70003,
			"The app requested an unsupported grant type '%.64s'.", kind)
	}
	if err != nil {
		return nil, err
	}
	return a.answer(&g, kind)
}

func require(form url.Values, name string) (string, error) {
	if v := form.Get(name); v != "" {
		return v, nil
	}
	return "", oauth(http.StatusBadRequest, "invalid_request", 900144,
		"The request body must contain the following parameter: '%s'.", name)
}

// credentials are the client's, from the form or, as RFC 6749 section 2.3.1 prefers, the Authorization header.
func credentials(r *http.Request, form url.Values) (client, secret string, err error) {
	if id, password, ok := r.BasicAuth(); ok {
		if client, err = url.QueryUnescape(id); err == nil {
			secret, err = url.QueryUnescape(password)
		}
		if err != nil {
			return "", "", oauth(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided: the Authorization header is malformed.")
		}
		return client, secret, nil
	}
	client, err = require(form, "client_id")
	return client, form.Get("client_secret"), err
}

// target finds the audience.
func (g *grant) target(form url.Values, kind string) error {
	if resource := form.Get("resource"); resource != "" {
		g.audience, g.v1 = resource, true
		return nil
	}
	for _, s := range strings.Fields(form.Get("scope")) {
		if slices.Contains(oidc, s) {
			continue
		}
		resource, isDefault := strings.CutSuffix(s, "/.default")
		if !isDefault {
			if kind == "client_credentials" {
				return oauth(http.StatusBadRequest, "invalid_scope", 1002012,
					"The provided value for scope %.128s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", s)
			}
			if i := strings.LastIndex(s, "/"); i > 0 {
				resource = s[:i]
			} else {
				// A bare permission name is one of Microsoft Graph.
				resource = "https://graph.microsoft.com"
			}
		}
		if g.audience != "" && g.audience != resource {
			return oauth(http.StatusBadRequest, "invalid_request", 28000,
				"Provided value for the input parameter scope is not valid because it contains more than one resource.")
		}
		g.audience = resource
		g.scopes = append(g.scopes, s)
	}
	if g.audience != "" {
		return nil
	}
	switch kind {
	case "client_credentials":
		_, err := require(form, "scope")
		if err == nil {
			err = oauth(http.StatusBadRequest, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid.")
		}
		return err
	}
	// A user who names no resource gets a token for Graph.
	g.audience = "https://graph.microsoft.com"
	return nil
}

func (a *Authority) clientCredentials(ctx context.Context, g *grant, form url.Values, secret string) error {
	p, err := a.Directory.Principal(ctx, g.client)
	// The object ID is found as well, but does not log in.
	if errors.Is(err, ErrNotFound) || err == nil && (p.Type != ServicePrincipal || !strings.EqualFold(p.AppID, g.client)) {
		return oauth(http.StatusBadRequest, "unauthorized_client", 700016,
			"Application with identifier '%.64s' was not found in the directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.", g.client, a.TenantID)
	}
	if err != nil {
		return err
	}
	if secret == "" {
		if form.Get("client_assertion") != "" {
			return oauth(http.StatusUnauthorized, "invalid_client", 700027, "The certificate with identifier used to sign the client assertion is not registered on application.")
		}
		return oauth(http.StatusUnauthorized, "invalid_client", 7000216,
			"'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.")
	}
	switch ok, expired := p.check(secret, a.Now()); {
	case ok:
		g.principal = p
		return nil
	case expired:
		return oauth(http.StatusUnauthorized, "invalid_client", 7000222,
			"The provided client secret keys for app '%s' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds.", p.AppID)
	}
	return oauth(http.StatusUnauthorized, "invalid_client", 7000215,
		"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", p.AppID)
}

func (a *Authority) password(ctx context.Context, g *grant, form url.Values) error {
	name, err := require(form, "username")
	if err != nil {
		return err
	}
	p, err := a.Directory.Principal(ctx, name)
	if errors.Is(err, ErrNotFound) || err == nil && p.Type != User {
		return oauth(http.StatusBadRequest, "invalid_grant", 50034,
			"The user account %.64s does not exist in the %s directory. To sign into this application, the account must be added to the directory.", name, a.TenantID)
	}
	if err != nil {
		return err
	}
	if ok, _ := p.check(form.Get("password"), a.Now()); !ok {
		return oauth(http.StatusBadRequest, "invalid_grant", 50126, "Error validating credentials due to invalid username or password.")
	}
	g.principal = p
	return nil
}

func (a *Authority) redeem(ctx context.Context, g *grant, form url.Values) error {
	value, err := require(form, "refresh_token")
	if err != nil {
		return err
	}
	c, err := a.refresh.Verify(value)
	if errors.Is(err, identity.ErrExpired) {
		return oauth(http.StatusBadRequest, "invalid_grant", 700082, "The refresh token has expired due to inactivity.")
	}
	if err != nil {
		return oauth(http.StatusBadRequest, "invalid_grant", 9002313, "Invalid request. Request is malformed or invalid.")
	}
	if !strings.EqualFold(c.AppID, g.client) {
		return oauth(http.StatusBadRequest, "invalid_grant", 700005,
			"Provided Authorization Code or Refresh Token is intended to use against other client.")
	}
	if form.Get("scope") == "" && form.Get("resource") == "" {
		g.audience = c.Scope // RFC 6749, section 6: what was granted at first
	}
	g.principal, err = a.Directory.Principal(ctx, c.ObjectID)
	if errors.Is(err, ErrNotFound) {
		return oauth(http.StatusBadRequest, "invalid_grant", 50020, "User account does not exist in tenant '%s' any more.", a.TenantID)
	}
	return err
}

// answer issues the tokens of a granted request.
func (a *Authority) answer(g *grant, kind string) (any, error) {
	p := g.principal
	claims := identity.Claims{
		TenantID: a.TenantID, ObjectID: p.ObjectID, AppID: g.client, Audience: g.audience,
		ManagedIdentity: p.ManagedIdentity, Lifetime: a.Lifetime,
	}
	if p.Type == User {
		claims.IDType, claims.Name, claims.UserPrincipalName = identity.User, p.DisplayName, p.UserPrincipalName
		claims.Scope = "user_impersonation"
	}
	access, err := a.issuer.Issue(claims)
	if err != nil {
		return nil, err
	}
	seconds := int(access.ExpiresAt.Sub(access.NotBefore)/time.Second) - 1
	out := map[string]any{"token_type": "Bearer", "access_token": access.Value}
	if g.v1 {
		// The v1 endpoint writes numbers as strings, and absolute times beside them.
		out["resource"] = g.audience
		out["expires_in"], out["ext_expires_in"] = strconv.Itoa(seconds), strconv.Itoa(seconds)
		out["expires_on"] = strconv.FormatInt(access.ExpiresAt.Unix(), 10)
		out["not_before"] = strconv.FormatInt(access.NotBefore.Unix(), 10)
	} else {
		out["expires_in"], out["ext_expires_in"] = seconds, seconds
	}
	if kind == "client_credentials" {
		return out, nil
	}
	refresh, err := a.issuer.Issue(identity.Claims{
		TenantID: a.TenantID, ObjectID: p.ObjectID, AppID: g.client, Audience: refreshAudience,
		IDType: claims.IDType, Scope: g.audience, Lifetime: refreshLifetime,
	})
	if err != nil {
		return nil, err
	}
	id, err := a.issuer.Issue(identity.Claims{
		TenantID: a.TenantID, ObjectID: p.ObjectID, AppID: g.client, Audience: g.client, Version: identity.V2,
		IDType: claims.IDType, Name: p.DisplayName, UserPrincipalName: username(p), Lifetime: a.Lifetime,
	})
	if err != nil {
		return nil, err
	}
	info, err := json.Marshal(map[string]string{"uid": p.ObjectID, "utid": a.TenantID})
	if err != nil {
		return nil, err
	}
	out["scope"] = strings.Join(append(g.scopes, "openid", "profile", "offline_access"), " ")
	out["refresh_token"], out["id_token"] = refresh.Value, id.Value
	out["client_info"] = base64.RawURLEncoding.EncodeToString(info)
	return out, nil
}

// username is what az shows as the account's name.
func username(p Principal) string {
	if p.UserPrincipalName != "" {
		return p.UserPrincipalName
	}
	return p.AppID
}
