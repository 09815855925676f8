package main

import (
	"debug/elf"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/app"
	"github.com/cloister-dev/cloister/internal/app/public"
	"github.com/cloister-dev/cloister/internal/app/vnetservices"
	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/engine/mcr"
	"github.com/cloister-dev/cloister/internal/engine/node"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/engine/registry"
	"github.com/cloister-dev/cloister/internal/lib/containerrun"
)

// version is set by the linker: -X main.version=…
var version = "dev"

func command() *cobra.Command {
	root := cli.New(cli.Deps{
		Version:  version,
		Program:  program(),
		Prepare:  app.Prepare,
		Teardown: app.Teardown,
		Check:    app.Doctor,
		Commands: func(g cli.Globals) []*cobra.Command {
			return append([]*cobra.Command{azCommand(g), artifactsCommand(g)}, processCommands(g)...)
		},
	})
	// The arguments after `az` are az's own: flags before it must be read on the way.
	root.TraverseChildren = true
	return root
}

// program is the Go build ID of this program: another one for every change of its code.
func program() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return ""
	}
	data, err := note.Data()
	if err != nil || len(data) < 16 {
		return ""
	}
	return strings.TrimRight(string(data[16:]), "\x00")
}

// processCommands are the programs that run as processes of an installation; people do not type them.
func processCommands(g cli.Globals) []*cobra.Command {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var config, storage, layoutDir string
	commands := []*cobra.Command{
		{Use: "serve", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return app.Serve(cmd.Context(), app.ServeOptions{DataDir: g.DataDir(), CacheDir: g.CacheDir(), Version: version, Program: program(), Log: log})
		}},
		{Use: "registry", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return registry.Run(cmd.Context(), registry.Options{ConfigPath: config, StorageDir: storage, Log: log})
		}},
		{Use: "vnetservices", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return vnetservices.Run(cmd.Context(), vnetservices.Options{ConfigPath: config, Log: log})
		}},
		{Use: "public", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return public.Run(cmd.Context(), public.Options{ConfigPath: config, Registry: mcr.Handler(layoutDir, log), Log: log})
		}},
		{Use: node.InitCommand, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return node.Init() }},
		{Use: node.BootstrapCommand, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if code := bootstrap.Main(cmd.Context(), node.ConfigDir); code != bootstrap.Success {
				return cli.ExitStatus(int(code))
			}
			return nil
		}},
		{Use: "shell-init SPEC -- CMD…", Args: cobra.MinimumNArgs(2), RunE: func(_ *cobra.Command, args []string) error {
			return cli.ShellInit(args[0], args[1:])
		}},
		{Use: "hook cgroup", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			if args[0] != "cgroup" {
				return fmt.Errorf("there is no hook %q", args[0])
			}
			return containerrun.CgroupHook(os.Stdin)
		}},
	}
	for _, c := range commands {
		c.Hidden = true
		c.Flags().StringVar(&config, "config", "", "state file to serve from")
		c.Flags().StringVar(&storage, "storage", "", "directory of the registries' content")
		c.Flags().StringVar(&layoutDir, "mcr", "", "OCI image layout served as mcr.microsoft.com")
	}
	return commands
}
