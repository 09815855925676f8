package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

func (g *globals) shell() *cobra.Command {
	var cluster, vnet string
	c := &cobra.Command{
		Use:     "shell [--cluster RG/NAME | --vnet ID] [-- CMD…]",
		Short:   "Run a command on a workstation, or on a jump box inside a VNet",
		Long:    "Runs a command, or your shell, in network and mount namespaces of its own. Without flags it is a\nworkstation to which the public Azure names are Cloister's. With --cluster or --vnet it is a jump box\nwith an address in that VNet, where private names resolve and a private cluster answers.",
		Example: "  cloister shell --cluster demo/demo -- kubectl get pods -A",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cluster != "" && vnet != "" {
				return errors.New("--cluster and --vnet exclude each other")
			}
			return g.runShell(cmd.Context(), cluster, vnet, args)
		},
	}
	c.Flags().StringVar(&cluster, "cluster", "", "jump box in the VNet of a cluster, RESOURCE-GROUP/NAME or resource ID; kubectl is set up")
	c.Flags().StringVar(&vnet, "vnet", "", "jump box in a virtual network, by resource ID")
	return c
}

func (g *globals) runShell(ctx context.Context, cluster, vnet string, args []string) error {
	c, _, err := g.connect()
	if err != nil {
		return err
	}
	token, err := c.token(ctx)
	if err != nil {
		return err
	}
	request := adminapi.SessionRequest{Network: vnet}
	if cluster != "" {
		if request.Cluster, err = clusterID(cluster, token.SubscriptionID); err != nil {
			return err
		}
	}
	// The session lives as long as this response is read.
	resp, err := c.open(ctx, http.MethodPost, "/cloister/v1/sessions", nil, request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the service ended the session: %w", err)
	}
	var s adminapi.Session
	if err := json.Unmarshal(line, &s); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cloister-shell-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	spec, err := writeSession(dir, s)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{envOr("SHELL", "/bin/sh")}
	}
	return enter(spec, args)
}

// clusterID is the resource ID meant by RG/NAME.
func clusterID(s, subscription string) (string, error) {
	if strings.HasPrefix(s, "/") {
		id, err := resourceid.Parse(s)
		if err == nil && !id.Is("Microsoft.ContainerService/managedClusters") {
			err = fmt.Errorf("%s is not the resource ID of a cluster", s)
		}
		return s, err
	}
	group, name, ok := strings.Cut(s, "/")
	if !ok || group == "" || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("--cluster %q is neither RESOURCE-GROUP/NAME nor a resource ID", s)
	}
	return resourceid.Group(subscription, group).Resource("Microsoft.ContainerService/managedClusters", name).String(), nil
}

// SessionSpec is what `cloister shell-init` needs to set up a session's namespaces; it is a file, so that
// nothing of it is on a command line.
type SessionSpec struct {
	NetNS      string            `json:"netns"`
	ResolvConf string            `json:"resolvConf"`
	Hosts      string            `json:"hosts"`
	CABundle   string            `json:"caBundle"`
	Env        map[string]string `json:"env"`
	Path       []string          `json:"path"`
}

// systemBundles are where distributions keep the bundle of trusted authorities.
var systemBundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

// writeSession writes a session's files and returns the path of its SessionSpec.
func writeSession(dir string, s adminapi.Session) (string, error) {
	bundle := []byte(s.CABundle)
	for _, p := range systemBundles {
		if data, err := os.ReadFile(p); err == nil {
			bundle = append(append(data, '\n'), bundle...)
			break
		}
	}
	host, _ := os.Hostname()
	files := map[string][]byte{
		"resolv.conf": []byte("nameserver " + s.Nameserver + "\noptions timeout:2 attempts:2\n"),
		"hosts":       []byte("127.0.0.1 localhost\n127.0.1.1 " + host + "\n::1 localhost\n"),
		"ca.pem":      bundle,
	}
	spec := SessionSpec{
		NetNS: s.NetNS, ResolvConf: filepath.Join(dir, "resolv.conf"), Hosts: filepath.Join(dir, "hosts"),
		CABundle: filepath.Join(dir, "ca.pem"), Path: s.Path, Env: map[string]string{},
	}
	for k, v := range s.Env {
		spec.Env[k] = v
	}
	for _, k := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} {
		spec.Env[k] = spec.CABundle
	}
	if s.Kubeconfig != "" {
		files["kubeconfig"] = []byte(s.Kubeconfig)
		spec.Env["KUBECONFIG"] = filepath.Join(dir, "kubeconfig")
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"resolv.conf", "hosts", "ca.pem"} { // read by programs of any user
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "session.json")
	return path, os.WriteFile(path, data, 0o600)
}

// enter runs the command as a child of `cloister shell-init`, and passes its exit status on.
func enter(spec string, args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, append([]string{"shell-init", spec, "--"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// An interrupt is the command's to answer; the terminal sends it to both.
	signal.Ignore(os.Interrupt, syscall.SIGQUIT)
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return ExitStatus(max(exit.ExitCode(), 1))
	}
	return err
}

// ExitStatus is an error that only carries the status to exit with; what went wrong was said already.
type ExitStatus int

func (e ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
