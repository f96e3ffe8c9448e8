package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (s *Server) routes() http.Handler {
	b := s.cfg.Backend
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", query(b.Status))
	mux.Handle("GET /v1/peers", query(func(ctx context.Context) (*PeerList, error) {
		st, err := b.Status(ctx)
		if err != nil {
			return nil, err
		}
		return &PeerList{Peers: st.Peers}, nil
	}))
	mux.Handle("GET /v1/members", query(b.Members))
	mux.Handle("GET /v1/coordinators", query(b.Coordinators))
	mux.Handle("GET /v1/invitations", query(b.Invitations))
	mux.Handle("GET /v1/requests", query(b.Requests))
	mux.Handle("POST /v1/approve", command(approveTimeout, b.Approve))
	mux.Handle("POST /v1/pair", command(pairTimeoutMax, b.Pair))
	mux.Handle("GET /v1/doctor", query(b.Doctor))
	mux.Handle("GET /v1/netcheck", query(b.Netcheck))
	mux.Handle("GET /v1/version", query(b.Version))
	mux.Handle("GET /v1/process", query(func(context.Context) (*Process, error) {
		p := s.cfg.Process
		p.PID = os.Getpid()
		return &p, nil
	}))
	mux.Handle("GET /metrics", Metrics(b))

	mux.Handle("POST /v1/why", command(queryTimeout, b.Why))
	mux.Handle("POST /v1/invite", command(decisionTimeout, b.Invite))
	mux.Handle("POST /v1/coordinators/recover", command(recoverTimeout, b.Recover))
	mux.Handle("POST /v1/revoke", command(decisionTimeout, b.Revoke))
	mux.Handle("POST /v1/tag", command(decisionTimeout, b.Tag))
	mux.Handle("POST /v1/rename", command(decisionTimeout, b.Rename))
	mux.Handle("GET /v1/settings", query(b.Settings))
	mux.Handle("POST /v1/settings", command(decisionTimeout, b.Set))
	mux.Handle("GET /v1/audit", query(func(ctx context.Context) (*Audit, error) { return b.Audit(ctx, false) }))
	mux.Handle("GET /v1/audit/verified", query(func(ctx context.Context) (*Audit, error) { return b.Audit(ctx, true) }))
	mux.Handle("GET /v1/policy", query(b.Policy))
	mux.Handle("GET /v1/policy/history", query(b.PolicyHistory))
	mux.HandleFunc("GET /v1/policy/{version}", func(w http.ResponseWriter, r *http.Request) { policyText(w, r, b) })
	mux.Handle("POST /v1/policy/check", longCommand(policyBodyMax, decisionTimeout, b.CheckPolicy))
	mux.Handle("POST /v1/policy/set", longCommand(policyBodyMax, decisionTimeout, b.SetPolicy))
	mux.Handle("POST /v1/policy/rollback", command(decisionTimeout, b.RollbackPolicy))
	mux.HandleFunc("GET /v1/snapshot", func(w http.ResponseWriter, r *http.Request) { snapshot(w, r, b) })
	mux.Handle("POST /v1/enter", command(enterTimeout, silent(b.Enter)))
	mux.Handle("POST /v1/wait", command(waitTimeoutMax, silent(func(ctx context.Context, q WaitRequest) error {
		return waitInTime(ctx, q, b.Wait)
	})))
	mux.Handle("POST /v1/down", command(stopTimeout, silent(func(ctx context.Context, _ nothing) error { return b.Down(ctx) })))
	mux.Handle("POST /v1/leave", command(stopTimeout, silent(func(ctx context.Context, _ nothing) error { return b.Leave(ctx) })))
	mux.HandleFunc("POST /v1/ping", s.ping)
	mux.HandleFunc("DELETE /v1/invitations/{id}", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), decisionTimeout)
		defer cancel()
		answer(w, &nothing{}, b.CancelInvitation(ctx, r.PathValue("id")))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeFailure(w, &localapi.Failure{Class: localapi.Usage, What: "the node knows no " + r.Method + " " + r.URL.Path,
			Next: "is the command of another version than the node? see phantom version"})
	})
	return mux
}

