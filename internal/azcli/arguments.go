package azcli

import (
	"slices"
	"strconv"
	"strings"
)

// arg is one argument of a command.
type arg struct {
	name     string // resource-group
	short    string // g
	help     string
	required bool
	def      string // default, shown in the help
	kind     kind
	choices  []string
	part     bool     // a name: one part of a resource ID
	also     []string // further spellings, with their dashes
	appends  bool     // said again, it adds to what was said
	group    string   // under which the help shows it; "Arguments" for none
}

// kind is what an argument takes.
type kind int

const (
	value  kind = iota // one value
	many               // one or more values, separated by spaces
	flag               // none: to say it is enough
	truth              // true or false; to say it alone is true
	number             // one whole number
)

// arguments are what was said to a command.
type arguments struct {
	values map[string][]string
	given  map[string]bool // what was said, and is no default
	typed  []string        // the names as they were typed
	help   bool
}

func (a arguments) get(name string) string {
	if v := a.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (a arguments) all(name string) []string { return a.values[name] }
func (a arguments) has(name string) bool     { return len(a.values[name]) > 0 }
func (a arguments) said(name string) bool    { return a.given[name] }

// cleared tells that a property is to go: az says so by an empty value or by null.
func (a arguments) cleared(name string) bool {
	v := a.get(name)
	return a.said(name) && (v == "" || v == "null")
}

func (a arguments) is(name string) bool { return a.get(name) == "true" }

// integer is a number that parse has looked at.
func (a arguments) integer(name string) int {
	n, err := strconv.Atoi(a.get(name))
	if err != nil {
		return 0
	}
	return n
}

var outputs = []string{"json", "jsonc", "yaml", "yamlc", "table", "tsv", "none"}

// global are the arguments that every command of az takes.
var global = []arg{
	{name: "output", short: "o", help: "Output format.", choices: outputs, def: "json"},
	{name: "query", help: "JMESPath query string. See http://jmespath.org/ for more information and examples."},
	{name: "subscription", help: "Name or ID of subscription."},
	{name: "only-show-errors", help: "Only show errors, suppressing warnings.", kind: flag},
	{name: "verbose", help: "Increase logging verbosity: say how long the command took.", kind: flag},
	{name: "debug", help: "Increase logging verbosity to show each request with its correlation ID.", kind: flag},
}

// known are all arguments of a command.
func (cmd command) known() []arg {
	own := append([]arg{}, cmd.args...)
	if cmd.target != nil {
		own = append(own, arg{name: "ids", help: "One or more resource IDs (space-delimited). If provided, no other 'Resource Id' arguments should be specified.", kind: many})
	}
	if cmd.confirm != "" {
		own = append(own, arg{name: "yes", short: "y", help: "Do not prompt for confirmation.", kind: flag})
	}
	if cmd.waits {
		own = append(own, arg{name: "no-wait", help: "Do not wait for the long-running operation to finish.", kind: flag})
	}
	return own
}

// parse reads az's arguments: --name value, --name=value, -n value, -nvalue, lists of values up to the next
// argument, and any unambiguous beginning of a name.
func (cmd command) parse(words []string) (arguments, error) {
	out := arguments{values: map[string][]string{}, given: map[string]bool{}}
	own := cmd.known()
	known := slices.Concat(own, global)
	var strangers []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "--help" || word == "-h" {
			return arguments{help: true}, nil
		}
		if !isFlag(word) {
			strangers = append(strangers, word)
			continue
		}
		a, inline, found, err := find(known, word)
		if err != nil {
			return out, err
		}
		if !found {
			strangers = append(strangers, word)
			continue
		}
		given := inline
		for given == nil || a.kind == many && inline == nil {
			if i+1 == len(words) || isFlag(words[i+1]) || a.kind == flag {
				break
			}
			i++
			given = append(given, words[i])
		}
		if given, err = a.check(given); err != nil {
			return out, err
		}
		if a.appends {
			given = append(out.values[a.name], given...)
		}
		out.values[a.name], out.given[a.name] = given, true
	}
	if len(strangers) > 0 {
		return out, cmd.stranger(strangers, known)
	}
	if len(out.values["ids"]) == 0 || cmd.target == nil {
		var missing []string
		for _, a := range own {
			if a.required && len(out.values[a.name]) == 0 {
				missing = append(missing, a.usage())
			}
		}
		if len(missing) > 0 {
			return out, usagef("the following arguments are required: %s", strings.Join(missing, ", "))
		}
	}
	for _, a := range own {
		if a.def != "" && len(out.values[a.name]) == 0 {
			out.values[a.name] = []string{a.def}
		}
	}
	return out, nil
}

