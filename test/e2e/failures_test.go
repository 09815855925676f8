package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// cmdFailed looks at every place where Azure shows that nodes could not be provisioned: what the last command, which
// has failed, said of the operation; the states of cluster and pool; and of the node that failed its provision.json and its
// provisioning log, which ends with the code by name. With -pool the operation was the pool's own, and its cluster is Succeeded.
func cmdFailed(ts *testscript.TestScript, neg bool, args []string) {
	cluster := "Failed"
	if len(args) > 0 && args[0] == "-pool" {
		cluster, args = "Succeeded", args[1:]
	}
	usage(ts, !neg && len(args) == 3, "failed [-pool] EXIT-CODE NAME WORDS")
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
	for _, of := range []struct{ command, want string }{
		{"aks show -g demo -n demo", cluster}, {"aks nodepool show -g demo --cluster-name demo -n nodepool1", "Failed"},
	} {
		run(ts, false, "az", append(strings.Fields(of.command), "--query", "provisioningState", "-o", "tsv"))
		if state := strings.TrimSpace(ts.ReadFile("stdout")); state != of.want {
			ts.Fatalf("az %s: provisioningState is %s, not %s", of.command, state, of.want)
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

// cmdMends asks `cloister why` about a resource, the cluster unless another is named, and does what it recommends, as it is
// printed: the first cause must be the link called LINK, and its commands, and then those that make the resource try
// again, must succeed.
func cmdMends(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "mends LINK [RESOURCE]")
	resource := ts.Getenv("CLUSTER")
	if len(args) == 2 {
		resource = args[1]
	}
	run(ts, false, "cloister", []string{"why", "-o", "json", resource})
	var found []adminapi.Diagnosis
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &found))
	if len(found) != 1 || found[0].Healthy || found[0].Cause == nil {
		ts.Fatalf("there is no cause for what is wrong with %s", resource)
	}
	d := found[0]
	if d.Cause.Name != args[0] {
		ts.Fatalf("the cause is the %s, not the %s: %s", d.Cause.Name, args[0], d.Cause.Saw)
	}
	if len(d.Cause.Mend) == 0 {
		ts.Fatalf("nothing is recommended for the %s: %s", d.Cause.Name, d.Cause.Saw)
	}
	for _, line := range slices.Concat(d.Cause.Mend, d.Then) {
		ts.Logf("$ %s", line)
		run(ts, false, "sh", []string{"-c", line})
	}
}
