package userns_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/userns"
)

// inside runs a shell command as root of the pinned namespaces, as a container runtime would join them.
func inside(t *testing.T, userPath, netPath, command string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--user="+userPath, "--net="+netPath, "--setuid=0", "--setgid=0", "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func pins(t *testing.T) (user, network string) {
	dir := t.TempDir()
	user, network = filepath.Join(dir, "ns", "a.user"), filepath.Join(dir, "ns", "a.net")
	t.Cleanup(func() { userns.Delete(user, network) })
	return user, network
}

func TestCreate(t *testing.T) {
	user, network := pins(t)
	m := userns.Map{Base: 1 << 24, Count: 1 << 24}
	if err := userns.Create(user, network, m); err != nil {
		t.Fatal(err)
	}
	if !userns.Is(user, network) {
		t.Error("Is = false after Create")
	}
	if got := strings.Fields(inside(t, user, network, "cat /proc/self/uid_map")); fmt.Sprint(got) != "[0 16777216 16777216]" {
		t.Errorf("uid_map = %v", got)
	}
	if got := strings.TrimSpace(inside(t, user, network, "cat /proc/self/setgroups")); got != "allow" {
		t.Errorf("setgroups = %q: containers could not start inside", got)
	}
	// Only the owner of a network namespace may mount its sysfs, which is what a node container does first.
	inside(t, user, network, "unshare --mount sh -c 'mount -t sysfs sysfs /mnt && test -d /mnt/class/net/lo'")

	// A second call keeps what is there: a node may be running in it.
	var before, after unix.Stat_t
	unix.Stat(network, &before)
	if err := userns.Create(user, network, m); err != nil {
		t.Fatal(err)
	}
	unix.Stat(network, &after)
	if before.Ino != after.Ino {
		t.Error("the second Create replaced the namespace")
	}
}

func TestCreateReplacesHalfMadePins(t *testing.T) {
	user, network := pins(t)
	m := userns.Map{Base: 1 << 24, Count: 1 << 16}
	if err := userns.Create(user, network, m); err != nil {
		t.Fatal(err)
	}
	unix.Unmount(network, unix.MNT_DETACH) // as if the process had died between the two binds
	if userns.Is(user, network) {
		t.Fatal("Is = true without a network namespace")
	}
	if err := userns.Create(user, network, m); err != nil {
		t.Fatal(err)
	}
	if !userns.Is(user, network) {
		t.Error("Create did not repair the pair")
	}
	// A network namespace that belongs to another user namespace is no use to the node either.
	unix.Unmount(network, unix.MNT_DETACH)
	if err := unix.Mount("/proc/self/ns/net", network, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if userns.Is(user, network) {
		t.Error("Is = true for a network namespace of the host's user namespace")
	}
}

func TestDelete(t *testing.T) {
	user, network := pins(t)
	if err := userns.Create(user, network, userns.Map{Base: 1 << 24, Count: 1 << 16}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := userns.Delete(user, network); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{user, network} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestCreateLeavesNoProcess(t *testing.T) {
	user, network := pins(t)
	if err := userns.Create(user, network, userns.Map{Base: 1 << 24, Count: 1 << 16}); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a child is left: pid %d, %v", pid, err)
	}
}

func TestCreateRefusesTheHostsRoot(t *testing.T) {
	user, network := pins(t)
	if err := userns.Create(user, network, userns.Map{Base: 0, Count: 65536}); err == nil {
		t.Error("a map of the host's own ids was accepted")
	}
}

func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	for i := range b.N {
		user, network := filepath.Join(dir, fmt.Sprint(i, ".user")), filepath.Join(dir, fmt.Sprint(i, ".net"))
		if err := userns.Create(user, network, userns.Map{Base: 1 << 24, Count: 1 << 24}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		userns.Delete(user, network)
		b.StartTimer()
	}
}

// TestLimitsOfItsOwn holds that the kernel counts what is used in a namespace against the namespace's own uid, and
// not against root's together with every other's.
func TestLimitsOfItsOwn(t *testing.T) {
	user, network := pins(t)
	if err := userns.Create(user, network, userns.Map{Base: 5 << 24, Count: 1 << 24}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(user)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	owner, err := unix.IoctlGetUint32(int(f.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil {
		t.Fatal(err)
	}
	if owner != 5<<24 {
		t.Errorf("the namespace belongs to uid %d, want %d", owner, 5<<24)
	}
	if os.Geteuid() != 0 {
		t.Error("making a namespace changed this process's user")
	}
}
