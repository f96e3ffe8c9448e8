package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
)

// lineMax bounds one line of the event stream: test2json cuts output at line ends, and a test
// that prints a line of a megabyte is broken.
const lineMax = 1 << 20

// event is one line of `go test -json` (cmd/test2json, TestEvent, and cmd/go's build events).
type event struct {
	Action      string
	Package     string
	ImportPath  string // build events
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// summary counts over all stages.
type summary struct {
	out                     io.Writer
	stage                   string
	passed, failed, skipped int
	failures                []string
	skips                   []string
	output                  map[string][]string // package + test -> lines, until it ends
	build                   map[string][]string // import path -> compiler output
	failedTests             map[string]int      // package -> tests failed in it
	passedTests             map[string]int
}

func newSummary(out io.Writer) *summary { return &summary{out: out} }

// read consumes one stage's event stream.
func (s *summary) read(stage string, r io.Reader) error {
	s.stage = stage
	s.output = map[string][]string{}
	s.build = map[string][]string{}
	s.failedTests = map[string]int{}
	s.passedTests = map[string]int{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), lineMax)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(s.out, lines.Text())
			continue
		}
		s.add(e)
	}
	return lines.Err()
}

func (s *summary) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		s.build[e.ImportPath] = append(s.build[e.ImportPath], e.Output)
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageEnded(e)
		} else {
			s.testEnded(e, s.output[key])
		}
		delete(s.output, key)
	}
}

func (s *summary) testEnded(e event, output []string) {
	name := short(e.Package) + " " + e.Test
	switch e.Action {
	case "pass":
		s.passed++
		s.passedTests[e.Package]++
	case "skip":
		s.skipped++
		s.skips = append(s.skips, fmt.Sprintf("%s %s: %s", s.stage, name, reason(output)))
	case "fail":
		s.failed++
		s.failedTests[e.Package]++
		s.failures = append(s.failures, s.stage+" "+name)
		fmt.Fprintf(s.out, "--- FAILED %s %s\n%s", s.stage, name, strings.Join(output, ""))
	}
}

func (s *summary) packageEnded(e event) {
	if e.Action == "fail" {
		fmt.Fprintf(s.out, "FAIL %-5s %s (%.1f s)\n", s.stage, short(e.Package), e.Elapsed)
		if s.failedTests[e.Package] > 0 {
			return
		}
		// No test failed, yet the package did: it does not compile, panicked or timed out.
		s.failed++
		s.failures = append(s.failures, s.stage+" "+short(e.Package)+" (package)")
		fmt.Fprint(s.out, strings.Join(s.build[e.FailedBuild], ""), strings.Join(s.output[e.Package+" "], ""))
		for _, key := range sortedKeys(s.output) { // tests that never ended: what they said
			if strings.HasPrefix(key, e.Package+" Test") {
				fmt.Fprintf(s.out, "--- unfinished %s\n%s", key, strings.Join(s.output[key], ""))
			}
		}
		return
	}
	if s.passedTests[e.Package] > 0 {
		fmt.Fprintf(s.out, "ok   %-5s %s (%d tests, %.1f s)\n", s.stage, short(e.Package), s.passedTests[e.Package], e.Elapsed)
	}
}

// skipStage records a whole stage that cannot run here.
func (s *summary) skipStage(stage, why string) {
	s.skipped++
	s.skips = append(s.skips, stage+" (all of it): "+why)
	fmt.Fprintf(s.out, "skip %-5s %s\n", stage, why)
}

// stageFailed records a command that failed without any event saying why.
func (s *summary) stageFailed(stage string, err error) {
	s.failed++
	s.failures = append(s.failures, stage+" (command)")
	fmt.Fprintf(s.out, "FAIL %-5s %v\n", stage, err)
}

// close prints the lists and the closing line and reports whether everything passed.
func (s *summary) close() bool {
	s.list("skipped:", s.skips)
	s.list("failed:", s.failures)
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed == 0
}

func (s *summary) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(s.out, title)
	for _, line := range lines {
		fmt.Fprintln(s.out, "  "+line)
	}
}

// position is how t.Skip's output starts: "    file_test.go:12: ".
var position = regexp.MustCompile(`^\s+[\w.-]+\.go:\d+: `)

// reason is the last line a skipped test logged.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		if position.MatchString(output[i]) {
			return strings.TrimSpace(position.ReplaceAllString(output[i], ""))
		}
	}
	return "no reason given"
}

// short drops the module's prefix from a package path.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/phantommesh/phantommesh/")
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
