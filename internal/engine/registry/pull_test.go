package registry

import (
	"strings"
	"testing"
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
