package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/renameio/v2"
	"go.yaml.in/yaml/v3"
)

const savedHeader = "# What phantom up was told so far. Change it with phantom up FLAGS; an empty value (--region=) forgets one.\n"

// notSaved are the keys that cannot be remembered in the state folder: the way to it.
var notSaved = map[string]bool{"state": true}

// ReadSaved reads the settings of earlier phantom up. None yet is an empty layer.
func ReadSaved(name string) (Layer, error) {
	l, err := ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Layer{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w (it holds settings only: repair it, or delete it and run phantom up again)", err)
	}
	return l, nil
}

// WriteSaved keeps a layer for ReadSaved: private to the user, replaced in one step, so that a crash leaves the old or the new file.
func WriteSaved(name string, l Layer) error {
	text, err := Format(l)
	if err != nil {
		return err
	}
	return renameio.WriteFile(name, text, 0o600)
}

// Format writes a layer as a configuration file, keys in the order of the table.
func Format(l Layer) ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range Keys {
		raw, ok := l[k.Name]
		if !ok || notSaved[k.Name] || raw.isReset() {
			continue
		}
		value := &yaml.Node{}
		if k.List {
			value.Kind, value.Style = yaml.SequenceNode, yaml.FlowStyle
			for _, w := range raw.Words {
				value.Content = append(value.Content, scalar(w))
			}
		} else {
			value = scalar(raw.Words[0])
		}
		root.Content = append(root.Content, scalar(k.Name), value)
	}
	if len(root.Content) == 0 {
		return []byte(savedHeader), nil
	}
	var b bytes.Buffer
	b.WriteString(savedHeader)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// scalar quotes a word only where YAML would read it as something else.
func scalar(w string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(w)
	return n
}

// Equal tells whether two layers say the same, wherever they say it.
func (l Layer) Equal(other Layer) bool {
	a, errA := Format(l)
	b, errB := Format(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
