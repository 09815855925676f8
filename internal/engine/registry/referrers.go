package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The referrers API, which distribution 3.1 lacks:
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers
//
// A repository that a cache rule covers answers 404 and claims no subject, as a registry without the API
// does: clients then use the referrers tag schema, whose tags come from upstream like any other.

// referrersPath is the directory of the descriptors that refer to subject, beside what distribution keeps of the repository.
func referrersPath(repository string, subject digest.Digest) string {
	return fmt.Sprintf("/docker/registry/v2/repositories/%s/_referrers/%s/%s", repository, subject.Algorithm(), subject.Encoded())
}

// referring is what a manifest says of its subject.
type referring struct {
	MediaType    string              `json:"mediaType"`
	ArtifactType string              `json:"artifactType"`
	Config       *ocispec.Descriptor `json:"config"`
	Subject      *ocispec.Descriptor `json:"subject"`
	Annotations  map[string]string   `json:"annotations"`
}

// putManifest lets distribution store a manifest, and notes whom it refers to before the client hears that it is stored.
func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, c call) {
	if _, covered := match(c.registry.rules, c.repository); covered {
		c.registry.store.app.ServeHTTP(w, r)
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		failWith(w, errcode.ErrorCodeManifestInvalid.WithMessage("the manifest cannot be read: "+err.Error()))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(payload))
	subject, descriptor := subjectOf(r.Header.Get("Content-Type"), payload)
	if descriptor == nil {
		c.registry.store.app.ServeHTTP(w, r)
		return
	}
	c.registry.store.app.ServeHTTP(&storedWriter{ResponseWriter: w, stored: func() {
		if err := c.registry.store.addReferrer(r.Context(), c.repository, subject, *descriptor); err != nil {
			// Without the header the client falls back to the tag schema.
			s.log.Error("note a referrer", "registry", c.registry.LoginServer, "digest", descriptor.Digest, "error", err)
			return
		}
		w.Header().Set("OCI-Subject", subject.String())
	}}, r)
}

// subjectOf reads whom a manifest refers to, and describes the manifest for that subject's list; nil when it refers to none.
func subjectOf(mediaType string, payload []byte) (digest.Digest, *ocispec.Descriptor) {
	var m referring
	if json.Unmarshal(payload, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return "", nil
	}
	descriptor := &ocispec.Descriptor{
		MediaType: cmp.Or(m.MediaType, mediaType), Digest: digest.FromBytes(payload), Size: int64(len(payload)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
	if descriptor.ArtifactType == "" && m.Config != nil {
		descriptor.ArtifactType = m.Config.MediaType
	}
	return m.Subject.Digest, descriptor
}

// storedWriter calls stored before it says 201.
type storedWriter struct {
	http.ResponseWriter
	stored func()
}

func (w *storedWriter) WriteHeader(status int) {
	if status == http.StatusCreated {
		w.stored()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (r *registryStore) addReferrer(ctx context.Context, repository string, subject digest.Digest, d ocispec.Descriptor) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	name := d.Digest.Algorithm().String() + "-" + d.Digest.Encoded()
	return r.driver.PutContent(ctx, path.Join(referrersPath(repository, subject), name), data)
}

// referrers are the descriptors that refer to subject and are still there, sorted by digest.
func (r *registryStore) referrers(ctx context.Context, repository string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	found := []ocispec.Descriptor{}
	paths, err := r.driver.List(ctx, referrersPath(repository, subject))
	if errors.As(err, &storagedriver.PathNotFoundError{}) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	for _, p := range paths {
		data, err := r.driver.GetContent(ctx, p)
		if err != nil {
			return nil, err
		}
		var d ocispec.Descriptor
		if err := json.Unmarshal(data, &d); err != nil {
			continue // a temporary file that a killed process left
		}
		present, err := r.hasManifest(ctx, repository, d.Digest.String())
		if err != nil {
			return nil, err
		}
		if present {
			found = append(found, d)
		}
	}
	return found, nil
}

func (s *Server) serveReferrers(w http.ResponseWriter, r *http.Request, c call) {
	if _, covered := match(c.registry.rules, c.repository); covered {
		fail(w, http.StatusNotFound, "NOT_FOUND", "use the referrers tag schema in a repository that a cache rule fills")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "use GET or HEAD")
		return
	}
	found, err := c.registry.store.referrers(r.Context(), c.repository, c.digest)
	if err != nil {
		s.log.Error("referrers", "registry", c.registry.LoginServer, "digest", c.digest, "error", err)
		failWith(w, errcode.ErrorCodeUnknown)
		return
	}
	if kind := r.URL.Query().Get("artifactType"); kind != "" {
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: found}
	index.SchemaVersion = 2
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(index)
}

// isManifestPut reports whether the request stores a manifest.
func isManifestPut(r *http.Request, c call) bool {
	return c.route == v2.RouteNameManifest && r.Method == http.MethodPut
}
