package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/sim"
	"github.com/phantommesh/phantommesh/sim/replay"
	simreport "github.com/phantommesh/phantommesh/sim/report"
)

func (a *app) simVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "run whole meshes in virtual time, under faults",
		Long: "Runs the program's own node, many of it, over a simulated internet: an hour of a mesh takes seconds. A scenario says who is\n" +
			"there, what is done to them, and what must be true all the while. No root, no network, nothing left behind.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.simListVerb(), a.simShowVerb(), a.simRunVerb())
	return cmd
}

// simEntry is a scenario in sim list.
type simEntry struct {
	Name   string `json:"name"`
	Proves string `json:"proves"`
	Nodes  int    `json:"nodes"`
	For    string `json:"for"`
	Tier   string `json:"tier"` // mesh: whole nodes; decide: their decisions alone
}

func (a *app) simListVerb() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "list",
		Short: "the scenarios that are built in",
		Args:  noArgs,
		RunE: action(func(*cobra.Command, []string) error {
			all, err := sim.Library()
			if err != nil {
				return localapi.Fail(localapi.Failed, "cannot read the scenarios", err, "")
			}
			entries := []simEntry{}
			for _, s := range all {
				entries = append(entries, simEntry{s.Name, s.Proves, s.Nodes(), s.For.String(), "mesh"})
			}
			entries = append(entries, decideEntry)
			if a.json {
				return a.printJSON(map[string]any{"scenarios": entries})
			}
			t := a.newTable("NAME", "NODES", "FOR", "PROVES")
			for _, e := range entries {
				t.add(e.Name, fmt.Sprint(e.Nodes), e.For, e.Proves)
			}
			t.print(a.stdout)
			return nil
		}),
	})
}

func (a *app) simShowVerb() *cobra.Command {
	var f simFlags
	cmd := &cobra.Command{
		Use:   "show SCENARIO",
		Short: "print one as a file, to change it: phantom sim show home-lab > mine.yaml",
		Args:  f.args,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			what := f.named(cmd, args)
			if what == decideEntry.Name {
				return localapi.Fail(localapi.Usage, "cannot show decide", errors.New("it is drawn from seeds, not read from a file"), "docs/simulator.md describes it")
			}
			s, err := f.find(what)
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(s.Text())
			return err
		}),
	}
	f.randomFlags(cmd)
	return cmd
}

// simFlags are those of sim run.
type simFlags struct {
	seed  uint64
	nodes int
	run   time.Duration
	exact bool
	draws bool   // --random
	file  string // of the report

	decide decideFlags
}

func (a *app) simRunVerb() *cobra.Command {
	var f simFlags
	cmd := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "run one: the name of a built-in scenario, a file, or --random",
		Long: "Runs a scenario and says what it has shown; the exit code is 1 if a promise was broken. SCENARIO is a name from\n" +
			"`phantom sim list`, or the path of a YAML file (with a slash or a dot in it). With --random there is none: network, load and\n" +
			"faults are drawn from the seed, too; phantom sim show --random --seed N prints what N draws.\n\n" +
			"The seed fixes the network, the faults and the nodes' own randomness, but not the scheduling of the libraries inside: a run that\n" +
			"is repeated with its seed is much like the first, not its copy. With --replay (Linux, amd64) nothing is left to chance: every run\n" +
			"with this flag, the same seed and the same program is the same, packet for packet, as the trace that it prints shows.\n\n" +
			"`decide` is another tier: no nodes, only the decisions that they are made of, by the thousand. Each run is one thread and follows\n" +
			"from its seed alone, byte for byte, on every machine. It makes --runs of them, each with the next seed, or as many as fit into\n" +
			"--for on the wall; --seed alone makes one.",
		Args: f.args,
		RunE: action(func(cmd *cobra.Command, args []string) error {
			what := f.named(cmd, args)
			if what == decideEntry.Name {
				return a.runDecide(cmd, f)
			}
			if err := only(cmd, what, "runs", "part", "without", "events"); err != nil {
				return err
			}
			s, err := f.scenario(cmd, what)
			if err != nil {
				return err
			}
			if _, child := replay.Child(); f.exact && !child {
				return f.repeat(cmd, what)
			}
			page, err := f.openReport()
			if err != nil {
				return err
			}
			defer page.discard()
			r, err := a.play(cmd.Context(), s, f)
			if err != nil {
				return err
			}
			if err := page.write(r); err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				a.printRun(r)
			}
			if err == nil && !r.Passed {
				return exitCode(localapi.Failed)
			}
			return err
		}),
	}
	f.randomFlags(cmd)
	cmd.Flags().IntVar(&f.nodes, "nodes", 0, "run with `N` machines instead of the scenario's own number")
	cmd.Flags().DurationVar(&f.run, "for", 0, "virtual `TIME` to run (default: the scenario's own); what it does later is left out")
	cmd.Flags().BoolVar(&f.exact, "replay", false, "leave nothing to chance: all runs with this and the same seed are equal")
	cmd.Flags().StringVar(&f.file, "report", "", "write a page with charts, map and events to `FILE.html`")
	f.decide.add(cmd)
	return a.jsonFlag(cmd)
}

