package artifacts

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// buildModule compiles the module's programs into bin/. Proxy, checksum database and build cache are those of the
// go command on this machine.
func (j *job) buildModule(ctx context.Context, spec moduleSpec) error {
	dir, clean, err := j.moduleDir(j.part)
	if err != nil {
		return err
	}
	defer clean()
	names := slices.Sorted(maps.Keys(spec.Programs))
	var packages []string
	for _, n := range names {
		packages = append(packages, spec.Programs[n])
	}
	env := []string{"CGO_ENABLED=0"}
	flags := []string{"-mod=readonly", "-trimpath"}
	ldflags := "-s -w"
	if spec.Cgo {
		env[0] = "CGO_ENABLED=1"
		ldflags += " -linkmode=external -extldflags=-static"
	}
	if len(spec.Tags) > 0 {
		flags = append(flags, "-tags="+strings.Join(spec.Tags, ","))
	}
	for _, v := range slices.Sorted(maps.Keys(spec.Variables)) {
		ldflags += " -X=" + v + "=" + spec.Variables[v]
	}

	j.phase("fetch")
	list := append(append([]string{"list", "-deps", "-f={{.ImportPath}}"}, flags...), packages...)
	if _, err := j.goCommand(ctx, dir, env, list...); err != nil {
		return err
	}
	j.phase("compile")
	// One build of all packages shares the compiler's work; -o DIR names each program after its package, which for
	// etcd's server is not the program's name.
	out := filepath.Join(j.dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	build := append(append([]string{"build", "-o", out + "/", "-ldflags=" + ldflags}, flags...), packages...)
	if _, err := j.goCommand(ctx, dir, env, build...); err != nil {
		return err
	}
	bin := filepath.Join(j.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Rename(filepath.Join(out, commandName(spec.Programs[n])), filepath.Join(bin, n)); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(bin, n), 0o755); err != nil {
			return err
		}
	}
	return os.Remove(out)
}

// commandName is what go build calls the program of a main package: its last element that is no major version.
func commandName(pkg string) string {
	dir, last, ok := cutLast(pkg)
	if ok && len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789") == "" {
		_, last, _ = cutLast(dir)
	}
	return last
}

func cutLast(path string) (dir, last string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// moduleDir writes the part's go.mod and go.sum to a directory of their own, out of any other module or workspace.
func (j *job) moduleDir(p *part) (dir string, clean func(), err error) {
	dir, err = os.MkdirTemp(j.options.CacheDir, stagingPrefix+"module.")
	if err != nil {
		return "", nil, err
	}
	clean = func() { os.RemoveAll(dir) }
	for name, data := range p.files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			clean()
			return "", nil, err
		}
	}
	return dir, clean, nil
}

func (j *job) goCommand(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	path, err := goTool()
	if err != nil {
		return nil, err
	}
	env = append(env, "GOWORK=off", "GOOS=linux", "GOARCH="+arch())
	if os.Getenv("GOGC") == "" && memoryGiB() >= 12 {
		env = append(env, "GOGC=400") // the compiler collects garbage less often: a tenth less time for some memory
	}
	return command{dir: dir, env: env}.run(ctx, path, args...)
}

func goTool() (string, error) {
	if path, err := exec.LookPath("go"); err == nil {
		return path, nil
	}
	const official = "/usr/local/go/bin/go" // https://go.dev/doc/install; root's PATH often lacks it
	if _, err := os.Stat(official); err == nil {
		return official, nil
	}
	return "", errors.New("building artifacts needs the Go toolchain, and there is no go in PATH: install it, or import a set that was exported elsewhere")
}

func (j *job) goVersion() string {
	out, err := j.goCommand(context.Background(), j.dir, nil, "env", "GOVERSION")
	if err != nil {
		return "" // only a note in the metadata
	}
	return strings.TrimSpace(string(out))
}

func memoryGiB() uint64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return si.Totalram * uint64(si.Unit) >> 30
}
