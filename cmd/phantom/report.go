package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"syscall"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// report is the pipe through which a node in the background tells the command that started it how the start went: one JSON object a line,
// first that it serves, or at any time the failure it ends with. A nil report says nothing.
type report struct{ pipe *os.File }

type reportLine struct {
	Serving bool              `json:"serving,omitempty"`
	Failure *localapi.Failure `json:"failure,omitempty"`
}

// reportLineMax bounds a line: a failure is a few sentences.
const reportLineMax = 64 << 10

func openReport(fd int) *report {
	if fd <= 2 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return &report{os.NewFile(uintptr(fd), "status pipe")}
}

func (r *report) write(l reportLine) {
	if r == nil {
		return
	}
	// Nobody listens any more once the start is over.
	_ = json.NewEncoder(r.pipe).Encode(l)
}

func (r *report) serving()                   { r.write(reportLine{Serving: true}) }
func (r *report) failed(f *localapi.Failure) { r.write(reportLine{Failure: f}) }

// readReport calls back for every line until the pipe ends.
func readReport(pipe io.Reader, line func(reportLine)) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, reportLineMax)
	for lines.Scan() {
		var l reportLine
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			line(l)
		}
	}
}
