package bootstrap

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/klauspost/compress/gzip"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const credentialProviderPath = "/var/lib/kubelet/credential-provider/acr-credential-provider"

// installKubernetes installs kubelet and kubectl from the node tarball.
func (r *runner) installKubernetes(ctx context.Context, auth authn.Authenticator) error {
	code := OrasPullKubernetes
	if r.config.RegistryServer == "" {
		code = KubernetesDownload
	}
	ref := fmt.Sprintf("%s/%s:v%s-linux-amd64", r.config.source(), KubernetesRepository, r.config.KubernetesVersion)
	p := policy{tries: 119, sleep: 5 * time.Second, timeout: time.Minute}
	return r.installTarball(ctx, auth, p, ref, map[string]string{
		"kubernetes/node/bin/kubelet": "/opt/bin/kubelet",
		"kubernetes/node/bin/kubectl": "/opt/bin/kubectl",
	}, code, KubernetesInstall)
}

// installCredentialProvider installs the program by which the kubelet gets the registry's credentials.
func (r *runner) installCredentialProvider(ctx context.Context, auth authn.Authenticator) error {
	code := OrasPullCredentialProvider
	if r.config.RegistryServer == "" {
		code = CredentialProviderDownload
	}
	ref := fmt.Sprintf("%s/%s:v%s-linux-amd64", r.config.source(), CredentialProviderRepository, r.config.CredentialProviderVersion)
	p := policy{tries: 119, sleep: 5 * time.Second, timeout: time.Minute}
	return r.installTarball(ctx, auth, p, ref, map[string]string{"azure-acr-credential-provider": credentialProviderPath}, code, code)
}

// installTarball pulls an OCI artifact that is one compressed tarball and installs the named members of it.
func (r *runner) installTarball(ctx context.Context, auth authn.Authenticator, p policy, ref string, members map[string]string, pullFailed, unpackFailed ExitCode) error {
	var unpack error
	err := r.retry(ctx, p, "pull "+ref, func(ctx context.Context) error {
		img, err := r.image(ctx, auth, p, ref)
		if err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		if len(layers) != 1 {
			return &permanent{fmt.Errorf("%s has %d layers: it is not one tarball", ref, len(layers))}
		}
		blob, err := layers[0].Compressed()
		if err != nil {
			return err
		}
		defer blob.Close()
		source := &sourceReader{Reader: blob}
		unpack = r.unpack(source, members)
		// A stream that broke off is the network's fault, whatever the unpacking makes of it.
		if source.err != nil {
			return source.err
		}
		return nil
	})
	if err != nil {
		return fail(pullFailed, "%w", err)
	}
	if unpack != nil {
		return fail(unpackFailed, "unpack %s: %w", ref, unpack)
	}
	return nil
}

// image asks the registry for the image or artifact called ref.
func (r *runner) image(ctx context.Context, auth authn.Authenticator, p policy, ref string) (v1.Image, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, &permanent{err}
	}
	return remote.Image(parsed, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(r.transport(p)),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}),
		// The waits are ours.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryStatusCodes())
}

// sourceReader remembers whether its source failed.
type sourceReader struct {
	io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// unpack writes members of the compressed tarball to their places while it arrives, and gives them their names
// when all of it has arrived and its digest was right.
func (r *runner) unpack(source io.Reader, members map[string]string) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, target := range made {
				err = errors.Join(err, remove(target+".partial"))
			}
		}
	}()
	z, err := gzip.NewReader(source)
	if err != nil {
		return err
	}
	t := tar.NewReader(z)
	for {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		target, wanted := members[strings.TrimPrefix(path.Clean(header.Name), "/")]
		if !wanted || header.Typeflag != tar.TypeReg {
			continue
		}
		target = r.path(target)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(target+".partial", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		made = append(made, target)
		_, err = io.Copy(f, t)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	// The rest of the stream is read for its digest.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return err
	}
	if len(made) != len(members) {
		return fmt.Errorf("it holds %d of the %d files that are needed", len(made), len(members))
	}
	for _, target := range made {
		if err := os.Rename(target+".partial", target); err != nil {
			return err
		}
	}
	return nil
}

// sandboxSource is sandbox_image with mcr.microsoft.com replaced by the bootstrap registry.
func (c Config) sandboxSource() string {
	if rest, ok := strings.CutPrefix(c.SandboxImage, c.MCR+"/"); ok && c.RegistryServer != "" {
		return c.RegistryServer + "/" + rest
	}
	return c.SandboxImage
}

// pullSandboxImage pulls the pause image: containerd, which would pull it by itself, has no credentials.
func (r *runner) pullSandboxImage(ctx context.Context, auth authn.Authenticator) ([]byte, error) {
	ref := r.config.sandboxSource()
	code := PullPodInfraContainerImage
	if r.config.RegistryServer == "" {
		auth, code = authn.Anonymous, ImageDownload
	}
	p := policy{tries: 9, sleep: 5 * time.Second, timeout: 2 * time.Minute}
	var archive []byte
	err := r.retry(ctx, p, "pull "+ref, func(ctx context.Context) error {
		img, err := r.image(ctx, auth, p, ref)
		if err != nil {
			return err
		}
		archive, err = imageArchive(img, r.config.SandboxImage)
		return err
	})
	if err != nil {
		return nil, fail(code, "%w", err)
	}
	return archive, nil
}

func (r *runner) importSandboxImage(ctx context.Context, archive []byte) error {
	if err := r.env.Runtime.Import(ctx, r.config.SandboxImage, bytes.NewReader(archive)); err != nil {
		return fail(PullPodInfraContainerImage, "import %s: %w", r.config.SandboxImage, err)
	}
	return nil
}

// imageArchive is img as a tar of an OCI image layout, its digests unchanged.
func imageArchive(img v1.Image, imageName string) ([]byte, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: mediaType, Digest: digest, Size: int64(len(manifest)),
			Annotations: map[string]string{"io.containerd.image.name": imageName},
		}},
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	add := func(name string, data []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := t.Write(data)
		return err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	if err := add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return nil, err
	}
	if err := add(blob(m.Config.Digest), config); err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		h, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		content, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			return nil, err
		}
		if err := add(blob(h), data); err != nil {
			return nil, err
		}
	}
	if err := add(blob(digest), manifest); err != nil {
		return nil, err
	}
	if err := add("index.json", index); err != nil {
		return nil, err
	}
	return out.Bytes(), t.Close()
}
