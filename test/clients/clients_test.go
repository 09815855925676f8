// Package clients drives the registry process with the clients that people use, as they are: crane and oras and
// containerd of the artifacts, skopeo of Debian, helm. Each test says what its user does.
//
// All of it runs in a network and a mount namespace of its own, in which the registries' names are in
// /etc/hosts: needs root. The registry is a process of its own, this test binary.
package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cloister-dev/cloister/internal/engine/artifacts"
	"github.com/cloister-dev/cloister/internal/engine/identity"
	"github.com/cloister-dev/cloister/internal/engine/mcr"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/layout"
	"github.com/cloister-dev/cloister/internal/lib/pki"
)

const (
	tenant = "11111111-1111-1111-1111-111111111111"
	puller = "aaaaaaaa-0000-0000-0000-000000000001" // AcrPull
	pusher = "aaaaaaaa-0000-0000-0000-000000000002" // AcrPush
	owner  = "aaaaaaaa-0000-0000-0000-000000000003" // Contributor
	nobody = "aaaaaaaa-0000-0000-0000-000000000004"

	nullUser = "00000000-0000-0000-0000-000000000000"

	// mine is the registry that is worked with, other one that is open to all, closed one without public access.
	mine   = "minereg.azurecr.io"
	other  = "otherreg.azurecr.io"
	closed = "closedreg.azurecr.io"

	publicAddress = "127.0.0.20"
	mcrAddress    = "127.0.0.10"
)

// What a process of this binary is, told by the environment.
const (
	roleVariable = "CLOISTER_TEST_CLIENTS"
	insideRole   = "inside"
	registryRole = "registry"
	dirVariable  = "CLOISTER_TEST_CLIENTS_DIR"
)

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.FatalLevel)
	switch os.Getenv(roleVariable) {
	case registryRole:
		os.Exit(serveRegistry(os.Getenv(dirVariable)))
	case insideRole:
		if err := inside(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), roleVariable+"="+insideRole)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		os.Exit(1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "these tests need root, to make namespaces: %v\n", err)
		os.Exit(1)
	}
}

// inside gives the new namespaces loopback and names.
func inside() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	hosts := "127.0.0.1 localhost\n" + mcrAddress + " mcr.microsoft.com\n"
	for _, host := range []string{mine, other, closed} {
		name, _, _ := strings.Cut(host, ".")
		hosts += publicAddress + " " + host + " " + name + ".eastus.data.azurecr.io\n"
	}
	file, err := os.CreateTemp("", "hosts")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(hosts); err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return syscall.Mount(file.Name(), "/etc/hosts", "", syscall.MS_BIND, "")
}

