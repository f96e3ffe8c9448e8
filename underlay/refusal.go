package underlay

import (
	"errors"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// What the system says when it does not send a packet, and what follows from it: the owner hears of it at once (owner.gather).

// fragmenter is a Bind that sends without the don't-fragment bit on demand, and with it otherwise. A Bind that is none sends as it likes.
type fragmenter interface {
	// SendFragmented sends packets that may be fragmented on the way.
	SendFragmented(bufs [][]byte, ep conn.Endpoint) error
	// SendWhole sends packets that must not be, whatever else is being sent.
	SendWhole(bufs [][]byte, ep conn.Endpoint) error
}

// sendFailed deals with packets that were not sent over the route. It tries once more where another local address may help.
func (n *node) sendFailed(bufs [][]byte, r *route, err error) error {
	if r.link != nil && r.link.gone.Load() {
		if n.active.CompareAndSwap(r, nil) {
			n.askForPath() // unless the owner, which is about to choose another, has one
		}
		return err
	}
	if r.sticky && !errors.Is(err, syscall.EMSGSIZE) {
		// The local address it stuck to may be gone: let the system choose another, and tell the owner.
		if plain := n.unstick(r); plain != nil {
			n.wake()
			err = n.ship(bufs, plain.endpoint)
		}
	}
	if r.source.note(bufs, err) {
		n.wake()
	}
	return err
}

// note keeps for the owner why packets were not sent. It returns false if there is nothing new in that.
func (src *source) note(bufs [][]byte, err error) bool {
	switch {
	case errors.Is(err, syscall.EMSGSIZE):
		size := int32(largest(bufs))
		old := src.refused.Load()
		return (old == 0 || size < old) && src.refused.CompareAndSwap(old, size)
	case noWay(err):
		return !src.failed.Swap(true)
	}
	return false
}

// noWay reports whether an error of sending says that the address cannot be reached from here at the moment: no route or interface, a
// firewall of ours, or no path to the relay.
func noWay(err error) bool {
	if errors.Is(err, ErrNoPath) {
		return true
	}
	for _, e := range []error{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM, syscall.EACCES, syscall.EAFNOSUPPORT,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// largest is the size of the largest packet.
func largest(bufs [][]byte) (size int) {
	for _, b := range bufs {
		size = max(size, len(b))
	}
	return size
}
