package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// style is an SGR sequence (ECMA-48 §8.3.117), empty for plain.
type style string

const (
	plain  style = ""
	bold   style = "\x1b[1m"
	green  style = "\x1b[32m"
	yellow style = "\x1b[33m"
	red    style = "\x1b[31m"
	reset        = "\x1b[0m"
)

// cell is a word of a table. Its style says nothing the word does not.
type cell struct {
	text  string
	style style
}

// table lines up words in columns. text/tabwriter counts escape sequences as width, so this one does its own sums.
type table struct {
	colour bool
	rows   [][]cell
}

func (a *app) newTable(head ...string) *table {
	t := &table{colour: a.colour()}
	row := make([]cell, len(head))
	for i, h := range head {
		row[i] = cell{h, bold}
	}
	t.rows = append(t.rows, row)
	return t
}

// add appends a row of strings and cells.
func (t *table) add(words ...any) {
	row := make([]cell, len(words))
	for i, w := range words {
		if c, ok := w.(cell); ok {
			row[i] = cell{printable(c.text), c.style}
			continue
		}
		row[i] = cell{printable(fmt.Sprint(w)), plain}
	}
	t.rows = append(t.rows, row)
}

// print writes the table, two spaces between columns, none at the end of a line. An empty word shows as a hyphen, so that columns can be cut.
func (t *table) print(w io.Writer) {
	var width []int
	for _, row := range t.rows {
		for i := range row {
			if row[i].text == "" {
				row[i].text = "-"
			}
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range t.rows {
		var b strings.Builder
		for i, c := range row {
			if t.colour && c.style != plain {
				b.WriteString(string(c.style) + c.text + reset)
			} else {
				b.WriteString(c.text)
			}
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", 2+width[i]-utf8.RuneCountInString(c.text)))
			}
		}
		fmt.Fprintln(w, b.String())
	}
}

// colour: only for a terminal, and not for those who ask for none (no-color.org).
func (a *app) colour() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(a.stdout)
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printable keeps what other machines named out of the terminal's control.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// printJSON writes one object on one line.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
