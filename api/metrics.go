package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// metricsConnectionsMax bounds scrapers: one or two are usual.
const metricsConnectionsMax = 16

// MetricsServer serves /metrics over TCP, and nothing else.
type MetricsServer struct {
	http *http.Server
	addr net.Addr
	done chan struct{}
}

// ListenMetrics starts serving a backend's metrics on an address, host:port. The error is a *Failure.
func ListenMetrics(addr string, b Backend, log *slog.Logger) (*MetricsServer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, localapi.Fail(localapi.Failed, "cannot serve metrics on "+addr, reason(err), "choose another address with --metrics")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", Metrics(b))
	m := &MetricsServer{addr: l.Addr(), done: make(chan struct{}), http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       queryTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerMax,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	go func() {
		defer close(m.done)
		if err := m.http.Serve(newBoundedListener(l, metricsConnectionsMax)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are not served any more", "addr", addr, "err", err)
		}
	}()
	return m, nil
}

// Addr is where it listens.
func (m *MetricsServer) Addr() net.Addr { return m.addr }

// Close ends it and waits.
func (m *MetricsServer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if m.http.Shutdown(ctx) != nil {
		m.http.Close()
	}
	<-m.done
	return nil
}
