package azurecli

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// deviceCode is what az shows to somebody who logs in on another machine.
var deviceCode = regexp.MustCompile(`open the page (https://\S+) and enter the code (\w+)`)

// TestLogin logs the real CLI in in the ways it has, each from nothing.
func TestLogin(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	x := in.workstation(t, false)
	defer x.close()
	who := func(t *testing.T, want string) {
		t.Helper()
		if got := x.typed("az account show --query user.type --output tsv"); !strings.HasSuffix(got, want) {
			t.Errorf("logged in as a %s, want a %s", got, want)
		}
		x.typed("az group list --output none")
		x.typed("az logout")
		if status, _ := x.try("az group list --output none"); status == 0 {
			t.Error("az still has a token after az logout")
		}
	}
	// `cloister shell --login` was before.
	who(t, "servicePrincipal")
	x.typed(`az login --service-principal --username "$AZURE_CLIENT_ID" --password "$AZURE_CLIENT_SECRET" --tenant "$AZURE_TENANT_ID" --output none`)
	who(t, "servicePrincipal")
	if status, shown := x.try(`az login --service-principal --username "$AZURE_CLIENT_ID" --password wrong --tenant "$AZURE_TENANT_ID" --output none`); status == 0 || !strings.Contains(shown, "AADSTS7000215") {
		t.Errorf("a wrong secret: %d %s", status, shown)
	}
	x.typed(`az login --username "$AZURE_USERNAME" --password "$AZURE_PASSWORD" --output none`)
	who(t, "user")

	// The page is on another machine: another workstation.
	approved := false
	x.watch = func(shown string) {
		m := deviceCode.FindStringSubmatch(shown)
		if m == nil || approved {
			return
		}
		approved = true
		form := fmt.Sprintf(`curl -sS --fail --data-urlencode user_code=%s --data-urlencode username="$AZURE_USERNAME" --data-urlencode password="$AZURE_PASSWORD" %s`, m[2], m[1])
		if out, err := in.cloister("shell", "--login", "--root", in.azureCLI, "--", "sh", "-c", form).CombinedOutput(); err != nil || !strings.Contains(string(out), "signed in") {
			t.Errorf("the page where the code is entered: %v\n%s", err, out)
		}
	}
	x.typed("az login --use-device-code --output none")
	x.watch = nil
	if !approved {
		t.Error("az showed no code")
	}
	who(t, "user")
}

