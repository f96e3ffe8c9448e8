package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	s := newSummary(os.Stdout)
	begin := time.Now()
	for _, arg := range os.Args[1:] {
		stage, command, found := strings.Cut(arg, "|")
		if !found {
			fmt.Fprintf(os.Stderr, "testsummary: %q is not NAME|COMMAND\n", arg)
			os.Exit(2)
		}
		if why, skip := strings.CutPrefix(command, "skip:"); skip {
			s.skipStage(stage, strings.TrimSpace(why))
			continue
		}
		if err := run(s, stage, strings.Fields(command)); err != nil {
			s.stageFailed(stage, err)
		}
	}
	fmt.Printf("took %s\n", time.Since(begin).Round(time.Second))
	if !s.close() {
		os.Exit(1)
	}
}

// run executes one stage. An exit code that the counted failures explain is no error of its own.
func run(s *summary, stage string, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stdout
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", command[0], err)
	}
	before := s.failed
	readErr := s.read(stage, events)
	if readErr != nil {
		cmd.Process.Kill() // it would block on a pipe nobody reads
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && s.failed > before {
		err = nil
	}
	return errors.Join(readErr, err)
}
