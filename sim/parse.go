package sim

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Error says what is wrong with a scenario, and where.
type Error struct {
	File string
	Line int // 0: the file as a whole
	Why  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Why)
	}
	return fmt.Sprintf("%s line %d: %s", e.File, e.Line, e.Why)
}

func spell(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func wrong(line int, format string, args ...any) error {
	return &Error{Line: line, Why: spell(format, args...)}
}

// Parse reads a scenario; the file's name is for messages. Errors are *Error.
func Parse(file string, text []byte) (*Scenario, error) {
	s, err := parse(text)
	if err == nil {
		s.file, s.text = file, text
		err = s.checkSteps()
	}
	var e *Error
	if errors.As(err, &e) {
		e.File = file
		return nil, e
	}
	return s, err
}

func parse(text []byte) (*Scenario, error) {
	if len(text) > TextMax {
		return nil, wrong(0, "longer than %d KiB", TextMax>>10)
	}
	if !utf8.Valid(text) {
		return nil, wrong(0, "not UTF-8 text")
	}
	root, err := document(text)
	if err != nil {
		return nil, err
	}
	s := &Scenario{Timing: "lan", Join: JoinInvitation, Expect: Expect{Settle: settleUsual}, Load: Load{Timeout: 2 * time.Second}}
	err = each(root, map[string]func(*yaml.Node) error{
		"name":     label(&s.Name),
		"proves":   sentence(&s.Proves),
		"for":      duration(&s.For, time.Second, virtualMax),
		"timing":   oneOf(&s.Timing, "lan", "wan"),
		"join":     oneOf(&s.Join, JoinInvitation, JoinLAN),
		"formed":   flag(&s.Formed),
		"regions":  list(RegionsMax, s.region),
		"links":    list(RegionsMax*RegionsMax, s.link),
		"timeline": list(StepsMax, s.step),
		"load":     s.load,
		"expect":   s.expect,
	}, "name", "proves", "for", "regions")
	if err != nil {
		return nil, err
	}
	return s, s.checkPlaces(root.Line)
}

// checkPlaces looks at what needs the whole file.
func (s *Scenario) checkPlaces(line int) error {
	seen := map[string]bool{}
	for _, r := range s.Regions {
		if seen[r.Name] {
			return wrong(line, "region %s is there twice", r.Name)
		}
		seen[r.Name] = true
		if r.Name == anyRegions[0] {
			return wrong(line, "no region can be called %s: it stands for all of them", r.Name)
		}
		if s.Join == JoinLAN && (!r.LAN || len(s.Regions) > 1) {
			return wrong(line, "join: lan is for machines of one LAN: one region with lan: true")
		}
	}
	if n := s.Nodes() + s.joins(); n < 1 || n > NodesMax {
		return wrong(line, "%d nodes: 1 to %d are possible", n, NodesMax)
	}
	for _, l := range s.Links {
		if l.Between == anyRegions {
			continue
		}
		for _, name := range l.Between {
			if !seen[name] {
				return wrong(line, "a link to region %q, which is not there", name)
			}
		}
	}
	for _, k := range limitKinds {
		if _, ok := s.Expect.Limits[k.name]; ok && k.users && max(s.Load.Users.From, s.Load.Users.To) == 0 {
			return wrong(line, "expect: %s is about users' requests, and load: has no users:", k.name)
		}
	}
	for _, step := range s.Timeline {
		if step.At+step.Lasts > s.For {
			return wrong(step.line, "ends at %s, after the scenario's end at %s", step.At+step.Lasts, s.For)
		}
		if j, ok := step.Fault.(*join); ok && !seen[j.region] {
			return wrong(step.line, "machines join in region %q, which is not there", j.region)
		}
	}
	return nil
}

// document returns the one mapping of the text. A panic of the library, which is not ours, is about the text too.
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
		return nil, wrong(0, "empty")
	case err != nil:
		return nil, yamlError(err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, wrong(more.Line, "a second document; one is allowed")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, wrong(max(doc.Line, 1), "want name:, proves:, for:, regions: and so on")
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
	return wrong(line, "%s", why)
}

// each hands the values of a mapping to the functions of their keys; need are those that must be there.
func each(m *yaml.Node, keys map[string]func(*yaml.Node) error, need ...string) error {
	if m.Kind != yaml.MappingNode {
		return wrong(m.Line, "want %s: … and so on", firstKey(keys))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		take, ok := keys[key.Value]
		if !ok || key.Kind != yaml.ScalarNode {
			return wrong(key.Line, "unknown key %q%s", short(key.Value), meant(key.Value, sortedKeys(keys)))
		}
		if seen[key.Value] {
			return wrong(key.Line, "%s is there twice", key.Value)
		}
		seen[key.Value] = true
		if err := take(value); err != nil {
			var e *Error
			if errors.As(err, &e) {
				return err
			}
			return wrong(value.Line, "%s: %v", key.Value, err)
		}
	}
	for _, k := range need {
		if !seen[k] {
			return wrong(m.Line, "%s: is missing", k)
		}
	}
	return nil
}

func sortedKeys(keys map[string]func(*yaml.Node) error) []string {
	var out []string
	for k := range keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func firstKey(keys map[string]func(*yaml.Node) error) string { return sortedKeys(keys)[0] }

// short cuts what a message quotes.
func short(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// scalar is the text of a plain value. Aliases are refused: nothing here needs them, and they hide size.
func scalar(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", errors.New("takes one plain value")
	}
	return n.Value, nil
}

// words takes one plain value or a list of them.
func words(n *yaml.Node) ([]string, error) {
	if n.Kind != yaml.SequenceNode {
		w, err := scalar(n)
		return []string{w}, err
	}
	var out []string
	for _, e := range n.Content {
		w, err := scalar(e)
		if err != nil {
			return nil, errors.New("takes plain values")
		}
		out = append(out, w)
	}
	if len(out) == 0 {
		return nil, errors.New("an empty list")
	}
	return out, nil
}

var labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func label(to *string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err == nil && !labelForm.MatchString(w) {
			err = fmt.Errorf("%q: use lower case letters, digits and hyphens, 63 at most", short(w))
		}
		*to = w
		return err
	}
}

func sentence(to *string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		w = strings.Join(strings.Fields(w), " ")
		if err == nil && (w == "" || len(w) > 500) {
			err = errors.New("a sentence of up to 500 bytes")
		}
		*to = w
		return err
	}
}

