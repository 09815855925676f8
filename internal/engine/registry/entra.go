package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// isRegistryAudience accepts ACR's own resource, and isARMAudience ARM's two names, whose tokens a registry
// exchanges as well unless its policy says otherwise. A trailing slash makes no difference.
func isRegistryAudience(audience string) bool {
	return strings.TrimSuffix(audience, "/") == "https://containerregistry.azure.net"
}

func isARMAudience(audience string) bool {
	switch strings.TrimSuffix(audience, "/") {
	case "https://management.azure.com", "https://management.core.windows.net":
		return true
	}
	return false
}

// entraVerifier checks the tokens of the installation's Entra-like authority.
type entraVerifier struct {
	keys    jose.JSONWebKeySet
	issuers []string
	tenant  string
}

type entraClaims struct {
	jwt.Claims
	ObjectID string `json:"oid"`
	TenantID string `json:"tid"`
	AppID    string `json:"appid"`
}

// verify returns the claims of a token that is the authority's, current, and meant for a registry, or for ARM where arm is set.
func (v *entraVerifier) verify(token string, arm bool, now time.Time) (entraClaims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256})
	if err != nil {
		return entraClaims{}, err
	}
	keys := v.keys.Keys
	if kid := parsed.Headers[0].KeyID; kid != "" {
		keys = v.keys.Key(kid)
	}
	var c entraClaims
	verified := false
	for _, key := range keys {
		c = entraClaims{}
		// Only public asymmetric keys: a symmetric one in a public set would let its readers sign.
		if key.IsPublic() && parsed.Claims(key, &c) == nil {
			verified = true
			break
		}
	}
	switch {
	case !verified:
		return entraClaims{}, errors.New("no key of the authority verifies the token")
	case c.Expiry == nil:
		return entraClaims{}, errors.New("the token does not expire")
	case !slices.Contains(v.issuers, c.Issuer):
		return entraClaims{}, fmt.Errorf("issuer %q is not trusted", c.Issuer)
	case !slices.ContainsFunc(c.Audience, isRegistryAudience) && !(arm && slices.ContainsFunc(c.Audience, isARMAudience)):
		return entraClaims{}, fmt.Errorf("audience %q is not a registry's", c.Audience)
	case !strings.EqualFold(c.TenantID, v.tenant):
		return entraClaims{}, fmt.Errorf("tenant %q is not this registry's", c.TenantID)
	case c.ObjectID == "":
		return entraClaims{}, errors.New("the token has no oid")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Time: now}, time.Minute); err != nil {
		return entraClaims{}, err
	}
	return c, nil
}
