package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// background is a node process this command started.
type background struct {
	client *api.Client
	cmd    *exec.Cmd

	serving chan struct{} // closed when the node takes part in its mesh, or waits for one
	ended   chan struct{} // closed when the process is gone
	cause   *localapi.Failure
}

// start says how to start a node process. How it enters a mesh is told over its control socket: arguments, and on many systems the
// environment, can be read by every user of the machine, and a token is a secret.
type start struct {
	args     []string // after "phantom run"
	settings config.Settings
	attached bool // dies with this process; otherwise it outlives this process and its terminal
}

// childStatusFD is the first descriptor after stdin, stdout and stderr: os/exec puts ExtraFiles there.
const childStatusFD = 3

// startNode starts "phantom run" in a process of its own. Wait on serving and ended, and read cause after ended.
func startNode(s start) (*background, error) {
	failed := func(err error) (*background, error) {
		return nil, localapi.Fail(localapi.Failed, "cannot start the node", err, "try phantom run to see it in the foreground")
	}
	self, err := os.Executable()
	if err != nil {
		return failed(err)
	}
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		return failed(err)
	}
	defer statusWrite.Close()
	args := append([]string{"phantom", "run", "--state", s.settings.State, "--status-fd", strconv.Itoa(childStatusFD)}, s.args...)
	cmd := &exec.Cmd{Path: self, Args: args, Dir: "/", ExtraFiles: []*os.File{statusWrite}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !s.attached}
	if s.attached {
		cmd.SysProcAttr.Setpgid = true // Ctrl-C is ours to answer: the node is told to stop in order
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		cmd.Env = withoutSettings(os.Environ())
	}
	if err := cmd.Start(); err != nil {
		statusRead.Close()
		return failed(err)
	}
	b := &background{client: api.NewClient(s.settings.Socket()), cmd: cmd, serving: make(chan struct{}), ended: make(chan struct{})}
	go b.watch(statusRead, s.settings.LogFile())
	return b, nil
}

// withoutSettings keeps what the user set for a node of their own away from a node that is told everything.
func withoutSettings(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "PHANTOM_") })
}

// watch reads the status pipe until the process ends, and keeps what it died of.
func (b *background) watch(pipe *os.File, log string) {
	defer pipe.Close()
	var failure *localapi.Failure
	serving := sync.OnceFunc(func() { close(b.serving) })
	readReport(pipe, func(l reportLine) {
		if l.Serving {
			serving()
		}
		if l.Failure != nil {
			failure = l.Failure
		}
	})
	err := b.cmd.Wait()
	if failure == nil {
		why := "it stopped without saying why"
		if err != nil {
			why = err.Error()
		}
		failure = &localapi.Failure{Class: localapi.Failed, What: "the node ended", Why: why, Next: "its log is " + log}
	}
	b.cause = failure
	close(b.ended)
}

// enter returns when the node is online in its mesh, which it enters if it is in none, or with what it died of.
func (b *background) enter(ctx context.Context, r upRequest) error {
	select {
	case <-b.serving:
	case <-b.ended:
		return b.cause
	case <-ctx.Done():
		return notOnline(ctx)
	}
	if err := enter(ctx, b.client, r); err != nil {
		return b.better(ctx, err)
	}
	return nil
}

// enter brings a node that runs into the mesh; on a member it only waits until it is online.
func enter(ctx context.Context, c *api.Client, r upRequest) error {
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if err := sameMesh(s, r); err != nil {
		return err
	}
	if s.Mesh.ID == "" {
		stop := watchPending(ctx, c, r.pending)
		entry := r.entry
		if until, ok := ctx.Deadline(); ok {
			entry.Within = within(time.Until(until))
		}
		err = c.Enter(ctx, entry)
		stop()
	} else {
		err = c.Wait(ctx, api.WaitRequest{})
	}
	if err != nil && ctx.Err() != nil {
		return notOnline(ctx)
	}
	return err
}

// within is for how long a node shall try to enter a mesh if its answer is to be here in time: an answer takes some milliseconds, or on a busy machine
// some hundred.
func within(left time.Duration) time.Duration { return max(left-min(left/4, 500*time.Millisecond), 1) }

// pendingLook is the time between two looks at whether a node that enters a mesh waits for somebody.
const pendingLook = 100 * time.Millisecond

// watchPending tells of the code while a node enters. The function it returns ends that.
func watchPending(ctx context.Context, c *api.Client, tell func(*api.Pending)) func() {
	if tell == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(pendingLook)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			if s, err := c.Status(ctx); err == nil && s.Self.Pending != nil {
				tell(s.Self.Pending)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// better prefers what the node died of to what its dying looked like from outside.
func (b *background) better(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return notOnline(ctx)
	}
	if f := localapi.AsFailure(err); f.Class != localapi.NotRunning && f.What != api.StoppedWhileAnswering {
		return err
	}
	const dying = 2 * time.Second // between the last answer and the end of the process
	t := time.NewTimer(dying)
	defer t.Stop()
	select {
	case <-b.ended:
		return b.cause
	case <-t.C:
		return err
	}
}

func notOnline(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return &localapi.Failure{Class: localapi.TimedOut, What: "the node is not online yet", Why: "the time is over",
			Next: "phantom doctor finds the reason; give it longer with --timeout"}
	}
	return &localapi.Failure{Class: localapi.Failed, What: "interrupted"}
}

// stop ends the process: in order if it can, by force if it takes too long. It returns when the process is gone.
func (b *background) stop() {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(stopGrace + time.Second)
	defer t.Stop()
	select {
	case <-b.ended:
	case <-t.C:
		_ = b.cmd.Process.Kill()
		<-b.ended
	}
}

// childArgs repeats to the node what this command was told: flags win over a variable there too.
func (a *app) childArgs(flags config.Layer) []string {
	var args []string
	if a.configFile != "" {
		name, err := filepath.Abs(a.configFile)
		if err != nil {
			name = a.configFile // relative to a folder that is gone: the node says it cannot read it
		}
		args = append(args, "--config", name)
	}
	for _, k := range config.Keys {
		if raw, given := flags[k.Name]; given {
			args = append(args, "--"+k.Name+"="+strings.Join(raw.Words, ","))
		}
	}
	return args
}

// progress writes what happens to a person's terminal, and nothing to a script's.
func (a *app) progress(format string, args ...any) {
	if isTerminal(a.stderr) {
		fmt.Fprintf(a.stderr, format, args...)
	}
}
