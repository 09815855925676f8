package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

func (g *globals) shell() *cobra.Command {
	var o shellOptions
	c := &cobra.Command{
		Use:     "shell [--login] [--root DIR] [--cluster RG/NAME | --vnet ID | --nic ID [--identity ID]…] [-- CMD…]",
		Short:   "Run a command on a workstation, or on a jump box inside a VNet",
		Long:    shellHelp,
		Example: "  cloister shell --login -- az group list\n  cloister shell --cluster demo/demo -- kubectl get pods -A",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.cluster != "" && o.vnet != "" || o.nic != "" && o.cluster+o.vnet != "" {
				return errors.New("--cluster, --vnet and --nic exclude each other")
			}
			if len(o.identities) > 0 && o.workstation() {
				return errors.New("--identity is for jump boxes: give --vnet, --cluster or --nic as well")
			}
			if o.root != "" {
				var err error
				if o.root, err = filepath.Abs(o.root); err != nil {
					return err
				}
			}
			return g.runShell(cmd.Context(), o, args)
		},
	}
	c.Flags().BoolVar(&o.login, "login", false, "set AZURE_… and ARM_… to the local administrator's, and log az in")
	c.Flags().StringVar(&o.root, "root", "", "use the programs of another root file system, which is not written to; /tmp and your home stay")
	c.Flags().StringVar(&o.cluster, "cluster", "", "jump box in the VNet of a cluster, RESOURCE-GROUP/NAME or resource ID; kubectl is set up")
	c.Flags().StringVar(&o.vnet, "vnet", "", "jump box in a virtual network, by resource ID")
	c.Flags().StringVar(&o.nic, "nic", "", "jump box behind a network interface, by resource ID: its addresses, security group and ways out")
	c.Flags().StringArrayVar(&o.identities, "identity", nil, "user-assigned managed identity of the jump box, by resource ID; can be repeated")
	return c
}

const shellHelp = `Runs a command, or your shell, in network and mount namespaces of its own. Without --cluster, --vnet and --nic it is a
workstation to which the public Azure names are Cloister's, and from which nothing else can be reached. With
one of them it is a jump box with an address in that VNet, where private names resolve and a private cluster
answers. It has the managed identities that --identity gives it, for az login --identity; without, none.

Your directory, programs and (by sudo) user are your own. az has a directory of its own for each installation
(AZURE_CONFIG_DIR). Where you have no ~/.ssh/id_rsa.pub, which az wants, a throw-away key is seen in its
place; what is written to ~/.ssh then is gone afterwards.`

type shellOptions struct {
	cluster, vnet, nic string
	identities         []string
	root               string
	login              bool
}

func (o shellOptions) workstation() bool { return o.cluster+o.vnet+o.nic == "" }

func (g *globals) runShell(ctx context.Context, o shellOptions, args []string) error {
	workstation := o.workstation()
	c, _, err := g.connect()
	if err != nil {
		return err
	}
	account, err := caller()
	if err != nil {
		return err
	}
	token, err := c.token(ctx)
	if err != nil {
		return err
	}
	request := adminapi.SessionRequest{Network: o.vnet, Interface: o.nic, Identities: o.identities, Login: o.login}
	if o.cluster != "" {
		if request.Cluster, err = clusterID(o.cluster, token.SubscriptionID); err != nil {
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
	dir, err := os.MkdirTemp(account.tempDir(), "cloister-shell-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	desk, err := desk(g.dataDir, account)
	if err != nil {
		return err
	}
	spec := SessionSpec{Account: account, Root: o.root, Azure: filepath.Join(desk, "azure"), Login: s.Login != nil && workstation}
	if err := writeSession(dir, s, &spec); err != nil {
		return err
	}
	if workstation {
		end, err := lendSSHKey(dir, desk, account)
		defer end()
		if err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "session.json")
	if err := atomicfile.WriteJSON(path, spec, 0o600); err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{account.Shell}
	}
	return enter(path, args)
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
	Account    Account           `json:"account"`
	Root       string            `json:"root,omitempty"` // of another file system to run in
	Azure      string            `json:"azure"`          // what az remembers; bound into the session
	Login      bool              `json:"login"`          // log az in
	ResolvConf string            `json:"resolvConf"`
	Hosts      string            `json:"hosts"`
	CABundle   string            `json:"caBundle"`
	Env        map[string]string `json:"env"`
	Path       []string          `json:"path"`
}

// systemBundles are where distributions keep the bundle of trusted authorities.
var systemBundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

// withSystemBundle adds the authorities to those that this machine trusts.
func withSystemBundle(authorities []byte) []byte {
	for _, p := range systemBundles {
		if data, err := os.ReadFile(p); err == nil {
			return slices.Concat(data, []byte("\n"), authorities)
		}
	}
	return authorities
}

// writeSession writes a session's files and completes its SessionSpec.
func writeSession(dir string, s adminapi.Session, spec *SessionSpec) error {
	bundle := withSystemBundle([]byte(s.CABundle))
	host, _ := os.Hostname()
	files := map[string][]byte{
		"resolv.conf": []byte("nameserver " + strings.Join(s.Nameservers, "\nnameserver ") + "\noptions timeout:2 attempts:2\n"),
		"hosts":       []byte("127.0.0.1 localhost\n127.0.1.1 " + host + "\n::1 localhost\n"),
		"ca.pem":      bundle,
	}
	spec.NetNS, spec.ResolvConf, spec.Hosts = s.NetNS, filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	spec.CABundle, spec.Path, spec.Env = filepath.Join(dir, "ca.pem"), s.Path, map[string]string{}
	maps.Copy(spec.Env, s.Env)
	if temp := spec.Account.tempDir(); temp != os.TempDir() {
		spec.Env["TMPDIR"] = temp
	}
	if s.Login != nil {
		maps.Copy(spec.Env, loginEnv(s.Login))
	}
	maps.Copy(spec.Env, azEnv(filepath.Join(dir, "azure")))
	if err := os.Mkdir(filepath.Join(dir, "azure"), 0o700); err != nil {
		return err
	}
	for _, k := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} {
		spec.Env[k] = spec.CABundle
	}
	if s.Kubeconfig != "" {
		files["kubeconfig"] = []byte(s.Kubeconfig)
		spec.Env["KUBECONFIG"] = filepath.Join(dir, "kubeconfig")
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
		if err := os.Chown(path, spec.Account.UID, spec.Account.GID); err != nil {
			return err
		}
	}
	for _, name := range []string{"resolv.conf", "hosts", "ca.pem"} { // read by programs of any user
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o711)
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
