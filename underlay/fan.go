package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
)

// Many-port probing: see nat/fan.go for what it is good for. This node sends from many sockets ([Socket.FanOut]) while the other sends
// to many ports ([Socket.FanIn]).

const (
	// fansMax bounds the fans under way, in either direction: each costs 256 sockets, or 0.85 Mbit/s.
	fansMax = 2
	// fanTransactionsMax bounds their checks, beside transactionsMax.
	fanTransactionsMax = fansMax * nat.FanPacketsMax
	// fanLinger is how long answers are waited for after the last packet: the other side may have begun later.
	fanLinger = 2500 * time.Millisecond
)

// ErrFanBusy: as many many-port probings as may be are under way.
var ErrFanBusy = errors.New("underlay: too many many-port probings under way")

// beginFan finds the member and takes a token, which done gives back.
func (s *Socket) beginFan(id identity.NodeID) (n *node, done func(), err error) {
	if n = s.memberNode(id); n == nil {
		return nil, nil, ErrUnknownNode
	}
	select {
	case s.fans <- struct{}{}:
		return n, func() { <-s.fans }, nil
	default:
		return nil, nil, ErrFanBusy
	}
}

// FanIn sends keyed checks of a member to many ports, as planned, until one is answered, which makes a path. At most
// [nat.FanPacketsMax] packets are sent. Errors: [ErrUnreachable] if none was answered, [ErrUnknownNode], [ErrNoCandidates] for a plan
// with an address that no other node can have, [ErrFanBusy], [ErrClosed], the context's.
func (s *Socket) FanIn(ctx context.Context, id identity.NodeID, plan nat.Plan) error {
	n, done, err := s.beginFan(id)
	if err == nil {
		err = s.fanIn(ctx, n, plan[:min(len(plan), nat.FanPacketsMax)])
		done()
	}
	if err != nil {
		return fmt.Errorf("underlay: fan in to %s: %w", id.Short(), err)
	}
	return nil
}

func (s *Socket) fanIn(ctx context.Context, n *node, plan nat.Plan) error {
	key, err := n.pairKey()
	if err != nil {
		return err
	}
	if len(plan) == 0 || !s.mayTry(plan[0].To) {
		return ErrNoCandidates
	}
	target := plan[0].To.Addr()
	reply := make(chan answer, len(plan))
	began := s.now()
	for i := range plan {
		if plan[i].To.Addr() != target {
			return ErrNoCandidates // of one address: that is what the bounds are made for
		}
		if s.fanned(n, target) {
			return nil // their check has come through, and we have challenged it
		}
		if err := s.pauseFan(ctx, began+plan[i].At, reply); err != nil || len(reply) > 0 {
			return err
		}
		_ = s.request(transaction{node: n, addr: plan[i].To, reply: reply, fan: true}, func(id nat.TransactionID) []byte {
			return nat.CheckRequest{Transaction: id, Sender: s.public, Key: &key, Opening: true}.Encode()
		}) // one that cannot be sent is one that is not answered
	}
	if err := s.pauseFan(ctx, s.now()+fanLinger, reply); err != nil || len(reply) > 0 || s.fanned(n, target) {
		return err
	}
	return ErrUnreachable
}

// fanned reports whether the node is reached at the address.
func (s *Socket) fanned(n *node, at netip.Addr) bool {
	r := n.active.Load()
	return r != nil && r.link == nil && r.source.addr.Addr() == at
}

// pauseFan waits until an instant, or for an answer, which it leaves in the channel.
func (s *Socket) pauseFan(ctx context.Context, until instant, reply chan answer) error {
	wait := until - s.now()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case a := <-reply:
		reply <- a
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return ErrClosed
	}
}
