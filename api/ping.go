package api

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// Bounds of one ping run.
const (
	pingInterval     = time.Second
	pingIntervalMin  = 10 * time.Millisecond // a hundred a second is a check, more is a load test
	pingIntervalMax  = time.Hour
	pingReplyTimeout = 2 * time.Second // far above any path that works
	pingTimeoutMax   = time.Minute
	pingPayloadMax   = 8192 // bytes: beyond any MTU, so that fragmentation can be tried
)

// pingLine is one line of the ping stream: a reply, or as the last line the failure that ended it.
type pingLine struct {
	Reply   *PingReply `json:"reply,omitempty"`
	Failure *Failure   `json:"failure,omitempty"`
}

// ping streams replies as they come, one JSON object a line.
func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	var q PingRequest
	if err := readBody(w, r, &q, bodyMax); err != nil {
		writeFailure(w, err)
		return
	}
	if f := boundPing(&q); f != nil {
		writeFailure(w, f)
		return
	}
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	started := false
	emit := func(line pingLine) error {
		if !started {
			w.Header().Set("Content-Type", "application/x-ndjson")
			started = true
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := enc.Encode(line); err != nil {
			return err
		}
		return rc.Flush()
	}
	err := s.cfg.Backend.Ping(r.Context(), q, func(reply PingReply) error { return emit(pingLine{Reply: &reply}) })
	switch {
	case err == nil && !started:
		w.WriteHeader(http.StatusOK)
	case err != nil && !started:
		writeFailure(w, err)
	case err != nil:
		_ = emit(pingLine{Failure: localapi.AsFailure(err)}) // the caller may be gone
	}
}

// boundPing fills what was left out and refuses what would be a flood.
func boundPing(q *PingRequest) *Failure {
	if q.Timeout == 0 {
		q.Timeout = pingReplyTimeout
	}
	if q.Interval == 0 {
		q.Interval = pingInterval
	}
	wrong := ""
	switch {
	case q.Node == "":
		wrong = "name a node"
	case q.Count < 1 || q.Count > localapi.PingCountMax:
		wrong = "the count must be from 1 to 86400"
	case q.Interval < pingIntervalMin || q.Interval > pingIntervalMax:
		wrong = "the interval must be from 10ms to 1h"
	case q.Timeout < pingIntervalMin || q.Timeout > pingTimeoutMax:
		wrong = "the timeout must be from 10ms to 1m"
	case q.Size < 0 || q.Size > pingPayloadMax:
		wrong = "the size must be from 0 to 8192 bytes"
	default:
		return nil
	}
	return &Failure{Class: localapi.Usage, What: "cannot ping", Why: wrong}
}

// PingSummary is the last line of a ping: times in milliseconds, zero when nothing came back.
type PingSummary struct {
	Sent        int     `json:"sent"`
	Received    int     `json:"received"`
	LossPercent float64 `json:"loss_percent"`
	MinMs       float64 `json:"min_ms"`
	AvgMs       float64 `json:"avg_ms"`
	P50Ms       float64 `json:"p50_ms"`
	P99Ms       float64 `json:"p99_ms"`
	MaxMs       float64 `json:"max_ms"`
}

// Summarize adds up replies. Percentiles are by nearest rank, so that each is a time that was measured.
func Summarize(replies []PingReply) PingSummary {
	s := PingSummary{Sent: len(replies)}
	var times []float64
	sum := 0.0
	for _, r := range replies {
		if !r.Lost {
			times = append(times, r.TimeMs)
			sum += r.TimeMs
		}
	}
	s.Received = len(times)
	if s.Sent > 0 {
		s.LossPercent = 100 * float64(s.Sent-s.Received) / float64(s.Sent)
	}
	if s.Received == 0 {
		return s
	}
	slices.Sort(times)
	rank := func(q float64) float64 { return times[int(math.Ceil(q*float64(len(times))))-1] }
	s.MinMs, s.MaxMs, s.AvgMs = times[0], times[len(times)-1], sum/float64(len(times))
	s.P50Ms, s.P99Ms = rank(0.50), rank(0.99)
	return s
}
