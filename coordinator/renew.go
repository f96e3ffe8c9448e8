package coordinator

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// A certificate that ends locks nobody out. The leader renews those of members that are there (decider_renewal.go). A machine that was off for
// longer, or cut off from the coordinators, comes back with one that has ended:
//
//   - A plain member shows no certificate then: to others it is a stranger that holds a member's keys, which control has it prove over the TLS
//     exporter. It speaks enroll, with a request without an invitation that it signs with these keys. The leader looks it up in the ledger: still
//     active, not ended for longer than RenewalGrace. The answer holds its next certificate, with the issuers above it as they are now, which
//     the node verifies up to the root and shows from then on. With it, it pulls the state, however old its own is.
//   - A coordinator, or who stands by, has an issuer certificate, which lives for years: it signs itself a certificate for an hour, so that
//     coordinators that were all off for months can speak raft again and renew everybody.
//
// Who was revoked meanwhile is turned away in either case: by control, where the revocation is known, or by the leader.

// RenewalGrace is how long after the end of its certificate a member may still have it renewed with nothing but its own keys. Later somebody has
// to invite it again; it keeps its name and address then.
const RenewalGrace = 180 * 24 * time.Hour

const (
	// bridgeLife is the life of a certificate that a coordinator signs for itself to get back to the others: an hour is plenty for an election.
	bridgeLife = time.Hour
	// renewLook is how often a node looks at its certificate. Who has been missed by the leader asks for itself in the last sixth of its life.
	renewLook = time.Minute
	// renewAgain to renewAgainMax is the pause between two attempts with a certificate that has ended, renewEarly with one that has not.
	renewAgain    = 5 * time.Second
	renewAgainMax = 5 * time.Minute
	renewEarly    = time.Hour
	// renewAsked are how many members are asked side by side in one attempt.
	renewAsked = 5
)

// Renewal is how this node's last attempt to have its certificate renewed went.
type Renewal struct {
	At   time.Time       // by the machine's clock
	From identity.NodeID // who answered; zero: nobody did
	Err  error           // nil: it has a new one

	tried time.Time // At, by the process's own clock, which nobody sets
}

// Renewal returns the last attempt; nil if there is no need.
func (g *Group) Renewal() *Renewal { return g.renewal.Load() }

// bridge is what a node shows in place of a certificate of its own that has ended, until the state brings the next one.
type bridge struct {
	mu    sync.Mutex
	chain *certificate.Chain
	until time.Time
}

func (b *bridge) get(now time.Time) *certificate.Chain {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chain == nil || now.After(b.until) {
		return nil
	}
	return b.chain
}

func (b *bridge) set(c *certificate.Chain, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chain, b.until = c, until
}

// Chain returns what this node shows of itself; nil while it has nothing that is valid.
func (g *Group) Chain() *certificate.Chain {
	s, now := g.state.Load(), g.cfg.Now()
	m, ok := s.Member(g.self)
	if !ok {
		return nil
	}
	if !untimely(m.Certificate, now) {
		chain, err := s.trust.ChainFor(m.Raw)
		if err != nil {
			return nil
		}
		return chain
	}
	if chain := g.bridge.get(now); chain != nil {
		return chain
	}
	return g.signBridge(s, m, now)
}

// signBridge has a coordinator sign its own certificate for a while.
func (g *Group) signBridge(s *State, m *Member, now time.Time) *certificate.Chain {
	if !s.MaySpeakRaft(g.self, now) || now.After(m.Certificate.NotAfter.Add(RenewalGrace)) {
		return nil
	}
	next := *m.Certificate
	next.NotBefore, next.NotAfter, next.Serial = now, now.Add(bridgeLife), serial(now, m.Certificate.Serial)
	raw, err := certificate.SignMember(g.cfg.Key, next)
	if err != nil {
		g.cfg.Log.Warn("coordinator: no certificate to get back to the others with", "err", err)
		return nil
	}
	chain, err := s.trust.ChainFor(raw)
	if err != nil {
		return nil
	}
	g.bridge.set(chain, now.Add(bridgeLife/2))
	g.cfg.Log.Info("coordinator: this node's certificate has ended, it shows one of its own signature until it is renewed", "ended", m.Certificate.NotAfter)
	return chain
}

