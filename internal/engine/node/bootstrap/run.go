package bootstrap

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// timeLimit is what cse_start.sh gives provision.sh.
const timeLimit = 15 * time.Minute

// Services of the node that the program starts.
const (
	ContainerdService = "containerd"
	KubeletService    = "kubelet"
)

// ProvisionedPath marks a node whose provisioning has succeeded, for every later start.
const ProvisionedPath = "/opt/azure/containers/provision.complete"

// Services starts the node's services.
type Services interface {
	// Start returns when the service's process runs.
	Start(ctx context.Context, name string) error
}

// Runtime is the node's container runtime.
type Runtime interface {
	// Ready returns when the runtime answers.
	Ready(ctx context.Context) error
	// Import unpacks the image under name and keeps the kubelet's garbage collection from it. archive is an OCI image layout in a tar.
	Import(ctx context.Context, name string, archive io.Reader) error
	// Pull pulls and unpacks the image, as the kubelet would have it done. No password: as nobody.
	Pull(ctx context.Context, name, user, password string) error
}

// Environment is the machine as the program sees it.
type Environment struct {
	Root       string // file system root
	IMDS       string // base URL of the instance metadata service
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	LookupHost func(ctx context.Context, host string) ([]string, error)
	Roots      *x509.CertPool // nil: the system's
	Services   Services
	Runtime    Runtime
	Firewall   func(ctx context.Context) error // keeps pods from the wire server, as AKS's kubelet.sh does
}

// Main provisions this machine as the config in configDir says, or, when that has been done before, starts its
// services. It returns the exit code; everything else it has to tell is in /var/log/azure.
func Main(ctx context.Context, configDir string) ExitCode {
	config, err := ReadConfig(filepath.Join(configDir, ConfigName))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return AKSNodeControllerError
	}
	code, err := Run(ctx, config, machine())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

type runner struct {
	config Config
	env    Environment

	mu  sync.Mutex
	log io.Writer
}

// Run is Main for a given config and environment.
func Run(ctx context.Context, config Config, env Environment) (ExitCode, error) {
	r := &runner{config: config.withDefaults(), env: env}
	if _, err := os.Stat(r.path(ProvisionedPath)); err == nil {
		return r.restart(ctx)
	}
	started := time.Now()
	logPath := r.path("/var/" + LogPath)
	if err := os.MkdirAll(r.path("/var/"+EventsPath), 0o755); err != nil {
		return AKSNodeControllerError, err
	}
	file, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return AKSNodeControllerError, err
	}
	defer file.Close()
	tail := &tailBuffer{max: maxOutput}
	r.log = io.MultiWriter(file, tail)
	r.logf("provisioning of %s starts; artifacts come from %s", r.config.NodeName, r.config.source())

	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	step, rest, err := r.provision(limited)
	if ctx.Err() != nil {
		rest()
		return AKSNodeControllerError, ctx.Err() // interrupted: the next run starts anew
	}
	if err != nil && limited.Err() != nil {
		err = fail(Timeout, "not done after %s: %w", timeLimit, err)
	}
	result := Result{Done: true, ExitCode: codeOf(err), Step: step, Started: started, Duration: time.Since(started)}
	if err != nil {
		result.Error = err.Error()
		d := Describe(result.ExitCode)
		r.logf("%s (%d) in %s: %v. %s", d.Name, result.ExitCode, step, err, d.Hint)
	} else {
		r.logf("provisioning done in %s", result.Duration.Round(time.Millisecond))
	}
	result.Output = tail.String()
	data, marshalErr := result.marshal()
	if marshalErr != nil {
		return AKSNodeControllerError, marshalErr
	}
	if err := atomicfile.Write(r.path("/var/"+ResultPath), data, 0o644); err != nil {
		return AKSNodeControllerError, err
	}
	if result.ExitCode != Success {
		return result.ExitCode, err
	}
	rest() // before the disk is synced: it is busy now, and others with it
	return Success, r.complete()
}

// complete notes that this machine is provisioned. All that was installed must be on the disk before: after a power
// loss the note alone would stand for a node with an empty kubelet.
func (r *runner) complete() error {
	note := r.path(ProvisionedPath)
	if err := os.MkdirAll(filepath.Dir(note), 0o755); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(note))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the disk: %w", err)
	}
	return atomicfile.Write(note, nil, 0o644)
}

// restart starts the services of a machine that is provisioned.
func (r *runner) restart(ctx context.Context) (ExitCode, error) {
	r.log = os.Stderr
	if err := r.startContainerd(ctx); err != nil {
		return codeOf(err), err
	}
	r.protectWireServer(ctx)
	if err := r.env.Services.Start(ctx, KubeletService); err != nil {
		return KubeletStart, fmt.Errorf("start kubelet: %w", err)
	}
	return Success, nil
}