func (f *simFlags) randomFlags(cmd *cobra.Command) {
	cmd.Flags().Uint64Var(&f.seed, "seed", 0, "what chance is drawn from, `N` (default: another one each time)")
	cmd.Flags().BoolVar(&f.draws, "random", false, "draw network, load and faults from the seed as well, instead of a SCENARIO")
}

// args takes one scenario, or none with --random.
func (f *simFlags) args(cmd *cobra.Command, args []string) error {
	if !f.draws {
		return oneArg(cmd, args)
	}
	if len(args) > 0 {
		return &localapi.Failure{Class: localapi.Usage, What: "cannot take " + args[0], Why: "with --random the scenario is drawn, not named",
			Next: "give a SCENARIO or --random"}
	}
	return nil
}

// named is the scenario that was asked for, and makes sure that there is a seed.
func (f *simFlags) named(cmd *cobra.Command, args []string) string {
	if !cmd.Flags().Changed("seed") {
		f.seed = rand.Uint64()
	}
	if f.draws {
		return sim.RandomName
	}
	return args[0]
}

// repeat hands the run to a child process that has no choice of its own.
func (f simFlags) repeat(cmd *cobra.Command, what string) error {
	args := []string{"sim", "run", "--seed=" + strconv.FormatUint(f.seed, 10)}
	cmd.Flags().Visit(func(given *pflag.Flag) {
		if given.Name != "seed" {
			args = append(args, "--"+given.Name+"="+given.Value.String())
		}
	})
	if what != sim.RandomName { // its flag is among the others
		args = append(args, "--", what)
	}
	code, err := replay.Run(cmd.Context(), f.seed, os.Stdout, args...)
	if err != nil {
		return localapi.Fail(localapi.Failed, "cannot repeat the run exactly", err, "without --replay it runs much like it, but not its copy")
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// reportFile is where the page of a run goes; the zero value is for a run without one.
type reportFile struct{ pending *renameio.PendingFile }

// openReport opens the page's file before the run, as nobody wants to learn after an hour that it cannot be written. Until the page is whole
// the file has what was in it before.
func (f simFlags) openReport() (reportFile, error) {
	if _, child := replay.Child(); f.file == "" || f.exact && !child {
		return reportFile{}, nil
	}
	pending, err := renameio.NewPendingFile(f.file, renameio.WithPermissions(0o644))
	if err != nil {
		return reportFile{}, reportFailure(err)
	}
	return reportFile{pending}, nil
}

func (r reportFile) write(of *sim.Result) error {
	if r.pending == nil {
		return nil
	}
	if err := simreport.Write(r.pending, of); err != nil {
		return reportFailure(err)
	}
	if err := r.pending.CloseAtomicallyReplace(); err != nil {
		return reportFailure(err)
	}
	return nil
}

// discard removes what has not been written to its end.
func (r reportFile) discard() {
	if r.pending != nil {
		_ = r.pending.Cleanup()
	}
}

func reportFailure(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) { // its path is that of a file that nobody has named
		err = p.Err
	}
	return localapi.Fail(localapi.Failed, "cannot write the report", err, "name a file in a folder that you may write to: --report FILE.html")
}

// scenario finds the scenario and makes it as large and as long as was asked for.
func (f simFlags) scenario(cmd *cobra.Command, what string) (*sim.Scenario, error) {
	s, err := f.find(what)
	if err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("for") {
		if err := s.Shorten(f.run); err != nil {
			return nil, localapi.Fail(localapi.Usage, "cannot run the scenario", err, "")
		}
	}
	if cmd.Flags().Changed("nodes") {
		if err := s.Resize(f.nodes); err != nil {
			return nil, localapi.Fail(localapi.Usage, "cannot run the scenario", err, "")
		}
	}
	return s, nil
}

// find finds the scenario as it is written, or draws it.
func (f simFlags) find(what string) (*sim.Scenario, error) {
	if what == sim.RandomName {
		return sim.Random(f.seed)
	}
	s, err := sim.Find(what)
	var unknown *sim.UnknownError
	var wrong *sim.Error
	switch {
	case errors.As(err, &unknown):
		return nil, &localapi.Failure{Class: localapi.Usage, What: "cannot run the scenario", Why: err.Error(), Candidates: unknown.Known,
			Next: "phantom sim list shows them; a file is named with its path"}
	case errors.As(err, &wrong):
		return nil, localapi.Fail(localapi.Usage, "cannot run the scenario", err, "docs/simulator.md says how one is written")
	case err != nil:
		return nil, localapi.Fail(localapi.Failed, "cannot run the scenario", err, "")
	}
	return s, nil
}

// play runs it, with a line of progress for people.
func (a *app) play(ctx context.Context, s *sim.Scenario, f simFlags) (*sim.Result, error) {
	cfg := sim.Config{Seed: f.seed}
	if dir, child := replay.Child(); child {
		cfg.Exact, cfg.Dir, cfg.Wall = true, dir, replay.Wall
	}
	if !a.json && isTerminal(a.stderr) {
		cfg.Progress = func(at time.Duration) {
			fmt.Fprintf(a.stderr, "\r%s: %s of %s virtual ", s.Name, at.Truncate(time.Second), s.For)
		}
		defer fmt.Fprint(a.stderr, "\r\033[K")
	}
	if !a.json {
		fmt.Fprintf(a.stderr, "# %s: %d machines, %s of virtual time, seed %d\n", s.Name, s.Nodes(), s.For, f.seed)
	}
	r, err := sim.Play(ctx, cfg, s)
	switch {
	case errors.Is(err, sim.ErrInterrupted):
		return nil, localapi.Fail(localapi.Failed, "the run was interrupted", nil, "")
	case err != nil:
		return nil, localapi.Fail(localapi.Failed, "the run did not come to its end", err, sim.ReplayCommand(s.Source(), f.seed, f.nodes, f.run, f.exact)+" runs it again")
	}
	r.Replay = sim.ReplayCommand(s.Source(), f.seed, f.nodes, f.run, f.exact)
	return r, nil
}

// printExpectations shows what the scenario wanted and what was found.
func (a *app) printExpectations(r *sim.Result) {
	if len(r.Expectations) == 0 {
		return
	}
	t := a.newTable("EXPECTED", "", "FOUND", "")
	for _, e := range r.Expectations {
		word, found := "ok", e.Found
		if !e.Met {
			word = "BROKEN"
		}
		if found == "" {
			found = "nothing to measure"
		}
		t.add(e.Says, e.Want, found, word)
	}
	t.print(a.stdout)
	fmt.Fprintln(a.stdout)
}

// printRun shows a result to people.
func (a *app) printRun(r *sim.Result) {
	for _, v := range r.Violations {
		fmt.Fprintf(a.stdout, "BROKEN  %s at %s, seed %d: %s\n", v.Checker, v.When(), r.Seed, printable(v.Text))
		for _, e := range v.Before {
			fmt.Fprintf(a.stdout, "        %s\n", printable(e.String()))
		}
	}
	a.printExpectations(r)
	t := a.newTable("FIGURE", "VALUE")
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		t.add(strings.ReplaceAll(name, "_", " "), sim.FigureText(r.Figures[name]))
	}
	t.print(a.stdout)
	word := "passed"
	if !r.Passed {
		word = fmt.Sprintf("FAILED, %d promises broken", len(r.Violations))
	}
	fmt.Fprintf(a.stdout, "\n%s: %s. %d machines, %s virtual in %.1f s\n", r.Scenario, word, r.Nodes,
		time.Duration(r.VirtualSeconds*float64(time.Second)).Round(time.Second), r.WallSeconds)
	if r.Trace != "" {
		fmt.Fprintf(a.stdout, "trace %s\nagain, exactly: %s\n", r.Trace, r.Replay)
		return
	}
	fmt.Fprintf(a.stdout, "again (much like it, not its copy): %s\n", r.Replay)
}
