package sim

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const soundScenario = `name: small
proves: something
for: 10m
regions:
  - {name: home, nodes: 3, latency: 1ms, loss: 1%}
  - {name: away, nodes: 2, nat: hard}
links: [{between: [home, away], latency: 20ms}]
load: {every: 5s}
timeline:
  - {at: 1m, kill: leader, for: 30s}
  - {at: 2m, partition: [[n1, n2], others], for: 1m}
expect: {settle: 30s, answered: 50%}
`

func TestAScenarioIsRead(t *testing.T) {
	s, err := Parse("small.yaml", []byte(soundScenario))
	if err != nil {
		t.Fatal(err)
	}
	if s.Nodes() != 5 || s.For != 10*time.Minute || len(s.Timeline) != 2 || s.Regions[1].NAT != "hard" || s.Regions[0].Within.Loss != 0.01 || s.Expect.Answered != 0.5 {
		t.Errorf("%+v", s)
	}
	if err := s.Shorten(90 * time.Second); err != nil || len(s.Timeline) != 1 {
		t.Errorf("%v, %d steps", err, len(s.Timeline))
	}
	if err := s.Resize(12); err != nil || s.Nodes() != 12 || s.Regions[1].Nodes == 0 {
		t.Errorf("%v, %d machines", err, s.Nodes())
	}
}

func TestMistakesInAScenarioAreNamedWithTheirLine(t *testing.T) {
	for change, want := range map[string]string{
		"for: 10m\x00":                               "line 1: for: is missing",
		"nodes: 3\x00nodes: many":                    "line 5",
		"timeline:\x00timelime:":                     `unknown key "timelime"; did you mean "timeline"`,
		"kill: leader\x00kil: leader":                "line 10",
		"kill: leader\x00kill: n9":                   "n9",
		"between: [home, away]\x00between: [a, b]":   "not there",
		"at: 1m\x00at: 20m":                          "after the scenario's end",
		"loss: 1%\x00loss: 120%":                     "0% to 100%",
		"name: away\x00name: all":                    "no region can be called all",
		"for: 10m\x00for: 10m\nformed: maybe":        "line 4: formed: use true or false",
		"nat: hard\x00nat: harder":                   "none of",
		"settle: 30s\x00settle: soon":                "no duration",
		"proves: something\x00proves: &a x":          "",
		"load: {every: 5s}\x00load: [every]":         "line 8",
		"name: small\x00name: Small Mesh":            "lower case",
		"expect: {settle: 30s\x00expect: {checks: x": "line 12",

		"load: {every: 5s}\x00load: {timeout: 5s}":                          "takes every:",
		"load: {every: 5s}\x00load: {users: many}":                          "0 -> 1000",
		"load: {every: 5s}\x00load: {users: 0 -> 50}":                       "add over:",
		"load: {every: 5s}\x00load: {users: 5, request: 1MB}":               "from 1 to 65536 bytes",
		"load: {every: 5s}\x00load: {users: 5, response: 99999999MB}":       "from 1 to 65536 bytes",
		"load: {every: 5s}\x00load: {users: 5, ask: n9}":                    "there is no n9",
		"load: {every: 5s}\x00load: {users: 5, at: region:moon}":            `no region "moon"`,
		"load: {every: 5s}\x00load: {users: 5, at: 'coordinator:moon'}":     `no region "moon"`,
		"nat: hard\x00nat: hard, bandwidth: 20MB":                           "20Mbit",
		"nat: hard\x00nat: hard, mtu: 500":                                  "1280 to 9216",
		"kill: leader, for: 30s\x00attack: {kind: bribe}":                   "none of replay, junk",
		"kill: leader, for: 30s\x00attack: {kind: replay, who: n1}":         "leave out `who`",
		"kill: leader, for: 30s\x00degrade: {who: n1}":                      "takes latency",
		"kill: leader\x00renumber: n4":                                      "cannot be undone",
		"kill: leader, for: 30s\x00clock: {who: n1, skew: soon}":            "line 10: skew: \"soon\" is no duration, such as 90s, -3h or 60d",
		"kill: leader, for: 30s\x00clock: {who: n1, skew: -999d}":           "either way",
		"kill: leader, for: 30s\x00clock: {who: n1, drift: 2h}":             "at most 1h0m0s",
		"kill: leader, for: 30s\x00clock: {skew: 1h}":                       "who: is missing",
		"nat: hard\x00nat: hard, skew: 1h":                                  "0s to 2m30s are possible",
		"for: 10m\x00for: 10m\njoin: lan":                                   "one region with lan: true",
		"for: 10m\x00for: 10m\njoin: post":                                  "none of invitation, lan",
		"expect: {settle: 30s\x00expect: {p99: 1s":                          "p99 is about users' requests",
		"expect: {settle: 30s\x00expect: {converged: soon":                  "no duration",
		"expect: {settle: 30s\x00expect: {bytes_per_node_hour: x":           "use a size",
		"kill: leader, for: 30s\x00traitor: {kind: spy, who: n1}":           "none of liar, flooder, replayer, forger, blackhole",
		"kill: leader, for: 30s\x00traitor: {kind: liar}":                   "who: is missing",
		"kill: leader, for: 30s\x00traitor: {who: n1}":                      "kind: is missing",
		"kill: leader, for: 30s\x00traitor: {kind: liar, who: n9}":          "line 10: there is no n9",
		"kill: leader, for: 30s\x00traitor: {kind: liar, who: n1, rate: 0}": "from 1 to 2000",
		"kill: leader, for: 30s\x00disk: {who: n1}":                         "takes slow: 500ms, full: true or fail: true",
		"kill: leader, for: 30s\x00disk: {full: yes, who: n1}":              "use true or false",
		"kill: leader, for: 30s\x00disk: {slow: 1h, who: n1}":               "1ms to 1m0s are possible",
		"kill: leader, for: 30s\x00power: n9":                               "there is no n9",
	} {
		old, now, _ := strings.Cut(change, "\x00")
		text := strings.Replace(soundScenario, old, now, 1)
		if text == soundScenario {
			t.Fatalf("%q is not in the scenario", old)
		}
		_, err := Parse("small.yaml", []byte(text))
		if want == "" {
			continue // must only end
		}
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "small.yaml") {
			t.Errorf("%s: %v, want %q", now, err, want)
		}
	}
}

