package reach

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const ms = time.Millisecond

// relay makes a candidate: named by a letter, its network by a number.
func relay(name byte, rtt time.Duration, network byte) candidate {
	return candidate{ID: identity.NodeID{name}, RTT: rtt, Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, network, 0}), 24)}
}

func (c candidate) loaded(percent uint8) candidate { c.Load = percent; return c }
func (c candidate) failedAt(t time.Time) candidate { c.Failed = t; return c }

func (c candidate) stray() candidate { c.Unappointed = true; return c }
func (c candidate) busy() candidate  { c.Busy = true; return c }

func letters(ids []identity.NodeID) string {
	var out []byte
	for _, id := range ids {
		out = append(out, id[0])
	}
	return string(out)
}

func TestTheRelaysAtHandAreTheBestTwo(t *testing.T) {
	old := func(names string) (out []atHand) {
		for _, n := range []byte(names) {
			out = append(out, atHand{ID: identity.NodeID{n}, Since: epoch.Add(-time.Hour)})
		}
		return out
	}
	for name, c := range map[string]struct {
		all     []candidate
		current []atHand
		want    string
	}{
		"nobody offers":                     {nil, nil, ""},
		"one offers":                        {[]candidate{relay('a', 10*ms, 1)}, nil, "a"},
		"nearest first":                     {[]candidate{relay('a', 30*ms, 1), relay('b', 10*ms, 2), relay('c', 20*ms, 3)}, nil, "bc"},
		"the unmeasured is not chosen":      {[]candidate{relay('a', 0, 1), relay('b', 90*ms, 2)}, nil, "b"},
		"another network for the second":    {[]candidate{relay('a', 10*ms, 1), relay('b', 12*ms, 1), relay('c', 40*ms, 2)}, nil, "ac"},
		"the same network, if far nearer":   {[]candidate{relay('a', 10*ms, 1), relay('b', 12*ms, 1), relay('c', 90*ms, 2)}, nil, "ab"},
		"a busy one costs more":             {[]candidate{relay('a', 10*ms, 1).loaded(90), relay('b', 15*ms, 2), relay('c', 18*ms, 3)}, nil, "bc"},
		"a full one is not chosen":          {[]candidate{relay('a', 10*ms, 1).loaded(95), relay('b', 200*ms, 2)}, nil, "b"},
		"a full one that is at hand stays":  {[]candidate{relay('a', 10*ms, 1).loaded(100), relay('b', 20*ms, 2)}, old("a"), "ab"},
		"a little better changes nothing":   {[]candidate{relay('a', 40*ms, 1), relay('b', 40*ms, 2), relay('c', 35*ms, 3)}, old("ab"), "ab"},
		"much better replaces the worse":    {[]candidate{relay('a', 40*ms, 1), relay('b', 100*ms, 2), relay('c', 20*ms, 3)}, old("ab"), "ca"},
		"near ones do not take turns":       {[]candidate{relay('a', 9*ms, 1), relay('b', 8*ms, 2), relay('c', 1*ms, 3)}, old("ab"), "ba"},
		"who failed lately is passed over":  {[]candidate{relay('a', 10*ms, 1).failedAt(epoch.Add(-time.Second)), relay('b', 20*ms, 2)}, nil, "b"},
		"who failed long ago is not":        {[]candidate{relay('a', 10*ms, 1).failedAt(epoch.Add(-time.Hour)), relay('b', 20*ms, 2)}, nil, "ab"},
		"one lost probe costs no relay":     {[]candidate{relay('a', 0, 1), relay('b', 20*ms, 2), relay('c', 30*ms, 3)}, old("ab"), "ab"},
		"equals are told apart by their ID": {[]candidate{relay('c', 10*ms, 3), relay('b', 10*ms, 2), relay('a', 10*ms, 1)}, nil, "ab"},
		"what was just taken stays": {
			[]candidate{relay('a', 90*ms, 1), relay('b', 80*ms, 2), relay('c', 1*ms, 3)},
			[]atHand{{identity.NodeID{'a'}, epoch.Add(-time.Minute)}, {identity.NodeID{'b'}, epoch.Add(-time.Minute)}}, "ba",
		},
		"an appointed one first":           {[]candidate{relay('a', 10*ms, 1).stray(), relay('b', 20*ms, 2), relay('c', 25*ms, 3)}, nil, "bc"},
		"unless another is clearly nearer": {[]candidate{relay('a', 10*ms, 1).stray(), relay('b', 60*ms, 2), relay('c', 20*ms, 3)}, nil, "ca"},
		"a busy one only if there is need": {[]candidate{relay('a', 10*ms, 1).busy(), relay('b', 20*ms, 2), relay('c', 25*ms, 3)}, nil, "bc"},
		"but at least it is":               {[]candidate{relay('a', 10*ms, 1).busy(), relay('b', 20*ms, 2)}, nil, "ba"},
		"nobody leaves one that is busy":   {[]candidate{relay('a', 10*ms, 1).busy(), relay('b', 20*ms, 2), relay('c', 18*ms, 3)}, old("ab"), "ab"},
		"who is gone is replaced":          {[]candidate{relay('b', 20*ms, 2), relay('c', 90*ms, 3)}, old("ab"), "bc"},
	} {
		t.Run(name, func(t *testing.T) {
			want := letters(chooseRelays(c.all, c.current, epoch))
			if want != c.want {
				t.Errorf("chose %q, want %q", want, c.want)
			}
			slices.Reverse(c.all)
			if again := letters(chooseRelays(c.all, c.current, epoch)); again != want {
				t.Errorf("in another order: %q", again)
			}
		})
	}
}

