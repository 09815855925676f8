package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// commandLimit ends a command that hangs.
const commandLimit = 5 * time.Minute

// installation is one Cloister, from its first `up` to its purge.
type installation struct {
	options
	dataDir string
	layout  layout.Layout // from learn on
}

// learn finds what the first `up` has decided.
func (in *installation) learn() error {
	data, err := os.ReadFile(filepath.Join(in.dataDir, "instance.json"))
	if err != nil {
		return err
	}
	var instance struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(data, &instance); err != nil {
		return err
	}
	in.layout = layout.New(in.dataDir, in.cacheDir, instance.ID)
	return nil
}

// command is `cloister ARGS` on this installation.
func (in *installation) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, in.program, args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "CLOISTER_DATA_DIR="+in.dataDir)
	if in.cacheDir != "" {
		cmd.Env = append(cmd.Env, "CLOISTER_CACHE_DIR="+in.cacheDir)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// cloister runs a command for its effect.
func (in *installation) cloister(ctx context.Context, args ...string) error {
	_, err := in.output(ctx, args...)
	return err
}

// output runs a command for what it prints.
func (in *installation) output(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := in.command(ctx, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cloister %s: %w: %s", strings.Join(args, " "), errors.Join(err, ctx.Err()), bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}

// kubectl runs a shell script on a jump box in the cluster's network, where kubectl is the cluster's.
func (in *installation) kubectl(ctx context.Context, cluster, script string) ([]byte, error) {
	return in.output(ctx, "shell", "--cluster", "bench/"+cluster, "--", "sh", "-c", script)
}

// query runs a command and decodes the JSON that it prints.
func (in *installation) query(ctx context.Context, answer any, args ...string) error {
	out, err := in.output(ctx, args...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, answer)
}

// purge removes the installation.
func (in *installation) purge(ctx context.Context) error {
	if _, err := os.Stat(in.dataDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := in.cloister(ctx, "down", "--purge"); err != nil {
		return fmt.Errorf("%w (remove it with `cloister --data-dir %s down --purge`)", err, in.dataDir)
	}
	return nil
}

// inventory lists what the installation has on the machine: processes, mounts, namespaces, cgroups,
// directories and files. It says nothing that a restart changes, such as a process's number. Left out is
// what is the installation's, and not a cluster's, and stays for the next one: the registries' blobs,
// tools for jump boxes, and directories that hold nothing themselves.
func (in *installation) inventory() (map[string]bool, error) {
	found := map[string]bool{}
	processes, err := in.processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		found["process "+strings.ReplaceAll(p.container+" "+p.command, "\x00", " ")] = true
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// The fifth field is the mount point (proc_pid_mountinfo(5)).
		if fields := strings.Fields(line); len(fields) > 4 && in.mentions(line) {
			found["mount "+fields[4]] = true
		}
	}
	skip := []string{filepath.Join(in.layout.Registry(), "blobs"), filepath.Join(in.dataDir, "tools")}
	if err := list(found, in.dataDir, 3, skip); err != nil {
		return nil, err
	}
	if err := list(found, in.layout.RunDir, 9, nil); err != nil {
		return nil, err
	}
	for _, root := range cgroupRoots() {
		if err := list(found, filepath.Join(root, in.layout.Cgroup()), 9, nil); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// list adds what is in a tree, from the second level to a depth, and files of the first. What vanishes meanwhile is not there.
func list(found map[string]bool, root string, depth int, skip []string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if slices.Contains(skip, path) {
			return filepath.SkipDir
		}
		level := strings.Count(strings.TrimPrefix(path, root), "/")
		if level > 1 || !d.IsDir() || strings.HasPrefix(root, "/sys/") {
			found["file "+path] = true
		}
		if d.IsDir() && level >= depth {
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", root, err)
	}
	return nil
}

// mentions reports whether a text of the kernel's is of this installation.
func (in *installation) mentions(text string) bool {
	return strings.Contains(text, in.layout.Cgroup()) || strings.Contains(text, in.layout.RunDir) ||
		strings.Contains(text, in.dataDir+"/") || strings.Contains(text, in.dataDir+"\x00")
}

// output runs a program for what it prints.
func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return strings.TrimSpace(string(out)), nil
}
