package registry

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// The environment that makes the test binary a registry process. It listens at loopback ports and
// writes down which in the directory.
const processDir = "CLOISTER_TEST_REGISTRY_DIR"

func process(dir string) int {
	err := Run(context.Background(), Options{
		ConfigPath: filepath.Join(dir, "state", "registry.json"),
		StorageDir: filepath.Join(dir, "registry"),
		Log:        slog.New(slog.DiscardHandler),
		Listen: func(_ context.Context, _ string, address netip.AddrPort) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				err = atomicfile.Write(filepath.Join(dir, "listen", address.Addr().String()), []byte(l.Addr().String()), 0o600)
			}
			return l, err
		},
	})
	if err != nil {
		return 1
	}
	return 0
}

// startProcess runs a registry process over e's storage in place of e's server.
func (e *env) startProcess() *exec.Cmd {
	e.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		e.t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(e.dir, "listen"))
	command := exec.Command(executable)
	command.Env = append(os.Environ(), processDir+"="+e.dir)
	if err := command.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { command.Process.Kill(); command.Wait() })
	e.mu.Lock()
	clear(e.listeners)
	e.mu.Unlock()
	for _, address := range []string{addrA, addrAData, addrB, addrBData, addrOut} {
		e.awaitProcess(address)
	}
	return command
}

// awaitProcess waits until the process listens at address.
func (e *env) awaitProcess(address string) {
	e.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if data, err := os.ReadFile(filepath.Join(e.dir, "listen", address)); err == nil {
			e.mu.Lock()
			e.listeners[netip.MustParseAddr(address)] = string(data)
			e.mu.Unlock()
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("the process does not listen at %s", address)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (e *env) writeState() {
	e.t.Helper()
	if err := atomicfile.WriteJSON(filepath.Join(e.dir, "state", "registry.json"), e.config, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// TestKilledInTheMiddleOfAFetch: nothing half is served or left, and tokens and finished blobs survive.
func TestKilledInTheMiddleOfAFetch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	layers, _ := image.Layers()
	digest, _ := layers[0].Digest()
	compressed, _ := layers[0].Compressed()
	content, _ := io.ReadAll(compressed)
	half := len(content) / 2
	release := make(chan struct{})
	stop := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", itoa(len(content)))
		w.Write(content[:half])
		w.(http.Flusher).Flush()
		<-release
		return true
	}
	e.upstream.intercept.Store(&stop)
	e.server.Close()
	e.writeState()
	command := e.startProcess()
	auth := e.login("a.azurecr.io", kubelet)
	address := e.blobAddress(t, "a.azurecr.io", "aks-managed-repository/big", digest)
	response, err := (&http.Client{Transport: e.private()}).Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, half/2)); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(filepath.Join(e.dir, "registry", "fetch")); len(files) != 1 {
		t.Fatalf("being fetched: %v", files)
	}
	command.Process.Kill()
	command.Wait()
	close(release)
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("a client of the killed process took half for the whole")
	}
	e.upstream.intercept.Store(nil)

	e.startProcess()
	if files, _ := os.ReadDir(filepath.Join(e.dir, "registry", "fetch")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
	// The address that was signed before, the refresh token that was issued before.
	again, body := get(t, e.private(), "GET", address, nil)
	if again.StatusCode != 200 || len(body) < half {
		t.Errorf("the signed address after the restart: %d, %d bytes", again.StatusCode, len(body))
	}
	e.mustPull("a.azurecr.io/aks-managed-repository/big:1", image, e.options(e.private(), auth)...)
}

// TestRunFollowsItsFile: what is renamed over the file counts at once; what cannot be read changes nothing.
func TestRunFollowsItsFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("pause:3.9", 64)
	e.server.Close()
	all := e.config.Registries
	e.config.Registries = all[1:]
	e.writeState()
	os.RemoveAll(filepath.Join(e.dir, "listen"))
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(executable)
	command.Env = append(os.Environ(), processDir+"="+e.dir)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { command.Process.Kill(); command.Wait() })
	e.awaitProcess(addrB)
	if _, err := os.Stat(filepath.Join(e.dir, "listen", addrA)); err == nil {
		t.Error("it listens for a registry that there is not")
	}
	state := filepath.Join(e.dir, "state", "registry.json")
	if err := atomicfile.Write(state, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if response, _ := get(t, e.private(), "GET", "https://b.azurecr.io/v2/", nil); response.StatusCode != 401 {
		t.Errorf("after a broken file: %d", response.StatusCode)
	}
	e.config.Registries = all
	e.writeState()
	e.awaitProcess(addrA)
	e.awaitProcess(addrAData)
	e.mustPull("a.azurecr.io/aks-managed-repository/pause:3.9", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
}
