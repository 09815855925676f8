package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// acr is one request of ACR's own API at registry a.
func (e *env) acr(t *testing.T, principal, method, pathAndQuery, scope string, answer any) (int, http.Header) {
	t.Helper()
	response, body := get(t, e.private(), method, "https://a.azurecr.io"+pathAndQuery, e.bearer(t, "a.azurecr.io", principal, scope))
	if answer != nil && len(body) > 0 {
		if err := json.Unmarshal(body, answer); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, pathAndQuery, response.StatusCode, body, err)
		}
	}
	return response.StatusCode, response.Header
}

type acrAnswer struct {
	Registry, ImageName         string
	ManifestCount, TagCount     int
	CreatedTime, LastUpdateTime time.Time
	Repositories                []string
	Tag                         *struct{ Name, Digest string }
	Tags                        []struct{ Name, Digest string }
	Manifest                    *manifestAnswer
	Manifests                   []manifestAnswer
	ChangeableAttributes        map[string]bool
	Errors                      []struct{ Code string }
}

type manifestAnswer struct {
	Digest, MediaType, ConfigMediaType, OS, Architecture string
	ImageSize                                            int64
	Tags                                                 []string
	CreatedTime, LastUpdateTime                          time.Time
}

// What az acr repository show, show-tags, show-manifests read.
func TestRepositoryAttributes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/team/app:v1", 512)
	e.pushImage(t, "a.azurecr.io/team/app:latest", image)
	digest, _ := image.Digest()
	const read = "repository:team/app:metadata_read"

	var whole acrAnswer
	if status, _ := e.acr(t, kubelet, "GET", "/acr/v1/team/app", read, &whole); status != 200 || whole.ImageName != "team/app" ||
		whole.Registry != "a.azurecr.io" || whole.ManifestCount != 1 || whole.TagCount != 2 || !whole.ChangeableAttributes["deleteEnabled"] ||
		time.Since(whole.LastUpdateTime) > time.Minute || whole.CreatedTime.After(whole.LastUpdateTime) {
		t.Errorf("%d %+v", status, whole)
	}
	var tag acrAnswer
	if status, _ := e.acr(t, kubelet, "GET", "/acr/v1/team/app/_tags/v1", read, &tag); status != 200 || tag.Tag.Name != "v1" || tag.Tag.Digest != digest.String() {
		t.Errorf("%d %+v", status, tag)
	}
	var manifest acrAnswer
	size, _ := image.Size()
	layers, _ := image.Layers()
	for _, l := range layers {
		n, _ := l.Size()
		size += n
	}
	config, _ := image.RawConfigFile()
	size += int64(len(config))
	status, _ := e.acr(t, kubelet, "GET", "/acr/v1/team/app/_manifests/"+digest.String(), read, &manifest)
	if m := manifest.Manifest; status != 200 || m == nil || m.Digest != digest.String() || m.ImageSize != size ||
		!slices.Equal(m.Tags, []string{"latest", "v1"}) || m.MediaType != "application/vnd.docker.distribution.manifest.v2+json" ||
		m.ConfigMediaType != "application/vnd.docker.container.image.v1+json" {
		t.Errorf("%d %+v, want size %d", status, m, size)
	}
	for path, want := range map[string]string{
		"/acr/v1/none": "NAME_UNKNOWN", "/acr/v1/team": "NAME_UNKNOWN", "/acr/v1/none/_tags": "NAME_UNKNOWN", "/acr/v1/team/app/_tags/none": "TAG_UNKNOWN",
		"/acr/v1/team/app/_manifests/sha256:" + strings.Repeat("0", 64): "MANIFEST_UNKNOWN",
	} {
		var answer acrAnswer
		name := strings.TrimPrefix(strings.Split(path, "/_")[0], "/acr/v1/")
		if status, _ := e.acr(t, kubelet, "GET", path, "repository:"+name+":metadata_read", &answer); status != 404 || answer.Errors[0].Code != want {
			t.Errorf("%s: %d %+v, want %s", path, status, answer, want)
		}
	}
	if status, _ := e.acr(t, pusher, "PATCH", "/acr/v1/team/app", "repository:team/app:metadata_write", nil); status != 405 {
		t.Errorf("locking: %d", status)
	}
	response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/acr/v1/team/app/_tags", nil)
	if want := `scope="repository:team/app:metadata_read"`; response.StatusCode != 401 || !strings.Contains(response.Header.Get("Www-Authenticate"), want) {
		t.Errorf("without a token: %d %v", response.StatusCode, response.Header)
	}
	if status, _ := e.acr(t, kubelet, "GET", "/acr/v1/team/app/_tags", "repository:other:metadata_read", nil); status != 401 {
		t.Errorf("with another repository's token: %d", status)
	}
}

