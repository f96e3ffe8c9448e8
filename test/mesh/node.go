package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// Exit codes of every verb.
const (
	Done       = 0
	Failed     = 1
	Usage      = 2
	NotRunning = 3
	Refused    = 4
	TimedOut   = 5
)

const (
	// startTimeout is how long a node may take until its control socket answers.
	startTimeout = 10 * time.Second
	// verbTimeout bounds one verb; longer than any promise about verbs, so a test can tell
	// "slow" from "never".
	verbTimeout = 60 * time.Second
	// TUN is the device's name on every host.
	TUN = "phantom0"
)

// LAN is the flag with which a test's node looks at its LAN; without it, it does not.
const LAN = "--no-lan=false"

// Binary builds the program from the working tree once a process and returns its path.
// $PHANTOM_BINARY names a finished one instead.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PHANTOM_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	dir := strings.TrimSpace(string(root))
	path := filepath.Join(dir, "bin", "phantom")
	if out, err := exec.Command("make", "-s", "-C", dir, "build").CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return path, nil
})

// Node is one phantom on one host.
type Node struct {
	Host    *lab.Host
	Name    string
	State   string   // folder
	Flags   []string // of phantom run
	Process *lab.Process
	t       lab.T
	binary  string
}

// New prepares a node without starting it.
func New(t lab.T, l *lab.Lab, host *lab.Host, flags ...string) *Node {
	t.Helper()
	binary, err := Binary()
	if err != nil {
		t.Fatalf("%v", err)
	}
	n := &Node{Host: host, Name: host.Name, t: t, binary: binary, State: filepath.Join(l.Dir(), "state-"+host.Name)}
	n.Flags = append([]string{"--name", n.Name, "--tun", TUN, "--log-level", "debug"}, flags...)
	if !slices.Contains(flags, LAN) {
		n.Flags = append(n.Flags, "--no-lan")
	}
	return n
}

// Start runs a node on the host and waits until it answers on its control socket.
func Start(t lab.T, l *lab.Lab, host *lab.Host, flags ...string) *Node {
	t.Helper()
	n := New(t, l, host, flags...)
	n.Start()
	return n
}

// Start runs the node in the foreground; after a Kill it is a restart on the same state.
func (n *Node) Start() {
	n.t.Helper()
	n.StartOnly()
	n.answers()
}

// answers waits until the node does on its control socket.
func (n *Node) answers() {
	n.t.Helper()
	err := lab.Eventually(startTimeout, func() error {
		r := n.Do("status", "--json")
		if r.Code == Done {
			return nil
		}
		if !n.Process.Running() {
			n.t.Fatalf("%s: phantom run ended at once: %s", n.Name, n.Process.Output())
		}
		return r.Err()
	})
	if err != nil {
		n.t.Fatalf("%s does not answer: %v", n.Name, err)
	}
}

// StartOnly runs the node and waits for nothing, for tests of failing starts.
func (n *Node) StartOnly() {
	n.t.Helper()
	args := append([]string{"run", "--state", n.State}, n.Flags...)
	n.Process = n.Host.StartWith([]string{"NO_COLOR=1"}, n.binary, args...)
}

// Kill is kill -9.
func (n *Node) Kill() { n.Process.Kill() }

// Result is what a verb did.
type Result struct {
	Verb           string
	Code           int
	Stdout, Stderr string
	Took           time.Duration
}

// Err is nil if the verb was done, else an error with all it said.
func (r Result) Err() error {
	if r.Code == Done {
		return nil
	}
	return fmt.Errorf("phantom %s: exit code %d after %s: %s%s", r.Verb, r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Do runs a verb against the node.
func (n *Node) Do(verb string, args ...string) Result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), verbTimeout)
	defer cancel()
	args = append([]string{verb, "--state", n.State}, args...)
	cmd := n.Host.Command(ctx, n.binary, args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	err := cmd.Run()
	r := Result{Verb: verb, Stdout: out.String(), Stderr: errs.String(), Took: time.Since(begin)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		n.t.Fatalf("%s: phantom %s hung for %s: %s%s", n.Name, verb, verbTimeout, r.Stdout, r.Stderr)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		n.t.Fatalf("%s: phantom %s: %v", n.Name, verb, err)
	}
	return r
}

// Must is Do for a verb that has to succeed.
func (n *Node) Must(verb string, args ...string) Result {
	n.t.Helper()
	r := n.Do(verb, args...)
	if err := r.Err(); err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
	return r
}

// Get runs a verb with --json and decodes the answer.
func (n *Node) Get(into any, verb string, args ...string) {
	n.t.Helper()
	r := n.Must(verb, append(args, "--json")...)
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		n.t.Fatalf("%s: phantom %s --json printed %q: %v", n.Name, verb, r.Stdout, err)
	}
}
