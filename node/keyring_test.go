package node

import (
	"strings"
	"testing"
	"time"
)

func TestADroppedGossipKeyOpensForAWhile(t *testing.T) {
	var k keyring
	now := time.Unix(0, 0)
	for _, step := range []struct {
		after  time.Duration
		ledger string
		use    string
	}{
		{0, "a", "a"},
		{time.Second, "a b", "a b"},
		{time.Second, "b", "b a"},
		{keyLinger - time.Second, "b", "b a"},
		{time.Second, "b", "b"},
		{0, "b c", "b c"},
		{0, "b d", "b d c"}, // another was announced instead
		{0, "d", "d b c"},
		{0, "d e", "d e b c"},
		{0, "e", "e d b c"},
		{0, "e f", "e f d b"}, // no more than gossip takes
		{keyLinger, "e f", "e f"},
	} {
		now = now.Add(step.after)
		var ledger [][]byte
		for _, key := range strings.Fields(step.ledger) {
			ledger = append(ledger, []byte(key))
		}
		var got []string
		for _, key := range k.use(ledger, now) {
			got = append(got, string(key))
		}
		if strings.Join(got, " ") != step.use {
			t.Errorf("with %q in the ledger %v are used, want %q", step.ledger, got, step.use)
		}
	}
}
