package dataplane

import (
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// hostSide stands between the interface and the WireGuard device, as the device's tun.Device. Outgoing, in Read:
//
//  1. packets that have waited for a tunnel and may now pass go first;
//  2. a credit is waited for, then the interface is read;
//  3. each packet's destination leads to its tunnel (last one cached, then a lock-free map);
//  4. open: the packet is left where it is, the device takes it from there. Otherwise its size becomes zero, which the device
//     skips, and a copy waits, is answered with ICMP, or is dropped and counted. So does what is larger than the tunnel's MTU (mtu.go).
//
// Incoming, in Write: the batch, which the device makes per peer, marks its tunnel as active, passes the filter and goes to the
// interface; the credits go back. Neither direction allocates for a packet that passes.
type hostSide struct {
	plane  *Plane
	inner  Interface
	events chan tun.Event

	// Owned by the goroutine in Read; the device has one.
	cache  cachedTunnel
	waiter *creditWaiter

	reinject chan []byte // packets whose tunnel has opened

	stop     chan struct{} // closed by Close
	stopOnce sync.Once
}

// cachedTunnel is the last destination that was looked up, valid for one snapshot.
type cachedTunnel struct {
	in *snapshot
	to netip.Addr
	t  *tunnel
}

// reinjectMax bounds the packets of newly opened tunnels on their way back: eight full wait queues.
const reinjectMax = 8 * waitPackets

func newHostSide(p *Plane, inner Interface) *hostSide {
	h := &hostSide{
		plane: p, inner: inner, events: make(chan tun.Event, 1), waiter: newCreditWaiter(),
		reinject: make(chan []byte, reinjectMax), stop: make(chan struct{}),
	}
	p.goRun(h.forwardEvents)
	return h
}

// forwardEvents passes on changes of the MTU. That the link goes up or down is kept from the device: it would close the bind, on
// which control traffic also depends, and start its peers anew; without a link there are no packets anyway.
func (h *hostSide) forwardEvents() {
	defer close(h.events)
	for e := range h.inner.Events() {
		if e&tun.EventMTUUpdate == 0 {
			continue
		}
		select {
		case h.events <- tun.EventMTUUpdate:
		case <-h.stop:
		}
	}
}

func (h *hostSide) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if n := h.takeReinjected(bufs, sizes, offset); n > 0 {
			return n, nil
		}
		if !h.plane.out.wait(h.waiter, h.stop) {
			return 0, os.ErrClosed
		}
		n, err := h.inner.Read(bufs, sizes, offset)
		if passed := h.sort(bufs[:n], sizes, offset); passed || err != nil {
			return n, err
		}
	}
}

// takeReinjected fills the batch with packets that waited. They were sorted and filtered when they came.
func (h *hostSide) takeReinjected(bufs [][]byte, sizes []int, offset int) int {
	n := 0
	for n < len(bufs) {
		select {
		case p := <-h.reinject:
			sizes[n] = copy(bufs[n][offset:], p)
			n++
		default:
			return n
		}
	}
	return n
}

// sort sets the size of every packet that does not pass to zero and reports whether any passes. Credits are charged once per run
// of packets to the same tunnel.
func (h *hostSide) sort(bufs [][]byte, sizes []int, offset int) bool {
	snap := h.plane.tunnels.now.Load()
	filter := h.plane.filter.Load()
	var run *tunnel
	var length int64
	any := false
	for i := range bufs {
		if sizes[i] <= 0 {
			continue
		}
		packet := bufs[i][offset : offset+sizes[i]]
		if filter != nil && !(*filter).Allow(Outbound, packet) {
			h.plane.drops.filtered.Add(1)
			h.plane.sendProhibited(packet)
			sizes[i] = 0
			continue
		}
		t := h.lookup(snap, packet)
		if t == nil || !t.open.Load() {
			if t = h.divert(t, packet); t == nil {
				sizes[i] = 0
				continue
			}
		}
		if limit := t.mtu.Load(); limit > 0 && len(packet) > int(limit) {
			h.plane.tooLarge(packet, int(limit))
			sizes[i] = 0
			continue
		}
		any = true
		if t != run {
			h.passed(run, length)
			run, length = t, 0
		}
		length++
	}
	h.passed(run, length)
	return any
}

// passed accounts for a run of packets that pass.
func (h *hostSide) passed(t *tunnel, n int64) {
	if t == nil {
		return
	}
	h.plane.out.take(&t.account, n)
	if !t.sent.Load() {
		t.sent.Store(true)
		h.plane.noticed(t)
	}
}

func (h *hostSide) lookup(snap *snapshot, packet []byte) *tunnel {
	to, ok := destination(packet)
	if !ok {
		return nil
	}
	if h.cache.in == snap && h.cache.to == to {
		return h.cache.t
	}
	t := snap.byAddress[to]
	if t != nil {
		h.cache = cachedTunnel{in: snap, to: to, t: t}
	}
	return t
}

// divert decides on a packet that can not simply pass. It returns the tunnel if the packet may pass after all, nil if it has been
// taken care of.
func (h *hostSide) divert(t *tunnel, packet []byte) *tunnel {
	for range 2 { // the tunnel may be dropped under our hands, once
		if t == nil {
			if t = h.plane.tunnelFor(packet); t == nil {
				return nil
			}
		}
		switch t.waiting.put(packet, time.Now()) {
		case passes:
			return t
		case waits:
			h.plane.post(t, flagWanted)
			return nil
		case full:
			h.plane.drops.queueFull.Add(1)
			return nil
		case gone:
			t = nil
		}
	}
	h.plane.drops.noTunnel.Add(1)
	return nil
}

// resume brings back a packet that waited. It never blocks.
func (h *hostSide) resume(packet []byte) {
	select {
	case h.reinject <- packet:
	default:
		h.plane.drops.queueFull.Add(1)
	}
}

func (h *hostSide) Write(bufs [][]byte, offset int) (int, error) {
	n := int64(len(bufs))
	if n == 0 {
		return 0, nil
	}
	h.plane.arrived(bufs[0][offset:])
	if filter := h.plane.filter.Load(); filter != nil {
		bufs = h.allowed(*filter, bufs, offset)
	}
	var err error
	if len(bufs) > 0 {
		_, err = h.inner.Write(bufs, offset)
	}
	h.plane.in.give(&h.plane.inAccount, n)
	return int(n), err
}

// allowed keeps the packets that the filter lets in. The device does not look at the slice again.
func (h *hostSide) allowed(filter Filter, bufs [][]byte, offset int) [][]byte {
	kept := bufs[:0]
	for _, b := range bufs {
		if filter.Allow(Inbound, b[offset:]) {
			kept = append(kept, b)
		} else {
			h.plane.drops.filtered.Add(1)
		}
	}
	return kept
}

func (h *hostSide) Close() error {
	h.stopOnce.Do(func() { close(h.stop) })
	return h.inner.Close()
}

func (h *hostSide) File() *os.File           { return h.inner.File() }
func (h *hostSide) MTU() (int, error)        { return h.plane.deviceMTU() }
func (h *hostSide) Name() (string, error)    { return h.inner.Name() }
func (h *hostSide) Events() <-chan tun.Event { return h.events }
func (h *hostSide) BatchSize() int           { return h.inner.BatchSize() }