// provision does what cse_main.sh does. Steps that do not need each other run at once; they are waited for
// in AKS's order, so that the first that AKS would have failed at decides the exit code. It returns the step that failed.
// What may end later than that it leaves to rest.
func (r *runner) provision(ctx context.Context) (step string, rest func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	end := func() {
		cancel()
		running.Wait()
	}
	// start runs a step as soon as the steps it needs are done.
	start := func(name string, fn func(context.Context) error, needs ...*task) *task {
		t := &task{name: name, done: make(chan struct{})}
		running.Go(func() {
			defer close(t.done)
			for _, n := range needs {
				<-n.done
				if n.err != nil {
					t.err = fmt.Errorf("needs %s: %w", n.name, n.err)
					return
				}
			}
			t.err = r.step(ctx, name, fn)
		})
		return t
	}

	auth := authn.Anonymous
	metadata := start("AKS.CSE.fetchAndCacheIMDSMetadata", r.fetchMetadata)
	containerd := start("AKS.CSE.ensureContainerd", r.startContainerd)
	tasks := []*task{metadata}
	login := metadata
	if r.config.RegistryServer != "" {
		login = start("AKS.CSE.orasLogin.oras_login_with_kubelet_identity", func(ctx context.Context) (err error) {
			auth, err = r.login(ctx)
			return err
		}, metadata)
		tasks = append(tasks, login)
	}
	binaries := start("AKS.CSE.installKubeletAndKubectl", func(ctx context.Context) error { return r.installKubernetes(ctx, auth) }, login)
	outbound := start("AKS.CSE.outboundCheck", r.checkOutbound)
	lookup := start("AKS.CSE.apiserverNslookup", r.lookupAPIServer)
	connect := start("AKS.CSE.apiserverCurl", r.connectAPIServer, lookup)
	token := start("AKS.CSE.ensureKubelet.awaitBootstrapToken", r.awaitToken, connect)
	provider := start("AKS.CSE.installCredentialProvider", func(ctx context.Context) error { return r.installCredentialProvider(ctx, auth) }, login)
	var archive []byte
	pull := start("AKS.CSE.ensureKubelet.pullPodInfraContainerImage", func(ctx context.Context) (err error) {
		archive, err = r.pullSandboxImage(ctx, auth)
		return err
	}, login)
	load := start("AKS.CSE.ensureKubelet.importPodInfraContainerImage", func(ctx context.Context) error { return r.importSandboxImage(ctx, archive) }, pull, containerd)
	// After what the kubelet's start needs, which would be the later for it.
	cached := start("AKS.VHD.cachedImages", func(ctx context.Context) error { return r.pullCachedImages(ctx, auth) }, binaries, provider, load)
	// The binaries of a node without a registry are on AKS's image: what it meets first without a way out is the check.
	if r.config.RegistryServer == "" {
		tasks = append(tasks, outbound)
	}
	tasks = append(tasks, binaries, containerd, outbound, lookup, connect, provider, pull, load, token)
	for _, t := range tasks {
		<-t.done
		if t.err != nil {
			end()
			return t.name, func() {}, t.err
		}
	}
	const last = "AKS.CSE.ensureKubelet"
	if err := r.step(ctx, last, r.startKubelet); err != nil {
		end()
		return last, func() {}, err
	}
	return last, func() {
		r.awaitCachedImages(ctx, cached)
		end()
	}, nil
}

type task struct {
	name string
	done chan struct{}
	err  error
}

// step runs one step and records it as an event.
func (r *runner) step(ctx context.Context, name string, fn func(context.Context) error) error {
	event := Event{Step: name, Start: time.Now()}
	r.logf("%s: starts", name)
	err := fn(ctx)
	event.End = time.Now()
	event.Message = "Completed: " + name
	if err != nil {
		event.Message = fmt.Sprintf("Failed: %s: %v", name, err)
	}
	r.logf("%s: %s after %s", name, map[bool]string{true: "done", false: "failed"}[err == nil], event.End.Sub(event.Start).Round(time.Millisecond))
	data, marshalErr := event.marshal()
	if marshalErr != nil {
		return errors.Join(err, marshalErr)
	}
	path := r.path(fmt.Sprintf("/var/%s/%d-%s.json", EventsPath, event.End.UnixNano(), name))
	// Not synced: an event is for who watches, and eleven fsyncs would be felt.
	if writeErr := os.WriteFile(path, data, 0o644); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	return err
}

func (r *runner) logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A log that cannot be written must not fail a node.
	_, _ = fmt.Fprintf(r.log, "%s %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), fmt.Sprintf(format, args...))
}

// path is where the absolute path p is on this machine.
func (r *runner) path(p string) string { return filepath.Join(r.env.Root, p) }

// writeFiles writes files, with their directories.
func (r *runner) writeFiles(files map[string]string, mode os.FileMode) error {
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(r.path(path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(r.path(path), []byte(content), mode); err != nil {
			return err
		}
		// WriteFile keeps the mode of a file that an earlier run has left.
		if err := os.Chmod(r.path(path), mode); err != nil {
			return err
		}
	}
	return nil
}

// transport makes connections that are given up after p's time for one attempt.
func (r *runner) transport(p policy) *http.Transport {
	limit := r.connectTimeout(p)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return r.env.Dial(ctx, network, address)
		},
		TLSClientConfig:     tlsConfig(r.env.Roots),
		TLSHandshakeTimeout: max(limit, 5*time.Second),
		// A cache miss is answered only when the registry has begun to fetch from upstream.
		ResponseHeaderTimeout: time.Minute,
		ForceAttemptHTTP2:     true,
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	max  int
	data []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p...)
	if len(b.data) > 2*b.max {
		b.data = append([]byte(nil), b.data[len(b.data)-b.max:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	data := b.data
	if len(data) > b.max {
		data = data[len(data)-b.max:]
		if _, rest, found := bytes.Cut(data, []byte("\n")); found {
			data = rest // begin with a whole line
		}
	}
	return string(data)
}

// remove deletes what may be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
