package main

import (
	"io"
	"strings"
	"testing"

	"filippo.io/age/armor"
)

// endless repeats one byte for ever, and counts.
type endless struct {
	char byte
	read int
}

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = e.char
	}
	e.read += len(b)
	return len(b), nil
}

// Regression: a file without a newline, a disk or a stream of zeros, was read into memory until that was full.
func TestAFileThatIsNoBackupIsGivenUpEarly(t *testing.T) {
	for name, start := range map[string]string{
		"zeros":         "",
		"endless intro": "age-encryption.org/v1",
		"endless line":  "age-encryption.org/v1\n-> scrypt ",
		"endless end":   "age-encryption.org/v1\n-> scrypt aaaa 18\naaaa\n--- ",
		"endless armor": armor.Header + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			rest := &endless{char: 'A'}
			if _, err := openSealed(io.MultiReader(strings.NewReader(start), rest), "six random words are a good one"); err == nil {
				t.Error("it was taken")
			}
			if rest.read > 8*sealedHeaderMax {
				t.Errorf("%d bytes of it were read", rest.read)
			}
		})
	}
}
