package bootstrap_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
)

// TestMain lets the tests run at once whatever the machine: they wait, they do not compute.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "64")
	os.Exit(m.Run())
}

var update = flag.Bool("update", false, "write the golden files")

func TestProvision(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	code, err := bootstrap.Run(t.Context(), w.config(), w.environment())
	if code != bootstrap.Success || err != nil {
		t.Fatalf("exit code %d: %v\n%s", code, err, w.read("/var/"+bootstrap.LogPath))
	}
	for path, want := range map[string]string{
		"/opt/bin/kubelet": "kubelet binary",
		"/opt/bin/kubectl": "kubectl binary",
		"/var/lib/kubelet/credential-provider/acr-credential-provider": "provider binary",
		// Its exact text is AKS's: there is no server line.
		"/etc/containerd/certs.d/mcr.microsoft.com/hosts.toml": `[host."https://testregistry.azurecr.io/v2/aks-managed-repository"]
  capabilities = ["pull", "resolve"]
  override_path = true
`,
		"/opt/azure/outbound-check-skipped": "",
		"/var/run/outbound-check-skipped":   "",
	} {
		if got := w.read(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if !slices.Equal(w.started, []string{"containerd", "kubelet"}) || !slices.Equal(w.imported, []string{"mcr.microsoft.com/oss/kubernetes/pause:3.6"}) {
		t.Errorf("started %q, imported %q", w.started, w.imported)
	}
	for _, path := range []string{"/var/lib/kubelet/bootstrap-kubeconfig", "/etc/oras/config.yaml", "/etc/kubernetes/azure.json"} {
		info, err := os.Stat(filepath.Join(w.root, path))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds a secret: %v %v", path, info, err)
		}
	}
	// Nothing but the bootstrap registry may have been asked for anything.
	if strings.Contains(strings.Join(w.asked, " "), mcr) {
		t.Errorf("asked %q", w.asked)
	}
	result := w.result()
	if !result.Done || result.ExitCode != 0 || result.Duration <= 0 || !strings.Contains(result.Output, "provisioning done") {
		t.Errorf("result %+v", result)
	}
	events, err := filepath.Glob(filepath.Join(w.root, "var", bootstrap.EventsPath, "*.json"))
	if err != nil || len(events) < 9 {
		t.Errorf("%d events: %v", len(events), err)
	}

	// A later start of the same machine starts its services and asks nobody for anything.
	w.started, w.asked = nil, nil
	code, err = bootstrap.Run(t.Context(), w.config(), w.environment())
	if code != bootstrap.Success || err != nil {
		t.Fatalf("restart: exit code %d: %v", code, err)
	}
	if !slices.Equal(w.started, []string{"containerd", "kubelet"}) || len(w.asked) > 0 {
		t.Errorf("restart: started %q, asked %q", w.started, w.asked)
	}
}

// TestGolden holds the files that AKS's agents read.
func TestGolden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.config()
	w.hosts[apiName] = w.hosts["10.224.0.9"]
	if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.Success {
		t.Fatalf("exit code %d: %v", code, err)
	}
	for _, path := range []string{
		"/etc/default/kubeletconfig.json", "/etc/default/kubelet", "/etc/kubernetes/azure.json", "/etc/containerd/config.toml",
		"/etc/cni/net.d/10-azure.conflist", "/var/lib/kubelet/credential-provider-config.yaml",
	} {
		golden := filepath.Join("testdata", filepath.Base(path))
		got := w.read(path)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestAnonymousPull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.anonymous, w.identity = true, http.StatusBadRequest // no identity is needed
	config := w.config()
	config.RegistryServer = acr // the walkthrough's rule has no prefix
	if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.Success {
		t.Fatalf("exit code %d: %v", code, err)
	}
	if got := w.read("/etc/containerd/certs.d/mcr.microsoft.com/hosts.toml"); !strings.HasPrefix(got, "[host.\"https://testregistry.azurecr.io/v2\"]\n") {
		t.Errorf("hosts.toml: %s", got)
	}
	if slices.Contains(w.asked, acr+"/oauth2/exchange") {
		t.Errorf("a token was exchanged though the registry serves everyone")
	}
}

func TestDirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	delete(w.hosts, acr)
	config := w.config()
	config.RegistryServer, config.OutboundURL = "", "https://mcr.microsoft.com/v2/"
	if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.Success {
		t.Fatalf("exit code %d: %v", code, err)
	}
	if _, err := os.Stat(filepath.Join(w.root, "/etc/containerd/certs.d/mcr.microsoft.com/hosts.toml")); err == nil {
		t.Error("a node without a bootstrap registry has a mirror")
	}
	if strings.Contains(w.read("/var/lib/kubelet/credential-provider-config.yaml"), "registry-mirror") {
		t.Error("a node without a bootstrap registry asks for a mirror's credentials")
	}
}