// A workstation reaches nothing but Cloister, and az finds its way there by the public names alone.
func TestNothingElseIsReached(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	out, err := in.cloister("shell", "--root", in.azureCLI, "--", "sh", "-c", `
		getent hosts management.azure.com login.microsoftonline.com graph.microsoft.com aka.ms
		for name in www.example.com vault.azure.net nosuch.azurecr.io nosuch.hcp.eastus.azmk8s.io; do getent hosts $name && echo resolved $name; done
		ls -A ~/.ssh; grep -c . /proc/net/unix; touch /usr/x 2>&1; true`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	if strings.Contains(text, "resolved") || strings.Count(text, "198.18.0.") != 4 {
		t.Errorf("names:\n%s", text)
	}
	if !strings.Contains(text, "id_rsa.pub") || !strings.Contains(text, "Read-only file system") {
		t.Errorf("the workstation:\n%s", text)
	}
	if entries, err := os.ReadDir(in.home); err != nil || len(entries) > 0 {
		t.Errorf("left in the user's home: %v %v", entries, err)
	}
	// What the user has in ~/.ssh is there too, and his own key would be his own.
	ssh := filepath.Join(in.home, ".ssh")
	if err := os.MkdirAll(ssh, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ssh, "config"), []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = in.cloister("shell", "--", "sh", "-c", "cat ~/.ssh/config; wc -l <~/.ssh/id_rsa.pub").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "# mine\n1" {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(ssh, "id_rsa.pub"), []byte("my key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = in.cloister("shell", "--", "sh", "-c", "cat ~/.ssh/id_rsa.pub").CombinedOutput()
	if err != nil || string(out) != "my key\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// By sudo the commands of a session are the user's, with none of root's powers.
func TestSudo(t *testing.T) {
	in := newInstallation(t)
	if err := os.Chmod(in.tmp, 0o700); err != nil { // root's alone, as libpam-tmpdir makes it
		t.Fatal(err)
	}
	cmd := in.cloister("shell", "--login", "--", "sh", "-c", `id -u; id -g; echo "$HOME"; grep CapEff /proc/self/status; ls -ldn "$AZURE_CONFIG_DIR" | cut -d" " -f1,3; cat "$REQUESTS_CA_BUNDLE" >/dev/null && echo trusts; test -n "$ARM_CLIENT_SECRET" && echo knows; cat /etc/shadow`)
	cmd.Env = append(cmd.Env, "SUDO_UID=1", "SUDO_GID=1", "SUDO_USER=daemon") // a user of every Linux
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/etc/shadow: Permission denied") {
		t.Errorf("%v: the user can read what is root's:\n%s", err, out)
	}
	for _, want := range []string{"1\n1\n/usr/sbin\n", "CapEff:\t0000000000000000\n", "drwx------ 1\n", "trusts\n", "knows\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

// Outside of a workstation, in the host's own shell, Cloister is a cloud of its own name.
func TestCloudOfItsOwn(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	if out, err := in.cloister("env").CombinedOutput(); err == nil || !strings.Contains(string(out), "cloister up --listen") {
		t.Errorf("cloister env where nothing listens: %v\n%s", err, out)
	}
	if out, err := in.cloister("up", "--listen", "0.0.0.0:8443").CombinedOutput(); err == nil {
		t.Errorf("the service is opened to other machines:\n%s", out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if out, err := in.cloister("up", "--listen", address).CombinedOutput(); err != nil {
		t.Fatalf("cloister up --listen: %v\n%s", err, out)
	}
	if out, err := in.cloister("up").CombinedOutput(); err != nil || !strings.Contains(string(out), "already up") {
		t.Errorf("the address is not kept: %v\n%s", err, out)
	}
	environment, err := in.cloister("env").Output()
	if err != nil {
		t.Fatal(err)
	}
	// The CLI's root on the host's network.
	const inside = `set -eu
		mount --bind "$1" "$1"; for d in proc dev tmp; do mount --rbind /$d "$1/$d"; done
		exec chroot "$1" sh -euc "$2"`
	script := string(environment) + `
		az cloud show --query name --output tsv
		az group create --name host --location eastus --output none
		az group show --name host --query name --output tsv
		az extension add --name aks-preview
		az role assignment list --all --query "[].principalName" --output tsv`
	cmd := exec.Command("timeout", "120", "unshare", "--mount", "sh", "-c", inside, "sh", in.azureCLI, script)
	cmd.Env = append(in.env(), "PATH=/usr/bin:/bin:/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nCloister\n") || !strings.Contains(string(out), "\nhost\n") || !strings.Contains(string(out), "administrator@") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(in.home, ".azure")); err == nil {
		t.Error("~/.azure was made")
	}
	// The administration API is on its socket only.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://" + address + "/cloister/v1/credentials")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("the administration API over TCP: %s", resp.Status)
	}
}

// TestManagedIdentity logs the real CLI in on a jump box as the identity that the jump box was given, which may do what its roles say.
func TestManagedIdentity(t *testing.T) {
	in := newInstallation(t)
	in.useAzureCLI(t)
	az := func(words ...string) string {
		t.Helper()
		out, err := in.cloister(append([]string{"az"}, words...)...).Output()
		if err != nil {
			t.Fatalf("cloister az %s: %v", strings.Join(words, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	az("group", "create", "-n", "demo", "-l", "eastus")
	az("network", "vnet", "create", "-g", "demo", "-n", "net", "--subnet-name", "boxes")
	az("identity", "create", "-g", "demo", "-n", "reader")
	vnet := az("network", "vnet", "show", "-g", "demo", "-n", "net", "--query", "id", "-o", "tsv")
	identity := az("identity", "show", "-g", "demo", "-n", "reader", "--query", "id", "-o", "tsv")
	az("role", "assignment", "create", "--role", "Reader", "--scope", az("group", "show", "-n", "demo", "--query", "id", "-o", "tsv"),
		"--assignee-object-id", az("identity", "show", "-g", "demo", "-n", "reader", "--query", "principalId", "-o", "tsv"), "--assignee-principal-type", "ServicePrincipal")
	on := func(box []string, line string) (string, error) {
		words := append(append([]string{"shell", "--root", in.azureCLI, "--vnet", vnet}, box...), "--", "sh", "-c", line)
		out, err := in.cloister(words...).CombinedOutput()
		return string(out), err
	}
	text, err := on([]string{"--identity", identity}, `set -e
		az login --identity --output none
		az account show --query user.assignedIdentityInfo --output tsv
		az network vnet list --resource-group demo --query '[].name' --output tsv
		az network vnet delete --resource-group demo --name net || echo refused`)
	if err != nil || !strings.Contains(text, "MSI") || !strings.Contains(text, "\nnet\n") || !strings.Contains(text, "AuthorizationFailed") || !strings.Contains(text, "refused") {
		t.Errorf("%v\n%s", err, text)
	}
	if text, err := on(nil, "az login --identity --output none"); err == nil {
		t.Errorf("a jump box without an identity logs in:\n%s", text)
	}
}
