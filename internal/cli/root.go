// Package cli is the command line of Cloister. It sees what any client sees: the public API and the
// administration API of a running installation. What must run inside this binary (the service, the
// builder of artifacts) is handed in by cmd/cloister.
package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Deps are the parts of Cloister that commands start but that the command line does not know.
type Deps struct {
	Version string
	// Program is the build ID of this program.
	Program string
	// Prepare makes everything that a start needs before the service runs: the data directory, the
	// artifacts. It reports its steps.
	Prepare func(ctx context.Context, dataDir, cacheDir string, report Reporter) error
	// Purge removes an installation that is down, with its data.
	Teardown func(ctx context.Context, dataDir, cacheDir string, purge bool, report Reporter) error
	// Check examines the machine.
	Check func(ctx context.Context, dataDir, cacheDir string) []Finding
	// Commands are further commands: artifacts, az, and the hidden ones that run as processes.
	Commands func(g Globals) []*cobra.Command
}

// Finding is one thing that doctor looked at.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Fatal  bool   `json:"fatal"` // `up` cannot work with it
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do, in one line
}

// Reporter is told of steps that take time.
type Reporter interface {
	// Start begins a step; the returned function ends it, with its result or error.
	Start(name string, estimateSeconds float64) (note func(string), end func(result string, err error))
}

// Globals are the flags that every command has.
type Globals interface {
	DataDir() string
	CacheDir() string
	Output() string
	Stdout() io.Writer
	Stderr() io.Writer
}

type globals struct {
	dataDir, cacheDir, output string
	deps                      Deps
}

func (g *globals) DataDir() string   { return g.dataDir }
func (g *globals) CacheDir() string  { return g.cacheDir }
func (g *globals) Output() string    { return g.output }
func (g *globals) Stdout() io.Writer { return os.Stdout }
func (g *globals) Stderr() io.Writer { return os.Stderr }

// New returns the root command.
func New(deps Deps) *cobra.Command {
	g := &globals{deps: deps}
	root := &cobra.Command{
		Use:           "cloister",
		Short:         "Network isolated AKS clusters on one Linux machine",
		Long:          "Cloister answers the Azure Resource Manager API and builds what it is asked for, for real: virtual\nnetworks, private endpoints, registries with cache rules, and Kubernetes clusters that no packet leaves.",
		Version:       deps.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.dataDir, "data-dir", envOr("CLOISTER_DATA_DIR", layout.DefaultDataDir), "directory of the installation's durable state (CLOISTER_DATA_DIR)")
	flags.StringVar(&g.cacheDir, "cache-dir", envOr("CLOISTER_CACHE_DIR", layout.DefaultCacheDir), "directory of built artifacts, shared by all installations (CLOISTER_CACHE_DIR)")
	root.AddCommand(g.up(), g.down(), g.status(), g.doctor(), g.logs(), g.shell(), g.env(), g.timeline(), g.why(), g.demo())
	if deps.Commands != nil {
		root.AddCommand(deps.Commands(g)...)
	}
	return root
}

func (g *globals) outputFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&g.output, "output", "o", "", "output format: text or json")
	return c
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
