package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	distributionstorage "github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// storage is what lies on disk:
//
//	keys.json
//	blobs/ALGORITHM/XX/HEX/data          every blob once, for all registries
//	blobs/ALGORITHM/XX/HEX/from-HASH     an upstream repository that served it (origin)
//	fetch/                               what is being fetched; emptied at start
//	registries/KEY/id
//	registries/KEY/docker/registry/v2/repositories/…   distribution's links
//	registries/KEY/docker/registry/v2/blobs → blobs
//	sweep                                a registry went and unreferenced blobs have yet to follow
//
// A registry reaches a blob only by a link in one of its repositories, and a link is written only for
// bytes that were pushed to that repository or served by the upstream its cache rule names. So sharing
// the bytes shows no registry what another one has.
type storage struct {
	dir string
	// finishing is read-locked by whatever may link a blob that is already there, and locked by the sweep.
	finishing sync.RWMutex
}

func openStorage(dir string) (*storage, error) {
	for _, d := range []string{dir, filepath.Join(dir, "blobs"), filepath.Join(dir, "registries")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	// What a killed process was fetching was never linked, and is fetched anew.
	fetch := filepath.Join(dir, "fetch")
	if err := os.RemoveAll(fetch); err != nil {
		return nil, err
	}
	if err := os.Mkdir(fetch, 0o700); err != nil {
		return nil, err
	}
	s := &storage{dir: dir}
	return s, s.resumeSweep()
}

func (s *storage) blobDir(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (s *storage) blobPath(d digest.Digest) string { return filepath.Join(s.blobDir(d), "data") }

// originPath marks that the upstream repository served the blob, so that another registry with a rule
// for the same repository need not fetch it again.
func (s *storage) originPath(d digest.Digest, o origin) string {
	sum := sha256.Sum256([]byte(o.String()))
	return filepath.Join(s.blobDir(d), "from-"+hex.EncodeToString(sum[:16]))
}

// hasOrigin reports whether the blob is stored and known to be the upstream repository's.
func (s *storage) hasOrigin(d digest.Digest, o origin) bool {
	if _, err := os.Stat(s.originPath(d, o)); err != nil {
		return false
	}
	_, err := os.Stat(s.blobPath(d))
	return err == nil
}

// keep makes the verified file at temp the blob d, durably.
func (s *storage) keep(temp *os.File, d digest.Digest, o origin) error {
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.blobDir(d), 0o700); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), s.blobPath(d)); err != nil {
		return err
	}
	// Syncs the directory as well, and with it the rename.
	return atomicfile.Write(s.originPath(d, o), []byte(o.String()+"\n"), 0o600)
}

// registryStore is one registry's part of the storage.
type registryStore struct {
	root      string
	driver    *filesystem.Driver
	namespace distribution.Namespace // the same content as app's, for what the cache does itself
	app       *handlers.App
}

// open prepares the registry's directory and its distribution App.
func (s *storage) open(key, id, secret string) (store *registryStore, err error) {
	root := filepath.Join(s.dir, "registries", key)
	v2 := filepath.Join(root, "docker", "registry", "v2")
	if err := os.MkdirAll(v2, 0o700); err != nil {
		return nil, err
	}
	if err := os.Symlink("../../../../../blobs", filepath.Join(v2, "blobs")); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(root, "id"), []byte(id+"\n"), 0o600); err != nil {
		return nil, err
	}
	store = &registryStore{root: root, driver: filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})}
	if store.namespace, err = distributionstorage.NewRegistry(context.Background(), store.driver, distributionstorage.EnableDelete); err != nil {
		return nil, err
	}
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": {"rootdirectory": root},
		"delete":     {"enabled": true},
		"redirect":   {"disable": true},
		// Server.tidy does it for all registries.
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = secret
	// Layers of Windows images are at Microsoft's: without this none could be pushed.
	config.Validation.Manifests.URLs.Allow = []string{"^https?://"}
	config.HTTP.RelativeURLs = true
	config.Catalog.MaxEntries = maxPage
	// NewApp panics where it finds fault.
	defer func() {
		if fault := recover(); fault != nil {
			store, err = nil, fmt.Errorf("start distribution: %v", fault)
		}
	}()
	store.app = handlers.NewApp(context.Background(), config)
	return store, nil
}

