package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/exchange"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The driver of key exchanges. The machine of crypto/exchange does the cryptography; here are its messages on a stream and the
// moments at which keys are put in place:
//
//   - the side that answers does so once it holds the confirmation, before it says "installed";
//   - the side that began does so on "installed", and then asks WireGuard for a handshake.
//
// In between, half a round trip, the ends hold different keys. Sessions do not use the key once they are up, so packets flow on; a
// handshake in that window fails, and WireGuard repeats it 5 s later under the key that both have by then. The session it was to
// replace is good for another minute (WireGuard rekeys after 120 s, rejects after 180 s).

const (
	// exchangeTime bounds one exchange, with finding a path and connecting to the peer: the time a user waits for an answer.
	exchangeTime = 8 * time.Second
	// answerTime bounds an exchange from its first byte on: three round trips and retransmissions.
	answerTime = 5 * time.Second
	// exchangesMax bounds how many exchanges we run at a time: each keeps a core busy for about 0.2 ms.
	exchangesMax = 32
	// exporterLabel binds a key to the TLS session it was agreed in.
	exporterLabel = "EXPORTER-phantommesh psk v1"
)

// beginExchange starts an exchange of ours. Its result comes to the conductor.
func (p *Plane) beginExchange(t *tunnel) {
	p.goRun(func() {
		r := p.exchange(t)
		r.t = t
		p.deliver(r)
	})
}

// deliver hands a result to the conductor; false if the plane closes first.
func (p *Plane) deliver(r result) bool {
	select {
	case p.conductor.results <- r:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// exchange runs one exchange that we begin.
func (p *Plane) exchange(t *tunnel) result {
	if err := p.member(t.id); err != nil {
		return result{event: event{kind: refused}, err: err}
	}
	ctx, cancel := context.WithTimeout(p.ctx, exchangeTime)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return result{event: event{kind: failed}, err: ErrUnreachable}
	}
	begun := time.Now()
	r, err := p.exchangeOver(ctx, t)
	if err != nil {
		t.abandon()
		p.counts.exchangesFailed.Add(1)
		return p.exchangeFailed(t, err)
	}
	p.counts.exchanged(time.Since(begun))
	return r
}

// exchangeFailed sorts what went wrong.
func (p *Plane) exchangeFailed(t *tunnel, err error) result {
	var why *refusedError
	switch {
	case errors.Is(err, exchange.ErrYield), errors.As(err, &why) && why.why == refusalYield:
		return result{event: event{kind: yielded}, err: err}
	case errors.As(err, &why) && why.why == refusalNotMember, isRefusal(err):
		return result{event: event{kind: refused}, err: fmt.Errorf("%w: %w", ErrRefused, err)}
	}
	p.log.Debug("exchange failed", "peer", t.id.Short(), "err", err)
	return result{event: event{kind: failed}, err: fmt.Errorf("%w: %w", ErrUnreachable, err)}
}

func (p *Plane) exchangeOver(ctx context.Context, t *tunnel) (result, error) {
	if p.cfg.Connect != nil {
		if err := p.cfg.Connect(ctx, t.id); err != nil {
			return result{}, err
		}
	}
	s, err := p.streams.Open(ctx, t.id)
	if err != nil {
		return result{}, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Reset)()
	exporter, err := s.Exporter(exporterLabel, nil)
	if err != nil {
		return result{}, err
	}
	defer clear(exporter[:])

	offer, err := t.start(p)
	if err != nil {
		return result{}, err
	}
	if err := writeFrame(s, frameOffer, offer.Marshal()); err != nil {
		return result{}, err
	}
	body, err := readFrame(s, frameAccept)
	if err != nil {
		return result{}, err
	}
	confirm, psk, err := t.accepted(body, exporter)
	if err != nil {
		return result{}, err
	}
	if err := writeFrame(s, frameConfirm, confirm.Marshal()); err != nil {
		return result{}, err
	}
	if body, err = readFrame(s, frameInstalled); err != nil {
		return result{}, err
	}
	t.proven(offer.Epoch)
	return result{
		event: event{kind: agreed, epoch: offer.Epoch, ours: true, fresh: body[0] == 1}, psk: psk, done: make(chan outcome, 1),
	}, nil
}

// answerExchange serves one exchange stream that a member has opened.
func (p *Plane) answerExchange(ctx context.Context, id identity.NodeID, s Stream) {
	if !p.enter() {
		s.Reset()
		return
	}
	defer p.running.Done()
	defer context.AfterFunc(p.ctx, s.Reset)()
	defer context.AfterFunc(ctx, s.Reset)()
	_ = s.SetDeadline(time.Now().Add(answerTime))
	if err := p.answer(id, s); err != nil {
		p.log.Debug("exchange not answered", "peer", id.Short(), "err", err)
		why := refusalFailed
		switch {
		case errors.Is(err, exchange.ErrYield):
			why = refusalYield
		case errors.Is(err, ErrNotMember), errors.Is(err, ErrRevoked):
			why = refusalNotMember
		}
		_ = writeFrame(s, frameRefused, []byte{byte(why)})
	}
}

func (p *Plane) answer(id identity.NodeID, s Stream) error {
	body, err := readFrame(s, frameOffer) // before any refusal, which the other end reads only when it has written this
	if err != nil {
		return err
	}
	if err := p.member(id); err != nil {
		return err
	}
	e, _ := p.cfg.Peers.Get(id)
	t := p.tunnels.enter(e)
	exporter, err := s.Exporter(exporterLabel, nil)
	if err != nil {
		return err
	}
	defer clear(exporter[:])
	offer, err := exchange.ParseOffer(body)
	if err != nil {
		return err
	}
	accept, err := t.offered(p, offer, exporter)
	if err != nil {
		return err
	}
	if err := writeFrame(s, frameAccept, accept.Marshal()); err != nil {
		return err
	}
	if body, err = readFrame(s, frameConfirm); err != nil {
		return err
	}
	psk, err := t.confirmed(body)
	if err != nil {
		return err
	}
	out, err := p.putInPlace(t, offer, psk)
	if err != nil {
		return err
	}
	created := byte(0)
	if out.created {
		created = 1
	}
	return writeFrame(s, frameInstalled, []byte{created})
}

// putInPlace has the conductor install a key and waits until it has.
func (p *Plane) putInPlace(t *tunnel, offer exchange.Offer, psk exchange.PSK) (outcome, error) {
	defer clear(psk[:])
	r := result{
		t: t, event: event{kind: agreed, epoch: offer.Epoch, fresh: offer.Fresh}, psk: psk, done: make(chan outcome, 1),
	}
	if !p.deliver(r) {
		return outcome{}, ErrClosed
	}
	select {
	case out := <-r.done:
		return out, out.err
	case <-p.ctx.Done():
		return outcome{}, ErrClosed
	}
}

// The machine of a tunnel is made on first use and serves both directions, one step at a time.

func (t *tunnel) machineLocked(p *Plane) *exchange.Machine {
	if t.machine == nil {
		t.machine = exchange.New(p.cfg.Self, t.id, p.cfg.Rand)
	}
	return t.machine
}

func (t *tunnel) start(p *Plane) (exchange.Offer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.machineLocked(p).Start()
}

func (t *tunnel) offered(p *Plane, o exchange.Offer, exporter [32]byte) (exchange.Accept, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.machineLocked(p).HandleOffer(o, exporter)
}

// abandon gives up an offer of ours that failed, so that it does not stand in the way of the other side's.
func (t *tunnel) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machine != nil {
		t.machine.Abandon()
	}
}

