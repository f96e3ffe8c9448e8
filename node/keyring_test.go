package node

import (
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/peer"
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

func TestARecordThatOnlySaysThatTheStateIsNewerMayWait(t *testing.T) {
	const keyring = 7
	last := peer.Record{StateVersion: 6, Region: "home", NAT: peer.NATEasy}
	for name, c := range map[string]struct {
		change func(last, r *peer.Record)
		waits  bool
	}{
		"a newer state":                        {func(last, r *peer.Record) { last.StateVersion, r.StateVersion = keyring, 9 }, true},
		"the first with the newest key":        {func(_, r *peer.Record) { r.StateVersion = keyring }, false},
		"a newer one than the newest key's":    {func(_, r *peer.Record) { r.StateVersion = 9 }, false},
		"a newer state, and another region":    {func(last, r *peer.Record) { last.StateVersion, r.StateVersion, r.Region = keyring, 9, "east" }, false},
		"a newer state, and it votes":          {func(last, r *peer.Record) { last.StateVersion, r.StateVersion, r.Voter = keyring, 9, true }, false},
		"one that is still older than the key": {func(last, r *peer.Record) { last.StateVersion, r.StateVersion = 3, 5 }, true},
	} {
		was := last
		r := last
		c.change(&was, &r)
		if got := mayWait(r, was, keyring); got != c.waits {
			t.Errorf("%s: waits %v", name, got)
		}
	}
}
