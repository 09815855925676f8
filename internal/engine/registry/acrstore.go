package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// maxConfig bounds the image configuration that is read for its platform.
const maxConfig = 1 << 20

// storedTag is a tag as it lies on disk.
type storedTag struct {
	name             string
	digest           digest.Digest
	created, updated time.Time
}

func (t *storedTag) view() acrTag {
	return acrTag{Name: t.name, Digest: t.digest, Created: acrTime(t.created), Updated: acrTime(t.updated), Attributes: unlocked}
}

// storedManifest is a manifest as it lies on disk.
type storedManifest struct {
	digest           digest.Digest
	created, updated time.Time
}

// repositoryDir is where distribution keeps the repository's links; repositories below its name lie in it as well.
func (r *registryStore) repositoryDir(repository string) string {
	return filepath.Join(r.root, "docker", "registry", "v2", "repositories", filepath.FromSlash(repository))
}

func (r *registryStore) hasRepository(repository string) bool {
	_, err := os.Stat(filepath.Join(r.repositoryDir(repository), "_manifests"))
	return err == nil
}

// repositories are the names of all, sorted.
func (r *registryStore) repositories() ([]string, error) {
	root := r.repositoryDir("")
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile, or nothing was ever pushed
			return nil
		case err != nil:
			return err
		case d.Name() == "_manifests":
			name, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			all = append(all, filepath.ToSlash(name))
			return fs.SkipDir
		case strings.HasPrefix(d.Name(), "_"):
			return fs.SkipDir
		}
		return nil
	})
	slices.Sort(all)
	return all, err
}

// times are when a directory of distribution's was made, and when the link in it was last written.
func times(dir, link string) (created, updated time.Time, err error) {
	info, err := os.Stat(link)
	if err != nil {
		return created, updated, err
	}
	created, updated = info.ModTime(), info.ModTime()
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BTIME, &st) == nil && st.Mask&unix.STATX_BTIME != 0 {
		if born := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)); born.Before(updated) {
			created = born
		}
	}
	return created, updated, nil
}

func (r *registryStore) tag(repository, name string) (*storedTag, error) {
	dir := filepath.Join(r.repositoryDir(repository), "_manifests", "tags", name)
	link := filepath.Join(dir, "current", "link")
	data, err := os.ReadFile(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoTag
	}
	if err != nil {
		return nil, err
	}
	t := &storedTag{name: name, digest: digest.Digest(strings.TrimSpace(string(data)))}
	if t.created, t.updated, err = times(dir, link); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoTag
	}
	return t, err
}

