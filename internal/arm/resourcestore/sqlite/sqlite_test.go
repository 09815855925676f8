package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/storetest"
)

// writerEnv makes the test binary a process that writes until it is killed.
const writerEnv = "CLOISTER_SQLITE_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		if err := writeForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) resourcestore.Store { return open(t, filepath.Join(t.TempDir(), "documents.db")) })
}

func pair(n int) (a, b resourceid.ID) {
	g := resourceid.Group("s", "rg")
	return g.Resource("Microsoft.Test/as", fmt.Sprint(n)), g.Resource("Microsoft.Test/bs", fmt.Sprint(n))
}

func writeForever(path string) error {
	s, err := Open(context.Background(), path)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		a, b := pair(n)
		op := &resourcestore.Operation{ID: fmt.Sprint("op", n), Resource: a, Status: resourcestore.InProgress, Start: time.Now()}
		err := s.Apply(context.Background(),
			resourcestore.Change{Put: &resourcestore.Resource{ID: a, Body: json.RawMessage(`{}`)}},
			resourcestore.Change{Put: &resourcestore.Resource{ID: b, Body: json.RawMessage(`{}`)}},
			resourcestore.Change{Operation: op})
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// A process that is killed while it writes leaves every transaction that it said was written, and no half of one.
func TestKilledWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "documents.db")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	for last < 50 {
		if _, err := fmt.Fscanln(out, &last); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fmt.Fscanln(out, &last); err != nil {
			break
		}
	}
	_ = cmd.Wait()
	s := open(t, path)
	defer s.Close()
	all, err := s.List(t.Context(), resourcestore.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2*(last+1) {
		t.Errorf("%d documents are there; the writer was told that %d pairs are", len(all), last+1)
	}
	for n := range len(all)/2 + 1 {
		a, b := pair(n)
		_, errA := s.Get(t.Context(), a)
		_, errB := s.Get(t.Context(), b)
		_, errO := s.Operation(t.Context(), fmt.Sprint("op", n))
		if (errA == nil) != (errB == nil) || (errA == nil) != (errO == nil) {
			t.Errorf("half of transaction %d is there: %v, %v, %v", n, errA, errB, errO)
		}
	}
	unfinished, err := s.Operations(t.Context(), resourceid.ID{}, true)
	if err != nil || len(unfinished) != len(all)/2 {
		t.Errorf("%d operations in progress, %v; want %d", len(unfinished), err, len(all)/2)
	}
}

func TestFileAndSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "documents.db")
	s := open(t, path)
	old := resourcestore.Operation{ID: "old", Status: resourcestore.Succeeded, Start: time.Now().Add(-9 * 24 * time.Hour), End: time.Now().Add(-8 * 24 * time.Hour)}
	if err := s.Apply(t.Context(), resourcestore.Change{Operation: &old}); err != nil {
		t.Fatal(err)
	}
	var mode string
	var synchronous int
	if err := s.writer.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal mode %s, %v", mode, err)
	}
	if err := s.writer.QueryRow("PRAGMA synchronous").Scan(&synchronous); err != nil || synchronous != 2 {
		t.Errorf("synchronous is %d, %v; want FULL (2)", synchronous, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	s = open(t, path)
	if _, err := s.Operation(t.Context(), "old"); !errors.Is(err, resourcestore.ErrNotFound) {
		t.Errorf("an operation that ended eight days ago is still there: %v", err)
	}
	if _, err := s.writer.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "schema 99") {
		t.Errorf("opening a newer schema: %v", err)
	}
}
