package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/crypto/pairing"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) requestsVerb() *cobra.Command {
	var refuse string
	cmd := &cobra.Command{
		Use:   "requests",
		Short: "list the machines that wait to be approved, at any member",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("refuse") {
				return a.decideRequest(cmd, c, api.ApproveRequest{Code: refuse, Refuse: true})
			}
			l, err := c.Requests(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(l)
			}
			if len(l.Requests) == 0 {
				fmt.Fprintln(a.stdout, "no machine waits to be approved")
				return nil
			}
			t := a.newTable("CODE", "NAME", "ID", "FROM", "SINCE", "ASKED")
			for _, r := range l.Requests {
				t.add(r.Code, r.Name, shortID(r.ID), r.From, r.Since.Local().Format(time.TimeOnly), r.AtName)
			}
			t.print(a.stdout)
			return nil
		}),
	}
	cmd.Flags().StringVar(&refuse, "refuse", "", "turn the machine with this `CODE` away")
	return a.jsonFlag(cmd)
}

func (a *app) approveVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approve CODE",
		Short: "let the machine in that shows this code",
		Long: "Lets the machine in that shows this six-digit code. Compare the code with what is on the new machine's own screen: that it is\n" +
			"the same is what proves that nobody stands between. It works on any member, whichever was asked.",
		Args: oneArg,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			return a.decideRequest(cmd, c, api.ApproveRequest{Code: args[0]})
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) decideRequest(cmd *cobra.Command, c *api.Client, q api.ApproveRequest) error {
	if !pairing.IsCode(q.Code) {
		return wrongUsage("%q is no code: six digits, as the new machine shows them", q.Code)
	}
	r, err := c.Approve(cmd.Context(), q)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	done := "is in the mesh"
	if q.Refuse {
		done = "is turned away"
	}
	fmt.Fprintf(a.stdout, "%s (%s) from %s %s\n", printable(r.Name), shortID(r.ID), printable(r.From), done)
	return nil
}

func (a *app) pairVerb() *cobra.Command {
	var window time.Duration
	cmd := &cobra.Command{
		Use:   "pair",
		Short: "let the next machine in that asks from the LAN",
		Long: "Opens a window in which the next machine of the LAN that asks is let in without approve; run phantom up there. Compare the\n" +
			"code that both show afterwards. Interrupting the command closes the window.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if window <= 0 || window > localapi.PairWindowMax {
				return wrongUsage("a window of %s: from %s to %s is possible", window, localapi.PairWindowMin, localapi.PairWindowMax)
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "# the next machine that asks within %s is let in: run phantom up there now\n", window)
			r, err := c.Pair(cmd.Context(), api.PairRequest{For: window})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.stdout, "%s (%s) from %s is in the mesh; its code was %s\n", printable(r.Name), shortID(r.ID), printable(r.From), printable(r.Code))
			fmt.Fprintf(a.stdout, "next       compare the code with that machine's; if it differs: phantom revoke %s\n", printable(r.Name))
			return nil
		}),
	}
	cmd.Flags().DurationVar(&window, "for", 2*time.Minute, "how long the window is open")
	return a.jsonFlag(cmd)
}
