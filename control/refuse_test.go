package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/underlay"
)

func wantRefused(t *testing.T, err error, r control.Reason, ours bool) {
	t.Helper()
	var refused *control.Refused
	if !errors.As(err, &refused) || refused.Code != uint64(r) || refused.Ours != ours {
		t.Errorf("got %v (%+v), want %q, ours %v", err, refused, r, ours)
	}
}

// wantTold checks that the node itself learns who turned it away, with the key that this one has proven.
func wantTold(t *testing.T, bad, good *controltest.Node, r control.Reason) {
	t.Helper()
	select {
	case told := <-bad.Told:
		if told.Refused.Code != uint64(r) || told.Refused.Peer != good.ID || told.TLSKey != good.Key.Public().Ed25519 {
			t.Errorf("told %+v, want %q by %s", told, r, good.ID.Short())
		}
	case <-within(t).Done():
		t.Error("the node was not told")
	}
}

// revoke makes node distrust id.
func revoke(t *testing.T, m *controltest.Mesh, node, victim *controltest.Node) {
	t.Helper()
	raw, err := certificate.SignRevocation(m.Issuer, certificate.Revocation{
		Mesh: m.Root.ID(), Node: victim.ID, At: time.Now(), Reason: "stolen",
	})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := node.Trust.Load().WithRevocation(raw)
	if err != nil {
		t.Fatal(err)
	}
	node.Trust.Store(trust)
}

// TestWhoMayNotTalkIsToldWhy spoils one member in every way and connects it with a good one, in both directions: whoever dials, the
// good one refuses and the bad one is told.
func TestWhoMayNotTalkIsToldWhy(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node)
		reason control.Reason
		says   string
	}{
		"revoked": {func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node) {
			revoke(t, m, good, bad)
		}, control.ReasonRevoked, "revoked"},
		"expired": {func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node) {
			chain, _ := m.Certify(bad.Key.Public(), bad.Name, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
			bad.Chain.Store(chain)
		}, control.ReasonExpired, "here it is"},
		"not yet valid": {func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node) {
			chain, _ := m.Certify(bad.Key.Public(), bad.Name, time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour))
			bad.Chain.Store(chain)
		}, control.ReasonNotYetValid, "here it is"},
		"of another mesh": {func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node) {
			other := controltest.New(t, 1)
			chain, _ := other.Certify(bad.Key.Public(), bad.Name, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			bad.Chain.Store(chain)
		}, control.ReasonWrongMesh, "another mesh"},
		"with another's certificate": {func(t *testing.T, m *controltest.Mesh, good, bad *controltest.Node) {
			bad.Chain.Store(m.Nodes[2].Chain.Load())
		}, control.ReasonNotMember, "another node's"},
	} {
		t.Run(name, func(t *testing.T) {
			m := controltest.New(t, 3)
			good, bad := m.Nodes[0], m.Nodes[1]
			for _, n := range m.Nodes {
				n.Host.Handle("echo", control.MembersOnly, echo)
			}
			c.spoil(t, m, good, bad)
			_, err := bad.Host.Open(within(t), good.ID, "echo")
			wantRefused(t, err, c.reason, false)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("the reason %q does not say %q", err, c.says)
			}
			wantTold(t, bad, good, c.reason)
			_, err = good.Host.Open(within(t), bad.ID, "echo")
			wantRefused(t, err, c.reason, true)
			eventually(t, "nobody is connected", func() bool {
				return len(good.Host.Conns()) == 0 && len(bad.Host.Conns()) == 0
			})
		})
	}
}

// TestARevocationReachesLiveConnections covers the member that was fine when it connected: its next stream is refused even if
// nobody has called Disconnect yet.
func TestARevocationReachesLiveConnections(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	mustOpen(t, a, b, "echo").Close()
	revoke(t, m, b, a)
	_, err := a.Host.Open(within(t), b.ID, "echo")
	wantRefused(t, err, control.ReasonRevoked, false)
	wantTold(t, a, b, control.ReasonRevoked)
}

