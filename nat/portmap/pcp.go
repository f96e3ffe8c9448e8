package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// PCP, the opcodes ANNOUNCE and MAP without options (RFC 6887 §7, §11, §14.1):
//
//	request:  version 2 | opcode | 0 0 | lifetime 4 | client's address 16
//	response: version 2 | opcode + 0x80 | 0 | result | lifetime 4 | epoch 4 | 0 × 12
//	MAP, behind either: nonce 12 | protocol | 0 0 0 | internal port 2 | external port 2 | external address 16
const (
	pcpVersion     = 2
	pcpAnnounce    = 0
	pcpMap         = 1
	pcpResponse    = 0x80
	pcpHeaderSize  = 24
	pcpMapSize     = 36
	pcpMessageMax  = 1100 // RFC 6887 §7
	pcpUnsupported = 1    // result UNSUPP_VERSION
)

// What a router answers that is no mapping.
var (
	errForm    = errors.New("portmap: malformed answer")
	errRefused = errors.New("portmap: refused by the router")
	errVersion = errors.New("portmap: the router does not speak the protocol")
)

// nonce tells our PCP mappings from others' (RFC 6887 §11.2): renewal and removal need the one the mapping was made with.
type nonce [12]byte

type pcpResult struct {
	lifetime time.Duration
	epoch    uint32
	external netip.AddrPort
}

func pcpRequest(opcode byte, lifetime time.Duration, client netip.Addr) []byte {
	b := make([]byte, pcpHeaderSize, pcpHeaderSize+pcpMapSize)
	b[0], b[1] = pcpVersion, opcode
	binary.BigEndian.PutUint32(b[4:], uint32(lifetime/time.Second))
	addr := client.As16() // IPv4 as ::ffff:a.b.c.d, RFC 6887 §5
	copy(b[8:], addr[:])
	return b
}

func pcpMapRequest(r request, client netip.Addr) []byte {
	b := append(pcpRequest(pcpMap, r.lifetime, client), r.nonce[:]...)
	b = append(b, r.transport.number(), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.internal)
	b = binary.BigEndian.AppendUint16(b, r.suggested.Port())
	addr := r.suggested.Addr()
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
		if client.Is6() {
			addr = netip.IPv6Unspecified()
		}
	}
	as16 := addr.As16()
	return append(b, as16[:]...)
}

// parsePCP reads a response to the opcode; of MAP it must be that of r.
func parsePCP(b []byte, opcode byte, r request) (pcpResult, error) {
	if len(b) >= 1 && b[0] != pcpVersion {
		return pcpResult{}, errVersion // NAT-PMP answers in its own form (RFC 6887 §9)
	}
	if len(b) < pcpHeaderSize || len(b) > pcpMessageMax || len(b)%4 != 0 || b[1] != opcode|pcpResponse {
		return pcpResult{}, fmt.Errorf("%w: PCP, %d bytes", errForm, len(b))
	}
	p := pcpResult{lifetime: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second, epoch: binary.BigEndian.Uint32(b[8:])}
	if opcode == pcpAnnounce {
		if b[3] == pcpUnsupported {
			return pcpResult{}, errVersion
		}
		return p, nil // whatever it says, it speaks PCP
	}
	m := b[pcpHeaderSize:]
	if len(m) < pcpMapSize {
		return pcpResult{}, fmt.Errorf("%w: PCP MAP, %d bytes", errForm, len(b))
	}
	if nonce(m[:12]) != r.nonce || m[12] != r.transport.number() || binary.BigEndian.Uint16(m[16:]) != r.internal {
		return pcpResult{}, fmt.Errorf("%w: PCP MAP for somebody else", errForm)
	}
	if b[3] != 0 {
		return pcpResult{}, fmt.Errorf("%w: PCP result %d (RFC 6887 §7.4)", errRefused, b[3])
	}
	p.external = netip.AddrPortFrom(netip.AddrFrom16([16]byte(m[20:])).Unmap(), binary.BigEndian.Uint16(m[18:]))
	if r.lifetime > 0 && (p.lifetime == 0 || p.external.Port() == 0 || p.external.Addr().IsUnspecified()) {
		return pcpResult{}, fmt.Errorf("%w: PCP MAP to %s for %v", errForm, p.external, p.lifetime)
	}
	return p, nil
}

// pcp speaks PCP with one gateway.
type pcp struct {
	exchange
	epoch epoch
}

func (*pcp) name() string { return PCP }

func (p *pcp) probe(ctx context.Context) error {
	_, err := p.announce(ctx)
	return err
}

func (p *pcp) announce(ctx context.Context) (r pcpResult, err error) {
	err = p.ask(ctx, pcpRequest(pcpAnnounce, 0, p.gateway.Local), func(b []byte) (err error) {
		r, err = parsePCP(b, pcpAnnounce, request{})
		return err
	})
	return r, err
}

func (p *pcp) add(ctx context.Context, r request) (g grant, err error) {
	var got pcpResult
	err = p.ask(ctx, pcpMapRequest(r, p.gateway.Local), func(b []byte) (err error) {
		got, err = parsePCP(b, pcpMap, r)
		return err
	})
	if err == nil {
		p.epoch.note(got.epoch, time.Now())
	}
	return grant{external: got.external, lifetime: got.lifetime}, err
}

func (p *pcp) remove(ctx context.Context, r request) error {
	r.lifetime = 0
	_, err := p.add(ctx, r)
	return err
}

func (p *pcp) forgotten(ctx context.Context, _ request) (bool, error) {
	r, err := p.announce(ctx)
	return err == nil && p.epoch.restarted(r.epoch, time.Now()), err
}

// epoch is a router's count of seconds since it lost its mappings (RFC 6887 §8.5, RFC 6886 §3.6).
type epoch struct {
	seconds uint32
	at      time.Time
}

func (e *epoch) note(seconds uint32, now time.Time) { *e = epoch{seconds, now} }

// restarted reports whether the count is less than the time since the last should have made it, give or take an eighth and two seconds.
func (e *epoch) restarted(seconds uint32, now time.Time) bool {
	if e.at.IsZero() {
		return false
	}
	expected := time.Duration(e.seconds)*time.Second + now.Sub(e.at)*7/8
	return time.Duration(seconds)*time.Second+2*time.Second < expected
}
