// Package artifacts builds, from pinned Go modules and Debian packages, everything that clusters are made of:
// control plane and node programs, the nodes' root file system and the content of mcr.microsoft.com as an OCI
// image layout (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md).
//
// What is built, and how, is said by nodeartifacts/versions.json and the Go modules beside it; this package only
// carries that out. Each part lies in the cache under a hash of what it is made from, so every data directory and
// clone on the machine shares it and an edit of Cloister's own code rebuilds nothing:
//
//	CacheDir/NAME-HASH/part.json      name, version, inputs, size, digest
//	CacheDir/NAME-HASH/bin/           programs of a Go module
//	CacheDir/{debian,node}-HASH/rootfs/
//	CacheDir/mcr-HASH/layout/
//	CacheDir/set-HASH/                bin/, node-rootfs and mcr together: what Set names
//	CacheDir/current -> set-HASH      the set built or imported last
//
// A part directory appears by one rename when it is complete and never changes afterwards. The package knows no
// cluster, registry or network.
package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"
)

// ErrNotBuilt is returned where the cache has no complete set.
var ErrNotBuilt = errors.New("artifacts are not built")

// Names of the composed parts in Options.Parts and Part.Name; Go modules are parts by their directory's name.
const (
	partPause  = "pause"
	partDebian = "debian"
	partNode   = "node"
	partMCR    = "mcr"
	partSet    = "set"
)

const (
	metadataFile  = "part.json"
	durationsFile = "durations.json"
	currentLink   = "current"
	stagingPrefix = ".staging-"
)

// Set is one complete, immutable set of artifacts.
type Set struct {
	Dir        string // CacheDir/set-HASH
	Bin        string // host programs: containerd, runc, etcd, kubectl, crane …; Kubernetes' own are those of the first version
	Kubernetes string // VERSION/kube-apiserver and the control plane's others, for each version: 1.30.3, 1.31.0
	NodeRootfs string // root file system of a node, everything owned by root; a read-only lower directory
	MCR        string // OCI image layout; each manifest's org.opencontainers.image.ref.name is REPOSITORY:TAG, without a host
}

// Part is one built part as the cache has it.
type Part struct {
	Name    string            `json:"name"`
	ID      string            `json:"id"`      // directory below the cache: NAME-HASH
	Version string            `json:"version"` // of the module, suite or Kubernetes release
	Arch    string            `json:"arch"`
	Inputs  map[string]string `json:"inputs,omitempty"` // part name → ID
	Size    int64             `json:"size"`             // bytes of its files, hard links to other parts included
	Digest  string            `json:"digest"`           // of names, modes and content of all its files
	Built   time.Time         `json:"built"`
	Seconds float64           `json:"seconds"` // how long it took
	Go      string            `json:"go,omitempty"`
}

// Event reports progress of one part.
type Event struct {
	Part     string
	Phase    string        // cached, waiting, installing, fetch, compile, bootstrap, assemble, digest, done, failed
	Elapsed  time.Duration // since the part was begun
	Estimate time.Duration // how long the whole part took last time on this machine, or a shipped guess
	Err      error         // of phase failed
}

// Options say what to build and where.
type Options struct {
	CacheDir string
	Source   fs.FS    // the directory nodeartifacts; FindSource finds it
	Parts    []string // nil: the whole set; otherwise these and what they need
	// Progress is called from several goroutines, one call at a time.
	Progress func(Event)
	// DebianMirror overrides the mirror that apt on this machine is configured with.
	DebianMirror string
}

// Build makes what is missing from the cache and returns the set. With Options.Parts the set is not complete and its
// fields name what of it exists. Two builders of one cache wait for each other.
func Build(ctx context.Context, o Options) (Set, error) {
	plan, err := newPlan(o.Source)
	if err != nil {
		return Set{}, err
	}
	wanted, err := plan.closure(o.Parts)
	if err != nil {
		return Set{}, err
	}
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return Set{}, fmt.Errorf("make artifact cache: %w", err)
	}
	b := &builder{options: o, plan: plan, durations: readDurations(o.CacheDir)}
	set := plan.parts[partSet]
	whole := o.Parts == nil
	if missing := b.missing(wanted); len(missing) > 0 || whole && !isCurrent(o.CacheDir, set.id()) {
		next := set
		if len(missing) > 0 {
			next = missing[0]
		}
		unlock, err := lock(ctx, o.CacheDir, func() { b.report(Event{Part: next.name, Phase: "waiting"}) })
		if err != nil {
			return Set{}, err
		}
		defer unlock()
		if err := removeStaging(o.CacheDir); err != nil {
			return Set{}, err
		}
	}
	if err := b.run(ctx, wanted); err != nil {
		return Set{}, err
	}
	if !built(o.CacheDir, set) {
		return b.partialSet(), nil
	}
	if whole {
		if err := setCurrent(o.CacheDir, set.id()); err != nil {
			return Set{}, err
		}
	}
	return openSet(o.CacheDir, set.id())
}

