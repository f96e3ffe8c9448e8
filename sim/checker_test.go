package sim

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
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
		s.Peers = []localapi.Peer{{ID: other, Name: other, Tunnel: localapi.Tunnel{State: localapi.TunnelUp, PostQuantum: true}}}
		return NodeView{Host: name, Status: s, Members: append([]localapi.Member{}, members...)}
	}
	yes := true
	return &View{
		At: time.Hour, Wire: 1000,
		Nodes: []NodeView{node("n-a", "n1", "n-b"), node("n-b", "n2", "n-a")},
		Decisions: []Decision{{Kind: Joined, ID: "n-a", Name: "n1"}, {Kind: Joined, ID: "n-b", Name: "n2"}, {Kind: Joined, ID: "n-c", Name: "n3"},
			{At: time.Minute, Kind: Revoked, ID: "n-c", Name: "n3"}},
		Audit: &localapi.Audit{Verified: &yes, Entries: []localapi.AuditEntry{{Index: 1, Hash: "aa"}, {Index: 2, Hash: "bb"}}},
		Probe: func(string, string) error { return nil },
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
