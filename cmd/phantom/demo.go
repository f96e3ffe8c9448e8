package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// demoTimeout bounds the whole demo: it takes a few seconds, and twenty on the slowest machine that counts.
const demoTimeout = 2 * time.Minute

func (a *app) demoVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "a five-node mesh of real processes on this machine, with traffic through every tunnel",
		Long: "Starts five nodes on the loopback address with userspace networking: no root, no configuration, nothing left behind.\n" +
			"One founds a mesh, four join with an invitation each, and an HTTP request and a ping go through every tunnel.\n\n" +
			"On a terminal the mesh stays until Ctrl-C; DEMO_SECONDS=n ends it after n seconds.",
		Args: noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			stay, err := a.demoStay()
			if err != nil {
				return err
			}
			return a.demo(cmd.Context(), stay)
		}),
	}
}

// demoStay says how long the finished demo stays: until Ctrl-C is negative.
func (a *app) demoStay() (time.Duration, error) {
	if v := os.Getenv("DEMO_SECONDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, wrongUsage("DEMO_SECONDS is a number of seconds, not %q", v)
		}
		return time.Duration(n) * time.Second, nil
	}
	if isTerminal(a.stdin) {
		return -1, nil
	}
	return 0, nil
}

// demo is one run. Whatever happens, its processes and files are gone when it returns; should this process be killed, the kernel ends the
// nodes with it.
func (a *app) demo(ctx context.Context, stay time.Duration) error {
	// PR_SET_PDEATHSIG is about the thread that forks, not the process: this one lives as long as the demo.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "phantom-demo-")
	if err != nil {
		return localapi.Fail(localapi.Failed, "cannot make a folder for the demo", err, "check the space in "+os.TempDir())
	}
	d := &demo{app: a, dir: dir, began: time.Now()}
	defer d.cleanUp()
	work, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	if err := d.run(work); err != nil {
		if ctx.Err() == nil {
			d.showLogs()
		}
		return err
	}
	if stay == 0 || ctx.Err() != nil {
		return nil
	}
	return d.stay(ctx, stay)
}

func (d *demo) run(ctx context.Context) error {
	fmt.Fprintln(d.app.stdout, "PhantomMesh demo: five nodes on this machine, userspace networking, no root")
	for _, step := range []func(context.Context) error{d.found, d.join, d.gather, d.traffic, d.verify} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return notFinished(ctx)
			}
			return err
		}
	}
	return nil
}

func notFinished(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return &localapi.Failure{Class: localapi.TimedOut, What: "the demo took too long", Why: fmt.Sprintf("%s passed", demoTimeout),
			Next: "see the logs above; phantom doctor checks this host"}
	}
	return &localapi.Failure{Class: localapi.Failed, What: "interrupted"}
}

// stay keeps the mesh for people to look at.
func (d *demo) stay(ctx context.Context, long time.Duration) error {
	w := d.app.stdout
	first := d.nodes[0]
	fmt.Fprintf(w, "\nThe mesh goes on. In another terminal:\n  %s --state %s status\n  %s --state %s ping %s\n  curl -x socks5h://%s http://%s/\n",
		selfPath(), first.settings.State, selfPath(), first.settings.State, d.nodes[1].settings.Name, first.settings.SOCKS5, d.nodes[1].address)
	if long < 0 {
		fmt.Fprintln(w, "Ctrl-C ends it.")
		<-ctx.Done()
		return nil
	}
	fmt.Fprintf(w, "It ends in %s.\n", long)
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// step prints what happened, with the time since the start.
func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.app.stdout, "%6.2fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// showLogs prints the end of every node's log, after a failure.
func (d *demo) showLogs() {
	const tail = 2 << 10 // bytes a node
	for _, n := range d.nodes {
		b, err := os.ReadFile(n.settings.LogFile())
		if err != nil || len(b) == 0 {
			continue
		}
		fmt.Fprintf(d.app.stderr, "--- end of the log of %s\n%s\n", n.settings.Name, b[max(0, len(b)-tail):])
	}
}

// cleanUp ends all nodes at once and removes what they wrote.
func (d *demo) cleanUp() {
	done := make(chan struct{}, len(d.nodes))
	for _, n := range d.nodes {
		go func() {
			defer func() { done <- struct{}{} }()
			if n.page != nil {
				n.page.Close()
			}
			if n.process != nil {
				n.process.stop()
			}
		}()
	}
	for range d.nodes {
		<-done
	}
	if err := os.RemoveAll(filepath.Clean(d.dir)); err != nil {
		fmt.Fprintf(d.app.stderr, "phantom: cannot remove %s: %v\n", d.dir, err)
	}
}

// verify shows the table of peers and holds every node's tunnels to the promise.
func (d *demo) verify(ctx context.Context) error {
	for i, n := range d.nodes {
		s, err := n.process.client.Status(ctx)
		if err != nil {
			return err
		}
		if i == 0 {
			fmt.Fprintf(d.app.stdout, "\npeers of %s:\n", n.settings.Name)
			d.app.printPeers(s.Peers)
			fmt.Fprintln(d.app.stdout)
		}
		for _, p := range s.Peers {
			if p.Tunnel.State != localapi.TunnelUp || !p.Tunnel.PostQuantum {
				return &api.Failure{Class: localapi.Failed, What: "a tunnel is not post-quantum",
					Why: fmt.Sprintf("%s says of its tunnel to %s: state %s, post_quantum %v", n.settings.Name, p.Name, p.Tunnel.State, p.Tunnel.PostQuantum)}
			}
		}
	}
	pairs := len(d.nodes) * (len(d.nodes) - 1) / 2
	d.step("done: %d nodes, %d tunnels, all post-quantum; %d HTTP requests and %d pings answered", len(d.nodes), pairs, d.requests, d.pings)
	return nil
}
