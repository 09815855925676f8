package registry

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestReferrers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	subject := e.push(t, "a.azurecr.io/app:1", 64)
	descriptor, err := partial.Descriptor(subject)
	if err != nil {
		t.Fatal(err)
	}
	attach := func(kind types.MediaType) v1.Image {
		t.Helper()
		image, err := random.Image(32, 1)
		if err != nil {
			t.Fatal(err)
		}
		image = mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), kind)
		image = mutate.Subject(image, *descriptor).(v1.Image)
		digest, _ := image.Digest()
		e.pushImage(t, "a.azurecr.io/app@"+digest.String(), image)
		return image
	}
	sbom, _ := attach("application/sbom").Digest()
	signature, _ := attach("application/signature").Digest()

	list := func(repository, query string) (int, http.Header, []ocispec.Descriptor) {
		t.Helper()
		response, body := get(t, e.private(), "GET", "https://a.azurecr.io/v2/"+repository+"/referrers/"+descriptor.Digest.String()+query,
			e.bearer(t, "a.azurecr.io", kubelet, "repository:"+repository+":pull"))
		var index ocispec.Index
		_ = json.Unmarshal(body, &index)
		return response.StatusCode, response.Header, index.Manifests
	}
	status, header, found := list("app", "")
	if status != 200 || header.Get("Content-Type") != ocispec.MediaTypeImageIndex || len(found) != 2 {
		t.Errorf("referrers: %d %v", status, found)
	}
	_, header, found = list("app", "?artifactType=application/sbom")
	if len(found) != 1 || found[0].Digest.String() != sbom.String() || found[0].ArtifactType != "application/sbom" || header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %v", found)
	}
	if status, _, found := list("other", ""); status != 200 || len(found) != 0 {
		t.Errorf("another repository: %d %v", status, found)
	}
	if status, _, _ := list("aks-managed-repository/app", ""); status != 404 {
		t.Errorf("a repository that a cache rule fills: %d", status)
	}
	ref, _ := name.NewDigest("a.azurecr.io/app@" + signature.String())
	if err := remote.Delete(ref, e.options(e.private(), e.login("a.azurecr.io", pusher))...); err != nil {
		t.Fatal(err)
	}
	if _, _, found := list("app", ""); len(found) != 1 || found[0].Digest.String() != sbom.String() {
		t.Errorf("after the signature was deleted: %v", found)
	}
	// A client that asks in the usual way sees no fallback tag.
	tags, err := remote.List(ref.Context(), e.options(e.private(), e.login("a.azurecr.io", pusher))...)
	if err != nil || len(tags) != 1 {
		t.Errorf("tags %v: %v", tags, err)
	}
}