// Ready reports which parts of the set described by source are missing from the cache, in the order of their names.
func Ready(cacheDir string, source fs.FS) (missing []string, err error) {
	plan, err := newPlan(source)
	if err != nil {
		return nil, err
	}
	for _, p := range plan.parts {
		if !built(cacheDir, p) {
			missing = append(missing, p.name)
		}
	}
	sort.Strings(missing)
	return missing, nil
}

// Locate returns the set that was built or imported last, or ErrNotBuilt.
func Locate(cacheDir string) (Set, error) {
	id, err := os.Readlink(filepath.Join(cacheDir, currentLink))
	if errors.Is(err, fs.ErrNotExist) {
		return Set{}, fmt.Errorf("%w in %s", ErrNotBuilt, cacheDir)
	}
	if err != nil {
		return Set{}, fmt.Errorf("locate artifacts: %w", err)
	}
	return openSet(cacheDir, filepath.Base(id))
}

// List returns the parts in the cache in order of their names, older ones of a name first.
func List(cacheDir string) ([]Part, error) {
	entries, err := os.ReadDir(cacheDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	var parts []Part
	for _, e := range entries {
		if !e.IsDir() || e.Name()[0] == '.' {
			continue
		}
		p, err := readPart(cacheDir, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // not one of ours
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	sort.Slice(parts, func(i, j int) bool {
		if parts[i].Name != parts[j].Name {
			return parts[i].Name < parts[j].Name
		}
		return parts[i].Built.Before(parts[j].Built)
	})
	return parts, nil
}

func openSet(cacheDir, id string) (Set, error) {
	if _, err := readPart(cacheDir, id); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Set{}, fmt.Errorf("%w: %s is gone from %s", ErrNotBuilt, id, cacheDir)
		}
		return Set{}, err
	}
	dir, err := filepath.Abs(filepath.Join(cacheDir, id))
	if err != nil {
		return Set{}, err
	}
	s := Set{Dir: dir, Bin: filepath.Join(dir, "bin"), Kubernetes: filepath.Join(dir, setKubernetes)}
	for link, field := range map[string]*string{setNodeRootfs: &s.NodeRootfs, setMCR: &s.MCR} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, link))
		if err != nil {
			return Set{}, fmt.Errorf("%w: %s is damaged: %w", ErrNotBuilt, id, err)
		}
		*field = path
	}
	return s, nil
}

func isCurrent(cacheDir, id string) bool {
	old, err := os.Readlink(filepath.Join(cacheDir, currentLink))
	return err == nil && old == id
}

// setCurrent makes the set the one that Locate returns. Only who holds the lock may change it.
func setCurrent(cacheDir, id string) error {
	if isCurrent(cacheDir, id) {
		return nil
	}
	link := filepath.Join(cacheDir, currentLink)
	tmp := filepath.Join(cacheDir, stagingPrefix+"current")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(id, tmp); err != nil {
		return fmt.Errorf("make %s the current artifacts: %w", id, err)
	}
	return os.Rename(tmp, link)
}

func readPart(cacheDir, id string) (Part, error) {
	data, err := os.ReadFile(filepath.Join(cacheDir, id, metadataFile))
	if err != nil {
		return Part{}, err
	}
	var p Part
	if err := json.Unmarshal(data, &p); err != nil {
		return Part{}, fmt.Errorf("read artifact %s: %w", id, err)
	}
	return p, nil
}

func built(cacheDir string, p *part) bool {
	_, err := os.Stat(filepath.Join(cacheDir, p.id(), metadataFile))
	return err == nil
}
