package underlay

import (
	"net/netip"
	"slices"
	"time"
)

// The pure core of the search for a path's MTU, RFC 8899 in spirit: keyed checks, padded to what a tunnel packet of that size makes on
// the wire, are sent with the don't-fragment bit. The answer, which is small, tells that one arrived; so each side finds out about its
// own direction.
//
// Sizes are tunnel MTUs: of the IP packet inside. WireGuard adds 16 bytes of header and 16 of tag, and pads what is inside to a multiple of
// 16, but not beyond the MTU of its device (calculatePaddingSize in wireguard-go). As the device's MTU may be larger than that of this
// path, only multiples of 16 are safe: 1440 on an Ethernet over IPv4, 1408 over IPv6.
//
// Until the first answer, a round trip after a node comes into use, the MTU is mtuFloor. Then the likeliest size is tried (a standard
// Ethernet); if it arrives the next larger one once large packets are sent, else mtuFloor; then the interval that is left is halved.
// Larger ones are tried again every mtuAgain in which large packets were sent and after a change of network, smaller ones as soon as large packets seem lost or the system refuses one.
//
// The tunnel's MTU is never below mtuFloor, as IPv6 inside needs that (RFC 8200 §5), and no route of Linux can have less. A path that does
// not carry its packets (1340 bytes over IPv4, 1360 over IPv6) gets them without the don't-fragment bit, to be fragmented: slower and not
// for every firewall, but all there is for it.

const (
	mtuFloor = 1280
	// wireGuardOverhead is WireGuard's header and tag.
	wireGuardOverhead = 32
	wireGuardPadding  = 16
	// frameOverhead is what a relay frame adds (its kind and channel).
	frameOverhead = 5
	// mtuTries probes of one size, each given the time of an answer, are lost before the size is taken for too large.
	mtuTries = 2
	// mtuAgain is the time between two looks for more: two packets of the next larger size.
	mtuAgain = 10 * time.Minute
)

// outerSizes are the MTUs that are common outside: tunnels in tunnels, PPPoE over various, Ethernet (1500), and jumbo frames of clouds and
// of machines' own links.
var outerSizes = [...]int{1380, 1400, 1420, 1440, 1452, 1460, 1472, 1480, 1492, 1500, 4000, 8500, 8896, 9000}

// ethernetMTU is what most paths carry.
const ethernetMTU = 1500

// fittingMTU is the largest tunnel MTU whose packets fit outer bytes; header counts IP, UDP and frame.
func fittingMTU(outer, header int) int {
	return (outer - header - wireGuardOverhead) &^ (wireGuardPadding - 1)
}

// headerSize is what goes around the UDP payload on a path. Of a link it is unknown what it travels in; its ladder serves both families.
func headerSize(addr netip.AddrPort) int {
	switch a := addr.Addr(); {
	case isLinkAddr(a):
		return 40 + 8 + frameOverhead
	case a.Is4():
		return 20 + 8
	}
	return 40 + 8
}

// ladder returns the tunnel MTUs worth trying on a path, ascending, and which of them comes first.
func ladder(addr netip.AddrPort) (rungs []int, guess int) {
	headers := []int{headerSize(addr)}
	if isLinkAddr(addr.Addr()) {
		headers = append(headers, headers[0]-20)
	}
	rungs = []int{mtuFloor}
	for _, outer := range outerSizes {
		for _, h := range headers {
			rungs = append(rungs, max(mtuFloor, fittingMTU(outer, h)))
		}
	}
	slices.Sort(rungs)
	rungs = slices.Compact(rungs)
	return rungs, slices.Index(rungs, max(mtuFloor, fittingMTU(ethernetMTU, headers[0])))
}

// mtuSearch is what is known of one path's MTU.
type mtuSearch struct {
	rungs    []int
	guess    int
	good     int     // the largest rung that arrived; -1: none
	bad      int     // the smallest that did not; len(rungs): none
	trying   int     // the rung under way; -1: none
	tries    int     // probes of it
	sent     instant // the last of them
	verified instant // when a probe of rung good or larger last arrived
	done     instant // when the search last ended; 0: it goes on
	climbing bool    // the rung above good was tried and arrived
	doubtful bool    // whether good still arrives
	large    uint32  // large packets sent over the path
	before   uint32  // what large was when the search last ended
	small    bool    // not even the smallest rung is known to arrive, and larger ones do not
}

func newMTUSearch(addr netip.AddrPort) mtuSearch {
	rungs, guess := ladder(addr)
	return mtuSearch{rungs: rungs, guess: guess, good: -1, bad: len(rungs), trying: -1, verified: -1}
}

// size is the tunnel's MTU on this path.
func (m *mtuSearch) size() int {
	if m.good < 0 {
		return mtuFloor
	}
	return m.rungs[m.good]
}

