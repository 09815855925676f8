package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestPullThroughCacheRule(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("oss/kubernetes/pause:3.9", 4096)
	auth := e.login("a.azurecr.io", kubelet)
	const ref = "a.azurecr.io/aks-managed-repository/oss/kubernetes/pause:3.9"
	e.mustPull(ref, image, e.options(e.private(), auth)...)
	manifests, blobs := e.upstream.manifests.Load(), e.upstream.blobs.Load()
	if manifests != 1 || blobs != 3 {
		t.Errorf("upstream served %d manifests and %d blobs, want 1 and 3", manifests, blobs)
	}

	// From now on upstream is not asked, whether it is there or not, by this process or the next.
	e.upstream.down.Store(true)
	e.mustPull(ref, image, e.options(e.private(), auth)...)
	e.server.Close()
	e.start()
	e.mustPull(ref, image, e.options(e.private(), auth)...)
	digest, _ := image.Digest()
	e.mustPull(strings.TrimSuffix(ref, ":3.9")+"@"+digest.String(), image, e.options(e.private(), auth)...)
}

func TestHeadOfATagFetches(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 128)
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))
	ref, _ := name.ParseReference("a.azurecr.io/aks-managed-repository/pause:3.9")
	head, err := remote.Head(ref, options...)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := image.Digest(); head.Digest != want {
		t.Errorf("HEAD gave %s, want %s", head.Digest, want)
	}
	// And a HEAD of a blob that is not here yet tells its size.
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	size, _ := layers[0].Size()
	layer, err := remote.Layer(ref.Context().Digest(digest.String()), options...)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := layer.Size(); err != nil || got != size {
		t.Errorf("HEAD of a blob gave %d, want %d: %v", got, size, err)
	}
}

func TestImageIndex(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	index, err := random.Index(256, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(e.upstreamTag("multi:1"), index, remote.WithTransport(e.upstreamTransport())); err != nil {
		t.Fatal(err)
	}
	manifest, _ := index.IndexManifest()
	image, _ := index.Image(manifest.Manifests[0].Digest)
	options := e.options(e.private(), e.login("b.azurecr.io", ""))
	ref, _ := name.ParseReference("b.azurecr.io/multi:1")
	if got, err := remote.Index(ref, options...); err != nil {
		t.Fatal(err)
	} else if d, _ := got.Digest(); d.String() == "" {
		t.Error("no digest")
	}
	// A node pulls the manifest of its platform by digest.
	e.mustPull("b.azurecr.io/multi@"+manifest.Manifests[0].Digest.String(), image, options...)
}

func TestWhatNoRuleCoversIsUnknown(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish("pause:3.9", 64)
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))
	for _, ref := range []string{"a.azurecr.io/pause:3.9", "a.azurecr.io/aks-managed-repository:3.9"} {
		if _, err := e.pull(ref, options...); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if e.upstream.manifests.Load() != 0 {
		t.Error("upstream was asked")
	}
}

func TestUpstreamFailures(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish("pause:3.9", 64)
	e.config.Registries[0].CacheRules = append(e.config.Registries[0].CacheRules, CacheRule{"lost", "ghcr.io/*", "lost/*"})
	e.apply()
	options := e.options(e.private(), e.login("a.azurecr.io", kubelet))
	_, err := e.pull("a.azurecr.io/aks-managed-repository/pause:other", options...)
	if err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") || !strings.Contains(err.Error(), "cache rule aks") {
		t.Errorf("a tag that upstream lacks: %v", err)
	}
	_, err = e.pull("a.azurecr.io/lost/pause:3.9", options...)
	if err == nil || !strings.Contains(err.Error(), "no way to upstream ghcr.io") {
		t.Errorf("an upstream that nothing leads to: %v", err)
	}
	e.upstream.down.Store(true)
	_, err = e.pull("a.azurecr.io/aks-managed-repository/pause:3.9", options...)
	if err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Errorf("an upstream that is down: %v", err)
	}
	// What failed is not remembered.
	e.upstream.down.Store(false)
	if _, err = e.pull("a.azurecr.io/aks-managed-repository/pause:3.9", options...); err != nil {
		t.Error(err)
	}
}

func TestCachedTagIsNotRefreshed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.publish("pause:3.9", 64)
	options := e.options(e.private(), e.login("b.azurecr.io", ""))
	e.mustPull("b.azurecr.io/pause:3.9", first, options...)
	second := e.publish("pause:3.9", 64)
	e.mustPull("b.azurecr.io/pause:3.9", first, options...)
	digest, _ := second.Digest()
	e.mustPull("b.azurecr.io/pause@"+digest.String(), second, options...)
}

