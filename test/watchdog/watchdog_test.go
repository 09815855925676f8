package watchdog

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

func TestMain(m *testing.M) {
	Main()
	if dir := os.Getenv("CLOISTER_TEST_VICTIM"); dir != "" {
		victim(dir)
	}
	os.Exit(m.Run())
}

// victim is a test that has taken one installation down and has two more, with a command on the first of them under way,
// and waits to be killed.
func victim(dir string) {
	d, err := Start()
	for _, name := range []string{"one/data", "tests/two/data", "tests/two/more", "tests/two/never-started"} {
		if err == nil {
			err = d.Guard(filepath.Join(dir, "program"), filepath.Join(dir, name), filepath.Join(dir, filepath.Dir(name)))
		}
	}
	if err == nil {
		err = d.Release(filepath.Join(dir, "one", "data"))
	}
	command := exec.Command("sleep", "300")
	command.Env = []string{"CLOISTER_DATA_DIR=" + filepath.Join(dir, "tests", "two", "data")}
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(command.Process.Pid)
	select {}
}

// A test that is killed leaves nothing: what it had not taken down itself is taken down, and no more than that.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one/data", "tests/two/data", "tests/two/more"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := "#!/bin/sh\necho \"$@\" >>" + dir + "/said\n"
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if err := watch.Add(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CLOISTER_TEST_VICTIM="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for limit := time.After(20 * time.Second); ; {
		if _, err := os.Stat(filepath.Join(dir, "tests")); os.IsNotExist(err) {
			break
		}
		select {
		case <-watch.Events:
		case <-limit:
			t.Fatal("nothing takes it down")
		}
	}
	said, err := os.ReadFile(filepath.Join(dir, "said"))
	want := ""
	for _, name := range []string{"data", "more"} {
		want += "--data-dir " + filepath.Join(dir, "tests", "two", name) + " down --purge\n"
	}
	if err != nil || string(said) != want {
		t.Errorf("it was taken down by %q, want %q; %v", said, want, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "one")); err != nil {
		t.Errorf("what had been released: %v", err)
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(line) + "/stat")
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("a command on it runs on: %s", stat)
	}
}
