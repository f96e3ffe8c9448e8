package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// pollMin and pollMax bound the time between two looks at a condition: what has not come true waits an eighth of the time that it has been
	// waited for. A look mostly starts a program, and would take a whole processor from what it waits for if it came every 10 ms.
	pollMin = 10 * time.Millisecond
	pollMax = 250 * time.Millisecond
	// logTail is how much of a process's output a failed test prints.
	logTail = 12 << 10
)

// Process is a command started in the background. Its two outputs go to one file.
type Process struct {
	Name string
	Log  string // path of the file with its output
	lab  *Lab
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// start runs cmd with its output in a file of the lab, which a failed test prints.
func (l *Lab) start(name string, cmd *exec.Cmd) *Process {
	l.t.Helper()
	log, err := os.CreateTemp(l.dir, name+"-*.log")
	if err != nil {
		l.t.Fatalf("lab: %v", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, ownSession
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("lab: starting %s: %v", name, err)
	}
	p := &Process{Name: name, Log: log.Name(), lab: l, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	l.t.Cleanup(p.end)
	return p
}

// end kills the process and shows its log if the test failed.
func (p *Process) end() {
	p.Kill()
	if p.lab.t.Failed() {
		out := p.Output()
		if len(out) > logTail {
			out = append([]byte("…"), out[len(out)-logTail:]...)
		}
		p.lab.t.Logf("log of %s (%s):\n%s", p.Name, filepath.Base(p.Log), out)
	}
}

// PID is the process's number: ip netns exec replaces itself by the command.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process; one that is gone already is no error.
func (p *Process) Signal(s os.Signal) { p.cmd.Process.Signal(s) }

// Kill is kill -9 on the process and all it started, and waits until it is gone.
func (p *Process) Kill() {
	select {
	case <-p.done: // its number may belong to another by now
		return
	default:
	}
	syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait returns the exit code, -1 if a signal ended it. It fails the test if that takes too long.
func (p *Process) Wait(timeout time.Duration) int {
	p.lab.t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.lab.t.Fatalf("%s still runs after %s", p.Name, timeout)
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.lab.t.Fatalf("waiting for %s: %v", p.Name, p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Output is what the process has printed so far.
func (p *Process) Output() []byte {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		p.lab.t.Fatalf("lab: %v", err)
	}
	return b
}

// WaitOutput waits until the process has printed text, and fails the test if it does not.
func (p *Process) WaitOutput(text string, timeout time.Duration) {
	p.lab.t.Helper()
	err := Eventually(timeout, func() error {
		if bytes.Contains(p.Output(), []byte(text)) {
			return nil
		}
		if !p.Running() {
			return fmt.Errorf("%s ended without printing %q: %s", p.Name, text, p.Output())
		}
		return fmt.Errorf("%s has not printed %q: %s", p.Name, text, p.Output())
	})
	if err != nil {
		p.lab.t.Fatalf("%v", err)
	}
}

// Eventually calls f until it returns nil or the time is over, and returns its last error.
func Eventually(timeout time.Duration, f func() error) error {
	begin := time.Now()
	for {
		err := f()
		if err == nil {
			return nil
		}
		waited := time.Since(begin)
		if waited >= timeout {
			return fmt.Errorf("after %s: %w", timeout, err)
		}
		time.Sleep(min(max(waited/8, pollMin), pollMax, timeout-waited)) // between two looks, not instead of one
	}
}
