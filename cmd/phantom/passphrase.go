package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// passphraseMax bounds a passphrase in bytes; passphraseMin is what a new one must have in characters. What it protects is the whole mesh, and who
// has the file can guess as long as he likes.
const (
	passphraseMax = 1 << 10
	passphraseMin = 10
)

// passphrase reads a passphrase: the first line of a file ("-": of the standard input), else from the terminal without echo, twice if it is new. It
// never stands on the command line, where every user of the machine could read it.
func (a *app) passphrase(file string, isNew bool) (string, error) {
	var p string
	var err error
	switch {
	case file == "-":
		p, err = firstLine(a.stdin)
	case file != "":
		p, err = passphraseFrom(file)
	case isTerminal(a.stdin):
		p, err = a.typePassphrase(isNew)
	default:
		return "", &usageError{errors.New("there is no terminal to ask for the passphrase: name a file with --passphrase-file FILE, or - for the standard input")}
	}
	if err == nil && p == "" {
		err = errors.New("it is empty")
	}
	if n := len([]rune(p)); err == nil && isNew && n < passphraseMin {
		err = fmt.Errorf("it has %d characters, at least %d are needed: this file is all it takes to rule the mesh; six random words are good", n, passphraseMin)
	}
	if err != nil {
		return "", localapi.Fail(localapi.Failed, "cannot use the passphrase", err, "")
	}
	return p, nil
}

func passphraseFrom(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return firstLine(f)
}

func firstLine(from io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(from, passphraseMax+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if len(line) > passphraseMax {
		return "", fmt.Errorf("it is longer than %d bytes", passphraseMax)
	}
	return line, nil
}

func (a *app) typePassphrase(twice bool) (string, error) {
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(a.stderr, prompt)
		defer fmt.Fprintln(a.stderr)
		return term.ReadPassword(int(a.stdin.(*os.File).Fd()))
	}
	first, err := ask("passphrase: ")
	if err != nil || !twice {
		return string(first), err
	}
	second, err := ask("again: ")
	if err == nil && !bytes.Equal(first, second) {
		err = errors.New("the two are not the same")
	}
	return string(first), err
}
