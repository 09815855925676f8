package registry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
)

// signedLifetime is how long a signed blob address opens the blob: long enough for a client that
// retries, or that asks for the next range of a slow pull.
const signedLifetime = 10 * time.Minute

// serveManifest answers from storage, after fetching what a cache rule says is upstream's.
func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, c call) {
	if _, err := digest.Parse(c.reference); err != nil && !isTag(c.reference) {
		failWith(w, errcode.ErrorCodeDigestInvalid.WithDetail(c.reference))
		return
	}
	err := s.ensureManifest(r.Context(), c)
	switch {
	case err == nil:
		c.registry.store.app.ServeHTTP(w, r)
	case errors.Is(err, errNotUpstream):
		failWith(w, errcode.ErrorCodeManifestUnknown.WithMessage("manifest "+c.repository+":"+c.reference+" is not known: "+err.Error()))
	default:
		s.log.Warn("manifest", "registry", c.registry.LoginServer, "repository", c.repository, "reference", c.reference, "error", err)
		failWith(w, errcode.ErrorCodeUnavailable.WithMessage("manifest "+c.repository+":"+c.reference+" could not be had: "+err.Error()))
	}
}

// ensureManifest fetches a manifest that is missing and that a cache rule covers. Without a rule it
// does nothing: distribution then answers that there is none.
func (s *Server) ensureManifest(ctx context.Context, c call) error {
	present, err := c.registry.store.hasManifest(ctx, c.repository, c.reference)
	if present || err != nil {
		return err
	}
	from, covered := match(c.registry.rules, c.repository)
	if !covered {
		return nil
	}
	// The fetch belongs to all who wait for it, so it does not end with the first of them.
	key := c.registry.key + "\n" + c.repository + "\n" + c.reference
	result := s.misses.DoChan(key, func() (any, error) {
		// Somebody else's fetch may have ended between the look above and this one.
		if present, err := c.registry.store.hasManifest(s.ctx, c.repository, c.reference); present || err != nil {
			return nil, err
		}
		return nil, s.fetchManifest(c, from)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return fmt.Errorf("cache rule %s: %w", from.rule, r.Err)
		}
		return nil
	}
}

func (s *Server) fetchManifest(c call, from origin) error {
	mediaType, payload, err := c.st.upstream.manifest(s.ctx, from, c.reference)
	if err != nil {
		return err
	}
	tag := c.reference
	if _, err := digest.Parse(c.reference); err == nil {
		tag = ""
	}
	s.log.Info("fetched", "origin", from.String(), "reference", c.reference, "bytes", len(payload))
	s.storage.finishing.RLock()
	defer s.storage.finishing.RUnlock()
	return c.registry.store.putManifest(s.ctx, c.repository, tag, mediaType, payload)
}

// serveBlob sends a client to the registry's data endpoint. HEAD is answered here.
func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, c call) {
	found, err := s.findBlob(r.Context(), c)
	if err != nil {
		s.failBlob(w, c, err)
		return
	}
	if r.Method == http.MethodGet && c.registry.DataEndpoint != "" {
		w.Header().Set("Docker-Content-Digest", c.digest.String())
		http.Redirect(w, r, s.signBlob(c.registry, c.repository, c.digest), http.StatusTemporaryRedirect)
		return
	}
	s.sendBlob(w, r, c, found)
}

// found is where a blob is: in storage, or on its way.
type found struct {
	size   int64
	stored digest.Digest // what it is stored by; of a blob in storage
	flight *flight       // nil: in storage
}

// findBlob looks in storage, then upstream where a cache rule says so.
func (s *Server) findBlob(ctx context.Context, c call) (found, error) {
	blob, ok, err := c.registry.store.blob(ctx, c.repository, c.digest)
	if ok || err != nil {
		return found{size: blob.Size, stored: blob.Digest}, err
	}
	from, covered := match(c.registry.rules, c.repository)
	if !covered {
		return found{}, errNotUpstream
	}
	f, err := s.cache.follow(ctx, c.st.upstream, from, c.digest, link{c.registry.store, c.repository})
	if err != nil {
		return found{}, fmt.Errorf("cache rule %s: %w", from.rule, err)
	}
	if f != nil {
		return found{size: f.size, stored: c.digest, flight: f}, nil
	}
	blob, ok, err = c.registry.store.blob(ctx, c.repository, c.digest)
	if err == nil && !ok {
		err = errNotUpstream
	}
	return found{size: blob.Size, stored: blob.Digest}, err
}

