package underlaytest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// half is one direction of a connection: what has arrived, and how much is on its way.
type half struct {
	mu      sync.Mutex    // guards what follows; taken after network.mu
	changed chan struct{} // closed and replaced on every change
	chunks  [][]byte
	size    int // bytes that were written and not yet read
	// What each end knows. The reader: that it has closed, that nothing more will come. The writer: that it has closed, that nobody reads.
	readerClosed, ended, writerClosed, unread bool
	broken                                    error // reset, or nothing got through for long
	readBy, writeBy                           time.Time
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) change(f func(*half)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
	h.changedLocked()
}

func (h *half) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// waitLocked gives the lock up until something changes or a time has come, the zero time never.
func (h *half) waitLocked(until time.Time) {
	changed := h.changed
	h.mu.Unlock()
	defer h.mu.Lock()
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readerClosed:
			return 0, net.ErrClosed
		case past(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(h.chunks) > 0:
			c := &h.chunks[0]
			n := copy(b, *c)
			if *c = (*c)[n:]; len(*c) == 0 {
				h.chunks[0] = nil
				h.chunks = h.chunks[1:]
			}
			h.size -= n
			h.changedLocked()
			return n, nil
		case h.broken != nil:
			return 0, h.broken
		case h.ended:
			return 0, io.EOF
		}
		h.waitLocked(h.readBy)
	}
}

// reserve waits for room in the window and takes as much of it as want, or what there is.
func (h *half) reserve(want int) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writerClosed:
			return 0, net.ErrClosed
		case h.broken != nil:
			return 0, h.broken
		case h.unread:
			return 0, syscall.EPIPE
		case past(h.writeBy):
			return 0, os.ErrDeadlineExceeded
		case h.size < windowSize:
			n := min(want, windowSize-h.size, segmentMax)
			h.size += n
			return n, nil
		}
		h.waitLocked(h.writeBy)
	}
}
