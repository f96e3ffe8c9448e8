package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// upTimeout: a join takes a second; a cold machine behind a slow network takes ten.
const upTimeout = time.Minute

// approvalTimeout: a person who sees the code has as long as the request is good for. A script does not wait for a person that long.
const approvalTimeout = 10 * time.Minute

func (a *app) upVerb() *cobra.Command {
	var mesh, wanted string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "make this machine part of a mesh: the one it is in, one of the LAN, or a new one",
		Long: "Starts the node in the background and waits until it is online. A machine that is in no mesh looks for one on the LAN and asks\n" +
			"to be let in: it shows a code, and phantom approve CODE on a member admits it. Where there is none, it founds one.\n" +
			"With --bootstrap HOST:PORT it asks the member there. A node that was not approved in time goes on waiting in the background.\n" +
			"On a machine that is in a mesh already it starts the node again with the settings it was given before; flags change them,\n" +
			"an empty value (--region=) forgets one.",
		Args: noArgs,
	}
	flags := addSettings(cmd)
	cmd.Flags().StringVar(&mesh, "new", "", "found a mesh of this `NAME` (default home)")
	cmd.Flags().StringVar(&wanted, "mesh", "", "of the meshes on the LAN, join the one of this `NAME` or ID")
	cmd.Flags().DurationVar(&timeout, "timeout", upTimeout, "how long to wait until it is online (on a terminal 10m, if somebody has to approve it)")
	cmd.RunE = action(func(cmd *cobra.Command, _ []string) error {
		entry := localapi.Entry{Found: true, Mesh: strings.ToLower(wanted)}
		switch {
		case cmd.Flags().Changed("new") && cmd.Flags().Changed("mesh"):
			return wrongUsage("--new founds a mesh, --mesh joins one: give one of them")
		case cmd.Flags().Changed("mesh"):
			if err := config.CheckLabel(entry.Mesh); err != nil {
				return wrongUsage("bad --mesh %q: %v", wanted, err)
			}
		}
		if !cmd.Flags().Changed("timeout") && isTerminal(a.stderr) {
			timeout = approvalTimeout
		}
		if cmd.Flags().Changed("new") {
			mesh = strings.ToLower(mesh)
			if err := config.CheckLabel(mesh); err != nil {
				return wrongUsage("bad --new %q: %v", mesh, err)
			}
			entry = localapi.Entry{New: mesh}
		}
		return a.up(cmd.Context(), upRequest{entry: entry, flags: flags.layer(), timeout: timeout})
	})
	return a.jsonFlag(cmd)
}

// upRequest is what up and join were asked for.
type upRequest struct {
	entry   localapi.Entry
	meshID  string // the mesh of the token; empty: any
	flags   config.Layer
	timeout time.Duration
	pending func(*api.Pending) // hears of the code; nil: nobody
}

// up brings the node up and prints where it is.
//
//  1. The settings are resolved and checked before anything is touched.
//  2. A node that runs is left alone, told to enter, or restarted with the new settings.
//  3. Otherwise the service manager or this command starts one.
func (a *app) up(ctx context.Context, r upRequest) error {
	if r.timeout <= 0 {
		return wrongUsage("--timeout must be more than nothing")
	}
	settings, saved, err := a.nodeSettings(r.flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	merged := saved.With(r.flags)
	r.pending = a.tellPending(func() {})
	u := &bringUp{app: a, request: r, settings: settings, client: api.NewClient(settings.Socket()), changed: !merged.Equal(saved)}
	status, err := u.client.Status(ctx)
	var f *localapi.Failure
	running := err == nil
	if err != nil && !(errors.As(err, &f) && f.Class == localapi.NotRunning) {
		return err
	}
	if running {
		if err := sameMesh(status, r); err != nil {
			return err
		}
	}
	if err := prepareState(settings.State); err != nil {
		return err
	}
	if u.changed {
		if err := config.WriteSaved(settings.SavedFile(), merged); err != nil {
			return localapi.Fail(localapi.Failed, "cannot keep the settings", err, "check the space and the permissions of "+settings.State)
		}
	}
	if running {
		err = u.again(ctx)
	} else {
		err = u.start(ctx)
	}
	if err != nil {
		return u.explain(ctx, err)
	}
	return u.tell(ctx)
}

// explain says what a machine that was not brought up in time is at: it may be a member that keeps trying, or wait for somebody to approve it.
func (u *bringUp) explain(ctx context.Context, err error) error {
	f := localapi.AsFailure(err)
	if ctx.Err() == nil && f.Class != localapi.TimedOut {
		return err
	}
	member, pending := u.place()
	switch {
	case pending != nil:
		return notApproved(pending)
	case member:
		return &localapi.Failure{Class: f.Class, What: f.What, Why: "it runs and keeps trying", Next: "see phantom status and phantom doctor"}
	}
	return err
}

// sameMesh refuses to bring a member of one mesh into another: that would throw its identity there away.
func sameMesh(s *api.Status, r upRequest) error {
	other := s.Mesh.ID != "" && (r.meshID != "" && r.meshID != s.Mesh.ID || r.entry.New != "" && r.entry.New != s.Mesh.Name ||
		r.entry.Mesh != "" && r.entry.Mesh != s.Mesh.Name && !strings.HasPrefix(s.Mesh.ID, r.entry.Mesh))
	if !other {
		return nil
	}
	return &localapi.Failure{Class: localapi.Failed, What: "this node is in another mesh", Why: "it is a member of " + s.Mesh.Name,
		Next: "phantom leave gives that up for good; --state DIR gives the other mesh a node of its own"}
}

// bringUp is one run of up or join.
type bringUp struct {
	app      *app
	request  upRequest
	settings config.Settings
	client   *api.Client
	changed  bool // the settings differ from those the node was started with
}

// again deals with a node that runs.
func (u *bringUp) again(ctx context.Context) error {
	if !u.changed {
		return enter(ctx, u.client, u.request)
	}
	p, err := u.client.Process(ctx)
	if err != nil {
		return err
	}
	switch p.Manner {
	case localapi.MannerBackground:
		u.app.progress("restarting the node with its new settings\n")
		if err := u.client.Stopped(ctx, u.client.Down); err != nil {
			return err
		}
		return u.startBackground(ctx)
	case localapi.MannerService:
		if err := startService(ctx, "restart"); err != nil {
			return err
		}
		return enter(ctx, u.client, u.request)
	}
	fmt.Fprintln(u.app.stderr, "# the settings are kept; the node runs in the foreground and takes them when you start it again")
	return enter(ctx, u.client, u.request)
}

// start starts a node where none runs.
func (u *bringUp) start(ctx context.Context) error {
	if !u.app.hasService(u.settings) {
		return u.startBackground(ctx)
	}
	if err := startService(ctx, "start"); err != nil {
		return err
	}
	return enter(ctx, u.client, u.request)
}

func (u *bringUp) startBackground(ctx context.Context) error {
	b, err := startNode(start{args: u.app.childArgs(u.request.flags), settings: u.settings})
	if err != nil {
		return err
	}
	stopDots := u.app.dots("starting the node")
	u.request.pending = u.app.tellPending(stopDots)
	err = b.enter(ctx, u.request)
	stopDots()
	if err == nil {
		return nil
	}
	// A member stays up and keeps trying: what is missing may come back. Who never got in goes, so that the next try starts clean.
	// Who waits for approval goes on waiting.
	if ctx.Err() != nil || localapi.AsFailure(err).Class == localapi.TimedOut {
		if member, pending := u.place(); member || pending != nil {
			return err
		}
	}
	b.stop()
	return err
}

func notApproved(p *api.Pending) error {
	return &localapi.Failure{Class: localapi.TimedOut, What: "nobody has approved this machine yet",
		Why: "its code is " + p.Code + ", and the node goes on waiting until " + p.Expires.Local().Format(time.TimeOnly), Next: "phantom approve " + p.Code + " on a member"}
}

// place tells whether the node is a member, or waits to become one.
func (u *bringUp) place() (member bool, pending *api.Pending) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := u.client.Status(ctx)
	if err != nil {
		return false, nil
	}
	return s.Mesh.ID != "", s.Self.Pending
}

