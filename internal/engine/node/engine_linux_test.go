package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/node/rootfs"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/userns"
)

var update = flag.Bool("update", false, "write the golden files")

// recorder remembers what containers the engine asked for.
type recorder struct {
	specs   map[string]containerrun.Spec
	removed []string
	fail    error
}

func (r *recorder) Ensure(_ context.Context, s containerrun.Spec) error {
	r.specs[s.ID] = s
	return r.fail
}

func (r *recorder) Remove(_ context.Context, id string, _ time.Duration) error {
	r.removed = append(r.removed, id)
	delete(r.specs, id)
	return nil
}

// fixture is an engine that starts no container, and a config whose namespaces exist.
func fixture(t *testing.T) (*node.Engine, *recorder, layout.Layout, node.Config) {
	t.Helper()
	dir := t.TempDir()
	l := layout.Layout{DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), CacheDir: dir, Instance: "aaaaaa"}
	if err := userns.Create(l.UserNS("node-n1"), l.NetNS("node-n1"), userns.Map{Base: base, Count: 1 << 24}); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	shared := filepath.Join(dir, "shared")
	if err := os.MkdirAll(filepath.Join(shared, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &recorder{specs: map[string]containerrun.Spec{}}
	e, err := node.New(node.Options{Layout: l, Containers: r, Executable: "/usr/lib/cloister"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		if err := e.Remove(context.Background(), "n1"); err != nil {
			t.Error(err)
		}
		if err := userns.Delete(l.UserNS("node-n1"), l.NetNS("node-n1")); err != nil {
			t.Error(err)
		}
	})
	return e, r, l, node.Config{
		ID: "n1", Name: "aks-nodepool1-12345678-vmss000000", UIDBase: base, UIDCount: 1 << 24, Rootfs: shared, Image: "1",
		MemoryBytes: 7 << 30, CPUs: runtime.NumCPU(), Bootstrap: bootstrap.Config{NodeName: "aks-nodepool1-12345678-vmss000000", BootstrapToken: "secret"},
	}
}

func TestSpecGolden(t *testing.T) {
	e, r, l, c := fixture(t)
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	spec := r.specs["node-n1"]
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(data), filepath.Dir(l.DataDir), "DIR") + "\n"
	const golden = "testdata/spec.json"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if strings.Contains(got, c.Bootstrap.BootstrapToken) {
		t.Error("a secret is in the container's description")
	}
}

// TestRestore takes the mount away, as a reboot does.
func TestRestore(t *testing.T) {
	e, _, l, c := fixture(t)
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(l.RunDir, "nodes", "n1", "rootfs")
	if err := os.WriteFile(filepath.Join(target, "etc", "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rootfs.Unmount(target); err != nil {
		t.Fatal(err)
	}
	if err := e.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "etc", "mine")); err != nil {
		t.Error(err)
	}
}

// TestInterruptedSet fails where a crash may end it, and goes on.
func TestInterruptedSet(t *testing.T) {
	e, r, _, c := fixture(t)
	r.fail = errors.New("containerd is away")
	if err := e.Set(t.Context(), c); err == nil {
		t.Fatal("no error")
	}
	if configs, err := e.List(); err != nil || len(configs) != 1 {
		t.Fatalf("what was begun is not listed: %v %v", configs, err)
	}
	r.fail = nil
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// TestBakedIn holds that a provisioned node does not hear of a changed registry until it is reimaged.
func TestBakedIn(t *testing.T) {
	e, r, l, c := fixture(t)
	told := func() string {
		data, err := os.ReadFile(filepath.Join(l.Node("n1"), "etc", bootstrap.ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	c.Bootstrap.RegistryServer = "first.azurecr.io"
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	spec := r.specs["node-n1"]
	c.Bootstrap.RegistryServer, c.Attempt = "second.azurecr.io", 3
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(told(), "second") || !cmp.Equal(spec, r.specs["node-n1"]) {
		t.Error("a changed registry reached a node that was not reimaged")
	}
	// Nor does a newer root file system get below a disk that was made on another.
	root := func() string {
		configs, err := e.List()
		if err != nil || len(configs) != 1 {
			t.Fatalf("%v, %v", configs, err)
		}
		return configs[0].Rootfs
	}
	made := c.Rootfs
	c.Rootfs = t.TempDir()
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if root() != made {
		t.Errorf("the disk was made on %s and lies on %s", made, root())
	}
	c.Image = "2"
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told(), "second") {
		t.Error("a reimaged node has the old registry")
	}
	if root() != c.Rootfs {
		t.Errorf("a reimaged node lies on %s", root())
	}
}

// TestHostileNode puts links and pipes where the host reads what the node wrote.
func TestHostileNode(t *testing.T) {
	e, _, l, c := fixture(t)
	if err := e.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(l.DataDir, "secret")
	if err := os.WriteFile(secret, []byte(`{"ExitCode":"0","ExecDuration":"1","CSEStartTime":"2026-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(l.Node("n1"), "disk", "var", "log", "azure")
	for _, name := range []string{"provision.json", "cluster-provision.log"} {
		if err := os.Symlink(secret, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if result, err := e.Provision("n1"); err == nil || result.Done {
		t.Errorf("a link out of the node was followed: %+v", result)
	}
	if f, err := e.Logs("n1", "provision"); err == nil {
		f.Close()
		t.Error("a link out of the node was followed")
	}
	if _, err := e.Logs("n1", "../../config.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that does not exist: %v", err)
	}
}

func TestBadConfigs(t *testing.T) {
	e, r, _, good := fixture(t)
	for name, change := range map[string]func(*node.Config){
		"path in the ID": func(c *node.Config) { c.ID = "../x" },
		"no size":        func(c *node.Config) { c.CPUs = 0 },
		"no uids":        func(c *node.Config) { c.UIDBase = 0 },
		"another's name": func(c *node.Config) { c.Bootstrap.NodeName = "other" },
	} {
		c := good
		change(&c)
		if err := e.Set(t.Context(), c); err == nil || len(r.specs) > 0 {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := e.Remove(t.Context(), ".."); err == nil {
		t.Error("a path was accepted as an ID to remove")
	}
}
