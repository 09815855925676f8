package registry

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func itoa(n int) string { return strconv.Itoa(n) }

// bearer is the header of an access token.
func (e *env) bearer(t testing.TB, host, principal, scope string) http.Header {
	t.Helper()
	var token string
	if principal == "" {
		_, body := get(t, e.private(), "GET", "https://"+host+"/oauth2/token?service="+host+"&scope="+scope, nil)
		var answer struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		token = answer.AccessToken
	} else {
		_, token = e.access(t, host, principal, scope)
	}
	if token == "" {
		t.Fatalf("%s has no token for %s", principal, scope)
	}
	return http.Header{"Authorization": {"Bearer " + token}}
}

// push puts a random image into a registry as the pusher.
func (e *env) push(t testing.TB, reference string, size int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, 2)
	if err != nil {
		t.Fatal(err)
	}
	e.pushImage(t, reference, image)
	return image
}

func (e *env) pushImage(t testing.TB, reference string, image v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	host := ref.Context().RegistryStr()
	if err := remote.Write(ref, image, e.options(e.private(), e.login(host, pusher))...); err != nil {
		t.Fatal(err)
	}
}

func TestPushPullDelete(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/team/app:1", 2048)
	options := e.options(e.private(), e.login("a.azurecr.io", pusher))
	e.mustPull("a.azurecr.io/team/app:1", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)

	ref, _ := name.ParseReference("a.azurecr.io/team/app:2")
	err := remote.Write(ref, image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	if err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("AcrPull pushed: %v", err)
	}

	digest, _ := image.Digest()
	byDigest := ref.Context().Digest(digest.String())
	if err := remote.Delete(byDigest, e.options(e.private(), e.login("a.azurecr.io", kubelet))...); err == nil {
		t.Error("AcrPull deleted")
	}
	if err := remote.Delete(byDigest, options...); err != nil {
		t.Error(err)
	}
	if _, err := e.pull("a.azurecr.io/team/app@"+digest.String(), options...); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("after it was deleted: %v", err)
	}
}

func TestChunkedUpload(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	header := e.bearer(t, "a.azurecr.io", pusher, "repository:app:pull,push")
	content := bytes.Repeat([]byte("cloister "), 10_000)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	do := func(method, address string, body []byte, extra map[string]string, want int) *http.Response {
		t.Helper()
		request, _ := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
		request.Header = header.Clone()
		for k, v := range extra {
			request.Header.Set(k, v)
		}
		response, err := e.private().RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Fatalf("%s %s: %d, want %d", method, address, response.StatusCode, want)
		}
		return response
	}
	location := func(r *http.Response) string {
		u, err := r.Location()
		if err != nil {
			t.Fatal(err)
		}
		return u.String()
	}
	at := location(do("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", nil, nil, 202))
	const chunk = 30_000
	for i := 0; i < len(content); i += chunk {
		// An upload outlives the process that began it.
		if i == chunk {
			e.server.Close()
			e.start()
		}
		end := min(i+chunk, len(content))
		at = location(do("PATCH", at, content[i:end], map[string]string{
			"Content-Range": fmt.Sprintf("%d-%d", i, end-1), "Content-Type": "application/octet-stream",
		}, 202))
	}
	do("PUT", at+"&digest=sha256:"+strings.Repeat("0", 64), nil, nil, 400)
	at = location(do("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", nil, nil, 202))
	at = location(do("PATCH", at, content, map[string]string{"Content-Type": "application/octet-stream"}, 202))
	do("PUT", at+"&digest="+digest, nil, nil, 201)
	if response := do("HEAD", "https://a.azurecr.io/v2/app/blobs/"+digest, nil, nil, 200); response.ContentLength != int64(len(content)) {
		t.Errorf("the blob has %d bytes, want %d", response.ContentLength, len(content))
	}
}