// TestAnHourOfRelays follows the choice through jitter, load, failures and returns, and compares it with the trace on record.
func TestAnHourOfRelays(t *testing.T) {
	var out bytes.Buffer
	var current []atHand
	gone := map[byte]bool{}
	load := map[byte]uint8{}
	failed := map[byte]time.Time{}
	for minute := range 60 {
		now := epoch.Add(time.Duration(minute) * time.Minute)
		note := ""
		switch minute {
		case 5:
			load['a'], note = 90, "a is busy"
		case 20:
			gone['c'], note = true, "c dies"
		case 30:
			delete(gone, 'c')
			failed['c'], note = now, "c returns"
		case 40:
			load['a'], note = 0, "a is idle again"
		case 50:
			gone['a'], gone['c'], note = true, true, "a and c die"
		}
		var all []candidate
		for i, name := range []byte("abcd") {
			if !gone[name] {
				jitter := time.Duration((minute*7+i*13)%9) * ms
				all = append(all, relay(name, time.Duration(20+15*i)*ms+jitter, byte(1+i/2)).loaded(load[name]).failedAt(failed[name]))
			}
		}
		chosen := chooseRelays(all, current, now)
		var next []atHand
		for _, id := range chosen {
			since := now
			if i := slices.IndexFunc(current, func(h atHand) bool { return h.ID == id }); i >= 0 {
				since = current[i].Since
			}
			next = append(next, atHand{id, since})
		}
		if sorted(next) != sorted(current) || note != "" {
			fmt.Fprintf(&out, "%2d min: %-16s %s -> %s\n", minute, note, sorted(current), sorted(next))
		}
		current = next
	}
	golden(t, "relays.txt", out.Bytes())
}

func sorted(held []atHand) string {
	var ids []identity.NodeID
	for _, h := range held {
		ids = append(ids, h.ID)
	}
	slices.SortFunc(ids, identity.NodeID.Compare)
	return strings.TrimSpace(letters(ids) + " ")
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update to make it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed; if that is meant, run with -update:\n%s", path, got)
	}
}

func TestAllRelaysGetTheirTurnToBeMeasured(t *testing.T) {
	var offering []identity.NodeID
	for i := range 20 {
		offering = append(offering, identity.NodeID{byte(i + 1)})
	}
	held := []atHand{{ID: offering[7]}}
	asked := map[identity.NodeID]time.Time{}
	for round := range 3 {
		now := epoch.Add(time.Duration(round) * time.Minute)
		due := toProbe(offering, held, asked, func(identity.NodeID) bool { return false })
		if len(due) != probesAtOnce || due[0] != offering[7] {
			t.Fatalf("round %d: %d relays, first %v", round, len(due), due[0][0])
		}
		for _, id := range due {
			asked[id] = now
		}
	}
	if len(asked) != len(offering) {
		t.Errorf("%d of %d were measured in three rounds", len(asked), len(offering))
	}
}
