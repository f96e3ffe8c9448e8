package underlay

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Who reads the socket. The real Bind gives one ReceiveFunc for each family; each has a reader, and each reader has one turn: whoever
// holds it may call the ReceiveFunc. Without a WireGuard device the pump, a goroutine of ours, holds it. With one, the device's own
// goroutine does, and packets land in the device's buffers.
//
// Hand-over to the device loses nothing and waits for nothing: the pump is blocked in a read, so the device waits for the turn;
// whatever the read returns, the pump deals with it, keeps the WireGuard packets aside, passes the turn, and the device's first call
// takes them over. From then on it reads itself. (If the device goes again before anything arrives, it just stops waiting.)
//
// Hand-over from the device is harder: its goroutine is blocked in a read into the device's memory, and Close of the device waits for
// it. No deadline can be set through conn.Bind, so a packet to ourselves over loopback ends the read. Where loopback is down (a
// fresh network namespace), the real Bind is closed and opened again on its port, which may lose what the kernel had queued.
type reader struct {
	socket *Socket
	turn   chan struct{} // capacity 1
	inside atomic.Pointer[session]
	recv   atomic.Pointer[conn.ReceiveFunc]

	// Whoever holds the turn.
	bufs   [][]byte // the pump's; nil while a device reads
	sizes  []int
	eps    []conn.Endpoint
	kept   int     // packets of the pump's last batch that the device has yet to take
	last   *source // of the last packet, as packets come in trains
	counts [classes]uint64

	counted *source // whose WireGuard packets came counts
	came    counts
}

const (
	// pumpBuffer holds every packet on an Ethernet with jumbo frames: without a device we may be a relay, or be asked how large packets arrive.
	pumpBuffer = 9216
	// coalescedBuffer holds what the kernel merges into one (UDP GRO). StdNetBind reads those into the last batch/64 buffers and
	// splits them into the others.
	coalescedBuffer = 1 << 16
	coalescedMax    = 64
	// Errors of a read that are not its end are waited out.
	readRetryMin = 10 * time.Millisecond
	readRetryMax = time.Second
)

func newReader(s *Socket, f conn.ReceiveFunc) *reader {
	r := &reader{socket: s, turn: make(chan struct{}, 1)}
	r.recv.Store(&f)
	r.turn <- struct{}{}
	return r
}

// allocate gives the pump its buffers.
func (r *reader) allocate() {
	if r.bufs != nil {
		return
	}
	n := r.socket.bind.BatchSize()
	large := (n + coalescedMax - 1) / coalescedMax
	r.bufs, r.sizes, r.eps = make([][]byte, n), make([]int, n), make([]conn.Endpoint, n)
	block := make([]byte, (n-large)*pumpBuffer+large*coalescedBuffer)
	for i := range r.bufs {
		size := pumpBuffer
		if i >= n-large {
			size = coalescedBuffer
		}
		r.bufs[i], block = block[:size:size], block[size:]
	}
}

// pump reads whenever no device does. It ends when the socket closes.
func (r *reader) pump() {
	for {
		select {
		case <-r.turn:
		case <-r.socket.done:
			return
		}
		device := r.pumpTurn()
		r.turn <- struct{}{}
		if device == nil {
			return
		}
		select {
		case <-device.closed:
		case <-r.socket.done:
			return
		}
	}
}

// pumpTurn reads until a device is attached, and returns that; nil when the socket is closed.
func (r *reader) pumpTurn() *session {
	r.allocate()
	if r.kept > 0 { // a device that was attached for so short a time that it did not take them
		r.socket.stats.drop(dropNoDevice, r.kept)
		r.kept = 0
	}
	for {
		if device := r.socket.session.Load(); device != nil {
			return device
		}
		n, err := r.receive(nil, r.bufs, r.sizes, r.eps)
		if err != nil {
			return nil
		}
		wireGuard := r.filter(r.bufs, r.sizes, r.eps, n)
		if r.socket.session.Load() != nil {
			r.kept = n
			continue
		}
		r.socket.stats.drop(dropNoDevice, wireGuard)
	}
}

// takeKept copies what the pump kept aside into the device's buffers, and gives the pump's memory back.
func (r *reader) takeKept(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	n := min(r.kept, len(bufs))
	for i := range n {
		sizes[i] = copy(bufs[i], r.bufs[i][:r.sizes[i]])
		eps[i] = r.eps[i]
	}
	r.kept, r.bufs, r.sizes, r.eps = 0, nil, nil, nil
	return n
}

