package underlay

import (
	"container/heap"
	"sync"
)

// The owner looks at a node when it is due, or when it was stirred: a packet wakes it for its own node only. With a thousand nodes, nearly all
// have nothing to do at any moment, and even a look at each costs more than all that has to be done.

// stirred are the nodes that the packet path has something about for the owner. Each is in it once (node.stirred), so it is bounded by them.
type stirred struct {
	mu   sync.Mutex
	list []*node
}

// wake has the owner look at the node soon.
func (n *node) wake() {
	if n.stirred.CompareAndSwap(false, true) {
		s := &n.socket.stirred
		s.mu.Lock()
		s.list = append(s.list, n)
		s.mu.Unlock()
	}
	n.socket.wake()
}

// take appends the nodes that were stirred since the last time to list. What stirs one again from now on is not lost.
func (s *stirred) take(list []*node) []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range s.list {
		n.stirred.Store(false)
		list = append(list, n)
		s.list[i] = nil
	}
	s.list = s.list[:0]
	return list
}

// dueQueue are the nodes that are due at some time, the earliest first: a heap. A node knows its place in it (node.queued).
type dueQueue []*node

var _ heap.Interface = (*dueQueue)(nil)

// Len is that of heap.Interface, as are the others.
func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].queued, q[j].queued = i+1, j+1
}

// Push is called by package heap only, as is Pop.
func (q *dueQueue) Push(x any) {
	n := x.(*node)
	*q = append(*q, n)
	n.queued = len(*q)
}

// Pop takes the last.
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	n := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	n.queued = 0
	return n
}

// at makes the node due, unless it is earlier.
func (q *dueQueue) at(n *node, due instant) {
	switch {
	case n.queued == 0:
		n.due = due
		heap.Push(q, n)
	case due < n.due:
		n.due = due
		heap.Fix(q, n.queued-1)
	}
}

// drop makes the node never due.
func (q *dueQueue) drop(n *node) {
	if n.queued > 0 {
		heap.Remove(q, n.queued-1)
	}
}

// next returns the node that is due first, nil if none is by now.
func (q dueQueue) next(now instant) *node {
	if len(q) == 0 || q[0].due > now {
		return nil
	}
	return q[0]
}
