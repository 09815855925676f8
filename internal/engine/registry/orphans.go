package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// A manifest that is deleted leaves links to its layers, as an upload leaves one that no manifest followed.
// They go a day later: a client that found a layer there is about to push a manifest that names it.

const (
	orphansKept   = 24 * time.Hour
	firstTidying  = 10 * time.Minute // after the start
	tidyingPeriod = 24 * time.Hour
)

// tidy removes what nobody finished or needs any more: uploads, links to layers, imports, and the blobs that were theirs.
func (s *Server) tidy() {
	timer := time.NewTimer(firstTidying)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
			timer.Reset(tidyingPeriod)
		}
		for _, r := range s.state.Load().registries {
			r.store.purgeUploads(s.ctx, s.now().Add(-7*24*time.Hour))
		}
		s.startImports()
		if err := s.dropOrphans(s.ctx); err != nil {
			s.log.Error("remove layers that no manifest names", "error", err)
		}
	}
}

// dropOrphans removes the links of all registries to layers that none of the repository's manifests names, and sweeps.
func (s *Server) dropOrphans(ctx context.Context) error {
	dropped := 0
	for _, r := range s.state.Load().registries {
		n, err := r.store.dropOrphans(ctx, s.now().Add(-orphansKept), func() error { return atomicfile.Write(s.storage.marker(), nil, 0o600) })
		dropped += n
		if err != nil {
			return fmt.Errorf("registry %s: %w", r.LoginServer, err)
		}
	}
	if dropped == 0 {
		return nil
	}
	s.log.Info("removed links to layers that no manifest names", "links", dropped)
	return s.storage.sweepWhenQuiet(ctx)
}

// dropOrphans removes the links older than before. It calls mark before the first.
func (r *registryStore) dropOrphans(ctx context.Context, before time.Time, mark func() error) (dropped int, err error) {
	repositories, err := r.repositories()
	if err != nil {
		return 0, err
	}
	for _, repository := range repositories {
		links, err := r.layerLinks(repository)
		if err != nil {
			return dropped, err
		}
		named, err := r.namedBlobs(ctx, repository)
		if err != nil {
			return dropped, err
		}
		// A link by one algorithm leads to the blob by another: what is named keeps both.
		for d, l := range links {
			if named[d] {
				named[l.to] = true
			}
		}
		for d, l := range links {
			if named[d] || named[l.to] || !l.written.Before(before) {
				continue
			}
			if dropped == 0 {
				if err := mark(); err != nil {
					return 0, err
				}
			}
			if err := os.RemoveAll(l.dir); err != nil {
				return dropped, err
			}
			dropped++
		}
	}
	return dropped, nil
}

// layerLink is a repository's link to a blob.
type layerLink struct {
	dir     string
	to      digest.Digest
	written time.Time
}

func (r *registryStore) layerLinks(repository string) (map[digest.Digest]layerLink, error) {
	links := map[digest.Digest]layerLink{}
	paths, err := filepath.Glob(filepath.Join(r.repositoryDir(repository), "_layers", "*", "*", "link"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		dir := filepath.Dir(path)
		name := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(dir))), filepath.Base(dir))
		links[name] = layerLink{dir, digest.Digest(strings.TrimSpace(string(data))), info.ModTime()}
	}
	return links, nil
}

// namedBlobs are the digests that the repository's manifests name.
func (r *registryStore) namedBlobs(ctx context.Context, repository string) (map[digest.Digest]bool, error) {
	revisions, err := r.revisions(repository)
	if err != nil {
		return nil, err
	}
	named := map[digest.Digest]bool{}
	for _, m := range revisions {
		manifest, err := r.manifest(ctx, repository, m.digest.String())
		if errors.Is(err, errNotUpstream) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %s of %s: %w", m.digest, repository, err)
		}
		for _, d := range manifest.References() {
			named[d.Digest] = true
		}
	}
	return named, nil
}
