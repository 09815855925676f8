package artifacts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// versions is nodeartifacts/versions.json. A reference PART/NAME in it means the program NAME of the part PART.
type versions struct {
	Modules map[string]moduleSpec `json:"modules"`
	Pause   pauseSpec             `json:"pause"`
	Debian  debianSpec            `json:"debian"`
	Node    nodeSpec              `json:"node"`
	MCR     mcrSpec               `json:"mcr"`
	Set     setSpec               `json:"set"`
}

// common is in every spec. Neither field is an input of the part's hash.
type common struct {
	HostPackages []string `json:"hostPackages,omitempty"` // Debian packages the build itself needs on this machine
	Seconds      float64  `json:"seconds,omitempty"`      // how long it took where it was last measured
}

func (c common) host() common { return c }

type moduleSpec struct {
	common
	Module    string            `json:"module"`
	Version   string            `json:"version"`
	Programs  map[string]string `json:"programs"`            // name → main package
	Variables map[string]string `json:"variables,omitempty"` // -X
	Tags      []string          `json:"tags,omitempty"`
	Cgo       bool              `json:"cgo,omitempty"` // link statically against the host's C libraries
}

type pauseSpec struct {
	common
	Module   string   `json:"module"` // part whose module has the source
	Source   string   `json:"source"` // path in that module
	Versions []string `json:"versions"`
}

type debianSpec struct {
	common
	Suite    string   `json:"suite"`
	Packages []string `json:"packages"`
	Remove   []string `json:"remove"` // patterns below the root
}

type nodeSpec struct {
	common
	Files map[string]string `json:"files"` // path in the root file system → PART/NAME
}

type mcrSpec struct {
	common
	Created string `json:"created"`
	// GzipLevel is that of all layers. What is pulled on the same machine is unpacked sooner than it would
	// be decompressed: level 0 saves a second of processor time for each node.
	GzipLevel int            `json:"gzipLevel"`
	Images    []imageSpec    `json:"images"`
	Artifacts []artifactSpec `json:"artifacts"`
}

type imageSpec struct {
	Reference  string            `json:"reference"`
	Debian     []string          `json:"debian,omitempty"`  // paths of the Debian tree, with the libraries they need
	Busybox    bool              `json:"busybox,omitempty"` // with a link per applet
	Files      map[string]string `json:"files,omitempty"`   // path → PART/NAME
	Text       map[string]string `json:"text,omitempty"`    // path → content of an executable script
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	User       string            `json:"user,omitempty"`
	Ports      []string          `json:"ports,omitempty"`
}

type artifactSpec struct {
	Reference string            `json:"reference"`
	Title     string            `json:"title"`
	Files     map[string]string `json:"files"` // path in the archive → PART/NAME
}

type setSpec struct {
	common
	Bin        []string            `json:"bin"`
	Kubernetes map[string][]string `json:"kubernetes,omitempty"` // version → the control plane's programs
}

func (s setSpec) references() []string {
	refs := append(slices.Clone(s.Bin), partNode, partMCR)
	for _, programs := range s.Kubernetes {
		refs = append(refs, programs...)
	}
	return refs
}

// part is one node of the plan.
type part struct {
	name    string
	version string
	inputs  []string // names of other parts, sorted
	spec    interface{ host() common }
	files   map[string][]byte // go.mod and go.sum
	hash    string
}

func (p *part) id() string { return p.name + "-" + p.hash[:12] }

type plan struct{ parts map[string]*part }

