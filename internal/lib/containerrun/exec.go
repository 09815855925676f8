package containerrun

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Process is a further process in a running container.
type Process struct {
	Args     []string
	Env      []string // the container's own when nil
	Cwd      string   // "/" when empty
	User     *specs.User
	Terminal bool
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer // not used with Terminal
	Resize   <-chan Size
}

// Size is a terminal's.
type Size struct{ Width, Height uint32 }

// Exec runs a process in the container called id and returns its exit status. When ctx ends first the
// process is killed.
func (c *Client) Exec(ctx context.Context, id string, p Process) (uint32, error) {
	ctx = c.namespaced(ctx)
	status, err := c.exec(ctx, id, p)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return status, nil
}

func (c *Client) exec(ctx context.Context, id string, p Process) (uint32, error) {
	container, err := c.cd.LoadContainer(ctx, id)
	if err != nil {
		return 0, err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return 0, err
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return 0, err
	}
	process := *spec.Process
	process.Args, process.Terminal, process.Cwd = p.Args, p.Terminal, "/"
	if p.Cwd != "" {
		process.Cwd = p.Cwd
	}
	if p.Env != nil {
		process.Env = p.Env
	}
	if p.User != nil {
		process.User = *p.User
	}

	ioOpts := []cio.Opt{cio.WithFIFODir(filepath.Join(c.opts.RunDir, "fifo"))}
	var stdin *eofReader
	var in io.Reader
	if p.Stdin != nil {
		stdin = &eofReader{Reader: p.Stdin, eof: make(chan struct{})}
		in = stdin
	}
	stdout, stderr := p.Stdout, p.Stderr // the shim wants somebody to read both
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	ioOpts = append(ioOpts, cio.WithStreams(in, stdout, stderr))
	if p.Terminal {
		ioOpts = append(ioOpts, cio.WithTerminal)
	}
	proc, err := task.Exec(ctx, "exec-"+uuid.NewString(), &process, cio.NewCreator(ioOpts...))
	if err != nil {
		return 0, err
	}
	// The process must be deleted even when ctx has ended.
	defer proc.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill) //nolint:errcheck // it may have ended by itself
	exited, err := proc.Wait(ctx)
	if err != nil {
		return 0, err
	}
	if err := proc.Start(ctx); err != nil {
		return 0, err
	}

	done := make(chan struct{})
	defer close(done)
	if stdin != nil {
		go func() {
			select {
			case <-stdin.eof:
				// An error here means that the process is gone, and its input with it.
				_ = proc.CloseIO(ctx, containerd.WithStdinCloser)
			case <-done:
			}
		}()
	}
	if p.Resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-p.Resize:
					if !ok || proc.Resize(ctx, size.Width, size.Height) != nil {
						return
					}
				case <-done:
					return
				}
			}
		}()
	}
	select {
	case exit := <-exited:
		if err := exit.Error(); err != nil {
			return 0, err
		}
		proc.IO().Wait()
		return exit.ExitCode(), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// eofReader tells when its reader has ended.
type eofReader struct {
	io.Reader
	once sync.Once
	eof  chan struct{}
}

func (r *eofReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.once.Do(func() { close(r.eof) })
	}
	return n, err
}
