package rootfs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/engine/node/rootfs"
)

const base = 1 << 25

// userNS makes a user namespace with a map from base and pins it at a file.
func userNS(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 1 << 24}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process in a user namespace (this test needs root): %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	path := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

func TestMount(t *testing.T) {
	dir := t.TempDir()
	lower := filepath.Join(dir, "shared")
	if err := os.MkdirAll(filepath.Join(lower, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lower, "etc/os-release"), []byte("shared\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lower, "etc/ten"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(lower, "etc/ten"), 10, 10); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	spec := rootfs.Spec{
		Lower: lower, Disk: disk, UserNS: userNS(t), UIDBase: base, GIDBase: base,
		Target: filepath.Join(dir, "run/n1/rootfs"),
	}
	t.Cleanup(func() { rootfs.Unmount(spec.Target) })
	for range 2 { // the second time it is there already
		if err := rootfs.Mount(spec); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(spec.Target, "etc/os-release")
	if got := owner(t, file); got != base {
		t.Errorf("a file of the shared tree belongs to host uid %d, want %d", got, base)
	}
	if got := owner(t, filepath.Join(spec.Target, "etc/ten")); got != base+10 {
		t.Errorf("a file of uid 10 belongs to host uid %d, want %d", got, base+10)
	}
	// What the node writes lies on its own disk and belongs to its own root; the shared tree stays.
	if err := os.WriteFile(file, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := owner(t, filepath.Join(disk, "upper/etc/os-release")); got != base {
		t.Errorf("the copy on the node's disk belongs to host uid %d, want %d", got, base)
	}
	if data, _ := os.ReadFile(filepath.Join(lower, "etc/os-release")); string(data) != "shared\n" {
		t.Errorf("the shared tree was written: %q", data)
	}
	if mounted, err := rootfs.IsMounted(filepath.Join(disk, "lower")); mounted || err != nil {
		t.Errorf("helper mount left behind: %v %v", mounted, err)
	}

	if err := rootfs.Unmount(spec.Target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(spec.Target)); !os.IsNotExist(err) {
		t.Errorf("unmount left %s: %v", filepath.Dir(spec.Target), err)
	}
	// The disk survives: a node that starts again finds what it wrote.
	if err := rootfs.Mount(spec); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(file); string(data) != "mine\n" {
		t.Errorf("after mounting again: %q", data)
	}
}

func TestMountRefusesPathsOverlayCannotTake(t *testing.T) {
	err := rootfs.Mount(rootfs.Spec{Lower: "/srv/a,b", Disk: t.TempDir(), Target: filepath.Join(t.TempDir(), "n/rootfs")})
	if err == nil {
		t.Fatal("a comma in the path was accepted")
	}
}