// FindSource returns the directory nodeartifacts of a clone of Cloister: the given directory if there is one,
// otherwise at or above the working directory or the running program.
func FindSource(dir string) (fs.FS, error) {
	if dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "versions.json")); err != nil {
			return nil, fmt.Errorf("%s is not Cloister's nodeartifacts directory: %w", dir, err)
		}
		return os.DirFS(dir), nil
	}
	var tried []string
	for _, start := range []func() (string, error){os.Getwd, os.Executable} {
		at, err := start()
		if err != nil {
			continue
		}
		if at, err = filepath.EvalSymlinks(at); err != nil {
			continue
		}
		tried = append(tried, at)
		for ; ; at = filepath.Dir(at) {
			dir := filepath.Join(at, "nodeartifacts")
			if _, err := os.Stat(filepath.Join(dir, "versions.json")); err == nil {
				return os.DirFS(dir), nil
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return nil, fmt.Errorf("building artifacts needs Cloister's source tree, and there is no directory nodeartifacts at or above %s: "+
		"run it in a clone, or import a set that was exported elsewhere", strings.Join(tried, " or "))
}

func newPlan(source fs.FS) (*plan, error) {
	if source == nil {
		return nil, errors.New("no source of artifacts given")
	}
	v, err := readVersions(source)
	if err != nil {
		return nil, err
	}
	p := &plan{parts: map[string]*part{}}
	for name, spec := range v.Modules {
		files := map[string][]byte{}
		for _, f := range []string{"go.mod", "go.sum"} {
			data, err := fs.ReadFile(source, name+"/"+f)
			if errors.Is(err, fs.ErrNotExist) && f == "go.sum" {
				continue // a module without requirements has none
			}
			if err != nil {
				return nil, fmt.Errorf("read the Go module of %s: %w", name, err)
			}
			files[f] = data
		}
		p.parts[name] = &part{name: name, version: spec.Version, spec: spec, files: files}
	}
	add := func(name, version string, spec interface{ host() common }, refs ...string) {
		inputs := map[string]bool{}
		for _, r := range refs {
			from, _, _ := strings.Cut(r, "/")
			inputs[from] = true
		}
		p.parts[name] = &part{name: name, version: version, spec: spec, inputs: slices.Sorted(maps.Keys(inputs))}
	}
	add(partPause, strings.Join(v.Pause.Versions, ","), v.Pause, v.Pause.Module)
	add(partDebian, v.Debian.Suite, v.Debian)
	add(partNode, v.Debian.Suite, v.Node, append(slices.Collect(maps.Values(v.Node.Files)), partDebian)...)
	add(partMCR, v.Modules[v.Pause.Module].Version, v.MCR, v.MCR.references()...)
	add(partSet, v.Modules[v.Pause.Module].Version, v.Set, v.Set.references()...)
	for name := range p.parts {
		if err := p.resolve(name, nil); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func readVersions(source fs.FS) (versions, error) {
	data, err := fs.ReadFile(source, "versions.json")
	if err != nil {
		return versions{}, fmt.Errorf("read pinned versions: %w", err)
	}
	var v versions
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return versions{}, fmt.Errorf("read versions.json: %w", err)
	}
	return v, nil
}

func (s mcrSpec) references() []string {
	refs := []string{}
	for _, i := range s.Images {
		refs = slices.AppendSeq(refs, maps.Values(i.Files))
		if len(i.Debian) > 0 || i.Busybox {
			refs = append(refs, partDebian)
		}
	}
	for _, a := range s.Artifacts {
		refs = slices.AppendSeq(refs, maps.Values(a.Files))
	}
	return refs
}

// resolve computes the part's hash after those of its inputs. Cloister's own code is not in it: where a change of the
// code must rebuild, hashFormat is raised.
func (p *plan) resolve(name string, path []string) error {
	q := p.parts[name]
	if q == nil {
		return fmt.Errorf("versions.json: %s needs %s, which is no part", strings.Join(path, " → "), name)
	}
	if q.hash != "" {
		return nil
	}
	if slices.Contains(path, name) {
		return fmt.Errorf("versions.json: %s needs itself", strings.Join(append(path, name), " → "))
	}
	const hashFormat = "1"
	spec, err := json.Marshal(q.spec)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(spec, &fields); err != nil {
		return err
	}
	delete(fields, "hostPackages")
	delete(fields, "seconds")
	inputs := map[string]string{}
	for _, in := range q.inputs {
		if err := p.resolve(in, append(path, name)); err != nil {
			return err
		}
		inputs[in] = p.parts[in].hash
	}
	data, err := json.Marshal(map[string]any{ // maps are encoded in order of their keys
		"format": hashFormat, "name": name, "arch": runtime.GOARCH, "spec": fields, "files": q.files, "inputs": inputs,
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	q.hash = hex.EncodeToString(sum[:])
	return nil
}

// closure returns the named parts and what they need; all parts for none.
func (p *plan) closure(names []string) ([]*part, error) {
	if names == nil {
		names = []string{partSet}
	}
	seen := map[string]*part{}
	var visit func(string) error
	visit = func(name string) error {
		q := p.parts[name]
		if q == nil {
			return fmt.Errorf("no part is called %s; there are %s", name, strings.Join(slices.Sorted(maps.Keys(p.parts)), ", "))
		}
		if seen[name] != nil {
			return nil
		}
		seen[name] = q
		for _, in := range q.inputs {
			if err := visit(in); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	parts := slices.Collect(maps.Values(seen))
	slices.SortFunc(parts, func(a, b *part) int { return strings.Compare(a.name, b.name) })
	return parts, nil
}
