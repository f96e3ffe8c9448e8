package coordinator

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// A coordinator that was revoked signs a newer state in which it never was, and has a member pass it on.
func TestRevokedCoordinatorCannotSignItselfBackIn(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		var traitor, victim *member
		for _, m := range nodes {
			switch votes := l.leader().group.State().Coordinators.Voter(m.id()); {
			case votes && m != l.leader():
				traitor = m
			case !votes:
				victim = m
			}
		}
		before := l.leader().group.State()
		if err := l.leader().group.Revoke(t.Context(), traitor.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		l.eventually(10*time.Second, "the victim knows", func() bool { return victim.group.Trust().Revoked(traitor.id()) })
		forged := newBuilder(before)
		forged.keyring.Version = 1 << 40
		s, err := forged.build()
		if err != nil {
			t.Fatal(err)
		}
		if forged.head, err = signHead(traitor.key, s, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := victim.group.adopt(forged, nodes[0].id()); !errors.Is(err, errHead) {
			t.Errorf("adopting it: %v", err)
		}
		if !victim.group.Trust().Revoked(traitor.id()) {
			t.Error("the revoked coordinator is back")
		}
	})
}

// What a member says of the coordinators makes nobody one.
func TestHearsayMakesNoCoordinator(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		victim, liar := nodes[1], nodes[2]
		if err := victim.group.Pull(t.Context(), nodes[0].id()); err != nil || !victim.group.State().Active(liar.id()) {
			t.Fatalf("the victim does not know the liar: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
		victim.group.adoptView(Coordinators{Quorum: true, Leader: liar.id(), Term: 1 << 40, AsOf: time.Now(),
			Voters: []identity.NodeID{liar.id()}}, liar.id())
		if c := victim.group.State().Coordinators; c.Voter(liar.id()) || c.Leader == liar.id() {
			t.Errorf("the victim takes a plain member for a coordinator: %+v", c)
		}
	})
}

// A member that claims to know more, over and over, and then says nothing does not keep a revocation from anybody.
func TestMemberThatStallsPullsHidesNoRevocation(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(6)
		settle(l, 5)
		leader := l.leader()
		i := slices.IndexFunc(nodes, func(m *member) bool { return !contains(leader.group.State().Coordinators.Voters, m.id()) })
		victim := nodes[i]
		liar := l.node(6)
		liar.join(leader, leader.invite(InviteSpec{}))
		liar.port.Handle(ProtocolState, false, func(ctx context.Context, s Stream) { <-ctx.Done(); s.Close() })
		l.eventually(20*time.Second, "the victim knows the liar", func() bool { return victim.group.State().Active(liar.id()) })
		ctx, stop := context.WithCancel(t.Context())
		var lying sync.WaitGroup
		defer lying.Wait()
		defer stop()
		lying.Go(func() {
			for ctx.Err() == nil {
				victim.group.PullSoon(liar.id())
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		if err := leader.group.Revoke(t.Context(), liar.id(), "lies"); err != nil {
			t.Fatal(err)
		}
		l.eventually(5*time.Second, "the victim knows of the revocation", func() bool { return victim.group.Trust().Revoked(liar.id()) })
	})
}

// Requests of strangers are looked at in turn: the time of a flood is its sender's, not ours.
func TestEnrolmentFloodIsSlowedDown(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		p := l.net.port(testKey(9).ID())
		defer p.close()
		const over = 100 // requests beyond the burst
		start := time.Now()
		for range enrollBurst + over {
			s, err := p.Open(t.Context(), first.id(), ProtocolEnroll)
			if err != nil {
				t.Fatal(err)
			}
			var a answer
			err = errors.Join(wire.WriteMessage(s, enrollRequest{Request: []byte("noise")}, enrollRequestMax), wire.ReadMessage(s, &a, answerMax))
			if s.Close(); err != nil || a.Code != string(RefusedRequest) {
				t.Fatalf("%+v, %v", a, err)
			}
		}
		if took := time.Since(start); took < over*time.Second/enrollRate*9/10 {
			t.Errorf("%d requests were served in %v", enrollBurst+over, took)
		}
	})
}

func TestOverlayPrefixLeadsNoneOfTheInternetAway(t *testing.T) {
	for prefix, good := range map[string]bool{
		"10.86.0.0/16": true, "10.0.0.0/8": true, "172.31.0.0/16": true, "192.168.7.0/24": true, "100.64.0.0/10": true,
		"8.0.0.0/8": false, "172.0.0.0/8": false, "192.0.0.0/8": false, "127.0.0.0/8": false, "169.254.0.0/16": false, "10.86.0.1/16": false,
	} {
		if err := checkPrefix(netip.MustParsePrefix(prefix)); (err == nil) != good {
			t.Errorf("%s: %v", prefix, err)
		}
	}
}
