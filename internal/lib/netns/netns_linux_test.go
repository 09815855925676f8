package netns_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/netns"
)

func create(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns", "a.net")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(path) })
	return path
}

func self(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestCreateDoDelete(t *testing.T) {
	path, home := create(t), self(t)
	inside := func() (ns string) {
		if err := netns.Do(path, func() error { ns = self(t); return nil }); err != nil {
			t.Fatal(err)
		}
		return ns
	}
	first := inside()
	if first == home {
		t.Error("Do stayed at home")
	}
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	if inside() != first {
		t.Error("the second Create replaced the namespace")
	}
	if leader, err := os.Readlink("/proc/self/ns/net"); err != nil || leader != home {
		t.Errorf("the process's first thread is in %s, %v", leader, err)
	}
	for range 50 { // no thread is left in the namespace for others to find themselves in
		done := make(chan string)
		go func() { done <- self(t) }()
		if got := <-done; got != home {
			t.Fatalf("a goroutine ran in %s", got)
		}
	}
	for range 2 {
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	if netns.Is(path) {
		t.Error("still pinned")
	}
	if err := netns.Do(path, func() error { return nil }); err == nil {
		t.Error("entered a namespace that is gone")
	}
}

func TestCreatePinsWhatACrashLeftAsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.net")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(path) })
	if netns.Is(path) {
		t.Error("a plain file passes for a namespace")
	}
	if err := netns.Create(path); err != nil || !netns.Is(path) {
		t.Errorf("Create = %v, pinned %v", err, netns.Is(path))
	}
}

func TestSocketsStayWhereTheyWereMade(t *testing.T) {
	a, b := create(t), create(t)
	// The loopback is down, so a listener on it is reached by nobody but shows where it is.
	l, err := netns.Listen(a, "tcp", "127.0.0.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	again, err := netns.Listen(b, "tcp", "127.0.0.1:7777")
	if err != nil {
		t.Fatalf("the same address in another namespace: %v", err)
	}
	defer again.Close()
	if _, err := netns.Listen(a, "tcp", "127.0.0.1:7777"); err == nil {
		t.Error("the same address twice in one namespace")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	home, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	go func() {
		if c, err := home.Accept(); err == nil {
			io.Copy(io.Discard, c)
		}
	}()
	if c, err := netns.Dial(ctx, a, "tcp", home.Addr().String()); err == nil {
		c.Close()
		t.Error("dialled home's loopback from another namespace")
	}
	if c, err := netns.Dial(ctx, "/proc/self/ns/net", "tcp", home.Addr().String()); err != nil {
		t.Errorf("dial at home: %v", err)
	} else {
		c.Close()
	}
	if _, err := netns.Dial(ctx, a, "tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "IP address") {
		t.Errorf("a name was accepted: %v", err)
	}
}