// close ends the App's background work. Requests that are still being served go on.
func (r *registryStore) close() { _ = r.app.Shutdown() }

// purgeUploads removes uploads that nobody finished. distribution would start one purger per registry.
func (r *registryStore) purgeUploads(ctx context.Context, olderThan time.Time) {
	distributionstorage.PurgeUploads(ctx, r.driver, olderThan, true)
}

func (r *registryStore) repository(ctx context.Context, name string) (distribution.Repository, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, err
	}
	return r.namespace.Repository(ctx, named)
}

// hasManifest reports whether the repository holds what the reference, a tag or digest, names.
func (r *registryStore) hasManifest(ctx context.Context, repository, ref string) (bool, error) {
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return false, err
	}
	d, err := digest.Parse(ref)
	if err != nil {
		tagged, err := repo.Tags(ctx).Get(ctx, ref)
		if errors.As(err, &distribution.ErrTagUnknown{}) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		d = tagged.Digest
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return false, err
	}
	return manifests.Exists(ctx, d)
}

// manifest reads what the reference, a tag or digest, names; errNotUpstream when there is none.
func (r *registryStore) manifest(ctx context.Context, repository, ref string) (distribution.Manifest, error) {
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return nil, err
	}
	d, err := digest.Parse(ref)
	if err != nil {
		tagged, err := repo.Tags(ctx).Get(ctx, ref)
		if errors.As(err, &distribution.ErrTagUnknown{}) {
			return nil, fmt.Errorf("%s:%s: %w", repository, ref, errNotUpstream)
		}
		if err != nil {
			return nil, err
		}
		d = tagged.Digest
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	manifest, err := manifests.Get(ctx, d)
	if errors.As(err, &distribution.ErrManifestUnknownRevision{}) {
		return nil, fmt.Errorf("%s@%s: %w", repository, d, errNotUpstream)
	}
	return manifest, err
}

// storeManifest stores a manifest whose blobs may yet have to come.
func (r *registryStore) storeManifest(ctx context.Context, repository, mediaType string, payload []byte) (distribution.Descriptor, error) {
	manifest, descriptor, err := distribution.UnmarshalManifest(mediaType, payload)
	if err != nil {
		return descriptor, err
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return descriptor, err
	}
	manifests, err := repo.Manifests(ctx, distributionstorage.SkipLayerVerification())
	if err != nil {
		return descriptor, err
	}
	_, err = manifests.Put(ctx, manifest)
	return descriptor, err
}

// retag makes the tag name the manifest, whatever it named before.
func (r *registryStore) retag(ctx context.Context, repository, tag string, to distribution.Descriptor) error {
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return err
	}
	return repo.Tags(ctx).Tag(ctx, tag, to)
}

// putManifest stores a manifest whose blobs may yet have to come, under tag unless that is "" or taken.
func (r *registryStore) putManifest(ctx context.Context, repository, tag, mediaType string, payload []byte) error {
	descriptor, err := r.storeManifest(ctx, repository, mediaType, payload)
	if err != nil || tag == "" {
		return err
	}
	if _, err := r.tag(repository, tag); err == nil {
		return nil // pushed in the meantime
	}
	return r.retag(ctx, repository, tag, descriptor)
}

// blob describes a blob that the repository links, or returns false. The digest in the answer is what it is stored by,
// which differs where a client knows it by another algorithm.
func (r *registryStore) blob(ctx context.Context, repository string, d digest.Digest) (distribution.Descriptor, bool, error) {
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return distribution.Descriptor{}, false, err
	}
	descriptor, err := repo.Blobs(ctx).Stat(ctx, d)
	if errors.Is(err, distribution.ErrBlobUnknown) {
		return distribution.Descriptor{}, false, nil
	}
	return descriptor, err == nil, err
}

// linkBlob lets the repository have a stored blob. The path is distribution's layerLinkPathSpec.
func (r *registryStore) linkBlob(ctx context.Context, repository string, d digest.Digest) error {
	path := fmt.Sprintf("/docker/registry/v2/repositories/%s/_layers/%s/%s/link", repository, d.Algorithm(), d.Encoded())
	return r.driver.PutContent(ctx, path, []byte(d))
}
