package localapi

import (
	"context"
	"errors"
	"os"
	"strings"
)

// Class says what kind of failure this is. Its number is the exit code of the command that meets it.
type Class int

// The exit codes of the command line.
const (
	Failed     Class = 1 // it did not work; the message says what, why and what next
	Usage      Class = 2 // the question was wrong: flags, arguments, an ambiguous node
	NotRunning Class = 3 // no node runs on this state folder
	Refused    Class = 4 // the mesh said no: not admitted, revoked, policy
	TimedOut   Class = 5 // it may still come, but not in the time that was given
)

// Failure is an error for people: what failed, why, and what to do next. It crosses the control socket unharmed, class included.
type Failure struct {
	Class Class  `json:"exit_code"`
	What  string `json:"what"`           // what was tried: "cannot join the mesh"
	Why   string `json:"why,omitempty"`  // the reason: "the invitation has expired"
	Next  string `json:"next,omitempty"` // what to do: "ask a member for a new one: phantom invite"
	// Candidates are the nodes an ambiguous name could mean, one "name n-12345678 10.86.0.2" each.
	Candidates []string `json:"candidates,omitempty"`

	cause error
}

// Error gives the whole message on one line.
func (f *Failure) Error() string {
	var b strings.Builder
	b.WriteString(f.What)
	if f.Why != "" {
		b.WriteString(": " + f.Why)
	}
	if len(f.Candidates) > 0 {
		b.WriteString(" (" + strings.Join(f.Candidates, "; ") + ")")
	}
	if f.Next != "" {
		b.WriteString("; next: " + f.Next)
	}
	return b.String()
}

// Unwrap gives the error this failure was made from. It does not travel over the socket.
func (f *Failure) Unwrap() error { return f.cause }

// Fail makes a Failure of a class around a cause, which becomes the reason unless it is nil.
func Fail(class Class, what string, cause error, next string) *Failure {
	f := &Failure{Class: class, What: what, Next: next, cause: cause}
	if cause != nil {
		f.Why = reason(cause)
	}
	return f
}

// reason is an error as the why of a failure: of another failure what and why, as its next step would be in the way of ours.
func reason(err error) string {
	f, ok := err.(*Failure)
	if !ok {
		return err.Error()
	}
	if f.Why == "" {
		return f.What
	}
	return f.What + ": " + f.Why
}

// Ambiguous is the failure for a name that means more than one node.
func Ambiguous(name string, candidates []string) *Failure {
	return &Failure{Class: Usage, What: name + " is ambiguous", Why: "it names more than one node", Candidates: candidates,
		Next: "use the node's full ID or its address"}
}

// UnknownNode is the failure for a name that means no node.
func UnknownNode(name string) *Failure {
	return &Failure{Class: Failed, What: "no node " + name, Why: "no member has this name, ID or overlay address",
		Next: "phantom members lists them"}
}

// AsFailure finds the Failure in err or makes one: a deadline that passed is TimedOut, anything else Failed.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return &Failure{Class: TimedOut, What: "timed out", Why: err.Error(), Next: "try again, or see phantom doctor", cause: err}
	}
	return &Failure{Class: Failed, What: err.Error(), cause: err}
}
