package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

func (g *globals) env() *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print what makes the Azure CLI of your own shell speak to Cloister",
		Long: `Prints commands for your shell that make the Azure CLI outside of ` + "`cloister shell`" + ` speak to Cloister, as a cloud
of its own name. The service must listen on the loopback interface: cloister up --listen 127.0.0.1:8443.

They set AZURE_CONFIG_DIR and REQUESTS_CA_BUNDLE to a directory below ~/.local/share/cloister, so that your
~/.azure is not touched, and the first time register the cloud and log in. Registries and private clusters
are not reached from there; use ` + "`cloister shell`" + ` for them.`,
		Example: "  eval \"$(cloister env)\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.runEnv(cmd)
		},
	}
}

func (g *globals) runEnv(cmd *cobra.Command) error {
	c, l, err := g.connect()
	if err != nil {
		return err
	}
	status, err := c.status(cmd.Context())
	if err != nil {
		return err
	}
	if status.Listen == "" {
		return errors.New("Cloister does not listen on the loopback interface; let it with `cloister up --listen 127.0.0.1:8443`, or use `cloister shell`")
	}
	var who adminapi.Credentials
	if err := c.do(cmd.Context(), http.MethodGet, "/cloister/v1/credentials", nil, nil, &who); err != nil {
		return err
	}
	account, err := caller()
	if err != nil {
		return err
	}
	dir := filepath.Join(account.Home, ".local/share/cloister", l.Instance+"-"+status.Listen[strings.LastIndex(status.Listen, ":")+1:])
	if err := writeEnv(dir, account, who); err != nil {
		return err
	}
	fmt.Fprint(g.Stdout(), envScript(dir, status.Listen, who.Login))
	return nil
}

// writeEnv writes what the commands name: authorities, the secret, and the directory of az.
func writeEnv(dir string, a Account, who adminapi.Credentials) error {
	// The directories that are made on the way are the user's too.
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(filepath.Join(dir, "azure"), 0o700); err != nil {
		return err
	}
	made = append(made, filepath.Join(dir, "azure"))
	for name, data := range map[string][]byte{"ca.pem": withSystemBundle([]byte(who.CABundle)), "secret": []byte(who.Login.ClientSecret)} {
		path := filepath.Join(dir, name)
		if err := atomicfile.Write(path, data, 0o600); err != nil {
			return err
		}
		made = append(made, path)
	}
	for _, path := range made {
		if err := os.Chown(path, a.UID, a.GID); err != nil {
			return err
		}
	}
	return nil
}

// envScript is what the shell is to do. The secret stays in its file: az reads it from there.
func envScript(dir, listen string, l adminapi.Login) string {
	q := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	return `# The Azure CLI of this shell at Cloister: eval "$(cloister env)"
export AZURE_CONFIG_DIR=` + q(filepath.Join(dir, "azure")) + `
export REQUESTS_CA_BUNDLE=` + q(filepath.Join(dir, "ca.pem")) + `
export AZURE_CORE_COLLECT_TELEMETRY=false
export NO_PROXY="${NO_PROXY:+$NO_PROXY,}localhost,127.0.0.1"
# The first time:
[ -e "$AZURE_CONFIG_DIR/azureProfile.json" ] || {
	az cloud register --name Cloister --endpoint-resource-manager https://` + listen + ` &&
	az cloud set --name Cloister &&
	az login --service-principal --username ` + l.ClientID + ` --password @` + q(filepath.Join(dir, "secret")) + ` --tenant ` + l.TenantID + ` --output none
}
`
}
