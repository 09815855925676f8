package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/distribution/distribution/v3"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// importSource is what an import reads from: a registry of this process, or an upstream.
type importSource struct {
	st         *state
	registry   *registry // nil: upstream
	origin     origin    // of an upstream
	repository string
	tag        string // "" when named by digest
	reference  string
}

// openSource finds an import's source, and whether it may be read.
func (s *Server) openSource(st *state, from ImportSource) (*importSource, error) {
	source := &importSource{st: st}
	var byDigest bool
	source.repository, source.reference, byDigest = strings.Cut(from.Image, "@")
	if !byDigest {
		source.repository, source.tag, _ = strings.Cut(from.Image, ":")
		if source.tag == "" {
			source.tag = "latest"
		}
		source.reference = source.tag
	}
	_, err := digest.Parse(source.reference)
	if !isRepository(source.repository) || byDigest && err != nil || !byDigest && !isTag(source.tag) {
		return nil, &importError{http.StatusBadRequest, "InvalidParameters", fmt.Sprintf("The source image '%s' is not valid.", from.Image)}
	}
	own, ok := st.hosts[strings.ToLower(from.Host)]
	if !ok || own.data {
		source.origin = origin{host: strings.ToLower(from.Host), repository: source.repository}
		return source, nil
	}
	source.registry = own.registry
	if from.Trusted {
		return source, nil
	}
	// As any client that comes to the public endpoint.
	if !own.registry.PublicAccess || own.registry.OnlyPrefixes {
		return nil, &importError{http.StatusForbidden, "Forbidden", fmt.Sprintf("The source registry %s does not allow access from other registries. Refer https://aka.ms/acr/firewall to grant access.", from.Host)}
	}
	who := principal{all: true}
	if from.Password != "" {
		if who, err = s.passwordPrincipal(own.registry, from.Username, from.Password); err != nil {
			return nil, &importError{http.StatusUnauthorized, "Unauthorized", "The credentials for source registry " + from.Host + " are not valid."}
		}
	}
	if !who.may(own.registry, source.repository, Pull) {
		return nil, &importError{http.StatusUnauthorized, "Unauthorized", fmt.Sprintf("Access to %s of source registry %s is not authorized.", source.repository, from.Host)}
	}
	return source, nil
}

// copying is the copy of one image into one repository.
type copying struct {
	s          *Server
	source     *importSource
	into       *registry
	repository string
	seen       map[string]bool // manifests, by reference
}

// manifest copies a manifest after all that it names.
func (c *copying) manifest(ctx context.Context, reference string) (distribution.Descriptor, error) {
	if c.seen[reference] = true; len(c.seen) > maxImportManifest {
		return distribution.Descriptor{}, fmt.Errorf("more than %d manifests", maxImportManifest)
	}
	mediaType, payload, err := c.read(ctx, reference)
	if err != nil {
		return distribution.Descriptor{}, err
	}
	var names struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(payload, &names); err != nil {
		return distribution.Descriptor{}, fmt.Errorf("read manifest %s: %w", reference, err)
	}
	for _, m := range names.Manifests {
		if err := m.Digest.Validate(); err != nil {
			return distribution.Descriptor{}, fmt.Errorf("read manifest %s: %w", reference, err)
		}
		if c.seen[m.Digest.String()] {
			continue
		}
		if _, err := c.manifest(ctx, m.Digest.String()); err != nil {
			return distribution.Descriptor{}, err
		}
	}
	blobs := names.Layers
	if names.Config != nil {
		blobs = append(blobs, *names.Config)
	}
	for _, b := range blobs {
		if err := b.Digest.Validate(); err != nil {
			return distribution.Descriptor{}, fmt.Errorf("read manifest %s: %w", reference, err)
		}
		if len(b.URLs) > 0 { // a foreign layer, which no registry holds
			continue
		}
		if err := c.blob(ctx, b.Digest); err != nil {
			return distribution.Descriptor{}, err
		}
	}
	c.s.storage.finishing.RLock()
	defer c.s.storage.finishing.RUnlock()
	descriptor, err := c.into.store.storeManifest(ctx, c.repository, mediaType, payload)
	if err != nil {
		return descriptor, err
	}
	if subject, refers := subjectOf(mediaType, payload); refers != nil {
		err = c.into.store.addReferrer(ctx, c.repository, subject, *refers)
	}
	return descriptor, err
}

// read fetches a manifest from the source.
func (c *copying) read(ctx context.Context, reference string) (mediaType string, payload []byte, err error) {
	if c.source.registry == nil {
		return c.source.st.upstream.manifest(ctx, c.source.origin, reference)
	}
	from := call{st: c.source.st, registry: c.source.registry, route: v2.RouteNameManifest, repository: c.source.repository, reference: reference}
	if err := c.s.ensureManifest(ctx, from); err != nil {
		return "", nil, err
	}
	manifest, err := from.registry.store.manifest(ctx, from.repository, reference)
	if err != nil {
		return "", nil, err
	}
	return manifest.Payload()
}

// blob gives the target repository a blob of the source.
func (c *copying) blob(ctx context.Context, d digest.Digest) error {
	to := link{c.into.store, c.repository}
	if c.source.registry == nil {
		f, err := c.s.cache.follow(ctx, c.source.st.upstream, c.source.origin, d, to)
		return landed(ctx, f, err)
	}
	found, err := c.s.findBlob(ctx, call{st: c.source.st, registry: c.source.registry, repository: c.source.repository, digest: d})
	if err := landed(ctx, found.flight, err); err != nil {
		return err
	}
	c.s.storage.finishing.RLock()
	defer c.s.storage.finishing.RUnlock()
	// A sweep may have come in between.
	if _, present, err := c.source.registry.store.blob(ctx, c.source.repository, d); err != nil || !present {
		return errors.Join(err, fmt.Errorf("blob %s: %w", d, errNotUpstream))
	}
	return to.store.linkBlob(ctx, to.repository, d)
}

// landed waits for the end of a fetch, nil when there is none.
func landed(ctx context.Context, f *flight, err error) error {
	if f == nil || err != nil {
		return err
	}
	f.wait(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return f.failure()
}
