package coordinator

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

var update = flag.Bool("update", false, "rewrite the golden traces")

// decisions is a mesh on paper: what the deciders propose is carried out here, second by second, and written down.
type decisions struct {
	t       testing.TB
	ledger  *Ledger
	root    *identity.RootKey
	now     time.Time
	index   uint64
	o       Observation
	up      map[int]bool
	members int
	trace   strings.Builder
}

func newDecisions(t testing.TB, members int) *decisions {
	l, root := founded(t, "10.0.0.0/24")
	d := &decisions{t: t, ledger: l, root: root, now: day0, index: foundingIndex, up: map[int]bool{0: true}, members: 1}
	d.o = Observation{Self: testKey(0).ID(), Timing: LAN(), Voters: []identity.NodeID{testKey(0).ID()},
		Alive: map[identity.NodeID]time.Time{testKey(0).ID(): day0}, Gone: map[identity.NodeID]time.Time{}, CaughtUp: map[identity.NodeID]bool{}}
	d.apply(KindInvite, inviteBody{ID: "i", Key: [32]byte{1}, Uses: 20, Expires: day0.Add(time.Hour).UnixMilli()})
	for range members - 1 {
		d.join()
	}
	return d
}

func (d *decisions) apply(kind Kind, body any) {
	d.t.Helper()
	d.index++
	if err := d.ledger.Apply(must(d.t, kind, d.now, d.o.Self, body), d.index).Err(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *decisions) join() {
	i := d.members
	d.members++
	addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
	d.apply(KindAdmit, admitBody{Invitation: "i", Certificate: d.ledger.certificateFor(d.t, i, fmt.Sprint("n", i), addr, d.now)})
	d.see(i, true)
}

func (d *decisions) see(i int, up bool) {
	id := testKey(i).ID()
	d.up[i] = up
	delete(d.o.Alive, id)
	delete(d.o.Gone, id)
	if up {
		d.o.Alive[id] = d.now
	} else {
		d.o.Gone[id] = d.now
	}
	fmt.Fprintf(&d.trace, "%6s  n%d up=%v\n", d.now.Sub(day0), i, up)
}

func (d *decisions) name(id identity.NodeID) string {
	for i := range d.members {
		if testKey(i).ID() == id {
			return fmt.Sprint("n", i)
		}
	}
	return "?"
}

func (d *decisions) names(list []identity.NodeID) string {
	var out []string
	for i := range d.members {
		if contains(list, testKey(i).ID()) {
			out = append(out, fmt.Sprint("n", i))
		}
	}
	return strings.Join(out, " ")
}

// run lets time pass, a second a tick, and carries proposals out.
func (d *decisions) run(seconds int) {
	for range seconds {
		d.now = d.now.Add(time.Second)
		d.o.Now, d.o.Wall = d.now, d.now
		for _, decider := range Deciders {
			for _, p := range decider.Decide(d.ledger.state, d.o) {
				d.carryOut(p)
			}
		}
	}
}

func (d *decisions) carryOut(p Proposal) {
	d.t.Helper()
	switch p.Action {
	case SignIssuer:
		d.sign(p)
	case Stage:
		d.o.Staged = sortedIDs(append(d.o.Staged, p.Node))
		d.o.CaughtUp[p.Node] = true
	case Promote:
		d.o.Staged, d.o.Voters = without(d.o.Staged, p.Node), sortedIDs(append(d.o.Voters, p.Node))
	case RemoveVoter:
		d.o.Staged, d.o.Voters = without(d.o.Staged, p.Node), without(d.o.Voters, p.Node)
	case Transfer:
		d.o.Self = p.Node
	case Reissue:
	case ElectRegion:
		d.apply(KindRegion, regionBody{Region: p.Region, Coordinator: p.Node, Term: p.Term, Why: p.Why})
	case AppointRelay, DismissRelay:
		d.apply(KindRelay, relayBody{Region: p.Region, Node: p.Node, Appoint: p.Action == AppointRelay, Why: p.Why})
	case AnnounceKey:
		d.apply(KindKeyring, keyringBody{Keys: [][]byte{d.ledger.state.Keyring.Keys[0], d.key()}, Replaces: d.ledger.state.Keyring.Version})
		d.o.KeyringSeen = d.now
	case UseKey:
		d.apply(KindKeyring, keyringBody{Keys: d.ledger.state.Keyring.Keys[1:], Replaces: d.ledger.state.Keyring.Version})
		d.o.KeyringSeen = d.now
	}
	who := d.name(p.Node)
	if p.Region != "" {
		who += " for " + p.Region
	}
	fmt.Fprintf(&d.trace, "%6s  %s %s (%s)  voters %s\n", d.now.Sub(day0), p.Action, who, p.Why, d.names(d.o.Voters))
	living := 0
	for i := range d.members {
		if d.up[i] && contains(d.o.Voters, testKey(i).ID()) {
			living++
		}
	}
	if living <= len(d.o.Voters)/2 {
		d.t.Fatalf("%s left the group without a majority:\n%s", p.Action, d.trace.String())
	}
}

func (d *decisions) sign(p Proposal) {
	d.t.Helper()
	i := certificate.Issuer{Public: *d.keyOf(p.Node).Public(), Mesh: d.ledger.state.Mesh.ID, Depth: p.Depth, NotBefore: d.now, NotAfter: d.now.Add(certificate.IssuerLife), Serial: 1}
	raw, err := certificate.SignIssuer(d.keyOf(p.Signer), i)
	if p.Depth == certificate.DepthParent {
		raw, err = certificate.SignIssuerByRoot(d.root, i)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.apply(KindIssuer, issuerBody{Certificate: raw})
}

func (d *decisions) keyOf(id identity.NodeID) *identity.Key {
	for i := range d.members {
		if testKey(i).ID() == id {
			return testKey(i)
		}
	}
	d.t.Fatal("unknown node")
	return nil
}

// TestDeciderTraces compares whole stories with golden files; run with -update after a wanted change, and read the difference.
func TestDeciderTraces(t *testing.T) {
	for name, story := range map[string]struct {
		members int
		play    func(*decisions)
	}{
		"two-stay-one":  {2, func(d *decisions) { d.run(20) }},
		"one-to-three":  {3, func(d *decisions) { d.run(20) }},
		"one-to-five":   {5, func(d *decisions) { d.run(20) }},
		"flap":          {3, func(d *decisions) { d.run(10); d.see(2, false); d.run(10); d.see(2, true); d.run(10) }},
		"replace":       {4, func(d *decisions) { d.run(10); d.see(victim(d), false); d.run(30) }},
		"shrink":        {3, func(d *decisions) { d.run(10); d.see(2, false); d.run(100) }},
		"shrink-return": {3, func(d *decisions) { d.run(10); d.see(2, false); d.run(100); d.see(2, true); d.run(20) }},
		"five-lose-two": {5, func(d *decisions) { d.run(10); d.see(3, false); d.see(4, false); d.run(100) }},
		"founder-gone": {4, func(d *decisions) {
			d.run(10)
			d.o.Self = another(d) // leads now
			d.see(0, false)
			d.run(30)
		}},
		"revoked-voter": {3, func(d *decisions) {
			d.run(10)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 1, false, d.now)})
			d.run(10)
		}},
		"key-after-revocation": {4, func(d *decisions) {
			d.run(10)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 3, false, d.now)})
			d.run(3)
			d.hold(0, 1)
			d.run(3)
			d.hold(2)
			d.run(3)
		}},
		"key-waits-in-vain": {3, func(d *decisions) {
			d.run(10)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 2, true, d.now)})
			d.run(80)
		}},
		"key-revoked-in-between": {4, func(d *decisions) {
			d.run(10)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 3, false, d.now)})
			d.run(3)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 2, false, d.now)})
			d.hold(0, 1)
			d.run(3)
			d.hold(0, 1)
			d.run(3)
		}},
		"a-voter-hard-to-reach-is-relieved": {6, func(d *decisions) {
			d.run(15)
			d.poor(victim(d))
			d.run(75)
		}},
		"a-leader-hard-to-reach-is-relieved": {4, func(d *decisions) {
			d.run(15)
			d.poor(0)
			d.run(75)
		}},
		"two-hard-to-reach-and-one-to-relieve-them": {4, func(d *decisions) {
			d.poor(1)
			d.poor(2)
			d.run(90)
		}},
		"late-majority-lost": {3, func(d *decisions) { d.run(10); d.see(1, false); d.see(2, false) }},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, story.members)
			story.play(d)
			golden(t, filepath.Join("testdata", "deciders", name+".txt"), d.trace.String())
		})
	}
}

