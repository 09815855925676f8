package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// parallel is how many parts are made at once. Compilers use all cores by themselves; a second job fills the gaps
// while one downloads or links.
const parallel = 2

type builder struct {
	options   Options
	plan      *plan
	durations map[string]float64

	mu   sync.Mutex // reporting and durations
	host sync.Mutex // changing the machine
}

// job is one part being made.
type job struct {
	*builder
	part  *part
	dir   string // staging directory; becomes the part
	start time.Time
	guess time.Duration
}

func (b *builder) report(e Event) {
	if b.options.Progress == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.options.Progress(e)
}

func (j *job) phase(name string) {
	j.report(Event{Part: j.part.name, Phase: name, Elapsed: time.Since(j.start), Estimate: j.guess})
}

func (b *builder) estimate(p *part) time.Duration {
	b.mu.Lock()
	s := b.durations[p.name]
	b.mu.Unlock()
	if s == 0 {
		s = p.spec.host().Seconds
	}
	return time.Duration(s * float64(time.Second))
}

func (b *builder) missing(parts []*part) []*part {
	return slices.DeleteFunc(slices.Clone(parts), func(p *part) bool { return built(b.options.CacheDir, p) })
}

// run makes the parts, each after its inputs, and of those that could start the one first whose chain of dependents
// takes longest.
func (b *builder) run(ctx context.Context, parts []*part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order := b.byUrgency(parts)
	done := map[string]bool{}
	running := 0
	results := make(chan error)
	finished := make(chan string, len(parts))
	var failed error
	for len(order) > 0 || running > 0 {
		for failed == nil && running < parallel {
			i := slices.IndexFunc(order, func(p *part) bool {
				return !slices.ContainsFunc(p.inputs, func(in string) bool { return !done[in] })
			})
			if i < 0 {
				break
			}
			p := order[i]
			order = slices.Delete(order, i, i+1)
			running++
			go func() {
				err := b.make(ctx, p)
				if err == nil {
					finished <- p.name
				}
				results <- err
			}()
		}
		if running == 0 {
			break
		}
		err := <-results
		running--
		if err != nil && failed == nil {
			failed = err
			cancel()
		}
		for len(finished) > 0 {
			done[<-finished] = true
		}
	}
	return failed
}

// byUrgency sorts by the estimated time from the part's start to the end of everything that needs it.
func (b *builder) byUrgency(parts []*part) []*part {
	chain := map[string]time.Duration{}
	var length func(p *part) time.Duration
	length = func(p *part) time.Duration {
		if l, ok := chain[p.name]; ok {
			return l
		}
		var longest time.Duration
		for _, q := range parts {
			if slices.Contains(q.inputs, p.name) {
				longest = max(longest, length(q))
			}
		}
		chain[p.name] = longest + b.estimate(p)
		return chain[p.name]
	}
	order := slices.Clone(parts)
	slices.SortStableFunc(order, func(x, y *part) int { return int((length(y) - length(x)) / time.Millisecond) })
	return order
}

