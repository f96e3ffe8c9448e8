package sim

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/held"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// soundView is what a healthy mesh of three shows, one of which was revoked long ago.
func soundView() *View {
	member := func(id, name, addr, state string) localapi.Member {
		return localapi.Member{ID: id, Name: name, Addresses: []string{addr}, State: state}
	}
	members := []localapi.Member{member("n-a", "n1", "10.86.0.1", localapi.MemberActive), member("n-b", "n2", "10.86.0.2", localapi.MemberActive),
		member("n-c", "n3", "10.86.0.3", localapi.MemberRevoked)}
	node := func(id, name, other string) NodeView {
		s := &localapi.Status{}
		s.Self.ID, s.Self.State = id, localapi.StateOnline
		s.Coordinators = localapi.Coordinators{Quorum: true, Leader: "n-a", Term: 3}
		s.Peers = []localapi.Peer{{ID: other, Name: other, State: "alive", Tunnel: localapi.Tunnel{State: localapi.TunnelUp, PostQuantum: true}}}
		s.Coordinators.Voters = []string{"n-a", "n-b"}
		return NodeView{Host: name, Status: s, Members: append([]localapi.Member{}, members...), Held: []held.Use{{Of: "streams", Now: 4, Max: 4}},
			Records: map[string]peer.Record{"n-a": {Sequence: 7, Region: "home"}, "n-b": {Sequence: 9, Region: "home"}}}
	}
	yes := true
	return &View{
		At: time.Hour, Wire: 1000,
		Nodes: []NodeView{node("n-a", "n1", "n-b"), node("n-b", "n2", "n-a")},
		Decisions: []Decision{{Kind: Joined, ID: "n-a", Name: "n1"}, {Kind: Joined, ID: "n-b", Name: "n2"}, {Kind: Joined, ID: "n-c", Name: "n3"},
			{At: time.Minute, Kind: Revoked, ID: "n-c", Name: "n3"}},
		Audit:    &localapi.Audit{Verified: &yes, Entries: []localapi.AuditEntry{{Index: 1, Hash: "aa"}, {Index: 2, Hash: "bb"}}},
		Probe:    func(string, string) error { return nil },
		Machines: []string{"n-a", "n-b", "n-c"}, Calm: time.Hour, Routines: 2 * routinesMax,
	}
}

// plantedBugs are what each checker is there to see: a change to the view of a healthy mesh, and a word of what is said of it.
var plantedBugs = []struct {
	checker, says string
	plant         func(*View)
}{
	{"no-plaintext", "1 packets", func(v *View) { v.Plain = 1 }},
	{"post-quantum", "n1 to n-b", func(v *View) { v.Nodes[0].Status.Peers[0].Tunnel.PostQuantum = false }},
	{"one-lease", "10.86.0.1", func(v *View) { v.Nodes[1].Members[1].Addresses = []string{"10.86.0.1"} }},
	{"one-leader", "term 3", func(v *View) { v.Nodes[1].Status.Coordinators.Leader = "n-b" }},
	{"decisions-last", "does not know n2", func(v *View) { v.Nodes[0].Members = v.Nodes[0].Members[:1] }},
	{"decisions-last", "holds n3 for a member", func(v *View) { v.Nodes[0].Members[2].State = localapi.MemberActive }},
	{"decisions-last", "cannot list", func(v *View) { v.Nodes[0].Members = nil }},
	{"audit-chain", "entry 2", func(v *View) { v.Audit.Entries[1].Hash = "cc" }},
	{"audit-chain", "contradicts", func(v *View) {
		v.Audit.Witnesses = []localapi.AuditWitness{{Name: "n2", Says: localapi.WitnessContradicts}}
	}},
	{"audit-chain", "no node can show", func(v *View) { no := false; v.Audit.Verified = &no }},
	{"revoked-out", "n1 still lists", func(v *View) { v.Nodes[0].Status.Peers[0].ID = "n-c" }},
	{"revoked-out", "n2 was revoked and is still online", func(v *View) { v.Nodes[1].Status.Self.ID = "n-c" }},
	{"bounded", "n1 holds 5 of streams", func(v *View) { v.Nodes[0].Held[0].Now = 5 }},
	{"bounded", "goroutines", func(v *View) { v.Routines++ }},
	{"no-forgery", "that it never made", func(v *View) { v.Nodes[0].Records["n-b"] = peer.Record{Sequence: 9, Region: "nowhere"} }},
	{"no-forgery", "whom nobody has admitted", func(v *View) { v.Nodes[0].Members[1].ID = "n-ghost" }},
	{"no-forgery", "never had a vote", func(v *View) { v.Nodes[1].Status.Coordinators.Leader = "n-c" }},
	{"no-forgery", "n1 holds an old record of n-b", func(v *View) { v.Nodes[0].Records["n-b"] = peer.Record{Sequence: 8} }},
	{"nobody-buried", "n1 holds n2 for dead", func(v *View) { v.Nodes[0].Status.Peers[0].State = "dead" }},
	{"nobody-buried", "n1 holds n2 for dead", func(v *View) { v.Nodes[0].Status.Peers[0].State = "left" }},
	{"tunnels-hold", "n1 did not reach n2", func(v *View) { v.Lost = [][2]string{{"n1", "n2"}} }},
	{"reachable", "n2 does not run", func(v *View) { v.Nodes, v.Silent = v.Nodes[:1], []string{"n2"} }},
	{"reachable", "n1 does not reach n2", func(v *View) { v.Probe = func(string, string) error { return errors.New("silence") } }},
}