func TestManyClientsAreOneFetch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	// Slow enough that all have asked before the first is answered.
	slow := func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && r.URL.Path != "/v2/" {
			time.Sleep(300 * time.Millisecond)
		}
		return false
	}
	e.upstream.intercept.Store(&slow)
	options := e.options(e.private(), e.login("b.azurecr.io", ""))
	var wg sync.WaitGroup
	failures := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			got, err := e.pull("b.azurecr.io/big:1", options...)
			if err == nil {
				want, _ := image.Digest()
				if d, _ := got.Digest(); d != want {
					t.Errorf("pulled %s, want %s", d, want)
				}
			}
			failures <- err
		})
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			t.Error(err)
		}
	}
	if m, b := e.upstream.manifests.Load(), e.upstream.blobs.Load(); m != 1 || b != 3 {
		t.Errorf("50 clients made upstream serve %d manifests and %d blobs, want 1 and 3", m, b)
	}
}

// TestBlobIsStreamedWhileItIsFetched shows that clients get bytes before upstream has sent all, that
// two share one fetch, that a client that goes away does not end it, and that the end waits for the check.
func TestBlobIsStreamedWhileItIsFetched(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	compressed, _ := layers[0].Compressed()
	content, _ := io.ReadAll(compressed)
	half := len(content) / 2
	soon := half - 8192 // the HTTP server may hold back a buffer
	release := make(chan struct{})
	stop := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", itoa(len(content)))
		w.Write(content[:half])
		w.(http.Flusher).Flush()
		<-release
		w.Write(content[half:])
		return true
	}
	e.upstream.intercept.Store(&stop)
	address := e.blobAddress(t, "b.azurecr.io", "big", digest)
	client := &http.Client{Transport: e.private()}

	leaving, cancel := context.WithCancel(t.Context())
	request, _ := http.NewRequestWithContext(leaving, "GET", address, nil)
	gone, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(gone.Body, make([]byte, soon)); err != nil {
		t.Fatal(err)
	}
	cancel()
	gone.Body.Close()

	var bodies []io.ReadCloser
	for range 2 {
		response, err := client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got := make([]byte, soon)
		if _, err := io.ReadFull(response.Body, got); err != nil || !bytes.Equal(got, content[:soon]) {
			t.Fatalf("the first half before upstream sent the second: %v", err)
		}
		bodies = append(bodies, response.Body)
	}
	close(release)
	for _, body := range bodies {
		rest, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(rest, content[soon:]) {
			t.Errorf("the rest: %d bytes, %v", len(rest), err)
		}
	}
	if n := e.upstream.blobs.Load(); n != 1 {
		t.Errorf("upstream served the blob %d times", n)
	}
}

// TestRanges: containerd resumes a broken download with a range, of a blob that is stored as of one that is coming.
func TestRanges(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	compressed, _ := layers[0].Compressed()
	content, _ := io.ReadAll(compressed)
	slow := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", itoa(len(content)))
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond)
		w.Write(content[1000:])
		return true
	}
	e.upstream.intercept.Store(&slow)
	address := e.blobAddress(t, "b.azurecr.io", "big", digest)
	for _, when := range []string{"coming", "stored"} {
		response, body := get(t, e.private(), "GET", address, http.Header{"Range": {"bytes=500000-"}})
		if response.StatusCode != http.StatusPartialContent || !bytes.Equal(body, bytes.TrimSpace(content[500000:])) {
			t.Errorf("a range of a blob that is %s: %d, %d bytes", when, response.StatusCode, len(body))
		}
	}
	if n := e.upstream.blobs.Load(); n != 1 {
		t.Errorf("upstream served the blob %d times", n)
	}
}

// TestUpstreamThatSendsMoreThanItSaid cannot fill the disk.
func TestUpstreamThatSendsMoreThanItSaid(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1024)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	var sent atomic.Int64
	endless := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		for r.Context().Err() == nil && sent.Load() < 1<<30 {
			n, err := w.Write(make([]byte, 64<<10))
			if sent.Add(int64(n)); err != nil {
				return true
			}
		}
		return true
	}
	e.upstream.intercept.Store(&endless)
	if _, err := e.pull("b.azurecr.io/big:1", e.options(e.private(), e.login("b.azurecr.io", ""))...); err == nil {
		t.Error("the pull succeeded")
	}
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("upstream could send %d bytes", n)
	}
}

