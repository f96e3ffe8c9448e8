package underlay

import (
	"net/netip"
	"sync"
	"time"
)

// Limits on what strangers may ask of us. A keyed check under a key not seen before costs one X25519 operation, about 50 µs: the
// global 100 a second are half a percent of one core.
var (
	// knocks bounds STUN requests and gossip from sources that have no path, before anything is done with them.
	knocks = rate{perSecond: 100, burst: 200}
	// newKeys bounds the keys never seen before that one prefix may bring, newKeysTotal those of all prefixes.
	newKeys      = rate{perSecond: 5, burst: 20}
	newKeysTotal = rate{perSecond: 100, burst: 200}
	// strangeChallenges and keyedChallenges bound the challenges to sources without a path, of all prefixes together: for requests that anybody
	// could have made up, and for those whose key was right. Each challenge holds a transaction for transactionLife (5 s), so at most
	// 300 + 5·100 + 800 + 5·400 = 3,600 of the transactionsMax 4,096: a flood leaves room for our own checks.
	strangeChallenges = rate{perSecond: 100, burst: 300}
	keyedChallenges   = rate{perSecond: 400, burst: 800}
)

// limitPrefixes bounds the prefixes a limiter remembers: 4,096 × about 100 bytes.
const limitPrefixes = 4096

// rate is a token bucket's refill and depth.
type rate struct{ perSecond, burst float64 }

// bucket is a token bucket.
type bucket struct {
	tokens float64
	at     instant
}

// take removes a token if there is one.
func (b *bucket) take(r rate, now instant) bool {
	b.tokens = min(r.burst, b.tokens+r.perSecond*(now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// limiter holds a bucket for every source prefix. It is safe for concurrent use.
type limiter struct {
	rate    rate
	mu      sync.Mutex
	buckets map[netip.Prefix]*bucket
	// rest serves the prefixes that found no room: a flood from everywhere shares one bucket.
	rest bucket
}

func newLimiter(r rate) *limiter {
	return &limiter{rate: r, buckets: map[netip.Prefix]*bucket{}, rest: bucket{tokens: r.burst}}
}

// allow takes a token of the address's prefix. Loopback is not limited by prefix: all of a machine's nodes share it.
func (l *limiter) allow(addr netip.Addr, now instant) bool {
	if addr.IsLoopback() {
		return true
	}
	prefix := sourcePrefix(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[prefix]
	if b == nil {
		if len(l.buckets) >= limitPrefixes && !l.makeRoomLocked(now) {
			return l.rest.take(l.rate, now)
		}
		b = &bucket{tokens: l.rate.burst, at: now}
		l.buckets[prefix] = b
	}
	return b.take(l.rate, now)
}

// makeRoomLocked forgets the buckets that are full again, at most once a second as it looks at all of them.
func (l *limiter) makeRoomLocked(now instant) bool {
	if now-l.rest.at < time.Second && l.rest.at > 0 {
		return false
	}
	l.rest.take(l.rate, now)
	for p, b := range l.buckets {
		if b.tokens+l.rate.perSecond*(now-b.at).Seconds() >= l.rate.burst {
			delete(l.buckets, p)
		}
	}
	return len(l.buckets) < limitPrefixes
}

// sourcePrefix is what one customer can be expected to hold: a /24, or a /56 of IPv6 (RFC 6177); on private networks, whose
// addresses cannot be forged from outside, the single address.
func sourcePrefix(addr netip.Addr) netip.Prefix {
	bits := 56
	switch {
	case addr.IsPrivate():
		bits = addr.BitLen()
	case addr.Is4():
		bits = 24
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
