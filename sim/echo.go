package sim

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/dataplane"
)

// Sizes of the headers in bytes (RFC 791 §3.1, RFC 792).
const (
	header4    = 20
	headerICMP = 8
	protoICMP  = 1
)

// ICMP types (RFC 792).
const (
	icmpReply   = 0
	icmpRequest = 8
)

// echo is what the host's kernel, and a server on it, would do with the packets that come out of a tunnel: it answers pings and users'
// requests, and waits for answers.
type echo struct {
	world *World

	mu      sync.Mutex
	pipe    *dataplane.Pipe // nil until the node is in a mesh
	waiting map[uint32]chan struct{}
	next    uint32

	requests    map[uint64]*assembly // responses that are waited for
	lastRequest uint64
	incomplete  map[asked]*assembly // requests of which parts are missing
}

func newEcho(w *World) *echo {
	return &echo{world: w, waiting: map[uint32]chan struct{}{}, requests: map[uint64]*assembly{}, incomplete: map[asked]*assembly{}}
}

// serve reads until the node closes its interface.
func (e *echo) serve(pipe *dataplane.Pipe) {
	e.mu.Lock()
	e.pipe = pipe
	e.mu.Unlock()
	for {
		select {
		case <-pipe.Done():
			return
		case b := <-pipe.Packets():
			e.packet(pipe, b)
		}
	}
}

func (e *echo) packet(pipe *dataplane.Pipe, b []byte) {
	if len(b) < header4+headerICMP || b[0] != 0x45 || b[9] != protoICMP {
		e.part(b)
		return
	}
	switch icmp := b[header4:]; icmp[0] {
	case icmpRequest:
		reply := slices.Clone(b)
		copy(reply[12:16], b[16:20])
		copy(reply[16:20], b[12:16])
		reply[header4] = icmpReply
		seal(reply)
		pipe.Inject(reply)
	case icmpReply:
		e.mu.Lock()
		defer e.mu.Unlock()
		id := binary.BigEndian.Uint32(icmp[4:8])
		if c := e.waiting[id]; c != nil {
			close(c)
			delete(e.waiting, id)
		}
	}
}

// Errors of Ping.
var (
	ErrNoAnswer = errors.New("no answer in time")
	ErrNotInAir = errors.New("no node in a mesh runs there")
)

// Ping sends an ICMP echo request from one host to another through the mesh, with a payload that must never be seen on the wire, and
// returns the time until the reply. It may be called beside the driver.
func (w *World) Ping(from, to *Host, timeout time.Duration) (time.Duration, error) {
	src, dst := from.Overlay(), to.Overlay()
	p := from.proc.Load()
	if p == nil || !src.IsValid() || !dst.IsValid() {
		return 0, ErrNotInAir
	}
	return p.echo.ping(src, dst, timeout)
}

// Overlay is the host's IPv4 address in the mesh; invalid while its node is in none.
func (h *Host) Overlay() netip.Addr {
	p := h.proc.Load()
	if p == nil {
		return netip.Addr{}
	}
	p.echo.mu.Lock()
	defer p.echo.mu.Unlock()
	if p.echo.pipe == nil {
		return netip.Addr{}
	}
	for _, a := range p.echo.pipe.Addresses() {
		if a.Addr().Is4() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

func (e *echo) ping(src, dst netip.Addr, timeout time.Duration) (time.Duration, error) {
	answered := make(chan struct{})
	e.mu.Lock()
	e.next++
	id, pipe := e.next, e.pipe
	e.waiting[id] = answered
	e.mu.Unlock()
	begun := time.Now()
	pipe.Inject(echoRequest(src, dst, id, e.world.wire.marker))
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-answered:
		return time.Since(begun), nil
	case <-timer.C:
	case <-pipe.Done():
	}
	e.mu.Lock()
	delete(e.waiting, id)
	e.mu.Unlock()
	return 0, ErrNoAnswer
}

// echoRequest is an IPv4 packet with an ICMP echo request.
func echoRequest(src, dst netip.Addr, id uint32, payload []byte) []byte {
	b := make([]byte, header4+headerICMP, header4+headerICMP+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, protoICMP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b[header4] = icmpRequest
	binary.BigEndian.PutUint32(b[header4+4:], id)
	seal(b)
	return b
}

// seal sets both checksums (RFC 1071).
func seal(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], checksum(b[:header4]))
	icmp := b[header4:]
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
