// Package e2e runs Cloister as its users do: the built binary, as root, with real processes and real
// packets. Each story in testdata is a testscript (github.com/rogpeppe/go-internal/testscript) that reads
// as documentation: the lines that start with az, kubectl and cloister are what a user types.
//
// A story has installations of its own, in data directories below its temporary directory. When it ends,
// however it ends, they are taken down and purged, and the story fails if anything of them is left on the
// machine. Run one story with `make test-e2e RUN=isolated-cluster`.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/test/watchdog"
)

// commandTimeout ends a command that hangs, so that a story fails at the line where it hangs.
const commandTimeout = "300"

// TestMain makes the users' commands available to stories: az and kubectl are Cloister's.
func TestMain(m *testing.M) {
	watchdog.Main()
	testscript.Main(m, map[string]func(){
		"cloister": func() { become(os.Args[1:]...) },
		"az":       func() { become(append([]string{"az"}, os.Args[1:]...)...) },
		// A jump box in the cluster's VNet: kubectl there is the real one.
		"kubectl": func() {
			become(append([]string{"shell", "--cluster", os.Getenv("CLUSTER"), "--", "kubectl"}, os.Args[1:]...)...)
		},
	})
}

// become replaces this process by the built program. timeout(1) is in every distribution's coreutils.
func become(args ...string) {
	timeout, err := exec.LookPath("timeout")
	if err == nil {
		err = syscall.Exec(timeout, append([]string{"timeout", "--kill-after=10", commandTimeout, os.Getenv("CLOISTER")}, args...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(127)
}

func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the stories make namespaces and containers: run them as root")
	}
	program, err := filepath.Abs("../../bin/cloister")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("the stories run the built program; run `make build` first: %v", err)
	}
	tools := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", tools, "./reach")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in pods too
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build reach: %v\n%s", err, out)
	}
	// A run that is killed takes nothing down itself.
	dog, err := watchdog.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dog.Close(); err != nil {
			t.Errorf("the watchdog: %v", err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		Cmds:               commands,
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("CLOISTER", program)
			env.Setenv("CLOISTER_CACHE_DIR", os.Getenv("CLOISTER_CACHE_DIR"))
			env.Setenv("HOME", env.WorkDir)
			cache := os.Getenv("CLOISTER_CACHE_DIR")
			if cache == "" {
				cache = layout.DefaultCacheDir
			}
			env.Setenv("TOOLS", filepath.Join(cache, "current", "bin")) // crane, oras
			env.Setenv("NO_COLOR", "1")
			env.Setenv("REACH", filepath.Join(tools, "reach"))
			env.Setenv("PATH", tools+":"+env.Getenv("PATH"))
			env.Setenv("CLUSTER", "demo/demo")
			for _, v := range pageNames {
				env.Setenv(v[0], v[1])
			}
			s := &story{began: time.Now(), env: env, dog: dog}
			env.Values[storyKey{}] = s
			if err := s.use("data"); err != nil {
				return err
			}
			env.Setenv("CLOISTER_DATA_DIR", s.current)
			env.Defer(s.end)
			return nil
		},
	})
}
