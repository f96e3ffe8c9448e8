package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/policy"
)

func (a *app) policyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "the packet filter policy: who may open what to whom",
		Long: "The policy says which member may open connections to which, inside the mesh. Without one everybody may talk to everybody;\n" +
			"with one, what no rule allows is denied, on every node. It is about tunnels only: commands to the mesh always get through,\n" +
			"so a mistake is taken back with phantom policy rollback, from any member.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return errors.New("phantom policy needs one of show, check, set, rollback, history")
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(a.policyShowVerb(), a.policyCheckVerb(), a.policySetVerb(), a.policyRollbackVerb(), a.policyHistoryVerb())
	return cmd
}

func (a *app) policyShowVerb() *cobra.Command {
	var example bool
	var version uint64
	cmd := &cobra.Command{
		Use:   "show",
		Short: "the policy in force, as it was written",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if example {
				if a.json {
					return a.printJSON(map[string]string{"text": policy.Example})
				}
				fmt.Fprint(a.stdout, policy.Example)
				return nil
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("version") {
				p, err := c.PolicyText(cmd.Context(), version)
				if err != nil {
					return err
				}
				return a.printPolicy(p, false)
			}
			p, err := c.Policy(cmd.Context())
			if err != nil {
				return err
			}
			return a.printPolicy(p, true)
		}),
	}
	cmd.Flags().BoolVar(&example, "example", false, "print a commented policy to start from")
	cmd.Flags().Uint64Var(&version, "version", 0, "show version `N` instead")
	return a.jsonFlag(cmd)
}

// printPolicy writes the text alone to stdout, so that it can be kept in a file, and about it on stderr.
func (a *app) printPolicy(p *api.Policy, inForce bool) error {
	if a.json {
		return a.printJSON(p)
	}
	if p.Current != nil {
		fmt.Fprintf(a.stderr, "# version %d, set by %s on %s%s\n", p.Current.Version, printable(whoSet(p.Current)), minute(p.Current.At), broughtBack(p.Current))
	}
	if !p.Set {
		fmt.Fprintln(a.stderr, "# no policy: every member may open everything to every other; phantom policy show --example prints one to start from")
		return nil
	}
	if inForce {
		fmt.Fprintf(a.stderr, "# %d rules; this node follows %d flows and has dropped %d packets\n", p.Rules, p.Filter.Flows, p.Filter.Dropped)
		for _, d := range p.Filter.Last {
			fmt.Fprintf(a.stderr, "# dropped %s %-3s %s from %s to %s (%s)\n", d.At.Local().Format("15:04:05"), d.Direction, d.Service, printable(d.From),
				printable(d.To), d.Reason)
		}
		if p.Filter.Problem != "" {
			fmt.Fprintf(a.stderr, "# this node cannot read it: %s\n", printable(p.Filter.Problem))
		}
	}
	fmt.Fprint(a.stdout, cleanText(p.Text))
	return nil
}

func whoSet(v *api.PolicyVersion) string {
	if v.ByName != "" {
		return v.ByName
	}
	return shortID(v.By)
}

func broughtBack(v *api.PolicyVersion) string {
	switch v.Of {
	case v.Version:
		return ""
	case 0:
		return ", took the policy away"
	}
	return fmt.Sprintf(", brought version %d back", v.Of)
}

