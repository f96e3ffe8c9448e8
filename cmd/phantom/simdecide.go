package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/sim/decide"
)

// decideEntry is the decide tier in sim list.
var decideEntry = simEntry{Name: "decide", Nodes: 12, For: "10m0s", Tier: "decide",
	Proves: "decisions alone (who coordinates, votes, signs), thousands of runs under faults"}

// decideRuns is how many runs are made unless told: some seconds of them.
const decideRuns = 200

// decideFlags are those of sim run that are for the decide tier alone.
type decideFlags struct {
	runs    int
	parts   []string
	without []int
	events  bool
}

func (d *decideFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&d.runs, "runs", decideRuns, "of decide: make `N` runs")
	cmd.Flags().StringSliceVar(&d.parts, "part", nil, "of decide: run only the part `NAME`")
	cmd.Flags().IntSliceVar(&d.without, "without", nil, "of decide: leave out the faults `N,N`, by the numbers that the events show")
	cmd.Flags().BoolVar(&d.events, "events", false, "of decide: print every event")
}

// only refuses flags that are for something else.
func only(cmd *cobra.Command, what string, others ...string) error {
	for _, name := range others {
		if cmd.Flags().Changed(name) {
			return &localapi.Failure{Class: localapi.Usage, What: "cannot run " + what, Why: "--" + name + " is not for it", Next: "phantom sim run --help"}
		}
	}
	return nil
}

// decideResult is what sim run --json prints of the decide tier.
type decideResult struct {
	Scenario       string              `json:"scenario"`
	Proves         string              `json:"proves"`
	Seed           uint64              `json:"seed"`
	Passed         bool                `json:"passed"`
	Violations     []*decide.Violation `json:"violations"`
	VirtualSeconds float64             `json:"virtual_s"`
	WallSeconds    float64             `json:"wall_s"`
	Nodes          int                 `json:"nodes"`
	Figures        map[string]float64  `json:"figures"`
	Replay         string              `json:"replay"`
	// Trace is the SHA-256 over every event of the last run.
	Trace string `json:"trace"`
}

// runDecide runs the decide tier.
func (a *app) runDecide(cmd *cobra.Command, f simFlags) error {
	given := cmd.Flags().Changed
	if err := only(cmd, decideEntry.Name, "replay", "report"); err != nil {
		return err
	}
	s := decide.Sweep{Seed: f.seed, Runs: f.decide.runs, For: f.run, Wall: time.Now,
		Options: decide.Options{Parts: f.decide.parts, Nodes: f.nodes, Without: f.decide.without}}
	switch {
	case given("runs"):
	case given("for"):
		s.Runs = 0
	case given("seed"):
		s.Runs = 1
	}
	err := s.Check()
	switch {
	case err != nil:
	case given("runs") && s.Runs < 1:
		err = fmt.Errorf("%d runs are none", s.Runs)
	case given("for") && s.For <= 0:
		err = fmt.Errorf("%s is no time to run", s.For)
	case given("nodes") && s.Nodes < 1:
		err = fmt.Errorf("%d machines; 1 to %d", s.Nodes, decide.NodesMax)
	case f.decide.events && (s.Runs != 1 || a.json):
		err = fmt.Errorf("--events is for one run (--seed N), and for people")
	}
	if err != nil {
		return localapi.Fail(localapi.Usage, "cannot run decide", err, "")
	}
	if f.decide.events {
		s.Events = a.stdout
	}
	if !a.json && isTerminal(a.stderr) {
		s.Progress = func(runs int) { fmt.Fprintf(a.stderr, "\rdecide: %d runs ", runs) }
		defer fmt.Fprint(a.stderr, "\r\033[K")
	}
	sum := s.Run(cmd.Context())
	if sum.Runs == 0 || (s.Runs > sum.Runs && len(sum.Violations) == 0 && s.For == 0) {
		return localapi.Fail(localapi.Failed, "the run was interrupted", nil, "")
	}
	if err := a.tellDecide(f.seed, s.Nodes, sum); err != nil {
		return err
	}
	if len(sum.Violations) > 0 {
		return exitCode(localapi.Failed)
	}
	return nil
}

func (a *app) tellDecide(seed uint64, nodes int, sum decide.Summary) error {
	if nodes == 0 {
		nodes = decideEntry.Nodes
	}
	wall := max(sum.Wall.Seconds(), 1e-9)
	perMinute := float64(sum.Runs) / wall * 60
	if a.json {
		return a.printJSON(decideResult{Scenario: decideEntry.Name, Proves: decideEntry.Proves, Seed: seed, Passed: len(sum.Violations) == 0,
			Violations: append([]*decide.Violation{}, sum.Violations...), VirtualSeconds: sum.Virtual.Seconds(), WallSeconds: sum.Wall.Seconds(), Nodes: nodes,
			Figures: map[string]float64{"runs": float64(sum.Runs), "events": float64(sum.Events), "runs_per_minute": perMinute,
				"virtual_hours_per_s": sum.Virtual.Hours() / wall},
			Replay: fmt.Sprintf("phantom sim run decide --seed %d --runs %d", seed, sum.Runs), Trace: sum.Hash})
	}
	for _, v := range sum.Violations {
		fmt.Fprintf(a.stdout, "BROKEN  %s: %s, seed %d at %s: %s\n", v.Part, v.Rule, v.Seed, v.At.Round(time.Millisecond), printable(v.What))
		for _, e := range v.Last[max(0, len(v.Last)-decideEventsShown):] {
			fmt.Fprintf(a.stdout, "        %s\n", printable(e))
		}
		fmt.Fprintf(a.stdout, "        again, exactly: %s\n", v.Replay)
	}
	word := "passed"
	if len(sum.Violations) > 0 {
		word = fmt.Sprintf("FAILED, %d promises broken", len(sum.Violations))
	}
	fmt.Fprintf(a.stdout, "decide: %s. %d runs from seed %d, %s virtual, %d events in %.1f s (%.0f runs a minute)\n", word, sum.Runs, seed,
		sum.Virtual.Round(time.Second), sum.Events, wall, perMinute)
	if sum.Runs == 1 {
		fmt.Fprintf(a.stdout, "trace %s\n", sum.Hash)
	}
	return nil
}

// decideEventsShown are the events before a violation that people are shown; --events shows all.
const decideEventsShown = 12
