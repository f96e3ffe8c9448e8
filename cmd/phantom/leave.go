package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

func (a *app) leaveVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "stop the node and give up its membership for good",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			return a.stop(cmd, "left", func(c *api.Client) func(context.Context) error { return c.Leave })
		}),
	}
	return a.jsonFlag(cmd)
}
