package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// The token flow of https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md: an Entra token buys a
// refresh token of the registry, that buys access tokens scoped to repositories.

const (
	tokenIssuer = "Azure Container Registry"
	// nullUser is the user name that goes with a refresh token as password.
	nullUser = "00000000-0000-0000-0000-000000000000"

	refreshLifetime = 3 * time.Hour
	accessLifetime  = 5 * time.Minute
	maxForm         = 64 << 10

	refreshToken = "refresh_token"
	accessToken  = "access_token"
)

var errNoToken = errors.New("no token")

// claims are those of a refresh or access token.
type claims struct {
	jwt.Claims
	Version     string       `json:"version"`
	RegistryID  string       `json:"rid"`
	Tenant      string       `json:"tenant,omitempty"`
	AppID       string       `json:"appid,omitempty"`
	GrantType   string       `json:"grant_type"`
	Permissions *permissions `json:"permissions,omitempty"`
	Access      scope        `json:"access,omitempty"`
	Roles       []string     `json:"roles"`
}

// permissions says in a refresh token what its holder may do. A node reads it to find a missing AcrPull.
type permissions struct {
	Actions    []string `json:"actions"`
	NotActions []string `json:"notActions"`
}

func (s *Server) serveExchange(w http.ResponseWriter, r *http.Request, st *state, reg *registry) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "use POST")
		return
	}
	if !readForm(w, r) {
		return
	}
	switch r.PostForm.Get("grant_type") {
	case "access_token", "access_token_refresh_token":
	default:
		fail(w, http.StatusBadRequest, "BAD_REQUEST", "grant_type must be access_token or access_token_refresh_token")
		return
	}
	if !isService(reg, r.PostForm.Get("service")) {
		fail(w, http.StatusBadRequest, "BAD_REQUEST", "service must be "+reg.LoginServer)
		return
	}
	if tenant := r.PostForm.Get("tenant"); tenant != "" && !strings.EqualFold(tenant, st.entra.tenant) {
		unauthorized(w)
		return
	}
	entra, err := st.entra.verify(r.PostForm.Get("access_token"), !reg.OnlyRegistryTokens, s.now())
	if err != nil {
		s.log.Info("exchange refused", "registry", reg.LoginServer, "error", err)
		unauthorized(w)
		return
	}
	p := &permissions{Actions: []string{}, NotActions: []string{}}
	for _, a := range [][2]string{{Pull, "read"}, {Push, "write"}, {Delete, "delete"}} {
		if reg.allows(entra.ObjectID, a[0]) {
			p.Actions = append(p.Actions, a[1])
		}
	}
	token, err := s.issue(reg, refreshLifetime, claims{
		Claims: jwt.Claims{Subject: entra.ObjectID}, GrantType: refreshToken,
		Tenant: entra.TenantID, AppID: entra.AppID, Permissions: p,
	})
	s.answerToken(w, refreshToken, token, err)
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, reg *registry) {
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET, POST")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "use GET or POST")
		return
	}
	if !readForm(w, r) {
		return
	}
	if !isService(reg, r.Form.Get("service")) {
		fail(w, http.StatusBadRequest, "BAD_REQUEST", "service must be "+reg.LoginServer)
		return
	}
	user, secret, basic := r.BasicAuth()
	switch r.PostForm.Get("grant_type") {
	case "refresh_token":
		user, secret, basic = nullUser, r.PostForm.Get("refresh_token"), true
	case "password":
		user, secret, basic = r.PostForm.Get("username"), r.PostForm.Get("password"), true
	case "":
		if r.Method == http.MethodPost {
			fail(w, http.StatusBadRequest, "BAD_REQUEST", "grant_type must be refresh_token or password")
			return
		}
	default:
		fail(w, http.StatusBadRequest, "BAD_REQUEST", "grant_type must be refresh_token or password")
		return
	}
	id := ""
	if basic {
		who, err := s.passwordPrincipal(reg, user, secret)
		if err != nil || user != nullUser && who.id != adminID {
			s.log.Info("token refused", "registry", reg.LoginServer, "user", user, "error", err)
			unauthorized(w)
			return
		}
		id = who.id
	} else if !reg.AnonymousPull {
		unauthorized(w)
		return
	}
	asked := parseScope(r.Form["scope"])
	granted := asked.grant(reg, id)
	if len(asked) > 0 && len(granted) == 0 {
		unauthorized(w)
		return
	}
	token, err := s.issue(reg, accessLifetime, claims{Claims: jwt.Claims{Subject: id}, GrantType: accessToken, Access: granted})
	s.answerToken(w, accessToken, token, err)
}

// readForm reads the query and a bounded form body, and answers itself when it cannot.
func readForm(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "BAD_REQUEST", "the form cannot be read")
		return false
	}
	return true
}

// isService accepts a client that names the registry it talks to, or none.
func isService(reg *registry, service string) bool {
	return service == "" || strings.EqualFold(hostname(service), reg.LoginServer)
}

func (s *Server) answerToken(w http.ResponseWriter, name, token string, err error) {
	if err != nil {
		s.log.Error("issue token", "error", err)
		fail(w, http.StatusInternalServerError, "UNKNOWN", "the token could not be signed")
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]string{name: token})
}

// issue signs c for the registry.
func (s *Server) issue(reg *registry, lifetime time.Duration, c claims) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.keys.signing}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	now := s.now()
	c.ID = uuid.NewString()
	c.Issuer = tokenIssuer
	c.Audience = jwt.Audience{reg.LoginServer}
	c.IssuedAt, c.NotBefore, c.Expiry = jwt.NewNumericDate(now), jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(lifetime))
	c.Version, c.RegistryID, c.Roles = "1.0", reg.key, []string{}
	return jwt.Signed(signer).Claims(c).Serialize()
}

// parseToken checks a token that issue made for the registry.
func (s *Server) parseToken(reg *registry, token, grantType string) (claims, error) {
	if token == "" {
		return claims{}, errNoToken
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return claims{}, err
	}
	var c claims
	if err := parsed.Claims(&s.keys.signing.PublicKey, &c); err != nil {
		return claims{}, err
	}
	// What a deleted registry granted is nothing to its successor of the name. Who somebody is, is: nodes keep a refresh
	// token for ten minutes, and would be refused so long by a registry that AKS made again.
	if c.GrantType != grantType || grantType == accessToken && c.RegistryID != reg.key || c.Expiry == nil {
		return claims{}, fmt.Errorf("not a %s of this registry", grantType)
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: tokenIssuer, AnyAudience: jwt.Audience{reg.LoginServer}, Time: s.now()}, 0)
	return c, err
}

// refreshClaims checks a refresh token.
func (s *Server) refreshClaims(reg *registry, token string) (claims, error) {
	return s.parseToken(reg, token, refreshToken)
}
