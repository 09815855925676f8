// Package azurecli types the page about network isolated clusters of the Azure documentation as it is printed, at a
// terminal in `cloister shell`, with the unmodified Azure CLI, and then with `cloister az`. What comes of it is looked
// at with kubectl, in the registries' logs, and by sending packets.
//
// The page offers alternatives under one name; each is a run of its own here, with names of its own. What a run types
// beside the page's commands is what the page tells its reader to do in words.
package azurecli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/test/page"
	"github.com/cloister-dev/cloister/test/watchdog"
)

func TestMain(m *testing.M) {
	watchdog.Main()
	os.Exit(m.Run())
}

// installation is a Cloister of the tests' own.
type installation struct {
	program, dir, data, home string
	tmp                      string // az leaves files there, which go with the installation
	azureCLI                 string // root file system with the Azure CLI
	instance                 string
}

// newInstallation starts a Cloister, which the end of the test takes away with all that it has made.
func newInstallation(t *testing.T) *installation {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the walkthrough makes namespaces and containers: run it as root")
	}
	program, err := filepath.Abs("../../bin/cloister")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("the walkthrough runs the built program; run `make build` first: %v", err)
	}
	dir := t.TempDir()
	in := &installation{program: program, dir: dir, data: filepath.Join(dir, "data"), home: filepath.Join(dir, "home"), tmp: filepath.Join(dir, "tmp")}
	for _, d := range []string{in.home, in.tmp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "../e2e/reach")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build reach: %v\n%s", err, out)
	}
	// A run that is killed takes nothing down itself.
	dog, err := watchdog.Start()
	if err == nil {
		err = dog.Guard(program, in.data, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dog.Close(); err != nil {
			t.Errorf("the watchdog: %v", err)
		}
	})
	t.Cleanup(func() {
		if out, err := in.cloister("down", "--purge").CombinedOutput(); err != nil {
			t.Errorf("cloister down --purge: %v\n%s", err, out)
		} else if err := dog.Release(in.data); err != nil {
			t.Error(err)
		}
		if in.instance != "" {
			if _, err := os.Stat("/run/cloister-" + in.instance); err == nil {
				t.Errorf("/run/cloister-%s is left", in.instance)
			}
		}
	})
	if out, err := in.cloister("up").CombinedOutput(); err != nil {
		t.Fatalf("cloister up: %v\n%s", err, out)
	}
	in.instance = in.status(t).Instance
	return in
}

// useAzureCLI makes the root with the Azure CLI, where it is not there yet.
func (in *installation) useAzureCLI(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../hack/azure-cli")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("hack/azure-cli: %v", err)
	}
	in.azureCLI = strings.TrimSpace(string(out))
}

// env is a user's environment: no sudo, no proxies, a home of his own.
func (in *installation) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + in.home, "TMPDIR=" + in.tmp, "NO_COLOR=1", "LANG=C.UTF-8",
		"CLOISTER_DATA_DIR=" + in.data, "CLOISTER_CACHE_DIR=" + os.Getenv("CLOISTER_CACHE_DIR"),
	}
}

// cloister is a command on the installation, which ends when it hangs.
func (in *installation) cloister(args ...string) *exec.Cmd {
	cmd := exec.Command("timeout", append([]string{"--kill-after=10", "300", in.program}, args...)...)
	cmd.Dir, cmd.Env = in.home, in.env()
	return cmd
}

