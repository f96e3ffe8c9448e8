package gossip

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func (p *Pool) askToAnnounce() {
	select {
	case p.announce <- struct{}{}:
	default:
	}
}

// announcer spreads our record when it has changed.
func (p *Pool) announcer() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.announce:
		}
		p.life.Lock()
		if p.left == nil && !p.closed {
			// It always ends in a timeout: the broadcast is queued at once and goes out with the next gossip.
			_ = p.list.UpdateNode(announceWait)
		}
		p.life.Unlock()
	}
}

// Join synchronises with the nodes, all at once, and returns with how many that worked when every attempt has ended or ctx has. The
// error is nil if it worked with one.
func (p *Pool) Join(ctx context.Context, ids []identity.NodeID) (int, error) {
	type result struct {
		id  identity.NodeID
		err error
	}
	results := make(chan result, len(ids))
	slots := make(chan struct{}, rejoinParallel)
	for _, id := range ids {
		if !p.spawn(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
			}
			err := ctx.Err()
			if err == nil {
				err = p.synchronise(id)
			}
			results <- result{id, err}
		}) {
			return 0, ErrClosed
		}
	}
	var joined int
	var errs []error
	for range ids {
		select {
		case r := <-results:
			if r.err == nil {
				joined++
				continue
			}
			errs = append(errs, fmt.Errorf("gossip: join %s: %w", r.id.Short(), r.err))
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("gossip: join: %w", ctx.Err()))
			return joined, joinError(joined, errs)
		}
	}
	return joined, joinError(joined, errs)
}

func joinError(joined int, errs []error) error {
	if joined > 0 {
		return nil
	}
	return errors.Join(errs...)
}

// spawn runs f as a task of the pool, unless it is closed.
func (p *Pool) spawn(f func()) bool {
	p.life.Lock()
	defer p.life.Unlock()
	if p.closed {
		return false
	}
	p.tasks.Go(f)
	return true
}

// synchronise exchanges the whole state with one node. It takes at most two StreamTimeouts.
func (p *Pool) synchronise(id identity.NodeID) error {
	if id == p.self {
		return errors.New("that is this node itself")
	}
	_, err := p.list.Join([]string{joinAddress(p.mesh, id)})
	return err
}

// Leave tells the others that this node goes on purpose, and returns when it has been said often enough, when ctx ends, or after
// five seconds. The pool is then good for nothing but Close.
func (p *Pool) Leave(ctx context.Context) error {
	patience := leaveMax
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	p.life.Lock()
	if p.closed || p.left != nil || patience <= 0 {
		p.life.Unlock()
		return ctx.Err()
	}
	p.rest()
	p.left = make(chan struct{})
	var err error
	p.tasks.Go(func() {
		defer close(p.left)
		err = p.list.Leave(patience * 7 / 8) // the rest is for the next
		p.sayLeft()
	})
	p.life.Unlock()
	select {
	case <-p.left:
	case <-ctx.Done():
		return fmt.Errorf("gossip: leave: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("gossip: leave: %w", err)
	}
	return nil
}

// farewells is how many members are told directly that this node leaves.
const farewells = 16

// sayLeft tells some members itself that this node has left. Memberlist has it among its own news, of which it may lose one (v0.7.0): what replaces the only
// message in its queue, and the next that comes, get the same number, and if they are as long the second takes the place of the first.
func (p *Pool) sayLeft() {
	message, err := encodeMessage(typeDead, accusation{Incarnation: p.transport.incarnations.counted(p.self), Node: p.selfName, From: p.selfName})
	if err != nil {
		return
	}
	for _, id := range p.roster.draw(farewells, p.self) {
		_, _ = p.transport.WriteToAddress(message, memberlistAddress(p.mesh, id)) // some will hear it
	}
}

// Close ends the pool without a word; the others will find out. It returns when the pool's goroutines have ended, a Leave that is
// still going on included. What it said in the peer table is taken back. It can be called more than once.
func (p *Pool) Close() error {
	p.life.Lock()
	first := !p.closed
	p.closed = true
	left := p.left
	p.life.Unlock()
	p.cancel()
	if left != nil {
		<-left // memberlist panics when it is told to leave after it was shut down
	}
	var err error
	if first {
		err = p.list.Shutdown() // begins with the transport's: every stream closed, every dial cancelled
	}
	p.tasks.Wait()
	if first {
		p.host.leave(p)
		p.peers.Retract(Source(p.scope), time.Now())
	}
	return err
}
