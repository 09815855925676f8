package azcli

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const cluster = "/subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/"

func TestArguments(t *testing.T) {
	cmd := command{path: "test", args: []arg{argGroup, argName, argTags,
		{name: "node-count", short: "c", kind: number, def: "3"},
		{name: "node-vm-size"},
		{name: "enabled", short: "e", kind: truth},
		{name: "outbound-type", choices: outboundTypes},
	}, confirm: sure}
	for _, tt := range []struct {
		line string
		want map[string]string // values joined by a space
		err  string
	}{
		{line: "--resource-group g --name n", want: map[string]string{"resource-group": "g", "name": "n", "node-count": "3"}},
		{line: "-g g -n=n", want: map[string]string{"name": "n"}},
		{line: "-gg -nn", want: map[string]string{"resource-group": "g", "name": "n"}},
		{line: "--resource-group=g --name=n", want: map[string]string{"resource-group": "g", "name": "n"}},
		{line: "--res g --nam n", want: map[string]string{"resource-group": "g", "name": "n"}},
		{line: "-g g -n n -n m", want: map[string]string{"name": "m"}},
		{line: "-g g -n n --tags a=b c d=", want: map[string]string{"tags": "a=b c d="}},
		{line: "--tags a=b -g g -n n", want: map[string]string{"tags": "a=b", "name": "n"}},
		{line: "-g g -n n -e", want: map[string]string{"enabled": "true"}},
		{line: "-g g -n n -e False", want: map[string]string{"enabled": "false"}},
		{line: "-g g -n n --enabled=no", want: map[string]string{"enabled": "false"}},
		{line: "-g g -n n -c -1", want: map[string]string{"node-count": "-1"}},
		{line: "-g g -n n --outbound-type LoadBalancer", want: map[string]string{"outbound-type": "loadBalancer"}},
		{line: "-g g -n n -y -o TSV --query a.b", want: map[string]string{"yes": "true", "output": "tsv", "query": "a.b"}},

		{line: "-g g", err: "the following arguments are required: --name/-n"},
		{line: "", err: "the following arguments are required: --resource-group/-g, --name/-n"},
		{line: "-g g -n n --outbond-type none", err: "unrecognized arguments: --outbond-type none"},
		{line: "-g g -n n stray", err: "unrecognized arguments: stray"},
		{line: "-g g -n n -y true", err: "unrecognized arguments: true"},
		{line: "-g g -n n --node x", err: "ambiguous option: --node could match --node-count, --node-vm-size"},
		{line: "-g g -n", err: "argument --name/-n: expected one argument"},
		{line: "-g g -n --tags a", err: "argument --name/-n: expected one argument"},
		{line: "-g g -n n --tags", err: "argument --tags: expected at least one argument"},
		{line: "-g g -n n -c three", err: "argument --node-count/-c: invalid int value: 'three'"},
		{line: "-g g -n n -e maybe", err: "'maybe' is not a valid value for '--enabled'. Allowed values: false, true."},
		{line: "-g g -n n --outbound-type nat", err: "'nat' is not a valid value for '--outbound-type'. Allowed values: loadBalancer, userDefinedRouting,"},
		{line: "-g g -n n -o xml", err: "'xml' is not a valid value for '--output'. Allowed values: json, jsonc,"},
		{line: "-g g -n a/b", err: "'a/b' is not a name"},
	} {
		words := strings.Fields(tt.line)
		got, err := cmd.parse(words)
		if tt.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tt.err) && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %s", tt.line, err, tt.err)
			} else if status(err) != exitUsage {
				t.Errorf("%s: exit status %d", tt.line, status(err))
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
		}
		for name, want := range tt.want {
			if have := strings.Join(got.all(name), " "); have != want {
				t.Errorf("%s: --%s is %q, want %q", tt.line, name, have, want)
			}
		}
	}
}

// TestCommandsAreWellFormed: every command is in a group that says what it is for, every argument has its own
// spelling and a help, and each command can be run.
func TestCommandsAreWellFormed(t *testing.T) {
	for _, g := range groups {
		if g.help == "" {
			t.Errorf("group %s has no help", g.path)
		}
	}
	seen := map[string]bool{}
	for _, c := range commands() {
		if seen[c.path] {
			t.Errorf("%s is there twice", c.path)
		}
		seen[c.path] = true
		if c.help == "" || (c.run == nil) == (c.on == nil) || (c.on == nil) != (c.target == nil) {
			t.Errorf("%s: no help, or nothing to do", c.path)
		}
		names := map[string]bool{}
		for _, a := range append(c.known(), global...) {
			if a.help == "" {
				t.Errorf("%s --%s has no help", c.path, a.name)
			}
			for _, n := range []string{"--" + a.name, "-" + a.short} {
				if n != "-" && names[n] {
					t.Errorf("%s: %s means two things", c.path, n)
				}
				names[n] = true
			}
		}
		var help bytes.Buffer
		c.printHelp(&help)
		if !strings.Contains(help.String(), "az "+c.path+" : ") {
			t.Errorf("%s: %s", c.path, help.String())
		}
	}
}

