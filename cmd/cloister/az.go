package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cloister-dev/cloister/internal/azcli"
	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/cli/progress"
)

// errFailed ends the line of a step; what went wrong is said as the command's error.
var errFailed = errors.New("failed")

// azCommand is `cloister az`, over the installation's socket.
func azCommand(g cli.Globals) *cobra.Command {
	connect := func(ctx context.Context) (*azcli.Connection, error) {
		client, token, err := cli.Connect(ctx, g)
		if err != nil {
			return nil, err
		}
		printer := progress.New(os.Stderr)
		return &azcli.Connection{
			HTTP: client, Endpoint: "http://cloister", Graph: "http://graph.microsoft.com", Subscription: token.SubscriptionID, TenantID: token.TenantID,
			Token:    func(ctx context.Context, resource string) (string, error) { return cli.Token(ctx, g, resource) },
			Progress: func(what string) (func(string), func(error)) { return timeline(printer, what) },
		}, nil
	}
	o := azcli.Options{
		Connect: connect, In: os.Stdin, Out: g.Stdout(), Err: g.Stderr(),
		Terminal: term.IsTerminal(int(os.Stdin.Fd())),
		Exit:     func(status int) error { return cli.ExitStatus(status) },
		Registry: func(ctx context.Context) (*http.Client, func(), error) { return cli.Outside(ctx, g) },
	}
	if os.Getenv("NO_COLOR") == "" {
		o.Colour.Out, o.Colour.Err = term.IsTerminal(int(os.Stdout.Fd())), term.IsTerminal(int(os.Stderr.Fd()))
	}
	return azcli.New(o)
}

// timeline shows an operation's steps as they begin: the one under way beside the operation's name, those
// before it in lines above. A step that comes again is told once.
func timeline(printer *progress.Printer, what string) (note func(string), end func(error)) {
	start := time.Now()
	step := printer.Start(what, 0)
	seen := map[string]bool{}
	return func(name string) {
			step.Note("%s", name)
			if !seen[name] {
				seen[name] = true
				printer.Println(fmt.Sprintf("  %8s  %s", progress.Duration(time.Since(start)), name))
			}
		}, func(err error) {
			if err != nil {
				step.Fail(errFailed)
				return
			}
			step.Done("")
		}
}
