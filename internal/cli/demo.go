package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cloister-dev/cloister/internal/cli/progress"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// The demo's cluster is created with the command of AKS's documentation, as printed there.
const (
	demoGroup   = "demo"
	demoCluster = "demo"
	demoCreate  = "az aks create --resource-group demo --name demo --kubernetes-version 1.30.3 --bootstrap-artifact-source Cache --outbound-type none --network-plugin azure --enable-private-cluster"
)

// demoApp is a web application of two replicas, and who asks it: an ordinary pod and one on the node's own network.
const demoApp = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: mcr.microsoft.com/azuredocs/aks-helloworld:v1
        ports: [{containerPort: 80}]
        env: [{name: TITLE, value: "Welcome to an isolated cluster"}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: client
    image: mcr.microsoft.com/cbl-mariner/busybox:2.0
    command: ["sleep", "infinity"]
  terminationGracePeriodSeconds: 0
---
apiVersion: v1
kind: Pod
metadata: {name: client-on-node}
spec:
  hostNetwork: true
  containers:
  - name: client
    image: mcr.microsoft.com/cbl-mariner/busybox:2.0
    command: ["sleep", "infinity"]
  terminationGracePeriodSeconds: 0
`

// escape is one way that a packet might take to get out.
type escape struct{ name, command string }

// escapes are tried from every pod of the demo. The addresses exist, in the namespace that stands for the
// Internet, and answer there: a way out would succeed.
var escapes = []escape{
	{"TCP to mcr.microsoft.com's address", "nc -w 2 198.18.0.10 443 </dev/null"},
	{"HTTPS to management.azure.com by name", "curl -s -k -m 2 -o /dev/null https://management.azure.com/"},
	{"UDP, a DNS query to a public resolver", "nslookup -timeout=2 mcr.microsoft.com 198.18.0.53"},
	{"ICMP echo", "ping -c 1 -W 2 198.18.0.10"},
	{"IPv6", "ping -6 -c 1 -W 2 2001:db8::10"},
}

func (g *globals) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Make a network isolated cluster, run an application in it, and try to get out",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return g.runDemo(cmd.Context()) },
	}
}

// demonstration types commands and shows what they print.
type demonstration struct {
	g   *globals
	exe string
	as  string // what the user typed to run this program
	tty bool
}

func (g *globals) runDemo(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	d := &demonstration{g: g, exe: exe, as: os.Args[0], tty: term.IsTerminal(int(os.Stdout.Fd()))}
	started := time.Now()

	d.title("1. Start Cloister")
	if err := d.run(ctx, "", "up"); err != nil {
		return err
	}
	d.title("2. Create a network isolated cluster, as the AKS documentation says")
	if err := d.create(ctx); err != nil {
		return err
	}
	d.title("3. Run a web application whose image came through the private registry's cache")
	if err := d.deploy(ctx); err != nil {
		return err
	}
	d.title("4. Try to get out")
	if err := d.prove(ctx); err != nil {
		return err
	}
	fmt.Printf("\n%s in %s. What to type next:\n\n", d.bold("Done"), progress.Duration(time.Since(started)))
	for _, next := range [][2]string{
		{"shell --cluster demo/demo -- kubectl get pods -A", "the cluster, from a jump box in its VNet"},
		{"az aks show -g demo -n demo -o table", "what Azure Resource Manager says of it"},
		{"az resource list -o table", "everything that AKS made for it"},
		{"timeline demo/demo", "where the seconds went"},
		{"status", "what runs here"},
		{"down --purge", "remove it all"},
	} {
		fmt.Printf("  %-64s # %s\n", d.as+" "+next[0], next[1])
	}
	return nil
}

func (d *demonstration) create(ctx context.Context) error {
	state := d.query(ctx, "az", "aks", "show", "-g", demoGroup, "-n", demoCluster, "--query", "provisioningState", "-o", "tsv")
	switch {
	case state == "Succeeded":
		fmt.Println("The cluster demo/demo is already there.")
		return nil
	case state != "":
		fmt.Printf("The cluster demo/demo is there, in state %s; carrying on from it.\n", state)
		return d.run(ctx, "", "az", "aks", "update", "-g", demoGroup, "-n", demoCluster, "-o", "none")
	}
	if d.query(ctx, "az", "group", "exists", "-n", demoGroup) != "true" {
		if err := d.run(ctx, "", "az", "group", "create", "--name", demoGroup, "--location", "eastus", "-o", "none"); err != nil {
			return err
		}
	}
	if err := d.run(ctx, "", append(strings.Fields(demoCreate), "-o", "table")...); err != nil {
		return err
	}
	fmt.Println()
	return d.run(ctx, "", "timeline", demoGroup+"/"+demoCluster)
}

func (d *demonstration) deploy(ctx context.Context) error {
	kubectl := func(stdin string, args ...string) error {
		return d.run(ctx, stdin, append([]string{"shell", "--cluster", "demo/demo", "--", "kubectl"}, args...)...)
	}
	if err := kubectl("", "get", "nodes", "-o", "wide"); err != nil {
		return err
	}
	if err := kubectl(demoApp, "apply", "-f", "-"); err != nil {
		return err
	}
	if err := kubectl("", "rollout", "status", "deployment/web", "--timeout=5m"); err != nil {
		return err
	}
	if err := kubectl("", "wait", "--for=condition=Ready", "pod/client", "pod/client-on-node", "--timeout=5m"); err != nil {
		return err
	}
	return kubectl("", "exec", "client", "--", "curl", "-s", "--retry", "10", "--retry-connrefused", "--retry-delay", "1", "http://web/")
}

// prove tries every escape from every pod, and then asks the other side what arrived.
func (d *demonstration) prove(ctx context.Context) error {
	before, err := d.arrived(ctx)
	if err != nil {
		return err
	}
	out := 0
	for _, pod := range []string{"client", "client-on-node"} {
		script := "( "
		for i, e := range escapes {
			script += fmt.Sprintf("(%s) >/dev/null 2>&1; echo %d $? & ", e.command, i)
		}
		script += "wait )"
		answer, err := d.output(ctx, "shell", "--cluster", "demo/demo", "--", "kubectl", "exec", pod, "--", "sh", "-c", script)
		if err != nil {
			return fmt.Errorf("try to get out of pod %s: %w", pod, err)
		}
		status := map[int]int{}
		for line := range strings.Lines(answer) {
			var i, s int
			if n, _ := fmt.Sscan(line, &i, &s); n == 2 {
				status[i] = s
			}
		}
		fmt.Printf("\nFrom pod %s:\n", d.bold(pod))
		for i, e := range escapes {
			s, tried := status[i]
			switch {
			case !tried:
				return fmt.Errorf("the try %q from pod %s did not report", e.name, pod)
			case s == 0:
				out++
				fmt.Printf("  %s %-42s %s\n", d.paint("✗", "31"), e.name, d.paint("GOT OUT", "31"))
			default:
				fmt.Printf("  %s %-42s no answer\n", d.paint("✓", "32"), e.name)
			}
		}
	}
	after, err := d.arrived(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nOn the other side, packets from virtual networks that arrived in public: %s\n", d.bold(fmt.Sprint(after-before)))
	if out > 0 || after != before {
		return errors.New("the cluster is not isolated")
	}
	return nil
}

func (d *demonstration) arrived(ctx context.Context) (packets uint64, err error) {
	text, err := d.output(ctx, "status", "-o", "json")
	if err != nil {
		return 0, err
	}
	var s adminapi.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return 0, err
	}
	for _, p := range s.Public {
		packets += p.Packets
	}
	return packets, nil
}

// run shows a command as a user would type it, and runs it.
func (d *demonstration) run(ctx context.Context, stdin string, args ...string) error {
	shown := make([]string, len(args))
	for i, a := range args {
		shown[i] = a
		if strings.ContainsAny(a, " '\"[]{}|&;<>") {
			shown[i] = "'" + a + "'"
		}
	}
	fmt.Println("\n" + d.paint("$", "36") + " " + d.bold(d.as+" "+strings.Join(shown, " ")))
	cmd := d.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the demo stopped at `cloister %s`: %w", strings.Join(shown, " "), err)
	}
	return nil
}

func (d *demonstration) output(ctx context.Context, args ...string) (string, error) {
	cmd := d.command(ctx, args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return string(out), nil
}

// query is output of a command whose failure means that there is nothing.
func (d *demonstration) query(ctx context.Context, args ...string) string {
	out, err := d.output(ctx, args...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func (d *demonstration) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.exe, args...)
	cmd.Env = append(os.Environ(), "CLOISTER_DATA_DIR="+d.g.dataDir, "CLOISTER_CACHE_DIR="+d.g.cacheDir)
	return cmd
}

func (d *demonstration) title(s string) { fmt.Println("\n" + d.paint("── ", "36") + d.bold(s)) }

func (d *demonstration) bold(s string) string { return d.paint(s, "1") }

func (d *demonstration) paint(s, code string) string {
	if !d.tty || os.Getenv("NO_COLOR") != "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
