// Package logrotate keeps the log files of programs that others write bounded: containerd's shims and
// detached processes hold a file open for as long as they run, and append to it.
//
// A file that has grown too large is copied beside itself and emptied in place ("copytruncate" of
// logrotate(8)): its writer never has to open it anew. That is only right for files opened with O_APPEND,
// and lines written between the copy's end and the truncation are lost.
package logrotate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Limits bound what one log takes on disk: about twice Size, in bytes, and what is written between two looks.
type Limits struct {
	Size  int64
	Every time.Duration // how often the files are looked at
}

// Run looks at the files that match pattern (filepath.Match) until ctx ends. What cannot be rotated is
// told to fault, and tried again at the next look.
func Run(ctx context.Context, pattern string, l Limits, fault func(error)) {
	tick := time.NewTicker(l.Every)
	defer tick.Stop()
	for {
		if err := rotate(pattern, l.Size); err != nil {
			fault(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func rotate(pattern string, size int64) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return fmt.Errorf("rotate logs: %w", err)
	}
	var faults []error
	for _, name := range files {
		st, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.Mode().IsRegular() || st.Size() <= size) {
			continue
		}
		if err == nil {
			err = copyTruncate(name, st.Mode().Perm())
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("rotate %s: %w", name, err))
		}
	}
	return errors.Join(faults...)
}

// copyTruncate moves what is in the file to NAME.1, in place of what was there.
func copyTruncate(name string, mode fs.FileMode) error {
	from, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name()) // gone when it was renamed
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chmod(mode), to.Close()); err != nil {
		return err
	}
	if err := os.Rename(to.Name(), name+".1"); err != nil {
		return err
	}
	return from.Truncate(0)
}
