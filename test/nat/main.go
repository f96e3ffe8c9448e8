package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/phantommesh/phantommesh/internal/lab"
)

func main() {
	only := flag.String("kinds", "", "comma-separated kinds of networks (all if empty)")
	file := flag.String("write", "", "document to put the table into")
	flag.Parse()
	of := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool {
		return *only != "" && !slices.Contains(strings.Split(*only, ","), string(k))
	})
	cells, err := measure(of)
	fmt.Print(format(cells))
	if err == nil && *file != "" {
		err = write(*file, cells)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nat:", err)
		os.Exit(1)
	}
}

// measure walks the grid outside a test.
func measure(of []kind) (cells []found, err error) {
	t := &lab.Session{}
	defer func() {
		if s, stopped := recover().(lab.Stop); stopped {
			err = fmt.Errorf("%s", s.Why)
		}
		t.End(err != nil)
	}()
	lab.Need(t, tools...)
	newWorld(t).grid(of, of, func(f found) {
		cells = append(cells, f)
		fmt.Fprintf(os.Stderr, "%s to %s: %s, first packet after %s ms, %v\n", f.a, f.b, f.way, millis(f.first), f.err)
	})
	return cells, nil
}
