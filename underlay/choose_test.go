package underlay

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden traces anew")

func TestChoose(t *testing.T) {
	addr := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1) }
	ms := time.Millisecond
	for _, c := range []struct {
		name   string
		paths  []pathState
		active int // 0: none
		eager  bool
		want   int // 0: none
	}{
		{name: "nothing to choose from"},
		{name: "the only one", paths: []pathState{{rtt: 5 * ms}}, want: 1},
		{name: "the only one, even silent", paths: []pathState{{rtt: 5 * ms, missed: 4}}, active: 1, want: 1},
		{name: "the fastest", paths: []pathState{{rtt: 9 * ms}, {rtt: 5 * ms}}, want: 2},
		{name: "direct before a faster relay", paths: []pathState{{rtt: 5 * ms, class: pathRelayed}, {rtt: 90 * ms}}, active: 1, want: 2},
		{name: "a pipe before a faster relay", paths: []pathState{{rtt: 5 * ms, class: pathRelayed}, {rtt: 90 * ms, class: pathPipe}}, active: 1, want: 2},
		{name: "UDP before a faster pipe", paths: []pathState{{rtt: 5 * ms, class: pathPipe}, {rtt: 90 * ms}}, active: 1, want: 2},
		{name: "a relay before a silent direct one", paths: []pathState{{rtt: 5 * ms, missed: 2}, {rtt: 90 * ms, class: pathRelayed}}, active: 1, want: 2},
		{name: "one miss is not silence", paths: []pathState{{rtt: 5 * ms, missed: 1}, {rtt: 6 * ms}}, active: 1, want: 1},
		{name: "a little faster is not enough", paths: []pathState{{rtt: 20 * ms}, {rtt: 17 * ms}}, active: 1, want: 1},
		{name: "a share alone is not enough", paths: []pathState{{rtt: ms}, {rtt: ms / 2}}, active: 1, want: 1},
		{name: "much faster is", paths: []pathState{{rtt: 20 * ms}, {rtt: 2 * ms}}, active: 1, want: 2},
		{name: "a little is enough while answers come in", paths: []pathState{{rtt: 20 * ms}, {rtt: 19 * ms}}, active: 1, eager: true, want: 2},
		{name: "an active path that is gone is replaced", paths: []pathState{{rtt: 9 * ms}}, active: 7, want: 1},
	} {
		for i := range c.paths {
			c.paths[i].addr = addr(i + 1)
		}
		var active, want netip.AddrPort
		if c.active > 0 {
			active = addr(c.active)
		}
		if c.want > 0 {
			want = addr(c.want)
		}
		if got := choose(c.paths, active, c.eager); got != want {
			t.Errorf("%s: chose %v, want %v", c.name, got, want)
		}
	}
}

// TestUpkeepTraces runs the scripts in testdata/choose: each line a time and what happens then, each followed by what the core did.
//
//	10ms answer a 20ms     a keyed answer came over a, round trip 20 ms
//	1s hear a              a packet came from a
//	1s send [data]         a packet was sent, or received data counts as use
//	5s                     time passes; every step that was asked for is made on the way, and probes in "up" are answered
//	1s up a,b / down a     from now on probes to these are (not) answered
func TestUpkeepTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/choose/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			golden, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, golden)
			if *update {
				if err := os.WriteFile(f, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, golden) {
				t.Errorf("the trace differs; got:\n%s", got)
			}
		})
	}
}

// tracer drives a pathSet from a script.
type tracer struct {
	t    *testing.T
	out  bytes.Buffer
	set  pathSet
	now  instant
	next instant
	rtts map[netip.AddrPort]time.Duration // of the addresses that answer
	due  map[netip.AddrPort]instant       // answers under way
}

func traceAddr(name string) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, name[0]}), 1)
}

func traceName(a netip.AddrPort) string {
	if !a.IsValid() {
		return "nothing"
	}
	return string(rune(a.Addr().As4()[3]))
}

func replay(t *testing.T, script []byte) []byte {
	tr := &tracer{t: t, set: newPathSet(false), rtts: map[netip.AddrPort]time.Duration{}, due: map[netip.AddrPort]instant{}}
	for lines := bufio.NewScanner(bytes.NewReader(script)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue // the output of the last time
		}
		words := strings.Fields(line)
		if len(words) > 0 && !strings.HasPrefix(line, "#") {
			at, err := time.ParseDuration(words[0])
			if err != nil {
				t.Fatal(err)
			}
			tr.until(at)
		}
		fmt.Fprintln(&tr.out, line)
		if len(words) > 1 && !strings.HasPrefix(line, "#") {
			tr.event(words[1:])
		}
	}
	return tr.out.Bytes()
}

// until makes the steps and answers that fall before a time.
func (tr *tracer) until(at instant) {
	for {
		next, who := at+1, netip.AddrPort{}
		if tr.next != 0 && tr.next < next {
			next = tr.next
		}
		for a, due := range tr.due {
			if due < next || due == next && !who.IsValid() {
				next, who = due, a
			}
		}
		if next > at {
			tr.now = at
			return
		}
		tr.now = next
		if who.IsValid() {
			delete(tr.due, who)
			tr.print(tr.set.answer(who, pathUDP, tr.rtts[who], tr.now))
		}
		tr.step()
	}
}

func (tr *tracer) step() {
	acts, next := tr.set.step(tr.now)
	tr.next = next
	tr.print(acts)
}

func (tr *tracer) print(acts []action) {
	for _, a := range acts {
		what := map[actionKind]string{actProbe: "probe", actSwitch: "switch to", actDrop: "drop", actRecheck: "recheck all"}[a.kind]
		if a.kind != actRecheck {
			what += " " + traceName(a.addr)
		}
		fmt.Fprintf(&tr.out, "\t%v %s\n", tr.now, what)
		if rtt, up := tr.rtts[a.addr]; a.kind == actProbe && up {
			tr.due[a.addr] = tr.now + rtt
		}
	}
}

func (tr *tracer) event(w []string) {
	switch w[0] {
	case "answer":
		rtt, err := time.ParseDuration(w[2])
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.rtts[traceAddr(w[1])] = rtt
		class := pathUDP
		if len(w) > 3 {
			class = map[string]pathClass{"pipe": pathPipe, "relayed": pathRelayed}[w[3]]
		}
		tr.print(tr.set.answer(traceAddr(w[1]), class, rtt, tr.now))
	case "hear":
		tr.set.find(traceAddr(w[1])).heard = tr.now
		if tr.set.active == traceAddr(w[1]) {
			tr.set.owed = -1
		}
	case "send":
		tr.set.sent = tr.now
		if tr.set.owed < 0 {
			tr.set.owed = tr.now
		}
		if len(w) > 1 {
			tr.set.used = tr.now
		}
	case "down":
		delete(tr.rtts, traceAddr(w[1]))
	default:
		tr.t.Fatalf("event %q", w)
	}
	tr.step()
}
