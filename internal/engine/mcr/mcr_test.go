package mcr

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

type server struct {
	*httptest.Server
	registry *Registry
	path     layout.Path
	host     string
}

func newServer(t *testing.T) *server {
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	r := Handler(dir, slog.New(slog.DiscardHandler))
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return &server{s, r, path, strings.TrimPrefix(s.URL, "http://")}
}

func (s *server) add(t *testing.T, reference string) v1.Image {
	t.Helper()
	image, err := random.Image(2048, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.path.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": reference})); err != nil {
		t.Fatal(err)
	}
	return image
}

func (s *server) ref(t *testing.T, reference string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.host+"/"+reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (s *server) do(t *testing.T, method, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestPull(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	image := s.add(t, "oss/kubernetes/pause:3.9")
	s.add(t, "mcr.microsoft.com/aks/demo:v1") // with the host, as some tools write it

	got, err := remote.Image(s.ref(t, "oss/kubernetes/pause:3.9"), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	want, _ := image.Digest()
	if d, _ := got.Digest(); d != want {
		t.Errorf("pulled %s, want %s", d, want)
	}
	if _, err := remote.Get(s.ref(t, "oss/kubernetes/pause@"+want.String())); err != nil {
		t.Error("by digest:", err)
	}
	head, err := remote.Head(s.ref(t, "aks/demo:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if mediaType := string(head.MediaType); !strings.Contains(mediaType, "manifest") {
		t.Errorf("content type of a manifest is %q", mediaType)
	}
}

func TestIndexOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	index, err := random.Index(512, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	annotation := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "multi:1"})
	if err := s.path.AppendIndex(index, annotation); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(s.ref(t, "multi:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
}

func TestRepositoriesShowOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	image := s.add(t, "one:1")
	s.add(t, "two:1")
	digest, _ := image.Digest()
	layers, _ := image.Layers()
	blob, _ := layers[0].Digest()
	for path, want := range map[string]int{
		"/v2/one/manifests/" + digest.String(): 200,
		"/v2/two/manifests/" + digest.String(): 404,
		"/v2/one/blobs/" + blob.String():       200,
		"/v2/two/blobs/" + blob.String():       404,
		"/v2/one/manifests/2":                  404,
		"/v2/three/manifests/1":                404,
		"/v2/one/blobs/../../../index.json":    404,
		"/v2/":                                 200,
		"/":                                    404,
	} {
		if response, _ := s.do(t, "GET", path, nil); response.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, response.StatusCode, want)
		}
	}
	for _, method := range []string{"PUT", "POST", "PATCH", "DELETE"} {
		if response, _ := s.do(t, method, "/v2/one/manifests/1", nil); response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, response.StatusCode)
		}
	}
}

func TestRangeAndHead(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	image := s.add(t, "one:1")
	layers, _ := image.Layers()
	blob, _ := layers[0].Digest()
	path := "/v2/one/blobs/" + blob.String()
	_, whole := s.do(t, "GET", path, nil)
	response, part := s.do(t, "GET", path, http.Header{"Range": {"bytes=10-19"}})
	if response.StatusCode != http.StatusPartialContent || part != whole[10:20] {
		t.Errorf("range: %d, %d bytes", response.StatusCode, len(part))
	}
	before := s.registry.Counters()
	response, body := s.do(t, "HEAD", path, nil)
	if response.ContentLength != int64(len(whole)) || body != "" || response.Header.Get("Docker-Content-Digest") != blob.String() {
		t.Errorf("HEAD: %v", response.Header)
	}
	after := s.registry.Counters()
	if after.Blobs != before.Blobs || after.Requests != before.Requests+1 {
		t.Errorf("a HEAD counted as a blob: %+v, then %+v", before, after)
	}
}

func TestTagsAreListedInPages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var want []string
	for _, tag := range []string{"a", "b", "c", "d", "e"} {
		s.add(t, "one:"+tag)
		want = append(want, tag)
	}
	repository, err := name.NewRepository(s.host+"/one", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.List(repository, remote.WithPageSize(2))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("tags %v, want %v: %v", got, want, err)
	}
	_, body := s.do(t, "GET", "/v2/_catalog", nil)
	var catalog struct{ Repositories []string }
	if err := json.Unmarshal([]byte(body), &catalog); err != nil || !slices.Equal(catalog.Repositories, []string{"one"}) {
		t.Errorf("catalog %s", body)
	}
}

func TestCountersShowWhoCame(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.add(t, "one:1")
	image, err := remote.Image(s.ref(t, "one:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Fatal(err)
	}
	c := s.registry.Counters()
	if c.Manifests != 1 || c.Blobs < 3 || c.BlobBytes < 2*2048 {
		t.Errorf("after one pull: %+v", c)
	}
}

func TestReplacedLayoutIsSeen(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.add(t, "one:1")
	if response, _ := s.do(t, "GET", "/v2/one/manifests/1", nil); response.StatusCode != 200 {
		t.Fatal(response.Status)
	}
	s.add(t, "one:2")
	if response, _ := s.do(t, "GET", "/v2/one/manifests/2", nil); response.StatusCode != 200 {
		t.Error("a tag added later:", response.Status)
	}
}
