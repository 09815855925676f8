package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "x.json")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, func() {
			data, _ := os.ReadFile(path)
			seen <- string(data)
		})
	}()
	expect := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("never saw %q", want)
			}
		}
	}
	expect("")
	for _, content := range []string{"one", "two"} {
		next := path + ".next"
		if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		expect(content)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
