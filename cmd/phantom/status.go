package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) statusVerb() *cobra.Command {
	var check string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "mesh, this node, peers, coordinators",
		Long: "Shows the mesh, this node, its peers and the coordinators.\n\n" +
			"--check live exits 0 if the node answers, --check ready if it is online in its mesh besides; for probes.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if check != "" && check != "live" && check != "ready" {
				return wrongUsage("--check is live or ready, not %q", check)
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			switch {
			case a.json:
				if err := a.printJSON(s); err != nil {
					return err
				}
			case check == "":
				a.printStatus(s)
			}
			if check == "ready" && s.Self.State != localapi.StateOnline {
				return &api.Failure{Class: localapi.Failed, What: "not ready", Why: "this node is " + s.Self.State, Next: "see phantom status"}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&check, "check", "", "say nothing, exit 0 if `live|ready`")
	return a.jsonFlag(cmd)
}

func (a *app) printStatus(s *api.Status) {
	w := a.stdout
	if s.Mesh.ID == "" {
		fmt.Fprintf(w, "mesh          none\n")
	} else {
		fmt.Fprintf(w, "mesh          %s  %s\n", printable(s.Mesh.Name), printable(s.Mesh.ID))
	}
	a.printSelf(w, s.Self)
	a.printGroup(w, s)
	fmt.Fprintln(w)
	a.printPeers(s.Peers)
	if s.Mesh.ID == "" && s.Self.Pending == nil && len(s.Health) == 0 {
		fmt.Fprintf(w, "\n# in no mesh: phantom up finds or founds one, phantom join TOKEN joins one\n")
	}
	if len(s.Health) > 0 {
		fmt.Fprintln(w)
	}
	for _, h := range s.Health {
		fmt.Fprintf(w, "# %s\n", printable(h))
	}
}

func (a *app) printSelf(w io.Writer, s api.Self) {
	state := cell{s.State, stateStyle(s.State)}
	fmt.Fprintf(w, "this node     %s  %s\n", printable(s.Name), printable(s.ID))
	fmt.Fprintf(w, "state         %s\n", a.styled(state))
	line := func(name string, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s  %s\n", name, printable(value))
		}
	}
	line("addresses", strings.Join(s.Addresses, "  "))
	line("region", regionText(s))
	line("role", s.Role)
	line("endpoints", strings.Join(s.Endpoints, "  "))
	line("nat", s.NAT)
	line("interface", s.Interface)
	if s.Proxies != nil {
		line("proxies", fmt.Sprintf("socks5 %s  http %s", s.Proxies.SOCKS5, s.Proxies.HTTP))
	}
	if p := s.Pending; p != nil {
		line("code", p.Code+"  (asked to join "+p.Mesh.Name+"; phantom approve "+p.Code+" on a member)")
	}
	if s.Certificate.NotAfter != nil {
		line("certificate", "until "+s.Certificate.NotAfter.Local().Format("2006-01-02 15:04"))
	}
}

// regionText says where this node is, and whether it was told so.
func regionText(s api.Self) string {
	switch {
	case s.Region == "" || s.RegionNamed && s.RegionWhy == "":
		return s.Region
	case s.RegionNamed:
		return s.Region + "  (" + s.RegionWhy + ")"
	}
	return s.Region + "  (chosen)"
}

func (a *app) printGroup(w io.Writer, s *api.Status) {
	if s.Mesh.ID == "" {
		return
	}
	g := s.Coordinators
	quorum := cell{"quorum", green}
	if !g.Quorum {
		quorum = cell{"no quorum", red}
	}
	leader := "no leader known"
	if g.Leader != "" {
		leader = "leader " + nameOf(s, g.Leader)
	}
	var voters []string
	for _, v := range g.Voters {
		voters = append(voters, nameOf(s, v))
	}
	slices.Sort(voters)
	fmt.Fprintf(w, "coordinators  %s, %s, term %d, voters %s\n", a.styled(quorum), printable(leader), g.Term, printable(strings.Join(voters, " ")))
}

// nameOf gives the name of a node ID as this node knows it, the short ID if it does not.
func nameOf(s *api.Status, id string) string {
	if id == s.Self.ID {
		return s.Self.Name
	}
	for _, p := range s.Peers {
		if p.ID == id {
			return p.Name
		}
	}
	return shortID(id)
}

// shortID is how a node ID looks where eight characters are enough.
func shortID(id string) string {
	const n = len("n-") + 8
	if len(id) > n {
		return id[:n]
	}
	return id
}

func (a *app) styled(c cell) string {
	if !a.colour() || c.style == plain {
		return printable(c.text)
	}
	return string(c.style) + printable(c.text) + reset
}

func stateStyle(state string) style {
	switch state {
	case localapi.StateOnline, "alive", localapi.TunnelUp, localapi.PathDirect, localapi.MemberActive, "yes", "open":
		return green
	case localapi.StateEnrolling, localapi.StatePending, "suspect", localapi.TunnelConnecting, localapi.PathRelay, localapi.MemberQuarantined:
		return yellow
	case localapi.StateOffline, "dead", localapi.MemberRevoked, "no":
		return red
	}
	return plain
}

// word is a cell in the colour of what it says.
func word(s string) cell { return cell{s, stateStyle(s)} }
