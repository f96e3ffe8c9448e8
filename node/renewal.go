package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

// A node keeps its certificate valid by itself (coordinator.Group.Renew). Here is what belongs to a node beside that: it asks before it says that
// it is online, hears that it was revoked, asks who is at a bootstrap address or in the LAN when all members it knows have gone, and says how
// things are.

// renewalWait bounds how long a node that returns after its certificate has ended waits for a new one before it goes on asking in the background.
const renewalWait = 5 * time.Second

// renewFirst asks for a new certificate where this node has nothing valid to show. It fails only if the mesh has revoked the node.
func (m *membership) renewFirst() error {
	if m.group.Chain() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(m.ctx, renewalWait)
	defer cancel()
	if err := m.group.Renew(ctx); err == nil {
		m.adoptMembers(m.group.State())
		return nil
	}
	m.heedRenewal()
	select {
	case <-m.node.stop:
		return m.node.ended
	default:
		return nil
	}
}

// heedRenewal ends a node that was refused a new certificate because it was revoked. As in refusedBy, only a coordinator's word is enough.
func (m *membership) heedRenewal() {
	r := m.group.Renewal()
	var refused *coordinator.Refused
	if r == nil || !errors.As(r.Err, &refused) || refused.Code != coordinator.RefusedRevoked {
		return
	}
	state := m.group.State()
	if member, ok := state.Member(r.From); ok && state.MaySpeakRaft(r.From, m.node.cfg.Now()) {
		m.node.turnedAway(state.Mesh.Name, "its coordinator "+member.Certificate.Name+" says so")
		return
	}
	m.node.outcast.CompareAndSwap(nil, &r.From)
}

// renewAt asks a member that this node does not know, at an address where it was found, for a new certificate.
func (m *membership) renewAt(ctx context.Context, at underlay.Addr) {
	ctx, cancel := context.WithTimeout(ctx, renewalWait)
	defer cancel()
	s, err := m.node.control.OpenTo(ctx, at, identity.NodeID{}, coordinator.ProtocolEnroll)
	if err == nil {
		defer s.Close()
		err = m.group.RenewOver(ctx, s, s.Peer().ID)
	}
	if err != nil {
		m.node.log.Debug("certificate not renewed there", "addr", at.String(), "err", err)
	}
}

// returnWith renews a certificate with an invitation; nothing if it needs none.
func (m *membership) returnWith(ctx context.Context, token invitation.Token) error {
	if m.group.Chain() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, joinMax)
	defer cancel()
	for _, member := range token.Members {
		m.node.socket.Hint(member.ID, member.Addresses)
	}
	return failed("cannot return to the mesh", m.group.Return(ctx, token))
}

// certificateTrouble says what is wrong with this node's certificate: what, why, and what to do. Empty: nothing.
func (m *membership) certificateTrouble(c *certificate.Member, now time.Time) (what, why, next string) {
	left, life := c.NotAfter.Sub(now), c.NotAfter.Sub(c.NotBefore)
	if left >= life/3 {
		return "", "", ""
	}
	why = "the leader renews it when it sees this node, which has not happened"
	next = "make sure that the coordinators run and that this node reaches them (phantom coordinators); it is renewed as soon as it does, by itself"
	if r := m.group.Renewal(); r != nil && r.Err != nil {
		why = "this node has asked for a new one: " + r.Err.Error()
		var refused *coordinator.Refused
		if errors.As(r.Err, &refused) {
			switch refused.Code {
			case coordinator.RefusedClock:
				next = "set this machine's clock, best by NTP: timedatectl set-ntp true"
			case coordinator.RefusedExpired:
				next = "have somebody in the mesh invite this machine again (phantom invite), then: phantom join TOKEN"
			}
		}
	}
	if left < 0 {
		what = "the certificate ended on " + c.NotAfter.UTC().Format(time.DateTime)
		if m.group.Chain() != nil {
			return what + "; this node shows another until it is renewed", why, next
		}
		if -left > coordinator.RenewalGrace {
			next = "have somebody in the mesh invite this machine again (phantom invite), then: phantom join TOKEN"
		}
		return what + ", the other members do not take this node in", why, next
	}
	return fmt.Sprintf("the certificate ends on %s and was not renewed", c.NotAfter.UTC().Format(time.DateTime)), why, next
}

func (m *membership) checkCertificate(state *coordinator.State) localapi.Finding {
	me, ok := state.Member(m.node.ID())
	if !ok {
		return localapi.Finding{Check: "certificate", Severity: localapi.SeverityError, What: "the mesh does not list this node"}
	}
	now, c := m.node.cfg.Now(), me.Certificate
	if now.Add(certificate.SkewMax).Before(c.NotBefore) {
		return localapi.Finding{Check: "clock", Severity: localapi.SeverityError, What: "the clock is wrong: " + now.Format(time.DateTime),
			Why:  "this node's certificate begins only on " + c.NotBefore.Format(time.DateTime),
			Next: "set it, best by NTP: timedatectl set-ntp true"}
	}
	f := localapi.Finding{Check: "certificate", OK: true, Severity: localapi.SeverityInfo, What: "valid until " + c.NotAfter.UTC().Format(time.DateOnly)}
	if what, why, next := m.certificateTrouble(c, now); what != "" {
		f = localapi.Finding{Check: "certificate", Severity: localapi.SeverityWarning, What: what, Why: why, Next: next}
		if now.After(c.NotAfter) {
			f.Severity = localapi.SeverityError
		}
	}
	return f
}