func (b *builder) make(ctx context.Context, p *part) (err error) {
	if built(b.options.CacheDir, p) {
		b.report(Event{Part: p.name, Phase: "cached"})
		return nil
	}
	dir, err := os.MkdirTemp(b.options.CacheDir, stagingPrefix+p.name+".")
	if err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	j := &job{builder: b, part: p, dir: dir, start: time.Now(), guess: b.estimate(p)}
	defer func() {
		if err != nil {
			j.report(Event{Part: p.name, Phase: "failed", Elapsed: time.Since(j.start), Estimate: j.guess, Err: err})
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := j.prepareHost(ctx, p.spec.host().HostPackages); err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	if err := j.recipe(ctx); err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	return j.seal()
}

func (j *job) recipe(ctx context.Context) error {
	switch spec := j.part.spec.(type) {
	case moduleSpec:
		return j.buildModule(ctx, spec)
	case pauseSpec:
		return j.buildPause(ctx, spec)
	case debianSpec:
		return j.bootstrapDebian(ctx, spec)
	case nodeSpec:
		return j.assembleNode(ctx, spec)
	case mcrSpec:
		return j.assembleMCR(ctx, spec)
	case setSpec:
		return j.assembleSet(spec)
	default:
		return fmt.Errorf("no recipe for %T", spec)
	}
}

// seal describes the part, puts it durably on disk and gives it its name.
func (j *job) seal() error {
	j.phase("digest")
	size, digest, err := treeDigest(j.dir)
	if err != nil {
		return fmt.Errorf("digest %s: %w", j.part.name, err)
	}
	seconds := time.Since(j.start).Seconds()
	meta := Part{
		Name: j.part.name, ID: j.part.id(), Version: j.part.version, Arch: arch(), Size: size, Digest: digest,
		Built: time.Now().UTC().Truncate(time.Second), Seconds: seconds, Inputs: map[string]string{},
	}
	if _, ok := j.part.spec.(moduleSpec); ok {
		meta.Go = j.goVersion()
	}
	for _, in := range j.part.inputs {
		meta.Inputs[in] = j.plan.parts[in].id()
	}
	if err := publish(j.options.CacheDir, j.dir, meta); err != nil {
		return err
	}
	j.mu.Lock()
	j.durations[j.part.name] = seconds
	err = writeDurations(j.options.CacheDir, j.durations)
	j.mu.Unlock()
	if err != nil {
		return err
	}
	j.phase("done")
	return nil
}

// publish writes the metadata into the staging directory and renames it to its final name.
func publish(cacheDir, staging string, meta Part) error {
	data, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(staging, metadataFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if err := syncFilesystem(staging); err != nil {
		return err
	}
	final := filepath.Join(cacheDir, meta.ID)
	// A directory of that name without metadata is no part; something interrupted removing it.
	if _, err := os.Stat(filepath.Join(final, metadataFile)); errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(final); err != nil {
			return err
		}
	}
	if err := os.Rename(staging, final); err != nil {
		return fmt.Errorf("put %s into the cache: %w", meta.ID, err)
	}
	return syncFilesystem(cacheDir)
}

func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// program returns the path of the program that the reference PART/NAME means.
func (j *job) program(ref string) (string, error) {
	name, program, ok := strings.Cut(ref, "/")
	if !ok || j.plan.parts[name] == nil {
		return "", fmt.Errorf("versions.json: %q is not PART/PROGRAM", ref)
	}
	path := filepath.Join(j.input(name), "bin", program)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("versions.json: %q: %w", ref, err)
	}
	return path, nil
}

// input returns the directory of another part.
func (j *job) input(name string) string {
	return filepath.Join(j.options.CacheDir, j.plan.parts[name].id())
}

// partialSet names what exists of a set that was not asked for as a whole.
func (b *builder) partialSet() Set {
	var s Set
	if p := b.plan.parts[partNode]; built(b.options.CacheDir, p) {
		s.NodeRootfs = filepath.Join(b.options.CacheDir, p.id(), "rootfs")
	}
	if p := b.plan.parts[partMCR]; built(b.options.CacheDir, p) {
		s.MCR = filepath.Join(b.options.CacheDir, p.id(), "layout")
	}
	return s
}

// lock takes the cache's lock, which the kernel frees when the process dies, however it dies.
func lock(ctx context.Context, cacheDir string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(cacheDir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock artifact cache: %w", err)
	}
	// A blocking flock(2) could not be given up when ctx ends.
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock artifact cache: %w", err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another build of artifacts in %s: %w", cacheDir, ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// removeStaging clears what builders that died left behind. Only who holds the lock may call it.
func removeStaging(cacheDir string) error {
	left, err := filepath.Glob(filepath.Join(cacheDir, stagingPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unfinished build: %w", err)
		}
	}
	return nil
}

func readDurations(cacheDir string) map[string]float64 {
	d := map[string]float64{}
	if data, err := os.ReadFile(filepath.Join(cacheDir, durationsFile)); err == nil {
		if json.Unmarshal(data, &d) != nil {
			return map[string]float64{} // estimates only
		}
	}
	return d
}

func writeDurations(cacheDir string, d map[string]float64) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	tmp := filepath.Join(cacheDir, stagingPrefix+durationsFile)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(cacheDir, durationsFile))
}