// poor has members become hard to reach.
func (d *decisions) poor(members ...int) {
	if d.o.Poor == nil {
		d.o.Poor, d.o.PoorSince = map[identity.NodeID]bool{}, map[identity.NodeID]time.Time{}
	}
	for _, i := range members {
		d.o.Poor[testKey(i).ID()], d.o.PoorSince[testKey(i).ID()] = true, d.now
	}
	fmt.Fprintf(&d.trace, "%6s  %v are hard to reach\n", d.now.Sub(day0), members)
}

// hold has members hold the state as it is now.
func (d *decisions) hold(members ...int) {
	if d.o.Holds == nil {
		d.o.Holds = map[identity.NodeID]uint64{}
	}
	for _, i := range members {
		d.o.Holds[testKey(i).ID()] = d.ledger.state.Version
	}
	fmt.Fprintf(&d.trace, "%6s  %v hold version %d\n", d.now.Sub(day0), members, d.ledger.state.Version)
}

// key is a gossip key that none was before.
func (d *decisions) key() []byte {
	return append([]byte{byte(d.index)}, make([]byte, gossipKeyBytes-1)...)
}

// victim is a voter that is not the leader; another is the same one's ID.
func victim(d *decisions) int {
	for i := 1; i < d.members; i++ {
		if contains(d.o.Voters, testKey(i).ID()) {
			return i
		}
	}
	d.t.Fatal("no other voter")
	return 0
}

func another(d *decisions) identity.NodeID { return testKey(victim(d)).ID() }

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}