// serveRegistry is the registry process.
func serveRegistry(dir string) int {
	log, err := os.OpenFile(filepath.Join(dir, "registry.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 1
	}
	err = registry.Run(context.Background(), registry.Options{
		ConfigPath: filepath.Join(dir, "state", "registry.json"), StorageDir: filepath.Join(dir, "registry"), Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		return 1
	}
	return 0
}

// world is a registry process, what it caches from, and a user's directory.
type world struct {
	t      *testing.T
	dir    string
	bin    string
	extra  string // directory of skopeo and helm
	issuer *identity.Issuer
	config registry.Config
	pki    *pki.Authority
}

// start makes a world. Tests do not run in parallel: the names lead to one address.
func start(t *testing.T) *world {
	t.Helper()
	cache := os.Getenv("CLOISTER_CACHE_DIR")
	if cache == "" {
		cache = layout.DefaultCacheDir
	}
	set, err := artifacts.Locate(cache)
	if err != nil {
		t.Fatalf("build the artifacts first, with `cloister artifacts build`: %v", err)
	}
	w := &world{t: t, dir: t.TempDir(), bin: set.Bin}
	var complaint bytes.Buffer
	clients := exec.Command("../../hack/registry-clients")
	clients.Stderr = &complaint
	out, err := clients.Output()
	if err != nil {
		t.Fatalf("hack/registry-clients: %v\n%s", err, complaint.String())
	}
	w.extra = strings.TrimSpace(string(out))

	keys, err := identity.OpenKeys(filepath.Join(w.dir, "keys"))
	w.must(err)
	w.issuer = identity.NewIssuer(keys, nil)
	jwks, err := keys.JWKS()
	w.must(err)
	w.pki, err = pki.OpenAuthority(filepath.Join(w.dir, "pki"), "root", "test")
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, "root.crt"), w.pki.CertPEM, 0o600))
	pair := w.certificate("*.azurecr.io", "*.eastus.data.azurecr.io")
	w.config = registry.Config{
		TenantID: tenant, Issuers: []string{identity.V1Issuer(tenant)}, JWKS: jwks,
		Certificates:  []registry.KeyPair{{CertPEM: string(pair.CertPEM), KeyPEM: string(pair.KeyPEM)}},
		PublicAddress: netip.MustParseAddr(publicAddress), CAFile: filepath.Join(w.dir, "root.crt"),
		Upstreams: map[string]string{"mcr.microsoft.com": mcrAddress + ":443"},
	}
	all := []string{registry.Pull, registry.Push, registry.Delete, registry.List}
	for _, host := range []string{mine, other, closed} {
		name, _, _ := strings.Cut(host, ".")
		w.config.Registries = append(w.config.Registries, registry.Registry{
			ID: "/" + name, Name: name, LoginServer: host, Region: "eastus", DataEndpoint: name + ".eastus.data.azurecr.io",
			PublicAccess: host != closed, AnonymousPull: host == other,
			CacheRules: []registry.CacheRule{{Name: "mcr", Source: "mcr.microsoft.com/*", Target: "cached/*"}},
			Access:     map[string][]string{puller: all[:1:1], pusher: all[:2:2], owner: all},
		})
	}
	w.config.Registries[0].Access[puller] = []string{registry.Pull, registry.List}
	w.config.Registries[0].Access[pusher] = []string{registry.Pull, registry.Push, registry.List}
	w.config.Registries[0].Admin = &registry.Admin{User: "minereg", Passwords: []string{fmt.Sprintf("%x", sha256.Sum256([]byte("the admin's password")))}}
	w.apply()

	process := exec.Command("/proc/self/exe")
	process.Env = append(os.Environ(), roleVariable+"="+registryRole, dirVariable+"="+w.dir)
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.must(process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(w.dir, "registry.log"))
			t.Logf("the registry said:\n%s", log)
		}
	})
	upstream := w.certificate("mcr.microsoft.com")
	certificate, err := tls.X509KeyPair(upstream.CertPEM, upstream.KeyPEM)
	w.must(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := mcr.Run(ctx, mcr.Options{LayoutDir: set.MCR, Address: netip.MustParseAddr(mcrAddress), Certificates: []tls.Certificate{certificate}, Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Errorf("mcr: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	for _, address := range []string{publicAddress + ":443", mcrAddress + ":443"} {
		w.await(address)
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) certificate(names ...string) pki.KeyPair {
	w.t.Helper()
	pair, err := w.pki.Issue(pki.Request{CommonName: names[0], DNSNames: names, Server: true})
	w.must(err)
	return pair
}

// apply gives the registry process its configuration.
func (w *world) apply() {
	w.t.Helper()
	w.must(atomicfile.WriteJSON(filepath.Join(w.dir, "state", "registry.json"), w.config, 0o600))
}

func (w *world) await(address string) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// user is somebody's home directory, where the clients keep their logins.
type user struct {
	*world
	home string
}

func (w *world) user(name string) *user {
	w.t.Helper()
	home := filepath.Join(w.dir, "home-"+name)
	w.must(os.MkdirAll(home, 0o700))
	return &user{w, home}
}

// refreshToken is what `az acr login --expose-token` prints for the principal.
func (w *world) refreshToken(principal, host string) string {
	w.t.Helper()
	token, err := w.issuer.Issue(identity.Claims{TenantID: tenant, ObjectID: principal, AppID: principal, Audience: "https://management.azure.com/"})
	w.must(err)
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	w.postForm("https://"+host+"/oauth2/exchange", map[string]string{"grant_type": "access_token", "service": host, "access_token": token.Value}, &answer)
	if answer.RefreshToken == "" {
		w.t.Fatalf("no refresh token for %s at %s", principal, host)
	}
	return answer.RefreshToken
}

// run runs a client and returns what it printed; the test ends when it fails.
func (u *user) run(stdin string, command ...string) string {
	u.t.Helper()
	out, err := u.try(stdin, command...)
	if err != nil {
		u.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return out
}

// refused runs a client that must fail and say so with the words.
func (u *user) refused(words string, command ...string) {
	u.t.Helper()
	out, err := u.try("", command...)
	if err == nil || !strings.Contains(out, words) {
		u.t.Errorf("%s: %v, want %q in\n%s", strings.Join(command, " "), err, words, out)
	}
}

func (u *user) try(stdin string, command ...string) (string, error) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	name := filepath.Join(u.bin, command[0])
	switch command[0] {
	case "skopeo":
		name = filepath.Join(u.extra, "skopeo")
		command = append([]string{command[0], "--insecure-policy"}, command[1:]...)
	case "helm":
		name = filepath.Join(u.extra, "helm")
	}
	c := exec.CommandContext(ctx, name, command[1:]...)
	c.Dir = u.home
	c.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "TMPDIR=" + u.home, "SSL_CERT_FILE=" + filepath.Join(u.dir, "root.crt"),
		"DOCKER_CONFIG=" + filepath.Join(u.home, ".docker"), "REGISTRY_AUTH_FILE=" + filepath.Join(u.home, "auth.json"),
		"XDG_CACHE_HOME=" + u.home, "XDG_CONFIG_HOME=" + u.home, "XDG_DATA_HOME=" + u.home,
	}
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

// write makes a file in the user's directory and returns its path.
func (u *user) write(name, content string) string {
	u.t.Helper()
	file := filepath.Join(u.home, name)
	u.must(os.WriteFile(file, []byte(content), 0o600))
	return file
}

// decode reads a client's JSON.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// served counts the requests of a method on a path that were answered with the status.
func (w *world) served(method, path string, status int) (n int) {
	w.t.Helper()
	log, err := os.ReadFile(filepath.Join(w.dir, "registry.log"))
	w.must(err)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, fmt.Sprintf("method=%s path=%s status=%d ", method, path, status)) {
			n++
		}
	}
	return n
}
