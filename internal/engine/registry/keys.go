package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// keys are the secrets of this process. They are on disk because tokens, signed addresses and uploads
// must survive a restart.
type keys struct {
	SigningKey   []byte // PKCS #8, P-256: signs refresh and access tokens
	URLSecret    []byte // signs blob addresses
	UploadSecret string // distribution's, of upload states

	signing *ecdsa.PrivateKey
}

func openKeys(path string) (*keys, error) {
	k := &keys{}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if k.SigningKey, err = x509.MarshalPKCS8PrivateKey(signing); err != nil {
			return nil, err
		}
		k.URLSecret = make([]byte, 32)
		rand.Read(k.URLSecret) // never fails (crypto/rand)
		k.UploadSecret = rand.Text()
		if err := atomicfile.WriteJSON(path, k, 0o600); err != nil {
			return nil, fmt.Errorf("write the registry's keys: %w", err)
		}
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(data, k); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(k.SigningKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var ok bool
	if k.signing, ok = parsed.(*ecdsa.PrivateKey); !ok || len(k.URLSecret) < 32 || k.UploadSecret == "" {
		return nil, fmt.Errorf("read %s: not this version's keys", path)
	}
	return k, nil
}
