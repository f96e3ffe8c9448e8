package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
)

func (a *app) tagVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag NODE [TAG]...",
		Short: "replace a node's tags",
		Long: "Gives a node these tags and takes the others away; without any TAG it has none afterwards. Tags are part of the\n" +
			"node's certificate: a new one reaches it within seconds.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			for _, t := range args[1:] {
				if err := config.CheckLabel(t); err != nil {
					return wrongUsage("tag %q: %v", t, err)
				}
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			r, err := c.Tag(cmd.Context(), api.TagRequest{Node: args[0], Tags: args[1:]})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			if len(r.Tags) == 0 {
				fmt.Fprintf(a.stdout, "%s (%s) has no tags\n", printable(r.Name), shortID(r.ID))
				return nil
			}
			fmt.Fprintf(a.stdout, "%s (%s) has the tags %s\n", printable(r.Name), shortID(r.ID), printable(strings.Join(r.Tags, " ")))
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) renameVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rename NODE NAME",
		Short:             "give a node another name",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			name := strings.ToLower(args[1])
			if err := config.CheckLabel(name); err != nil {
				return wrongUsage("name %q: %v", args[1], err)
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			r, err := c.Rename(cmd.Context(), api.RenameRequest{Node: args[0], Name: name})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.stdout, "%s (%s) is called %s now\n", printable(r.Was), shortID(r.ID), printable(r.Name))
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}
