package dataplane

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// Pipe is an interface whose host is a program: packets go in by Inject and come out of Packets. It holds no goroutine and no
// socket, so it runs in virtual time; the simulator and the tests use it.
type Pipe struct {
	addresses []netip.Prefix
	mtu       int
	fromHost  chan []byte
	toHost    chan []byte
	events    chan tun.Event
	interrupt chan struct{}
	stop      chan struct{}
	stopOnce  sync.Once
}

// pipeQueue bounds each direction, in packets. A full queue loses packets, as an interface does.
const pipeQueue = 1024

// OpenPipe returns a pipe with the addresses. An MTU of zero is DefaultMTU.
func OpenPipe(addresses []netip.Prefix, mtu int) *Pipe {
	return &Pipe{
		addresses: addresses, mtu: mtuOrDefault(mtu), fromHost: make(chan []byte, pipeQueue), toHost: make(chan []byte, pipeQueue),
		events: make(chan tun.Event), interrupt: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// Inject sends an IP packet from the host into the mesh and keeps it. It reports false if the queue is full or the pipe closed.
func (p *Pipe) Inject(packet []byte) bool {
	select {
	case <-p.stop:
		return false
	default:
	}
	select {
	case p.fromHost <- packet:
		return true
	default:
		return false
	}
}

// Packets are the IP packets that the mesh has for the host. The channel is not closed; see Done.
func (p *Pipe) Packets() <-chan []byte { return p.toHost }

// Done is closed when the pipe is.
func (p *Pipe) Done() <-chan struct{} { return p.stop }

// Read is the plane's side.
func (p *Pipe) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case packet := <-p.fromHost:
		sizes[0] = copy(bufs[0][offset:], packet)
		return 1, nil
	case <-p.interrupt:
		return 0, nil
	case <-p.stop:
		return 0, os.ErrClosed
	}
}

// Write is the plane's side.
func (p *Pipe) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		select {
		case <-p.stop:
			return i, os.ErrClosed
		default:
		}
		select {
		case p.toHost <- append([]byte(nil), b[offset:]...):
		default:
		}
	}
	return len(bufs), nil
}

// Interrupt ends a Read.
func (p *Pipe) Interrupt() {
	select {
	case p.interrupt <- struct{}{}:
	default:
	}
}

// Close ends the pipe.
func (p *Pipe) Close() error {
	p.stopOnce.Do(func() {
		close(p.stop)
		close(p.events)
	})
	return nil
}

// DialContext is not supported: a pipe has no TCP of its own.
func (p *Pipe) DialContext(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// ListenTCP is not supported.
func (p *Pipe) ListenTCP(netip.AddrPort) (net.Listener, error) { return nil, errors.ErrUnsupported }

// Echo is not supported; inject an echo request instead.
func (p *Pipe) Echo(context.Context, netip.Addr, int) (time.Duration, error) {
	return 0, errors.ErrUnsupported
}

// Addresses are those the pipe was opened with.
func (p *Pipe) Addresses() []netip.Prefix { return p.addresses }

// File is nil: there is none.
func (p *Pipe) File() *os.File { return nil }

// MTU is the one the pipe was opened with.
func (p *Pipe) MTU() (int, error) { return p.mtu, nil }

// Name is "pipe".
func (p *Pipe) Name() (string, error) { return "pipe", nil }

// Events never has any; it is closed with the pipe.
func (p *Pipe) Events() <-chan tun.Event { return p.events }

// BatchSize is one: packets are handed over one at a time.
func (p *Pipe) BatchSize() int { return 1 }