func TestHelp(t *testing.T) {
	s := newService(t)
	for line, want := range map[string][]string{
		"--help":               {"Subgroups:", "aks       : Manage Azure Kubernetes Services.", "rest    : Invoke"},
		"aks --help":           {"Subgroups:\n    command  : ", "    nodepool : ", "create          : Create", "get-credentials : "},
		"aks":                  {"Commands:"},
		"aks create -h":        {"--resource-group -g [Required]", "--outbound-type", "Default: loadBalancer.", "Examples"},
		"aks create --help -x": {"Arguments"},
	} {
		status, out, complaint := s.az(strings.Fields(line)...)
		if status != 0 || complaint != "" {
			t.Errorf("%s: %d %s", line, status, complaint)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s lacks %q:\n%s", line, w, out)
			}
		}
	}
	if len(s.requests()) > 0 {
		t.Error("help asked the service")
	}
}

func TestErrors(t *testing.T) {
	s := newService(t)
	s.refuse = func(r *http.Request) (int, string) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/flat"):
			return http.StatusConflict, `{"code":"OperationNotAllowed","message":"Busy."}`
		case strings.HasSuffix(r.URL.Path, "/deep"):
			return http.StatusBadRequest, `{"error":{"code":"A","message":"one","target":"t","details":[{"code":"B","message":"two"}]}}`
		case strings.HasSuffix(r.URL.Path, "/text"):
			return http.StatusBadGateway, "no such upstream"
		}
		return 0, ""
	}
	for _, tt := range []struct {
		line   string
		status int
		want   string
	}{
		{"aks show -g rg -n none", exitNotFound, "ERROR: (ResourceNotFound) The Resource 'none' was not found.\n"},
		{"aks show -g rg -n flat", exitFailure, "ERROR: (OperationNotAllowed) Busy.\n"},
		{"aks show -g rg -n deep", exitFailure, "ERROR: (A) one\nCode: A\nMessage: one\nTarget: t\nException Details:\t(B) two\n\tCode: B\n\tMessage: two\n"},
		{"aks show -g rg -n text", exitFailure, "ERROR: (Bad Gateway) no such upstream\n"},
		{"aks show -g rg", exitUsage, "ERROR: the following arguments are required: --name/-n\n"},
		{"aks creat", exitUsage, "ERROR: 'creat' is misspelled or not recognized by the system. Did you mean 'create' ? `cloister az aks --help` lists what Cloister has.\n"},
		{"vm list", exitUsage, "ERROR: 'vm' is misspelled or not recognized by the system."},
		{"group show -n rg --query [", exitNotFound, "ERROR: (ResourceNotFound)"},
		{"aks delete -g rg -n x", exitFailure, "ERROR: Unable to prompt for confirmation as no tty available. Use --yes.\n"},
		{"aks create -g rg -n x --apiserver-subnet-id /x", exitFailure, "ERROR: \"--apiserver-subnet-id\" requires \"--vnet-subnet-id\".\n"},
		{"rest --url https://example.com/", exitFailure, "ERROR: argument --url:"},
	} {
		status, out, complaint := s.az(strings.Fields(tt.line)...)
		if status != tt.status || !strings.HasPrefix(complaint, tt.want) || out != "" {
			t.Errorf("%s: exit status %d, %q %q; want %d %q", tt.line, status, out, complaint, tt.status, tt.want)
		}
	}
}