// TestExitCodes makes each failure by its cause.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	// A server that refuses is waited for, unless the waits are a given part of Azure's.
	certain := func(c *bootstrap.Config) { c.RetryScale = 1.0 / 500 }
	ip := func(c *bootstrap.Config) { c.APIServerName = "10.224.0.9"; certain(c) }
	direct := func(c *bootstrap.Config) { c.RegistryServer, c.OutboundURL = "", "https://mcr.microsoft.com/v2/" }
	otherCA := newWorld(t).ca
	for _, tc := range []struct {
		name  string
		code  bootstrap.ExitCode
		cause func(*world)
		set   func(*bootstrap.Config)
		says  string // in the error
	}{
		{name: "IMDS silent", code: 234, cause: func(w *world) { w.hosts[imds] = blackhole }},
		{name: "registry's record missing", code: 211, cause: func(w *world) { delete(w.hosts, acr) }, says: "no such host"},
		{name: "registry's packets dropped", code: 211, cause: func(w *world) { w.hosts[acr] = blackhole }},
		{name: "registry's public access off", code: 211, cause: func(w *world) { w.forbidden = true }, says: "403"},
		{name: "kubelet identity without AcrPull", code: 212, cause: func(w *world) { w.actions = `[]` }, says: "AcrPull"},
		{name: "kubelet identity not on the machine", code: 212, cause: func(w *world) { w.identity = http.StatusBadRequest }, says: "Identity not found"},
		{name: "IMDS silent about tokens", code: 210, cause: func(w *world) { w.identity = 0 }},
		{name: "exchange refused", code: 212, cause: func(w *world) { w.exchange = `{"errors":[{"code":"UNAUTHORIZED"}]}` }},
		{name: "cache rule missing", code: 207, cause: func(w *world) { w.missing = []string{kubernetesNode, provider, pause} }, says: "MANIFEST_UNKNOWN"},
		{name: "data endpoint's record missing", code: 207, cause: func(w *world) { delete(w.hosts, data) }, says: data},
		{name: "credential provider missing", code: 208, cause: func(w *world) { w.missing = []string{provider} }},
		{name: "pause image missing", code: 233, cause: func(w *world) { w.missing = []string{pause} }},
		{name: "tarball broken", code: 204, cause: func(w *world) { w.broken = []string{kubernetesNode} }},
		{name: "containerd does not start", code: 28, cause: func(w *world) { w.services["containerd"] = errors.New("exited") }},
		{name: "no egress", code: 50, cause: func(w *world) { w.hosts[mcr] = blackhole }, set: func(c *bootstrap.Config) { c.OutboundURL = "https://mcr.microsoft.com/v2/" }},
		{name: "API server's record missing", code: 53, cause: func(w *world) { delete(w.hosts, apiName) }},
		{name: "API server's record missing in custom DNS", code: 52, cause: func(w *world) {
			delete(w.hosts, apiName)
			w.write("/etc/resolv.conf", "nameserver 10.9.0.4\n")
		}},
		{name: "API server refuses", code: 51, cause: func(w *world) { w.hosts[apiName] = refused }, set: certain, says: "Connection refused"},
		{name: "API server's packets dropped", code: 51, cause: func(w *world) { w.hosts[apiName] = blackhole }, says: "Connection timed out"},
		{name: "API server with another certificate", code: 51, cause: func(*world) {}, set: func(c *bootstrap.Config) { c.ClusterCA = otherCA }, says: "TLS handshake failed"},
		{name: "API server by address refuses", code: 51, cause: func(w *world) { w.hosts["10.224.0.9"] = refused }, set: ip},
		{name: "kubelet does not start", code: 34, cause: func(w *world) { w.services["kubelet"] = errors.New("exited") }},
		{name: "direct without egress", code: 50, cause: func(w *world) { w.hosts[mcr] = blackhole }, set: direct},
		{name: "direct without binaries", code: 31, cause: func(w *world) { w.missing = []string{kubernetesNode} }, set: direct},
		{name: "direct without pause image", code: 33, cause: func(w *world) { w.missing = []string{pause} }, set: direct},
		{name: "direct without credential provider", code: 205, cause: func(w *world) { w.missing = []string{provider} }, set: direct},
		// What AKS would meet first decides.
		{name: "registry before API server", code: 207, cause: func(w *world) {
			w.missing = []string{kubernetesNode}
			delete(w.hosts, apiName)
		}},
		{name: "API server before pause image", code: 53, cause: func(w *world) {
			w.missing = []string{pause}
			delete(w.hosts, apiName)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := w.config()
			if tc.set != nil {
				tc.set(&config)
			}
			tc.cause(w)
			start := time.Now()
			code, err := bootstrap.Run(t.Context(), config, w.environment())
			if code != tc.code {
				t.Fatalf("exit code %d, want %d: %v\n%s", code, tc.code, err, w.read("/var/"+bootstrap.LogPath))
			}
			if took := time.Since(start); took > 12*time.Second {
				t.Errorf("a failure that was certain showed after %s", took)
			}
			result := w.result()
			if result.ExitCode != tc.code || result.Step == "" || !strings.Contains(result.Error, tc.says) {
				t.Errorf("result %+v, which should say %q", result, tc.says)
			}
			if bootstrap.Describe(tc.code).Hint == "" || !strings.Contains(result.Output, bootstrap.Describe(tc.code).Name) {
				t.Errorf("no explanation in %q", result.Output)
			}
			if code != 34 && slices.Contains(w.started, "kubelet") {
				t.Error("the kubelet was started all the same")
			}
		})
	}
}

