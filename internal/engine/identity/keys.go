// Package identity issues and verifies the access tokens of an installation: RSA signing keys shared by
// its processes through one file, tokens with the claims that Microsoft Entra ID puts in them, and the
// verification every resource does. Its sub-packages speak the two protocols tokens are asked for with:
// authority (login.microsoftonline.com) and metadata (169.254.169.254).
//
// It knows no roles and stores no principals: who may do what is decided where the token is shown.
//
// Claims: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
// Keys and tokens: RFC 7517, RFC 7519.
package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// keyFile is the name of the signing keys' file in the directory given to OpenKeys.
const keyFile = "signing-keys.json"

// retireAfter is how long a key that signs no more still verifies: longer than any token lives.
const retireAfter = 100 * 24 * time.Hour

// Keys are the signing keys of an installation. The newest key signs; older ones verify until every
// token they signed has expired. Several processes hold the same file open: a change made by one is
// seen by the others at their next use of a key.
type Keys struct {
	path string

	mu     sync.Mutex
	stamp  stamp
	stored []storedKey
}

type storedKey struct {
	Created time.Time       `json:"created"`
	Key     jose.JSONWebKey `json:"key"`
}

// stamp tells one version of the file from another: atomicfile makes a new inode each time.
type stamp struct {
	inode uint64
	mtime time.Time
	size  int64
}

// OpenKeys opens the signing keys in dir and makes the first one where there is none. Two processes that
// start at once agree on one key. A process that only uses keys others made needs no write access; what it
// must see is the directory, not the file alone, which is another one after each rotation.
func OpenKeys(dir string) (*Keys, error) {
	k := &Keys{path: filepath.Join(dir, keyFile)}
	if _, err := k.current(); !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return nil, err
		}
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the signing keys: %w", err)
	}
	err := k.locked(func() error {
		if _, err := os.Stat(k.path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return k.add(nil)
	})
	if err != nil {
		return nil, err
	}
	if _, err := k.current(); err != nil {
		return nil, err
	}
	return k, nil
}

// Rotate makes a new key that signs from now on. Tokens signed before stay valid until they expire.
func (k *Keys) Rotate() error {
	return k.locked(func() error {
		stored, err := k.current()
		if err != nil {
			return err
		}
		return k.add(stored)
	})
}

// add writes the file with one more key in front of the stored ones.
func (k *Keys) add(stored []storedKey) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	sum := sha256.Sum256(private.N.Bytes())
	now := time.Now()
	keys := []storedKey{{Created: now, Key: jose.JSONWebKey{
		Key:       private,
		KeyID:     base64.RawURLEncoding.EncodeToString(sum[:20]),
		Algorithm: string(jose.RS256),
		Use:       "sig",
	}}}
	for i, old := range stored {
		// A key was in use until the next newer one was made.
		retired := now
		if i > 0 {
			retired = stored[i-1].Created
		}
		if now.Sub(retired) < retireAfter {
			keys = append(keys, old)
		}
	}
	return atomicfile.WriteJSON(k.path, keys, 0o600)
}

// locked runs fn while no other process changes the keys.
func (k *Keys) locked(fn func() error) error {
	lock, err := os.OpenFile(k.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock the signing keys: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the signing keys: %w", err)
	}
	return fn()
}

// current returns the keys, read again where the file has been replaced.
func (k *Keys) current() ([]storedKey, error) {
	info, err := os.Stat(k.path)
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	now := stamp{mtime: info.ModTime(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode = sys.Ino
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stored != nil && k.stamp == now {
		return k.stored, nil
	}
	data, err := os.ReadFile(k.path)
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	var stored []storedKey
	if err := json.Unmarshal(data, &stored); err != nil {
		// Not %w: the decoder's error may quote the content.
		return nil, fmt.Errorf("the signing keys in %s cannot be read: not the JSON this program wrote", k.path)
	}
	if len(stored) == 0 || !slices.ContainsFunc(stored, func(s storedKey) bool { _, ok := s.Key.Key.(*rsa.PrivateKey); return ok }) {
		return nil, fmt.Errorf("no signing key in %s", k.path)
	}
	k.stored, k.stamp = stored, now
	return stored, nil
}

// signer signs with the newest key.
func (k *Keys) signer() (jose.Signer, error) {
	stored, err := k.current()
	if err != nil {
		return nil, err
	}
	key := stored[0].Key
	// go-jose puts the key's ID in the header. x5t is what older clients look for; here it names the same key.
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("x5t", key.KeyID)
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, options)
}

// Key returns the public key with this ID, or false. It is a KeySource.
func (k *Keys) Key(id string) (any, bool) {
	stored, err := k.current()
	if err != nil {
		return nil, false
	}
	for _, s := range stored {
		if s.Key.KeyID == id {
			return s.Key.Public().Key, true
		}
	}
	return nil, false
}

// JWKS is the JSON Web Key Set of the public keys, the newest first.
func (k *Keys) JWKS() ([]byte, error) {
	stored, err := k.current()
	if err != nil {
		return nil, err
	}
	set := jose.JSONWebKeySet{}
	for _, s := range stored {
		set.Keys = append(set.Keys, s.Key.Public())
	}
	return json.Marshal(set)
}
