package policy

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/internal/nearest"
)

// Error says what is wrong with a text, and where.
type Error struct {
	Line int // 0: the text as a whole
	Why  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Why
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Why)
}

func wrong(line int, format string, args ...any) error {
	return &Error{Line: line, Why: fmt.Sprintf(format, args...)}
}

// Parse reads a policy. Errors are *Error.
func Parse(text []byte) (*Policy, error) {
	if len(text) > TextMax {
		return nil, wrong(0, "the policy is longer than %d KiB", TextMax>>10)
	}
	if !utf8.Valid(text) {
		return nil, wrong(0, "the policy is not UTF-8 text")
	}
	root, err := document(text)
	if err != nil {
		return nil, err
	}
	fields, err := mapping(root, "rules", "expect")
	if err != nil {
		return nil, err
	}
	rules, err := items(root.Line, "rules", fields["rules"], RulesMax)
	if err != nil {
		return nil, err
	}
	if fields["rules"] == nil {
		return nil, wrong(root.Line, "the policy has no rules; to deny everything, write so: rules: []")
	}
	p := &Policy{}
	for _, node := range rules {
		r, err := rule(node)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, r)
	}
	expects, err := items(root.Line, "expect", fields["expect"], ExpectsMax)
	if err != nil {
		return nil, err
	}
	for _, node := range expects {
		e, err := expectNode(node)
		if err != nil {
			return nil, err
		}
		p.Expects = append(p.Expects, e)
	}
	return p, nil
}

// document returns the one mapping of the text. The YAML library is not ours: a panic in it would otherwise end every node of the mesh,
// again and again, as the text comes with the ledger.
func document(text []byte) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, wrong(0, "not YAML that can be read")
		}
	}()
	var doc, more yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, wrong(0, "the policy is empty; phantom policy show --example prints one to start from")
	case err != nil:
		return nil, yamlError(err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, wrong(more.Line, "a second document; one is allowed")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, wrong(max(doc.Line, 1), "want rules: and a list of rules; phantom policy show --example prints a policy to start from")
	}
	return doc.Content[0], nil
}

// yamlError takes the line out of the library's message.
func yamlError(err error) error {
	why := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if n, _ := fmt.Sscanf(why, "line %d:", &line); n == 1 {
		_, why, _ = strings.Cut(why, ": ")
	}
	if strings.Contains(why, "alphabetic or numeric character") {
		why += `; a * needs quotes: "*"`
	}
	if strings.Contains(why, "cannot start any token") {
		why += "; YAML indents with spaces, not with tabs"
	}
	return wrong(line, "%s", why)
}

// mapping returns the values of a mapping by key; known are the keys it may have.
func mapping(m *yaml.Node, known ...string) (map[string]*yaml.Node, error) {
	if m.Kind != yaml.MappingNode {
		return nil, wrong(m.Line, "want %s", strings.Join(known, ": …, ")+": …")
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if key.Kind != yaml.ScalarNode || !contains(known, key.Value) {
			return nil, wrong(key.Line, "unknown key %q%s", short(key.Value), meant(key.Value, known))
		}
		if out[key.Value] != nil {
			return nil, wrong(key.Line, "%s is there twice", key.Value)
		}
		out[key.Value] = value
	}
	return out, nil
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

func meant(word string, known []string) string {
	if best, ok := nearest.Word(strings.ToLower(word), known); ok {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known: " + strings.Join(known, ", ")
}

// short cuts what a message quotes.
func short(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// items returns what a list holds; nil for a list that is missing.
func items(line int, key string, n *yaml.Node, most int) ([]*yaml.Node, error) {
	switch {
	case n == nil:
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, wrong(max(n.Line, line), "%s takes a list; an empty one is written %s: []", key, key)
	case len(n.Content) > most:
		return nil, wrong(n.Content[most].Line, "%s has more than %d entries", key, most)
	}
	return n.Content, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func rule(n *yaml.Node) (Rule, error) {
	r := Rule{Line: n.Line}
	fields, err := mapping(n, "from", "to", "allow")
	if err != nil {
		return r, err
	}
	for _, side := range []struct {
		key  string
		into *[]Selector
	}{{"from", &r.From}, {"to", &r.To}} {
		words, err := words(n.Line, side.key, fields[side.key], selectorsMax)
		if err != nil {
			return r, err
		}
		for _, w := range words {
			s, err := parseSelector(w.Value)
			if err != nil {
				return r, wrong(w.Line, "%s: %v", side.key, err)
			}
			*side.into = append(*side.into, s)
		}
	}
	allow, err := words(n.Line, "allow", fields["allow"], servicesMax)
	if err != nil {
		return r, err
	}
	for _, w := range allow {
		s, err := parseService(w.Value)
		if err != nil {
			return r, wrong(w.Line, "allow: %v", err)
		}
		r.Allow = append(r.Allow, s)
	}
	return r, nil
}

// words returns the plain words of a list, or of a single word in its place. Anchors, aliases and tags have no use here and hide size.
func words(line int, key string, n *yaml.Node, most int) ([]*yaml.Node, error) {
	if n == nil {
		return nil, wrong(line, "the rule lacks %s", key)
	}
	items := n.Content
	if n.Kind == yaml.ScalarNode {
		items = []*yaml.Node{n}
	} else if n.Kind != yaml.SequenceNode {
		return nil, wrong(n.Line, "%s takes a list", key)
	}
	if len(items) == 0 || isNull(items[0]) {
		return nil, wrong(n.Line, "%s is empty", key)
	}
	if len(items) > most {
		return nil, wrong(n.Line, "%s has more than %d entries", key, most)
	}
	for _, w := range items {
		if w.Kind != yaml.ScalarNode || w.Anchor != "" || isNull(w) {
			return nil, wrong(w.Line, "%s takes a list of plain words", key)
		}
	}
	return items, nil
}

func expectNode(n *yaml.Node) (Expect, error) {
	if n.Kind != yaml.ScalarNode || n.Anchor != "" {
		return Expect{}, wrong(n.Line, "expect takes lines like: laptop-1 -> nas tcp/445 deny")
	}
	e, err := parseExpect(n.Value)
	if err != nil {
		return e, wrong(n.Line, "expect: %v", err)
	}
	e.Line = n.Line
	return e, nil
}
