package azcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// arg is one argument of a command.
type arg struct {
	name     string // resource-group
	short    string // g
	help     string
	required bool
	def      string // default, shown in the help
	flag     bool   // takes no value, or true/false
	many     bool   // takes one or more values, separated by spaces
	choices  []string
	also     []string // further spellings, with their dashes
}

// call is one run of a command.
type call struct {
	ctx    context.Context
	c      *Connection
	values map[string][]string
	out    io.Writer
	raw    bool // show the answer as it is
}

func (c *call) get(name string) string {
	if v := c.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c *call) all(name string) []string { return c.values[name] }
func (c *call) has(name string) bool     { return len(c.values[name]) > 0 }
func (c *call) is(name string) bool      { return strings.EqualFold(c.get(name), "true") }

// group is the resource group of --resource-group.
func (c *call) group() resourceid.ID { return c.c.group(c.get("resource-group")) }

// location is --location, or the resource group's.
func (c *call) location() (string, error) {
	if l := c.get("location"); l != "" {
		return strings.ToLower(strings.ReplaceAll(l, " ", "")), nil
	}
	doc, err := c.c.get(c.ctx, c.group(), resourcesAPI)
	if err != nil {
		return "", err
	}
	l, _ := doc["location"].(string)
	return l, nil
}

// tags reads --tags key=value …
func (c *call) tags() map[string]string {
	if !c.has("tags") {
		return nil
	}
	out := map[string]string{}
	for _, t := range c.all("tags") {
		k, v, _ := strings.Cut(t, "=")
		if k != "" {
			out[k] = v
		}
	}
	return out
}

// command is one command of az.
type command struct {
	path string // "aks nodepool list"
	help string
	args []arg
	run  func(c *call) (any, error)
}

// Arguments that many commands share.
var (
	argGroup    = arg{name: "resource-group", short: "g", help: "Name of resource group.", required: true}
	argName     = arg{name: "name", short: "n", help: "Name of the resource.", required: true}
	argLocation = arg{name: "location", short: "l", help: "Location; that of the resource group by default."}
	argTags     = arg{name: "tags", help: "Space-separated tags: key[=value] [key[=value] ...].", many: true}
	argNoWait   = arg{name: "no-wait", help: "Do not wait for the long-running operation to finish.", flag: true}
	argYes      = arg{name: "yes", short: "y", help: "Do not prompt for confirmation.", flag: true}
)

func optional(a arg) arg { a.required = false; return a }

// New returns the command `az`. connect is called when a command that needs it runs.
func New(connect func(ctx context.Context) (*Connection, error), out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "az",
		Short: "The Azure CLI's commands, built in",
		Long:  "The commands of the Azure CLI that Cloister answers, for a machine without the Azure CLI. They are clients\nof the same API; `cloister shell` runs the Azure CLI itself.",
	}
	groups := map[string]*cobra.Command{"": root}
	for _, cmd := range commands() {
		words := strings.Fields(cmd.path)
		parent := root
		for i := 1; i < len(words); i++ {
			key := strings.Join(words[:i], " ")
			if groups[key] == nil {
				groups[key] = &cobra.Command{Use: words[i-1], Short: "Commands of az " + key, RunE: func(c *cobra.Command, args []string) error {
					if len(args) > 0 {
						return fmt.Errorf("%q is misspelled or not supported by Cloister; `%s --help` lists what is", strings.Join(args, " "), c.CommandPath())
					}
					return c.Help()
				}}
				parent.AddCommand(groups[key])
			}
			parent = groups[key]
		}
		parent.AddCommand(cmd.cobra(words[len(words)-1], connect, out, errOut))
	}
	root.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%q is misspelled or not supported by Cloister; `cloister az --help` lists what is", strings.Join(args, " "))
		}
		return c.Help()
	}
	return root
}

// Output is what every command of az understands beside its own arguments.
type outputFlags struct{ format, query string }

func (cmd command) cobra(use string, connect func(context.Context) (*Connection, error), out, errOut io.Writer) *cobra.Command {
	c := &cobra.Command{Use: use, Short: cmd.help, DisableFlagParsing: true}
	c.SetHelpFunc(func(*cobra.Command, []string) { cmd.printHelp(out) })
	c.RunE = func(cc *cobra.Command, args []string) error {
		values, flags, help, err := cmd.parse(args)
		if help {
			cmd.printHelp(out)
			return nil
		}
		if err != nil {
			return fmt.Errorf("az %s: %w", cmd.path, err)
		}
		conn, err := connect(cc.Context())
		if err != nil {
			return err
		}
		if s := values["subscription"]; len(s) > 0 {
			conn.Subscription = s[0]
		}
		call := &call{ctx: cc.Context(), c: conn, values: values, out: out}
		result, err := cmd.run(call)
		if err != nil {
			return err
		}
		if !call.raw {
			result = flatten(result)
		}
		return print(out, result, flags.format, flags.query)
	}
	return c
}

