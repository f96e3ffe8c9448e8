package underlaytest

import (
	"slices"
	"time"
)

// Cut is a broken connection between hosts, both up and with all their other connections. See [Network.Cut].
type Cut struct {
	network  *Network
	from, to map[*Host]bool // nil: all others
	both     bool
	healed   time.Duration // 0: not yet
}

// cutMemory is how long a healed cut is kept in mind: packets that were sent through it may be on their way still.
const cutMemory = time.Minute

// Cut loses everything from one set of hosts to the other, wherever they are, what is on its way too, until [Cut.Heal]. to nil: all that are
// not in from. Other cuts may exist at the same time.
func (n *Network) Cut(from, to []*Host) *Cut { return n.cut(from, to, false) }

// Partition is Cut in both directions.
func (n *Network) Partition(a, b []*Host) *Cut { return n.cut(a, b, true) }

func (n *Network) cut(from, to []*Host, both bool) *Cut {
	c := &Cut{network: n, from: hostSet(from), both: both}
	if to != nil {
		c.to = hostSet(to)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.nowLocked()
	n.cuts = slices.DeleteFunc(n.cuts, func(c *Cut) bool { return c.healed > 0 && now-c.healed > cutMemory })
	n.cuts = append(n.cuts, c)
	return c
}

func hostSet(hosts []*Host) map[*Host]bool {
	m := make(map[*Host]bool, len(hosts))
	for _, h := range hosts {
		m[h] = true
	}
	return m
}

// Heal ends the cut. Doing so again does nothing.
func (c *Cut) Heal() {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.healed == 0 {
		c.healed = max(c.network.nowLocked(), 1)
	}
}

// separates reports whether a packet of one host does not get to the other.
func (c *Cut) separates(from, to *Host) bool {
	one := c.from[from] && (c.to[to] || c.to == nil && !c.from[to])
	return one || c.both && c.from[to] && (c.to[from] || c.to == nil && !c.from[from])
}

// cutsLocked reports whether a packet was, or is, on the wrong side of a cut.
func (n *Network) cutsLocked(p *packet, to *Host) bool {
	if p.src == nil || p.src == to {
		return false
	}
	for _, c := range n.cuts {
		if (c.healed == 0 || p.sent < c.healed) && c.separates(p.src, to) {
			return true
		}
	}
	return false
}
