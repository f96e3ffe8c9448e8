package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// In two worlds side by side, each with half of the pairs.
func TestEveryPairConnectsTheWayTheoryAllows(t *testing.T) {
	t.Parallel()
	pairs := 0
	for _, from := range [][]kind{{public, easy, ipv6}, {hard, blocked, carrier, mapped}} {
		for _, k := range from {
			pairs += len(kinds) - slices.Index(kinds, k)
		}
		t.Run("from "+string(from[0]), func(t *testing.T) {
			t.Parallel()
			w := need(t)
			var cells []found
			w.grid(kinds, from, func(f found) {
				cells = append(cells, f)
				switch {
				case f.err != nil:
					t.Errorf("%s to %s: %v", f.a, f.b, f.err)
				case f.first > settled/2:
					t.Errorf("%s to %s: the first packet took %s", f.a, f.b, f.first)
				}
			})
			t.Log("\n" + format(cells))
		})
	}
	if want := len(kinds) * (len(kinds) + 1) / 2; pairs != want {
		t.Errorf("the halves have %d pairs, want %d", pairs, want)
	}
}

func TestTheoryKnowsEveryPair(t *testing.T) {
	count := map[way]int{}
	for i, a := range kinds {
		for _, b := range kinds[i:] {
			if theory(a, b) != theory(b, a) {
				t.Errorf("%s and %s: %s one way, %s the other", a, b, theory(a, b), theory(b, a))
			}
			count[theory(a, b)]++
		}
	}
	if len(count) != 3 || count[direct]+count[directTCP]+count[relayed] != 28 {
		t.Errorf("%v", count)
	}
}

func TestTheTableGoesBetweenItsMarks(t *testing.T) {
	cells := []found{{a: public, b: hard, expected: direct, way: relayed, first: 41 * time.Millisecond}}
	document := "before\n" + beginMark + "\nold\n" + endMark + "\nafter\n"
	for range 2 { // writing again changes nothing
		out, err := between([]byte(document), []byte(format(cells)))
		if err != nil {
			t.Fatal(err)
		}
		document = string(out)
	}
	want := "| public | hard NAT | direct | **relay** | 41 |  |\n\n" + endMark + "\nafter\n"
	if !strings.HasPrefix(document, "before\n"+beginMark+"\n\n| from |") || !strings.HasSuffix(document, want) {
		t.Errorf("got %s", document)
	}
	if _, err := between([]byte("no marks"), nil); err == nil {
		t.Error("a document without marks was written to")
	}
}
