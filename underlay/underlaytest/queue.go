package underlaytest

import "time"

// event is something that happens at a time of the network's own clock; seq orders those of one instant.
type event struct {
	at     time.Duration
	seq    uint64
	packet *packet
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// events is a binary heap, the earliest first. container/heap would allocate for every packet.
type events []event

func (q *events) push(e event) {
	s := append(*q, e)
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = e
	*q = s
}

func (q *events) pop() event {
	s := *q
	first, last := s[0], s[len(s)-1]
	s[len(s)-1] = event{}
	s = s[:len(s)-1]
	i := 0
	for {
		down := 2*i + 1
		if down >= len(s) {
			break
		}
		if down+1 < len(s) && s[down+1].before(s[down]) {
			down++
		}
		if !s[down].before(last) {
			break
		}
		s[i] = s[down]
		i = down
	}
	if len(s) > 0 {
		s[i] = last
	}
	*q = s
	return first
}
