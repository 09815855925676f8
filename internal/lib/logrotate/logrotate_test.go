package logrotate

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A writer that keeps its file open goes on in the same file, which stays small; the rest is beside it.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "kube-apiserver.log")
	log, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(s string) {
		t.Helper()
		if _, err := log.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	has := func(name, want string) {
		t.Helper()
		got, err := os.ReadFile(name)
		if err != nil || string(got) != want {
			t.Errorf("%s has %q (%v), want %q", filepath.Base(name), got, err, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		write("small")
		go Run(ctx, filepath.Join(dir, "*.log"), Limits{Size: 10, Every: time.Minute}, func(err error) { t.Error(err) })
		synctest.Wait()
		has(name, "small")
		for i, line := range []string{strings.Repeat("a", 20), strings.Repeat("b", 20)} {
			write(line)
			time.Sleep(time.Minute)
			synctest.Wait()
			write("next")
			has(name, "next")
			has(name+".1", []string{"small" + line, "next" + line}[i])
		}
		cancel()
	})
	st, err := os.Stat(name + ".1")
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What cannot be rotated does not keep others from it.
func TestFault(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.log", "b.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "a.log.1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := rotate(filepath.Join(dir, "*.log"), 10)
	if err == nil || !strings.Contains(err.Error(), "a.log") {
		t.Errorf("said %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "b.log")); err != nil || st.Size() != 0 {
		t.Errorf("b.log: %v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "a.log")); err != nil || st.Size() != 100 {
		t.Errorf("a.log lost what could not be kept: %v, %v", st, err)
	}
}
