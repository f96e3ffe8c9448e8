package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) pingVerb() *cobra.Command {
	r := api.PingRequest{Count: 5, Interval: time.Second, Timeout: 2 * time.Second}
	cmd := &cobra.Command{
		Use:   "ping NODE",
		Short: "send echoes through the overlay and say which path they took",
		Long: "Sends echoes to a node through its tunnel. Each line says the path: direct and an address, or relay and a name.\n\n" +
			"NODE is a name, a short or full node ID, or an overlay address. Exits 1 if nothing came back.",
		Args:              oneArg,
		ValidArgsFunction: a.completeNodes,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			switch {
			case r.Count < 1 || r.Count > localapi.PingCountMax:
				return wrongUsage("-c is a number from 1 to %d", localapi.PingCountMax)
			case r.Interval < 10*time.Millisecond || r.Interval > time.Hour:
				return wrongUsage("-i is a time from 10ms to 1h")
			case r.Timeout < 10*time.Millisecond || r.Timeout > time.Minute:
				return wrongUsage("--timeout is a time from 10ms to 1m")
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			r.Node = args[0]
			return a.ping(cmd.Context(), c, r)
		}),
	}
	f := cmd.Flags()
	f.IntVarP(&r.Count, "count", "c", r.Count, "how many")
	f.DurationVarP(&r.Interval, "interval", "i", r.Interval, "time between two")
	f.DurationVar(&r.Timeout, "timeout", r.Timeout, "how long to wait for each answer")
	f.IntVarP(&r.Size, "size", "s", r.Size, "payload in bytes (0: the usual 56)")
	f.BoolVar(&r.Path, "path", false, "check the path below the tunnel instead")
	return a.jsonFlag(cmd)
}

func (a *app) ping(ctx context.Context, c *api.Client, r api.PingRequest) error {
	var replies []api.PingReply
	err := c.Ping(ctx, r, func(p api.PingReply) error {
		replies = append(replies, p)
		if a.json {
			return a.printJSON(p)
		}
		_, err := fmt.Fprintln(a.stdout, pingLine(p))
		return err
	})
	interrupted := errors.Is(ctx.Err(), context.Canceled)
	if err != nil && (!interrupted || len(replies) == 0) {
		return err
	}
	s := api.Summarize(replies)
	if a.json {
		if err := a.printJSON(map[string]api.PingSummary{"summary": s}); err != nil {
			return err
		}
	} else {
		a.printPingSummary(r.Node, s)
	}
	if s.Received == 0 {
		return exitCode(localapi.Failed)
	}
	return nil
}

func pingLine(p api.PingReply) string {
	who := printable(fmt.Sprintf("%s (%s)", p.Name, p.Address))
	if p.Lost {
		why := p.Error
		if why == "" {
			why = "no answer in time"
		}
		return fmt.Sprintf("no reply from %s: seq=%d %s", who, p.Sequence, printable(why))
	}
	path := describePath(p.Path)
	if path == "" {
		path = "path unknown"
	}
	return fmt.Sprintf("reply from %s: %s time=%s ms", who, printable(path), number(p.TimeMs))
}

func (a *app) printPingSummary(node string, s api.PingSummary) {
	fmt.Fprintf(a.stdout, "\n%s: %d sent, %d received, %s%% loss\n", printable(node), s.Sent, s.Received, trimZero(s.LossPercent))
	if s.Received > 0 {
		fmt.Fprintf(a.stdout, "min/avg/p50/p99/max = %s/%s/%s/%s/%s ms\n", number(s.MinMs), number(s.AvgMs), number(s.P50Ms), number(s.P99Ms), number(s.MaxMs))
	}
}

func trimZero(f float64) string {
	if f == float64(int(f)) {
		return fmt.Sprintf("%d", int(f))
	}
	return fmt.Sprintf("%.1f", f)
}
