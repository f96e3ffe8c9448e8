package underlay

import (
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// attemptsMax bounds the addresses of a node of which is remembered how they did: two searches' worth.
const attemptsMax = 32

// Attempt is what came of trying to reach a node at an address.
type Attempt struct {
	// Way is how its packets travel; its RTT is that of the last answer, 0 if there was none.
	Way
	// Result is "answered", "no answer", "lossy" (checks pass, data does not), "refused: " and the system's error, or "waiting".
	Result string
	// When is the time of the last answer, else of the last check.
	When time.Time
}

// attemptState is one address's record.
type attemptState struct {
	sent, answered instant // 0: never
	rtt            time.Duration
	err            error
}

// attempts is the owner's record of the addresses at which a node was looked for.
type attempts map[netip.AddrPort]*attemptState

// sent notes a check, or why it was not sent.
func (a *attempts) sent(addr netip.AddrPort, err error, now instant) {
	s := a.of(addr)
	s.sent, s.err = now, err
}

// answered notes an answer.
func (a *attempts) answered(addr netip.AddrPort, rtt time.Duration, now instant) {
	s := a.of(addr)
	s.answered, s.rtt, s.err = now, rtt, nil
}

// of returns the record of an address. The one that was of use the longest ago makes room.
func (a *attempts) of(addr netip.AddrPort) *attemptState {
	if *a == nil {
		*a = attempts{}
	}
	m := *a
	if s := m[addr]; s != nil {
		return s
	}
	if len(m) >= attemptsMax {
		var oldest netip.AddrPort
		for other, s := range m {
			if o := m[oldest]; o == nil || max(s.sent, s.answered) < max(o.sent, o.answered) {
				oldest = other
			}
		}
		delete(m, oldest)
	}
	s := &attemptState{}
	m[addr] = s
	return s
}

// result puts a record into words.
func (s *attemptState) result(p *pathState, now instant) string {
	switch {
	case s.err != nil:
		return "refused: " + s.err.Error()
	case p != nil && p.evidence.lossy:
		return "lossy"
	case s.answered > 0 && (p != nil && p.missed < silentAfter || p == nil && s.answered >= s.sent):
		return "answered"
	case now-s.sent < probeTimeoutMax:
		return "waiting"
	}
	return "no answer"
}

// Tried returns what came of looking for a member at each of its addresses, the latest first: at most 32, of the searches since the socket
// was opened. For the addresses themselves, ask only on behalf of this machine's owner.
func (s *Socket) Tried(id identity.NodeID) []Attempt {
	n := s.memberNode(id)
	if n == nil {
		return nil
	}
	found := make(chan []Attempt, 1)
	s.commandAndWait(func(o *owner) { found <- o.tried(n) })
	select {
	case out := <-found:
		return out
	default: // closed
		return nil
	}
}

func (o *owner) tried(n *node) (out []Attempt) {
	now := o.now()
	for addr, s := range n.attempts {
		when := s.sent
		if s.answered > 0 {
			when = s.answered
		}
		out = append(out, Attempt{Way: o.way(addr, s.rtt), Result: s.result(n.paths.find(addr), now), When: o.when(when)})
	}
	slices.SortFunc(out, func(a, b Attempt) int {
		if c := b.When.Compare(a.When); c != 0 {
			return c
		}
		return a.Endpoint.Compare(b.Endpoint)
	})
	return out
}