// stayValid renews this node's certificate where the leader has not.
func (g *Group) stayValid() {
	wait, pause := renewAgain, renewAgain // who starts a node asks for the first time
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-g.renewNow:
		case <-g.ctx.Done():
		}
		timer.Stop()
		if g.ctx.Err() != nil {
			return
		}
		wait = renewLook
		m, ok := g.state.Load().Member(g.self)
		now, last := g.cfg.Now(), g.renewal.Load()
		if !ok || m.Status != Active || now.Before(lateAt(m)) && !fromAhead(m.Certificate, now) {
			pause = renewAgain
			g.renewal.Store(nil)
			continue
		}
		ended := untimely(m.Certificate, now)
		if since := sinceAttempt(last); ended && since < renewAgain || !ended && since < renewEarly {
			wait = min(wait, renewAgain)
			continue
		}
		if err := g.Renew(g.ctx); err != nil && ended {
			wait, pause = pause, min(2*pause, renewAgainMax)
		}
	}
}

// sinceAttempt is how long ago the last attempt was, without end if there was none.
func sinceAttempt(last *Renewal) time.Duration {
	if last == nil {
		return math.MaxInt64
	}
	return time.Since(last.tried)
}

// lateAt is from when on a node no longer relies on the leader to renew its certificate.
func lateAt(m *Member) time.Time {
	c := m.Certificate
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 6)
}

// Renew asks several members at once for a new certificate, with this node's own keys. One answer is enough. The error is that of the member
// that had most to say: a refusal, then that nothing can be decided now, then what kept the others from answering.
func (g *Group) Renew(ctx context.Context) error {
	return g.renewWith(ctx, invitation.Request{})
}

// Return renews a certificate that ended longer ago than RenewalGrace, with an invitation.
func (g *Group) Return(ctx context.Context, token invitation.Token) error {
	return g.renewWith(ctx, invitation.Request{Invitation: token.ID(), Proof: invitation.Proof(token.Key(), token.Mesh, g.self)})
}

// RenewOver renews over a stream of enroll to whoever is at its other end: a member of which this node need not have heard.
func (g *Group) RenewOver(ctx context.Context, s net.Conn, from identity.NodeID) error {
	raw, err := g.renewalRequest(invitation.Request{})
	if err != nil {
		return err
	}
	answer, err := RequestEnrollment(ctx, s, raw, g.state.Load().Mesh.ID, g.cfg.Now())
	return g.renewedBy(ctx, answer, from, err)
}

func (g *Group) renewWith(ctx context.Context, req invitation.Request) error {
	raw, err := g.renewalRequest(req)
	if err != nil {
		return err
	}
	answer, from, err := g.askRenewal(ctx, raw)
	return g.renewedBy(ctx, answer, from, err)
}

func (g *Group) renewalRequest(req invitation.Request) ([]byte, error) {
	s := g.state.Load()
	m, ok := s.Member(g.self)
	if !ok {
		return nil, ErrNoMesh
	}
	req.Mesh, req.Name, req.Region, req.Time = s.Mesh.ID, m.Certificate.Name, m.Certificate.Region, g.cfg.Now()
	return invitation.SignRequest(g.cfg.Key, req)
}

// renewedBy takes an answer over, or notes why there is none.
func (g *Group) renewedBy(ctx context.Context, answer Answer, from identity.NodeID, err error) error {
	g.renewal.Store(&Renewal{At: g.cfg.Now(), From: from, Err: err, tried: time.Now()})
	defer poke(g.news)
	if err != nil {
		g.cfg.Log.Warn("coordinator: this node's certificate was not renewed", "err", err)
		return err
	}
	next, _ := answer.state.Member(g.self)
	chain, err := answer.state.trust.ChainFor(next.Raw)
	if err != nil {
		return err
	}
	g.bridge.set(chain, answer.Member.NotAfter)
	g.cfg.Log.Info("coordinator: this node's certificate was renewed", "peer", from.Short(), "until", answer.Member.NotAfter)
	if err := g.Pull(ctx, from); err != nil {
		g.PullSoon(from)
	}
	return nil
}