// cleanText keeps what another member wrote out of the terminal's control, line by line, and ends it with a newline.
func cleanText(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range lines {
		lines[i] = printable(strings.ReplaceAll(strings.TrimSuffix(lines[i], "\r"), "\t", "        "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// readPolicy reads a policy's file, - for stdin.
func (a *app) readPolicy(name string) (string, error) {
	from := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", localapi.Fail(localapi.Failed, "cannot read the policy", err, "")
		}
		defer f.Close()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, policy.TextMax+1))
	if err != nil {
		return "", localapi.Fail(localapi.Failed, "cannot read the policy", err, "")
	}
	// Said here with the file's name, before a node is asked; the node and the mesh look again.
	if _, err := policy.Parse(b); err != nil {
		var e *policy.Error
		what := name
		if errors.As(err, &e) && e.Line > 0 {
			what += " line " + strconv.Itoa(e.Line)
			err = errors.New(e.Why)
		}
		return "", localapi.Fail(localapi.Failed, what, err, "")
	}
	return string(b), nil
}

func (a *app) policyCheckVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "what a policy would change, and whether its expectations hold",
		Args:  oneArg,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			check, err := c.CheckPolicy(cmd.Context(), api.PolicyRequest{Text: text})
			if err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(check); err != nil {
					return err
				}
			} else {
				a.printCheck(args[0], check)
			}
			if !check.OK {
				return exitCode(localapi.Failed)
			}
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) printCheck(name string, c *api.PolicyCheck) {
	for _, p := range c.Failed {
		fmt.Fprintf(a.stdout, "%s %s line %d: %s: %s\n", a.styled(cell{"fails", red}), printable(name), p.Line, printable(p.Text), printable(p.Why))
	}
	for _, p := range c.Warnings {
		fmt.Fprintf(a.stdout, "%s %s line %d: %s: %s\n", a.styled(cell{"note", yellow}), printable(name), p.Line, printable(p.Text), printable(p.Why))
	}
	fmt.Fprintf(a.stdout, "rules %d, expectations %d, of which fail %d\n", c.Rules, c.Expects, len(c.Failed))
	switch {
	case c.Same:
		fmt.Fprintln(a.stdout, "it means the same as the policy in force")
	case c.ChangesTotal == 0:
		fmt.Fprintln(a.stdout, "it changes nothing for the members of now")
	default:
		fmt.Fprintf(a.stdout, "\nchanges for %d pairs of nodes:\n", c.Pairs)
		t := a.newTable("FROM", "TO", "FAMILY", "GAINS", "LOSES")
		for _, d := range c.Changes {
			t.add(names(d.From, d), names(d.To, d), d.Family, strings.Join(d.Gained, " "), strings.Join(d.Lost, " "))
		}
		t.print(a.stdout)
		if more := c.ChangesTotal - len(c.Changes); more > 0 {
			fmt.Fprintf(a.stdout, "and %d more\n", more)
		}
		if c.Partial {
			fmt.Fprintln(a.stdout, "and perhaps others: the nodes differ too much to compare them all")
		}
	}
	how := ""
	if c.WatchedMs > 0 {
		how = fmt.Sprintf(", seen in %.1f s", float64(c.WatchedMs)/1000)
	}
	fmt.Fprintf(a.stdout, "\nlive flows of this node%s: %d, of which it would cut %d\n", how, c.Flows, c.CutTotal)
	for _, f := range c.Cut {
		direction := "to"
		if f.Inbound {
			direction = "from"
		}
		fmt.Fprintf(a.stdout, "  %s %s %s (%s, idle %d s)\n", f.Service, direction, printable(f.Peer), f.Family, f.IdleS)
	}
}

// names lists a group of a change, of which the first are known.
func names(list []string, c localapi.PolicyChange) string {
	out := strings.Join(list, " ")
	const shown = 5
	if len(list) == shown && c.Pairs > len(c.From)*len(c.To) {
		out += " …"
	}
	return out
}

func (a *app) policySetVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set FILE",
		Short: "put a policy in force in the whole mesh",
		Args:  oneArg,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			v, err := c.SetPolicy(cmd.Context(), api.PolicyRequest{Text: text})
			if err != nil {
				return err
			}
			return a.printVersion(v, "in force; phantom policy rollback takes it back")
		}),
	}
	cmd.Flags().Bool("at-once", false, "no stages; this version has none")
	return a.jsonFlag(cmd)
}

func (a *app) printVersion(v *api.PolicyVersion, what string) error {
	if a.json {
		return a.printJSON(v)
	}
	fmt.Fprintf(a.stdout, "policy version %d is %s\n", v.Version, what)
	return nil
}

func (a *app) policyRollbackVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback [VERSION]",
		Short: "bring back the policy before, or a version; 0 is no policy",
		Args:  maybeArg,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			var r api.PolicyRollback
			if len(args) == 1 {
				to, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil {
					return wrongUsage("a version is a number, not %q; phantom policy history lists them", args[0])
				}
				r.To = &to
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			v, err := c.RollbackPolicy(cmd.Context(), r)
			if err != nil {
				return err
			}
			if v.Of == 0 {
				return a.printVersion(v, "no policy: every member may open everything to every other")
			}
			return a.printVersion(v, fmt.Sprintf("in force, with the text of version %d", v.Of))
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) policyHistoryVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "the versions of the policy, who set them and when",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			h, err := c.PolicyHistory(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(h)
			}
			if len(h.Versions) == 0 {
				fmt.Fprintln(a.stdout, "no policy was ever set")
				return nil
			}
			t := a.newTable("VERSION", "WHEN", "BY", "TEXT", "HASH")
			for i := range h.Versions {
				v := &h.Versions[i]
				text := "new"
				if v.Of != v.Version {
					text = strings.TrimPrefix(broughtBack(v), ", ")
				}
				t.add(v.Version, minute(v.At), whoSet(v), text, v.Hash[:min(len(v.Hash), 16)])
			}
			t.print(a.stdout)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}
