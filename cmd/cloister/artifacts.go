package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/app"
	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/engine/artifacts"
)

// artifactsCommand builds, lists and carries what clusters are made of.
func artifactsCommand(g cli.Globals) *cobra.Command {
	var output string
	root := &cobra.Command{Use: "artifacts", Short: "Build, list, export and import what clusters are made of"}
	list := &cobra.Command{Use: "list", Short: "List what is built", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		parts, err := artifacts.List(g.CacheDir())
		if err != nil {
			return err
		}
		if output == "json" {
			e := json.NewEncoder(g.Stdout())
			e.SetIndent("", "  ")
			return e.Encode(parts)
		}
		w := tabwriter.NewWriter(g.Stdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "PART\tVERSION\tSIZE\tBUILT\tTOOK\tDIGEST")
		for _, p := range parts {
			fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%s\t%.0f s\t%.19s…\n", p.Name, p.Version, float64(p.Size)/1e6, p.Built.Local().Format("2006-01-02 15:04"), p.Seconds, p.Digest)
		}
		return w.Flush()
	}}
	list.Flags().StringVarP(&output, "output", "o", "", "output format: text or json")
	root.AddCommand(list,
		&cobra.Command{Use: "build", Short: "Build what is missing, from pinned Go modules and Debian packages", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.WithProgress(func(report cli.Reporter) error {
				return app.BuildArtifacts(cmd.Context(), g.CacheDir(), report)
			})
		}},
		&cobra.Command{Use: "export FILE", Short: "Write everything that is built to one file (- is standard output)", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			out, closeOut := g.Stdout(), func() error { return nil }
			if args[0] != "-" {
				f, err := os.Create(args[0])
				if err != nil {
					return err
				}
				out, closeOut = f, f.Close
			}
			if err := artifacts.Export(cmd.Context(), g.CacheDir(), out); err != nil {
				return errors.Join(err, closeOut())
			}
			return closeOut()
		}},
		&cobra.Command{Use: "import FILE", Short: "Take what another machine has exported (- is standard input)", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			in := io.Reader(os.Stdin)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			set, err := artifacts.Import(cmd.Context(), g.CacheDir(), in)
			if err == nil {
				fmt.Fprintln(g.Stdout(), "Imported into", set.Dir)
			}
			return err
		}},
	)
	return root
}
