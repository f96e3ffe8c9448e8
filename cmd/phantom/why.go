package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) whyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why NODE",
		Short: "why the path to a node is direct or relayed, and what would make it better",
		Long: "Says how packets get to a node, which NAT each side has, what was tried with which result, and what you could change.\n\n" +
			"NODE is a name, a short or full node ID, or an overlay address.",
		Args:              oneArg,
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			w, err := c.Why(cmd.Context(), api.WhyRequest{Node: args[0]})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(w)
			}
			a.printWhy(w)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) printWhy(w *api.Why) {
	fmt.Fprintf(a.stdout, "%s: %s\n", printable(w.Name), printable(w.Summary))
	if w.Path.RTTMs > 0 {
		fmt.Fprintf(a.stdout, "round trip %s, MTU %d\n", millis(w.Path.RTTMs), w.Path.MTU)
	}
	fmt.Fprintln(a.stdout)
	t := a.newTable("SIDE", "HERE", strings.ToUpper(w.Name))
	row := func(name string, of func(localapi.Side) string) { t.add(name, of(w.Self), of(w.Peer)) }
	row("nat", func(s localapi.Side) string { return s.NAT })
	row("mapping", func(s localapi.Side) string { return s.Mapping })
	row("seen as", func(s localapi.Side) string { return strings.Join(s.Mapped, " ") })
	row("mapped port", func(s localapi.Side) string { return yesNo(s.PortMapped) })
	row("ipv4", func(s localapi.Side) string { return yesNo(s.IPv4) })
	row("ipv6", func(s localapi.Side) string { return yesNo(s.IPv6) })
	t.print(a.stdout)
	a.printRelays(w.Relays)
	a.printTried(w.Tried)
	if len(w.Change) > 0 {
		fmt.Fprintf(a.stdout, "\nwhat you could change:\n")
		for _, c := range w.Change {
			fmt.Fprintf(a.stdout, "  - %s\n", printable(c))
		}
	}
}

func (a *app) printRelays(relays []localapi.Relay) {
	if len(relays) == 0 {
		return
	}
	fmt.Fprintln(a.stdout)
	t := a.newTable("RELAY", "AT HAND FOR", "IN USE", "RTT", "LOAD", "RESULT")
	for _, r := range relays {
		whose := map[[2]bool]string{{true, true}: "both", {true, false}: "us", {false, true}: "them"}[[2]bool{r.AtHand, r.Theirs}]
		t.add(r.Name, whose, yesNo(r.InUse), millis(r.RTTMs), fmt.Sprintf("%d%%", r.Load), r.Result)
	}
	t.print(a.stdout)
}

func (a *app) printTried(tried []localapi.Attempt) {
	if len(tried) == 0 {
		return
	}
	fmt.Fprintln(a.stdout)
	t := a.newTable("TRIED", "HOW", "WHEN", "TOOK", "RESULT")
	for _, x := range tried {
		what := x.What
		if !x.Began {
			what += " (begun there)"
		}
		when := ""
		if !x.At.IsZero() {
			when = x.At.Local().Format(time.TimeOnly)
		}
		t.add(what, x.How, when, millis(x.TookMs), x.Result)
	}
	t.print(a.stdout)
}