// receive calls the real ReceiveFunc until it has packets. It returns net.ErrClosed when the socket, or the device for which it
// reads, is closed, and no other error.
func (r *reader) receive(device *session, bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	wait := readRetryMin
	for {
		r.inside.Store(device) // before the look at closed: see unblock
		if !r.socket.open() || device.isClosed() {
			r.inside.Store(nil)
			return 0, net.ErrClosed
		}
		f := r.recv.Load()
		n, err := (*f)(bufs, sizes, eps)
		r.inside.Store(nil)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, net.ErrClosed):
			if !r.reopened(f) {
				return 0, net.ErrClosed
			}
			continue
		}
		r.socket.log.Warn("reading UDP failed, trying again", "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-r.socket.done:
		case <-device.done():
		}
		wait = min(2*wait, readRetryMax)
	}
}

// reopened reports whether the ReceiveFunc f was closed only because the real Bind was opened anew.
func (r *reader) reopened(f *conn.ReceiveFunc) bool {
	r.socket.attaching.Lock()
	defer r.socket.attaching.Unlock()
	return r.socket.open() && r.recv.Load() != f
}

// session is one device's use of the socket, from Open to Close of its Bind.
type session struct {
	socket *Socket
	closed chan struct{}
	left   chan struct{} // signals that a goroutine of the device has left a reader
	links  chan delivery // WireGuard packets that arrived on links
}

// isClosed reports whether the device has closed its Bind. The pump's session is nil and never closed.
func (d *session) isClosed() bool {
	if d == nil {
		return false
	}
	select {
	case <-d.closed:
		return true
	default:
		return false
	}
}

func (d *session) done() <-chan struct{} {
	if d == nil {
		return nil
	}
	return d.closed
}

// receiveFunc returns what the device calls to read from r.
func (d *session) receiveFunc(r *reader) conn.ReceiveFunc {
	holding := false // the turn
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		if !holding {
			select {
			case <-r.turn:
				holding = true
			case <-d.closed:
				return 0, net.ErrClosed
			case <-d.socket.done:
				return 0, net.ErrClosed
			}
			if !d.isClosed() {
				if n := r.takeKept(bufs, sizes, eps); n > 0 {
					return n, nil
				}
			}
		}
		for {
			n, err := r.receive(d, bufs, sizes, eps)
			if err != nil {
				holding = false
				r.turn <- struct{}{}
				select {
				case d.left <- struct{}{}:
				default:
				}
				return 0, err
			}
			if r.filter(bufs, sizes, eps, n) > 0 {
				return n, nil
			}
		}
	}
}

const (
	// wakeTries packets to ourselves, wakeWait apart, before the real Bind is opened anew.
	wakeTries = 5
	wakeWait  = 50 * time.Millisecond
)

// unblock gets the device's goroutines out of their reads. attaching must be held.
func (d *session) unblock() {
	s := d.socket
	for range wakeTries {
		if !d.reading() {
			return
		}
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			_ = s.sendTo(s.wakeup, netip.AddrPortFrom(a, s.port)) // a family that does not work has no reader either
		}
		timer := time.NewTimer(wakeWait)
		select {
		case <-d.left:
		case <-timer.C:
		case <-s.done:
		}
		timer.Stop()
	}
	if d.reading() && s.open() {
		s.reopenLocked()
	}
}

// reading reports whether the device is inside a read.
func (d *session) reading() bool {
	for _, r := range d.socket.readers {
		if r.inside.Load() == d {
			return true
		}
	}
	return false
}

// reopenLocked closes the real Bind and opens it again on its port. The readers find the new ReceiveFuncs.
func (s *Socket) reopenLocked() {
	s.log.Warn("no packet to ourselves arrives on loopback: opening the UDP port anew; is the lo interface up?")
	_ = s.bind.Close()
	receive, _, err := s.bind.Open(s.port)
	if err != nil {
		s.log.Error("opening the UDP port again failed; restart the node", "err", err)
		return
	}
	for i, r := range s.readers {
		if i < len(receive) {
			r.recv.Store(&receive[i])
		}
	}
}