// parse reads az's arguments: --name value, --name=value, -n value, and lists of values up to the next argument.
func (cmd command) parse(args []string) (values map[string][]string, flags outputFlags, help bool, err error) {
	values = map[string][]string{}
	known := append([]arg{}, cmd.args...)
	known = append(known, arg{name: "output", short: "o"}, arg{name: "query"}, arg{name: "subscription"},
		arg{name: "only-show-errors", flag: true}, arg{name: "verbose", flag: true}, arg{name: "debug", flag: true})
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "--help" || word == "-h" {
			return nil, flags, true, nil
		}
		name, value, inline := strings.Cut(word, "=")
		a, err := find(known, name)
		if err != nil {
			return nil, flags, false, err
		}
		var given []string
		if inline {
			given = []string{value}
		}
		for !inline && i+1 < len(args) && !isFlag(args[i+1]) {
			if !a.many && len(given) == 1 {
				break
			}
			i++
			given = append(given, args[i])
		}
		if len(given) == 0 {
			if !a.flag {
				return nil, flags, false, fmt.Errorf("argument --%s: expected one argument", a.name)
			}
			given = []string{"true"}
		}
		if len(a.choices) > 0 {
			if given[0], err = choose(a, given[0]); err != nil {
				return nil, flags, false, err
			}
		}
		values[a.name] = given
	}
	flags = outputFlags{format: firstOf(values["output"]), query: firstOf(values["query"])}
	var missing []string
	for _, a := range cmd.args {
		if a.required && len(values[a.name]) == 0 {
			missing = append(missing, a.usage())
		}
	}
	if len(missing) > 0 {
		return nil, flags, false, fmt.Errorf("the following arguments are required: %s", strings.Join(missing, ", "))
	}
	for _, a := range cmd.args {
		if a.def != "" && len(values[a.name]) == 0 {
			values[a.name] = []string{a.def}
		}
	}
	return values, flags, false, nil
}

func firstOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// isFlag tells an argument from a value; a negative number is a value.
func isFlag(s string) bool {
	return len(s) > 1 && s[0] == '-' && (s[1] < '0' || s[1] > '9')
}

func find(known []arg, word string) (arg, error) {
	for _, a := range known {
		if slices.Contains(a.also, word) {
			return a, nil
		}
	}
	if name, long := strings.CutPrefix(word, "--"); long {
		var prefixed []arg
		for _, a := range known {
			if a.name == name {
				return a, nil
			}
			if strings.HasPrefix(a.name, name) {
				prefixed = append(prefixed, a)
			}
		}
		if len(prefixed) == 1 { // az accepts an unambiguous beginning
			return prefixed[0], nil
		}
	} else if short, ok := strings.CutPrefix(word, "-"); ok {
		for _, a := range known {
			if a.short == short {
				return a, nil
			}
		}
	}
	return arg{}, fmt.Errorf("unrecognized arguments: %s (or not supported by Cloister)", word)
}

// choose folds the case of an enumeration's value, as az does.
func choose(a arg, value string) (string, error) {
	for _, c := range a.choices {
		if strings.EqualFold(c, value) {
			return c, nil
		}
	}
	return "", fmt.Errorf("argument --%s: invalid choice: %q (choose from '%s')", a.name, value, strings.Join(a.choices, "', '"))
}

func (a arg) usage() string {
	s := "--" + a.name
	if a.short != "" {
		s += "/-" + a.short
	}
	return s
}

func (cmd command) printHelp(out io.Writer) {
	fmt.Fprintf(out, "\nCommand\n    az %s : %s\n\nArguments\n", cmd.path, cmd.help)
	for _, a := range append(append([]arg{}, cmd.args...), arg{name: "output", short: "o", help: "Output format: json, jsonc, yaml, yamlc, table, tsv, none."}, arg{name: "query", help: "JMESPath query string. See http://jmespath.org/."}) {
		text := a.help
		if len(a.choices) > 0 {
			text += "  Allowed values: " + strings.Join(a.choices, ", ") + "."
		}
		if a.def != "" {
			text += "  Default: " + a.def + "."
		}
		required := ""
		if a.required {
			required = " [Required]"
		}
		fmt.Fprintf(out, "    %-40s : %s\n", a.usage()+required, text)
	}
	fmt.Fprintln(out)
}

var errNotInteractive = errors.New("this deletes; say --yes/-y")
