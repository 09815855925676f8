package identity

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// DefaultLifetime is how long a token lives whose Claims name no lifetime. az shows 86399 seconds of it.
const DefaultLifetime = 24 * time.Hour

// Versions of the token format. A resource chooses the version of its access tokens; those of
// Azure Resource Manager and of Azure Container Registry are V1. Identity tokens are V2.
const (
	V1 = "1.0"
	V2 = "2.0"
)

// Kinds of principals, as the idtyp claim names them.
const (
	App  = "app"
	User = "user"
)

// Claims are what a token says of its holder and its audience.
type Claims struct {
	TenantID string
	ObjectID string // oid
	Subject  string // sub; the object ID where empty
	AppID    string // appid (V1) or azp (V2): the client that asked for the token
	Audience string
	Version  string // V1 where empty
	IDType   string // App where empty

	ManagedIdentity string // xms_mirid: the ARM ID of the managed identity

	Name              string // display name of a user
	UserPrincipalName string // upn (V1), preferred_username (V2)
	Scope             string // scp: delegated permissions

	Lifetime time.Duration // DefaultLifetime where zero
	Issuer   string        // the issuer found by a Verifier; an Issuer derives it
}

// Token is a signed token and the times in it.
type Token struct {
	Value     string
	Audience  string
	NotBefore time.Time
	ExpiresAt time.Time
}

// V1Issuer is the issuer of a tenant's V1 tokens.
func V1Issuer(tenant string) string { return "https://sts.windows.net/" + tenant + "/" }

// V2Issuer is the issuer of a tenant's V2 tokens.
func V2Issuer(tenant string) string { return "https://login.microsoftonline.com/" + tenant + "/v2.0" }

// wire is the payload of a token.
type wire struct {
	Audience          jwt.Audience     `json:"aud"`
	Issuer            string           `json:"iss"`
	IssuedAt          *jwt.NumericDate `json:"iat"`
	NotBefore         *jwt.NumericDate `json:"nbf"`
	Expiry            *jwt.NumericDate `json:"exp"`
	AIO               string           `json:"aio,omitempty"`
	AppID             string           `json:"appid,omitempty"`
	AppIDACR          string           `json:"appidacr,omitempty"`
	AuthorizedParty   string           `json:"azp,omitempty"`
	IdentityProvider  string           `json:"idp,omitempty"`
	IDType            string           `json:"idtyp,omitempty"`
	Name              string           `json:"name,omitempty"`
	ObjectID          string           `json:"oid"`
	PreferredUsername string           `json:"preferred_username,omitempty"`
	Scope             string           `json:"scp,omitempty"`
	Subject           string           `json:"sub"`
	TenantID          string           `json:"tid"`
	UniqueName        string           `json:"unique_name,omitempty"`
	UPN               string           `json:"upn,omitempty"`
	UniqueTokenID     string           `json:"uti"`
	Version           string           `json:"ver"`
	ManagedIdentity   string           `json:"xms_mirid,omitempty"`
}

// Issuer makes tokens.
type Issuer struct {
	keys *Keys
	now  func() time.Time
}

// NewIssuer returns an Issuer that signs with keys. now is the clock; nil is time.Now.
func NewIssuer(keys *Keys, now func() time.Time) *Issuer {
	if now == nil {
		now = time.Now
	}
	return &Issuer{keys: keys, now: now}
}

// Issue signs a token with these claims.
func (i *Issuer) Issue(c Claims) (Token, error) {
	switch {
	case c.TenantID == "":
		return Token{}, errors.New("issue a token: no tenant")
	case c.ObjectID == "":
		return Token{}, errors.New("issue a token: no object ID")
	case c.Audience == "":
		return Token{}, errors.New("issue a token: no audience")
	case c.Lifetime < 0:
		return Token{}, errors.New("issue a token: negative lifetime")
	}
	if c.Subject == "" {
		c.Subject = c.ObjectID
	}
	if c.Version == "" {
		c.Version = V1
	}
	if c.IDType == "" {
		c.IDType = App
	}
	if c.Lifetime == 0 {
		c.Lifetime = DefaultLifetime
	}
	now := i.now().Truncate(time.Second)
	w := wire{
		Audience:        jwt.Audience{c.Audience},
		IssuedAt:        jwt.NewNumericDate(now),
		NotBefore:       jwt.NewNumericDate(now),
		Expiry:          jwt.NewNumericDate(now.Add(c.Lifetime)),
		IDType:          c.IDType,
		Name:            c.Name,
		ObjectID:        c.ObjectID,
		Scope:           c.Scope,
		Subject:         c.Subject,
		TenantID:        c.TenantID,
		UniqueTokenID:   uuid.NewString(),
		Version:         c.Version,
		ManagedIdentity: c.ManagedIdentity,
	}
	switch c.Version {
	case V1:
		w.Issuer = V1Issuer(c.TenantID)
		w.IdentityProvider = w.Issuer
		w.AppID = c.AppID
		w.UPN, w.UniqueName = c.UserPrincipalName, c.UserPrincipalName
		if c.IDType == App {
			// 1: a secret proved the client; 2: a certificate, as managed identities use inside Azure.
			w.AppIDACR = "1"
			if c.ManagedIdentity != "" {
				w.AppIDACR = "2"
			}
		}
	case V2:
		w.Issuer = V2Issuer(c.TenantID)
		w.AuthorizedParty = c.AppID
		w.PreferredUsername = c.UserPrincipalName
	default:
		return Token{}, fmt.Errorf("issue a token: unknown version %q", c.Version)
	}
	signer, err := i.keys.signer()
	if err != nil {
		return Token{}, fmt.Errorf("issue a token: %w", err)
	}
	value, err := jwt.Signed(signer).Claims(w).Serialize()
	if err != nil {
		return Token{}, fmt.Errorf("sign a token: %w", err)
	}
	return Token{Value: value, Audience: c.Audience, NotBefore: now, ExpiresAt: now.Add(c.Lifetime)}, nil
}