// tags are all of the repository's, by name.
func (r *registryStore) tags(repository string) ([]storedTag, error) {
	entries, err := os.ReadDir(filepath.Join(r.repositoryDir(repository), "_manifests", "tags"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tags := make([]storedTag, 0, len(entries))
	for _, entry := range entries {
		t, err := r.tag(repository, entry.Name())
		if errors.Is(err, errNoTag) {
			continue // gone, or not there yet
		}
		if err != nil {
			return nil, err
		}
		tags = append(tags, *t)
	}
	return tags, nil
}

// untag removes a tag and leaves what it named.
func (r *registryStore) untag(ctx context.Context, repository, tag string) error {
	if !r.hasRepository(repository) {
		return errNoRepository
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return err
	}
	if _, err := r.tag(repository, tag); err != nil {
		return err
	}
	return repo.Tags(ctx).Untag(ctx, tag)
}

// revisions are all manifests of the repository, by digest.
func (r *registryStore) revisions(repository string) ([]storedManifest, error) {
	root := filepath.Join(r.repositoryDir(repository), "_manifests", "revisions")
	var found []storedManifest
	algorithms, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, algorithm := range algorithms {
		entries, err := os.ReadDir(filepath.Join(root, algorithm.Name()))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			m, err := r.revision(repository, digest.NewDigestFromEncoded(digest.Algorithm(algorithm.Name()), entry.Name()))
			if errors.Is(err, errNoManifest) {
				continue
			}
			if err != nil {
				return nil, err
			}
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b storedManifest) int { return strings.Compare(a.digest.String(), b.digest.String()) })
	return found, nil
}

func (r *registryStore) revision(repository string, d digest.Digest) (storedManifest, error) {
	dir := filepath.Join(r.repositoryDir(repository), "_manifests", "revisions", d.Algorithm().String(), d.Encoded())
	m := storedManifest{digest: d}
	var err error
	if m.created, m.updated, err = times(dir, filepath.Join(dir, "link")); errors.Is(err, fs.ErrNotExist) {
		return m, errNoManifest
	}
	return m, err
}

// acrManifest describes one manifest.
func (r *registryStore) acrManifest(ctx context.Context, repository string, d digest.Digest) (acrManifest, error) {
	m, err := r.revision(repository, d)
	if err != nil {
		return acrManifest{}, err
	}
	tags, err := r.tags(repository)
	if err != nil {
		return acrManifest{}, err
	}
	return r.viewManifest(ctx, repository, m, tags)
}

// viewManifest describes m by what it says of itself: its size is that of all it refers to, and the platform is its configuration's.
func (r *registryStore) viewManifest(ctx context.Context, repository string, m storedManifest, tags []storedTag) (acrManifest, error) {
	view := acrManifest{Digest: m.digest, Created: acrTime(m.created), Updated: acrTime(m.updated), Attributes: unlocked}
	for _, t := range tags {
		if t.digest == m.digest {
			view.Tags = append(view.Tags, t.name)
		}
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return view, err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return view, err
	}
	manifest, err := manifests.Get(ctx, m.digest)
	if err != nil {
		if errors.As(err, &distribution.ErrManifestUnknownRevision{}) || errors.As(err, &distribution.ErrManifestUnknown{}) {
			return view, errNoManifest
		}
		return view, fmt.Errorf("read manifest %s of %s: %w", m.digest, repository, err)
	}
	mediaType, payload, err := manifest.Payload()
	if err != nil {
		return view, err
	}
	var said struct {
		ArtifactType string               `json:"artifactType"`
		Config       *ocispec.Descriptor  `json:"config"`
		Layers       []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(payload, &said); err != nil {
		return view, err
	}
	view.MediaType, view.ArtifactType, view.ImageSize = mediaType, said.ArtifactType, int64(len(payload))
	for _, l := range said.Layers {
		view.ImageSize += l.Size
	}
	if c := said.Config; c != nil {
		view.ImageSize += c.Size
		view.ConfigMediaType = c.MediaType
		view.OS, view.Architecture = r.platform(ctx, repo, *c)
	}
	return view, nil
}

// platform is what an image's configuration names; "" for other artifacts, and while a cache rule has not fetched it.
func (r *registryStore) platform(ctx context.Context, repo distribution.Repository, config ocispec.Descriptor) (os, architecture string) {
	switch config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return "", ""
	}
	if config.Size > maxConfig {
		return "", ""
	}
	data, err := repo.Blobs(ctx).Get(ctx, config.Digest)
	var p ocispec.Platform
	if err != nil || json.Unmarshal(data, &p) != nil {
		return "", ""
	}
	return p.OS, p.Architecture
}

// describe is the repository as a whole.
func (r *registryStore) describe(c call) (acrRepository, error) {
	dir := filepath.Join(r.repositoryDir(c.repository), "_manifests")
	created, updated, err := times(dir, dir)
	if err != nil {
		return acrRepository{}, err
	}
	revisions, err := r.revisions(c.repository)
	if err != nil {
		return acrRepository{}, err
	}
	tags, err := r.tags(c.repository)
	if err != nil {
		return acrRepository{}, err
	}
	for _, m := range revisions {
		if m.updated.After(updated) {
			updated = m.updated
		}
	}
	for _, t := range tags {
		if t.updated.After(updated) {
			updated = t.updated
		}
	}
	return acrRepository{
		Registry: c.registry.LoginServer, Name: c.repository, Created: acrTime(created), Updated: acrTime(updated),
		Manifests: len(revisions), Tags: len(tags), Attributes: unlocked,
	}, nil
}

// deletedRepository says what went with a repository.
type deletedRepository struct {
	Manifests []string `json:"manifestsDeleted"`
	Tags      []string `json:"tagsDeleted"`
}

// deleteRepository removes a repository's links, and has the blobs swept that only it had.
func (s *Server) deleteRepository(c call) (*deletedRepository, error) {
	store := c.registry.store
	if !store.hasRepository(c.repository) {
		return nil, errNoRepository
	}
	gone := &deletedRepository{Manifests: []string{}, Tags: []string{}}
	tags, err := store.tags(c.repository)
	if err != nil {
		return nil, err
	}
	for _, t := range tags {
		gone.Tags = append(gone.Tags, t.name)
	}
	revisions, err := store.revisions(c.repository)
	if err != nil {
		return nil, err
	}
	for _, m := range revisions {
		gone.Manifests = append(gone.Manifests, m.digest.String())
	}
	if err := atomicfile.Write(s.storage.marker(), nil, 0o600); err != nil {
		return nil, err
	}
	// Only what is the repository's own: others may lie below its name. The catalog looks at the layers, so they go last.
	dir := store.repositoryDir(c.repository)
	for _, part := range []string{"_manifests", "_referrers", "_uploads", "_layers"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			return nil, fmt.Errorf("delete repository %s: %w", c.repository, err)
		}
	}
	for range strings.Count(c.repository, "/") + 1 {
		if os.Remove(dir) != nil { // something else is in it
			break
		}
		dir = filepath.Dir(dir)
	}
	s.log.Info("repository deleted", "registry", c.registry.LoginServer, "repository", c.repository, "manifests", len(gone.Manifests))
	s.running.Go(func() {
		if err := s.storage.sweepWhenQuiet(s.ctx); err != nil {
			s.log.Error("sweep", "error", err)
		}
	})
	return gone, nil
}
