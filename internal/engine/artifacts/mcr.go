package artifacts

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// assembleMCR writes layout/, what mcr.microsoft.com serves. The references are those of the real registry; the bits
// are built here from upstream's sources, for this machine's architecture only.
func (j *job) assembleMCR(ctx context.Context, spec mcrSpec) error {
	j.phase("assemble")
	created, err := time.Parse(time.RFC3339, spec.Created)
	if err != nil {
		return fmt.Errorf("versions.json: mcr.created: %w", err)
	}
	l, err := newLayoutWriter(filepath.Join(j.dir, "layout"), created, spec.GzipLevel)
	if err != nil {
		return err
	}
	forArch := strings.NewReplacer("{arch}", arch())
	for _, image := range spec.Images {
		if err := ctx.Err(); err != nil {
			return err
		}
		layers, err := j.imageLayers(ctx, image)
		if err != nil {
			return fmt.Errorf("image %s: %w", image.Reference, err)
		}
		config := v1.ImageConfig{
			User: image.User, Entrypoint: image.Entrypoint, Cmd: image.Cmd, WorkingDir: "/",
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		}
		for _, p := range image.Ports {
			if config.ExposedPorts == nil {
				config.ExposedPorts = map[string]struct{}{}
			}
			config.ExposedPorts[p] = struct{}{}
		}
		if err := l.image(forArch.Replace(image.Reference), config, layers); err != nil {
			return fmt.Errorf("image %s: %w", image.Reference, err)
		}
	}
	for _, a := range spec.Artifacts {
		if err := ctx.Err(); err != nil {
			return err
		}
		files := fileSet{}
		for name, ref := range a.Files {
			program, err := j.program(ref)
			if err != nil {
				return err
			}
			files[name] = file{source: program, mode: 0o755}
		}
		if err := l.artifact(forArch.Replace(a.Reference), forArch.Replace(a.Title), files); err != nil {
			return fmt.Errorf("artifact %s: %w", a.Reference, err)
		}
	}
	return l.finish()
}

// imageLayers returns the files from Debian, which images share, and the image's own.
func (j *job) imageLayers(ctx context.Context, image imageSpec) ([]fileSet, error) {
	var layers []fileSet
	if len(image.Debian) > 0 || image.Busybox {
		base, err := j.debianLayer(ctx, image)
		if err != nil {
			return nil, err
		}
		layers = append(layers, base)
	}
	own := fileSet{}
	for name, ref := range image.Files {
		program, err := j.program(ref)
		if err != nil {
			return nil, err
		}
		own[strings.TrimPrefix(name, "/")] = file{source: program, mode: 0o755}
	}
	for name, content := range image.Text {
		own[strings.TrimPrefix(name, "/")] = file{content: []byte(content), mode: 0o755}
	}
	if len(own) > 0 {
		layers = append(layers, own)
	}
	return layers, nil
}

func (j *job) debianLayer(ctx context.Context, image imageSpec) (fileSet, error) {
	d := &debianFiles{root: filepath.Join(j.input(partDebian), "rootfs"), files: fileSet{"tmp": {dir: true, mode: 0o1777}}}
	if err := d.mergedUsr(); err != nil {
		return nil, err
	}
	for _, pattern := range image.Debian {
		if err := d.collect(pattern); err != nil {
			return nil, err
		}
	}
	if !image.Busybox {
		return d.files, nil
	}
	const busybox = "usr/bin/busybox"
	if err := d.collect("/" + busybox); err != nil {
		return nil, err
	}
	applets, err := command{}.run(ctx, filepath.Join(d.root, busybox), "--list")
	if err != nil {
		return nil, err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		// A program of Debian's own is the fuller one.
		if _, ok := d.files[path.Join("usr/sbin", applet)]; ok {
			continue
		}
		if name := path.Join("usr/bin", applet); name != busybox {
			if _, ok := d.files[name]; !ok {
				d.files[name] = file{link: "busybox", mode: 0o777}
			}
		}
	}
	return d.files, nil
}