// TestMending adds what is missing while the node retries.
func TestMending(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(w *world, address string){
		acr:     func(w *world, address string) { w.hosts[acr] = address },
		data:    func(w *world, address string) { w.hosts[data] = address },
		apiName: func(w *world, address string) { w.hosts[apiName] = address },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			address := w.hosts[name]
			delete(w.hosts, name)
			time.AfterFunc(1500*time.Millisecond, func() { w.do(func() { mend(w, address) }) })
			start := time.Now()
			if code, err := bootstrap.Run(t.Context(), w.config(), w.environment()); code != bootstrap.Success {
				t.Fatalf("exit code %d: %v", code, err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("the node was provisioned only after %s", took)
			}
		})
	}
}

// TestSlowControlPlane has a node that is quicker than its API server by more than a network would be given.
func TestSlowControlPlane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.hosts[apiName]
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	w.hosts[apiName] = refused                                                                         // no process listens yet
	time.AfterFunc(9*time.Second, func() { w.do(func() { w.hosts[apiName] = mute.Addr().String() }) }) // it listens, but is busy
	time.AfterFunc(13*time.Second, func() { w.do(func() { w.hosts[apiName] = address }) })
	if code, err := bootstrap.Run(t.Context(), w.config(), w.environment()); code != bootstrap.Success {
		t.Fatalf("exit code %d: %v", code, err)
	}
}

// TestTokenNotKnownYet holds that the kubelet is started when the API server knows its token, and not refused.
func TestTokenNotKnownYet(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		strangers, left int
		scale           float64
	}{"late": {10, 0, 0}, "never": {1 << 20, 1, 0.1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.strangers = tc.strangers
			config := w.config()
			config.RetryScale = tc.scale
			if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.Success {
				t.Fatalf("exit code %d: %v", code, err)
			}
			if (w.strangers > 0) != (tc.left > 0) || !slices.Contains(w.started, "kubelet") {
				t.Errorf("the token would be refused %d times more when the kubelet starts; started %q", w.strangers, w.started)
			}
		})
	}
}

// TestCachedImages has the images that every node runs pulled before the kubelet wants them, and holds that a node
// is provisioned without, too.
func TestCachedImages(t *testing.T) {
	t.Parallel()
	for name, pull := range map[string]func(context.Context) error{
		"there":   nil,
		"missing": func(context.Context) error { return errors.New("not found") },
		"slow":    func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.pull = pull
			config := w.config()
			config.RetryScale = 0.1
			config.CachedImages = []string{"mcr.microsoft.com/oss/kubernetes/kube-proxy:v1.30.3"}
			if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.Success {
				t.Fatalf("exit code %d: %v", code, err)
			}
			if want := []string{config.CachedImages[0] + " as 00000000-0000-0000-0000-000000000000, token"}; !slices.Equal(w.pulled, want) {
				t.Errorf("pulled %q, want %q", w.pulled, want)
			}
			if !slices.Contains(w.started, "kubelet") {
				t.Errorf("started %q", w.started)
			}
		})
	}
}

// TestAgain provisions after an interruption and after a failure.
func TestAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.hosts[apiName]
	w.hosts[apiName] = blackhole
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if code, _ := bootstrap.Run(ctx, w.config(), w.environment()); code == bootstrap.Success {
		t.Fatal("an interrupted run says success")
	}
	if _, err := os.Stat(filepath.Join(w.root, "var", bootstrap.ResultPath)); err == nil {
		t.Fatal("an interrupted run left a result")
	}
	w.hosts[apiName] = address
	if code, err := bootstrap.Run(t.Context(), w.config(), w.environment()); code != bootstrap.Success {
		t.Fatalf("exit code %d: %v", code, err)
	}
}

func TestBadLabelsNeverReachTheShell(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.config()
	config.Kubelet.Labels["x"] = "$(reboot)"
	if code, err := bootstrap.Run(t.Context(), config, w.environment()); code != bootstrap.KubeletStart {
		t.Fatalf("exit code %d: %v", code, err)
	}
}

func TestSplitLabels(t *testing.T) {
	kubelet, rest := bootstrap.SplitLabels(map[string]string{
		"agentpool": "a", "kubernetes.azure.com/role": "agent", "node.kubernetes.io/instance-type": "s", "topology.kubernetes.io/region": "r",
		"kubernetes.io/role": "agent", "node-role.kubernetes.io/agent": "",
	})
	if len(kubelet) != 4 || len(rest) != 2 || rest["kubernetes.io/role"] != "agent" {
		t.Errorf("kubelet %v, control plane %v", kubelet, rest)
	}
}

func TestParseResultDistrustsTheNode(t *testing.T) {
	for _, text := range []string{"", "{", `{"ExitCode":"99999"}`, `{"ExitCode":"0","ExecDuration":"x"}`} {
		if _, err := bootstrap.ParseResult([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}