func oneOf(to *string, known ...string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err == nil && !slices.Contains(known, w) {
			err = fmt.Errorf("%q is none of %s", short(w), strings.Join(known, ", "))
		}
		*to = w
		return err
	}
}

func duration(to *time.Duration, least, most time.Duration) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(w)
		if err != nil {
			return fmt.Errorf("%q is no duration, such as 300ms, 90s or 1h30m", short(w))
		}
		if d < least || d > most {
			return fmt.Errorf("%s: %s to %s are possible", d, least, most)
		}
		*to = d
		return nil
	}
}

func number(to *int, least, most int) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		v, err := strconv.Atoi(w)
		if err != nil || v < least || v > most {
			return fmt.Errorf("%q: use a number from %d to %d", short(w), least, most)
		}
		*to = v
		return nil
	}
}

// share takes a part of one, as 0.01 or 1%.
func share(to *float64) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		digits, percent := strings.CutSuffix(w, "%")
		v, err := strconv.ParseFloat(digits, 64)
		if percent {
			v /= 100
		}
		if err != nil || !(v >= 0 && v <= 1) {
			return fmt.Errorf("%q: use a share from 0%% to 100%%", short(w))
		}
		*to = v
		return nil
	}
}

func flag(to *bool) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err == nil && w != "true" && w != "false" {
			err = errors.New("use true or false")
		}
		*to = w == "true"
		return err
	}
}

// list hands each item to take.
func list(most int, take func(*yaml.Node) error) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return errors.New("takes a list")
		}
		if len(n.Content) > most {
			return fmt.Errorf("%d items: %d at most", len(n.Content), most)
		}
		for _, item := range n.Content {
			if err := take(item); err != nil {
				return err
			}
		}
		return nil
	}
}

// qualityKeys are the keys of a link.
func qualityKeys(q *Quality, more map[string]func(*yaml.Node) error) map[string]func(*yaml.Node) error {
	more["latency"] = duration(&q.Latency, 0, delayMax)
	more["jitter"] = duration(&q.Jitter, 0, delayMax)
	more["loss"] = share(&q.Loss)
	return more
}

func (s *Scenario) region(n *yaml.Node) error {
	r := Region{NAT: "none", Within: Quality{Latency: time.Millisecond}}
	err := each(n, accessKeys(&r.Access, qualityKeys(&r.Within, map[string]func(*yaml.Node) error{
		"name": label(&r.Name), "nodes": number(&r.Nodes, 1, NodesMax), "nat": oneOf(&r.NAT, natKinds...), "lan": flag(&r.LAN),
		"skew": duration(&r.Skew, 0, regionSkewMax),
	})), "name", "nodes")
	if err == nil && r.LAN && r.NAT == "none" {
		err = wrong(n.Line, "region %s: machines with public addresses are in no LAN; say which nat: they are behind", r.Name)
	}
	s.Regions = append(s.Regions, r)
	return err
}

func (s *Scenario) link(n *yaml.Node) error {
	l := Link{}
	err := each(n, qualityKeys(&l.Quality, map[string]func(*yaml.Node) error{
		"between": func(n *yaml.Node) error {
			w, err := words(n)
			if err == nil && len(w) != 2 {
				err = errors.New("takes two regions: [eu, us]")
			}
			if err == nil {
				l.Between = [2]string(w)
			}
			return err
		},
	}), "between")
	s.Links = append(s.Links, l)
	return err
}

