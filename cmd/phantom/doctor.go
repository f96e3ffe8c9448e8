package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) doctorVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "find and explain what is wrong with this host or the mesh",
		Long:  "Checks this host and, if a node runs, asks it what it knows. Works without a running node too. Exits 1 if something is wrong.",
		Args:  noArgs,
	}
	cmd.RunE = action(func(cmd *cobra.Command, _ []string) error {
		d, err := a.examine(cmd)
		if err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(d); err != nil {
				return err
			}
		} else {
			a.printDoctor(d)
		}
		if !d.OK {
			return exitCode(localapi.Failed)
		}
		return nil
	})
	return a.jsonFlag(cmd)
}

// examine puts the checks of the host and the findings of the node together.
func (a *app) examine(cmd *cobra.Command) (*api.Doctor, error) {
	var findings []api.Finding
	settings, _, err := a.nodeSettings(nil)
	if err != nil {
		// The settings are a patient too: go on with the state folder alone.
		f := localapi.AsFailure(err)
		findings = append(findings, wrong("settings", localapi.SeverityError, f.What, f.Why, orElse(f.Next, "correct the value")))
		if settings, err = a.clientSettings(); err != nil {
			return &api.Doctor{Findings: findings}, nil
		}
	}
	c := api.NewClient(settings.Socket())
	own, err := c.Doctor(cmd.Context())
	running := true
	var f *localapi.Failure
	if errors.As(err, &f) {
		running = f.Class != localapi.NotRunning
		if running {
			findings = append(findings, wrong("node", localapi.SeverityError, f.What, f.Why, f.Next))
		} else {
			findings = append(findings, wrong("node", localapi.SeverityInfo, "no node is running", f.Why, "start it with phantom up"))
		}
	} else {
		findings = append(findings, fine("node", "a node is running"))
	}
	host := &host{settings: settings, running: running, now: time.Now()}
	findings = append(findings, host.check()...)
	if own != nil {
		findings = append(findings, own.Findings...)
	}
	d := &api.Doctor{OK: true, Findings: findings}
	for _, f := range findings {
		if !f.OK && f.Severity == localapi.SeverityError {
			d.OK = false
		}
	}
	return d, nil
}

func (a *app) printDoctor(d *api.Doctor) {
	problems, width := 0, 0
	for _, f := range d.Findings {
		width = max(width, len(f.Check))
	}
	for _, f := range d.Findings {
		mark := cell{"ok", green}
		if !f.OK {
			mark = cell{f.Severity, map[string]style{localapi.SeverityError: red, localapi.SeverityWarning: yellow}[f.Severity]}
		}
		if !f.OK && f.Severity == localapi.SeverityError {
			problems++
		}
		pad := max(1, 9-len(mark.text))
		fmt.Fprintf(a.stdout, "%s%*s%-*s  %s\n", a.styled(mark), pad, "", width, printable(f.Check), printable(f.What))
		if f.OK {
			continue
		}
		if f.Why != "" {
			fmt.Fprintf(a.stdout, "%*s%s\n", width+11, "why: ", printable(f.Why))
		}
		if f.Next != "" {
			fmt.Fprintf(a.stdout, "%*s%s\n", width+11, "next: ", printable(f.Next))
		}
	}
	switch problems {
	case 0:
		fmt.Fprintln(a.stdout, "\nnothing is wrong")
	case 1:
		fmt.Fprintln(a.stdout, "\none thing is wrong")
	default:
		fmt.Fprintf(a.stdout, "\n%d things are wrong\n", problems)
	}
}

func fine(check, what string) api.Finding {
	return api.Finding{Check: check, OK: true, Severity: localapi.SeverityInfo, What: what}
}

func wrong(check, severity, what, why, next string) api.Finding {
	return api.Finding{Check: check, Severity: severity, What: what, Why: why, Next: next}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
