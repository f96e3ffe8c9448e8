package gossip

import "time"

// SharedMax bounds what is exchanged for the pools' user beside the members: bulletins and records of some hundred regions.
const SharedMax = 1 << 20

// Shared is what the pools' user wants the members of a pool to have in common, beside what memberlist exchanges: it rides along when two of
// them exchange everything, and they do so when their digests differ while no news is on its way. Its methods are called by many
// goroutines and return at once.
type Shared interface {
	// State is what this node has for a pool, at most SharedMax bytes; nothing costs nothing.
	State(Scope) []byte
	// Merge takes what another has, which may be anything.
	Merge(Scope, []byte)
	// Digest is the same in all members of a pool that have the same.
	Digest(Scope) uint64
}

// SharedChanged says that what is shared has changed, and that the news of it is on its way to the others.
func (h *Host) SharedChanged() {
	now := time.Now()
	for _, p := range *h.pools.Load() {
		p.roster.heardNews(now)
	}
}

func (r *roster) heardNews(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.news = now
}

// sharedState returns what rides along in an exchange.
func (p *Pool) sharedState() []byte {
	if p.host.cfg.Shared == nil {
		return nil
	}
	b := p.host.cfg.Shared.State(p.scope)
	if len(b) > SharedMax {
		p.log.Warn("too much to exchange with other members, nothing of it is", "bytes", len(b))
		return nil
	}
	return b
}

// digest sums up who is here with which record, and what is shared.
func (t *transport) digest(now time.Time) (sum uint64, settled bool) {
	sum, settled = t.roster.digest(t.calm.alert, now)
	if t.shared != nil {
		sum += t.shared.Digest(t.scope)
	}
	return sum, settled
}