func TestUsersComeAndGoEvenly(t *testing.T) {
	s, err := Parse("small.yaml", []byte(strings.Replace(soundScenario, "{every: 5s}", "{users: 10 -> 110, over: 5m, think: 1s, request: 2kB, response: 64KiB, at: n1, ask: [n2, n3]}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	u := s.Load.Users
	if u.From != 10 || u.To != 110 || u.Over != 5*time.Minute || u.Request != 2000 || u.Response != 65536 || u.At.String() != "n1" || u.Ask.String() != "n2, n3" {
		t.Errorf("%+v", u)
	}
	there := func(u Users, at time.Duration) (n int) {
		for i := range max(u.From, u.To) {
			if begin, end := u.stay(i, s.For); begin <= at && at < end {
				n++
			}
		}
		return n
	}
	falling, steady := Users{From: 50, To: 0, Over: time.Minute}, Users{From: 7, To: 7}
	for _, c := range []struct {
		users Users
		at    time.Duration
		want  int
	}{{u, 0, 10}, {u, 150 * time.Second, 60}, {u, 5 * time.Minute, 110}, {u, 9 * time.Minute, 110}, {u, s.For, 0},
		{falling, 0, 50}, {falling, 30 * time.Second, 25}, {falling, time.Minute, 0}, {steady, 0, 7}, {steady, 9 * time.Minute, 7}} {
		if got := there(c.users, c.at); got != c.want {
			t.Errorf("%d -> %d: %d users at %s, want %d", c.users.From, c.users.To, got, c.at, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(soundScenario))
	f.Add([]byte("name: x\nregions: [{name: a, nodes: 2000}]\nfor: 1s\nproves: y\ntimeline: [{at: 0s, join: {nodes: 2, region: a, over: 1s}}]"))
	f.Add([]byte("name: x\nregions: [{name: a, nodes: 2}]\nfor: 1m\nproves: y\nload: {users: 0 -> 1000, over: 30s, request: 64KiB}\nexpect: {p999: 1s, errors: 1%}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse("fuzz.yaml", text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		if n := s.Nodes(); n < 1 || n > NodesMax || s.For > virtualMax || len(s.Timeline) > StepsMax {
			t.Errorf("out of bounds: %d machines, %s", n, s.For)
		}
	})
}

// A link between all regions is for those pairs that have none of their own.
func TestALinkOfAllRegionsIsForThoseThatHaveNoOther(t *testing.T) {
	s, err := Parse("all.yaml", []byte(`name: all
proves: something
for: 1m
regions: [{name: a, nodes: 1}, {name: b, nodes: 1}, {name: c, nodes: 1}]
links: [{between: [b, a], latency: 5ms}, {between: [all, all], latency: 40ms}]
`))
	if err != nil {
		t.Fatal(err)
	}
	w := &World{links: newLinks(1)}
	p := &play{world: w, scenario: s}
	for i := range s.Regions {
		s.Regions[i].Nodes = 0 // the ways alone
	}
	p.lay()
	for between, want := range map[[2]string]time.Duration{pair("a", "b"): 5 * time.Millisecond, pair("a", "c"): 40 * time.Millisecond, pair("b", "c"): 40 * time.Millisecond} {
		if got := w.links.routes[between].Latency; got != want {
			t.Errorf("%v: %v, want %v", between, got, want)
		}
	}
}
