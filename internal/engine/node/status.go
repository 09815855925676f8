package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// maxResult bounds what the host reads of files that the node writes.
const maxResult = 1 << 20

func provisionDir(p paths) string { return filepath.Join(p.varDir, "log", "azure") }

// Provision tells how provisioning of the node called id went. Done is false while it is under way, and
// for a node that does not exist.
func (e *Engine) Provision(id string) (bootstrap.Result, error) {
	if !validID.MatchString(id) {
		return bootstrap.Result{}, fmt.Errorf("node: %q is no node ID", id)
	}
	return e.provision(e.paths(id))
}

func (e *Engine) provision(p paths) (bootstrap.Result, error) {
	data, err := readInside(p.varDir, bootstrap.ResultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return bootstrap.Result{}, nil
	}
	if err != nil {
		return bootstrap.Result{}, fmt.Errorf("read provisioning result: %w", err)
	}
	return bootstrap.ParseResult(data)
}

// Events returns what the node called id has recorded of its provisioning steps so far, by start.
func (e *Engine) Events(id string) ([]bootstrap.Event, error) {
	if !validID.MatchString(id) {
		return nil, fmt.Errorf("node: %q is no node ID", id)
	}
	p := e.paths(id)
	root, err := os.OpenRoot(p.varDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := root.Open(bootstrap.EventsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(1000)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out []bootstrap.Event
	for _, name := range names {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		data, err := readInside(p.varDir, filepath.Join(bootstrap.EventsPath, name))
		if err != nil {
			return nil, err
		}
		event, err := bootstrap.ParseEvent(data)
		if err != nil {
			return nil, fmt.Errorf("event %s of node %s: %w", name, id, err)
		}
		out = append(out, event)
	}
	bootstrap.SortEvents(out)
	return out, nil
}

// Watch calls fn with the state of every node there is and again whenever one has finished provisioning, until ctx
// ends. A call may repeat what an earlier one told. One Watch at a time.
func (e *Engine) Watch(ctx context.Context, fn func(id string, result bootstrap.Result)) error {
	tell := func(id string) {
		// A result that cannot be read now is written again, or the node is being removed.
		if result, err := e.provision(e.paths(id)); err == nil {
			fn(id, result)
		}
	}
	configs, err := e.List()
	if err != nil {
		return err
	}
	for _, c := range configs {
		// A node that is half made has no such directory yet; Set adds it.
		if err := e.watcher.Add(provisionDir(e.paths(c.ID))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch node %s: %w", c.ID, err)
		}
		tell(c.ID)
	}
	nodes := filepath.Dir(e.paths("x").dir)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-e.watcher.Events:
			if !ok {
				return errors.New("node: the engine is closed")
			}
			if filepath.Base(event.Name) != filepath.Base(bootstrap.ResultPath) {
				continue
			}
			id, _, _ := strings.Cut(strings.TrimPrefix(event.Name, nodes+"/"), "/")
			tell(id)
		case err, ok := <-e.watcher.Errors:
			if !ok {
				return errors.New("node: the engine is closed")
			}
			// The kernel's queue has overflowed: what was lost is read anew.
			configs, listErr := e.List()
			if listErr != nil {
				return errors.Join(err, listErr)
			}
			for _, c := range configs {
				tell(c.ID)
			}
		}
	}
}

// logs maps the names of a node's logs to files below /var.
var logs = map[string]string{
	"provision":  bootstrap.LogPath,
	"result":     bootstrap.ResultPath,
	"bootstrap":  "log/bootstrap/current",
	"containerd": "log/containerd/current",
	"kubelet":    "log/kubelet/current",
}

// Logs opens a log of the node called id: provision, bootstrap, containerd or kubelet; or result, its provision.json. The error is
// fs.ErrNotExist when nothing has been written yet.
func (e *Engine) Logs(id, name string) (io.ReadCloser, error) {
	path, ok := logs[name]
	if !ok || !validID.MatchString(id) {
		return nil, fmt.Errorf("node %s has no log called %q: %w", id, name, fs.ErrNotExist)
	}
	return openInside(e.paths(id).varDir, path)
}

// forget removes the result of provisioning, so that the node provisions itself again.
func (e *Engine) forget(p paths) error {
	root, err := os.OpenRoot(p.varDir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove(bootstrap.ResultPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// openInside opens a regular file below dir, which root of the node may change at will: no link leads out of it, and
// opening a pipe does not block.
func openInside(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s of the node is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readInside(dir, name string) ([]byte, error) {
	f, err := openInside(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResult))
	if err != nil {
		return nil, err
	}
	return data, nil
}
