package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Why a token was refused. Verify wraps exactly one of them.
var (
	ErrMalformed   = errors.New("the access token is malformed")
	ErrSignature   = errors.New("the access token's signature is invalid")
	ErrExpired     = errors.New("the access token has expired")
	ErrNotYetValid = errors.New("the access token is not valid yet")
	ErrIssuer      = errors.New("the access token is from the wrong issuer")
	ErrAudience    = errors.New("the access token is for the wrong audience")
)

// maxToken bounds what is parsed. Entra's own tokens stay below it even with 200 groups.
const maxToken = 32 << 10

// skew is how far the clocks of issuer and verifier may differ.
const skew = 2 * time.Minute

// KeySource finds a public key by its ID.
type KeySource interface {
	Key(id string) (any, bool)
}

// KeySet is a KeySource with fixed content.
type KeySet struct{ keys map[string]any }

// ParseKeySet reads a JSON Web Key Set.
func ParseKeySet(data []byte) (*KeySet, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	s := &KeySet{keys: map[string]any{}}
	for _, k := range set.Keys {
		if !k.IsPublic() {
			return nil, fmt.Errorf("the key set holds a private key (%s)", k.KeyID)
		}
		s.keys[k.KeyID] = k.Key
	}
	return s, nil
}

// Key returns the key with this ID.
func (s *KeySet) Key(id string) (any, bool) {
	k, ok := s.keys[id]
	return k, ok
}

// Verifier checks tokens: signature, issuer, audience and times.
type Verifier struct {
	Keys KeySource
	// Issuers are the issuers trusted, exactly as in the token; see V1Issuer and V2Issuer.
	Issuers []string
	// Audiences are what the token may be for. A trailing slash and upper case make no difference,
	// as for Azure Resource Manager, which clients name in both ways.
	Audiences []string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Verify returns the claims of a valid token, or an error that wraps one of this package's.
func (v *Verifier) Verify(token string) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxToken)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if len(parsed.Headers) != 1 {
		return Claims{}, fmt.Errorf("%w: %d signatures", ErrMalformed, len(parsed.Headers))
	}
	key, ok := v.Keys.Key(parsed.Headers[0].KeyID)
	if !ok {
		return Claims{}, fmt.Errorf("%w: no signing key %.64q", ErrSignature, parsed.Headers[0].KeyID)
	}
	var w wire
	if err := parsed.Claims(key, &w); err != nil {
		if errors.Is(err, jose.ErrCryptoFailure) {
			return Claims{}, ErrSignature
		}
		return Claims{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	// A token without times would be valid forever.
	if w.Expiry == nil || w.NotBefore == nil {
		return Claims{}, fmt.Errorf("%w: no exp or nbf", ErrMalformed)
	}
	if expires := w.Expiry.Time(); now().After(expires.Add(skew)) {
		return Claims{}, fmt.Errorf("%w: at %s", ErrExpired, expires.UTC().Format(time.RFC3339))
	}
	if from := w.NotBefore.Time(); now().Before(from.Add(-skew)) {
		return Claims{}, fmt.Errorf("%w: not before %s", ErrNotYetValid, from.UTC().Format(time.RFC3339))
	}
	if !slices.Contains(v.Issuers, w.Issuer) {
		return Claims{}, fmt.Errorf("%w %.128q", ErrIssuer, w.Issuer)
	}
	audience, ok := v.audience(w.Audience)
	if !ok {
		return Claims{}, fmt.Errorf("%w %.128q", ErrAudience, []string(w.Audience))
	}
	c := Claims{
		TenantID: w.TenantID, ObjectID: w.ObjectID, Subject: w.Subject, AppID: w.AppID,
		Audience: audience, Version: w.Version, IDType: w.IDType, ManagedIdentity: w.ManagedIdentity,
		Name: w.Name, UserPrincipalName: w.UPN, Scope: w.Scope, Issuer: w.Issuer,
		Lifetime: w.Expiry.Time().Sub(w.NotBefore.Time()),
	}
	if c.AppID == "" {
		c.AppID = w.AuthorizedParty
	}
	if c.UserPrincipalName == "" {
		c.UserPrincipalName = w.PreferredUsername
	}
	return c, nil
}

func (v *Verifier) audience(found jwt.Audience) (string, bool) {
	for _, f := range found {
		for _, want := range v.Audiences {
			if strings.EqualFold(strings.TrimRight(f, "/"), strings.TrimRight(want, "/")) {
				return f, true
			}
		}
	}
	return "", false
}
