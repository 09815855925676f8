package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Size is how many bytes the repositories of the registries hold whose ID begins with the prefix: each blob counts
// once for a registry, though it is stored once for all. dir is the storage directory of the process that serves them.
func Size(dir, idPrefix string) (int64, error) {
	s := &storage{dir: dir}
	roots, err := s.roots(idPrefix)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, root := range roots {
		linked := map[digest.Digest]bool{}
		if err := collectLinks(root, linked); err != nil {
			return 0, err
		}
		for d := range linked {
			info, err := os.Stat(s.blobPath(d))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			total += info.Size()
		}
	}
	return total, nil
}

// roots are the directories of the registries whose ID begins with the prefix.
func (s *storage) roots(idPrefix string) ([]string, error) {
	registries := filepath.Join(s.dir, "registries")
	entries, err := os.ReadDir(registries)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, entry := range entries {
		root := filepath.Join(registries, entry.Name())
		id, err := os.ReadFile(filepath.Join(root, "id"))
		if err == nil && strings.HasPrefix(strings.ToLower(string(id)), strings.ToLower(idPrefix)) {
			out = append(out, root)
		}
	}
	return out, nil
}

// collectLinks adds the digests of all blobs that are linked below the directory.
func collectLinks(dir string, linked map[digest.Digest]bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			// An upload may end, and a repository go, while we walk.
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		// …/_layers/ALGORITHM/HEX/link, …/_manifests/revisions/ALGORITHM/HEX/link
		if d.Name() == "link" && d.Type().IsRegular() {
			hex := filepath.Dir(path)
			linked[digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(hex))), filepath.Base(hex))] = true
		}
		return nil
	})
}
