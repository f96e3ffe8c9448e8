package dht

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// publishAgain is the time after which the own record is stored anew, a third of its age: two attempts may fail, and members closer to it
	// may have come.
	publishAgain = 24 * time.Hour
	// publishSoon is when the first record of a run is stored again: a mesh that starts as a whole knows few of its members yet, and stores with some
	// that are not the closest.
	publishSoon = 10 * time.Minute
	// publishSettle is how long a change may be followed by others before it is stored, publishPause the least time between two
	// stores, so that a node whose address flaps does not busy eight others.
	publishSettle = 10 * time.Second
	publishPause  = 5 * time.Minute
	// publishTurn is by how much the first store of a run may come later for each member there is: a store takes some ten new connections, and a
	// mesh that starts as a whole is not to make them all in one second. A hundred members take 20 s, a thousand three minutes.
	publishTurn = 200 * time.Millisecond
	// retryMin and retryMax bound the time between attempts while nobody can be asked.
	retryMin, retryMax = time.Minute, time.Hour
	// publishTimeout bounds one attempt.
	publishTimeout = time.Minute
)

const (
	// seekMax is how many searches wait; more are dropped, and asked for again by the underlay's next search.
	seekMax = 16
	// seekDelay leaves the addresses we have a chance first.
	seekDelay = 2 * time.Second
	// seekPause is the least time between two searches for one member.
	seekPause = time.Minute
	// seekTimeout bounds one.
	seekTimeout = 20 * time.Second
)

// Publish has the DHT keep a record of this node. It returns at once; what makes no difference to who looks for the node is not stored anew.
func (d *DHT) Publish(r peer.Record) {
	d.mu.Lock()
	news := !d.hasOwn || !sameWay(d.own, r)
	if news {
		d.own, d.hasOwn = r, true
	}
	d.mu.Unlock()
	if !news {
		return
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// sameWay reports whether two records lead to a node in the same way.
func sameWay(a, b peer.Record) bool {
	return a.Region == b.Region && a.NAT == b.NAT && slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Relays, b.Relays)
}

// publish stores the own record when it changes, and now and then anew.
func (d *DHT) publish() {
	select {
	case <-d.changed:
	case <-d.ctx.Done():
		return
	}
	next, settle := publishSoon, publishSettle+rand.N(1+publishTurn*time.Duration(len(d.cfg.Peers.All())))
	for retry := retryMin; d.sleep(settle); settle = publishSettle {
		wait, pause := next, publishPause
		if err := d.put(); err != nil {
			d.log.Debug("dht: own record not stored", "err", err, "again", retry)
			wait, pause = retry, retryMin
			retry = min(2*retry, retryMax)
		} else {
			retry, next = retryMin, publishAgain
		}
		if !d.sleep(pause) {
			return
		}
		again := time.NewTimer(wait - pause)
		select {
		case <-d.changed:
		case <-again.C:
		case <-d.ctx.Done():
		}
		again.Stop()
	}
}

// put stores the own record with the members closest to its key.
func (d *DHT) put() error {
	ctx, cancel := context.WithTimeout(d.ctx, publishTimeout)
	defer cancel()
	if err := d.join(); err != nil {
		return err
	}
	chain := d.cfg.Chain()
	if chain == nil {
		return errNotEnrolled
	}
	d.mu.Lock()
	r := d.own
	d.mu.Unlock()
	b, err := newValue(r, d.cfg.Key, chain)
	if err != nil {
		return err
	}
	return d.kad.PutValue(ctx, keyOf(d.cfg.Key.ID()), b)
}

func (d *DHT) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// Seek asks the DHT for a member to which no path was found, and hints what it learns. It returns at once. A member is sought at most once
// in [seekPause].
func (d *DHT) Seek(id identity.NodeID) {
	if d.cfg.Hint == nil || id == d.cfg.Key.ID() {
		return
	}
	select {
	case d.seek <- id:
	default:
	}
}

func (d *DHT) seekers() {
	last := map[identity.NodeID]time.Time{}
	for {
		select {
		case <-d.ctx.Done():
			return
		case id := <-d.seek:
			if at, ok := last[id]; ok && time.Since(at) < seekPause {
				continue
			}
			for other, at := range last {
				if time.Since(at) >= seekPause {
					delete(last, other)
				}
			}
			last[id] = time.Now()
			if !d.sleep(seekDelay) {
				return
			}
			if d.cfg.Reached == nil || !d.cfg.Reached(id) {
				d.seekOne(id)
			}
		}
	}
}

func (d *DHT) seekOne(id identity.NodeID) {
	ctx, cancel := context.WithTimeout(d.ctx, seekTimeout)
	defer cancel()
	err := d.Find(ctx, id, func(h discovery.Hint) { d.cfg.Hint(h.ID, h.Addrs) })
	if err != nil {
		d.log.Debug("dht: member not found", "peer", id.Short(), "err", err)
	}
}
