package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

// reasonMax keeps the reason a line: it goes into the audit log for good.
const reasonMax = 200

func (a *app) revokeVerb() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke NODE",
		Short: "take a node's membership away for good",
		Long: "Takes a node's membership away. Every member that can be reached cuts it off within seconds;\n" +
			"it can come back only with a new identity and a new invitation.",
		Args:              oneArg,
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			if len(reason) > reasonMax {
				return wrongUsage("--reason is too long, %d bytes at most", reasonMax)
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			r, err := c.Revoke(cmd.Context(), api.RevokeRequest{Node: args[0], Reason: reason})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.stdout, "%s (%s) is revoked\n", printable(r.Name), shortID(r.ID))
			return nil
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return a.jsonFlag(cmd)
}
