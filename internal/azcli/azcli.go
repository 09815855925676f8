// Package azcli is the Azure CLI's commands for a machine without the Azure CLI: `cloister az …`. Names,
// arguments, defaults, requests, output and exit codes are az's; every command is a client of the public
// API and nothing more. An argument or command that is not here is refused with an error that says so.
//
// Written after the command reference, https://learn.microsoft.com/cli/azure/reference-index, and what
// az 2.74 sends, which the tests compare with a recording.
package azcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Options are what the commands work with.
type Options struct {
	// Connect is called when a command that needs the service runs.
	Connect func(ctx context.Context) (*Connection, error)
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	// Terminal tells whether somebody at In can answer a question.
	Terminal bool
	// Colour tells whether Out and Err are terminals, which get colours.
	Colour struct{ Out, Err bool }
	// Registry makes a client that reaches registries by their public names, and what ends it. It is called
	// when a command of a registry's data plane runs.
	Registry func(ctx context.Context) (client *http.Client, end func(), err error)
	// Exit makes the error that ends the program with a status, once the command has said what is wrong.
	Exit func(status int) error
}

// Exit statuses of az.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitInterrupted = 130 // 128 and SIGINT, as shells have it
)

// usageError is a command line that says nothing that can be done.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// status is the exit status that az gives an error.
func status(err error) int {
	var usage usageError
	var arm *Error
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &arm) && arm.Status == http.StatusNotFound:
		return exitNotFound
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailure
}

// program is the commands with what they work with.
type program struct{ Options }

// fail says what is wrong as az does, and ends the program.
func (p program) fail(err error) error {
	message := err.Error()
	var arm *Error
	if errors.As(err, &arm) && arm.Error() == message { // nothing was said around it
		message = arm.told()
	}
	fmt.Fprintln(p.Err, p.coloured(red, "ERROR: "+message))
	if arm != nil {
		for _, line := range arm.because() {
			fmt.Fprintln(p.Err, line)
		}
	}
	return p.Exit(status(err))
}

// Colours of what is said on a terminal, as az has them.
const (
	red       = "\x1b[91m"
	yellow    = "\x1b[33m"
	green     = "\x1b[32m"
	plainText = "\x1b[0m"
)

func (p program) coloured(colour, text string) string {
	if !p.Colour.Err {
		return text
	}
	return colour + text + plainText
}

// warn says what is not an error, unless only errors are wanted.
func (c *call) warn(format string, args ...any) {
	if !c.is("only-show-errors") {
		fmt.Fprintln(c.err, c.p.coloured(yellow, "WARNING: "+fmt.Sprintf(format, args...)))
	}
}

