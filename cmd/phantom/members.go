package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) membersVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "members",
		Short: "the nodes of the mesh as the ledger knows them",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			l, err := c.Members(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(l)
			}
			t := a.newTable("NAME", "ID", "ADDRESSES", "REGION", "TAGS", "STATE", "CERTIFICATE UNTIL")
			for _, m := range l.Members {
				t.add(m.Name, shortID(m.ID), strings.Join(m.Addresses, " "), m.Region, strings.Join(m.Tags, " "), word(m.State), day(m.NotAfter))
			}
			t.print(a.stdout)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}