// Lists come in pages, by name or by time, and the Link header leads on.
func TestTagsAndManifestsInPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	names := []string{"e", "b", "d", "a", "c"} // by age
	digests := map[string]v1.Hash{}
	tags := filepath.Join(e.server.state.Load().registries[storageKey("/subscriptions/s/a")].store.repositoryDir("app"), "_manifests", "tags")
	for i, name := range names {
		image, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		e.pushImage(t, "a.azurecr.io/app:"+name, image)
		digests[name], _ = image.Digest()
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(filepath.Join(tags, name, "current", "link"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	walk := func(path string, item func(acrAnswer) []string) (all []string, pages int) {
		for path != "" {
			var answer acrAnswer
			status, header := e.acr(t, kubelet, "GET", path, "repository:app:metadata_read registry:catalog:*", &answer)
			if status != 200 {
				t.Fatalf("%s: %d", path, status)
			}
			all = append(all, item(answer)...)
			pages++
			path = ""
			if link := header.Get("Link"); link != "" {
				path = link[strings.Index(link, "<")+1 : strings.Index(link, ">")]
			}
		}
		return all, pages
	}
	tagNames := func(a acrAnswer) (out []string) {
		for _, t := range a.Tags {
			out = append(out, t.Name)
		}
		return out
	}
	oldest := slices.Clone(names)
	newest := slices.Clone(names)
	slices.Reverse(newest)
	sorted := slices.Sorted(slices.Values(names))
	for query, want := range map[string][]string{"": sorted, "&orderby=none": sorted, "&orderby=timeasc": oldest, "&orderby=timedesc": newest} {
		if got, pages := walk("/acr/v1/app/_tags?n=2"+query, tagNames); !slices.Equal(got, want) || pages != 3 {
			t.Errorf("%s: %v in %d pages, want %v in 3", query, got, pages, want)
		}
	}
	if got, pages := walk("/acr/v1/app/_tags?digest="+digests["d"].String(), tagNames); !slices.Equal(got, []string{"d"}) || pages != 1 {
		t.Errorf("of one digest: %v", got)
	}
	var want []string
	for _, d := range digests {
		want = append(want, d.String())
	}
	slices.Sort(want)
	got, pages := walk("/acr/v1/app/_manifests?n=4", func(a acrAnswer) (out []string) {
		for _, m := range a.Manifests {
			out = append(out, m.Digest)
		}
		return out
	})
	if !slices.Equal(got, want) || pages != 2 {
		t.Errorf("manifests %v in %d pages, want %v", got, pages, want)
	}
	for i := range 3 {
		e.push(t, fmt.Sprintf("a.azurecr.io/app/below%d:1", i), 64)
	}
	got, pages = walk("/acr/v1/_catalog?n=3", func(a acrAnswer) []string { return a.Repositories })
	if !slices.Equal(got, []string{"app", "app/below0", "app/below1", "app/below2"}) || pages != 2 {
		t.Errorf("catalog %v in %d pages", got, pages)
	}
	var answer acrAnswer
	for _, n := range []string{"0", "-1", "x"} {
		if status, _ := e.acr(t, kubelet, "GET", "/acr/v1/app/_tags?n="+n, "repository:app:metadata_read", &answer); status != 400 || answer.Errors[0].Code != "PAGINATION_NUMBER_INVALID" {
			t.Errorf("n=%s: %d %+v", n, status, answer.Errors)
		}
	}
}

// az acr repository untag and delete take AcrDelete, and free what nobody else has.
func TestUntagAndDeleteRepository(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.push(t, "a.azurecr.io/app:1", 300)
	e.pushImage(t, "a.azurecr.io/app:2", image)
	kept := e.push(t, "a.azurecr.io/app/below:1", 300)
	digest, _ := image.Digest()
	status, refresh := e.access(t, "a.azurecr.io", kubelet, "repository:app:delete,metadata_read")
	if status != 200 {
		t.Fatalf("%d %s", status, refresh)
	}
	for _, path := range []string{"/acr/v1/app", "/acr/v1/app/_tags/1", "/v2/app/manifests/" + digest.String()} {
		if status, _ := e.acr(t, kubelet, "DELETE", path, "repository:app:delete,metadata_read", nil); status != 401 {
			t.Errorf("AcrPull deletes %s: %d", path, status)
		}
	}
	if status, _ := e.acr(t, pusher, "DELETE", "/acr/v1/app/_tags/1", "repository:app:delete", nil); status != 202 {
		t.Errorf("untag: %d", status)
	}
	if status, _ := e.acr(t, pusher, "DELETE", "/acr/v1/app/_tags/1", "repository:app:delete", nil); status != 404 {
		t.Errorf("untag again: %d", status)
	}
	e.mustPull("a.azurecr.io/app:2", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)

	var gone struct{ ManifestsDeleted, TagsDeleted []string }
	if status, _ := e.acr(t, pusher, "DELETE", "/acr/v1/app", "repository:app:delete", &gone); status != 202 ||
		!slices.Equal(gone.ManifestsDeleted, []string{digest.String()}) || !slices.Equal(gone.TagsDeleted, []string{"2"}) {
		t.Errorf("delete: %d %+v", status, gone)
	}
	if status, _ := e.acr(t, pusher, "DELETE", "/acr/v1/app", "repository:app:delete", nil); status != 404 {
		t.Errorf("delete again: %d", status)
	}
	if _, err := e.pull("a.azurecr.io/app:2", e.options(e.private(), e.login("a.azurecr.io", kubelet))...); err == nil {
		t.Error("it can still be pulled")
	}
	e.mustPull("a.azurecr.io/app/below:1", kept, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	config, _ := image.ConfigName()
	deadline := time.Now().Add(10 * time.Second)
	for e.blobs(t)[config.Hex] != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the blobs of a deleted repository stay: %v", e.blobs(t))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if below, _ := kept.ConfigName(); e.blobs(t)[below.Hex] != 1 {
		t.Errorf("the sweep took another repository's blob: %v", e.blobs(t))
	}
}

// IP rules are asked at the public endpoint, and there alone.
func TestPublicPrefixes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := &e.config.Registries[0]
	r.PublicAccess, r.OnlyPrefixes = true, true
	for _, tt := range []struct {
		prefixes string
		want     int
	}{{"", 403}, {"192.0.2.0/24", 403}, {"192.0.2.0/24 127.0.0.1/32", 401}, {"127.0.0.0/8", 401}} {
		r.PublicPrefixes = nil
		for p := range strings.FieldsSeq(tt.prefixes) {
			r.PublicPrefixes = append(r.PublicPrefixes, netip.MustParsePrefix(p))
		}
		e.apply()
		for _, host := range []string{"a.azurecr.io", "a.eastus.data.azurecr.io"} {
			response, _ := get(t, e.public(), "GET", "https://"+host+"/v2/", nil)
			if refused := response.StatusCode == 403; host == "a.azurecr.io" && response.StatusCode != tt.want || tt.want == 403 && !refused {
				t.Errorf("%q at %s: %d, want %d", tt.prefixes, host, response.StatusCode, tt.want)
			}
		}
		if response, _ := get(t, e.private(), "GET", "https://a.azurecr.io/v2/", nil); response.StatusCode != 401 {
			t.Errorf("%q: the private endpoint answers %d", tt.prefixes, response.StatusCode)
		}
	}
}

func TestAuthenticationAsARM(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.config.Registries[0].OnlyRegistryTokens = true
	e.apply()
	for audience, want := range map[string]int{"https://management.azure.com/": 401, "https://management.core.windows.net/": 401, "https://" + acrName: 200} {
		token := testAuthority().token(kubelet, func(c map[string]any) { c["aud"] = audience })
		if status, _ := e.exchange(e.private(), "a.azurecr.io", token); status != want {
			t.Errorf("a token for %s: %d, want %d", audience, status, want)
		}
		if status, _ := e.exchange(e.private(), "b.azurecr.io", token); status != 200 {
			t.Errorf("a token for %s at another registry: %d", audience, status)
		}
	}
}
