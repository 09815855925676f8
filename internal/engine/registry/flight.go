package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// stallTimeout ends a fetch that brings nothing any more.
const stallTimeout = 60 * time.Second

// cache fetches blobs from upstreams, each once for all who wait for it, whichever registry they ask.
type cache struct {
	ctx     context.Context
	running *sync.WaitGroup
	storage *storage
	log     *slog.Logger
	stall   time.Duration // stallTimeout, but for tests

	mu      sync.Mutex
	flights map[flightKey]*flight
}

type flightKey struct {
	origin string
	digest digest.Digest
}

// link is a repository that is to have a blob.
type link struct {
	store      *registryStore
	repository string
}

// flight is one blob on its way from upstream to storage.
//
//	fetching ── started (size known) ── verified and stored ── links written ── done
//	     └──────────────┴──────────────────────┴────────────── failed
//
// Readers follow it from its first byte. The last byte is held back until the whole is verified and
// stored, so nobody ever has a whole body that is wrong, or that a crash would take back.
type flight struct {
	started chan struct{} // closed when size is known, or on failure

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when what follows changes
	file    *os.File
	size    int64
	written int64
	visible int64 // how much of it readers may have
	done    bool
	err     error
	links   []link
	sealed  bool // links are being written: too late to add one
	users   int  // of file: the fetch and its readers
}

// follow joins the flight of a blob, or starts it, and has l linked when it lands.
// It returns nil when the blob was already there and l is linked now.
func (c *cache) follow(ctx context.Context, u *upstream, o origin, d digest.Digest, l link) (*flight, error) {
	key := flightKey{o.String(), d}
	for {
		c.mu.Lock()
		f, flying := c.flights[key]
		if !flying {
			if linked, err := c.linkStored(ctx, o, d, l); linked || err != nil {
				c.mu.Unlock()
				return nil, err
			}
			f = &flight{started: make(chan struct{}), changed: make(chan struct{}), links: []link{l}, users: 1}
			c.flights[key] = f
			c.running.Go(func() { c.fetch(key, f, u, o, d) })
		}
		c.mu.Unlock()
		if flying && !f.addLink(l) {
			// It is landing: wait for that, and link what it leaves.
			f.wait(ctx)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		}
		select {
		case <-f.started:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return f, f.failure()
	}
}

// linkStored links a blob that this upstream repository is known to have served before.
func (c *cache) linkStored(ctx context.Context, o origin, d digest.Digest, l link) (bool, error) {
	c.storage.finishing.RLock()
	defer c.storage.finishing.RUnlock()
	if !c.storage.hasOrigin(d, o) {
		return false, nil
	}
	return true, l.store.linkBlob(ctx, l.repository, d)
}

// fetch flies f. It does not end with the request that began it: others may wait, and the next one will ask.
func (c *cache) fetch(key flightKey, f *flight, u *upstream, o origin, d digest.Digest) {
	start := time.Now()
	err := c.transfer(f, u, o, d)
	c.mu.Lock()
	delete(c.flights, key)
	c.mu.Unlock()
	f.mu.Lock()
	f.done, f.sealed = true, true
	if err == nil {
		f.visible = f.size
	}
	if f.err = err; err != nil {
		c.log.Warn("fetch failed", "origin", o.String(), "digest", d, "error", err)
	} else {
		c.log.Info("fetched", "origin", o.String(), "digest", d, "bytes", f.size, "duration", time.Since(start).Round(time.Millisecond))
	}
	select {
	case <-f.started:
	default:
		close(f.started)
	}
	f.broadcast()
	f.mu.Unlock()
	f.release()
}

func (c *cache) transfer(f *flight, u *upstream, o origin, d digest.Digest) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	stall := c.stall
	stalled := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("%s sent nothing for %s", o.host, stall))
	})
	defer stalled.Stop()

	content, size, err := u.blob(ctx, o, d)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer content.Close()
	temp, err := os.CreateTemp(filepath.Join(c.storage.dir, "fetch"), d.Encoded()+".*")
	if err != nil {
		return err
	}
	// After keep has renamed it there is nothing at that name.
	defer os.Remove(temp.Name())
	f.mu.Lock()
	f.file, f.size = temp, size
	close(f.started)
	f.mu.Unlock()

	written, err := io.CopyBuffer(progress{f, temp, func() { stalled.Reset(stall) }}, content, make([]byte, 256<<10))
	if err != nil {
		return errors.Join(fmt.Errorf("fetch %s from %s: %w", d, o, err), context.Cause(ctx))
	}
	if written != size {
		return fmt.Errorf("%s has %d bytes at %s, which announced %d", d, written, o, size)
	}
	c.storage.finishing.RLock()
	defer c.storage.finishing.RUnlock()
	if err := c.storage.keep(temp, d, o); err != nil {
		return err
	}
	f.mu.Lock()
	f.sealed = true
	links := f.links
	f.mu.Unlock()
	for _, l := range links {
		if err := l.store.linkBlob(c.ctx, l.repository, d); err != nil {
			return err
		}
	}
	return nil
}

// progress writes to the file and then shows readers what is there, but for the last byte.
type progress struct {
	*flight
	file  *os.File
	moved func()
}

func (p progress) Write(b []byte) (int, error) {
	p.moved()
	// Only the fetch writes, so it may read without the lock.
	if p.written+int64(len(b)) > p.size {
		return 0, fmt.Errorf("more than the %d bytes announced", p.size)
	}
	n, err := p.file.Write(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written += int64(n)
	p.visible = min(p.written, p.size-1)
	p.broadcast()
	return n, err
}

// broadcast wakes who waits. The caller holds f.mu.
func (f *flight) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flight) addLink(l link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		return false
	}
	f.links = append(f.links, l)
	return true
}

func (f *flight) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// wait returns when f is done or ctx is.
func (f *flight) wait(ctx context.Context) {
	for {
		f.mu.Lock()
		done, changed := f.done, f.changed
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// release gives up one use of the file.
func (f *flight) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 && f.file != nil {
		f.file.Close()
	}
}

// reader follows the flight's content from its beginning, and returns nil when the flight has ended.
func (f *flight) reader(ctx context.Context) *follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users == 0 {
		return nil
	}
	f.users++
	return &follower{ctx: ctx, flight: f}
}

// follower is an io.ReadSeekCloser over a blob that may still be coming.
type follower struct {
	ctx    context.Context
	flight *flight
	offset int64
}

func (r *follower) Read(p []byte) (int, error) {
	f := r.flight
	for {
		f.mu.Lock()
		visible, err, changed := f.visible, f.err, f.changed
		f.mu.Unlock()
		switch {
		case r.offset >= f.size:
			return 0, io.EOF
		case err != nil:
			return 0, err
		case r.offset < visible:
			n, err := f.file.ReadAt(p[:min(int64(len(p)), visible-r.offset)], r.offset)
			r.offset += int64(n)
			return n, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.flight.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.offset = offset
	return offset, nil
}

func (r *follower) Close() error {
	r.flight.release()
	return nil
}
