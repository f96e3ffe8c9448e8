package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/phantommesh/phantommesh/testdata/scenarios"
)

// Library are the scenarios that are built in, by name.
func Library() ([]*Scenario, error) {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var out []*Scenario
	for _, name := range files {
		text, err := fs.ReadFile(scenarios.Files, name)
		if err != nil {
			return nil, err
		}
		s, err := Parse(name, text)
		if err != nil {
			return nil, err
		}
		if s.Name+".yaml" != name {
			return nil, &Error{File: name, Why: fmt.Sprintf("the scenario is named %s: it belongs into %s.yaml", s.Name, s.Name)}
		}
		s.file = s.Name
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *Scenario) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Find gives a scenario of the library by name, or reads a file. What has a slash or a dot is a file.
func Find(what string) (*Scenario, error) {
	if strings.ContainsAny(what, "/.") {
		return readFile(what)
	}
	all, err := Library()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range all {
		if s.Name == what {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return nil, &UnknownError{Name: what, Known: names, hint: meant(what, names)}
}

// UnknownError: no scenario of the library has that name.
type UnknownError struct {
	Name  string
	Known []string
	hint  string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no scenario is called %q%s", e.Name, e.hint)
}

func readFile(name string) (*Scenario, error) {
	f, err := os.Open(name)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, &Error{File: name, Why: err.Error()}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, TextMax+1))
	if err != nil {
		return nil, &Error{File: name, Why: err.Error()}
	}
	return Parse(name, text)
}

// Source is what names the scenario on a command line: its name, or the file that it was read from.
func (s *Scenario) Source() string { return s.file }
