package config

import (
	"fmt"
	"strings"
)

// Raw is what one source says of one key.
type Raw struct {
	Words []string // one, or several for a list; none or one empty word: back to the default
	Where string   // for messages: "--port", "PHANTOM_PORT", "/etc/phantommesh/phantom.yaml line 3"
}

func (r Raw) isReset() bool { return len(r.Words) == 0 || len(r.Words) == 1 && r.Words[0] == "" }

// Layer is what one source says: raw words by key name.
type Layer map[string]Raw

// With gives a layer with more's keys over l's. A reset in more removes the key, so that the layers below speak again.
func (l Layer) With(more Layer) Layer {
	out := make(Layer, len(l)+len(more))
	for k, v := range l {
		out[k] = v
	}
	for k, v := range more {
		if v.isReset() {
			delete(out, k)
			continue
		}
		out[k] = v
	}
	return out
}

// Environment reads the variables of all keys. An empty variable counts as not set; lists are separated by commas.
func Environment(getenv func(string) string) Layer {
	l := Layer{}
	for _, k := range Keys {
		if v := getenv(k.Env()); v != "" {
			l[k.Name] = Raw{Words: k.split(v), Where: k.Env()}
		}
	}
	return l
}

// Flag makes the raw words of a flag that was given with these values.
func (k Key) Flag(values []string) Raw {
	var words []string
	for _, v := range values {
		words = append(words, k.split(v)...)
	}
	return Raw{Words: words, Where: "--" + k.Name}
}

// split cuts a list at commas. No member of a list can hold one.
func (k Key) split(v string) []string {
	if !k.List {
		return []string{v}
	}
	var out []string
	for w := range strings.SplitSeq(v, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

// BadValue is a value that cannot be used: which, of which key, where it stands and why.
type BadValue struct {
	Key, Value, Where string
	Err               error
}

func (e *BadValue) Error() string {
	return fmt.Sprintf("%s: bad value %q for %s: %v", e.Where, e.Value, e.Key, e.Err)
}

func (e *BadValue) Unwrap() error { return e.Err }

// Resolve makes settings of layers, the strongest first, over the defaults.
func Resolve(base Settings, layers ...Layer) (Settings, error) {
	s := base
	for _, k := range Keys {
		for _, l := range layers {
			raw, ok := l[k.Name]
			if !ok {
				continue
			}
			if raw.isReset() {
				// Said on purpose: the default, whatever weaker layers say.
				break
			}
			if err := k.apply(&s, raw); err != nil {
				return Settings{}, err
			}
			break
		}
	}
	return s, nil
}

func (k Key) apply(s *Settings, raw Raw) error {
	bad := &BadValue{Key: k.Name, Value: strings.Join(raw.Words, ","), Where: raw.Where}
	switch {
	case !k.List && len(raw.Words) > 1:
		bad.Err = fmt.Errorf("it takes one value")
		return bad
	case len(raw.Words) > listMax:
		bad.Err = fmt.Errorf("%d values are too many, %d at most", len(raw.Words), listMax)
		return bad
	}
	if err := k.set(s, raw.Words); err != nil {
		bad.Err = err
		return bad
	}
	return nil
}
