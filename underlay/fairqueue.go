package underlay

import "time"

// The pure core of a relay's fairness: deficit round robin (Shreedhar and Varghese, 1996) over the members that send, under one token
// bucket. It knows neither the clock nor the socket. Every member gets the same share of the bytes while it has any waiting, whatever
// the others send, and loses its own packets when it sends more.

const (
	// quantum is what a member may send in its turn: the largest frame, so that every turn sends something.
	quantum = deliverLarge
	// flowMemory bounds what one member has waiting: 512 packets, four batches of a reader. flowsMemory bounds it for all together; each may then
	// have no more than its share.
	flowMemory  = 1 << 20
	flowsMemory = 64 << 20
	// burstTime and burstMin are the depth of the token bucket.
	burstTime = 50 * time.Millisecond
	burstMin  = 64 << 10
)

// parcel is a frame on its way through the relay. Its buffer belongs to it.
type parcel struct {
	delivery
	leg *leg
}

// flow is what one member has waiting. The zero value is ready.
type flow struct {
	waiting []parcel
	head    int // of waiting
	memory  int
	deficit int
	turn    bool // has had its quantum for this round
	active  bool // is in the round
}

// fairQueue is all flows and the token bucket.
type fairQueue struct {
	rate   int // bytes a second; 0: no limit
	tokens float64
	filled instant
	round  []*flow

	packets, bytes int // waiting
}

// push appends a frame to a flow. It returns false if there is no room: the frame stays the caller's.
func (q *fairQueue) push(f *flow, p parcel) bool {
	limit := min(flowMemory, flowsMemory/(len(q.round)+1))
	if f.memory+cap(p.buf) > limit {
		return false
	}
	f.waiting = append(f.waiting, p)
	f.memory += cap(p.buf)
	q.packets++
	q.bytes += len(p.buf)
	if !f.active {
		f.active = true
		q.round = append(q.round, f)
	}
	return true
}

// take fills batch with the frames whose turn it is. If it took none, wait is how long until there are tokens; 0: nothing is waiting.
func (q *fairQueue) take(now instant, batch []parcel) (n int, wait time.Duration) {
	if q.rate > 0 {
		q.tokens = min(q.tokens+float64(q.rate)*(now-q.filled).Seconds(), q.depth())
		q.filled = now
	}
	for n < len(batch) && len(q.round) > 0 {
		if q.rate > 0 && q.tokens <= 0 {
			break
		}
		batch[n] = q.next()
		q.tokens -= float64(len(batch[n].buf))
		n++
	}
	if n == 0 && len(q.round) > 0 {
		wait = max(time.Duration((1-q.tokens)/float64(q.rate)*float64(time.Second)), time.Millisecond)
	}
	return n, wait
}

// depth is how many tokens the bucket holds.
func (q *fairQueue) depth() float64 { return max(float64(q.rate)*burstTime.Seconds(), burstMin) }

// next takes the frame whose turn it is. There must be one.
func (q *fairQueue) next() parcel {
	for {
		f := q.round[0]
		if !f.turn {
			f.deficit += quantum
			f.turn = true
		}
		if p := f.waiting[f.head]; len(p.buf) <= f.deficit {
			q.pop(f)
			return p
		}
		f.turn = false
		copy(q.round, q.round[1:]) // in place: a slice that moves on would allocate
		q.round[len(q.round)-1] = f
	}
}

// pop removes the first frame of the flow at the head of the round.
func (q *fairQueue) pop(f *flow) {
	p := &f.waiting[f.head]
	f.deficit -= len(p.buf)
	f.memory -= cap(p.buf)
	q.packets--
	q.bytes -= len(p.buf)
	*p = parcel{}
	f.head++
	switch {
	case f.head == len(f.waiting):
		*f = flow{waiting: f.waiting[:0]}
		q.round = q.round[:copy(q.round, q.round[1:])]
	case f.head >= 64 && 2*f.head >= len(f.waiting): // move up: each frame is moved once at most, on average
		f.waiting = f.waiting[:copy(f.waiting, f.waiting[f.head:])]
		f.head = 0
	}
}