func TestEveryCheckerCatchesAPlantedBug(t *testing.T) {
	caught := map[string]bool{}
	for _, bug := range plantedBugs {
		// A second look after a sound one: some remember.
		c := checkers([]string{bug.checker})[0]
		sound := soundView()
		if got := append(c.Safe(sound), c.Live(sound)...); len(got) > 0 {
			t.Errorf("%s: a sound mesh: %s", bug.checker, got)
		}
		if bug.checker == "reachable" {
			c = newReachable() // who was reached once is not tried again
		}
		v := soundView()
		bug.plant(v)
		said := strings.Join(append(c.Safe(v), c.Live(v)...), "\n")
		if !strings.Contains(said, bug.says) {
			t.Errorf("%s: %q is not in %q", bug.checker, bug.says, said)
			continue
		}
		caught[bug.checker] = true
	}
	for _, name := range CheckerNames() {
		if !caught[name] {
			t.Errorf("%s: no bug was planted that it catches", name)
		}
	}
}

// Who is held for dead is looked at again before it counts, and not while the network is disturbed.
func TestWhoIsHeldForDeadForLongIsBuried(t *testing.T) {
	c := newUnburied()
	look := func(at, calm time.Duration, state string) int {
		v := soundView()
		v.At, v.Calm = at, calm
		v.Nodes[0].Status.Peers[0].State = state
		return len(c.Safe(v))
	}
	for i, l := range []struct {
		calm  time.Duration
		state string
		want  int
	}{{time.Hour, "dead", 0}, {time.Hour, "dead", 0}, {time.Hour, "alive", 0}, {time.Second, "dead", 0}, {time.Second, "dead", 0}, {time.Hour, "dead", 0}, {time.Hour, "suspect", 1}} {
		if got := look(time.Duration(i)*buriedAfter/2, l.calm, l.state); i != 6 && got != l.want {
			t.Errorf("look %d: %d", i, got)
		}
	}
	if look(4*buriedAfter, time.Hour, "dead") != 1 {
		t.Error("not seen")
	}
}

func TestTheMarkIsSeenOnTheWire(t *testing.T) {
	w := wire{marker: marker(1)}
	at := netip.MustParseAddrPort("192.0.2.1:1")
	w.see(at, at, []byte("ciphertext"))
	if w.plain.Load() != 0 {
		t.Error("seen where it is not")
	}
	w.see(at, at, append([]byte("in the middle of "), append(marker(1), "a packet"...)...))
	if w.plain.Load() != 1 || w.packets.Load() != 2 {
		t.Error("not seen")
	}
}
