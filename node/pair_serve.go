package node

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/pairing"
)

// protocolPair is what a machine without an invitation speaks; beside enroll the only one for strangers.
const protocolPair = "pair"

const (
	// pairStep bounds one message of the exchange.
	pairStep = 5 * time.Second
	// pairBeat is the time between two signs of life to a machine that waits; it misses three before it gives this member up.
	pairBeat = 3 * time.Second
)

// servePair takes in the request of a machine that has no invitation, and holds it until somebody decides.
func (n *Node) servePair(ctx context.Context, s *control.Stream) {
	defer s.Close()
	m := n.online.Load()
	if m == nil {
		_ = s.SetDeadline(time.Now().Add(pairStep))
		_ = pairing.WriteOffer(s, pairing.Offer{Refusal: "this machine is in no mesh itself"})
		return
	}
	p, err := m.receivePetition(s)
	if err != nil {
		n.log.Debug("request to join not taken", "peer", s.Peer().ID.Short(), "err", err)
		return
	}
	if p == nil {
		return
	}
	if !n.petitions.add(p) {
		_ = m.notice(s, pairing.Notice{Kind: pairing.NoticeRefused, Reason: "too many machines wait to be approved here"})
		return
	}
	defer n.petitions.remove(p)
	n.log.Info("a machine asks to join: phantom approve CODE lets it in", "peer", p.id.Short(), "name", p.name, "code", p.code, "addr", p.from.String())
	m.holdPetition(ctx, s, p)
}

var (
	errNotOpened = errors.New("the commitment does not open")
	errNotTheirs = errors.New("the request is another machine's")
)

// receivePetition is the member's half of the exchange. nil without an error: it is decided already.
func (m *membership) receivePetition(s *control.Stream) (*petition, error) {
	n := m.node
	_ = s.SetDeadline(time.Now().Add(pairStep))
	hello, err := pairing.ReadHello(s)
	if err != nil {
		return nil, err
	}
	from := n.socket.From(s.Peer().Public.WireGuard)
	onLink := n.onLink(from.Addr())
	if refusal := n.petitions.attempt(from.Addr(), onLink, time.Now()); refusal != "" {
		return nil, pairing.WriteOffer(s, pairing.Offer{Refusal: refusal})
	}
	mesh := m.group.State().Mesh
	offer := pairing.Offer{Mesh: mesh.ID, Name: mesh.Name}
	if _, err := io.ReadFull(n.cfg.Rand, offer.Nonce[:]); err != nil {
		return nil, err
	}
	session := pairing.Session{Joiner: s.Peer().ID, Member: n.ID()}
	if session.Exporter, err = s.Exporter(pairing.ExporterLabel, nil); err != nil {
		return nil, err
	}
	if err := pairing.WriteOffer(s, offer); err != nil {
		return nil, err
	}
	_ = s.SetDeadline(time.Now().Add(pairStep))
	reveal, err := pairing.ReadReveal(s)
	if err != nil {
		return nil, err
	}
	if !session.Opens(hello.Commitment, reveal.Nonce) {
		return nil, errNotOpened
	}
	request, known, err := m.group.CheckApproval(reveal.Request)
	if err != nil {
		return nil, m.notice(s, pairing.Notice{Kind: pairing.NoticeRefused, Reason: err.Error()})
	}
	if request.Public.NodeID() != s.Peer().ID {
		return nil, errNotTheirs
	}
	p := &petition{id: s.Peer().ID, code: session.Code(mesh.ID, reveal.Nonce, offer.Nonce), name: request.Name, from: from,
		lan: onLink, since: time.Now(), raw: reveal.Request, verdict: make(chan verdict, 1)}
	if known != nil { // approved before, but the answer did not arrive
		return nil, m.deliver(m.ctx, s, p)
	}
	return p, m.notice(s, pairing.Notice{Kind: pairing.NoticeWaiting})
}

func (m *membership) notice(s *control.Stream, what pairing.Notice) error {
	_ = s.SetWriteDeadline(time.Now().Add(pairStep))
	return pairing.WriteNotice(s, what)
}

// deliver hands an admitted machine what the mesh answers to its request.
func (m *membership) deliver(ctx context.Context, s *control.Stream, p *petition) error {
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	answer, err := m.group.Enroll(ctx, p.raw)
	if err != nil {
		var refused *coordinator.Refused
		if errors.As(err, &refused) {
			_ = m.notice(s, pairing.Notice{Kind: pairing.NoticeRefused, Reason: refused.Reason})
		}
		return err
	}
	return m.notice(s, pairing.Notice{Kind: pairing.NoticeAdmitted, Body: answer.Raw})
}

// holdPetition returns when the request is decided, expired or taken back.
func (m *membership) holdPetition(ctx context.Context, s *control.Stream, p *petition) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	_ = s.SetReadDeadline(time.Time{})
	go func() { // ends with the stream: the joiner says nothing more, it only goes
		var b [1]byte
		_, _ = s.Read(b[:])
		cancel()
	}()
	beat := time.NewTicker(pairBeat)
	defer beat.Stop()
	expired := time.NewTimer(petitionLife)
	defer expired.Stop()
	for {
		var err error
		select {
		case v := <-p.verdict:
			v.done <- m.carryOut(ctx, s, p, v)
			return
		case <-beat.C:
			if m.group.State().Active(p.id) { // who approved it could not tell us
				err = m.deliver(ctx, s, p)
				cancel()
			} else {
				err = m.notice(s, pairing.Notice{Kind: pairing.NoticeWaiting})
			}
		case <-expired.C:
			_ = m.notice(s, pairing.Notice{Kind: pairing.NoticeExpired})
			return
		case <-ctx.Done():
			return
		}
		if err != nil {
			m.node.log.Debug("request to join is gone", "peer", p.id.Short(), "err", err)
			return
		}
	}
}

func (m *membership) carryOut(ctx context.Context, s *control.Stream, p *petition, v verdict) error {
	if !v.admitted {
		return m.notice(s, pairing.Notice{Kind: pairing.NoticeRefused, Reason: "a member has refused this machine"})
	}
	return m.deliver(ctx, s, p)
}