// narrow reports whether packets have to be fragmented: something was too large and nothing is known to fit.
func (m *mtuSearch) narrow() bool { return m.small }

// probing is the size under way, as the size of the UDP payload.
func (m *mtuSearch) probing() int {
	if m.trying < 0 {
		return 0
	}
	return m.rungs[m.trying] + wireGuardOverhead
}

// pick returns the rung to try next; -1: the search is over.
func (m *mtuSearch) pick() int {
	switch {
	case m.doubtful && m.good >= 0:
		return m.good
	case m.good < 0 && m.bad == len(m.rungs):
		return m.guess
	case m.good < 0 && m.bad > 0:
		return 0
	case m.good+1 >= m.bad, m.waits():
		return -1
	case m.bad < len(m.rungs):
		return (m.good + m.bad) / 2
	case m.climbing:
		return len(m.rungs) - 1
	}
	return m.good + 1
}

// waits reports whether more than a standard Ethernet carries would not be used, as nothing large is being sent.
func (m *mtuSearch) waits() bool {
	return m.good >= m.guess && m.bad == len(m.rungs) && m.large == m.before
}

// step carries the search on, after so many large packets. It returns whether a probe of probing() is to be sent, and whether size() has changed.
func (m *mtuSearch) step(now instant, timeout time.Duration, large uint32) (probe, changed bool) {
	m.large = large
	before, wasNarrow := m.size(), m.narrow()
	if m.trying >= 0 {
		if now-m.sent < timeout {
			return false, false
		}
		if m.tries >= mtuTries {
			m.fail(m.trying)
		}
	}
	if m.trying < 0 {
		if m.done > 0 && now-m.done >= mtuAgain && m.large != m.before {
			m.reopen()
		}
		m.trying, m.tries = m.pick(), 0
		if m.trying < 0 && m.done == 0 && !m.waits() {
			m.done, m.before = now, m.large
		}
	}
	changed = m.size() != before || m.narrow() != wasNarrow
	if m.trying < 0 {
		return false, changed
	}
	m.tries++
	m.sent = now
	return true, changed
}

// due is when step has something to do.
func (m *mtuSearch) due(now instant, timeout time.Duration) instant {
	switch {
	case m.trying >= 0:
		return m.sent + timeout
	case m.doubtful && m.good >= 0:
		return now
	case m.waits() || m.done > 0 && m.large == m.before:
		return forever // until something large is sent
	case m.done == 0:
		return now
	}
	return m.done + mtuAgain
}

// fail takes a rung, and all above it, for too large.
func (m *mtuSearch) fail(rung int) {
	m.trying, m.doubtful, m.climbing = -1, false, false
	m.bad = min(m.bad, rung)
	if m.good >= m.bad { // what arrived yesterday does not today: nothing is known of smaller ones
		m.good, m.done = -1, 0
	}
	m.small = m.good < 0
}

// fall gives the size up at once, as data of that size was lost.
func (m *mtuSearch) fall() {
	if m.good >= 0 {
		m.fail(m.good)
	}
}

// arrived takes in the answer to a probe of a size. It reports whether size() has changed.
func (m *mtuSearch) arrived(size int, now instant) (changed bool) {
	rung := slices.Index(m.rungs, size)
	if rung < 0 {
		return false
	}
	if rung >= m.trying {
		m.trying = -1
	}
	if rung < m.good {
		return false
	}
	changed = rung > m.good || m.small
	m.climbing = m.climbing || rung > m.good && rung > m.guess
	m.good, m.bad = rung, max(m.bad, rung+1)
	m.verified, m.doubtful, m.small = now, false, false
	return changed
}

// refused takes in that the system did not send a packet of so many bytes, as it is too large for the interface or the path. It reports
// whether size() has changed.
func (m *mtuSearch) refused(bytes int) (changed bool) {
	rung, _ := slices.BinarySearch(m.rungs, bytes-wireGuardOverhead)
	if m.trying >= rung {
		m.trying = -1
	}
	before, wasNarrow := m.size(), m.narrow()
	m.bad = min(m.bad, rung)
	if m.good >= m.bad {
		// What remains is known to fit the interface; whether the path has shrunk further shows the next probe.
		m.good, m.doubtful, m.done = m.bad-1, true, 0
	}
	m.small = m.good < 0
	return m.size() != before || m.narrow() != wasNarrow
}

// reopen has larger sizes tried again.
func (m *mtuSearch) reopen() { m.bad, m.done, m.climbing = len(m.rungs), 0, false }

// restart has everything tried again, as the network has changed.
func (m *mtuSearch) restart() {
	m.reopen()
	m.trying, m.doubtful = -1, true
}
