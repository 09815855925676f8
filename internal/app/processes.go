package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Containers of the installation's own processes.
const (
	ProcessRegistry = "registry"
	ProcessServices = "vnetservices"
	ProcessPublic   = "public"
)

// programs are the copies of the running program that containers run.
type programs struct {
	// versioned is named by its content: what runs it is replaced when the program is another.
	versioned string
	// stable keeps its name: what runs it goes on with the program it was started with, and takes the new
	// one at its next start. Nodes do not notice an upgrade.
	stable string
}

// installPrograms copies the running program into the data directory, where no build changes it.
func installPrograms(l layout.Layout) (programs, error) {
	exe, err := os.Executable()
	if err != nil {
		return programs{}, err
	}
	in, err := os.Open(exe)
	if err != nil {
		return programs{}, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return programs{}, err
	}
	dir := filepath.Join(l.DataDir, "bin")
	p := programs{
		versioned: filepath.Join(dir, hex.EncodeToString(h.Sum(nil))[:16], "cloister"),
		stable:    filepath.Join(dir, "cloister"),
	}
	if _, err := os.Stat(p.versioned); err == nil {
		if same, err := sameFile(p.versioned, p.stable); err != nil || same {
			return p, err
		}
	} else if err := copyProgram(in, p.versioned); err != nil {
		return programs{}, err
	}
	// A new name for the same file: running nodes keep the file they have bound.
	tmp := p.stable + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return programs{}, err
	}
	if err := os.Link(p.versioned, tmp); err != nil {
		return programs{}, err
	}
	return p, os.Rename(tmp, p.stable)
}

func sameFile(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(x, y), err
}

func copyProgram(in *os.File, path string) error {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".cloister.*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, in)
	if err == nil {
		err = tmp.Chmod(0o755)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// bind shows a host path inside a container at the same path.
func bind(path string, options ...string) specs.Mount {
	return specs.Mount{Destination: path, Source: path, Type: "bind", Options: append([]string{"rbind"}, options...)}
}

// processes are the installation's own data-plane processes. Each sees only what it needs: its state
// file's directory, its storage, and, where it opens sockets in other namespaces, the files that pin them.
func processes(l layout.Layout, binary, mcr string) []containerrun.Spec {
	state := filepath.Dir(l.State("x"))
	namespaces := filepath.Dir(l.NetNS("x"))
	program := specs.Mount{Destination: "/cloister", Source: binary, Type: "bind", Options: []string{"bind", "ro"}}
	enter := []string{"CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"}
	env := []string{"GOGC=50", "PATH=/"}
	return []containerrun.Spec{
		{
			ID: ProcessRegistry, Env: env, NetNS: l.NetNS(projection.LeafRegistry), ReadonlyRootfs: true,
			Args:         []string{"/cloister", "registry", "--config", l.State(ProcessRegistry), "--storage", l.Registry()},
			Mounts:       []specs.Mount{program, bind(state, "ro"), bind(l.Registry()), bind(namespaces, "ro", "rslave"), bind(l.PKI()+"/root.crt", "ro")},
			Capabilities: enter, NoNewPrivileges: true, Log: l.Log(ProcessRegistry), Restart: true,
		},
		{
			ID: ProcessServices, Env: env, NetNS: l.NetNS(projection.LeafServices), ReadonlyRootfs: true,
			Args: []string{"/cloister", "vnetservices", "--config", l.State(ProcessServices)},
			Mounts: []specs.Mount{program, bind(state, "ro"), bind(namespaces, "ro", "rslave"), bind(l.Identity(), "ro"),
				bind(filepath.Dir(l.Tunnel("x"))), bind(filepath.Dir(l.Approver("x")), "ro")},
			Capabilities: enter, NoNewPrivileges: true, Log: l.Log(ProcessServices), Restart: true,
		},
		{
			ID: ProcessPublic, Env: env, NetNS: l.NetNS("public"), ReadonlyRootfs: true,
			Args:         []string{"/cloister", "public", "--config", l.State(ProcessPublic), "--mcr", mcr},
			Mounts:       []specs.Mount{program, bind(state, "ro"), bind(mcr, "ro")},
			Capabilities: []string{"CAP_NET_BIND_SERVICE"}, NoNewPrivileges: true, Log: l.Log(ProcessPublic), Restart: true,
		},
	}
}

// startProcesses makes the directories that the processes see, and starts them.
func startProcesses(ctx context.Context, l layout.Layout, containers *containerrun.Client, specs []containerrun.Spec) error {
	for _, dir := range []string{
		filepath.Dir(l.State("x")), l.Registry(), l.Identity(), filepath.Dir(l.Tunnel("x")), filepath.Dir(l.Approver("x")), filepath.Dir(l.Log("x")),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := containers.EnsureAll(ctx, specs); err != nil {
		return fmt.Errorf("start the data plane: %w", err)
	}
	return nil
}

// shareNamespaces makes the directory of namespace files a mount of its own that passes on what is
// mounted in it: the processes that open sockets in namespaces see those that are pinned after their start.
func shareNamespaces(l layout.Layout) error {
	dir := filepath.Dir(l.NetNS("x"))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err == nil {
		return nil // it is one already
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make %s a mount: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts in %s: %w", dir, err)
	}
	return nil
}

// unshareNamespaces is the reverse. Nothing is pinned there any more.
func unshareNamespaces(l layout.Layout) error {
	err := unix.Unmount(filepath.Dir(l.NetNS("x")), 0)
	if err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return err
}
