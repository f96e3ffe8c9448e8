package dataplane

import (
	"sync"
	"time"
)

const (
	// waitPackets is how many packets wait for a tunnel: a burst of a few connections being opened, not a stream. Times 1500
	// bytes and the tunnels being made, it is what waiting may cost: 96 KiB each.
	waitPackets = 64
	// waitTime is how long a packet waits: an exchange over the slowest path takes about a second, with one retry three; TCP
	// and people have sent the packet again by then.
	waitTime = 3 * time.Second
)

// waitQueue holds the packets of one tunnel until it is open. Its gate decides, under one lock, whether a packet waits or passes,
// so that none is left behind when the gate opens.
type waitQueue struct {
	mu      sync.Mutex
	pass    bool // the gate is open
	gone    bool // the tunnel is no more
	packets [][]byte
	until   []time.Time // when each gives up
}

// verdict is what became of a packet that was put.
type verdict uint8

const (
	waits  verdict = iota // it is in the queue
	passes                // the gate is open: send it
	full                  // no room; it is lost
	gone                  // the tunnel has been dropped: look for a new one
)

// put takes a copy of the packet, unless the gate is open. The oldest packets stay: they began what the newer ones go on with.
func (q *waitQueue) put(packet []byte, now time.Time) verdict {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.gone:
		return gone
	case q.pass:
		return passes
	case len(q.packets) >= waitPackets:
		return full
	}
	q.packets = append(q.packets, append([]byte(nil), packet...))
	q.until = append(q.until, now.Add(waitTime))
	return waits
}

// open opens the gate and hands over what waited. emit is called with the lock held and must not block: a packet that comes
// at the same time has to be behind.
func (q *waitQueue) open(emit func(packet []byte)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pass = true
	for _, p := range q.packets {
		emit(p)
	}
	q.packets, q.until = nil, nil
}

// hold closes the gate: packets wait again.
func (q *waitQueue) hold() {
	q.mu.Lock()
	q.pass = false
	q.mu.Unlock()
}

// expired removes and returns the packets that have waited too long.
func (q *waitQueue) expired(now time.Time) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.until) && !now.Before(q.until[n]) {
		n++
	}
	return q.takeLocked(n)
}

// drain removes and returns all packets.
func (q *waitQueue) drain() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeLocked(len(q.packets))
}

// close is drain for good.
func (q *waitQueue) close() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone, q.pass = true, false
	return q.takeLocked(len(q.packets))
}

func (q *waitQueue) takeLocked(n int) [][]byte {
	if n == 0 {
		return nil
	}
	out := q.packets[:n:n]
	q.packets, q.until = q.packets[n:], q.until[n:]
	if len(q.packets) == 0 {
		q.packets, q.until = nil, nil
	}
	return out
}

// next is when the first packet gives up; zero: none waits.
func (q *waitQueue) next() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.until) == 0 {
		return time.Time{}
	}
	return q.until[0]
}
