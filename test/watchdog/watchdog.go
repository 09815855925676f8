// Package watchdog takes down what a test has started on the machine when the test is killed. An installation outlives its
// test otherwise: its containerd starts again what runs in it.
//
// The watchdog is a process of its own, in a session of its own, that is told by a pipe what to guard. The pipe ends
// when the test process does, however it does.
package watchdog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// environment tells the test's own program that it is to be the watchdog, of the process group that it names.
const environment = "CLOISTER_TEST_WATCHDOG"

// Main is the watchdog's whole life in the process that is one, and returns at once in every other. TestMain calls it first.
func Main() {
	group, err := strconv.Atoi(os.Getenv(environment))
	if err != nil {
		return
	}
	os.Exit(watch(os.Stdin, group))
}

// guarded is one thing to take down.
type guarded struct {
	Program string // cloister
	DataDir string
	WorkDir string // a directory to remove afterwards
	Done    bool   // it has been taken down
}

// Dog is the watchdog of this process.
type Dog struct {
	mu   sync.Mutex
	pipe *os.File
	wait func() error
}

// Start starts the watchdog.
func Start() (*Dog, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), environment+"="+strconv.Itoa(syscall.Getpgrp()))
	cmd.Stdin = r // its output goes nowhere: go test would wait for its end
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &Dog{pipe: w, wait: cmd.Wait}, nil
}

// Guard has the installation in dataDir taken down by the program, and workDir removed, should this process die before Release.
func (d *Dog) Guard(program, dataDir, workDir string) error {
	return d.tell(guarded{Program: program, DataDir: dataDir, WorkDir: workDir})
}

// Release tells that the installation in dataDir has been taken down.
func (d *Dog) Release(dataDir string) error { return d.tell(guarded{DataDir: dataDir, Done: true}) }

func (d *Dog) tell(g guarded) error {
	line, err := json.Marshal(g)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.pipe.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell the watchdog: %w", err)
	}
	return nil
}

// Close ends the watchdog, which takes down what was not released.
func (d *Dog) Close() error { return errors.Join(d.pipe.Close(), d.wait()) }

func watch(in io.Reader, group int) (status int) {
	guards := map[string]guarded{}
	var order []string
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var g guarded
		if json.Unmarshal(lines.Bytes(), &g) != nil {
			continue // cut off in the middle
		}
		if g.Done {
			delete(guards, g.DataDir)
			continue
		}
		guards[g.DataDir] = g
		order = append(order, g.DataDir)
	}
	kept := map[string]bool{} // directories to work in, of what is still there
	for _, dir := range order {
		g, there := guards[dir]
		if !there {
			continue
		}
		if err := g.takeDown(group); err != nil {
			status, kept[g.WorkDir] = 1, true
			log := filepath.Join(os.TempDir(), "cloister-test-watchdog.log")
			if f, open := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); open == nil {
				fmt.Fprintf(f, "%s %s: %v\n", time.Now().Format(time.RFC3339), dir, err)
				f.Close()
			}
		}
	}
	for _, g := range guards { // several may share one
		if g.WorkDir == "" || kept[g.WorkDir] {
			continue
		}
		if os.RemoveAll(g.WorkDir) != nil {
			status = 1
		}
		_ = os.Remove(filepath.Dir(g.WorkDir)) // which was made for it; another's is not empty
	}
	return status
}

// takeDown ends what the test was about to do, and then the installation.
func (g guarded) takeDown(group int) error {
	if _, err := os.Stat(g.DataDir); err != nil {
		return nil // it was never started
	}
	var err error
	for range 3 {
		g.interrupt(group)
		if err = g.purge(); err == nil {
			break
		}
	}
	return err
}

// patience is how long a purge may take.
const patience = 3 * time.Minute

func (g guarded) purge() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, g.Program, "--data-dir", g.DataDir, "down", "--purge").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cloister down --purge: %w: %s", err, out)
	}
	return nil
}

// interrupt ends commands on the installation that the test has left running: those of its process group that were told
// of the data directory. What runs in the installation is in groups of its own, and down's.
func (g guarded) interrupt(group int) {
	processes, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range processes {
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environ, []byte("CLOISTER_DATA_DIR="+g.DataDir+"\x00")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if its, err := syscall.Getpgid(pid); err == nil && its == group && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
	}
}
