// Package authority is the identity provider clients log in at: what login.microsoftonline.com and, of
// Microsoft Graph, what the Azure CLI asks for. It answers OpenID discovery, the key set, the token
// endpoints of both generations (v1 by resource, v2 by scope) and of AD FS, and the device code flow.
//
// It stores nothing: principals and the hashes of their secrets come from a Directory. Refresh tokens
// are signed, so they outlive the process; device codes live in memory for fifteen minutes.
//
// Flows: https://learn.microsoft.com/entra/identity-platform/v2-protocols, RFC 6749, RFC 8628.
// Errors: https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
package authority

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/engine/identity"
)

// ErrNotFound is what a Directory returns for a principal it does not have.
var ErrNotFound = errors.New("no such principal")

// Directory is where principals come from.
type Directory interface {
	// Principal returns the principal whose object ID, application ID or user principal name is key,
	// without regard to case, or an error that wraps ErrNotFound.
	Principal(ctx context.Context, key string) (Principal, error)
	// Principals returns all principals.
	Principals(ctx context.Context) ([]Principal, error)
}

// PrincipalType is what a principal is, in the words of Microsoft.Authorization.
type PrincipalType string

// Types of principals.
const (
	User             PrincipalType = "User"
	ServicePrincipal PrincipalType = "ServicePrincipal"
)

// Principal is someone a token can be issued for.
type Principal struct {
	Type              PrincipalType
	ObjectID          string
	AppID             string // service principals: the application (client) ID
	DisplayName       string
	UserPrincipalName string   // users
	ManagedIdentity   string   // ARM ID of the managed identity this service principal belongs to
	Secrets           []Secret // client secrets, or a user's password
}

// Secret is a credential of which only the hash is known; see HashSecret.
type Secret struct {
	Hash     string
	NotAfter time.Time // never, where zero
}

// Options are what an Authority is made of.
type Options struct {
	TenantID  string
	Domains   []string // names a client may give for the tenant, such as contoso.onmicrosoft.com
	Directory Directory
	Keys      *identity.Keys
	// GraphAudiences are the audiences of tokens with which the Graph subset may be read;
	// https://graph.microsoft.com/ where empty.
	GraphAudiences []string
	Lifetime       time.Duration // of access tokens; identity.DefaultLifetime where zero
	Log            *slog.Logger
	Now            func() time.Time // time.Now where nil
}

// Authority is an http.Handler.
type Authority struct {
	Options
	issuer  *identity.Issuer
	refresh identity.Verifier
	graph   identity.Verifier
	devices *devices
	mux     *http.ServeMux
}

// maxBody bounds what a request may send: MSAL's longest forms stay below 10 KiB.
const maxBody = 64 << 10

