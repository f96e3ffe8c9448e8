package coordinator

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLog passes hashicorp/raft's log to slog. Raft repeats warnings for as long as a voter is away, many a second: a message
// is passed once in repeatAfter, and one level lower than raft thinks, since a voter that is away is ordinary here.
type raftLog struct {
	slog  *slog.Logger
	name  string
	args  []any
	quiet *quiet
}

const (
	repeatAfter = 30 * time.Second
	messagesMax = 256 // different messages remembered; raft has about 120
)

type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (q *quiet) allow(msg string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if at, ok := q.last[msg]; ok && now.Sub(at) < repeatAfter {
		return false
	}
	if len(q.last) >= messagesMax {
		clear(q.last)
	}
	q.last[msg] = now
	return true
}

func newRaftLog(l *slog.Logger) *raftLog {
	return &raftLog{slog: l.With("protocol", ProtocolRaft), name: "raft", quiet: &quiet{last: map[string]time.Time{}}}
}

func (l *raftLog) level(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	case hclog.Info:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4 // below what anybody turns on by habit
}

// Log implements hclog.Logger, as all methods below.
func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	to := l.level(level)
	if !l.slog.Enabled(context.Background(), to) || (to > slog.LevelDebug && !l.quiet.allow(msg)) {
		return
	}
	out := make([]any, 0, len(args))
	for _, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 { // made by hclog.Fmt: a format and its arguments
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		out = append(out, a)
	}
	l.slog.Log(context.Background(), to, "raft: "+msg, out...)
}

func (l *raftLog) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLog) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }
func (l *raftLog) IsTrace() bool                 { return false }
func (l *raftLog) IsDebug() bool                 { return l.slog.Enabled(context.Background(), l.level(hclog.Debug)) }
func (l *raftLog) IsInfo() bool                  { return l.slog.Enabled(context.Background(), l.level(hclog.Info)) }
func (l *raftLog) IsWarn() bool                  { return true }
func (l *raftLog) IsError() bool                 { return true }
func (l *raftLog) ImpliedArgs() []any            { return l.args }
func (l *raftLog) Name() string                  { return l.name }
func (l *raftLog) SetLevel(hclog.Level)          {}
func (l *raftLog) GetLevel() hclog.Level         { return hclog.Debug }

func (l *raftLog) With(args ...any) hclog.Logger {
	return &raftLog{slog: l.slog.With(args...), name: l.name, args: append(l.args[:len(l.args):len(l.args)], args...), quiet: l.quiet}
}
func (l *raftLog) Named(name string) hclog.Logger      { return l.ResetNamed(l.name + "." + name) }
func (l *raftLog) ResetNamed(name string) hclog.Logger { c := *l; c.name = name; return &c }

func (l *raftLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.slog.Handler(), slog.LevelDebug)
}
func (l *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
