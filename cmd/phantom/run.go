package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// stopGrace is how long a node that was told to stop may take, duties handed over and all, before the process ends regardless. systemd
// would wait 90 s; a person at a terminal would not.
const stopGrace = 10 * time.Second

func (a *app) runVerb() *cobra.Command {
	var statusFD int
	cmd := &cobra.Command{
		Use:   "run",
		Short: "the node in the foreground, as the service unit starts it",
		Args:  noArgs,
	}
	flags := addSettings(cmd)
	// What phantom up uses to hear how the start went; see startNode.
	cmd.Flags().IntVar(&statusFD, "status-fd", 0, "")
	_ = cmd.Flags().MarkHidden("status-fd")
	cmd.RunE = action(func(cmd *cobra.Command, _ []string) error {
		report := openReport(statusFD)
		err := a.runNode(cmd.Context(), flags.layer(), report)
		if err != nil {
			report.failed(localapi.AsFailure(err))
		}
		return err
	})
	return cmd
}

func (a *app) runNode(ctx context.Context, flags config.Layer, report *report) error {
	settings, _, err := a.nodeSettings(flags)
	if err != nil {
		return err
	}
	syscall.Umask(0o077) // what libraries write into the state folder, raft's snapshots, is private too wherever it is copied
	if err := prepareState(settings.State); err != nil {
		return err
	}
	out := a.stderr
	if report != nil {
		log, err := openLog(settings.LogFile())
		if err != nil {
			return localapi.Fail(localapi.Failed, "cannot write the log", err, "check the state folder and the space on its disk")
		}
		defer log.Close()
		out = log
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: settings.LogLevel}))
	n, err := newNode(settings, log)
	if err != nil {
		return err
	}
	return serve(ctx, n, settings, log, report)
}

// serve runs a node with its API around it. The API comes first and goes last: status can be asked while the node enrols, and while it stops.
func serve(ctx context.Context, n runner, settings config.Settings, log *slog.Logger, report *report) error {
	// A node whose Run was never called still has to give back what it took: it runs, but not for long.
	abort := func(err error) error {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = n.Run(over)
		return err
	}
	server, err := api.Listen(api.ServerConfig{Socket: settings.Socket(), Backend: n, Log: log,
		Process: api.Process{Started: time.Now().UTC(), Manner: manner(report)}})
	if err != nil {
		return abort(err)
	}
	defer server.Close()
	if settings.Metrics != "" {
		metrics, err := api.ListenMetrics(settings.Metrics, n, log)
		if err != nil {
			return abort(err)
		}
		defer metrics.Close()
	}
	if settings.Web != "" {
		log.Warn("the web page is not part of this version", "addr", settings.Web)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	defer notify(log, daemon.SdNotifyStopping)

	ran := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { ran <- n.Run(ctx) }()
	select {
	case <-n.Ready():
		report.serving()
		notify(log, daemon.SdNotifyReady)
	case err := <-ran:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ran:
		return err
	case err := <-served:
		cancel()
		return errors.Join(localapi.Fail(localapi.Failed, "the control socket broke", err, "start the node again"), stopped(ran))
	case <-ctx.Done():
		log.Info("stopping")
		return stopped(ran)
	}
}

// stopped waits for a node that was told to stop.
func stopped(ran <-chan error) error {
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case err := <-ran:
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	case <-grace.C:
		return &localapi.Failure{Class: localapi.TimedOut, What: "the node did not stop in time", Why: fmt.Sprintf("%s passed", stopGrace),
			Next: "nothing that was acknowledged is lost; the log says what it waited for"}
	}
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify the service manager", "err", err)
	}
}

func manner(r *report) string {
	switch {
	case r != nil:
		return localapi.MannerBackground
	case os.Getenv("NOTIFY_SOCKET") != "" || os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()):
		return localapi.MannerService
	}
	return localapi.MannerForeground
}
