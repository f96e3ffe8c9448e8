package main

import (
	"bufio"
	"os/exec"
	"regexp"
	"strings"
)

// result is one line of `go test -bench`: name, runs, then value and unit in turn.
var result = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// micro runs the benchmarks of all packages one after another.
func micro(t *session, _ options) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-p", "1",
		"github.com/phantommesh/phantommesh/...")
	out, err := cmd.CombinedOutput()
	var rows [][]string
	pkg := ""
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		if p, ok := strings.CutPrefix(lines.Text(), "pkg: github.com/phantommesh/phantommesh/"); ok {
			pkg = p
		}
		if m := result.FindStringSubmatch(lines.Text()); m != nil {
			values := map[string]string{}
			fields := strings.Fields(m[2])
			for i := 0; i+1 < len(fields); i += 2 {
				values[fields[i+1]] = fields[i]
			}
			rows = append(rows, []string{pkg, m[1], values["ns/op"], values["MB/s"], values["B/op"], values["allocs/op"]})
		}
	}
	if len(rows) > 0 {
		table("package|benchmark|ns/op|MB/s|B/op|allocs/op", rows)
	}
	if err != nil {
		t.Fatalf("go test -bench: %v\n%s", err, out)
	}
}