// groups are the groups of commands and what is in them.
var groups = []struct{ path, help string }{
	{"account", "Manage Azure subscription information."},
	{"acr", "Manage private registries with Azure Container Registries."},
	{"acr cache", "Manage cache rules in Azure Container Registries."},
	{"acr config", "Configure policies for Azure Container Registries."},
	{"acr config authentication-as-arm", "Manage 'Azure AD authenticate as ARM' policy for Azure Container Registries."},
	{"acr repository", "Manage repositories (image names) for Azure Container Registries."},
	{"ad", "Manage Microsoft Entra ID entities needed for Azure role-based access control, through Microsoft Graph."},
	{"ad signed-in-user", "Show graph information about current signed-in user in CLI."},
	{"ad sp", "Manage Microsoft Entra service principals."},
	{"acr private-endpoint-connection", "Manage container registry private endpoint connections."},
	{"aks", "Manage Azure Kubernetes Services."},
	{"aks command", "Run commands in a managed cluster without a connection to it."},
	{"aks nodepool", "Manage node pools in a managed Kubernetes cluster."},
	{"extension", "Manage and update CLI extensions."},
	{"feature", "Manage resource provider features."},
	{"group", "Manage resource groups."},
	{"identity", "Manage user assigned identities."},
	{"network", "Manage Azure network resources."},
	{"network lb", "Manage and configure load balancers."},
	{"network lb outbound-rule", "Manage outbound rules of a load balancer."},
	{"network nat", "Manage NAT resources."},
	{"network nat gateway", "Manage NAT gateways."},
	{"network nic", "Manage network interfaces."},
	{"network nsg", "Manage network security groups."},
	{"network nsg rule", "Manage network security group rules."},
	{"network private-dns", "Manage private DNS domains."},
	{"network private-dns link", "Manage virtual network links of private DNS zones."},
	{"network private-dns link vnet", "Manage virtual network links to private DNS zones."},
	{"network private-dns record-set", "Manage private DNS records and record sets."},
	{"network private-dns record-set a", "Manage private DNS A records."},
	{"network private-dns zone", "Manage private DNS zones."},
	{"network private-endpoint", "Manage private endpoints."},
	{"network private-endpoint dns-zone-group", "Manage private endpoint DNS zone groups."},
	{"network public-ip", "Manage public IP addresses."},
	{"network route-table", "Manage route tables."},
	{"network route-table route", "Manage routes in a route table."},
	{"network vnet", "Manage virtual networks."},
	{"network vnet peering", "Manage peering connections between Azure Virtual Networks."},
	{"network vnet subnet", "Manage subnets in a virtual network."},
	{"provider", "Manage resource providers."},
	{"resource", "Manage Azure resources."},
	{"role", "Manage access control with roles."},
	{"role assignment", "Manage role assignments."},
	{"role definition", "Manage role definitions."},
}

// New returns the command `az`.
func New(o Options) *cobra.Command {
	p := program{o}
	root := p.group("az", "The Azure CLI's commands, built in")
	root.Long = "The commands of the Azure CLI that Cloister answers, for a machine without the Azure CLI. They are clients\nof the same API; `cloister shell` runs the Azure CLI itself."
	parents := map[string]*cobra.Command{"": root}
	for _, g := range groups {
		above, name := split(g.path)
		parents[g.path] = p.group(name, g.help)
		parents[above].AddCommand(parents[g.path])
	}
	for _, c := range commands() {
		above, name := split(c.path)
		parents[above].AddCommand(p.command(name, c))
	}
	return root
}

// split parts a command's path into its group's and its own name.
func split(path string) (group, name string) {
	if i := strings.LastIndexByte(path, ' '); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// group is a command that only has others below it.
func (p program) group(name, help string) *cobra.Command {
	c := &cobra.Command{Use: name, Short: help, SilenceErrors: true, SilenceUsage: true, DisableFlagParsing: true, SuggestionsMinimumDistance: 2, Args: cobra.ArbitraryArgs}
	c.SetHelpFunc(func(c *cobra.Command, _ []string) { p.groupHelp(c) })
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
			p.groupHelp(c)
			return nil
		}
		message := fmt.Sprintf("'%s' is misspelled or not recognized by the system.", args[0])
		if close := c.SuggestionsFor(args[0]); len(close) > 0 {
			message += fmt.Sprintf(" Did you mean '%s' ?", close[0])
		}
		return p.fail(usagef("%s `%s --help` lists what Cloister has.", message, c.CommandPath()))
	}
	return c
}

func (p program) groupHelp(c *cobra.Command) {
	fmt.Fprintf(p.Out, "\nGroup\n    %s : %s\n", c.CommandPath(), c.Short)
	if c.Long != "" {
		fmt.Fprintf(p.Out, "        %s\n", strings.ReplaceAll(c.Long, "\n", "\n        "))
	}
	for _, part := range []struct {
		title  string
		groups bool
	}{{"Subgroups", true}, {"Commands", false}} {
		var below []*cobra.Command
		width := 0
		for _, sub := range c.Commands() {
			if sub.HasSubCommands() == part.groups {
				below = append(below, sub)
				width = max(width, len(sub.Name()))
			}
		}
		if len(below) == 0 {
			continue
		}
		slices.SortFunc(below, func(a, b *cobra.Command) int { return strings.Compare(a.Name(), b.Name()) })
		fmt.Fprintf(p.Out, "\n%s:\n", part.title)
		for _, sub := range below {
			fmt.Fprintf(p.Out, "    %-*s : %s\n", width, sub.Name(), sub.Short)
		}
	}
	fmt.Fprintf(p.Out, "\nTo see a command's arguments: %s COMMAND --help\n\n", c.CommandPath())
}

