package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/containerd"
	"github.com/cloister-dev/cloister/internal/engine/fabric"
	"github.com/cloister-dev/cloister/internal/engine/node/rootfs"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Prepare makes what a start needs: the built artifacts and the data directory.
func Prepare(ctx context.Context, dataDir, cacheDir string, report cli.Reporter) error {
	if _, err := buildArtifacts(ctx, cacheDir, report); err != nil {
		return err
	}
	if _, err := EnsureInstance(dataDir); err != nil {
		return err
	}
	return nil
}

// BuildArtifacts builds what is missing from the cache.
func BuildArtifacts(ctx context.Context, cacheDir string, report cli.Reporter) error {
	_, err := buildArtifacts(ctx, cacheDir, report)
	return err
}

// buildArtifacts builds what is missing, showing each part. A machine that cannot build, and has what
// it needs (by `cloister artifacts import`), builds nothing.
func buildArtifacts(ctx context.Context, cacheDir string, report cli.Reporter) (artifacts.Set, error) {
	source, err := artifacts.FindSource("")
	if err != nil {
		set, located := artifacts.Locate(cacheDir)
		if located != nil {
			return set, fmt.Errorf("the artifacts are not built (%w), and cannot be: %w. Run this in a clone of Cloister, or import them: cloister artifacts import FILE", located, err)
		}
		return set, nil
	}
	missing, err := artifacts.Ready(cacheDir, source)
	if err != nil {
		return artifacts.Set{}, err
	}
	if len(missing) == 0 {
		return artifacts.Build(ctx, artifacts.Options{CacheDir: cacheDir, Source: source})
	}
	return artifacts.Build(ctx, artifacts.Options{CacheDir: cacheDir, Source: source, Progress: artifactProgress(report)})
}

// artifactProgress shows the events of a build as steps.
func artifactProgress(report cli.Reporter) func(artifacts.Event) {
	type running struct {
		note func(string)
		end  func(string, error)
	}
	steps := map[string]running{}
	return func(e artifacts.Event) {
		s, known := steps[e.Part]
		switch e.Phase {
		case "cached":
		case "done":
			if known {
				s.end("", nil)
				delete(steps, e.Part)
			}
		case "failed":
			if known {
				s.end("", e.Err)
				delete(steps, e.Part)
			}
		default:
			if !known {
				note, end := report.Start("Building "+e.Part, e.Estimate.Seconds())
				s = running{note, end}
				steps[e.Part] = s
			}
			s.note(e.Phase)
		}
	}
}

// Teardown stops everything that an installation runs. Data stays, unless purge: clusters come back with
// the next start.
func Teardown(ctx context.Context, dataDir, cacheDir string, purge bool, report cli.Reporter) error {
	in, err := LoadInstance(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		if !purge {
			return fmt.Errorf("there is no installation in %s", dataDir)
		}
		if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%s has no instance.json: it is not clear what runs from it; remove the directory by hand", dataDir)
	}
	if err != nil {
		return err
	}
	l := in.Layout(dataDir, cacheDir)
	set, err := artifacts.Locate(cacheDir)
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		run  func() error
	}{
		{"Stopping the service", func() error { return stopService(ctx, l) }},
		{"Stopping clusters and processes", func() error {
			return containerd.New(l, set.Bin).Teardown(ctx, 2*time.Second)
		}},
		{"Unmounting nodes", func() error { return unmountNodes(l) }},
		{"Removing networks", func() error { return fabric.New(l).Teardown(ctx) }},
		{"Removing the run directory", func() error { return errors.Join(unshareNamespaces(l), os.RemoveAll(l.RunDir)) }},
	}
	if purge {
		steps = append(steps, struct {
			name string
			run  func() error
		}{"Removing " + dataDir, func() error { return purgeData(dataDir) }})
	}
	for _, s := range steps {
		_, end := report.Start(s.name, 0)
		err := s.run()
		end("", err)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(s.name), err)
		}
	}
	return nil
}

// stopService asks a running service to end. One that does not answer is not running: it holds the lock
// on the data directory as long as it does.
func stopService(ctx context.Context, l layout.Layout) error {
	lock, err := lockData(l.DataDir)
	if err == nil {
		return lock.Close()
	}
	c := socketClient(l)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cloister/cloister/v1/exit", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("the service runs and does not answer: %w", err)
	}
	resp.Body.Close()
	// The lock is free when it has ended.
	for {
		if lock, err := lockData(l.DataDir); err == nil {
			return lock.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unmountNodes takes the nodes' root file systems off, which outlive their containers. It must succeed
// before anything below the run directory is deleted: the disks show through.
func unmountNodes(l layout.Layout) error {
	mounts, err := filepath.Glob(filepath.Join(l.RunDir, "nodes", "*", "rootfs"))
	if err != nil {
		return err
	}
	for _, path := range mounts {
		if err := rootfs.Unmount(path); err != nil {
			return err
		}
	}
	return nil
}

// purgeData removes the data directory, instance.json last: a purge that is cut off can be repeated.
func purgeData(dataDir string) error {
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() == "instance.json" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dataDir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dataDir)
}
