package artifacts

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Links of a set to its parts.
const (
	setNodeRootfs = "node-rootfs"
	setMCR        = "mcr"
)

// setKubernetes is the directory of a set with one below it for each version of Kubernetes.
const setKubernetes = "kubernetes"

// buildPause compiles pause.c of the Kubernetes module as upstream's build/pause/Makefile does, once per version:
// the version is only what it prints.
func (j *job) buildPause(ctx context.Context, spec pauseSpec) error {
	j.phase("fetch")
	from := j.plan.parts[spec.Module]
	module, ok := from.spec.(moduleSpec)
	if !ok {
		return fmt.Errorf("versions.json: %q is no Go module", spec.Module)
	}
	dir, clean, err := j.moduleDir(from)
	if err != nil {
		return err
	}
	defer clean()
	out, err := j.goCommand(ctx, dir, nil, "mod", "download", "-json", module.Module+"@"+module.Version)
	if err != nil {
		return err
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return fmt.Errorf("read the answer of go mod download: %w", err)
	}
	j.phase("compile")
	if err := os.Mkdir(filepath.Join(j.dir, "bin"), 0o755); err != nil {
		return err
	}
	for _, v := range spec.Versions {
		if _, err := (command{dir: downloaded.Dir}).run(ctx, "gcc", "-Os", "-Wall", "-Werror", "-static", "-s", "-DVERSION=v"+v,
			"-o", filepath.Join(j.dir, "bin", "pause-"+v), spec.Source); err != nil {
			return err
		}
	}
	return nil
}

// assembleNode adds the programs of a node to the Debian tree.
func (j *job) assembleNode(ctx context.Context, spec nodeSpec) error {
	j.phase("assemble")
	root := filepath.Join(j.dir, "rootfs")
	if err := linkTree(filepath.Join(j.input(partDebian), "rootfs"), root); err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(spec.Files)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		program, err := j.program(spec.Files[path])
		if err != nil {
			return err
		}
		if err := linkFile(program, filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}

// assembleSet puts together what Set names.
func (j *job) assembleSet(spec setSpec) error {
	j.phase("assemble")
	for _, ref := range spec.Bin {
		program, err := j.program(ref)
		if err != nil {
			return err
		}
		if err := linkFile(program, filepath.Join(j.dir, "bin", filepath.Base(program))); err != nil {
			return err
		}
	}
	for version, programs := range spec.Kubernetes {
		for _, ref := range programs {
			program, err := j.program(ref)
			if err != nil {
				return err
			}
			if err := linkFile(program, filepath.Join(j.dir, setKubernetes, version, filepath.Base(program))); err != nil {
				return err
			}
		}
	}
	for link, to := range map[string]string{
		setNodeRootfs: filepath.Join("..", j.plan.parts[partNode].id(), "rootfs"),
		setMCR:        filepath.Join("..", j.plan.parts[partMCR].id(), "layout"),
	} {
		if err := os.Symlink(to, filepath.Join(j.dir, link)); err != nil {
			return err
		}
	}
	return nil
}