// What the conformance suite of the distribution spec asks beside: another digest algorithm, layers that are
// elsewhere, references that are none.
func TestUnusualContent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	header := e.bearer(t, "a.azurecr.io", pusher, "repository:app:pull,push")
	do := func(method, address, kind string, body []byte, want int) *http.Response {
		t.Helper()
		request, _ := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
		request.Header = header.Clone()
		request.Header.Set("Content-Type", kind)
		request.Header.Set("Accept", kind)
		response, err := e.private().RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if text, _ := io.ReadAll(response.Body); response.StatusCode != want {
			t.Fatalf("%s %s: %d %s, want %d", method, address, response.StatusCode, text, want)
		}
		return response
	}
	put := func(content []byte, sum string) {
		t.Helper()
		at, err := do("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", "", nil, 202).Location()
		if err != nil {
			t.Fatal(err)
		}
		do("PUT", at.String()+"&digest="+sum, "application/octet-stream", content, 201)
	}
	content := []byte("known by its sha512")
	long := fmt.Sprintf("sha512:%x", sha512.Sum512(content))
	put(content, long)
	at := do("GET", "https://a.azurecr.io/v2/app/blobs/"+long, "", nil, 307).Header.Get("Location")
	if response, body := get(t, e.private(), "GET", at, nil); response.StatusCode != 200 || !bytes.Equal(body, content) || response.Header.Get("Docker-Content-Digest") != long {
		t.Errorf("%d %q %v", response.StatusCode, body, response.Header)
	}
	config := []byte("{}")
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(config))
	put(config, sum)
	const kind = "application/vnd.oci.image.manifest.v1+json"
	do("PUT", "https://a.azurecr.io/v2/app/manifests/windows", kind, []byte(`{"schemaVersion":2,"mediaType":"`+kind+`","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+sum+`","size":2},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"sha256:`+strings.Repeat("ab", 32)+`","size":99,"urls":["https://mcr.microsoft.com/layer"]}]}`), 201)
	do("GET", "https://a.azurecr.io/v2/app/manifests/windows", kind, nil, 200)
	do("GET", "https://a.azurecr.io/v2/app/manifests/sha256:00", "", nil, 400)
	do("GET", "https://a.azurecr.io/v2/app/manifests/sha256:"+strings.Repeat("z", 64), "", nil, 400)
}

func TestMount(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/one:1", 256)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	mount := func(scope string) int {
		response, _ := get(t, e.private(), "POST", "https://a.azurecr.io/v2/two/blobs/uploads/?mount="+digest.String()+"&from=one", e.bearer(t, "a.azurecr.io", pusher, scope))
		return response.StatusCode
	}
	if got := mount("repository:two:pull,push"); got != http.StatusAccepted {
		t.Errorf("without the right to pull the source: %d, want an upload to begin (202)", got)
	}
	if got := mount("repository:two:pull,push repository:one:pull"); got != http.StatusCreated {
		t.Errorf("with it: %d, want 201", got)
	}
}

func TestTagsAndCatalogInPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	var repositories, tags []string
	for i := range 5 {
		repositories = append(repositories, fmt.Sprintf("app%d", i))
		tags = append(tags, fmt.Sprintf("v%d", i))
		e.pushImage(t, "a.azurecr.io/"+repositories[i]+":1", image)
		e.pushImage(t, "a.azurecr.io/tagged:"+tags[i], image)
	}
	options := append(e.options(e.private(), e.login("a.azurecr.io", pusher)), remote.WithPageSize(2))
	reg, _ := name.NewRegistry("a.azurecr.io")
	if got, err := remote.Catalog(t.Context(), reg, options...); err != nil || !slices.Equal(got, append(repositories, "tagged")) {
		t.Errorf("catalog %v: %v", got, err)
	}
	if got, err := remote.List(reg.Repo("tagged"), options...); err != nil || !slices.Equal(got, tags) {
		t.Errorf("tags %v: %v", got, err)
	}
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/_catalog?n=100000", e.bearer(t, "a.azurecr.io", pusher, "registry:catalog:*"))
	if response.StatusCode != 200 {
		t.Errorf("a page larger than there are: %d", response.StatusCode)
	}
}

