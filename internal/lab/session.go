package lab

import (
	"fmt"
	"os"
	"slices"
)

// Session is a T for programs that are no tests. Fatalf and Skipf panic with a Stop; whoever runs the session recovers it and calls End.
type Session struct {
	cleanups []func()
	failed   bool
}

// Stop is what ends a session early.
type Stop struct {
	Skipped bool
	Why     string
}

func (s *Session) Helper()                        {}
func (s *Session) Failed() bool                   { return s.failed }
func (s *Session) Cleanup(f func())               { s.cleanups = append(s.cleanups, f) }
func (s *Session) Logf(format string, a ...any)   { fmt.Fprintf(os.Stderr, format+"\n", a...) }
func (s *Session) Fatalf(format string, a ...any) { panic(Stop{Why: fmt.Sprintf(format, a...)}) }
func (s *Session) Skipf(format string, a ...any) {
	panic(Stop{Skipped: true, Why: fmt.Sprintf(format, a...)})
}

// TempDir is removed at the session's end, after the lab in it.
func (s *Session) TempDir() string {
	dir, err := os.MkdirTemp("", "phantom-session-")
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// End runs what was registered with Cleanup, the latest first. failed makes the logs of processes show.
func (s *Session) End(failed bool) {
	s.failed = failed
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	s.cleanups = nil
}
