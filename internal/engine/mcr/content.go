package mcr

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is the layout on disk and what was last read of it.
type content struct {
	dir string

	mu      sync.Mutex
	index   map[string]*repository
	modTime time.Time
	size    int64
}

// repository is what one repository holds, found by following its tags: content of others is not shown under its name.
type repository struct {
	tags      map[string]v1.Hash
	manifests map[string]manifest // by digest
	blobs     map[string]v1.Hash  // by digest
}

type manifest struct {
	digest    v1.Hash
	mediaType string
}

func (r *repository) tagNames() []string { return slices.Collect(maps.Keys(r.tags)) }

func (r *repository) manifest(reference string) (manifest, bool) {
	if digest, ok := r.tags[reference]; ok {
		reference = digest.String()
	}
	m, ok := r.manifests[reference]
	return m, ok
}

func (r *repository) blob(digest string) (v1.Hash, bool) {
	h, ok := r.blobs[digest]
	return h, ok
}

// load returns the repositories, read anew when index.json has changed.
func (c *content) load() (map[string]*repository, error) {
	info, err := os.Stat(filepath.Join(c.dir, "index.json"))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index != nil && info.ModTime().Equal(c.modTime) && info.Size() == c.size {
		return c.index, nil
	}
	path, err := layout.FromPath(c.dir)
	if err != nil {
		return nil, err
	}
	root, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	list, err := root.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read %s/index.json: %w", c.dir, err)
	}
	index := map[string]*repository{}
	for _, d := range list.Manifests {
		reference := strings.TrimPrefix(d.Annotations[ocispec.AnnotationRefName], "mcr.microsoft.com/")
		i := strings.LastIndexByte(reference, ':')
		if i <= 0 {
			continue
		}
		name, tag := reference[:i], reference[i+1:]
		r := index[name]
		if r == nil {
			r = &repository{tags: map[string]v1.Hash{}, manifests: map[string]manifest{}, blobs: map[string]v1.Hash{}}
			index[name] = r
		}
		r.tags[tag] = d.Digest
		if err := r.add(path, d); err != nil {
			return nil, fmt.Errorf("read %s: %w", reference, err)
		}
	}
	c.index, c.modTime, c.size = index, info.ModTime(), info.Size()
	return index, nil
}

// add follows a manifest to all it refers to. What an index names and the layout lacks is left out:
// a layout may hold one platform of many.
func (r *repository) add(path layout.Path, d v1.Descriptor) error {
	if _, ok := r.manifests[d.Digest.String()]; ok {
		return nil
	}
	payload, err := path.Bytes(d.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.manifests[d.Digest.String()] = manifest{d.Digest, string(d.MediaType)}
	if d.MediaType.IsIndex() {
		list, err := v1.ParseIndexManifest(strings.NewReader(string(payload)))
		if err != nil {
			return err
		}
		for _, child := range list.Manifests {
			if err := r.add(path, child); err != nil {
				return err
			}
		}
		return nil
	}
	m, err := v1.ParseManifest(strings.NewReader(string(payload)))
	if err != nil {
		return err
	}
	for _, blob := range append(m.Layers, m.Config) {
		r.blobs[blob.Digest.String()] = blob.Digest
	}
	return nil
}

func (c *content) bytes(h v1.Hash) ([]byte, error) { return layout.Path(c.dir).Bytes(h) }

func (c *content) open(h v1.Hash) (*os.File, error) {
	return os.Open(filepath.Join(c.dir, "blobs", h.Algorithm, h.Hex))
}