// proven notes that the other side has put the key of the epoch in place.
func (t *tunnel) proven(epoch uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machine != nil {
		_ = t.machine.Proven(epoch) // no longer current: an exchange of theirs has overtaken ours
	}
}

// errForgotten: the tunnel was dropped while its exchange was under way.
var errForgotten = errors.New("the exchange was dropped")

func (t *tunnel) accepted(body []byte, exporter [32]byte) (exchange.Confirm, exchange.PSK, error) {
	a, err := exchange.ParseAccept(body)
	if err != nil {
		return exchange.Confirm{}, exchange.PSK{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machine == nil {
		return exchange.Confirm{}, exchange.PSK{}, errForgotten
	}
	c, err := t.machine.HandleAccept(a, exporter)
	if err != nil {
		return exchange.Confirm{}, exchange.PSK{}, err
	}
	psk, err := t.currentLocked(a.Epoch)
	return c, psk, err
}

func (t *tunnel) confirmed(body []byte) (exchange.PSK, error) {
	c, err := exchange.ParseConfirm(body)
	if err != nil {
		return exchange.PSK{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machine == nil {
		return exchange.PSK{}, errForgotten
	}
	if err := t.machine.HandleConfirm(c); err != nil {
		return exchange.PSK{}, err
	}
	return t.currentLocked(c.Epoch)
}

func (t *tunnel) currentLocked(epoch uint64) (exchange.PSK, error) {
	psk, now, ok := t.machine.Current()
	if !ok || now != epoch {
		return exchange.PSK{}, errForgotten
	}
	return psk, nil
}
