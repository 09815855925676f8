package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// marker is there while a registry's links have gone and the blobs that only they needed may be left.
func (s *storage) marker() string { return filepath.Join(s.dir, "sweep") }

// retain removes the links of every registry whose key is not in keep, and reports whether a sweep is due:
// now, or since a process was killed before one.
func (s *storage) retain(keep map[string]bool, log *slog.Logger) (due bool, err error) {
	registries := filepath.Join(s.dir, "registries")
	entries, err := os.ReadDir(registries)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if keep[entry.Name()] {
			continue
		}
		if err := atomicfile.Write(s.marker(), nil, 0o600); err != nil {
			return false, err
		}
		log.Info("removing a deleted registry's content", "key", entry.Name())
		if err := os.RemoveAll(filepath.Join(registries, entry.Name())); err != nil {
			return true, fmt.Errorf("remove a deleted registry's links: %w", err)
		}
	}
	_, err = os.Stat(s.marker())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// sweepWhenQuiet removes the blobs that nobody links, at a moment when nobody is about to link one.
func (s *storage) sweepWhenQuiet(ctx context.Context) error {
	// Waiting in Lock would make every push wait behind the longest upload.
	for !s.finishing.TryLock() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	defer s.finishing.Unlock()
	// Under another name during the walk, so that a registry that goes meanwhile is swept for again.
	if err := os.Rename(s.marker(), s.marker()+"ing"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.sweep(); err != nil {
		return errors.Join(fmt.Errorf("remove unreferenced blobs: %w", err), s.resumeSweep())
	}
	if err := os.Remove(s.marker() + "ing"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// resumeSweep makes a sweep that did not end due again.
func (s *storage) resumeSweep() error {
	if err := os.Rename(s.marker()+"ing", s.marker()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes the blobs that no registry links. The caller holds s.finishing.
func (s *storage) sweep() error {
	linked := map[digest.Digest]bool{}
	err := collectLinks(filepath.Join(s.dir, "registries"), linked)
	if err != nil {
		return err
	}
	blobs := filepath.Join(s.dir, "blobs")
	return filepath.WalkDir(blobs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(blobs, path)
		if err != nil {
			return err
		}
		parts := strings.Split(relative, string(filepath.Separator))
		if len(parts) != 3 {
			return nil
		}
		if !linked[digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[2])] {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		return filepath.SkipDir
	})
}