// blobs are the digests stored, with how often the content is on disk.
func (e *env) blobs(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(filepath.Join(e.dir, "registry"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a sweep is at work
		}
		if err == nil && d.Type().IsRegular() && d.Name() == "data" {
			found[filepath.Base(filepath.Dir(path))]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBlobsAreStoredOnceAndGoWithTheLastRegistry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	shared := e.push(t, "a.azurecr.io/app:1", 2048)
	e.pushImage(t, "b.azurecr.io/other:1", shared)
	layer, err := random.Layer(100, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	own, err := mutate.AppendLayers(shared, layer)
	if err != nil {
		t.Fatal(err)
	}
	e.pushImage(t, "a.azurecr.io/own:1", own)
	for digest, n := range e.blobs(t) {
		if n != 1 {
			t.Errorf("%s is on disk %d times", digest, n)
		}
	}
	ownDigest, _ := layer.Digest()
	if e.blobs(t)[ownDigest.Hex] != 1 {
		t.Fatal("the blob that only one registry has is not there")
	}

	e.config.Registries = e.config.Registries[1:]
	e.apply()
	deadline := time.Now().Add(10 * time.Second)
	for e.blobs(t)[ownDigest.Hex] != 0 {
		if time.Now().After(deadline) {
			t.Fatal("a deleted registry's blob is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	e.mustPull("b.azurecr.io/other:1", shared, e.options(e.private(), e.login("b.azurecr.io", pusher))...)
	if left, _ := os.ReadDir(filepath.Join(e.dir, "registry", "registries")); len(left) != 1 {
		t.Errorf("registries on disk: %v", left)
	}
}

// A deleted image frees its layers a day later, and only those that no other manifest of the repository names.
func TestLayersOfDeletedImagesGo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image, kept := e.push(t, "a.azurecr.io/app:1", 300), e.push(t, "a.azurecr.io/app:2", 300)
	layers, _ := image.Layers()
	extended, err := mutate.AppendLayers(kept, layers[0])
	if err != nil {
		t.Fatal(err)
	}
	e.pushImage(t, "a.azurecr.io/app:3", extended)
	digest, _ := image.Digest()
	status, _ := e.acr(t, pusher, "DELETE", "/v2/app/manifests/"+digest.String(), "repository:app:delete", nil)
	if status != 202 {
		t.Fatalf("delete: %d", status)
	}
	shared, _ := layers[0].Digest()
	alone, _ := layers[1].Digest()
	drop := func() {
		t.Helper()
		if err := e.server.dropOrphans(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	if e.blobs(t)[alone.Hex] != 1 {
		t.Error("a layer went at once: a client may be about to name it")
	}
	e.clock.Store(int64(25 * time.Hour))
	drop()
	if found := e.blobs(t); found[alone.Hex] != 0 || found[shared.Hex] != 1 {
		t.Errorf("the layer of the deleted image is there %d times, the shared one %d", found[alone.Hex], found[shared.Hex])
	}
	e.clock.Store(0)
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))
	e.mustPull("a.azurecr.io/app:2", kept, options...)
	e.mustPull("a.azurecr.io/app:3", extended, options...)
}

func TestSize(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	size := func(prefix string) int64 {
		n, err := Size(filepath.Join(e.dir, "registry"), prefix)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := size("/subscriptions/s/a"); n != 0 {
		t.Errorf("an empty registry holds %d bytes", n)
	}
	image := e.push(t, "a.azurecr.io/app:1", 5000)
	once := size("/Subscriptions/s/a")
	e.pushImage(t, "a.azurecr.io/again:1", image)
	if n := size("/subscriptions/s/a"); once < 10_000 || n != once {
		t.Errorf("%d bytes, and %d with the same in another repository", once, n)
	}
	if n := size("/subscriptions/s/b"); n != 0 {
		t.Errorf("another registry holds %d bytes", n)
	}
}

// What a rule fetched does not keep it from being made again; what was pushed does, and what came from elsewhere.
func TestOccupied(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	cached := e.publish("oss/pause:3.9", 128)
	e.mustPull("a.azurecr.io/aks-managed-repository/oss/pause:3.9", cached, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	e.push(t, "a.azurecr.io/team/app:1", 128)
	e.push(t, "b.azurecr.io/elsewhere:1", 128)
	for _, c := range []struct {
		source, target string
		want           []string
	}{
		{"mcr.microsoft.com/*", "aks-managed-repository/*", nil},
		{"mcr.microsoft.com/oss/pause", "aks-managed-repository/oss/pause", nil},
		{"mcr.microsoft.com/other/*", "aks-managed-repository/*", []string{"aks-managed-repository/oss/pause"}},
		{"mcr.microsoft.com/*", "*", []string{"aks-managed-repository/oss/pause", "team/app"}},
		{"mcr.microsoft.com/*", "team/*", []string{"team/app"}},
		{"mcr.microsoft.com/app", "team/app", []string{"team/app"}},
		{"mcr.microsoft.com/*", "team/app/*", nil},
		{"mcr.microsoft.com/elsewhere", "elsewhere", nil},
	} {
		got, err := Occupied(filepath.Join(e.dir, "registry"), "/subscriptions/s/a", CacheRule{Source: c.source, Target: c.target})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s to %s: %q, %v, want %q", c.source, c.target, got, err, c.want)
		}
	}
}

func TestSweepThatWasKilledIsMadeUpFor(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/app:1", 128)
	e.server.Close()
	// As a process leaves it that was killed between the links and the blobs.
	storage := filepath.Join(e.dir, "registry")
	if err := os.RemoveAll(filepath.Join(storage, "registries", storageKey("/subscriptions/s/a"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(storage, "sweeping"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.start()
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	deadline := time.Now().Add(10 * time.Second)
	for e.blobs(t)[digest.Hex] != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the blob is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFilesAreSecret(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for path, want := range map[string]fs.FileMode{"registry": 0o700, "registry/keys.json": 0o600} {
		info, err := os.Stat(filepath.Join(e.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}
