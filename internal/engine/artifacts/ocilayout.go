package artifacts

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutWriter writes an OCI image layout.
type layoutWriter struct {
	dir       string
	created   time.Time
	gzipLevel int
	manifests []v1.Descriptor
}

func newLayoutWriter(dir string, created time.Time, gzipLevel int) (*layoutWriter, error) {
	if err := os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	return &layoutWriter{dir: dir, created: created, gzipLevel: gzipLevel}, nil
}

// blob stores what write writes.
func (l *layoutWriter) blob(mediaType string, write func(io.Writer) error) (v1.Descriptor, error) {
	blobs := filepath.Join(l.dir, v1.ImageBlobsDir, "sha256")
	f, err := os.CreateTemp(blobs, ".blob.")
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	sum := sha256.New()
	count := &counter{}
	if err := write(io.MultiWriter(f, sum, count)); err != nil {
		return v1.Descriptor{}, err
	}
	if err := f.Chmod(0o644); err != nil {
		return v1.Descriptor{}, err
	}
	d := digest.NewDigest(digest.SHA256, sum)
	if err := os.Rename(f.Name(), filepath.Join(blobs, d.Encoded())); err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: count.n}, nil
}

func (l *layoutWriter) document(mediaType string, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return l.blob(mediaType, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// layer stores the files as a compressed archive and returns the digest of the archive itself, too.
func (l *layoutWriter) layer(files fileSet) (v1.Descriptor, digest.Digest, error) {
	diff := sha256.New()
	desc, err := l.blob(v1.MediaTypeImageLayerGzip, func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, l.gzipLevel)
		if err != nil {
			return err
		}
		if err := writeArchive(io.MultiWriter(z, diff), files, l.created); err != nil {
			return err
		}
		return z.Close()
	})
	return desc, digest.NewDigest(digest.SHA256, diff), err
}

// image adds an image of one platform.
func (l *layoutWriter) image(reference string, config v1.ImageConfig, layers []fileSet) error {
	platform := v1.Platform{Architecture: arch(), OS: "linux"}
	image := v1.Image{Created: &l.created, Platform: platform, Config: config, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, files := range layers {
		desc, diff, err := l.layer(files)
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, desc)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, diff)
		image.History = append(image.History, v1.History{Created: &l.created, CreatedBy: "cloister artifacts build"})
	}
	var err error
	if manifest.Config, err = l.document(v1.MediaTypeImageConfig, image); err != nil {
		return err
	}
	return l.manifest(reference, manifest, &platform)
}

// artifact adds what `oras pull` writes to a file called title.
func (l *layoutWriter) artifact(reference, title string, files fileSet) error {
	layer, _, err := l.layer(files)
	if err != nil {
		return err
	}
	layer.Annotations = map[string]string{v1.AnnotationTitle: title}
	config, err := l.blob(v1.MediaTypeEmptyJSON, func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err })
	if err != nil {
		return err
	}
	return l.manifest(reference, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: "application/vnd.unknown.artifact.v1", // what oras calls files pushed without a type
		Config:       config, Layers: []v1.Descriptor{layer},
		Annotations: map[string]string{v1.AnnotationCreated: l.created.Format(time.RFC3339)},
	}, nil)
}

func (l *layoutWriter) manifest(reference string, m v1.Manifest, platform *v1.Platform) error {
	desc, err := l.document(m.MediaType, m)
	if err != nil {
		return err
	}
	desc.Platform = platform
	desc.ArtifactType = m.ArtifactType
	desc.Annotations = map[string]string{v1.AnnotationRefName: reference}
	l.manifests = append(l.manifests, desc)
	return nil
}

func (l *layoutWriter) finish() error {
	for name, v := range map[string]any{
		v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion},
		v1.ImageIndexFile: v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: l.manifests,
		},
	} {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(l.dir, name), append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// writeArchive writes a tar archive, the same bytes for the same files: in order, owned by root, of one time.
func writeArchive(w io.Writer, files fileSet, modified time.Time) error {
	all := fileSet{}
	for name, f := range files {
		all[name] = f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir]; !ok {
				all[dir] = file{dir: true, mode: 0o755}
			}
		}
	}
	t := tar.NewWriter(w)
	for _, name := range all.paths() {
		if err := writeMember(t, name, all[name], modified); err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
	}
	return t.Close()
}

func writeMember(t *tar.Writer, name string, f file, modified time.Time) error {
	h := &tar.Header{Name: name, Mode: f.mode, ModTime: modified, Uname: "root", Gname: "root", Format: tar.FormatPAX}
	switch {
	case f.dir:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(name, "/") + "/"
		return t.WriteHeader(h)
	case f.link != "":
		h.Typeflag = tar.TypeSymlink
		h.Linkname = f.link
		return t.WriteHeader(h)
	case f.source == "":
		h.Typeflag = tar.TypeReg
		h.Size = int64(len(f.content))
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := t.Write(f.content)
		return err
	}
	source, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	h.Typeflag = tar.TypeReg
	h.Size = info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, source)
	return err
}