// isFlag tells an argument from a value; a negative number is a value, and so is a lone dash.
func isFlag(s string) bool {
	return len(s) > 1 && s[0] == '-' && (s[1] < '0' || s[1] > '9')
}

// find is the argument that a word names, with the value that the word holds itself.
func find(known []arg, word string) (a arg, inline []string, found bool, err error) {
	spelled, held, equals := strings.Cut(word, "=")
	if equals {
		inline = []string{held}
	}
	for _, a := range known {
		if slices.Contains(a.also, spelled) {
			return a, inline, true, nil
		}
	}
	if name, long := strings.CutPrefix(spelled, "--"); long {
		var begun []arg
		for _, a := range known {
			if a.name == name {
				return a, inline, true, nil
			}
			if strings.HasPrefix(a.name, name) {
				begun = append(begun, a)
			}
		}
		switch len(begun) {
		case 1:
			return begun[0], inline, true, nil
		case 0:
			return arg{}, nil, false, nil
		}
		names := make([]string, len(begun))
		for i, b := range begun {
			names[i] = "--" + b.name
		}
		return arg{}, nil, false, usagef("ambiguous option: %s could match %s", spelled, strings.Join(names, ", "))
	}
	for _, a := range known {
		if a.short != "" && a.short == spelled[1:] {
			return a, inline, true, nil
		}
	}
	for _, a := range known { // -nvalue
		if a.short != "" && a.kind != flag && strings.HasPrefix(word[1:], a.short) {
			return a, []string{word[1+len(a.short):]}, true, nil
		}
	}
	return arg{}, nil, false, nil
}

// check looks at the values given to the argument, and folds the case of enumerations as az does.
func (a arg) check(given []string) ([]string, error) {
	switch {
	case a.kind == flag && given != nil:
		return nil, usagef("argument %s: ignored explicit argument '%s'", a.usage(), given[0])
	case a.kind == flag:
		return []string{"true"}, nil
	case a.kind == truth && given == nil:
		return []string{"true"}, nil
	case a.kind == many && len(given) == 0:
		return nil, usagef("argument %s: expected at least one argument", a.usage())
	case len(given) == 0:
		return nil, usagef("argument %s: expected one argument", a.usage())
	}
	switch {
	case a.part && (given[0] == "" || strings.ContainsAny(given[0], "/?#%\\ \t\n")):
		return nil, usagef("argument %s: '%s' is not a name: it must not be empty, and must not contain blanks or any of / ? # %% \\", a.usage(), given[0])
	case a.kind == truth:
		switch strings.ToLower(given[0]) {
		case "true", "t", "yes", "y", "1":
			return []string{"true"}, nil
		case "false", "f", "no", "n", "0":
			return []string{"false"}, nil
		}
		return nil, usagef("'%s' is not a valid value for '--%s'. Allowed values: false, true.", given[0], a.name)
	case a.kind == number:
		if _, err := strconv.Atoi(given[0]); err != nil {
			return nil, usagef("argument %s: invalid int value: '%s'", a.usage(), given[0])
		}
	case len(a.choices) > 0:
		for i, g := range given {
			n := slices.IndexFunc(a.choices, func(c string) bool { return strings.EqualFold(c, g) })
			if n < 0 {
				return nil, usagef("'%s' is not a valid value for '--%s'. Allowed values: %s.", g, a.name, strings.Join(a.choices, ", "))
			}
			given[i] = a.choices[n]
		}
	}
	return given, nil
}

func (a arg) usage() string {
	s := "--" + a.name
	if a.short != "" {
		s += "/-" + a.short
	}
	return s
}
