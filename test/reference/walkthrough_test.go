package reference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/azcli"
)

var (
	typed    = regexp.MustCompile(`(?m)(?:^\$ |\$\()((?:[A-Z_]+=\$\()?az [^\n]*)`)
	variable = regexp.MustCompile(`\$\{?[A-Za-z_]+\}?`)
	words    = regexp.MustCompile(`"([^"]*)"|'([^']*)'|(\S+)`)
)

var errNoService = errors.New("there is no service here")

type ended int

func (e ended) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// TestWalkthroughIsUnderstood: every az command that the walkthrough shows is one that is built in, with arguments that
// it has. That each does what is shown is for test/e2e and test/azurecli.
func TestWalkthroughIsUnderstood(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "walkthrough", "*.md"))
	if err != nil || len(pages) < 8 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	commands := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range typed.FindAllStringSubmatch(string(text), -1) {
			line := m[1][strings.Index(m[1], "az ")+3:]
			line, _, _ = strings.Cut(line, ") --")
			line = strings.TrimSuffix(line, ")")
			var args []string
			for _, w := range words.FindAllStringSubmatch(line, -1) {
				value := "name"
				if idArgument(args) {
					value = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v"
				}
				args = append(args, variable.ReplaceAllString(w[1]+w[2]+w[3], value))
			}
			var complaint strings.Builder
			c := azcli.New(azcli.Options{
				Connect: func(context.Context) (*azcli.Connection, error) { return nil, errNoService },
				In:      strings.NewReader(""), Out: io.Discard, Err: &complaint, Exit: func(status int) error { return ended(status) },
			})
			c.SetArgs(args)
			commands++
			if err := c.ExecuteContext(t.Context()); errors.Is(err, ended(2)) {
				t.Errorf("%s: az %s: %s", filepath.Base(page), strings.Join(args, " "), complaint.String())
			}
		}
	}
	if commands < 60 {
		t.Errorf("only %d commands were found", commands)
	}
}

// idArgument tells whether the value that comes next is a resource's ID.
func idArgument(args []string) bool {
	if len(args) == 0 {
		return false
	}
	last := args[len(args)-1]
	return strings.HasSuffix(last, "-id") || strings.HasSuffix(last, "identity") || last == "--ids" || last == "--scope"
}
