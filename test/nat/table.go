package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// Marks of a document between which the table goes.
const (
	beginMark = "<!-- grid: written by make nat-grid -->"
	endMark   = "<!-- end of grid -->"
)

// format is the table as Markdown.
func format(cells []found) string {
	var b strings.Builder
	b.WriteString("| from | to | theory | found | first packet, ms | to that path, ms |\n|---|---|---|---|---|---|\n")
	for _, f := range cells {
		if f.first == 0 {
			fmt.Fprintf(&b, "| %s | %s | %s | **%v** | | |\n", kindNames[f.a], kindNames[f.b], f.expected, f.err)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", kindNames[f.a], kindNames[f.b], f.expected, emphasized(f), millis(f.first), millis(f.best))
	}
	return b.String()
}

// emphasized marks a path that is not the expected one.
func emphasized(f found) string {
	if f.way != f.expected {
		return "**" + string(f.way) + "**"
	}
	return string(f.way)
}

func millis(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprint(max(1, d.Milliseconds()))
}

// between replaces what stands between the marks of a document.
func between(document, text []byte) ([]byte, error) {
	begin, end := bytes.Index(document, []byte(beginMark)), bytes.Index(document, []byte(endMark))
	if begin < 0 || end < begin {
		return nil, fmt.Errorf("the marks %q and %q are missing", beginMark, endMark)
	}
	out := append([]byte{}, document[:begin+len(beginMark)]...)
	out = append(append(out, "\n\n"...), text...)
	return append(append(out, '\n'), document[end:]...), nil
}

// write puts the table into a file.
func write(file string, cells []found) error {
	document, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if document, err = between(document, []byte(format(cells))); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, document, 0o644)
}
