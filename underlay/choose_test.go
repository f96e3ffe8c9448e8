package underlay

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
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
//	1s down a              from now on probes to this are not answered
//	1s data a 20 [large]   as many packets were sent over a
//	1s lose a small,large  from now on data of these sizes does not arrive over a; or: nothing
//	1s mtu a 1440          from now on the MTU of a is looked for, and is this
//	1s refuse a 1472       the system refused a packet of so many bytes; without a number: any
//	1s keep / changed      the node is kept from now on; the network has changed
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
	way  map[netip.AddrPort]*traceWay
}

// traceWay is what a script says of a path beyond its round trip.
type traceWay struct {
	losesSmall, losesLarge bool
	sent, got              counts
	asked                  counts // sent, when the check under way was
	came                   counts // got, when it was
	at                     instant
	mtu                    int // 0: nobody asks
}

func (tr *tracer) of(a netip.AddrPort) *traceWay {
	if tr.way[a] == nil {
		tr.way[a] = &traceWay{}
	}
	return tr.way[a]
}

// answer has a check to a answered.
func (tr *tracer) answer(a netip.AddrPort, class pathClass, rtt time.Duration) {
	tr.print(tr.set.answer(a, class, rtt, tr.now))
	p, w := tr.set.find(a), tr.of(a)
	if w.mtu == 0 {
		p.mtu.good, p.mtu.bad, p.mtu.done = p.mtu.guess, p.mtu.guess+1, tr.now+1
	}
	if w.sent.packets > 0 {
		tr.print(tr.set.report(a, w.asked, w.came, w.at, tr.now))
	}
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
	tr := &tracer{t: t, set: newPathSet(false), rtts: map[netip.AddrPort]time.Duration{}, due: map[netip.AddrPort]instant{},
		way: map[netip.AddrPort]*traceWay{}}
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
			tr.answer(who, pathUDP, tr.rtts[who])
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
		what := map[actionKind]string{actProbe: "probe", actSwitch: "switch to", actDrop: "drop", actRecheck: "recheck all", actReport: "ask for a report",
			actSize: "probe size", actRefresh: "refresh", actPing: "ping", actTrial: "copies to", actLossy: "lossy:", actPublish: "publish"}[a.kind]
		switch a.kind {
		case actRecheck:
		case actPublish:
			if p := tr.set.find(tr.set.active); p != nil {
				what += fmt.Sprintf(" %s mtu %d fragments %v lossy %v", traceName(p.addr), p.mtu.size(), p.mtu.narrow(), p.evidence.lossy)
			}
		default:
			what += " " + traceName(a.addr)
		}
		if a.kind == actSize {
			what += tr.size(a.addr)
		}
		fmt.Fprintf(&tr.out, "\t%v %s\n", tr.now, what)
		tr.carryOut(a)
	}
}

// carryOut has the network do its part in an action.
func (tr *tracer) carryOut(a action) {
	rtt, up := tr.rtts[a.addr]
	w := tr.of(a.addr)
	switch a.kind {
	case actProbe, actReport:
		w.asked, w.came, w.at = w.sent, w.got, tr.now
		if up {
			tr.due[a.addr] = tr.now + rtt
		}
	case actPing:
		if up {
			tr.set.find(a.addr).heard = tr.now + 1
		}
	case actTrial:
		tr.data(a.addr, trialPackets, false)
	}
}

// size says how large the probe under way is. What fits is answered at once.
func (tr *tracer) size(a netip.AddrPort) string {
	p, w := tr.set.find(a), tr.of(a)
	size := p.mtu.probing() - wireGuardOverhead
	if _, up := tr.rtts[a]; up && (size <= w.mtu || w.mtu == 0 && size <= p.mtu.rungs[p.mtu.guess]) {
		return fmt.Sprintf(" %d, which arrives (%v)", size, p.mtu.arrived(size, tr.now))
	}
	return fmt.Sprintf(" %d", size)
}

// data sends packets over a.
func (tr *tracer) data(a netip.AddrPort, n uint32, large bool) {
	w := tr.of(a)
	add := func(c *counts) {
		c.packets += n
		if large {
			c.large += n
		}
	}
	add(&w.sent)
	if large && !w.losesLarge || !large && !w.losesSmall {
		add(&w.got)
	}
	p := tr.set.find(a)
	p.evidence.now = w.sent
	tr.set.sent, tr.set.used = tr.now, tr.now
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
		tr.answer(traceAddr(w[1]), class, rtt)
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
	case "data":
		n, err := strconv.ParseUint(w[2], 10, 32)
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.data(traceAddr(w[1]), uint32(n), len(w) > 3)
	case "lose":
		way := tr.of(traceAddr(w[1]))
		way.losesSmall, way.losesLarge = strings.Contains(w[2], "small"), strings.Contains(w[2], "large")
	case "mtu":
		way := tr.of(traceAddr(w[1]))
		mtu, err := strconv.Atoi(w[2])
		if err != nil {
			tr.t.Fatal(err)
		}
		if p := tr.set.find(traceAddr(w[1])); p != nil && way.mtu == 0 {
			p.mtu = newMTUSearch(p.addr)
		}
		way.mtu = mtu
	case "refuse":
		if len(w) > 2 {
			n, err := strconv.Atoi(w[2])
			if err != nil {
				tr.t.Fatal(err)
			}
			tr.print(tr.set.refuse(traceAddr(w[1]), n))
			break
		}
		delete(tr.rtts, traceAddr(w[1]))
		tr.print(tr.set.fail(traceAddr(w[1]), tr.now))
	case "keep":
		tr.set.kept = true
	case "changed":
		tr.set.doubt(tr.now)
	case "down":
		delete(tr.rtts, traceAddr(w[1]))
	default:
		tr.t.Fatalf("event %q", w)
	}
	tr.step()
}
