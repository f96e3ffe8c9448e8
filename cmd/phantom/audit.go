package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) auditVerb() *cobra.Command {
	var verify bool
	var last int
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "who asked what, and what was decided",
		Long: "Shows the log of the mesh's decisions, oldest first. Each entry's hash covers all before it; the chain is\n" +
			"recomputed on this machine. --verify also asks every coordinator in which hash its own copy ends, so that\n" +
			"one that rewrote the past is found out; the exit code is 1 then. Without a quorum a coordinator, and the node that\n" +
			"stands by, show the copy that they keep themselves.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			if last < 0 {
				return wrongUsage("-n is the number of entries, 0 for all")
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			l, err := c.Audit(cmd.Context(), verify)
			if err != nil {
				return err
			}
			if extra := len(l.Entries) - last; last > 0 && extra > 0 {
				l.Entries, l.Dropped = l.Entries[extra:], l.Dropped+uint64(extra)
			}
			if err := a.showAudit(l); err != nil {
				return err
			}
			if verify && !*l.Verified {
				return exitCode(localapi.Failed)
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&verify, "verify", false, "hold the chain against every coordinator's own copy")
	cmd.Flags().IntVarP(&last, "lines", "n", 0, "show only the `N` newest entries")
	return a.jsonFlag(cmd)
}

// fullID finds node IDs in what an entry says, which people are shown short, as everywhere.
var fullID = regexp.MustCompile(`\bn-[a-z2-7]{52}\b`)

func (a *app) showAudit(l *api.Audit) error {
	if a.json {
		return a.printJSON(l)
	}
	if l.Own {
		fmt.Fprintln(a.stdout, "# no quorum: this is the copy that this node keeps, as far as it has come")
	}
	if l.Dropped > 0 {
		fmt.Fprintf(a.stdout, "# %d older entries\n", l.Dropped)
	}
	t := a.newTable("TIME", "BY", "ACTION", "SUBJECT", "OUTCOME")
	for _, e := range l.Entries {
		by := e.ByName
		switch {
		case e.By == "":
			by = "the mesh"
		case by == "":
			by = shortID(e.By)
		}
		t.add(minute(e.Time), by, e.Action, fullID.ReplaceAllStringFunc(e.Subject, shortID), fullID.ReplaceAllStringFunc(e.Outcome, shortID))
	}
	t.print(a.stdout)
	fmt.Fprintf(a.stdout, "\nchain ends in %s\n", l.Head)
	if l.Verified == nil {
		return nil
	}
	agree := 0
	for _, w := range l.Witnesses {
		if w.Says == localapi.WitnessAgrees || w.Says == localapi.WitnessBehind {
			agree++
			continue
		}
		fmt.Fprintf(a.stdout, "%s %s", printable(w.Name), w.Says)
		if w.Why != "" {
			fmt.Fprintf(a.stdout, ": %s", printable(w.Why))
		}
		fmt.Fprintln(a.stdout)
	}
	if *l.Verified {
		fmt.Fprintf(a.stdout, "%s; %d of %d coordinators hold the same\n", a.styled(cell{"the chain is whole", green}), agree, len(l.Witnesses))
		return nil
	}
	fmt.Fprintf(a.stdout, "%s: coordinators hold different pasts. Compare phantom audit on each, and revoke the one that lies\n",
		a.styled(cell{strings.ToUpper("contradiction"), red}))
	return nil
}