// New returns an Authority.
func New(o Options) *Authority {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Lifetime == 0 {
		o.Lifetime = identity.DefaultLifetime
	}
	if len(o.GraphAudiences) == 0 {
		o.GraphAudiences = []string{"https://graph.microsoft.com/"}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	issuers := []string{identity.V1Issuer(o.TenantID), identity.V2Issuer(o.TenantID)}
	a := &Authority{
		Options: o,
		issuer:  identity.NewIssuer(o.Keys, o.Now),
		refresh: identity.Verifier{Keys: o.Keys, Issuers: issuers, Audiences: []string{refreshAudience}, Now: o.Now},
		graph:   identity.Verifier{Keys: o.Keys, Issuers: issuers, Audiences: o.GraphAudiences, Now: o.Now},
		devices: newDevices(o.Now),
		mux:     http.NewServeMux(),
	}
	for pattern, h := range map[string]handler{
		"GET /common/discovery/instance":                           a.instance,
		"GET /common/userrealm/{user}":                             a.userRealm,
		"GET /{tenant}/v2.0/.well-known/openid-configuration":      a.discoveryV2,
		"GET /{tenant}/.well-known/openid-configuration":           a.discoveryV1,
		"GET /{tenant}/discovery/v2.0/keys":                        a.keys,
		"GET /{tenant}/discovery/keys":                             a.keys,
		"POST /{tenant}/oauth2/v2.0/token":                         a.token,
		"POST /{tenant}/oauth2/token":                              a.token,
		"POST /{tenant}/oauth2/v2.0/devicecode":                    a.deviceCode,
		"POST /{tenant}/oauth2/devicecode":                         a.deviceCode,
		"GET /adfs/{tenant}/v2.0/.well-known/openid-configuration": a.discoveryV2,
		"GET /v1.0/servicePrincipals":                              a.graphList(ServicePrincipal, "servicePrincipals"),
		"GET /v1.0/servicePrincipals/{id}":                         a.graphGet(ServicePrincipal, "servicePrincipals"),
		"GET /v1.0/users":                                          a.graphList(User, "users"),
		"GET /v1.0/users/{id}":                                     a.graphGet(User, "users"),
		"GET /v1.0/me":                                             a.graphMe,
		"POST /v1.0/directoryObjects/getByIds":                     a.graphByIDs,
	} {
		a.mux.HandleFunc(pattern, a.serve(h))
	}
	a.mux.HandleFunc("GET /device", a.serveDevicePage)
	a.mux.HandleFunc("POST /device", a.serveDevicePage)
	return a
}

func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Serves reports whether the request is one of those answered here, for a host that serves more than this.
func (a *Authority) Serves(r *http.Request) bool {
	_, pattern := a.mux.Handler(r)
	return pattern != ""
}

// handler answers with a document, or fails with an *oauthError, a *graphError or another error.
type handler func(r *http.Request) (any, error)

func (a *Authority) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		header := w.Header()
		header.Set("Content-Type", "application/json; charset=utf-8")
		// RFC 6749, section 5.1: no token may rest in a cache.
		header.Set("Cache-Control", "no-store, no-cache")
		header.Set("Pragma", "no-cache")
		header.Set("X-Content-Type-Options", "nosniff")
		if id := r.Header.Get("client-request-id"); guid.MatchString(id) {
			header.Set("client-request-id", id)
		}
		document, err := h(r)
		status := http.StatusOK
		if err != nil {
			var failed failure
			if !errors.As(err, &failed) {
				a.Log.ErrorContext(r.Context(), "authority request failed", "method", r.Method, "path", r.URL.Path, "error", err)
				failed = serverError()
			}
			status, document = failed.answer(a.Now(), r)
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			json.NewEncoder(w).Encode(document) //nolint:errcheck // the client is gone; there is nobody to tell
		}
	}
}

