package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

// downTimeout: handing over a vote takes a second or two; what takes longer than this needs eyes.
const downTimeout = 30 * time.Second

func (a *app) downVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "stop the node, handing over its duties; phantom up brings it back",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			return a.stop(cmd, "down", func(c *api.Client) func(context.Context) error { return c.Down })
		}),
	}
	return a.jsonFlag(cmd)
}

// stop asks the node to end and waits until its process is gone.
func (a *app) stop(cmd *cobra.Command, done string, how func(*api.Client) func(context.Context) error) error {
	c, err := a.client(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), downTimeout)
	defer cancel()
	if err := c.Stopped(ctx, how(c)); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]bool{done: true})
	}
	if done == "left" {
		fmt.Fprintln(a.stdout, "this node has left the mesh for good and is stopped")
		return nil
	}
	fmt.Fprintln(a.stdout, "the node is stopped; phantom up brings it back")
	return nil
}
