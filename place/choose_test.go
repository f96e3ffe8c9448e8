package place

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

var rewrite = flag.Bool("rewrite", false, "write the golden traces anew")

// A trace is lines of input, each followed by what the chooser said to it:
//
//	10s home: e/n1!40 tokyo/n4!0.3?
//	    move tokyo; ask n4; …
//
// A member is REGION/NAME, "!" if it was told its region and "~" if not, its round trip in ms (or "-"), and "?" if that is an estimate.
// A line may say "every 10s until 2m" instead of a time; what was said is shown where it changes, times left apart.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/choose/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no traces", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			golden, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(golden))
			if *rewrite {
				if err := os.WriteFile(f, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !*rewrite && !bytes.Equal(got, golden) {
				t.Errorf("differs from %s (go test ./place -rewrite, then look at the difference):\n%s", f, got)
			}
		})
	}
}

func replay(t *testing.T, trace string) []byte {
	var out bytes.Buffer
	var c Chooser
	begin, now := time.Unix(0, 0), time.Unix(0, 0)
	home := ""
	for line := range strings.Lines(trace) {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		when, what, _ := strings.Cut(line, ": ")
		var step time.Duration
		var until time.Time
		if rest, every := strings.CutPrefix(when, "every "); every {
			a, b, _ := strings.Cut(rest, " until ")
			step, until = duration(t, a), begin.Add(duration(t, b))
			now = now.Add(step)
		} else {
			until = begin.Add(duration(t, when))
			now = until
		}
		last := ""
		for ; !now.After(until); now = now.Add(max(step, 1)) {
			words := strings.Fields(what)
			if home == "" || strings.HasPrefix(words[0], "home=") {
				home = strings.TrimPrefix(words[0], "home=")
				words = words[1:]
			}
			v := c.Step(home, parseNeighbours(t, words), now)
			said := v.Why
			if i := strings.Index(said, "; moves there in"); i >= 0 && step > 0 {
				said = said[:i] + "; waits"
			}
			if len(v.Ask) > 0 {
				said += "; ask"
				for _, id := range v.Ask {
					said += " " + strings.TrimRight(string(id[:]), "\x00")
				}
			}
			if v.Move != "" {
				said, home = "move to "+v.Move+": "+said, v.Move
			}
			if said != last {
				fmt.Fprintf(&out, "    %v %s\n", now.Sub(begin), said)
				last = said
			}
			if step == 0 {
				break
			}
		}
		if now.After(until) {
			now = until
		}
	}
	return out.Bytes()
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func parseNeighbours(t *testing.T, words []string) (out []Neighbour) {
	for _, w := range words {
		region, rest, ok := strings.Cut(w, "/")
		i := strings.IndexAny(rest, "!~")
		if !ok || i < 0 {
			t.Fatalf("bad member %q", w)
		}
		n := Neighbour{Name: rest[:i], Region: region, Named: rest[i] == '!'}
		copy(n.ID[:], n.Name)
		ms, estimated := strings.CutSuffix(rest[i+1:], "?")
		n.Measured = !estimated
		if ms != "-" {
			x, err := strconv.ParseFloat(ms, 64)
			if err != nil {
				t.Fatalf("bad member %q", w)
			}
			n.RTT = time.Duration(x * float64(time.Millisecond))
		} else {
			n.Measured = false
		}
		out = append(out, n)
	}
	return out
}

func TestAMachineBetweenTwoRegionsDoesNotFlap(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var c Chooser
		home, moves := "east", 0
		// A day, at 20 ms from both, on a link that adds up to 30 ms to each measurement, and is worse to one side for hours.
		for at := time.Duration(0); at < 24*time.Hour; at += 10 * time.Second {
			rtt := func(side int) time.Duration {
				bias := time.Duration(0)
				if int(at/(2*time.Hour))%2 == side {
					bias = 8 * time.Millisecond
				}
				return 20*time.Millisecond + bias + time.Duration(r.Int64N(int64(30*time.Millisecond)))
			}
			v := c.Step(home, []Neighbour{
				{ID: identity.NodeID{1}, Name: "e", Region: "east", Named: true, RTT: rtt(0), Measured: true},
				{ID: identity.NodeID{2}, Name: "w", Region: "west", Named: true, RTT: rtt(1), Measured: true},
			}, time.Unix(0, 0).Add(at))
			if v.Move != "" {
				home = v.Move
				moves++
			}
		}
		if moves > 0 {
			t.Errorf("seed %d: moved %d times in a day", seed, moves)
		}
	}
}

func TestOneThatMovesOnAndOnRestsLongerEachTime(t *testing.T) {
	var c Chooser
	home, moves := "east", 0
	for at := time.Duration(0); at < 24*time.Hour; at += 10 * time.Second {
		near, far := time.Millisecond, 40*time.Millisecond
		east, west := far, near
		if home == "west" { // whatever it chooses is wrong
			east, west = near, far
		}
		v := c.Step(home, []Neighbour{
			{ID: identity.NodeID{1}, Region: "east", Named: true, RTT: east, Measured: true},
			{ID: identity.NodeID{2}, Region: "west", Named: true, RTT: west, Measured: true},
		}, time.Unix(0, 0).Add(at))
		if v.Move != "" {
			home = v.Move
			moves++
		}
	}
	if moves > 10 {
		t.Errorf("moved %d times in a day", moves)
	}
}
