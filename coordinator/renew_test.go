package coordinator

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

const aDay = 24 * time.Hour

// pass lets days go by for everybody's clock while little happens.
func (l *lab) pass(days int) { l.shift.Add(int64(days) * int64(aDay)) }

func certificateOf(g *Group, id identity.NodeID) *certificate.Member {
	m, _ := g.State().Member(id)
	return m.Certificate
}

// guest joins a mesh and is gone before it could become a coordinator.
func guest(l *lab, i int, via *member) *member {
	l.t.Helper()
	m := l.node(i)
	m.join(via, via.invite(InviteSpec{}))
	l.eventually(5*time.Second, "it is known", func() bool { return via.group.State().Active(m.id()) })
	m.close()
	return m
}

// fresh tells whether everybody of a list has a certificate of the last ten days, as far as one of them knows.
func fresh(l *lab, seen *member, list ...*member) bool {
	for _, m := range list {
		if certificateOf(seen.group, m.id()).NotBefore.Before(l.now().Add(-10 * aDay)) {
			return false
		}
	}
	return true
}

func TestCertificatesAreRenewedBeforeTwoThirdsOfTheirLife(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		for range 20 { // weeks
			l.pass(7)
			l.eventually(20*time.Second, "everybody is renewed everywhere", func() bool {
				for _, seen := range nodes {
					for _, m := range nodes {
						c := certificateOf(seen.group, m.id())
						if l.now().After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)) {
							return false
						}
					}
				}
				return true
			})
		}
	})
}

// A machine that was off for months comes back with an old state, an ended certificate, and the same name and address.
func TestALongExpiredMemberReturnsByItself(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		away := guest(l, 1, first)
		before := certificateOf(first.group, away.id())
		second := l.node(2)
		second.join(first, first.invite(InviteSpec{}))
		for range 6 { // the others go on living
			l.pass(21)
			l.eventually(20*time.Second, "who is there is renewed", func() bool { return fresh(l, second, first, second) })
		}
		if !certificateOf(first.group, away.id()).NotAfter.Equal(before.NotAfter) {
			t.Error("the certificate of one that is away was renewed")
		}
		away.open()
		if away.group.Chain() != nil {
			t.Fatal("it shows a certificate that has ended")
		}
		if err := away.group.Pull(t.Context(), first.id()); err == nil {
			t.Fatal("the others give the state to one whose certificate has ended")
		}
		if err := away.group.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.eventually(10*time.Second, "it is up to date", func() bool { return away.group.State().Digest() == first.group.State().Digest() })
		after := certificateOf(away.group, away.id())
		if after.Name != before.Name || after.IPv4 != before.IPv4 || !after.NotAfter.After(l.now().Add(29*aDay)) {
			t.Errorf("it was %+v and is %+v", before, after)
		}
		audit, err := first.group.Audit(t.Context())
		if err != nil || audit.Verify() != nil {
			t.Fatal(err)
		}
		asked := false
		for _, e := range audit.Entries {
			asked = asked || e.Action == "reissue" && e.Asker == away.id()
		}
		if !asked {
			t.Error("the audit log does not say that it asked")
		}
	})
}

// Who signed the guest's certificate is out, and others decide under issuer certificates the guest has never seen.
func TestAnExpiredMemberReturnsToCoordinatorsItHasNeverSeen(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		away := guest(l, 1, first)
		for i := range 3 {
			l.node(i+2).join(first, first.invite(InviteSpec{}))
		}
		settle(l, 3)
		others := l.nodes[2:]
		if l.leader() == first {
			if err := first.group.Handover(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		l.eventually(60*time.Second, "the founder is out", func() bool {
			lead := l.leader()
			return lead != nil && lead != first && lead.group.Revoke(t.Context(), first.id(), "sold") == nil
		})
		first.kill()
		for range 3 {
			l.pass(20)
			l.eventually(60*time.Second, "who is there is renewed", func() bool {
				lead := l.leader()
				return lead != nil && fresh(l, lead, others...)
			})
		}
		away.open()
		l.eventually(10*time.Minute, "it has found somebody and is up to date", func() bool {
			lead := l.leader()
			return lead != nil && away.group.State().Digest() == lead.group.State().Digest()
		})
		if away.group.State().Active(first.id()) {
			t.Error("it has not heard who is out")
		}
	})
}

// All machines of a mesh were off for months.
func TestCoordinatorsThatAllExpiredFormTheirGroupAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		for _, m := range nodes {
			m.close()
		}
		l.pass(120)
		for _, m := range nodes {
			m.open()
		}
		l.eventually(time.Minute, "the group decides and has renewed itself", func() bool {
			lead := l.leader()
			return lead != nil && fresh(l, lead, nodes...)
		})
	})
}

func TestWhoIsNotRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		late, out := guest(l, 1, first), guest(l, 2, first)
		if err := first.group.Revoke(t.Context(), out.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		l.pass(60)
		out.open()
		refusedWith(t, out.group.Renew(t.Context()), "was revoked on")
		l.pass(160) // 190 days after the end
		l.eventually(10*time.Second, "the founder is renewed", func() bool { return fresh(l, first, first) })
		late.open()
		err := late.group.Renew(t.Context())
		refusedWith(t, err, "invite it again")
		if r, _ := asRefused(err); r.Code != RefusedExpired {
			t.Error(r.Code)
		}
		if err := late.group.Return(t.Context(), first.invite(InviteSpec{})); err != nil {
			t.Fatal("with an invitation:", err)
		}
		l.eventually(10*time.Second, "it is back", func() bool { return late.group.State().Digest() == first.group.State().Digest() })
	})
}

// A node with a wrong clock believes that its certificate has ended, and is told what is wrong.
func TestAWrongClockIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		m := guest(l, 1, first)
		cfg := m.config()
		cfg.Now = func() time.Time { return l.now().Add(400 * aDay) }
		m.up(Open(cfg))
		refusedWith(t, m.group.Renew(t.Context()), "400 days ahead")
	})
}

// A node that was up all along, but cut off from the coordinators, gets its next certificate when they are back.
func TestANodeThatExpiredWhileUpIsRenewedOnReturn(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		m := guest(l, 1, first)
		l.net.split(1, m.id())
		m.open()
		for range 6 {
			l.pass(7)
			time.Sleep(2 * renewLook)
		}
		if r := m.group.Renewal(); r == nil || r.Err == nil || !strings.Contains(r.Err.Error(), "no member") {
			t.Errorf("doctor would be told %+v", r)
		}
		l.net.split(0, m.id())
		took := l.eventually(2*renewAgainMax, "it is renewed", func() bool {
			return m.group.State().Digest() == first.group.State().Digest() && fresh(l, m, m)
		})
		t.Log("renewed", took, "after it could be")
	})
}

// What the leader proposes over the life of certificates: who is there in time and not all at once, nobody who is away.
func TestRenewalOnPaper(t *testing.T) {
	d := newDecisions(t, 20)
	for i := range 20 {
		d.see(i, i%4 == 0)
	}
	due := map[string]time.Duration{}
	for age := time.Duration(0); age < 21*aDay; age += time.Hour {
		d.o.Now, d.o.Wall = day0.Add(age), day0.Add(age)
		for _, p := range DecideRenewal(d.ledger.state, d.o) {
			if _, seen := due[d.name(p.Node)]; !seen {
				due[d.name(p.Node)] = age
			}
		}
	}
	hours := map[time.Duration]bool{}
	for name, age := range due {
		hours[age] = true
		if age < 18*aDay || age > 20*aDay {
			t.Errorf("%s is due after %v", name, age)
		}
	}
	if len(due) != 5 || len(hours) < 3 {
		t.Errorf("due: %v, want the five that are there, not all in one hour", due)
	}
}

// The story of four members' certificates, looked at every ten days; run with -update after a wanted change, and read the difference.
func TestRenewalTrace(t *testing.T) {
	d := newDecisions(t, 4)
	d.trace.Reset()
	d.see(3, false)
	for day := 10; day <= 60; day += 10 {
		d.now = day0.Add(time.Duration(day) * aDay)
		d.o.Now, d.o.Wall = d.now, d.now
		switch day {
		case 30:
			d.apply(KindRevoke, revokeBody{Revocation: revocation(t, d.ledger, 2, false, d.now)})
			fmt.Fprintf(&d.trace, "day %d: n2 is revoked\n", day)
		case 40:
			d.see(3, true) // ten days after its certificate ended
		}
		due := map[string]Proposal{}
		for _, p := range DecideRenewal(d.ledger.state, d.o) {
			due[d.name(p.Node)] = p
		}
		for i := range 4 {
			p, ok := due[fmt.Sprint("n", i)]
			if !ok {
				continue
			}
			m, _ := d.ledger.state.Member(p.Node)
			fmt.Fprintf(&d.trace, "day %d: %s n%d (%s), whose certificate ends on day %.0f\n", day, p.Action, i, p.Why, m.Certificate.NotAfter.Sub(day0).Hours()/24)
			raw := d.ledger.certificateFor(t, i, m.Certificate.Name, m.Certificate.IPv4, d.now)
			d.apply(KindReissue, reissueBody{Certificate: raw, Replaces: m.Certificate.Serial, Change: "renewed"})
		}
	}
	golden(t, filepath.Join("testdata", "deciders", "renewal.txt"), d.trace.String())
}
