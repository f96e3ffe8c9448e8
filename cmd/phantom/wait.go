package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) waitVerb() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [NODE]",
		Short: "block until this node is online, and NODE can be reached",
		Long: "Blocks until this node is online in its mesh and, if NODE is named, until NODE answers through the overlay.\n" +
			"Exits 5 when the time is over. For scripts and units.",
		Args:              maybeArg,
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return wrongUsage("--timeout cannot be negative")
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			r := api.WaitRequest{Timeout: timeout}
			if len(args) > 0 {
				r.Node = args[0]
			}
			if err := c.Wait(cmd.Context(), r); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"reachable": true, "state": localapi.StateOnline, "node": r.Node})
			}
			return nil
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time; 0: never")
	return a.jsonFlag(cmd)
}
