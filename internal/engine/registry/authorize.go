package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	v2 "github.com/distribution/distribution/v3/registry/api/v2"
)

// maxPage bounds a page of the catalog; distribution answers an error above it where ACR answers less.
const maxPage = 1000

// principal is who a request comes from, and what its token was issued for.
type principal struct {
	id    string // object ID, "" when anonymous
	scope scope  // of the access token
	all   bool   // it came with a refresh token as password: no scope but the principal's rights
}

// may reports whether p may do action on the repository, or on the catalog for "".
// The registry is asked as well as the token, so that a right taken away is gone at once.
func (p principal) may(r *registry, repository, action string) bool {
	return (p.all || p.scope.has(repository, action)) && r.allows(p.id, action)
}

// needs is what a call takes, beside a token: an action on c's repository, or "" for none.
func needs(r *http.Request, c call) string {
	switch c.route {
	case v2.RouteNameBase:
		return ""
	case v2.RouteNameCatalog, routeACRCatalog:
		return List
	case v2.RouteNameBlobUpload, v2.RouteNameBlobUploadChunk:
		return Push
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return Pull
	case http.MethodDelete:
		return Delete
	default:
		return Push
	}
}

// authorize answers the request itself, with a challenge, and returns false unless it may go on.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, c call) (principal, bool) {
	who, err := s.authenticate(r, c.registry)
	action := needs(r, c)
	if err == nil && (action == "" || who.may(c.registry, c.repository, action)) {
		return who, true
	}
	challenge := fmt.Sprintf("Bearer realm=%q,service=%q", "https://"+r.Host+"/oauth2/token", c.registry.LoginServer)
	switch action {
	case "":
	case List:
		challenge += `,scope="registry:catalog:*"`
	case Push:
		if c.isACR() {
			challenge += fmt.Sprintf(",scope=%q", "repository:"+c.repository+":metadata_write")
			break
		}
		challenge += fmt.Sprintf(",scope=%q", "repository:"+c.repository+":pull,push")
	default:
		if c.isACR() && action == Pull {
			action = "metadata_read"
		}
		challenge += fmt.Sprintf(",scope=%q", "repository:"+c.repository+":"+action)
	}
	switch {
	case err == nil:
		challenge += `,error="insufficient_scope"`
	case r.Header.Get("Authorization") != "":
		challenge += `,error="invalid_token"`
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("Www-Authenticate", challenge)
	unauthorized(w)
	return principal{}, false
}

// authenticate reads who the request's Authorization header stands for.
func (s *Server) authenticate(r *http.Request, reg *registry) (principal, error) {
	if user, password, ok := r.BasicAuth(); ok {
		return s.passwordPrincipal(reg, user, password)
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") {
		return principal{}, errNoToken
	}
	claims, err := s.parseToken(reg, strings.TrimSpace(token), accessToken)
	if err != nil {
		return principal{}, err
	}
	return principal{id: claims.Subject, scope: claims.Access}, nil
}

// passwordPrincipal reads who a user name and password stand for: the admin user, or whoever a refresh token was issued to.
func (s *Server) passwordPrincipal(reg *registry, user, password string) (principal, error) {
	if reg.Admin != nil && strings.EqualFold(user, reg.Admin.User) {
		sum := sha256.Sum256([]byte(password))
		given := []byte(hex.EncodeToString(sum[:]))
		for _, want := range reg.Admin.Passwords {
			if subtle.ConstantTimeCompare(given, []byte(want)) == 1 {
				return principal{id: adminID, all: true}, nil
			}
		}
		return principal{}, errors.New("not a password of the admin user")
	}
	claims, err := s.refreshClaims(reg, password)
	if err != nil {
		return principal{}, err
	}
	return principal{id: claims.Subject, all: true}, nil
}

// unauthorized answers in ACR's words: nodes look for the beginning of this message.
func unauthorized(w http.ResponseWriter) {
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization for more information.")
}

// clampPage makes n at most what distribution serves.
func clampPage(r *http.Request) {
	query := r.URL.Query()
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > maxPage {
		query.Set("n", strconv.Itoa(maxPage))
		r.URL.RawQuery = query.Encode()
	}
}
