package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// keyPatience is how long an announced gossip key waits for members that are alive but do not say that they hold it. Who misses it meanwhile loses
// gossip's packets until it has pulled the state over the control channel, which needs no gossip key.
const keyPatience = time.Minute

// What is done to the gossip keys.
const (
	AnnounceKey Action = "announce-key" // a new one behind the one in use
	UseKey      Action = "use-key"      // the announced one in place of the one in use
)

// DecideKeyring changes the gossip keys without a gap, in two steps that the number of keys in the ledger tells apart:
//
//  1. One key. After somebody who knew it is out of the mesh, or when every certificate is newer than the key (they are renewed after 20 days), a
//     new key is announced behind it: members open what it seals, and still seal with the old.
//  2. Two keys. When all that are alive hold the state with the new key, or after keyPatience, it takes the old one's place. Members keep opening what
//     the old one seals for a while, by themselves (package node): some have not heard yet. If somebody was revoked after the announcement, he
//     knows what was announced, and another key is announced instead.
//
// Who is off for longer has neither key when it returns. It needs none for the control channel, over which it fetches the state.
func DecideKeyring(s *State, o Observation) []Proposal {
	k := s.Keyring
	gone, out := goneSince(s, k.Version)
	switch {
	case out && len(k.Keys) <= maxAnnounced:
		return []Proposal{{Action: AnnounceKey, Node: gone, Why: "knew the gossip key and is out"}}
	case len(k.Keys) == 1:
		if worn(s, o.Wall) {
			return []Proposal{{Action: AnnounceKey, Node: o.Self, Why: "every certificate is newer than the gossip key"}}
		}
		return nil
	}
	behind := 0
	for id := range o.Alive {
		if id != o.Self && s.Active(id) && o.Holds[id] < k.Version {
			behind++
		}
	}
	switch {
	case behind == 0:
		return []Proposal{{Action: UseKey, Node: o.Self, Why: "everybody alive holds the announced gossip key"}}
	case !o.KeyringSeen.IsZero() && o.Now.Sub(o.KeyringSeen) >= keyPatience:
		return []Proposal{{Action: UseKey, Node: o.Self, Why: fmt.Sprintf("the announced gossip key has waited for %s, %d alive do not say they hold it", keyPatience, behind)}}
	}
	return nil
}

// maxAnnounced: one key in use and one announced.
const maxAnnounced = 2

// goneSince finds somebody whose membership ended after a version.
func goneSince(s *State, version uint64) (identity.NodeID, bool) {
	for _, m := range s.Members {
		if m.Status != Active && m.Version > version {
			return m.ID, true
		}
	}
	return identity.NodeID{}, false
}

// worn tells whether every active member's certificate was issued after the keyring last changed, but for those that have ended.
func worn(s *State, now time.Time) bool {
	for _, m := range s.Members {
		if m.Status == Active && m.Version <= s.Keyring.Version && !now.After(m.Certificate.NotAfter) {
			return false
		}
	}
	return true
}

// changeKeys proposes the next keyring: the old key with a new one behind it, or the announced one alone.
func (g *Group) changeKeys(ctx context.Context, r *replica, p Proposal) error {
	if err := g.ready(ctx, r); err != nil {
		return err
	}
	command, err := g.author().Keyring(g.ledgerState(r), p.Action == AnnounceKey)
	if err != nil {
		return err
	}
	_, err = g.proposeCommand(ctx, r, command)
	return err
}

// observeKeyring fills in who holds which state, by their own word, and since when this leader has seen the keyring there is.
func (g *Group) observeKeyring(w *watcher, s *State, o *Observation) {
	if w.keyring != s.Keyring.Version || w.keyringSeen.IsZero() {
		w.keyring, w.keyringSeen = s.Keyring.Version, o.Now
	}
	o.KeyringSeen, o.Holds = w.keyringSeen, map[identity.NodeID]uint64{}
	for _, e := range g.cfg.Peers.All() {
		if e.HasRecord {
			o.Holds[e.ID] = e.Record.StateVersion
		}
		if g.cfg.Holds != nil {
			o.Holds[e.ID] = max(o.Holds[e.ID], g.cfg.Holds(e.ID))
		}
	}
}
