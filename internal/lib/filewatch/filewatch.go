// Package filewatch follows one file that is replaced as a whole, as atomicfile does.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed at once, whether the file is there or not, and after every change of the file at
// path, until ctx ends. Changes that come quickly are told once. It watches the directory, which it makes
// (0700) where it is missing: the file itself is another one after each replacement.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer w.Close()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	// Only now: a change between the first call and the watch would be lost otherwise.
	changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watch %s: the watcher ended", path)
			}
			if filepath.Clean(e.Name) == filepath.Clean(dir) && e.Has(fsnotify.Remove) {
				return fmt.Errorf("watch %s: the directory was removed", path)
			}
			if filepath.Base(e.Name) == filepath.Base(path) && e.Op != fsnotify.Chmod {
				changed()
			}
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", path, err)
			}
			changed() // events were lost; the file may have changed
		}
	}
}