func (s *Server) failBlob(w http.ResponseWriter, c call, err error) {
	if errors.Is(err, errNotUpstream) {
		failWith(w, errcode.ErrorCodeBlobUnknown.WithDetail(c.digest))
		return
	}
	s.log.Warn("blob", "registry", c.registry.LoginServer, "repository", c.repository, "digest", c.digest, "error", err)
	failWith(w, errcode.ErrorCodeUnavailable.WithMessage("blob "+c.digest.String()+" could not be had: "+err.Error()))
}

// sendBlob sends the content, or with HEAD what would be sent.
func (s *Server) sendBlob(w http.ResponseWriter, r *http.Request, c call, b found) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", c.digest.String())
	w.Header().Set("Etag", `"`+c.digest.String()+`"`)
	if r.Method == http.MethodHead && r.Header.Get("Range") == "" {
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("Content-Length", strconv.FormatInt(b.size, 10))
		return
	}
	if b.flight != nil {
		if content := b.flight.reader(r.Context()); content != nil {
			defer content.Close()
			// A fetch that fails ends the body short of Content-Length, which no client takes for the blob.
			http.ServeContent(w, r, "", time.Time{}, content)
			return
		}
		if err := b.flight.failure(); err != nil {
			s.failBlob(w, c, err)
			return
		}
	}
	content, err := os.Open(s.storage.blobPath(b.stored))
	if err != nil {
		s.failBlob(w, c, err)
		return
	}
	defer content.Close()
	http.ServeContent(w, r, "", time.Time{}, content)
}

// signBlob is the address at which the data endpoint gives the repository's blob, for a while.
func (s *Server) signBlob(reg *registry, repository string, d digest.Digest) string {
	expiry := strconv.FormatInt(s.now().Add(signedLifetime).Unix(), 10)
	u := url.URL{
		Scheme: "https", Host: reg.DataEndpoint, Path: signedPath(reg, d),
		RawQuery: url.Values{"se": {expiry}, "sp": {"r"}, "repo": {repository}, "d": {d.String()}, "sig": {s.signature(reg, repository, d, expiry)}}.Encode(),
	}
	return u.String()
}

func signedPath(reg *registry, d digest.Digest) string {
	return "/" + reg.key + "/docker/registry/v2/blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
}

// signature binds an address to registry, data endpoint, repository, digest and expiry.
func (s *Server) signature(reg *registry, repository string, d digest.Digest, expiry string) string {
	mac := hmac.New(sha256.New, s.keys.URLSecret)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%s", reg.key, reg.DataEndpoint, repository, d, expiry)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// serveSigned is the data endpoint: signed blob addresses, and nothing else.
func (s *Server) serveSigned(w http.ResponseWriter, r *http.Request, st *state, reg *registry) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "use GET or HEAD")
		return
	}
	query := r.URL.Query()
	d, err := digest.Parse(query.Get("d"))
	repository, expiry := query.Get("repo"), query.Get("se")
	if err != nil || !hmac.Equal([]byte(query.Get("sig")), []byte(s.signature(reg, repository, d, expiry))) || r.URL.Path != signedPath(reg, d) {
		fail(w, http.StatusForbidden, "DENIED", "the signature is not valid for this address")
		return
	}
	if until, err := strconv.ParseInt(expiry, 10, 64); err != nil || !s.now().Before(time.Unix(until, 0)) {
		fail(w, http.StatusForbidden, "DENIED", "the signature has expired")
		return
	}
	c := call{st: st, registry: reg, repository: repository, digest: d}
	b, err := s.findBlob(r.Context(), c)
	if err != nil {
		s.failBlob(w, c, err)
		return
	}
	s.sendBlob(w, r, c, b)
}