func TestOutput(t *testing.T) {
	s := newService(t)
	s.put(cluster+"one", object{"location": "eastus", "type": "T", "properties": object{
		"kubernetesVersion": "1.30.3", "currentKubernetesVersion": "1.30.3", "provisioningState": "Succeeded", "fqdn": "f", "enableRBAC": true, "maxAgentPools": 100.0,
		"agentPoolProfiles": []any{object{"name": "nodepool1", "count": 3}}, "networkProfile": object{"outboundType": "none"}}})
	s.put(cluster+"two", object{"location": "eastus", "properties": object{"privateFQDN": "p", "provisioningState": "Failed"}})
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus", "properties": object{"provisioningState": "Succeeded"}})
	for line, want := range map[string]string{
		"aks show -g rg -n one --query networkProfile.outboundType -o tsv":       "none\n",
		"aks show -g rg -n one --query enableRBAC -o tsv":                        "",
		"aks show -g rg -n one --query enableRbac -o tsv":                        "true\n",
		"aks show -g rg -n one --query [enableRbac,maxAgentPools,nope] -o tsv":   "true\n100\nNone\n",
		"aks show -g rg -n one --query [[enableRbac,maxAgentPools,nope]] -o tsv": "True\t100\tNone\n", // of a row, Python's words
		"aks show -g rg -n one --query agentPoolProfiles[].count -o tsv":         "3\n",
		"aks show -g rg -n one --query {z:name,a:location} -o tsv":               "one\teastus\n",
		"aks show -g rg -n one --query {z:name,a:location} -o table":             "Z    A\n---  ------\none  eastus\n",
		"aks show -g rg -n one --query resourceGroup":                            "\"rg\"\n",
		"aks show -g rg -n one --query resourceGroup -o none":                    "",
		"aks show -g rg -n one --query {a:name} -o yaml":                         "a: one\n",
		"aks show -g rg -n one -o table": "" +
			"Name    Location    ResourceGroup    KubernetesVersion    CurrentKubernetesVersion    ProvisioningState    Fqdn\n" +
			"------  ----------  ---------------  -------------------  --------------------------  -------------------  ------\n" +
			"one     eastus      rg               1.30.3               1.30.3                      Succeeded            f\n",
		"aks show -g rg -n two -o table": "" +
			"Name    Location    ResourceGroup    KubernetesVersion    CurrentKubernetesVersion    ProvisioningState    Fqdn\n" +
			"------  ----------  ---------------  -------------------  --------------------------  -------------------  ------\n" +
			"two     eastus      rg                                                                Failed               p\n",
		"aks list -g rg --query length(@)":                             "2\n",
		"group show -n rg --query properties.provisioningState -o tsv": "Succeeded\n", // not flattened, as with az
		"group exists -n rg":                                           "true\n",
		"group exists -n other":                                        "false\n",
		"group exists -n other -o tsv":                                 "false\n",
	} {
		status, out, complaint := s.az(strings.Fields(line)...)
		if status != 0 || out != want {
			t.Errorf("%s: exit status %d %s\n%s\nwant\n%s", line, status, complaint, out, want)
		}
	}
	_, out, _ := s.az("aks", "show", "--query", "[].name", "-o", "tsv", "--ids", cluster+"one", cluster+"two")
	if out != "one\ntwo\n" {
		t.Errorf("several IDs: %q", out)
	}
	_, out, _ = s.az("aks", "show", "-g", "rg", "-n", "one")
	if strings.Contains(out, `"properties"`) || !strings.Contains(out, "\n  \"kubernetesVersion\": \"1.30.3\",\n") {
		t.Errorf("not flattened:\n%s", out)
	}
}

func TestConfirmation(t *testing.T) {
	for _, tt := range []struct {
		terminal bool
		in       string
		args     string
		deleted  bool
	}{
		{true, "y\n", "", true},
		{true, "\nmaybe\nYES\n", "", true},
		{true, "n\n", "", false},
		{true, "", "", false},
		{false, "y\n", "", false},
		{false, "", "--yes", true},
		{true, "n\n", "-y", true},
	} {
		s := newService(t)
		s.terminal, s.in = tt.terminal, tt.in
		s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{})
		status, _, complaint := s.az(append([]string{"group", "delete", "-n", "rg"}, strings.Fields(tt.args)...)...)
		if deleted := len(s.requests()) > 0; deleted != tt.deleted || deleted != (status == 0) {
			t.Errorf("terminal %v, %q, %q: deleted %v, exit status %d\n%s", tt.terminal, tt.in, tt.args, deleted, status, complaint)
		}
		if tt.terminal && tt.args == "" && !strings.HasPrefix(complaint, "Are you sure you want to perform this operation? (y/n): ") {
			t.Errorf("not asked: %q", complaint)
		}
	}
}

