package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

func (a *app) coordinatorsVerb() *cobra.Command {
	var watch bool
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
			if watch {
				return a.watchCoordinators(cmd.Context(), c, l)
			}
			if a.json {
				return a.printJSON(l)
			}
			a.printCoordinators(l)
			return nil
		}),
	}
	cmd.AddCommand(a.recoverVerb())
	cmd.Flags().BoolVar(&watch, "watch", false, "go on and tell of every change, until interrupted")
	return a.jsonFlag(cmd)
}

// watchInterval is how often a watched view is fetched: an election takes several times as long.
const watchInterval = 100 * time.Millisecond

// watchCoordinators prints what there is, then a line for every change; with --json the whole view on a line each time.
func (a *app) watchCoordinators(ctx context.Context, c *api.Client, now *api.CoordinatorList) error {
	show := a.printJSON
	if !a.json {
		a.printCoordinators(now)
		fmt.Fprintln(a.stdout)
	} else if err := show(now); err != nil {
		return err
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // interrupted: that is how watching ends
		case <-tick.C:
		}
		next, err := c.Coordinators(ctx)
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return nil
		case err != nil:
			return err
		case reflect.DeepEqual(now, next):
			continue
		}
		if a.json {
			err = show(next)
		} else {
			for _, change := range coordinatorChanges(now, next) {
				_, err = fmt.Fprintf(a.stdout, "%s  %s\n", time.Now().Format("15:04:05.000"), printable(change))
			}
		}
		if err != nil {
			return err
		}
		now = next
	}
}

// coordinatorChanges tells what differs between two views, a sentence each.
func coordinatorChanges(was, is *api.CoordinatorList) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	names := map[string]string{}
	voters := func(l *api.CoordinatorList) map[string]bool {
		set := map[string]bool{}
		for _, v := range l.Voters {
			set[v.ID], names[v.ID] = true, orElse(v.Name, shortID(v.ID))
		}
		return set
	}
	before, after := voters(was), voters(is)
	name := func(id string) string { return orElse(names[id], shortID(id)) }
	if was.Quorum != is.Quorum {
		say("quorum %s", map[bool]string{true: "is back", false: "is lost: decisions wait, traffic goes on"}[is.Quorum])
	}
	switch {
	case was.Leader != is.Leader && is.Leader == "":
		say("no leader: %s leads no more", name(was.Leader))
	case was.Leader != is.Leader:
		say("%s leads, term %d", name(is.Leader), is.Term)
	case was.Term != is.Term:
		say("term %d", is.Term)
	}
	for _, v := range is.Voters {
		if !before[v.ID] {
			say("%s votes now", name(v.ID))
		}
	}
	for _, v := range was.Voters {
		if !after[v.ID] {
			say("%s votes no more", name(v.ID))
		}
	}
	regions, relays := map[string]string{}, map[string][]string{}
	for _, r := range was.Regions {
		regions[r.Region], relays[r.Region] = r.Coordinator, relayNames(r)
	}
	for _, r := range is.Regions {
		for _, name := range relayNames(r) {
			if !slices.Contains(relays[r.Region], name) {
				say("%s relays for region %s", name, r.Region)
			}
		}
		for _, name := range relays[r.Region] {
			if !slices.Contains(relayNames(r), name) {
				say("%s relays for region %s no more", name, r.Region)
			}
		}
		switch old, known := regions[r.Region]; {
		case known && old == r.Coordinator:
		case r.Coordinator == "":
			say("region %s has no coordinator", r.Region)
		default:
			say("%s coordinates region %s", orElse(r.Name, shortID(r.Coordinator)), r.Region)
		}
		delete(regions, r.Region)
	}
	for _, r := range was.Regions {
		if _, gone := regions[r.Region]; gone {
			say("region %s has no coordinator", r.Region)
		}
	}
	return out
}

// relayNames are those of the relays that were appointed for a region.
func relayNames(r api.RegionDetail) (out []string) {
	for _, d := range r.Relays {
		out = append(out, orElse(d.Name, shortID(d.ID)))
	}
	return out
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
		t := a.newTable("REGION", "COORDINATOR", "ID", "TERM", "SINCE", "RELAYS")
		for _, r := range l.Regions {
			t.add(r.Region, orElse(r.Name, "nobody"), shortID(r.Coordinator), fmt.Sprint(r.Term), minute(r.Since), orElse(strings.Join(relayNames(r), " "), "none"))
		}
		t.print(a.stdout)
	}
	if !l.Quorum {
		fmt.Fprint(a.stdout, "\n# no quorum: decisions wait; traffic goes on\n")
	}
}
