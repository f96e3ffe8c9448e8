package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) netcheckVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "the NAT in front of this node, and how others can reach it",
		Long: "Says which NAT stands in front of this node, under which addresses others see it, whether the router maps a port,\n" +
			"whether UDP and IPv6 get out, and how far the relays and coordinators are.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			n, err := c.Netcheck(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(n)
			}
			a.printNetcheck(n)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

// natMeaning says what a kind of NAT means for its owner.
var natMeaning = map[string]string{
	localapi.NATNone:    "none: others see this machine's own address",
	localapi.NATEasy:    "easy: one port for everybody, others can be met half way",
	localapi.NATHard:    "hard: another port for every destination; direct paths to some, a relay to others",
	localapi.NATBlocked: "blocked: no UDP gets out, everything goes over TCP",
	localapi.NATUnknown: "unknown: nobody has answered yet",
}

func (a *app) printNetcheck(n *api.Netcheck) {
	line := func(name, value string) {
		fmt.Fprintf(a.stdout, "%-13s  %s\n", name, printable(orElse(value, "-")))
	}
	line("nat", orElse(natMeaning[n.NAT], n.NAT))
	line("mapping", n.Mapping)
	line("filtering", n.Filtering)
	line("seen as", strings.Join(n.Mapped, "  "))
	line("own addresses", strings.Join(n.Local, "  "))
	line("port mapping", portMapping(n.PortMapping))
	line("udp", yesNo(n.UDP))
	line("ipv6", yesNo(n.IPv6))
	line("hairpinning", n.Hairpin)
	line("carrier's nat", yesNo(n.CarrierNAT))
	line("reachable", map[bool]string{true: "yes: others can begin", false: "no: this node has to begin, or both at once"}[n.Reachable])
	line("relays others", yesNo(n.OffersRelay))
	for _, r := range n.Reasons {
		fmt.Fprintf(a.stdout, "# %s\n", printable(r))
	}
	if len(n.Asked) > 0 {
		fmt.Fprintln(a.stdout)
		t := a.newTable("ASKED", "ADDRESS", "SEES US AS", "RTT")
		for _, s := range n.Asked {
			t.add(orElse(s.Name, "STUN server"), s.Server, orElse(s.Mapped, "no answer"), millis(s.RTTMs))
		}
		t.print(a.stdout)
	}
	if len(n.Relays)+len(n.Coordinators) > 0 {
		fmt.Fprintln(a.stdout)
		t := a.newTable("NAME", "ROLE", "RTT", "LOAD")
		for _, r := range n.Relays {
			t.add(r.Name, map[bool]string{true: "relay at hand", false: "relay"}[r.AtHand], millis(r.RTTMs), fmt.Sprintf("%d%%", r.Load))
		}
		for _, c := range n.Coordinators {
			t.add(c.Name, "coordinator", millis(c.RTTMs), "")
		}
		t.print(a.stdout)
	}
}

func portMapping(p localapi.PortMapping) string {
	if p.External != "" {
		return p.Protocol + ", " + p.External
	}
	if p.Error != "" {
		return "none: " + p.Error
	}
	return "none"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