// tell prints where the machine is now and the next step.
func (u *bringUp) tell(ctx context.Context) error {
	s, err := u.client.Status(ctx)
	if err != nil {
		return err
	}
	if u.app.json {
		return u.app.printJSON(s)
	}
	w := u.app.stdout
	u.tellKept(s)
	fmt.Fprintf(w, "%s is %s in mesh %s\n", printable(s.Self.Name), printable(s.Self.State), printable(s.Mesh.Name))
	fmt.Fprintf(w, "addresses  %s\n", printable(strings.Join(s.Self.Addresses, "  ")))
	if p := s.Self.Proxies; p != nil {
		fmt.Fprintf(w, "proxies    socks5 %s  http %s (userspace networking: programs reach the mesh through them)\n", printable(p.SOCKS5), printable(p.HTTP))
	}
	if len(s.Peers) == 0 {
		if u.settings.NoLAN {
			fmt.Fprintf(w, "next       phantom invite, then phantom join TOKEN on another machine\n")
			return nil
		}
		fmt.Fprintf(w, "next       phantom up on another machine of this LAN; phantom invite for one elsewhere\n")
		return nil
	}
	fmt.Fprintf(w, "next       phantom peers, or phantom ping %s\n", printable(s.Peers[0].Name))
	return nil
}

// tellKept says that a name that was asked for is not what the mesh calls this node, and that it does not stand where it was told to yet.
func (u *bringUp) tellKept(s *api.Status) {
	if _, given := u.request.flags["name"]; given && u.settings.Name != s.Self.Name {
		fmt.Fprintf(u.app.stderr, "# in the mesh this node keeps the name %s: phantom rename changes it\n", printable(s.Self.Name))
	}
	if _, given := u.request.flags["region"]; given && u.settings.Region != "" && u.settings.Region != s.Self.Region && s.Mesh.ID != "" {
		fmt.Fprintf(u.app.stderr, "# it is of region %s until the mesh has moved it to %s\n", printable(s.Self.Region), printable(u.settings.Region))
	}
}

// dots shows a person that something goes on. The function it returns ends them.
func (a *app) dots(what string) func() {
	if !isTerminal(a.stderr) {
		return func() {}
	}
	fmt.Fprint(a.stderr, what)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		t := time.NewTicker(300 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fmt.Fprint(a.stderr, ".")
			case <-stop:
				fmt.Fprintln(a.stderr)
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(stop); <-stopped })
}

// tellPending shows the code of a machine that waits to be approved, once for every code.
func (a *app) tellPending(before func()) func(*api.Pending) {
	last := ""
	return func(p *api.Pending) {
		if p.Code == last {
			return
		}
		last = p.Code
		before()
		fmt.Fprintf(a.stderr, "# found the mesh %s (%.8s) at %s; this machine asks to join it\n", printable(p.Mesh.Name), printable(p.Mesh.ID), printable(p.Address))
		fmt.Fprintf(a.stderr, "code       %s\n", printable(p.Code))
		fmt.Fprintf(a.stderr, "next       on any machine of the mesh, if it shows the same code (phantom requests): phantom approve %s\n", printable(p.Code))
	}
}
