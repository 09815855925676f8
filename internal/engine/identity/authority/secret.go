package authority

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// iterations of PBKDF2. Client secrets are made by machines and long; passwords of users are not.
const iterations = 100_000

// HashSecret returns what a Directory stores in place of a secret.
func HashSecret(secret string) (string, error) { return hashSecret(secret, iterations) }

func hashSecret(secret string, iterations int) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	key, err := pbkdf2.Key(sha256.New, secret, salt, iterations, 32)
	if err != nil {
		return "", fmt.Errorf("hash a secret: %w", err)
	}
	return fmt.Sprintf("pbkdf2-sha256$%d$%s$%s", iterations,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// matches reports whether hash is that of secret.
func matches(hash, secret string) bool {
	parts := strings.Split(hash, "$")
	if len(parts) != 4 || parts[0] != "pbkdf2-sha256" {
		return false
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil || n < 1 || n > 10*iterations {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[3])
	if err != nil || len(want) != 32 {
		return false
	}
	got, err := pbkdf2.Key(sha256.New, secret, salt, n, 32)
	return err == nil && subtle.ConstantTimeCompare(got, want) == 1
}

// check reports whether secret is one of the principal's, and whether that one has expired.
func (p Principal) check(secret string, now time.Time) (ok, expired bool) {
	for _, s := range p.Secrets {
		if !matches(s.Hash, secret) {
			continue
		}
		if s.NotAfter.IsZero() || now.Before(s.NotAfter) {
			return true, false
		}
		expired = true
	}
	return false, expired
}
