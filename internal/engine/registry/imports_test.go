package registry

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func (e *env) imports() Imports { return Imports{filepath.Join(e.dir, "registry")} }

// imported orders an import and returns its outcome.
func (e *env) imported(t *testing.T, order Import) Import {
	t.Helper()
	id, err := e.imports().Order(order)
	if err != nil {
		t.Fatal(err)
	}
	e.server.startImports()
	return e.outcome(t, id)
}

func (e *env) outcome(t *testing.T, id string) Import {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		outcome, err := e.imports().Outcome(id)
		if err != nil {
			t.Fatal(err)
		}
		if outcome.State != ImportRunning {
			return outcome
		}
		if time.Now().After(deadline) {
			t.Fatal("the import does not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestImportFromUpstream(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("tools/app:1", 2048)
	index, err := random.Index(256, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(e.upstreamTag("multi:1"), index, remote.WithTransport(e.upstreamTransport())); err != nil {
		t.Fatal(err)
	}
	mcr := func(image string) ImportSource { return ImportSource{Host: "mcr.microsoft.com", Image: image} }
	digest, _ := image.Digest()
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))

	order := Import{Target: "A.azurecr.io", Source: mcr("tools/app:1"), Tags: []string{"app:v1", "app:v2", "mine"}, Untagged: []string{"bare"}}
	if got := e.imported(t, order); got.State != ImportSucceeded {
		t.Fatalf("%+v", got)
	}
	if got := e.imported(t, Import{Target: "a.azurecr.io", Source: mcr("multi:1"), Tags: []string{"multi:1"}}); got.State != ImportSucceeded {
		t.Fatalf("%+v", got)
	}
	// It is a copy: the upstream is not asked again.
	e.upstream.down.Store(true)
	for _, reference := range []string{"app:v1", "app:v2", "mine:1", "bare@" + digest.String()} {
		e.mustPull("a.azurecr.io/"+reference, image, options...)
	}
	ref, _ := name.ParseReference("a.azurecr.io/multi:1")
	manifest, _ := index.IndexManifest()
	for _, d := range manifest.Manifests {
		child, _ := index.Image(d.Digest)
		e.mustPull(ref.Context().Digest(d.Digest.String()).String(), child, options...)
	}
	if _, err := e.pull("a.azurecr.io/bare:1", options...); err == nil {
		t.Error("an untagged target has a tag")
	}
	e.upstream.down.Store(false)

	other := e.publish("tools/app:2", 512)
	got := e.imported(t, Import{Target: "a.azurecr.io", Source: mcr("tools/app:2"), Tags: []string{"app:v1"}})
	if got.State != ImportFailed || got.Status != 409 || got.Code != "Conflict" || got.Message != "Tag app:v1 already exists in target registry." {
		t.Errorf("over a tag that exists: %+v", got)
	}
	e.mustPull("a.azurecr.io/app:v1", image, options...)
	if got := e.imported(t, Import{Target: "a.azurecr.io", Source: mcr("tools/app:2"), Tags: []string{"app:v1"}, Force: true}); got.State != ImportSucceeded {
		t.Errorf("with force: %+v", got)
	}
	e.mustPull("a.azurecr.io/app:v1", other, options...)

	for _, tt := range []struct {
		order Import
		code  string
	}{
		{Import{Target: "a.azurecr.io", Source: mcr("tools/app:none"), Tags: []string{"x:1"}}, "InvalidParameters"},
		{Import{Target: "a.azurecr.io", Source: ImportSource{Host: "quay.example", Image: "x:1"}, Tags: []string{"x:1"}}, "InvalidParameters"},
		{Import{Target: "a.azurecr.io", Source: mcr("UPPER:1"), Tags: []string{"x:1"}}, "InvalidParameters"},
		{Import{Target: "a.azurecr.io", Source: mcr("tools/app:2"), Tags: []string{"../x:1"}}, "InvalidParameters"},
		{Import{Target: "a.azurecr.io", Source: mcr("tools/app:2")}, "InvalidParameters"},
		{Import{Target: "gone.azurecr.io", Source: mcr("tools/app:2"), Tags: []string{"x:1"}}, "ResourceNotFound"},
	} {
		if got := e.imported(t, tt.order); got.State != ImportFailed || got.Code != tt.code || got.Message == "" {
			t.Errorf("%+v: %+v, want %s", tt.order, got, tt.code)
		}
	}
	if _, err := e.pull("a.azurecr.io/x:1", options...); err == nil {
		t.Error("a failed import left a tag")
	}
}

func TestImportFromAnotherRegistry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.config.Registries[1].AnonymousPull = false
	e.apply()
	image := e.push(t, "b.azurecr.io/team/app:1", 1024)
	cached := e.publish("tools/cached:1", 1024)
	from := func(s ImportSource, target string) Import {
		s.Host = "b.azurecr.io"
		return Import{Target: "a.azurecr.io", Source: s, Tags: []string{target}}
	}
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))
	// Named by its resource: the role was checked there.
	if got := e.imported(t, from(ImportSource{Image: "team/app:1", Trusted: true}, "copy:1")); got.State != ImportSucceeded {
		t.Fatalf("%+v", got)
	}
	e.mustPull("a.azurecr.io/copy:1", image, options...)
	// What the source's cache rules would fetch is there as well.
	if got := e.imported(t, from(ImportSource{Image: "tools/cached:1", Trusted: true}, "copy:2")); got.State != ImportSucceeded {
		t.Fatalf("%+v", got)
	}
	e.mustPull("a.azurecr.io/copy:2", cached, options...)

	// Named by its login server, it is asked as anybody asks it.
	public := &e.config.Registries[1]
	if got := e.imported(t, from(ImportSource{Image: "team/app:1"}, "copy:3")); got.Status != http.StatusForbidden {
		t.Errorf("closed to the public: %+v", got)
	}
	public.PublicAccess = true
	e.apply()
	if got := e.imported(t, from(ImportSource{Image: "team/app:1"}, "copy:3")); got.Status != http.StatusUnauthorized {
		t.Errorf("without credentials: %+v", got)
	}
	if got := e.imported(t, from(ImportSource{Image: "team/app:1", Username: nullUser, Password: "wrong"}, "copy:3")); got.Status != http.StatusUnauthorized {
		t.Errorf("with wrong credentials: %+v", got)
	}
	_, refresh := e.exchange(e.private(), "b.azurecr.io", testAuthority().token(pusher, nil))
	got := e.imported(t, from(ImportSource{Image: "team/app:1", Username: nullUser, Password: refresh}, "copy:3"))
	if got.State != ImportSucceeded || got.Source.Password != "" {
		t.Errorf("with credentials: %+v", got)
	}
	public.AnonymousPull = true
	e.apply()
	if got := e.imported(t, from(ImportSource{Image: "team/app:1"}, "copy:4")); got.State != ImportSucceeded {
		t.Errorf("anonymously: %+v", got)
	}
}

// An order survives the death of the process that was at it, and is done by the next one.
func TestImportSurvivesItsProcess(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	asked, release := make(chan struct{}, 10), make(chan struct{})
	stop := func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		asked <- struct{}{}
		<-release
		return true
	}
	e.upstream.intercept.Store(&stop)
	e.server.Close()
	e.writeState()
	command := e.startProcess()
	id, err := e.imports().Order(Import{Target: "a.azurecr.io", Source: ImportSource{Host: "mcr.microsoft.com", Image: "big:1"}, Tags: []string{"big:1"}})
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	command.Process.Kill()
	command.Wait()
	e.upstream.intercept.Store(nil)
	close(release)
	if outcome, err := e.imports().Outcome(id); err != nil || outcome.State != ImportRunning {
		t.Fatalf("%+v %v", outcome, err)
	}
	e.startProcess()
	if outcome := e.outcome(t, id); outcome.State != ImportSucceeded {
		t.Fatalf("%+v", outcome)
	}
	e.mustPull("a.azurecr.io/big:1", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	for _, other := range []string{"../keys", "", "00000000-0000-0000-0000-000000000000"} {
		if _, err := e.imports().Outcome(other); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", other, err)
		}
	}
}