// blobAddress is the signed address of a blob, as a client gets it by the redirect.
func (e *env) blobAddress(t testing.TB, host, repository string, digest v1.Hash) string {
	t.Helper()
	principal := ""
	if host == "a.azurecr.io" {
		principal = kubelet
	}
	response, body := get(t, e.private(), "GET", "https://"+host+"/v2/"+repository+"/blobs/"+digest.String(), e.bearer(t, host, principal, "repository:"+repository+":pull"))
	if response.StatusCode != http.StatusTemporaryRedirect {
		t.Fatalf("GET of a blob: %d %s", response.StatusCode, body)
	}
	return response.Header.Get("Location")
}

func TestWrongContentFromUpstreamIsNotServed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 1<<20)
	layers, _ := image.Layers()
	layer, _ := layers[0].Digest()
	compressed, _ := layers[0].Compressed()
	content, _ := io.ReadAll(compressed)
	manifest, _ := image.Digest()
	spoil := func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method != http.MethodGet:
			return false
		case strings.HasSuffix(r.URL.Path, "/blobs/"+layer.String()):
			// Wrong in the second half, which comes when clients already follow.
			w.Header().Set("Content-Length", itoa(len(content)))
			w.Write(content[:len(content)/2])
			w.(http.Flusher).Flush()
			time.Sleep(200 * time.Millisecond)
			w.Write(make([]byte, len(content)-len(content)/2))
		case strings.HasSuffix(r.URL.Path, "/manifests/"+manifest.String()):
			w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
			w.Write([]byte(`{"schemaVersion":2}`))
		default:
			return false
		}
		return true
	}
	e.upstream.intercept.Store(&spoil)
	options := e.options(e.private(), e.login("b.azurecr.io", ""))
	if _, err := e.pull("b.azurecr.io/pause@"+manifest.String(), options...); err == nil {
		t.Error("a manifest of another digest was served")
	}
	// Not trusting the client to check: the body must not even be complete.
	response, err := (&http.Client{Transport: e.private()}).Get(e.blobAddress(t, "b.azurecr.io", "pause", layer))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil || response.StatusCode != 200 {
		t.Errorf("content of another digest: %d, %d bytes of %d, %v", response.StatusCode, len(body), len(content), err)
	}
	if files, _ := filepath.Glob(filepath.Join(e.dir, "registry", "blobs", "*", "*", layer.Hex)); len(files) > 0 {
		t.Error("content of another digest was stored")
	}
	if files, _ := os.ReadDir(filepath.Join(e.dir, "registry", "fetch")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
	e.upstream.intercept.Store(nil)
	e.mustPull("b.azurecr.io/pause:3.9", image, options...)
}

func TestRegistriesShareWhatTheSameUpstreamServed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 4096)
	e.mustPull("a.azurecr.io/aks-managed-repository/pause:3.9", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	before := e.upstream.blobs.Load()
	e.mustPull("b.azurecr.io/pause:3.9", image, e.options(e.private(), e.login("b.azurecr.io", ""))...)
	if after := e.upstream.blobs.Load(); after != before {
		t.Errorf("upstream served %d blobs again", after-before)
	}
}

// TestRuleDoesNotOpenOtherRegistries: knowing a digest and having a rule is not enough to get another registry's content.
func TestRuleDoesNotOpenOtherRegistries(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	secret := e.push(t, "b.azurecr.io/private/thing:1", 512)
	layers, _ := secret.Layers()
	digest, _ := layers[0].Digest()
	header := e.bearer(t, "a.azurecr.io", kubelet, "repository:aks-managed-repository/private/thing:pull")
	for _, method := range []string{"GET", "HEAD"} {
		response, _ := get(t, e.private(), method, "https://a.azurecr.io/v2/aks-managed-repository/private/thing/blobs/"+digest.String(), header)
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%s of another registry's blob: %d", method, response.StatusCode)
		}
	}
	manifest, _ := secret.Digest()
	header.Set("Accept", string(types.DockerManifestSchema2))
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/aks-managed-repository/private/thing/manifests/"+manifest.String(), header)
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("another registry's manifest: %d", response.StatusCode)
	}
}

func BenchmarkCachedPull(b *testing.B) {
	e := newEnv(b)
	const size = 64 << 20
	image := e.publish("big:1", size)
	options := e.options(e.private(), e.login("b.azurecr.io", ""))
	e.mustPull("b.azurecr.io/big:1", image, options...)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	client := &http.Client{Transport: e.private()}
	b.SetBytes(size)
	for b.Loop() {
		response, err := client.Get(e.blobAddress(b, "b.azurecr.io", "big", digest))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil || n < size {
			b.Fatal(n, err)
		}
	}
}
