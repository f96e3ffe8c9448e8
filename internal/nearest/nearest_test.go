package nearest

import (
	"strings"
	"testing"
)

func TestTheWordThatWasMeantIsFound(t *testing.T) {
	known := []string{"rules", "expect", "from", "to", "allow"}
	for word, want := range map[string]string{
		"rule": "rules", "expects": "expect", "form": "from", "alow": "allow", "allowed": "allow", "": "to", "banana": "", strings.Repeat("x", 100): "",
	} {
		if got, ok := Word(word, known); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}
