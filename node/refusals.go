package node

import (
	"slices"
	"time"
)

const (
	// refusalLook is how often a node looks at what it has refused, and the least time between two lines in the log about that.
	refusalLook = time.Minute
	// refusalRest is the most: the pause doubles while it goes on.
	refusalRest = time.Hour
)

// refusals counts what only somebody sends who lies, or whose program is broken: an honest member, however old its news, sends none of it. The
// parts have counted and refused it; metrics have the same counts and more.
func (m *membership) refusals() map[string]uint64 {
	out := map[string]uint64{}
	g := m.gossip.Stats().Refused
	for _, reason := range []string{"form", "name", "signature", "conflict", "rumour", "flood", "ahead"} {
		out["gossip_"+reason] = g[reason]
	}
	if d := m.dht.Load(); d != nil {
		s := d.Stats()
		out["dht_record"], out["dht_question"] = s.Refused, s.Malformed
	}
	if m.node.lan != nil {
		s := m.node.lan.Stats()
		out["lan_beacon"], out["lan_flood"] = s.Malformed, s.Flooded+s.Full
	}
	out["hello"], out["request"] = m.node.control.Stats().Refused, m.node.petitions.refusals()
	return out
}

// watchRefusals has the log say when somebody tries what does not work.
func (m *membership) watchRefusals() {
	tick := time.NewTicker(refusalLook)
	defer tick.Stop()
	l := refusalLog{told: m.refusals()}
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
			if news := l.step(m.refusals(), time.Now()); len(news) > 0 {
				m.node.log.Warn("refused what no member in good standing sends: somebody lies, floods this node, or is broken", news...)
			}
		}
	}
}

// refusalLog decides when there is something to say.
type refusalLog struct {
	told  map[string]uint64
	next  time.Time
	pause time.Duration
}

// step returns how much more was refused than when it last said so, by reason in alphabetical order as slog takes it; nothing while it rests.
func (l *refusalLog) step(counts map[string]uint64, now time.Time) (news []any) {
	var reasons []string
	for reason, n := range counts {
		if n > l.told[reason] {
			reasons = append(reasons, reason)
		}
	}
	switch {
	case len(reasons) == 0:
		if !now.Before(l.next) {
			l.pause = 0
		}
		return nil
	case now.Before(l.next):
		return nil
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		news = append(news, reason, counts[reason]-l.told[reason])
	}
	l.told = counts
	l.pause = min(max(2*l.pause, refusalLook), refusalRest)
	l.next = now.Add(l.pause)
	return news
}