// askRenewal asks those who may know a leader: the coordinator of this node's region and the voters as it knows them, then who is alive, then others, another few every time.
func (g *Group) askRenewal(ctx context.Context, raw []byte) (Answer, identity.NodeID, error) {
	type reply struct {
		from   identity.NodeID
		answer Answer
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.RPC+g.cfg.Timing.Ask+g.cfg.Timing.Decide)
	defer cancel()
	ask := g.whoMayRenew()
	replies := make(chan reply, len(ask))
	for _, id := range ask {
		go func() { // ends with ctx
			a, err := g.askOne(ctx, id, raw)
			replies <- reply{id, a, err}
		}()
	}
	worst := error(errors.New("there is no other member to ask"))
	if len(ask) > 0 {
		worst = errors.New("no member of the mesh can be reached")
	}
	for range ask {
		r := <-replies
		refusal, refused := asRefused(r.err)
		switch {
		case r.err == nil:
			return r.answer, r.from, nil
		case refused:
			return Answer{}, r.from, refusal // the leader's word
		case errors.Is(r.err, ErrNoQuorum):
			worst = r.err
		default:
			g.cfg.Log.Debug("coordinator: no renewal", "peer", r.from.Short(), "err", r.err)
		}
	}
	return Answer{}, identity.NodeID{}, worst
}

func (g *Group) askOne(ctx context.Context, id identity.NodeID, raw []byte) (Answer, error) {
	s, err := g.cfg.Streams.Open(ctx, id, ProtocolEnroll)
	if err != nil {
		return Answer{}, err
	}
	defer s.Close()
	return RequestEnrollment(ctx, s, raw, g.state.Load().Mesh.ID, g.cfg.Now())
}

func (g *Group) whoMayRenew() []identity.NodeID {
	s := g.state.Load()
	var others, alive []identity.NodeID
	for _, m := range s.Members {
		switch {
		case m.ID == g.self || m.Status != Active || s.Coordinators.Voter(m.ID):
		case g.cfg.Alive(m.ID):
			alive = append(alive, m.ID)
		default:
			others = append(others, m.ID)
		}
	}
	turn := func(list []identity.NodeID) []identity.NodeID {
		if len(list) == 0 {
			return nil
		}
		at := int(time.Now().Unix()/int64(renewAgain/time.Second)) % len(list)
		return append(slices.Clone(list[at:]), list[:at]...)
	}
	voters := slices.DeleteFunc(slices.Clone(s.Coordinators.Voters), func(id identity.NodeID) bool { return id == g.self || !s.Active(id) })
	var offered []identity.NodeID
	if id, _, ok := s.RegionCoordinator(s.RegionOf(g.self)); ok && id != g.self && g.cfg.Alive(id) && g.offered.Load() == nil {
		offered = append(offered, id)
		for _, list := range []*[]identity.NodeID{&voters, &alive} {
			*list = without(*list, id)
		}
	}
	if id := g.offered.Load(); id != nil {
		offered = append(offered, *id)
		for _, list := range []*[]identity.NodeID{&voters, &alive, &others} {
			*list = slices.DeleteFunc(*list, func(o identity.NodeID) bool { return o == *id })
		}
	}
	out := slices.Concat(offered, turn(voters)[:min(len(voters), renewAsked-2)], turn(alive), turn(others))
	return out[:min(len(out), renewAsked)]
}

// offer notes who speaks to this node as a member, for one that has nothing valid to show and may know nobody any more.
func (g *Group) offer(id identity.NodeID) {
	g.offered.Store(&id)
	poke(g.renewNow)
}

// renewed is the leader's part: the certificate a member asks for that is in the ledger already. It is reissued when it is due.
func (g *Group) renewed(ctx context.Context, r *replica, m *Member, vouched bool) (*Member, error) {
	now := g.cfg.Now()
	switch {
	case !now.After(renewAt(m)) && !fromAhead(m.Certificate, now):
		return m, nil
	case !vouched && now.After(m.Certificate.NotAfter.Add(RenewalGrace)):
		return nil, refuse(RefusedExpired, "this machine's certificate ended on %s, more than %s ago; have somebody in the mesh invite it again "+
			"(phantom invite), then: phantom join TOKEN", m.Certificate.NotAfter.Format(time.DateOnly), span(RenewalGrace))
	}
	if err := g.reissue(ctx, r, m.ID, change{asker: m.ID, name: "renewed", make: func(*certificate.Member) {}}); err != nil {
		return nil, err
	}
	next, ok := g.ledgerState(r).Member(m.ID)
	if !ok {
		return nil, refuse(RefusedNoMember, "%s is no member", m.ID.Short())
	}
	return next, nil
}
