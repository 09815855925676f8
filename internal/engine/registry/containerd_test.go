package registry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerd is a resolver as a node's hosts.toml configures it: mcr.microsoft.com is mirrored at the
// registry with override_path, and nowhere else.
func (e *env) containerd(password string) remotes.Resolver {
	client := &http.Client{Transport: e.private()}
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) {
		if password == "" {
			return "", "", nil
		}
		return nullUser, password, nil // what the credential provider gives kubelet
	}))
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{{
			Client: client, Authorizer: authorizer, Scheme: "https", Host: "a.azurecr.io", Path: "/v2/aks-managed-repository",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}})
}

func TestContainerdPullsThroughTheMirror(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("oss/kubernetes/pause:3.9", 4096)
	_, refresh := e.exchange(e.private(), "a.azurecr.io", testAuthority().token(kubelet, nil))
	pull := func(ctx context.Context, resolver remotes.Resolver) error {
		name, root, err := resolver.Resolve(ctx, "mcr.microsoft.com/oss/kubernetes/pause:3.9")
		if err != nil {
			return err
		}
		if want, _ := image.Digest(); root.Digest.String() != want.String() {
			t.Errorf("resolved %s, want %s", root.Digest, want)
		}
		fetcher, err := resolver.Fetcher(ctx, name)
		if err != nil {
			return err
		}
		fetch := func(d ocispec.Descriptor) ([]byte, error) {
			content, err := fetcher.Fetch(ctx, d)
			if err != nil {
				return nil, err
			}
			defer content.Close()
			data, err := io.ReadAll(content)
			if err == nil && digest.FromBytes(data) != d.Digest {
				t.Errorf("%s has other content", d.Digest)
			}
			return data, err
		}
		manifest, err := fetch(root)
		if err != nil {
			return err
		}
		layers, err := image.Manifest()
		if err != nil {
			return err
		}
		if !images.IsManifestType(root.MediaType) || len(manifest) == 0 {
			t.Errorf("a manifest of type %s", root.MediaType)
		}
		for _, d := range append(layers.Layers, layers.Config) {
			if _, err := fetch(ocispec.Descriptor{MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := pull(t.Context(), e.containerd("")); err == nil || !strings.Contains(err.Error(), "failed to fetch anonymous token") {
		t.Errorf("without credentials: %v", err)
	}
	resolver := e.containerd(refresh)
	if err := pull(t.Context(), resolver); err != nil {
		t.Fatal(err)
	}
	// containerd keeps its token until it is told that it is no good any more.
	e.clock.Store(int64(2 * accessLifetime))
	if err := pull(t.Context(), resolver); err != nil {
		t.Errorf("after the access token expired: %v", err)
	}
}
