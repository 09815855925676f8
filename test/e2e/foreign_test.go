package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// foreign is a containerd that is not Cloister's, as Docker or a user may run one, with one container. The
// container has the name of one of Cloister's, in a containerd namespace of the same name: where anything
// is kept by those two alone, they meet.
type foreign struct {
	dir, bin string
	daemon   *exec.Cmd
	task     int // process ID of the container
}

const foreignNamespace, foreignID = "cloister", "registry"

// cmdForeign starts the foreign containerd, or checks that it and the same container are still running.
func cmdForeign(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "foreign start|runs")
	s := storyOf(ts)
	switch args[0] {
	case "start":
		f := &foreign{dir: filepath.Join(s.env.WorkDir, "foreign")}
		ts.Defer(func() {
			if err := f.stop(); err != nil {
				ts.Logf("stop the foreign containerd: %v", err)
			}
		})
		s.foreign = f
		ts.Check(f.start())
	case "runs":
		if s.foreign == nil {
			ts.Fatalf("there is no foreign containerd")
		}
		pid, err := s.foreign.running()
		ts.Check(err)
		if pid != s.foreign.task {
			ts.Fatalf("the foreign container is process %d, and was %d", pid, s.foreign.task)
		}
	default:
		ts.Fatalf("usage: foreign start|runs")
	}
}

func (f *foreign) start() error {
	cache := os.Getenv("CLOISTER_CACHE_DIR")
	if cache == "" {
		cache = layout.DefaultCacheDir
	}
	set, err := artifacts.Locate(cache)
	if err != nil {
		return err
	}
	f.bin = set.Bin
	root := filepath.Join(f.dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		return err
	}
	busybox, err := os.ReadFile(filepath.Join(set.NodeRootfs, "usr/bin/busybox"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sleep"), busybox, 0o755); err != nil {
		return err
	}
	config := filepath.Join(f.dir, "config.toml")
	text := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(f.dir, "root"), filepath.Join(f.dir, "state"), f.socket())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(f.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	f.daemon = exec.Command(filepath.Join(f.bin, "containerd"), "--config", config)
	f.daemon.Env = append(os.Environ(), "PATH="+f.bin+":"+os.Getenv("PATH"))
	f.daemon.Stdout, f.daemon.Stderr = log, log
	f.daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := f.daemon.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := f.ctr("version")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the foreign containerd does not answer: %w: %s", err, out)
		}
	}
	out, err := f.ctr("run", "--detach", "--rootfs", root, foreignID, "/bin/sleep", "infinity")
	if err != nil {
		return fmt.Errorf("ctr run: %w: %s", err, out)
	}
	f.task, err = f.running()
	return err
}

func (f *foreign) socket() string { return filepath.Join(f.dir, "sock") }

func (f *foreign) ctr(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(f.bin, "ctr"), append([]string{"--address", f.socket(), "--namespace", foreignNamespace}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+f.bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// running is the process ID of the container, which must run.
func (f *foreign) running() (int, error) {
	out, err := f.ctr("task", "list")
	if err != nil {
		return 0, fmt.Errorf("ctr task list: %w: %s", err, out)
	}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == foreignID && words[2] == "RUNNING" {
			pid, err := strconv.Atoi(words[1])
			if err == nil {
				err = syscall.Kill(pid, 0)
			}
			return pid, err
		}
	}
	return 0, fmt.Errorf("the foreign container does not run: %s", out)
}

func (f *foreign) stop() error {
	if f.daemon == nil || f.daemon.Process == nil {
		return nil
	}
	_, err := f.ctr("task", "delete", "--force", foreignID) // it ends the process, and waits for that
	_, _ = f.ctr("container", "delete", foreignID)
	_ = f.daemon.Process.Signal(syscall.SIGTERM)
	_ = f.daemon.Wait()
	return err
}
