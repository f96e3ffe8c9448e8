package gossip

import (
	"bytes"
	"log"
	"log/slog"
)

// memberlistLog returns a logger for memberlist that writes to ours. Memberlist logs every failed packet; what matters of it, this
// package logs itself as a change of state, so all of it is for debugging.
func memberlistLog(to *slog.Logger) *log.Logger { return log.New(logWriter{to}, "", 0) }

type logWriter struct{ to *slog.Logger }

// lineMax cuts lines in which memberlist prints a whole record byte by byte.
const lineMax = 300

// Write implements io.Writer for one line.
func (w logWriter) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	w.to.Debug(string(text[:min(len(text), lineMax)]))
	return len(line), nil
}