// nothing is the body of requests and answers that say nothing.
type nothing struct{}

func query[A any](ask func(context.Context) (*A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		a, err := ask(ctx)
		answer(w, a, err)
	})
}

func command[Q, A any](timeout time.Duration, do func(context.Context, Q) (*A, error)) http.Handler {
	return longCommand(bodyMax, timeout, do)
}

// longCommand is command with a bound of its own on the request.
func longCommand[Q, A any](most int64, timeout time.Duration, do func(context.Context, Q) (*A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := readBody(w, r, &q, most); err != nil {
			writeFailure(w, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		a, err := do(ctx, q)
		answer(w, a, err)
	})
}

func silent[Q any](do func(context.Context, Q) error) func(context.Context, Q) (*nothing, error) {
	return func(ctx context.Context, q Q) (*nothing, error) { return &nothing{}, do(ctx, q) }
}

func policyText(w http.ResponseWriter, r *http.Request, b Backend) {
	version, err := strconv.ParseUint(r.PathValue("version"), 10, 64)
	if err != nil {
		writeFailure(w, localapi.Fail(localapi.Usage, "cannot show the policy", errors.New("a version is a number"), "phantom policy history lists them"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), decisionTimeout)
	defer cancel()
	p, err := b.PolicyText(ctx, version)
	answer(w, p, err)
}

// waitInTime gives the backend the time the caller gives, and words for when it is over.
func waitInTime(ctx context.Context, q WaitRequest, wait func(context.Context, WaitRequest) error) error {
	if q.Timeout < 0 {
		return &localapi.Failure{Class: localapi.Usage, What: "cannot wait", Why: "the timeout is negative"}
	}
	if q.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.Timeout)
		defer cancel()
	}
	err := wait(ctx, q)
	if err == nil || ctx.Err() == nil {
		return err
	}
	what := "this node is not online yet"
	if q.Node != "" {
		what = q.Node + " cannot be reached yet"
	}
	var f *Failure
	if errors.As(err, &f) && f.Class == localapi.TimedOut && f.Why != "" {
		err = errors.New(f.Why) // the node has said it in its own words already
	}
	return localapi.Fail(localapi.TimedOut, what, err, "phantom doctor finds the reason; give it longer with --timeout")
}

// readBody decodes a strict, bounded body that must arrive in time.
func readBody(w http.ResponseWriter, r *http.Request, into any, most int64) *Failure {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	// A deadline left behind would end the request's context in the middle of a long wait.
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the request")
		}
	}
	if err != nil {
		return localapi.Fail(localapi.Usage, "cannot read the request", err, "is the command of another version than the node? see phantom version")
	}
	return nil
}

func answer(w http.ResponseWriter, a any, err error) {
	if err != nil {
		writeFailure(w, err)
		return
	}
	writeJSON(w, http.StatusOK, a)
}

func writeJSON(w http.ResponseWriter, code int, a any) {
	b, err := json.Marshal(a)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"exit_code":1,"what":"the node's answer cannot be written as JSON"}`)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // a caller that went away needs no answer
}

func writeFailure(w http.ResponseWriter, err error) {
	f := localapi.AsFailure(err)
	code := http.StatusInternalServerError
	switch f.Class {
	case localapi.Usage:
		code = http.StatusBadRequest
	case localapi.Refused:
		code = http.StatusForbidden
	case localapi.TimedOut:
		code = http.StatusGatewayTimeout
	}
	writeJSON(w, code, f)
}

// Metrics serves the Prometheus exposition; it is safe to offer on a TCP address, where it reads nothing of the request.
func Metrics(b Backend) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if err := b.Metrics(ctx, w); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}
