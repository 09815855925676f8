package bootstrap

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A supervisor that has opened its control pipe, and not written its status yet, is not there yet.
func TestSupervisorThatStarts(t *testing.T) {
	service := t.TempDir()
	supervise := filepath.Join(service, "supervise")
	control := filepath.Join(supervise, "control")
	if err := errors.Join(os.Mkdir(supervise, 0o700), unix.Mkfifo(control, 0o600)); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(control, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := tell(service, "u"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before its status: %v", err)
	}
	if err := os.WriteFile(filepath.Join(supervise, "status"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tell(service, "u"); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 8)
	if n, err := pipe.Read(said); err != nil || string(said[:n]) != "u" {
		t.Errorf("it was told %q, %v", said[:n], err)
	}
}
