package artifacts

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

// smallSource describes a set of which every part is real but small, and needs no network: the program is one of Go's
// own commands. Debian is not in it; see withDebian.
func smallSource(t *testing.T, change func(v map[string]any)) fstest.MapFS {
	t.Helper()
	v := map[string]any{
		"modules": map[string]any{
			"tool-1": map[string]any{"module": "std", "version": "v1", "programs": map[string]string{"tool": "cmd/test2json"}},
			"pin-1":  map[string]any{"module": "std", "version": "v1", "programs": map[string]string{"pin": "cmd/fix"}},
		},
		"pause":  map[string]any{"module": "tool-1", "source": "pause.c", "versions": []string{"1"}},
		"debian": map[string]any{"suite": "bookworm", "packages": []string{"tar"}},
		"node":   map[string]any{"files": map[string]string{"/usr/bin/tool": "tool-1/tool"}},
		"mcr":    map[string]any{"created": "2024-01-01T00:00:00Z", "images": []any{map[string]any{"reference": "a/b:1", "files": map[string]string{"/tool": "tool-1/tool"}, "entrypoint": []string{"/tool"}}}},
		"set":    map[string]any{"bin": []string{"tool-1/tool"}},
	}
	if change != nil {
		change(v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	mod := func(name string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("module example.com/" + name + "\n\ngo 1.26\n")}
	}
	return fstest.MapFS{
		"versions.json": {Data: data}, "tool-1/go.mod": mod("tool"), "tool-1/go.sum": {}, "pin-1/go.mod": mod("pin"),
	}
}

// withDebian puts a finished Debian part into the cache, as if it had been bootstrapped.
func withDebian(t *testing.T, cacheDir string, source fs.FS) {
	t.Helper()
	p := mustPlan(t, source).parts[partDebian]
	root := filepath.Join(cacheDir, p.id(), "rootfs")
	for _, dir := range []string{"usr/bin", "usr/lib", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cacheDir, p.id())
	size, digest, err := treeDigest(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(Part{Name: p.name, ID: p.id(), Version: p.version, Arch: arch(), Size: size, Digest: digest, Built: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, metadataFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustPlan(t *testing.T, source fs.FS) *plan {
	t.Helper()
	p, err := newPlan(source)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func hashes(p *plan) map[string]string {
	h := map[string]string{}
	for name, q := range p.parts {
		h[name] = q.hash
	}
	return h
}

func changed(a, b map[string]string) []string {
	var names []string
	for name := range a {
		if a[name] != b[name] {
			names = append(names, name)
		}
	}
	return names
}

func TestHashCoversWhatAPartIsMadeFrom(t *testing.T) {
	base := smallSource(t, nil)
	before := hashes(mustPlan(t, base))
	if again := hashes(mustPlan(t, smallSource(t, nil))); !maps.Equal(before, again) {
		t.Error("the same source has two hashes")
	}
	for _, tc := range []struct {
		name   string
		source fstest.MapFS
		want   []string
	}{
		{"go.sum of one module", func() fstest.MapFS {
			s := maps.Clone(base)
			s["tool-1/go.sum"] = &fstest.MapFile{Data: []byte("x v1 h1:y=\n")}
			return s
		}(), []string{"tool-1", "pause", "node", "mcr", "set"}},
		{"a module nothing uses", func() fstest.MapFS {
			s := maps.Clone(base)
			s["pin-1/go.mod"] = &fstest.MapFile{Data: []byte("module example.com/other\n\ngo 1.26\n")}
			return s
		}(), []string{"pin-1"}},
		{"a Debian package", smallSource(t, func(v map[string]any) {
			v["debian"].(map[string]any)["packages"] = []string{"tar", "jq"}
		}), []string{"debian", "node", "set"}},
		{"an image", smallSource(t, func(v map[string]any) { v["mcr"].(map[string]any)["created"] = "2025-01-01T00:00:00Z" }), []string{"mcr", "set"}},
		{"an estimate", smallSource(t, func(v map[string]any) { v["debian"].(map[string]any)["seconds"] = 9 }), nil},
		{"a file beside the pins", func() fstest.MapFS {
			s := maps.Clone(base)
			s["tool-1/README"] = &fstest.MapFile{Data: []byte("x")}
			return s
		}(), nil},
	} {
		got := changed(before, hashes(mustPlan(t, tc.source)))
		if !sameElements(got, tc.want) {
			t.Errorf("%s: changes %v, want %v", tc.name, got, tc.want)
		}
	}
}

func sameElements(a, b []string) bool {
	count := map[string]int{}
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func buildSmall(t *testing.T, cacheDir string, source fs.FS, parts ...string) (Set, []Event, error) {
	t.Helper()
	var events []Event
	set, err := Build(t.Context(), Options{CacheDir: cacheDir, Source: source, Parts: parts, Progress: func(e Event) { events = append(events, e) }})
	return set, events, err
}

func TestBuildTwiceBuildsOnce(t *testing.T) {
	cacheDir, source := t.TempDir(), smallSource(t, nil)
	withDebian(t, cacheDir, source)
	if _, err := Locate(cacheDir); !errors.Is(err, ErrNotBuilt) {
		t.Fatalf("Locate before a build: %v, want ErrNotBuilt", err)
	}
	set, _, err := buildSmall(t, cacheDir, source)
	if err != nil {
		t.Fatal(err)
	}
	if located, err := Locate(cacheDir); err != nil || located != set {
		t.Errorf("Locate: %+v, %v; Build made %+v", located, err, set)
	}
	for _, path := range []string{
		filepath.Join(set.Bin, "tool"), filepath.Join(set.NodeRootfs, "usr/bin/tool"),
		filepath.Join(set.NodeRootfs, "etc/passwd"), filepath.Join(set.MCR, "index.json"),
	} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if missing, err := Ready(cacheDir, source); err != nil || !sameElements(missing, []string{"pin-1", "pause"}) {
		t.Errorf("Ready: missing %v, %v; only what the set does not need should be", missing, err)
	}

	t.Setenv("PATH", "") // a hit needs no tool at all
	_, events, err := buildSmall(t, cacheDir, source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Phase != "cached" {
			t.Errorf("the second build did %+v", e)
		}
	}
	if len(events) == 0 {
		t.Error("the second build reported nothing")
	}

	parts, err := List(cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.Name == "" || p.Version == "" || p.Digest == "" || p.Size == 0 && p.Name != partSet || p.Built.IsZero() {
			t.Errorf("List: incomplete %+v", p)
		}
		if _, digest, err := treeDigest(filepath.Join(cacheDir, p.ID)); err != nil || digest != p.Digest {
			t.Errorf("%s has digest %s, %v; recorded %s", p.ID, digest, err, p.Digest)
		}
	}
	if len(parts) != 5 {
		t.Errorf("List: %d parts, want tool-1, debian, node, mcr, set", len(parts))
	}
}

func TestProgressNamesPhasesAndEstimates(t *testing.T) {
	cacheDir := t.TempDir()
	source := smallSource(t, func(v map[string]any) {
		v["modules"].(map[string]any)["tool-1"].(map[string]any)["seconds"] = 7
	})
	_, events, err := buildSmall(t, cacheDir, source, "tool-1")
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	for _, e := range events {
		phases = append(phases, e.Phase)
		if e.Estimate != 7*time.Second {
			t.Errorf("phase %s estimates %v, want the shipped 7s", e.Phase, e.Estimate)
		}
	}
	if want := "fetch compile digest done"; strings.Join(phases, " ") != want {
		t.Errorf("phases %v, want %s", phases, want)
	}
	if d := readDurations(cacheDir)["tool-1"]; d <= 0 || d > 60 {
		t.Errorf("recorded duration %v", d)
	}
}

func TestFailedAndInterruptedBuildsLeaveNothing(t *testing.T) {
	cacheDir := t.TempDir()
	source := smallSource(t, func(v map[string]any) {
		v["modules"].(map[string]any)["tool-1"].(map[string]any)["programs"] = map[string]string{"tool": "cmd/no-such-command"}
	})
	_, events, err := buildSmall(t, cacheDir, source, "tool-1")
	if err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("error %v does not say what go said", err)
	}
	if last := events[len(events)-1]; last.Phase != "failed" || last.Err == nil {
		t.Errorf("last event %+v", last)
	}
	if left, _ := filepath.Glob(filepath.Join(cacheDir, "*-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// A builder that died in the middle: its staging directory is no part, and the next builder removes it.
	dead := filepath.Join(cacheDir, stagingPrefix+"tool-1.dead", "bin")
	if err := os.MkdirAll(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	if parts, err := List(cacheDir); err != nil || len(parts) > 0 {
		t.Errorf("List: %v, %v", parts, err)
	}
	if _, _, err := buildSmall(t, cacheDir, smallSource(t, nil), "tool-1"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(cacheDir, stagingPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTwoBuildersDoNotCollide(t *testing.T) {
	cacheDir, source := t.TempDir(), smallSource(t, nil)
	var mu sync.Mutex
	compiled := 0
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			_, err := Build(t.Context(), Options{CacheDir: cacheDir, Source: source, Parts: []string{"tool-1"}, Progress: func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Phase == "compile" {
					compiled++
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if compiled != 1 {
		t.Errorf("compiled %d times, want once", compiled)
	}
}

func TestWaitingForAnotherBuilderEndsWithTheContext(t *testing.T) {
	cacheDir := t.TempDir()
	unlock, err := lock(t.Context(), cacheDir, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Build(ctx, Options{CacheDir: cacheDir, Source: smallSource(t, nil), Parts: []string{"tool-1"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Build: %v", err)
	}
}

func TestUrgentPartsStartFirst(t *testing.T) {
	seconds := func(v map[string]any, module string, s int) {
		v["modules"].(map[string]any)[module].(map[string]any)["seconds"] = s
	}
	plan := mustPlan(t, smallSource(t, func(v map[string]any) {
		seconds(v, "tool-1", 1)
		seconds(v, "pin-1", 50)
		v["node"].(map[string]any)["seconds"] = 100
	}))
	b := &builder{plan: plan, durations: map[string]float64{}}
	parts, err := plan.closure([]string{"set", "pin-1"})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, p := range b.byUrgency(parts) {
		order = append(order, p.name)
	}
	// tool-1 takes a second, but the longest part waits for it.
	if got := strings.Join(order, " "); !strings.HasPrefix(got, "tool-1 debian") && !strings.HasPrefix(got, "tool-1 node") {
		t.Errorf("order %s", got)
	}
}

func TestSourceIsFoundOrItsAbsenceExplained(t *testing.T) {
	below, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	_, err = FindSource("")
	if err == nil || !strings.Contains(err.Error(), "import") || !strings.Contains(err.Error(), "nodeartifacts") {
		t.Errorf("FindSource outside a clone: %v", err)
	}
	if _, err := FindSource(t.TempDir()); err == nil {
		t.Error("FindSource took an empty directory")
	}
	t.Chdir(below)
	source, err := FindSource("")
	if err != nil {
		t.Fatalf("FindSource in a clone: %v", err)
	}
	if _, err := newPlan(source); err != nil {
		t.Error(err)
	}
}

func TestUnknownFieldsAndPartsAreRefused(t *testing.T) {
	for name, source := range map[string]fs.FS{
		"unknown field": smallSource(t, func(v map[string]any) { v["modulse"] = map[string]any{} }),
		"unknown part":  smallSource(t, func(v map[string]any) { v["set"] = map[string]any{"bin": []string{"nothing/tool"}} }),
		"cycle":         smallSource(t, func(v map[string]any) { v["node"] = map[string]any{"files": map[string]string{"/x": "set/x"}} }),
	} {
		if _, err := newPlan(source); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := buildSmall(t, t.TempDir(), smallSource(t, nil), "nothing"); err == nil {
		t.Error("an unknown part was built")
	}
}

func TestExportAndImport(t *testing.T) {
	from, to, source := t.TempDir(), t.TempDir(), smallSource(t, nil)
	withDebian(t, from, source)
	if err := Export(t.Context(), from, &bytes.Buffer{}); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Export of nothing: %v", err)
	}
	if _, _, err := buildSmall(t, from, source); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := Export(t.Context(), from, &archive); err != nil {
		t.Fatal(err)
	}
	set, err := Import(t.Context(), to, bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if located, err := Locate(to); err != nil || located != set {
		t.Errorf("Locate after Import: %+v, %v", located, err)
	}
	tool, err := os.Stat(filepath.Join(set.Bin, "tool"))
	if err != nil {
		t.Fatal(err)
	}
	inNode, err := os.Stat(filepath.Join(set.NodeRootfs, "usr/bin/tool"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(tool, inNode) {
		t.Error("the shared program was unpacked twice")
	}
	original, err := os.Stat(filepath.Join(from, filepath.Base(set.Dir), "bin/tool"))
	if err != nil {
		t.Fatal(err)
	}
	if tool.Mode() != original.Mode() || !tool.ModTime().Equal(original.ModTime()) {
		t.Errorf("mode %v, time %v; was %v, %v", tool.Mode(), tool.ModTime(), original.Mode(), original.ModTime())
	}
	// The imported parts are what the same source describes: nothing is built again.
	_, events, err := buildSmall(t, to, source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Phase != "cached" {
			t.Errorf("after Import the build did %+v", e)
		}
	}

	damaged := bytes.Replace(archive.Bytes(), []byte("root:x:0:0"), []byte("evil:x:0:0"), 1)
	if _, err := Import(t.Context(), t.TempDir(), bytes.NewReader(damaged)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Import of a damaged archive: %v", err)
	}
	if _, err := Import(t.Context(), t.TempDir(), bytes.NewReader(archive.Bytes()[:archive.Len()/2])); err == nil {
		t.Error("half an archive was imported")
	}
}

func TestImportKeepsFileCapabilities(t *testing.T) {
	from, to, source := t.TempDir(), t.TempDir(), smallSource(t, nil)
	withDebian(t, from, source)
	if _, _, err := buildSmall(t, from, source); err != nil {
		t.Fatal(err)
	}
	const passwd = "etc/passwd"
	set, err := Locate(from)
	if err != nil {
		t.Fatal(err)
	}
	// cap_net_raw, permitted and effective, as Debian gives to ping where it can.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if err := unix.Setxattr(filepath.Join(set.NodeRootfs, passwd), capabilityXattr, []byte(capability), 0); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := Export(t.Context(), from, &archive); err != nil {
		t.Fatal(err)
	}
	if set, err = Import(t.Context(), to, &archive); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(set.NodeRootfs, passwd), capabilityXattr, value)
	if err != nil || string(value[:n]) != capability {
		t.Errorf("capability %q, %v", value[:max(n, 0)], err)
	}
}

func TestImportStaysInItsDirectory(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"parent":   {{Name: "../evil", Typeflag: tar.TypeDir, Mode: 0o755}},
		"absolute": {{Name: "/evil", Typeflag: tar.TypeDir, Mode: 0o755}},
		"through a link": {
			{Name: "a-1/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "a-1/out", Typeflag: tar.TypeSymlink, Linkname: "../../.."},
			{Name: "a-1/out/evil", Typeflag: tar.TypeReg, Mode: 0o644},
		},
		"link to outside": {
			{Name: "a-1/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "a-1/evil", Typeflag: tar.TypeLink, Linkname: "../durations.json"},
		},
		"device": {
			{Name: "a-1/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "a-1/mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1},
		},
	} {
		parent := t.TempDir()
		cacheDir := filepath.Join(parent, "x", "cache")
		if err := os.MkdirAll(cacheDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cacheDir, durationsFile), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range headers {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		if _, err := Import(t.Context(), cacheDir, &archive); err == nil {
			t.Errorf("%s: imported", name)
		}
		if _, err := os.Lstat(filepath.Join(parent, "evil")); err == nil {
			t.Errorf("%s: wrote outside", name)
		}
		if left, _ := filepath.Glob(filepath.Join(cacheDir, "*-*")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func TestMirrorIsTheMachinesOwn(t *testing.T) {
	debian := map[string]string{"ID": "debian", "VERSION_CODENAME": "trixie"}
	ubuntu := map[string]string{"ID": "ubuntu", "VERSION_CODENAME": "noble"}
	for _, tc := range []struct {
		name, targets string
		release       map[string]string
		want          string
	}{
		{"the suite itself", "Sources|main|bookworm|http://s/\nPackages|contrib|bookworm|http://c/\nPackages|main|bookworm|http://m/\n", debian, "http://m/"},
		{"the suite on another distribution", "Packages|main|noble|http://u/\nPackages|main|bookworm|http://m/\n", ubuntu, "http://m/"},
		{"another release", "Packages|main|docker|http://d/\nPackages|main|trixie-updates|http://n/\nPackages|main|trixie|http://m/\n", debian, "http://m/"},
		{"no Debian", "Packages|main|noble|http://u/\n", ubuntu, ""},
	} {
		got, err := chooseMirror(tc.targets, "bookworm", tc.release)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestContainedCommandLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		// The grandchild is in a session of its own: killing the process group does not reach it.
		_, err := command{dir: dir, contained: true}.run(ctx, "sh", "-c", `mkdir m && mount -t tmpfs none m && setsid sh -c 'echo mounted >fifo; exec sleep 1000 >fifo' & wait`)
		result <- err
	}()
	f, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, 8)
	if _, err := io.ReadFull(f, line); err != nil || string(line) != "mounted\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
	if rest, err := io.ReadAll(f); err != nil || len(rest) > 0 { // ends when the grandchild does
		t.Errorf("%q, %v", rest, err)
	}
	if err := os.Remove(filepath.Join(dir, "m")); err != nil {
		t.Errorf("the mount is seen outside: %v", err)
	}
}
