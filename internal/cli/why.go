package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/cli/progress"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

func (g *globals) why() *cobra.Command {
	return g.outputFlag(&cobra.Command{
		Use:   "why [RESOURCE]",
		Short: "Say why a cluster, node, pod, private endpoint, registry or DNS zone is not healthy, and how to mend it",
		Long: `Follows the chain of what a resource stands on, says of each link what it saw, names the
first cause, and prints the az commands that mend it. It changes nothing.

RESOURCE is a name (of a cluster also RG/NAME, of a pod also NAMESPACE/NAME) or a resource ID.
Without one it is about everything that is not healthy.`,
		Example: "  cloister why\n  cloister why demo/demo\n  cloister why aks-nodepool1-12345678-vmss000000\n  cloister why default/web",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := g.connect()
			if err != nil {
				return err
			}
			query := url.Values{}
			if len(args) == 1 {
				query.Set("resource", args[0])
			}
			found := []adminapi.Diagnosis{}
			printer := progress.New(os.Stderr)
			// Where packets get lost, the questions take their time.
			slow := time.AfterFunc(2*time.Second, func() { printer.Start("Waiting for what does not answer", 0) })
			err = c.do(cmd.Context(), http.MethodGet, "/cloister/v1/why", query, nil, &found)
			slow.Stop()
			printer.Close()
			if err != nil {
				return err
			}
			if g.output == "json" {
				return printJSON(os.Stdout, found)
			}
			p := whyPrinter{out: os.Stdout, colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
			if len(found) == 0 {
				fmt.Fprintln(p.out, "Everything is healthy.")
			}
			for i, d := range found {
				if i > 0 {
					fmt.Fprintln(p.out)
				}
				p.diagnosis(d)
			}
			return nil
		},
	})
}

// whyPrinter writes diagnoses for people.
type whyPrinter struct {
	out    io.Writer
	colour bool
}

func (p whyPrinter) paint(s, code string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

var linkMarks = map[string]struct{ mark, code string }{
	adminapi.LinkFine: {"✓", "32"}, adminapi.LinkBroken: {"✗", "31"}, adminapi.LinkUnknown: {"·", "2"},
}

func (p whyPrinter) diagnosis(d adminapi.Diagnosis) {
	state := d.State
	if d.Healthy {
		state = strings.TrimSuffix("healthy, "+state, ", ")
	}
	fmt.Fprintf(p.out, "%s %s: %s\n", p.paint(strings.ToUpper(d.Kind[:1])+d.Kind[1:], "1"), p.paint(subjectName(d), "1"), state)
	for _, l := range d.Links {
		m := linkMarks[l.State]
		fmt.Fprintf(p.out, "  %s %-10s  %s\n", p.paint(m.mark, m.code), l.Name, p.link(l))
	}
	if d.Cause != nil {
		fmt.Fprintf(p.out, "\n  %s  %s: %s\n", p.paint("Cause", "1;31"), d.Cause.Name, d.Cause.Saw)
		p.commands("Mend it", d.Cause.Mend)
	}
	p.commands("Then", d.Then)
	for _, w := range d.Warnings {
		fmt.Fprintf(p.out, "\n  %s  %s\n", p.paint("Warning", "1;33"), w.Message)
		p.commands("Mend it", w.Mend)
	}
}

// link says what was seen, and of what where that does not say it.
func (p whyPrinter) link(l adminapi.Link) string {
	subject := l.Subject
	if id, err := resourceid.Parse(l.Subject); err == nil {
		subject = id.Name()
	}
	if strings.Contains(l.Saw, subject) {
		return l.Saw
	}
	return p.paint(subject, "36") + "  " + l.Saw
}

func (p whyPrinter) commands(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(p.out, "  %s\n", title)
	for _, line := range lines {
		fmt.Fprintf(p.out, "    %s\n", p.paint(line, "36"))
	}
}

// subjectName is what people call the subject.
func subjectName(d adminapi.Diagnosis) string {
	for _, kind := range []string{"/nodes/", "/pods/"} {
		if _, name, ok := strings.Cut(d.Subject, kind); ok && (d.Kind == "node" || d.Kind == "pod") {
			return name
		}
	}
	id, err := resourceid.Parse(d.Subject)
	if err != nil {
		return d.Subject
	}
	return id.ResourceGroup() + "/" + id.Name()
}
