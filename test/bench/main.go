// Command bench measures what Cloister promises of its speed and size: how long a cluster takes to come and
// go, how long a start takes, and the memory that all of it takes at rest. It runs the built binary as a user
// does, as root, on installations of its own in a temporary directory, and removes them.
//
// The figures of a machine that others use say little by themselves. So each has beside it how many cores
// others kept busy meanwhile, and before each repetition bench waits a while for a quiet machine.
//
// It must not know how Cloister does what it measures: a step has a name because the timeline gives it one.
// The promises are in docs/benchmarks.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	program, cacheDir, jsonPath, note string
	repetitions                       int
	quiet, settle                     time.Duration
	short                             bool
	nodes                             string
}

func main() {
	var o options
	flag.StringVar(&o.program, "program", "bin/cloister", "the program to measure")
	flag.StringVar(&o.cacheDir, "cache-dir", os.Getenv("CLOISTER_CACHE_DIR"), "directory of built artifacts")
	flag.IntVar(&o.repetitions, "n", 3, "repetitions; medians are shown")
	flag.DurationVar(&o.quiet, "quiet", 2*time.Minute, "wait at most this long before each measurement until others leave the machine alone")
	flag.DurationVar(&o.settle, "settle", time.Minute, "rest before memory is measured")
	flag.BoolVar(&o.short, "short", false, "only create and delete: leave out metrics, memory and restart")
	flag.StringVar(&o.nodes, "nodes", "1,3", "sizes of the clusters to make")
	flag.StringVar(&o.jsonPath, "json", "", "write the record to this file, - for standard output")
	flag.StringVar(&o.note, "note", "", "remark to keep with the record")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("clusters are made by root: run it as root")
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return err
	}
	var sizes []int
	for text := range strings.SplitSeq(o.nodes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("-nodes %s: want numbers with commas between: %w", o.nodes, err)
		}
		sizes = append(sizes, n)
	}
	if _, err := os.Stat(o.program); err != nil {
		return fmt.Errorf("run `make build` first: %w", err)
	}
	dir, err := os.MkdirTemp("", "cloister-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := newRecord(o, sizes)
	if r.Version, err = output(ctx, o.program, "--version"); err != nil {
		return err
	}
	for i := range o.repetitions {
		for _, nodes := range sizes {
			progress("repetition %d of %d, %d node(s)", i+1, o.repetitions, nodes)
			in := &installation{options: o, dataDir: filepath.Join(dir, fmt.Sprintf("%d-%d", i, nodes))}
			if err := r.repeat(ctx, in, nodes); err != nil {
				return err
			}
		}
	}
	r.finish()
	if o.jsonPath != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		data = append(data, '\n')
		if o.jsonPath == "-" {
			_, err = os.Stdout.Write(data)
			return err
		}
		if err := os.WriteFile(o.jsonPath, data, 0o644); err != nil {
			return err
		}
	}
	r.print(os.Stdout)
	if missed := r.missed(); len(missed) > 0 {
		return fmt.Errorf("not as promised: %q", missed)
	}
	return nil
}

// repeat measures one installation's life, and takes it down whatever happens.
func (r *record) repeat(ctx context.Context, in *installation, nodes int) (err error) {
	// The end is not interrupted by what interrupted the rest.
	defer func() { err = errors.Join(err, in.purge(context.WithoutCancel(ctx))) }()
	if err := awaitQuiet(ctx, in.quiet); err != nil {
		return err
	}
	if err := r.measure(metricUp, func() error { return in.cloister(ctx, "up") }); err != nil {
		return err
	}
	if err := in.learn(); err != nil {
		return err
	}
	if err := in.cloister(ctx, "az", "group", "create", "--name", "bench", "--location", "eastus", "--output", "none"); err != nil {
		return err
	}
	before, err := in.inventory()
	if err != nil {
		return err
	}
	if err := awaitQuiet(ctx, in.quiet); err != nil {
		return err
	}
	if err := r.create(ctx, in, nodes); err != nil {
		return err
	}
	if !in.short && nodes > 1 {
		progress("rest of %s before memory is measured", in.settle)
		if err := sleep(ctx, in.settle); err != nil {
			return err
		}
		m, err := in.memory(ctx)
		if err != nil {
			return err
		}
		r.addMemory(m)
	}
	if !in.short && nodes == 1 {
		if err := r.restart(ctx, in, nodes); err != nil {
			return err
		}
	}
	return r.remove(ctx, in, nodes, before)
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
