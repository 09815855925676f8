package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/cloister-dev/cloister/internal/azcli"
	"github.com/cloister-dev/cloister/internal/cli"
	"github.com/cloister-dev/cloister/internal/cli/progress"
)

// azCommand is `cloister az`, over the installation's socket.
func azCommand(g cli.Globals) *cobra.Command {
	connect := func(ctx context.Context) (*azcli.Connection, error) {
		client, token, err := cli.Connect(ctx, g)
		if err != nil {
			return nil, err
		}
		printer := progress.New(os.Stderr)
		return &azcli.Connection{
			HTTP: client, Endpoint: "http://cloister", Subscription: token.SubscriptionID, TenantID: token.TenantID,
			Token: func(context.Context) (string, error) { return token.AccessToken, nil },
			Progress: func(what string) (func(string), func(error)) {
				step := printer.Start(what, 0)
				return func(note string) { step.Note("%s", note) }, func(err error) {
					if err != nil {
						step.Fail(err)
						return
					}
					step.Done("")
				}
			},
		}, nil
	}
	return azcli.New(connect, g.Stdout(), g.Stderr())
}
