package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/internal/nearest"
)

// DefaultFile is read when --config is not given; it may be missing.
const DefaultFile = "/etc/phantommesh/phantom.yaml"

// fileMax bounds a configuration file: every key with its longest list stays far below.
const fileMax = 64 << 10

// FileError says what is wrong with a configuration file and where.
type FileError struct {
	File string
	Line int // 0: the file as a whole
	Err  error
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s line %d: %v", e.File, e.Line, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// ReadFile reads a configuration file into a layer. A missing file is an error that satisfies errors.Is(err, fs.ErrNotExist).
func ReadFile(name string) (Layer, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, &FileError{File: name, Err: pathless(err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, &FileError{File: name, Err: pathless(err)}
	}
	if len(b) > fileMax {
		return nil, &FileError{File: name, Err: fmt.Errorf("longer than %d KiB: not a configuration file", fileMax>>10)}
	}
	return Parse(name, b)
}

// pathless drops the file name of a path error: the message names the file already.
func pathless(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Parse reads the text of a configuration file: one YAML mapping, keys of the table, scalars or lists of scalars. The name is for messages.
func Parse(name string, text []byte) (Layer, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return Layer{}, nil
	} else if err != nil {
		return nil, &FileError{File: name, Err: errors.New(strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &FileError{File: name, Line: more.Line, Err: errors.New("a second document; one is allowed")}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return Layer{}, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return Layer{}, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &FileError{File: name, Line: root.Line, Err: errors.New("want key: value lines")}
	}
	return mapping(name, root)
}

func mapping(name string, root *yaml.Node) (Layer, error) {
	l := Layer{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		bad := func(line int, format string, a ...any) error {
			return &FileError{File: name, Line: line, Err: fmt.Errorf(format, a...)}
		}
		k, ok := Lookup(key.Value)
		if !ok || key.Kind != yaml.ScalarNode {
			return nil, bad(key.Line, "unknown key %q%s", key.Value, suggestion(key.Value))
		}
		if _, twice := l[k.Name]; twice {
			return nil, bad(key.Line, "key %s is given twice", k.Name)
		}
		words, err := k.words(value)
		if err != nil {
			return nil, bad(value.Line, "%s: %w", k.Name, err)
		}
		l[k.Name] = Raw{Words: words, Where: fmt.Sprintf("%s line %d", name, key.Line)}
	}
	return l, nil
}

// words takes the scalars of a value. Anchors and aliases are refused: nothing here needs them and they hide size.
func (k Key) words(v *yaml.Node) ([]string, error) {
	switch {
	case v.Kind == yaml.ScalarNode && v.Tag == "!!null":
		return nil, nil
	case v.Kind == yaml.ScalarNode:
		return k.split(v.Value), nil
	case v.Kind == yaml.SequenceNode && !k.List:
		return nil, errors.New("takes one value, not a list")
	case v.Kind != yaml.SequenceNode:
		return nil, errors.New("takes a plain value")
	}
	var out []string
	for _, e := range v.Content {
		if e.Kind != yaml.ScalarNode || e.Tag == "!!null" {
			return nil, fmt.Errorf("line %d: takes a list of plain values", e.Line)
		}
		out = append(out, e.Value)
	}
	return out, nil
}

// suggestion names the nearest known key, when one is near enough to be meant.
func suggestion(word string) string {
	names := make([]string, len(Keys))
	for i, k := range Keys {
		names[i] = k.Name
	}
	best, ok := nearest.Word(strings.ToLower(strings.ReplaceAll(word, "_", "-")), names)
	if !ok {
		return "; known keys: " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
