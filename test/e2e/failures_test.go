package e2e

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// cmdFailed looks at every place where Azure shows that nodes could not be provisioned: what the last command, which
// has failed, said of the operation; the states of cluster and pool; and of the node that failed its provision.json and its
// provisioning log, which ends with the code by name.
func cmdFailed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "failed EXIT-CODE NAME WORDS")
	code, name, words := args[0], args[1], args[2]
	said := ts.ReadFile("stderr")
	for _, want := range []string{
		"VMExtensionProvisioningError", "VM has reported a failure when processing extension 'vmssCSE'",
		"command terminated with exit status=" + code + "\n", name + " " + words,
	} {
		if !strings.Contains(said, want) {
			ts.Fatalf("the failed command does not say %q", want)
		}
	}
	for _, args := range [][]string{
		{"aks", "show", "-g", "demo", "-n", "demo"}, {"aks", "nodepool", "show", "-g", "demo", "--cluster-name", "demo", "-n", "nodepool1"},
	} {
		run(ts, false, "az", append(args, "--query", "provisioningState", "-o", "tsv"))
		if state := strings.TrimSpace(ts.ReadFile("stdout")); state != "Failed" {
			ts.Fatalf("az %s: provisioningState is %s", strings.Join(args[:2], " "), state)
		}
	}
	st, err := storyOf(ts).status()
	ts.Check(err)
	node := ""
	for _, c := range st.Clusters {
		for _, n := range c.Nodes {
			if n.State == "failed, exit code "+code {
				node = n.Name
			}
		}
	}
	if node == "" {
		ts.Fatalf("cloister status shows no node that failed with %s: %+v", code, st.Clusters)
	}
	run(ts, false, "cloister", []string{"logs", "--node", node})
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, fmt.Sprintf(" %s (%s) in AKS.CSE.", name, code)) {
		ts.Fatalf("the provisioning log ends with %q", last)
	}
	run(ts, false, "cloister", []string{"logs", "--node", node, "--result"})
	var result struct{ ExitCode, ErrorName, Hint, Output string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &result))
	if result.ExitCode != code || result.ErrorName != name || result.Hint != words || !strings.Contains(result.Output, name) {
		ts.Fatalf("provision.json says %+v", result)
	}
	ts.Setenv("NODE", node)
}

// cmdMends asks `cloister why` and does what it recommends, as it is printed: the first cause must be the link called LINK,
// and its commands, and then those that make the resource try again, must succeed.
func cmdMends(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "mends LINK [RESOURCE]")
	run(ts, false, "cloister", append([]string{"why", "-o", "json"}, args[1:]...))
	var found []adminapi.Diagnosis
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &found))
	var d *adminapi.Diagnosis
	var seen []string
	for i := range found {
		if found[i].Cause == nil {
			continue
		}
		seen = append(seen, found[i].Subject+": "+found[i].Cause.Name)
		if d == nil && found[i].Cause.Name == args[0] {
			d = &found[i]
		}
	}
	if d == nil {
		ts.Fatalf("the causes are %q, and none is %q", seen, args[0])
	}
	if len(d.Cause.Mend) == 0 || len(d.Then) == 0 {
		ts.Fatalf("%s is the cause, and nothing is recommended: %+v", args[0], d)
	}
	for _, line := range append(append([]string{}, d.Cause.Mend...), d.Then...) {
		ts.Logf("$ %s", line)
		run(ts, false, "sh", []string{"-c", line})
	}
}