// TestFailedOperation: the operation's error is the command's.
func TestFailedOperation(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
	s.operation = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"status":"Failed","error":{"code":"SubnetIsFull","message":"No addresses left."}}`))
	}
	status, _, complaint := s.az("aks", "create", "-g", "rg", "-n", "x")
	if status != exitFailure || complaint != "ERROR: (SubnetIsFull) No addresses left.\nCode: SubnetIsFull\nMessage: No addresses left.\n" {
		t.Errorf("exit status %d: %s", status, complaint)
	}
}

// TestInterrupted: who gives up waiting is told that the operation goes on, and how to look at it.
func TestInterrupted(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
	ctx, cancel := context.WithCancel(t.Context())
	s.operation = func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}
	status, _, complaint := s.azContext(ctx, "aks", "create", "-g", "rg", "-n", "x")
	if status != exitInterrupted || !strings.Contains(complaint, "goes on in the service") || !strings.Contains(complaint, "`cloister timeline rg/x`") {
		t.Errorf("exit status %d: %s", status, complaint)
	}
}

// TestServiceRestarts: a service that is away for a moment while something is waited for has not failed.
func TestServiceRestarts(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
	times := 0
	s.operation = func(w http.ResponseWriter, r *http.Request) {
		if times++; times < 3 {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(`{"status":"Succeeded"}`))
	}
	if status, _, complaint := s.az("aks", "create", "-g", "rg", "-n", "x"); status != 0 {
		t.Errorf("exit status %d: %s", status, complaint)
	}
}

func TestNoWait(t *testing.T) {
	s := newService(t)
	s.put("/subscriptions/"+subscription+"/resourceGroups/rg", object{"location": "eastus"})
	s.operation = func(http.ResponseWriter, *http.Request) { t.Error("waited") }
	if status, out, complaint := s.az("aks", "create", "-g", "rg", "-n", "x", "--no-wait"); status != 0 || out != "" {
		t.Errorf("exit status %d: %s %s", status, out, complaint)
	}
}

func TestWait(t *testing.T) {
	s := newService(t)
	s.put(cluster+"x", object{"properties": object{"provisioningState": "Creating"}})
	asked := 0
	s.refuse = func(*http.Request) (int, string) {
		if asked++; asked == 2 {
			s.put(cluster+"x", object{"properties": object{"provisioningState": "Succeeded"}})
		}
		return 0, ""
	}
	if status, _, complaint := s.az("aks", "wait", "-g", "rg", "-n", "x", "--created", "--timeout", "20"); status != 0 {
		t.Errorf("exit status %d: %s", status, complaint)
	}
	if asked != 2 {
		t.Errorf("asked %d times, of which the second was answered with what was waited for", asked)
	}
	if status, _, _ := s.az("aks", "wait", "-g", "rg", "-n", "gone", "--deleted"); status != 0 {
		t.Error("a cluster that is not there counts as there")
	}
	s.put(cluster+"x", object{"properties": object{"provisioningState": "Failed"}})
	if status, _, _ := s.az("aks", "wait", "-g", "rg", "-n", "x", "--updated"); status != exitFailure {
		t.Error("a failed cluster counts as updated")
	}
}

func TestCredentials(t *testing.T) {
	s := newService(t)
	file := filepath.Join(t.TempDir(), "kube", "config")
	get := func(more ...string) (int, string) {
		status, _, complaint := s.az(append([]string{"aks", "get-credentials", "-g", "rg", "-n", "x", "-f", file}, more...)...)
		return status, complaint
	}
	if status, complaint := get(); status != 0 {
		t.Fatal(complaint)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v: credentials are for their owner only", info, err)
	}
	if status, complaint := get(); status != 0 {
		t.Error("the same cluster again: " + complaint)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(data, []byte("https://one"), []byte("https://other")), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, complaint := get(); status == 0 || !strings.Contains(complaint, "--overwrite-existing") {
		t.Error("another cluster of the name was overwritten: " + complaint)
	}
	if status, complaint := get("--overwrite-existing"); status != 0 {
		t.Error(complaint)
	}
}

func TestDNSPrefix(t *testing.T) {
	for _, tt := range [][3]string{
		{"aks-managed", "rg-netiso", "aks-manage-rg-netiso-222222"},
		{"1cluster", "g", "a1cluster-g-222222"},
		{"my_cluster", "a_very_long_resource_group", "mycluster-averylongresourc-222222"},
	} {
		if got := dnsPrefix(tt[0], tt[1], subscription); got != tt[2] {
			t.Errorf("%s in %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-g rg --name=x --tags a=b c -o tsv --query a --no-wait")
	f.Add("--enable-private-cluster true -c=3 --out")
	var some []command
	for _, c := range commands() {
		switch c.path {
		case "aks create", "network nsg rule create", "acr show", "aks delete":
			some = append(some, c)
		}
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range some {
			got, err := c.parse(strings.Fields(line))
			if err == nil && !got.help && !got.has("ids") {
				for _, a := range c.known() {
					if a.required && !got.has(a.name) {
						t.Errorf("%s %q: accepted without --%s", c.path, line, a.name)
					}
				}
			}
		}
	})
}
