package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/cli/progress"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

func (g *globals) status() *cobra.Command {
	return g.outputFlag(&cobra.Command{
		Use:   "status",
		Short: "Show what runs: processes, clusters, nodes, and packets that reached the outside",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := g.connect()
			if err != nil {
				return err
			}
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(os.Stdout, s)
			}
			printStatus(os.Stdout, s)
			return nil
		},
	})
}

func printStatus(out io.Writer, s adminapi.Status) {
	state := "ready"
	if !s.Ready {
		state = "starting"
	}
	if s.Problem != "" {
		state = "in trouble: " + s.Problem
	}
	fmt.Fprintf(out, "Cloister %s, instance %s, %s\nData          %s\nSubscription  %s\nTenant        %s\n\n", s.Version, s.Instance, state, s.DataDir, s.SubscriptionID, s.TenantID)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PROCESS\tSTATE\tPID")
	for _, p := range s.Processes {
		pid := "-"
		if p.PID != 0 {
			pid = fmt.Sprint(p.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.State, pid)
	}
	w.Flush()
	if len(s.Clusters) == 0 {
		fmt.Fprintln(out, "\nNo clusters yet. Make one: cloister az group create -n demo -l eastus, then cloister az aks create --help")
	}
	for _, c := range s.Clusters {
		fmt.Fprintf(out, "\nCluster %s/%s  %s  Kubernetes %s  outbound %s  artifacts %s\n", c.ResourceGroup, c.Name, c.ProvisioningState, c.KubernetesVersion, c.OutboundType, c.ArtifactSource)
		fmt.Fprintln(w, "NODE\tPOOL\tADDRESS\tSTATE\tPROVISIONED WITH")
		for _, n := range c.Nodes {
			with := n.Registry
			if with == "" {
				with = "mcr.microsoft.com"
			}
			if n.ReimageDue != "" {
				with += "; reimage due: " + n.ReimageDue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.Pool, n.Address, n.State, with)
		}
		w.Flush()
		for _, warning := range c.Warnings {
			fmt.Fprintln(out, "! "+warning.Message)
			for _, line := range warning.Mend {
				fmt.Fprintln(out, "    "+line)
			}
		}
		if c.ProvisioningState == "Failed" {
			fmt.Fprintf(out, "✗ What is wrong, and what mends it: cloister why %s/%s\n", c.ResourceGroup, c.Name)
		}
	}
	var packets uint64
	for _, c := range s.Public {
		packets += c.Packets
	}
	fmt.Fprintf(out, "\nPackets from virtual networks that arrived in public: %d\n", packets)
	for _, c := range s.Public {
		if c.Packets > 0 {
			fmt.Fprintf(out, "  %-24s %d\n", c.Destination, c.Packets)
		}
	}
}

func (g *globals) doctor() *cobra.Command {
	return g.outputFlag(&cobra.Command{
		Use:   "doctor",
		Short: "Examine the machine and say what is wrong and what to do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := g.deps.Check(cmd.Context(), g.dataDir, g.cacheDir)
			bad := false
			for _, f := range findings {
				bad = bad || !f.OK && f.Fatal
			}
			if g.output == "json" {
				if err := printJSON(os.Stdout, findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					mark := "✓"
					if !f.OK && f.Fatal {
						mark = "✗"
					} else if !f.OK {
						mark = "!"
					}
					fmt.Printf("%s %-22s %s\n", mark, f.Name, f.Detail)
					if !f.OK && f.Remedy != "" {
						fmt.Printf("  %-22s → %s\n", "", f.Remedy)
					}
				}
			}
			if bad {
				return ExitStatus(1)
			}
			return nil
		},
	})
}

func (g *globals) timeline() *cobra.Command {
	return g.outputFlag(&cobra.Command{
		Use:   "timeline RG/NAME",
		Short: "Show how the last operation on a cluster spent its time",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := g.connect()
			if err != nil {
				return err
			}
			token, err := c.token(cmd.Context())
			if err != nil {
				return err
			}
			id, err := clusterID(args[0], token.SubscriptionID)
			if err != nil {
				return err
			}
			var t adminapi.Timeline
			if err := c.do(cmd.Context(), http.MethodGet, "/cloister/v1/timeline", url.Values{"resource": {id}}, nil, &t); err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(os.Stdout, t)
			}
			PrintTimeline(os.Stdout, t)
			return nil
		},
	})
}

// PrintTimeline draws the steps of an operation to scale.
func PrintTimeline(out io.Writer, t adminapi.Timeline) {
	end := time.Now()
	if t.End != nil {
		end = *t.End
	}
	total := end.Sub(t.Start)
	if total <= 0 {
		total = time.Millisecond
	}
	const cells = 40
	at := func(when time.Time) int {
		return max(0, min(cells, int(float64(cells)*float64(when.Sub(t.Start))/float64(total))))
	}
	fmt.Fprintf(out, "%s  %s\n", t.Status, progress.Duration(total))
	for _, s := range t.Steps {
		stop := end
		if s.End != nil {
			stop = *s.End
		}
		a, b := at(s.Start), at(stop)
		if b == a {
			b = min(a+1, cells)
			a = b - 1
		}
		bar := strings.Repeat(" ", a) + strings.Repeat("█", b-a) + strings.Repeat(" ", cells-b)
		fmt.Fprintf(out, "%8s  |%s|  %8s  %s\n", progress.Duration(s.Start.Sub(t.Start)), bar, progress.Duration(stop.Sub(s.Start)), s.Name)
	}
}

func (g *globals) logs() *cobra.Command {
	var node string
	var result bool
	c := &cobra.Command{
		Use:   "logs [PROCESS]",
		Short: "Print the log of a process (serve, registry, vnetservices, public, containerd, cp-…), or a node's provisioning log",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := g.installation()
			if err != nil {
				return err
			}
			if node != "" {
				return g.nodeLog(cmd, l, node, result)
			}
			if result {
				return errors.New("--result is of a node: name it with --node")
			}
			if len(args) == 0 {
				return listLogs(l)
			}
			path := l.Log(args[0])
			if filepath.Dir(path) != filepath.Join(l.DataDir, "log") {
				return fmt.Errorf("%q is not a process; `cloister logs` lists them", args[0])
			}
			return copyFile(os.Stdout, path)
		},
	}
	c.Flags().StringVar(&node, "node", "", "name of a node: print its cluster-provision.log")
	c.Flags().BoolVar(&result, "result", false, "with --node: print its provision.json, how provisioning ended, instead")
	return c
}

func (g *globals) nodeLog(cmd *cobra.Command, l layout.Layout, node string, result bool) error {
	query := url.Values{"node": {node}}
	if result {
		query.Set("result", "")
	}
	var text struct {
		Log string `json:"log"`
	}
	if err := newClient(l).do(cmd.Context(), http.MethodGet, "/cloister/v1/nodelog", query, nil, &text); err != nil {
		return err
	}
	_, err := fmt.Println(strings.TrimRight(text.Log, "\n"))
	return err
}

func listLogs(l layout.Layout) error {
	entries, err := os.ReadDir(filepath.Dir(l.Log("x")))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			fmt.Println(name)
		}
	}
	return nil
}

func copyFile(out io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(out, f)
	return err
}

// lastLine is the end of a log, for an error message.
func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}
