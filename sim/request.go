package sim

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// A user's request and its response are datagrams of UDP over IPv4 through the tunnels, in as many parts as their size needs:
//
//	offset  size  field
//	0       24    the mark that must never be seen on the wire
//	24      1     kind: 1 request, 2 response
//	25      8     number of the request, from the asking machine
//	33      4     bytes of the whole message, without these headers
//	37      4     bytes of the response that is asked for; 0 in a response
//	41      4     where this part begins
//	45      …     the part, zeros
//
// A request of which nothing came back is sent again as a whole after requestAgain, then after twice that, and so on, as TCP would do with its
// segments. There is no congestion control: the load is what the scenario says.
const (
	protoUDP    = 17
	headerUDP   = 8
	requestPort = 8080 // what a policy has to allow

	partHead = markerSize + 21
	partMax  = 1100 // bytes, so that a packet fits a tunnel of any MTU

	kindRequest  = 1
	kindResponse = 2

	requestAgain = 300 * time.Millisecond
	// messageMax bounds a message in bytes; incompleteMax how many requests in parts a machine waits for the rest of.
	messageMax    = 64 << 10
	incompleteMax = 1024
)

// part is one datagram, parsed.
type part struct {
	kind             byte
	id               uint64
	size, want, from int // bytes: of the message, of the response wanted, where this part begins
	length           int
}

// parts appends the packets of a message.
func (p part) packets(src, dst netip.Addr, marker []byte) (out [][]byte) {
	for from := 0; from == 0 || from < p.size; from += partMax {
		p.from, p.length = from, min(partMax, p.size-from)
		out = append(out, p.packet(src, dst, marker))
	}
	return out
}

func (p part) packet(src, dst netip.Addr, marker []byte) []byte {
	b := make([]byte, header4+headerUDP+partHead+p.length)
	b[0], b[8], b[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:header4]))
	udp := b[header4:]
	binary.BigEndian.PutUint16(udp, requestPort)
	binary.BigEndian.PutUint16(udp[2:], requestPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp))) // the checksum is optional (RFC 768)
	head := udp[headerUDP:]
	copy(head, marker)
	head[markerSize] = p.kind
	binary.BigEndian.PutUint64(head[markerSize+1:], p.id)
	binary.BigEndian.PutUint32(head[markerSize+9:], uint32(p.size))
	binary.BigEndian.PutUint32(head[markerSize+13:], uint32(p.want))
	binary.BigEndian.PutUint32(head[markerSize+17:], uint32(p.from))
	return b
}

// parsePart reads an IPv4 packet that is a part of a message.
func parsePart(b []byte) (p part, src, dst netip.Addr, ok bool) {
	if len(b) < header4+headerUDP+partHead || b[0] != 0x45 || b[9] != protoUDP || binary.BigEndian.Uint16(b[header4+2:]) != requestPort {
		return p, src, dst, false
	}
	head := b[header4+headerUDP:]
	p = part{
		kind: head[markerSize], id: binary.BigEndian.Uint64(head[markerSize+1:]), size: int(binary.BigEndian.Uint32(head[markerSize+9:])),
		want: int(binary.BigEndian.Uint32(head[markerSize+13:])), from: int(binary.BigEndian.Uint32(head[markerSize+17:])), length: len(head) - partHead,
	}
	if p.size > messageMax || p.want > messageMax || p.from%partMax != 0 || p.length != min(partMax, p.size-p.from) {
		return p, src, dst, false
	}
	return p, netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), true
}

// assembly is a message of which some parts are here.
type assembly struct {
	have map[int]bool // by where they begin
	done chan struct{}
}

// add takes a part and reports whether it was the last one missing.
func (a *assembly) add(p part) bool {
	a.have[p.from] = true
	return len(a.have) >= max(1, (p.size+partMax-1)/partMax)
}

// asked names a request at the machine that answers.
type asked struct {
	by netip.Addr
	id uint64
}

// part handles one that has come through the tunnel: of a request, which is answered once it is whole, or of a response, which is waited for.
func (e *echo) part(b []byte) {
	p, src, dst, ok := parsePart(b)
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch p.kind {
	case kindRequest:
		name := asked{src, p.id}
		a := e.incomplete[name]
		if a == nil {
			if len(e.incomplete) >= incompleteMax {
				clear(e.incomplete) // whoever is still interested asks again
			}
			a = &assembly{have: map[int]bool{}}
			e.incomplete[name] = a
		}
		if !a.add(p) {
			return
		}
		delete(e.incomplete, name)
		answer := part{kind: kindResponse, id: p.id, size: p.want}
		for _, packet := range answer.packets(dst, src, e.world.wire.marker) {
			e.pipe.Inject(packet)
		}
	case kindResponse:
		if a := e.requests[p.id]; a != nil && a.add(p) {
			close(a.done)
			delete(e.requests, p.id)
		}
	}
}

// request sends one and waits until all of the response is here.
func (e *echo) request(src, dst netip.Addr, size, want int, timeout time.Duration) (time.Duration, error) {
	a := &assembly{have: map[int]bool{}, done: make(chan struct{})}
	e.mu.Lock()
	e.lastRequest++
	ask := part{kind: kindRequest, id: e.lastRequest, size: size, want: want}
	pipe := e.pipe
	e.requests[ask.id] = a
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.requests, ask.id)
	}()
	packets, begun := ask.packets(src, dst, e.world.wire.marker), time.Now()
	for wait := requestAgain; ; wait *= 2 {
		for _, b := range packets {
			pipe.Inject(b)
		}
		left := timeout - time.Since(begun)
		timer := time.NewTimer(min(wait, left))
		select {
		case <-a.done:
			timer.Stop()
			return time.Since(begun), nil
		case <-pipe.Done():
			timer.Stop()
			return 0, ErrNoAnswer
		case <-timer.C:
			if left <= wait {
				return 0, ErrNoAnswer
			}
		}
	}
}

// Request sends size bytes from one host to another through the mesh and returns the time until want bytes are back. It may be called beside
// the driver.
func (w *World) Request(from, to *Host, size, want int, timeout time.Duration) (time.Duration, error) {
	src, dst := from.Overlay(), to.Overlay()
	p := from.proc.Load()
	if p == nil || !src.IsValid() || !dst.IsValid() {
		return 0, ErrNotInAir
	}
	return p.echo.request(src, dst, size, want, timeout)
}
