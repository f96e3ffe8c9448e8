package node_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// Regression: a member that joined while this node was away was taken for a stranger at the bootstrap address, as its key was not known.
func TestAMemberThatJoinedMeanwhileIsTheWayBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const founder, away, fresh = 0, 1, 2
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		first := b.start(founder, 0, localapi.Entry{New: "lab"}, nil)
		b.join(away, first, nil)
		b.stop(away)
		b.join(fresh, first, nil)
		time.Sleep(time.Minute)
		b.stop(founder) // for good
		b.start(away, 1, localapi.Entry{}, func(s *config.Settings) {
			s.Bootstrap = []string{netip.AddrPortFrom(bubbleAddr(fresh, 0), s.Port).String()}
		})
		time.Sleep(time.Minute)
		if ok, err := b.reaches(away, fresh); !ok {
			t.Errorf("the member that came meanwhile is not reached: %v", err)
		}
	})
}

// Regression: who was let in by a member that its token does not name forgot where that member was, and was online without knowing anybody.
func TestAnOldTokenIsGoodAtAnyMember(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const founder, late, members = 0, 4, 3
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		first := b.start(founder, 0, localapi.Entry{New: "lab"}, nil)
		invite, err := first.Invite(t.Context(), localapi.InviteRequest{Uses: members + 1}) // names the founder alone
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= members; i++ {
			b.start(i, 0, localapi.Entry{Token: invite.Token}, nil)
		}
		time.Sleep(time.Minute) // three vote
		b.stop(founder)
		b.start(late, 0, localapi.Entry{Token: invite.Token}, func(s *config.Settings) {
			s.Bootstrap = []string{netip.AddrPortFrom(bubbleAddr(2, 0), s.Port).String()}
		})
		for i := 1; i <= members; i++ {
			if ok, err := b.reaches(late, i); !ok {
				t.Errorf("n%d is not reached: %v", i, err)
			}
		}
	})
}

// The founder is gone for good; a member has its address now, as behind a router whose port was forwarded to another machine. An old token leads
// to it, though it names the founder alone.
func TestAnOldTokenIsGoodAtAMemberThatHasTheAddressNow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const founder, heir, late, members = 0, 1, 4, 3
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		first := b.start(founder, 0, localapi.Entry{New: "lab"}, nil)
		invite, err := first.Invite(t.Context(), localapi.InviteRequest{Uses: members + 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= members; i++ {
			b.start(i, 0, localapi.Entry{Token: invite.Token}, nil)
		}
		time.Sleep(time.Minute) // three vote
		b.stop(founder)
		b.stop(heir)
		b.startAt(heir, bubbleAddr(founder, 0), localapi.Entry{}, nil)
		time.Sleep(time.Minute)
		b.start(late, 0, localapi.Entry{Token: invite.Token}, nil)
		for i := 1; i <= members; i++ {
			if ok, err := b.reaches(late, i); !ok {
				t.Errorf("n%d is not reached: %v", i, err)
			}
		}
	})
}

// At the token's address is a machine of another mesh, which refuses; a member of the right one is at the other address. Its word counts, whoever
// is asked first.
func TestANodeOfAnotherMeshDoesNotSpoilAJoin(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const founder, foreign, late, members = 0, 7, 4, 3
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		first := b.start(founder, 0, localapi.Entry{New: "lab"}, nil)
		invite, err := first.Invite(t.Context(), localapi.InviteRequest{Uses: members + 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= members; i++ {
			b.start(i, 0, localapi.Entry{Token: invite.Token}, nil)
		}
		time.Sleep(time.Minute)
		b.stop(founder)
		b.startAt(foreign, bubbleAddr(founder, 0), localapi.Entry{New: "other"}, nil)
		slow := bubbleAddr(1, 0) // the foreign one answers first
		b.network.Set(underlaytest.Hooks{Latency: func(from, to netip.AddrPort) time.Duration {
			if from.Addr() == slow || to.Addr() == slow {
				return 20 * time.Millisecond
			}
			return 5 * time.Millisecond
		}})
		b.start(late, 0, localapi.Entry{Token: invite.Token}, func(s *config.Settings) {
			s.Bootstrap = []string{netip.AddrPortFrom(slow, s.Port).String()}
		})
		if ok, err := b.reaches(late, 1); !ok {
			t.Errorf("the member is not reached: %v", err)
		}
	})
}

// Regression: who may sign already and is given a vote changes nothing in the ledger, so that a member that had come back before it took those for the
// voters who were so then, for up to twenty minutes.
func TestAllHearWhoVotesAfterAllWereRestarted(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time, and no code that others do not run")
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		const n = 6
		b.regional(n, "home")
		voters := func(i int) string {
			list, err := b.running[i].node.Coordinators(t.Context())
			if err != nil {
				return err.Error()
			}
			var names []string
			for _, v := range list.Voters {
				names = append(names, v.Name)
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		agree := func() string {
			if want := voters(0); len(strings.Fields(want)) < 3 {
				return "n0 knows of " + want
			}
			for i := range n {
				if voters(i) != voters(0) {
					return fmt.Sprintf("n%d knows of %s, n0 of %s", i, voters(i), voters(0))
				}
			}
			return ""
		}
		b.within(2*time.Minute, agree)
		for i := range n {
			b.stop(i)
			b.start(i, 0, localapi.Entry{}, nil)
		}
		t.Logf("all know after %s", b.within(time.Minute, agree))
	})
}
