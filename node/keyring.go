package node

import (
	"bytes"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/gossip"
)

// keyLinger is how long a gossip key that the ledger has dropped still opens packets here: members that have not heard of the change seal with it
// until they have, which takes the slowest of them one stateCheckInterval.
const keyLinger = 6 * stateCheckInterval

// keyring is the gossip keys of the ledger and those that it has just dropped.
type keyring struct {
	keys    [][]byte
	dropped []droppedKey // the newest first
}

type droppedKey struct {
	key   []byte
	until time.Time
}

// use takes the ledger's keys over and returns those to use now, the sealing one first.
func (k *keyring) use(ledger [][]byte, now time.Time) [][]byte {
	for _, old := range k.keys {
		if !holds(ledger, old) {
			k.dropped = append([]droppedKey{{key: old, until: now.Add(keyLinger)}}, k.dropped...)
		}
	}
	k.keys = ledger
	k.dropped = slices.DeleteFunc(k.dropped, func(d droppedKey) bool { return !now.Before(d.until) || holds(ledger, d.key) })
	k.dropped = k.dropped[:min(len(k.dropped), max(0, gossip.KeysMax-len(ledger)))]
	out := slices.Clone(ledger)
	for _, d := range k.dropped {
		out = append(out, d.key)
	}
	return out
}

func holds(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

// adoptKeys has gossip use the ledger's keys; with nothing new, it forgets those whose time is over.
func (m *membership) adoptKeys(ledger [][]byte) {
	if err := m.gossip.SetKeyring(m.keys.use(ledger, time.Now())); err != nil {
		m.node.log.Warn("gossip keys not changed", "err", err)
	}
}