func TestStrangersGetOnlyWhatIsForAnyone(t *testing.T) {
	m := controltest.New(t, 1)
	member, joiner := m.Nodes[0], m.Stranger()
	peers := make(chan control.Peer, 1)
	member.Host.Handle("enroll", control.Anyone, func(ctx context.Context, s *control.Stream) {
		peers <- s.Peer()
		echo(ctx, s)
	})
	member.Host.Handle("raft", control.MembersOnly, echo)
	s, err := joiner.Host.OpenTo(within(t), underlay.Addr{Key: member.Key.Public().WireGuard}, member.ID, "enroll")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := say(t, s, "let me in"); got != "let me in" {
		t.Errorf("got %q", got)
	}
	if p := <-peers; p.Member != nil || p.ID != joiner.ID {
		t.Errorf("the member sees %+v", p)
	}
	if p := s.Peer(); p.Member != nil || p.ID != member.ID {
		t.Errorf("the joiner sees %+v", p)
	}
	_, err = joiner.Host.Open(within(t), member.ID, "raft")
	wantRefused(t, err, control.ReasonNotMember, false)
	// Nor does a member speak the mesh's protocols to a stranger, whatever that one offers.
	joiner.Host.Handle("raft", control.Anyone, echo)
	_, err = member.Host.Open(within(t), joiner.ID, "raft")
	wantRefused(t, err, control.ReasonNotMember, true)
}

func TestAJoinerRefusesAnotherNodeThanTheTokenNames(t *testing.T) {
	m := controltest.New(t, 2)
	joiner := m.Stranger()
	m.Nodes[1].Host.Handle("enroll", control.Anyone, echo)
	addr := underlay.Addr{Key: m.Nodes[1].Key.Public().WireGuard}
	_, err := joiner.Host.OpenTo(within(t), addr, m.Nodes[0].ID, "enroll")
	wantRefused(t, err, control.ReasonWrongNode, true)
	s, err := joiner.Host.OpenTo(within(t), addr, [32]byte{}, "enroll")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Peer().ID != m.Nodes[1].ID {
		t.Errorf("whoever is there is %s", s.Peer().ID)
	}
}

// TestEnrolmentTakesEffectWithoutARestart goes from stranger to member over what is already connected.
func TestEnrolmentTakesEffectWithoutARestart(t *testing.T) {
	m := controltest.New(t, 1)
	member, joiner := m.Nodes[0], m.Stranger()
	member.Host.Handle("enroll", control.Anyone, echo)
	member.Host.Handle("state", control.MembersOnly, echo)
	joiner.Host.Handle("state", control.MembersOnly, echo)
	enrolling, err := joiner.Host.OpenTo(within(t), underlay.Addr{Key: member.Key.Public().WireGuard}, member.ID, "enroll")
	if err != nil {
		t.Fatal(err)
	}
	defer enrolling.Close()
	m.Enroll(joiner)
	s := mustOpen(t, joiner, member, "state")
	defer s.Close()
	if s.Peer().Member == nil {
		t.Error("the member is a stranger still")
	}
	if got := say(t, enrolling, "thanks"); got != "thanks" {
		t.Errorf("the enrolment's own stream says %q", got)
	}
	back := mustOpen(t, member, joiner, "state")
	defer back.Close()
	if back.Peer().Member == nil || member.Host.Stats().Dials != 0 {
		t.Errorf("the way back: %+v after %d dials", back.Peer(), member.Host.Stats().Dials)
	}
}

// TestARenewedCertificateReplacesAnExpiredOne has a connection outlive the certificate it was made with.
func TestARenewedCertificateReplacesAnExpiredOne(t *testing.T) {
	synctest.Test(t, renewedCertificateReplacesAnExpiredOne)
}

func renewedCertificateReplacesAnExpiredOne(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	short, _ := m.Certify(a.Key.Public(), a.Name, time.Now().Add(-time.Hour), time.Now().Add(2*time.Second))
	a.Chain.Store(short)
	mustOpen(t, a, b, "echo").Close()
	renewed, _ := m.Certify(a.Key.Public(), a.Name, time.Now(), time.Now().Add(time.Hour))
	a.Chain.Store(renewed)
	time.Sleep(3 * time.Second) // virtual
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	if got := say(t, s, "renewed"); got != "renewed" {
		t.Errorf("got %q", got)
	}
	if got := a.Host.Stats().Dials; got != 2 {
		t.Errorf("%d dials", got)
	}
}

func TestACopiedStateFolderIsNamed(t *testing.T) {
	m := controltest.New(t, 1)
	a := m.Nodes[0]
	_, err := a.Host.OpenTo(within(t), underlay.Addr{Key: a.Key.Public().WireGuard}, [32]byte{}, "echo")
	if err == nil || !strings.Contains(err.Error(), "copied") {
		t.Errorf("got %v", err)
	}
}