// command is one command of az for cobra, which leaves its arguments alone: az's are not those of POSIX.
func (p program) command(name string, cmd command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: cmd.help, SilenceErrors: true, SilenceUsage: true, DisableFlagParsing: true}
	c.SetHelpFunc(func(*cobra.Command, []string) { cmd.printHelp(p.Out) })
	c.RunE = func(cc *cobra.Command, args []string) error {
		parsed, err := cmd.parse(args)
		if err != nil {
			return p.fail(err)
		}
		if parsed.help {
			cmd.printHelp(p.Out)
			return nil
		}
		parsed.typed = parameterNames(args)
		result, err := p.run(cc.Context(), cmd, parsed)
		if err != nil {
			return p.fail(err)
		}
		if err := p.print(cmd, result, parsed); err != nil {
			return p.fail(err)
		}
		return nil
	}
	return c
}

func (p program) run(ctx context.Context, cmd command, parsed arguments) (any, error) {
	started := time.Now()
	if cmd.confirm != "" && !parsed.is("yes") {
		if err := p.confirm(cmd.confirm); err != nil {
			return nil, err
		}
	}
	c := &call{arguments: parsed, ctx: ctx, p: p, out: p.Out, err: p.Err}
	if !cmd.offline {
		conn, err := p.Connect(ctx)
		if err != nil {
			return nil, err
		}
		if parsed.is("only-show-errors") {
			conn.Progress = nil
		}
		if parsed.is("debug") {
			conn.trace = func(format string, args ...any) { fmt.Fprintf(p.Err, "DEBUG: "+format+"\n", args...) }
		}
		conn.command, conn.typed, conn.warn = cmd.path, parsed.typed, c.warn
		if s := parsed.get("subscription"); s != "" {
			if conn.Subscription, err = conn.subscription(ctx, s); err != nil {
				return nil, err
			}
		}
		c.c = conn
	}
	result, err := cmd.execute(c)
	if parsed.is("verbose") || parsed.is("debug") {
		fmt.Fprintf(p.Err, "INFO: Command ran in %.3f seconds.\n", time.Since(started).Seconds())
	}
	return result, err
}

const noTerminal = "Unable to prompt for confirmation as no tty available. Use --yes."

// confirm asks before something is lost.
func (p program) confirm(question string) error {
	yes, err := p.ask(question, "y/n", false)
	if err == nil && !yes {
		err = errors.New("Operation cancelled.")
	}
	return err
}

// ask asks a question of yes and no. An empty answer is no where the question has that as its default.
func (p program) ask(question, choices string, emptyIsNo bool) (bool, error) {
	if !p.Terminal {
		return false, errors.New(noTerminal)
	}
	for {
		fmt.Fprint(p.Err, question+" ("+choices+"): ")
		answer, err := line(p.In)
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		case "":
			if emptyIsNo || err != nil {
				return false, nil
			}
		default:
			if err != nil {
				return false, nil
			}
		}
	}
}

// line reads up to the end of a line and nothing after it: the next question reads on from there.
func line(in io.Reader) (string, error) {
	var b strings.Builder
	for one := make([]byte, 1); ; {
		n, err := in.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				return b.String(), nil
			}
			b.WriteByte(one[0])
		}
		if err != nil {
			return b.String(), err
		}
	}
}

// yes asks az's question with "no" as the default, unless --yes is said.
func (c *call) yes(question string) (bool, error) {
	if c.is("yes") {
		return true, nil
	}
	return c.p.ask(question, "y/N", true)
}
