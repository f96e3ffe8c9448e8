package node

import (
	"fmt"
	"testing"
	"time"
)

func TestTheLogSaysThatSomebodyLiesAndIsNotFloodedItself(t *testing.T) {
	l := refusalLog{told: map[string]uint64{"dht_record": 7}}
	begin := time.Unix(0, 0)
	for _, step := range []struct {
		minute int
		dht    uint64
		gossip uint64
		says   string
	}{
		{0, 7, 0, "[]"}, // what was there before is no news
		{1, 9, 0, "[dht_record 2]"},
		{2, 9, 5, "[gossip_signature 5]"},
		{3, 10, 6, "[]"}, // the pause grows
		{4, 11, 6, "[dht_record 2 gossip_signature 1]"},
		{9, 11, 6, "[]"}, // it is quiet, and the next is said at once again
		{10, 12, 6, "[dht_record 1]"},
		{11, 13, 6, "[dht_record 1]"},
	} {
		got := l.step(map[string]uint64{"dht_record": step.dht, "gossip_signature": step.gossip}, begin.Add(time.Duration(step.minute)*time.Minute))
		if s := fmt.Sprint(got); s != step.says {
			t.Errorf("minute %d: says %s, want %s", step.minute, s, step.says)
		}
	}
	lines := 0
	for minute := range 24 * 60 {
		if l.step(map[string]uint64{"dht_record": uint64(100 + minute)}, begin.Add(time.Hour+time.Duration(minute)*time.Minute)) != nil {
			lines++
		}
	}
	if lines > 32 {
		t.Errorf("%d lines a day", lines)
	}
}
