package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"phantom": func() {
		newNode = newFakeNode
		fakeBackups()
		os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}})
}

// TestScripts runs the command line as people and scripts do; the scripts read like a manual.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("PHANTOM_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("PHANTOM_NAME", "atlas")
			e.Setenv("TZ", "UTC")
			// Whatever a script leaves running would outlive the test.
			e.Defer(func() { stopLeftover(filepath.Join(e.WorkDir, "state")) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"token":   makeToken,
			"mode":    checkMode,
			"freeudp": freeUDP,
		},
	})
}

func stopLeftover(state string) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	execute(context.Background(), []string{"down", "--state", state}, null, null, null)
}

// exits CODE COMMAND… runs a command that must end with an exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		code = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// makeToken VARIABLE LETTER puts a token of the mesh LETTER into a variable.
func makeToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: token VARIABLE LETTER")
	}
	text, err := invitation.Token{Mesh: identity.MeshID{args[1][0]}, Members: []invitation.Member{{}}}.Text()
	ts.Check(err)
	ts.Setenv(args[0], text)
}

// checkMode MODE FILE compares a file's permissions.
func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	fi, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	if (fi.Mode().Perm() == os.FileMode(want)) == neg {
		ts.Fatalf("%s has mode %04o", args[1], fi.Mode().Perm())
	}
}

// freeUDP VARIABLE finds a free UDP port. The tests of a machine run beside each other: whoever takes it meanwhile makes a test fail, not
// pass.
func freeUDP(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.ListenUDP("udp", nil)
	ts.Check(err)
	defer c.Close()
	ts.Setenv(args[0], strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port))
}
