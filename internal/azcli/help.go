package azcli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// stranger is the error of words that the command does not know: an argument that az has is said to be one.
func (cmd command) stranger(words []string, known []arg) error {
	for _, w := range words {
		name, _, _ := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		if strings.HasPrefix(w, "--") && slices.Contains(notSupported[cmd.path], name) {
			return usagef("argument --%s: az has it, and Cloister does not support it. `cloister az %s --help` lists what it does.", name, cmd.path)
		}
	}
	message := "unrecognized arguments: " + strings.Join(words, " ")
	for _, w := range words {
		if !strings.HasPrefix(w, "--") {
			continue
		}
		name, _, _ := strings.Cut(w[2:], "=")
		if near := nearest(name, known); near != "" {
			message += fmt.Sprintf("\nDid you mean '--%s' ?", near)
		}
	}
	return usagef("%s\n`cloister az %s --help` lists what Cloister understands.", message, cmd.path)
}

// nearest is the argument that a misspelled one was probably meant to be, "" for none.
func nearest(name string, known []arg) string {
	best, far := "", max(2, len(name)/3)+1
	for _, a := range known {
		if d := distance(name, a.name); d < far {
			best, far = a.name, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (cmd command) printHelp(out io.Writer) {
	fmt.Fprintf(out, "\nCommand\n    az %s : %s\n", cmd.path, cmd.help)
	known := cmd.known()
	var titles []string
	by := map[string][]arg{}
	for _, a := range known {
		title := a.title(cmd)
		if by[title] == nil {
			titles = append(titles, title)
		}
		by[title] = append(by[title], a)
	}
	slices.SortStableFunc(titles, func(a, b string) int {
		return cmp.Or(place(a)-place(b), strings.Compare(a, b))
	})
	width := 0
	for _, a := range append(known, global...) {
		width = max(width, len(a.label()))
	}
	for _, title := range titles {
		// az shows what is required first, then by the alphabet.
		slices.SortStableFunc(by[title], func(a, b arg) int {
			if a.required != b.required {
				if a.required {
					return -1
				}
				return 1
			}
			return strings.Compare(a.name, b.name)
		})
		printArguments(out, title, by[title], width)
	}
	printArguments(out, "Global Arguments", global, width)
	if cmd.example != "" {
		fmt.Fprintln(out, "\nExamples")
		for _, e := range cmd.examples() {
			if e[0] != "" {
				fmt.Fprintf(out, "    %s\n    ", e[0])
			}
			fmt.Fprintf(out, "    cloister az %s %s\n", cmd.path, e[1])
		}
	}
	fmt.Fprintln(out)
}

// examples are the lines of example: what it does and a bar, where that is said, and the arguments.
func (cmd command) examples() [][2]string {
	var out [][2]string
	for line := range strings.Lines(cmd.example) {
		what, args, titled := strings.Cut(strings.TrimSpace(line), " | ")
		if !titled {
			what, args = "", what
		}
		out = append(out, [2]string{what, args})
	}
	return out
}

const (
	titleArguments   = "Arguments"
	titleResourceIDs = "Resource Id Arguments"
)

// place orders the groups of a help: what every command has first.
func place(title string) int {
	switch title {
	case titleArguments:
		return 0
	case titleResourceIDs:
		return 2
	}
	return 1
}

func (a arg) title(cmd command) string {
	switch {
	case a.group != "":
		return a.group + " Arguments"
	case cmd.target != nil && (a.name == "ids" || a.part && a.required):
		return titleResourceIDs
	}
	return titleArguments
}

func (a arg) label() string {
	names := append([]string{"--" + a.name}, a.also...)
	if a.short != "" {
		names = append(names, "-"+a.short)
	}
	s := strings.Join(names, " ")
	if a.required {
		s += " [Required]"
	}
	return s
}

func printArguments(out io.Writer, title string, args []arg, width int) {
	fmt.Fprintf(out, "\n%s\n", title)
	for _, a := range args {
		fmt.Fprintf(out, "    %-*s : %s\n", width, a.label(), a.described())
	}
}

// described is an argument's help with what may be given.
func (a arg) described() string {
	text := a.help
	if len(a.choices) > 0 {
		text += "  Allowed values: " + strings.Join(a.choices, ", ") + "."
	}
	if a.kind == truth {
		text += "  Allowed values: false, true."
	}
	if a.def != "" {
		text += "  Default: " + a.def + "."
	}
	return text
}
