package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

func (a *app) coordinatorsVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "coordinators",
		Short: "leader, voters, regions, quorum",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			l, err := c.Coordinators(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(l)
			}
			a.printCoordinators(l)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) printCoordinators(l *api.CoordinatorList) {
	quorum := cell{"yes", green}
	if !l.Quorum {
		quorum = cell{"no", red}
	}
	fmt.Fprintf(a.stdout, "quorum  %s\nterm    %d\n\n", a.styled(quorum), l.Term)
	t := a.newTable("VOTER", "ID", "ROLE", "SINCE")
	for _, v := range l.Voters {
		role := "voter"
		if v.ID == l.Leader {
			role = "leader"
		}
		t.add(v.Name, shortID(v.ID), role, minute(v.Since))
	}
	t.print(a.stdout)
	if len(l.Regions) > 0 {
		fmt.Fprintln(a.stdout)
		t := a.newTable("REGION", "COORDINATOR", "ID", "SINCE")
		for _, r := range l.Regions {
			t.add(r.Region, r.Name, shortID(r.Coordinator), minute(r.Since))
		}
		t.print(a.stdout)
	}
	if !l.Quorum {
		fmt.Fprint(a.stdout, "\n# no quorum: decisions wait; traffic goes on\n")
	}
}
