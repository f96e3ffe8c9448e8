package coordinator

import (
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Who is made a voter first. All have been alive for as long; n0 votes alone in region home.
func TestVotersAreReachableAndSpreadOverRegions(t *testing.T) {
	for name, c := range map[string]struct {
		regions map[int]string // others: home
		poor    []int
		young   []int // alive for a second less
		want    string
		members int
	}{
		"a hard NAT comes last":            {members: 4, poor: []int{1}, want: "n2 n3"},
		"unless nobody better is there":    {members: 3, poor: []int{1, 2}, want: "n1 n2"},
		"other regions come first":         {members: 5, regions: map[int]string{3: "east", 4: "west"}, want: "n3 n4 n1 n2"},
		"one of each before two of one":    {members: 5, regions: map[int]string{1: "east", 2: "east", 3: "west"}, want: "n1 n3 n2 n4"},
		"reachable counts more than far":   {members: 4, regions: map[int]string{3: "east"}, poor: []int{3}, want: "n1 n2"},
		"of equals the one there longer":   {members: 4, young: []int{1}, want: "n2 n3"},
		"a region counts more than an age": {members: 4, regions: map[int]string{3: "east"}, young: []int{3}, want: "n3 n1"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, c.members)
			for i, region := range c.regions {
				m, _ := d.ledger.state.Member(testKey(i).ID())
				m.Certificate.Region = region
			}
			d.o.Poor = map[identity.NodeID]bool{}
			for _, i := range c.poor {
				d.o.Poor[testKey(i).ID()] = true
			}
			for _, i := range c.young {
				d.o.Alive[testKey(i).ID()] = day0.Add(time.Second)
			}
			d.o.Now, d.o.Wall = day0.Add(time.Minute), day0.Add(time.Minute)
			got := ""
			for _, id := range successors(d.ledger.state, d.o) {
				if got != "" {
					got += " "
				}
				got += d.name(id)
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Of a group that is one too many the one behind a hard NAT goes.
func TestASurplusVoterBehindAHardNATGoesFirst(t *testing.T) {
	d := newDecisions(t, 4)
	for i := range 4 {
		d.o.Alive[testKey(i).ID()] = day0
		if i > 0 {
			d.o.Voters = append(d.o.Voters, testKey(i).ID())
		}
	}
	d.o.Poor = map[identity.NodeID]bool{testKey(1).ID(): true}
	d.o.Now, d.o.Wall = day0.Add(time.Minute), day0.Add(time.Minute)
	if p, ok := removeSurplus(d.ledger.state, d.o); !ok || p.Node != testKey(1).ID() {
		t.Errorf("%v %s", ok, d.name(p.Node))
	}
}

// The whole way, with real logs: who is hard to reach gives its vote to who is not, and a leader its leadership first.
func TestAVoterThatIsHardToReachIsRelieved(t *testing.T) {
	for name, leads := range map[string]bool{"a follower": false, "the leader": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				nodes := l.mesh(4)
				var spare, hard *member
				l.eventually(30*time.Second, "three vote and one stands by", func() bool {
					spare, hard = nil, nil
					view := nodes[0].group.State().Coordinators
					for _, n := range nodes {
						switch {
						case !view.Voter(n.id()):
							spare = n
						case (n.id() == view.Leader) == leads:
							hard = n
						}
					}
					return len(view.Voters) == 3 && spare != nil && hard != nil
				})
				for _, n := range l.nodes {
					n.peers.Update(peer.Record{ID: hard.id(), Sequence: 1, NAT: peer.NATHard})
				}
				l.eventually(3*time.Minute, "the spare votes in its place", func() bool {
					view := spare.group.State().Coordinators
					return len(view.Voters) == 3 && view.Voter(spare.id()) && !view.Voter(hard.id())
				})
			})
		})
	}
}