func (s *Scenario) load(n *yaml.Node) error {
	u := &s.Load.Users
	s.loadLine = n.Line
	*u = Users{Think: 5 * time.Second, Request: 200, Response: 2000}
	err := each(n, map[string]func(*yaml.Node) error{
		"every": duration(&s.Load.Every, loadMin, virtualMax), "timeout": duration(&s.Load.Timeout, loadMin, time.Minute),
		"users": ramp(u), "over": duration(&u.Over, 0, virtualMax), "think": duration(&u.Think, thinkMin, time.Hour),
		"request": size(&u.Request, 1, messageMax), "response": size(&u.Response, 1, messageMax),
		"at": selector(&u.At), "ask": selector(&u.Ask),
	})
	switch {
	case err != nil:
		return err
	case s.Load.Every == 0 && max(u.From, u.To) == 0:
		return errors.New("takes every: for pings, users: for requests, or both")
	case u.From != u.To && u.Over == 0:
		return errors.New("from one number of users to another takes time: add over: 5m")
	}
	return nil
}

// ramp takes a number of users, or two: 0 -> 1000.
func ramp(to *Users) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		first, last, two := strings.Cut(w, "->")
		if !two {
			last = first
		}
		for text, v := range map[string]*int{first: &to.From, last: &to.To} {
			if *v, err = strconv.Atoi(strings.TrimSpace(text)); err != nil || *v < 0 || *v > usersMax {
				return fmt.Errorf("%q: use a number up to %d, or a ramp such as 0 -> 1000", short(w), usersMax)
			}
		}
		to.To = max(to.To, 0)
		if !two {
			to.From = to.To
		}
		return nil
	}
}

// sizeUnits are what a size may end with.
var sizeUnits = []struct {
	suffix string
	bytes  int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// size takes a number of bytes: 200, 200B, 2kB, 64KiB, 5MB.
func size(to *int, least, most int) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		for _, u := range sizeUnits {
			digits, ok := strings.CutSuffix(w, u.suffix)
			if !ok {
				continue
			}
			v, err := strconv.Atoi(strings.TrimSpace(digits))
			if err != nil || v < 0 || v > most/u.bytes || v*u.bytes < least {
				break
			}
			*to = v * u.bytes
			return nil
		}
		return fmt.Errorf("%q: use a size from %d to %d bytes, such as 200B, 2kB or 64KiB", short(w), least, most)
	}
}

func selector(to *Selector) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := words(n)
		if err == nil {
			*to, err = parseSelector(w)
		}
		return err
	}
}

func (s *Scenario) expect(n *yaml.Node) error {
	s.Expect.Limits = map[string]float64{}
	keys := map[string]func(*yaml.Node) error{
		"settle": duration(&s.Expect.Settle, time.Second, settleMax), "answered": share(&s.Expect.Answered),
		"checks": func(n *yaml.Node) (err error) {
			if s.Expect.Checks, err = words(n); err != nil {
				return err
			}
			for _, c := range s.Expect.Checks {
				if !slices.Contains(CheckerNames(), c) {
					return fmt.Errorf("no check %q%s", short(c), meant(c, CheckerNames()))
				}
			}
			return nil
		},
	}
	for _, k := range limitKinds {
		keys[k.name] = func(n *yaml.Node) (err error) {
			s.Expect.Limits[k.name], err = k.unit.parse(n)
			return err
		}
	}
	return each(n, keys)
}

// step reads one item of the timeline: at:, one fault, and how long it lasts.
func (s *Scenario) step(n *yaml.Node) error {
	step := Step{line: n.Line}
	keys := map[string]func(*yaml.Node) error{
		"at": duration(&step.At, 0, virtualMax), "for": duration(&step.Lasts, time.Millisecond, virtualMax),
		"gap": duration(&step.Gap, time.Millisecond, virtualMax), "every": duration(&step.Every, time.Second, virtualMax),
	}
	for name, kind := range faultKinds {
		keys[name] = func(n *yaml.Node) error {
			if step.Fault != nil {
				return fmt.Errorf("one step does one thing, and this one has %s already", step.Fault.Kind())
			}
			f, who, err := kind.parse(n)
			step.Fault, step.Who = f, who
			return err
		}
	}
	if err := each(n, keys, "at"); err != nil {
		return err
	}
	switch f := step.Fault; {
	case f == nil:
		return wrong(n.Line, "a step does one of: %s", strings.Join(faultNames(), ", "))
	case step.Lasts > 0 && !faultKinds[f.Kind()].undone:
		return wrong(n.Line, "%s cannot be undone: take away for:", f.Kind())
	case step.Every > 0 && s.For > 0 && s.For/step.Every > repeatsMax:
		return wrong(n.Line, "more than %d repetitions", repeatsMax)
	}
	s.Timeline = append(s.Timeline, step)
	return nil
}
