package dataplane

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// wireSide stands between the WireGuard device and the underlay, as the device's conn.Bind. It counts credits and, for a peer
// whose session is not up yet, tells the conductor when the device answers a handshake or sends its first data. It copies and
// allocates nothing.
type wireSide struct {
	conn.Bind
	plane *Plane

	mu   sync.Mutex
	stop chan struct{} // closed by Close; made by Open
}

// endpoint is the underlay's endpoint of a peer with its tunnel. A peer keeps the one it was made with: roaming is the
// underlay's, behind the endpoint.
type endpoint struct {
	conn.Endpoint
	tunnel  *tunnel
	watched atomic.Bool // the session is not up yet
	replied atomic.Bool // a handshake response has been reported
}

func (w *wireSide) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := w.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	stop := make(chan struct{})
	w.mu.Lock()
	w.stop = stop
	w.mu.Unlock()
	wrapped := make([]conn.ReceiveFunc, len(fns))
	for i, fn := range fns {
		wrapped[i] = w.receive(fn, stop)
	}
	return wrapped, port, nil
}

// receive bounds what comes in: it reads another batch only when there is room for it.
func (w *wireSide) receive(fn conn.ReceiveFunc, stop chan struct{}) conn.ReceiveFunc {
	waiter := newCreditWaiter()
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		if !w.plane.in.wait(waiter, stop) {
			return 0, net.ErrClosed
		}
		n, err := fn(bufs, sizes, eps)
		data := int64(0)
		for i := range n {
			// Keepalives, 32 bytes, do not reach the interface, nor do handshakes.
			if sizes[i] > device.MessageKeepaliveSize && binary.LittleEndian.Uint32(bufs[i]) == device.MessageTransportType {
				data++
			}
		}
		w.plane.in.take(&w.plane.inAccount, data)
		return n, err
	}
}

func (w *wireSide) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*endpoint)
	if !ok {
		return w.Bind.Send(bufs, ep) // a cookie, to where the handshake came from
	}
	err := w.Bind.Send(bufs, e.Endpoint)
	w.plane.out.give(&e.tunnel.account, int64(len(bufs)))
	if err == nil && e.watched.Load() {
		w.observe(e, bufs)
	}
	return err
}

// observe tells the conductor of a peer's first response and first data.
func (w *wireSide) observe(e *endpoint, bufs [][]byte) {
	if len(bufs) == 0 || len(bufs[0]) < 4 {
		return
	}
	switch binary.LittleEndian.Uint32(bufs[0]) {
	case device.MessageResponseType:
		if !e.replied.Swap(true) {
			w.plane.post(e.tunnel, flagAnswered)
		}
	case device.MessageTransportType:
		if e.watched.Swap(false) {
			w.plane.post(e.tunnel, flagCarried)
		}
	}
}

// ParseEndpoint is called by the device while the conductor configures a peer; s is the peer's node ID.
func (w *wireSide) ParseEndpoint(s string) (conn.Endpoint, error) {
	inner, err := w.Bind.ParseEndpoint(s)
	if err != nil {
		return nil, err
	}
	t := w.plane.making
	if t == nil {
		return inner, nil
	}
	e := &endpoint{Endpoint: inner, tunnel: t}
	e.watched.Store(true)
	return e, nil
}

func (w *wireSide) Close() error {
	w.mu.Lock()
	if w.stop != nil {
		close(w.stop)
		w.stop = nil
	}
	w.mu.Unlock()
	return w.Bind.Close()
}
