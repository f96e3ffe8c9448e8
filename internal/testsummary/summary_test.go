package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

const stream = `{"Action":"run","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestGood"}
{"Action":"pass","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestBad","Output":"    peer_test.go:7: the tide went out\n"}
{"Action":"fail","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestBad"}
{"Action":"output","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestRoot","Output":"    lab.go:9: needs root\n"}
{"Action":"output","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestRoot","Output":"--- SKIP: TestRoot (0.00s)\n"}
{"Action":"skip","Package":"github.com/phantommesh/phantommesh/peer","Test":"TestRoot"}
{"Action":"fail","Package":"github.com/phantommesh/phantommesh/peer","Elapsed":0.2}
this is no event
{"ImportPath":"github.com/phantommesh/phantommesh/nat","Action":"build-output","Output":"nat.go:1: syntax error\n"}
{"Action":"fail","Package":"github.com/phantommesh/phantommesh/nat","FailedBuild":"github.com/phantommesh/phantommesh/nat"}
`

func TestClosingLineCountsEveryOutcome(t *testing.T) {
	var out bytes.Buffer
	s := newSummary(&out)
	if err := s.read("unit", strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if s.close() {
		t.Error("a failed test must make the whole run fail")
	}
	text := out.String()
	if !strings.HasSuffix(text, "\n1 passed, 2 failed, 1 skipped\n") {
		t.Errorf("closing line is wrong:\n%s", text)
	}
	for _, want := range []string{
		"the tide went out",                       // the failing test's own output
		"unit peer TestRoot: needs root",          // the skip and its reason
		"this is no event",                        // passed through
		"nat.go:1: syntax error",                  // the compiler's message
		"unit nat (package)", "unit peer TestBad", // the list of failures
	} {
		if !strings.Contains(text, want) {
			t.Errorf("summary lacks %q:\n%s", want, text)
		}
	}
}

func TestStagesThatCannotRunAreCounted(t *testing.T) {
	var out bytes.Buffer
	s := newSummary(&out)
	s.skipStage("e2e", "needs root")
	if !s.close() || !strings.HasSuffix(out.String(), "0 passed, 0 failed, 1 skipped\n") {
		t.Errorf("a skipped stage is a skip, not a failure:\n%s", out.String())
	}
	s.stageFailed("race", errors.New("go: not found"))
	if s.close() {
		t.Error("a command that fails must make the whole run fail")
	}
}