func (in *installation) status(t *testing.T) adminapi.Status {
	t.Helper()
	var st adminapi.Status
	out, err := in.cloister("status", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil {
		t.Fatalf("cloister status: %v\n%s", err, out)
	}
	return st
}

// workstation opens a terminal where az is the real one, or Cloister's own.
func (in *installation) workstation(t *testing.T, own bool) *terminal {
	t.Helper()
	bash := []string{"--", "bash", "--norc", "--noprofile", "--noediting"}
	args := append([]string{"shell", "--login", "--root", in.azureCLI}, bash...)
	env := in.env()
	if own {
		bin := filepath.Join(in.dir, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, "az"), []byte("#!/bin/sh\nexec "+in.program+" az \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		env[0] = "PATH=" + bin + ":" + os.Getenv("PATH")
		args = append([]string{"shell"}, bash...)
	}
	cmd := exec.Command(in.program, args...)
	cmd.Dir, cmd.Env = in.home, env
	return openTerminal(t, cmd)
}

// session is one run under way.
type session struct {
	*installation
	*terminal
	page page.Page
	vars map[string]string
	own  bool // az is Cloister's
	// applications counts the pods that a run has started.
	applications int
}

// kubectl runs on a jump box in the cluster's network.
func (s *session) kubectl(args ...string) string {
	s.t.Helper()
	args = append([]string{"shell", "--cluster", s.vars["RESOURCE_GROUP"] + "/" + s.vars["AKS_NAME"], "--", "kubectl"}, args...)
	var complaint bytes.Buffer
	cmd := s.cloister(args...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s%s", strings.Join(args[3:], " "), err, out, complaint.String())
	}
	return string(out)
}

// set gives the page's names their values.
func (s *session) set(name, value string) {
	s.vars[name] = value
	s.typed("export " + name + "=" + value)
}

// featureWait is longer than a registration takes.
const featureWait = time.Minute

// section types a section's commands, or of them those that begin with only. What the page has in angle brackets is
// replaced, and what its reader is told to do again for something else.
func (s *session) section(name, only string, replace ...string) {
	s.t.Helper()
	n := 0
	for _, line := range s.page[name] {
		if !strings.HasPrefix(line, only) {
			continue
		}
		n++
		line = strings.NewReplacer(replace...).Replace(line)
		shown := s.typed(line)
		switch {
		case strings.HasPrefix(line, "az feature show"):
			// "It takes a few minutes for the status to show Registered".
			for deadline := time.Now().Add(featureWait); !strings.Contains(shown, `"Registered"`); shown = s.typed(line) {
				if time.Now().After(deadline) {
					s.t.Fatalf("not registered after %v: %s", featureWait, shown)
				}
				time.Sleep(500 * time.Millisecond)
			}
		case strings.Contains(line, "--node-image-only"):
			// az returns before the pools are done.
			s.typed("az aks nodepool wait --updated --interval 3 --resource-group ${RESOURCE_GROUP} --cluster-name ${AKS_NAME} --name nodepool1")
		}
	}
	if n == 0 {
		s.t.Fatalf("the page's section %q has no command %q", name, only)
	}
}

// run is a way through the page.
type run struct {
	name  string
	steps []step
}

// step is a section to type, or something to do or look at.
type step struct {
	section string
	only    string   // how those of its commands begin that are typed
	replace []string // pairs
	do      func(*session)
}

func TestWalkthrough(t *testing.T) {
	in := newInstallation(t)
	for _, az := range []struct {
		name string
		own  bool
	}{{"azure-cli", false}, {"cloister-az", true}} {
		t.Run(az.name, func(t *testing.T) {
			if !az.own {
				in.useAzureCLI(t)
			}
			for i, r := range runs {
				t.Run(r.name, func(t *testing.T) { in.walk(t, r, az.own, i) })
			}
		})
	}
}

func (in *installation) walk(t *testing.T, r run, own bool, number int) {
	began := time.Now()
	p, err := page.Read()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{installation: in, terminal: in.workstation(t, own), page: p, vars: map[string]string{}, own: own}
	defer s.close()
	defer func() {
		t.Logf("the run took %.0f s", time.Since(began).Seconds())
		if t.Failed() {
			s.autopsy()
		}
		if status, text := s.try("az group delete --name ${RESOURCE_GROUP} --yes"); status != 0 {
			t.Errorf("az group delete: %s", text)
		}
	}()
	name := r.name
	if own {
		name += "-own"
	}
	for _, v := range [][2]string{
		{"RESOURCE_GROUP", "rg-" + name}, {"LOCATION", "eastus"}, {"AKS_NAME", "aks-" + name}, {"VNET_NAME", "vnet-" + name},
		{"AKS_SUBNET_NAME", "nodes"}, {"ACR_SUBNET_NAME", "registry"}, {"APISERVER_SUBNET_NAME", "apiserver"},
		{"REGISTRY_NAME", "walk" + strings.ReplaceAll(name, "-", "")}, {"CLUSTER_IDENTITY_NAME", "control-plane"}, {"KUBELET_IDENTITY_NAME", "kubelet"},
	} {
		s.set(v[0], v[1])
	}
	for _, step := range r.steps {
		if step.section != "" {
			s.section(step.section, step.only, step.replace...)
		}
		if step.do != nil {
			step.do(s)
		}
	}
}

// autopsy shows what a reader of a failed run wants to see.
func (s *session) autopsy() {
	cluster := s.vars["RESOURCE_GROUP"] + "/" + s.vars["AKS_NAME"]
	for _, args := range [][]string{
		{"status"}, {"timeline", cluster},
		{"shell", "--cluster", cluster, "--", "kubectl", "--request-timeout=5s", "get", "nodes,pods", "-A", "-o", "wide"},
		{"shell", "--cluster", cluster, "--", "kubectl", "--request-timeout=5s", "get", "events", "-A"},
	} {
		out, _ := s.cloister(args...).CombinedOutput()
		s.t.Logf("---- cloister %s ----\n%s", strings.Join(args, " "), tail(out, 40))
	}
	logs, _ := filepath.Glob(filepath.Join(s.data, "log", "*.log"))
	for _, path := range logs {
		data, _ := os.ReadFile(path)
		s.t.Logf("---- %s ----\n%s", filepath.Base(path), tail(data, 15))
	}
}

func tail(text []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}

// reach tries the parties outside from every node, with the node's own resolver, and returns how many tries were answered.
func (s *session) reach() (answered, tries int) {
	s.t.Helper()
	nodes, _ := filepath.Glob("/run/cloister-" + s.instance + "/ns/node-*.net")
	if len(nodes) == 0 {
		s.t.Fatal("there is no node")
	}
	resolver := filepath.Join(s.dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 168.63.129.16\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	for _, ns := range nodes {
		out, err := exec.Command("nsenter", "--net="+ns, "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolver,
			filepath.Join(s.dir, "reach"), "tcp/198.18.0.10:443", "tcp/198.18.0.11:443", "name/mcr.microsoft.com:443", "name/management.azure.com:443").CombinedOutput()
		if err != nil {
			s.t.Fatalf("reach: %v\n%s", err, out)
		}
		answered += bytes.Count(out, []byte(" answered\n"))
		tries += bytes.Count(out, []byte("\n"))
	}
	return answered, tries
}

func (s *session) packets() uint64 {
	var n uint64
	for _, c := range s.status(s.t).Public {
		n += c.Packets
	}
	return n
}

// registryOfNodes is the one that every node was provisioned with.
func (s *session) registryOfNodes() string {
	s.t.Helper()
	found := ""
	for _, c := range s.status(s.t).Clusters {
		if c.Name != s.vars["AKS_NAME"] {
			continue
		}
		for i, n := range c.Nodes {
			host, _, _ := strings.Cut(n.Registry, "/")
			if i > 0 && host != found {
				s.t.Fatalf("nodes were provisioned with %q and with %q", found, host)
			}
			found = host
		}
	}
	return found
}

// served counts the manifests of the sample application that a registry has handed out, by what its process logs.
func (s *session) served(process, host string) int {
	out, err := s.cloister("logs", process).Output()
	if err != nil {
		s.t.Fatalf("cloister logs %s: %v", process, err)
	}
	pattern := regexp.MustCompile(`host=` + regexp.QuoteMeta(host) + ` .*path=\S*/azuredocs/aks-helloworld/manifests/\S+ status=200`)
	return len(pattern.FindAll(out, -1))
}

func (s *session) login(name string) string { return fmt.Sprintf("%s.azurecr.io", name) }
