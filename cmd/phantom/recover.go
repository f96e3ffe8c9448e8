package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) recoverVerb() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "make this node the only voter after the quorum is lost for good",
		Long: "When most of the coordinators are gone for good, the mesh can decide nothing: nobody is invited, revoked or renewed,\n" +
			"although traffic goes on. This makes the node it is run on the only voter, with the ledger as far as it has it; others\n" +
			"take votes again by themselves. Run it on one node only.\n\n" +
			"A coordinator that was thought lost and returns becomes a plain member. What was decided on its side meanwhile is void.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if !yes && !isTerminal(a.stdin) {
				return wrongUsage("nobody is here to ask: say --yes to recover without a question")
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			if !yes {
				plan, err := c.Recover(cmd.Context(), api.RecoverRequest{Plan: true})
				if err != nil {
					return err
				}
				if err := a.confirmRecovery(plan); err != nil {
					return err
				}
			}
			r, err := c.Recover(cmd.Context(), api.RecoverRequest{})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.stdout, "%s decides alone now (generation %d)\n", printable(r.Name), r.Generation)
			if !r.Whole {
				fmt.Fprintln(a.stdout, "# only the signed state was here: invitations, and the audit log up to now, are gone")
			}
			for _, l := range r.Lost {
				if l.Alive {
					continue
				}
				fmt.Fprintf(a.stdout, "# %s: if it does not come back, revoke it: phantom revoke %s\n", printable(l.Name), printable(l.Name))
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return a.jsonFlag(cmd)
}

// confirmRecovery shows what will happen and has a person agree.
func (a *app) confirmRecovery(plan *api.Recovered) error {
	var lost []string
	for _, l := range plan.Lost {
		up := ""
		if l.Alive {
			up = ", up: it gets one again"
		}
		lost = append(lost, fmt.Sprintf("%s (%s%s)", printable(l.Name), shortID(l.ID), up))
	}
	fmt.Fprintf(a.stderr, "%s would be the only voter. These lose their votes: %s.\n", printable(plan.Name), orElse(strings.Join(lost, ", "), "none"))
	fmt.Fprint(a.stderr, "If they are up but out of reach, what they decide from now on is void when they are back.\n")
	if !plan.Whole {
		fmt.Fprint(a.stderr, "This node has only the signed state: invitations and the audit log up to now would be gone.\n")
	}
	fmt.Fprint(a.stderr, "Go on? [y/N] ")
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	if l := strings.ToLower(strings.TrimSpace(line)); l == "y" || l == "yes" {
		return nil
	}
	return localapi.Fail(localapi.Failed, "nothing was changed", errors.New("you did not agree"), "")
}