var (
	guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	// hostname is what may be repeated in the URLs of a document.
	hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?$|^\[[0-9a-fA-F:]{2,39}\](:[0-9]{1,5})?$`)
)

// base is the URL the client reached this authority at. MSAL refuses anything but https.
func base(r *http.Request) string {
	if hostname.MatchString(r.Host) {
		return "https://" + r.Host
	}
	return "https://login.microsoftonline.com"
}

// tenant checks the tenant in the path. Work accounts' aliases mean the one tenant there is.
func (a *Authority) tenant(r *http.Request) error {
	name := strings.ToLower(r.PathValue("tenant"))
	switch name {
	case strings.ToLower(a.TenantID), "organizations", "common", "adfs":
		return nil
	}
	for _, d := range a.Domains {
		if strings.EqualFold(d, name) {
			return nil
		}
	}
	return oauth(http.StatusBadRequest, "invalid_tenant", 90002,
		"Tenant '%.64s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. "+
			"Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.", r.PathValue("tenant"))
}

// segment is the tenant as it appears in the URLs of a document. adfs stays, since MSAL takes an authority
// for AD FS by this word alone; a domain becomes the ID, from which az learns it.
func (a *Authority) segment(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, "/adfs/") {
		return "adfs"
	}
	switch name := strings.ToLower(r.PathValue("tenant")); name {
	case "organizations", "common":
		return name
	}
	return a.TenantID
}

func (a *Authority) discoveryV2(r *http.Request) (any, error) {
	if err := a.tenant(r); err != nil {
		return nil, err
	}
	root, segment := base(r), a.segment(r)
	version := "/v2.0"
	if segment == "adfs" {
		version = ""
	}
	d := a.discovery(root, segment, version)
	// az reads the tenant's ID out of the issuer when it was given a name for the tenant.
	d["issuer"] = root + "/" + a.TenantID + "/v2.0"
	return d, nil
}

func (a *Authority) discoveryV1(r *http.Request) (any, error) {
	if err := a.tenant(r); err != nil {
		return nil, err
	}
	root, segment := base(r), a.segment(r)
	d := a.discovery(root, segment, "")
	d["issuer"] = identity.V1Issuer(a.TenantID)
	if strings.EqualFold(r.PathValue("tenant"), "adfs") {
		d["issuer"] = root + "/" + a.TenantID + "/v2.0"
	}
	return d, nil
}

func (a *Authority) discovery(root, segment, version string) map[string]any {
	oauth2 := root + "/" + segment + "/oauth2" + version
	return map[string]any{
		"token_endpoint":                        oauth2 + "/token",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
		"jwks_uri":                              root + "/" + segment + "/discovery" + version + "/keys",
		"response_modes_supported":              []string{"query"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"response_types_supported":              []string{"code"},
		"grant_types_supported":                 []string{"client_credentials", "refresh_token", "password", deviceGrant},
		"scopes_supported":                      []string{"openid", "profile", "offline_access"},
		"request_uri_parameter_supported":       false,
		// az indexes authorization_endpoint unconditionally; the authorization code flow itself needs a browser and is refused there.
		"authorization_endpoint":        oauth2 + "/authorize",
		"device_authorization_endpoint": oauth2 + "/devicecode",
		"http_logout_supported":         false,
		"claims_supported":              []string{"sub", "iss", "aud", "exp", "iat", "tid", "ver", "oid", "preferred_username"},
		"tenant_region_scope":           nil,
		"cloud_instance_name":           strings.TrimPrefix(root, "https://"),
		"cloud_graph_host_name":         "graph.windows.net",
		"msgraph_host":                  "graph.microsoft.com",
	}
}

func (a *Authority) keys(r *http.Request) (any, error) {
	if err := a.tenant(r); err != nil {
		return nil, err
	}
	set, err := a.Keys.JWKS()
	return json.RawMessage(set), err
}

// instance tells MSAL that the host it is about to use is an authority.
// https://learn.microsoft.com/entra/msal/msal-authentication-flows, "instance discovery".
func (a *Authority) instance(r *http.Request) (any, error) {
	type alias struct {
		PreferredNetwork string   `json:"preferred_network"`
		PreferredCache   string   `json:"preferred_cache"`
		Aliases          []string `json:"aliases"`
	}
	public := alias{
		PreferredNetwork: "login.microsoftonline.com",
		PreferredCache:   "login.windows.net",
		Aliases:          []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
	}
	metadata := []alias{public}
	root := base(r)
	if host := strings.TrimPrefix(root, "https://"); host != public.PreferredNetwork {
		metadata = append(metadata, alias{PreferredNetwork: host, PreferredCache: host, Aliases: []string{host}})
	}
	return map[string]any{
		"tenant_discovery_endpoint": root + "/" + a.TenantID + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata":                  metadata,
	}, nil
}

// userRealm says that every user's password is checked here and not at a federated provider.
func (a *Authority) userRealm(r *http.Request) (any, error) {
	user := r.PathValue("user")
	_, domain, _ := strings.Cut(user, "@")
	return map[string]any{
		"ver":                 "1.0",
		"account_type":        "Managed",
		"domain_name":         domain,
		"cloud_instance_name": "microsoftonline.com",
		"cloud_audience_urn":  "urn:federation:MicrosoftOnline",
	}, nil
}
