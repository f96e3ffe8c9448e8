package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// app is one run of the command: where it reads and writes, and the flags every verb has.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	state      words  // --state
	configFile string // --config
	json       bool   // --json
}

// Groups of verbs in help.
const (
	groupMesh  = "mesh"
	groupLook  = "look"
	groupAdmit = "admit"
	groupOther = "other"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "phantom",
		Short: "A serverless post-quantum WireGuard mesh",
		Long: "PhantomMesh: machines find each other, prove who they are, and talk over post-quantum WireGuard.\n\n" +
			"First machine:      phantom up\nOthers of its LAN:  phantom up, then on a member phantom approve CODE\nElsewhere:          phantom invite, then phantom join TOKEN there",
		Version:       buildVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return errors.New("name a verb")
		},
		// Cobra sets it only where it suggests by itself.
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddGroup(&cobra.Group{ID: groupMesh, Title: "In and out of a mesh:"}, &cobra.Group{ID: groupAdmit, Title: "Who may be in it:"},
		&cobra.Group{ID: groupLook, Title: "Looking inside:"}, &cobra.Group{ID: groupOther, Title: "Other:"})
	root.SetHelpCommandGroupID(groupOther)
	root.PersistentFlags().Var(&a.state, "state", a.state.key.Usage)
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "configuration `FILE` (default /etc/phantommesh/phantom.yaml)")
	group := func(id string, verbs ...*cobra.Command) {
		for _, v := range verbs {
			v.GroupID = id
			root.AddCommand(v)
		}
	}
	group(groupMesh, a.upVerb(), a.joinVerb(), a.downVerb(), a.leaveVerb(), a.runVerb(), a.setVerb(), a.getVerb())
	group(groupAdmit, a.inviteVerb(), a.invitationsVerb(), a.requestsVerb(), a.approveVerb(), a.pairVerb(), a.membersVerb(), a.tagVerb(), a.renameVerb(), a.revokeVerb(), a.policyVerb())
	group(groupLook, a.statusVerb(), a.peersVerb(), a.pingVerb(), a.whyVerb(), a.netcheckVerb(), a.coordinatorsVerb(), a.auditVerb(),
		a.waitVerb(), a.doctorVerb(), a.metricsVerb())
	group(groupOther, a.backupVerb(), a.restoreVerb(), a.simVerb(), a.demoVerb(), a.versionVerb(), a.completionVerb())
	return root
}

// execute runs one command and gives its exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	state, _ := config.Lookup("state")
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, state: words{key: state}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.finish(cmd, err)
}

// finish prints an error and gives the exit code. Verbs return *Failure; what is none came from cobra and is about the words.
func (a *app) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	var quiet exitCode
	if errors.As(err, &quiet) {
		return int(quiet)
	}
	var f *localapi.Failure
	if errors.As(err, &f) {
		if f.Class == localapi.NotRunning && a.rootsNode() {
			f.Next = "a node of root may be running: try it with sudo; " + f.Next
		}
		a.printFailure(f)
		return int(f.Class)
	}
	fmt.Fprintf(a.stderr, "phantom: %v\n", err)
	fmt.Fprintf(a.stderr, "\n%s", cmd.UsageString())
	return int(localapi.Usage)
}

// rootsNode tells whether a user who named no state folder may have meant the machine's node.
func (a *app) rootsNode() bool {
	if os.Geteuid() == 0 || a.state.given || os.Getenv("PHANTOM_STATE") != "" {
		return false
	}
	_, err := os.Stat(config.RootState)
	return err == nil
}

// exitCode is an error that has been told already: only the number is left to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func (a *app) printFailure(f *localapi.Failure) {
	line := f.What
	if f.Why != "" {
		line += ": " + f.Why
	}
	fmt.Fprintf(a.stderr, "phantom: %s\n", printable(line))
	for _, c := range f.Candidates {
		fmt.Fprintf(a.stderr, "  %s\n", printable(c))
	}
	if f.Next != "" {
		fmt.Fprintf(a.stderr, "next: %s\n", printable(f.Next))
	}
}

func unknownVerb(root *cobra.Command, word string) error {
	msg := fmt.Sprintf("unknown verb %q", word)
	if near := root.SuggestionsFor(word); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(msg)
}

// action makes a verb's function: whatever it returns is a failure of its own, never one of the words.
func action(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		var quiet exitCode
		var wrong *usageError
		if err == nil || errors.As(err, &quiet) {
			return err
		}
		if errors.As(err, &wrong) {
			return wrong.err
		}
		return localapi.AsFailure(err)
	}
}

// usageError is about the words of the command line: the usage is shown with it.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func wrongUsage(format string, a ...any) error { return &usageError{fmt.Errorf(format, a...)} }

// noArgs, oneArg and maybeArg say in words what a verb takes.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("phantom %s takes no argument, but got %q", cmd.Name(), args[0])
	}
	return nil
}

// oneArg wants exactly one argument; the word for it stands in the verb's use.
func oneArg(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("phantom %s needs a %s", cmd.Name(), argumentOf(cmd))
	}
	return maybeArg(cmd, args)
}

// maybeArg allows one argument.
func maybeArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("phantom %s takes one %s, but got %d", cmd.Name(), argumentOf(cmd), len(args))
	}
	return nil
}

func argumentOf(cmd *cobra.Command) string {
	_, word, _ := strings.Cut(cmd.Use, " ")
	return strings.Trim(word, "[]")
}

// client speaks to the node of the state folder the flags name.
func (a *app) client(cmd *cobra.Command) (*api.Client, error) {
	s, err := a.clientSettings()
	if err != nil {
		return nil, err
	}
	return api.NewClient(s.Socket()), nil
}

// jsonFlag gives a verb its --json.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON for programs")
	return cmd
}

// completeNodes offers the names of the running node's peers to the shell.
func (a *app) completeNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := a.client(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	l, err := c.Peers(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range l.Peers {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
