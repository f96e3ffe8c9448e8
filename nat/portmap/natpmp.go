package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// NAT-PMP (RFC 6886 §3.2, §3.3):
//
//	address: version 0 | 0                                    answer: 0 | 128 | result 2 | epoch 4 | address 4
//	map:     0 | opcode | 0 0 | internal 2 | external 2 | lifetime 4   answer: 0 | opcode + 128 | result 2 | epoch 4 | internal 2 | external 2 | lifetime 4
const (
	pmpAddress  = 0
	pmpMapUDP   = 1
	pmpMapTCP   = 2
	pmpResponse = 128
)

type pmpResult struct {
	epoch    uint32
	address  netip.Addr // of pmpAddress
	port     uint16     // external
	lifetime time.Duration
}

func pmpOpcode(t Transport) byte {
	if t == TCP {
		return pmpMapTCP
	}
	return pmpMapUDP
}

func pmpMapRequest(r request) []byte {
	b := []byte{0, pmpOpcode(r.transport), 0, 0}
	b = binary.BigEndian.AppendUint16(b, r.internal)
	port := r.suggested.Port()
	if r.lifetime == 0 {
		port = 0 // RFC 6886 §3.4
	}
	b = binary.BigEndian.AppendUint16(b, port)
	return binary.BigEndian.AppendUint32(b, uint32(r.lifetime/time.Second))
}

// parsePMP reads the answer to the opcode; that to a mapping must be r's.
func parsePMP(b []byte, opcode byte, r request) (pmpResult, error) {
	if len(b) < 4 || len(b) > pcpMessageMax || b[0] != 0 || b[1] != opcode+pmpResponse {
		return pmpResult{}, fmt.Errorf("%w: NAT-PMP, %d bytes", errForm, len(b))
	}
	if code := binary.BigEndian.Uint16(b[2:]); code != 0 {
		return pmpResult{}, fmt.Errorf("%w: NAT-PMP result %d (RFC 6886 §3.5)", errRefused, code)
	}
	size := 16
	if opcode == pmpAddress {
		size = 12
	}
	if len(b) != size {
		return pmpResult{}, fmt.Errorf("%w: NAT-PMP, %d bytes", errForm, len(b))
	}
	p := pmpResult{epoch: binary.BigEndian.Uint32(b[4:])}
	if opcode == pmpAddress {
		p.address = netip.AddrFrom4([4]byte(b[8:]))
		return p, nil
	}
	if binary.BigEndian.Uint16(b[8:]) != r.internal {
		return pmpResult{}, fmt.Errorf("%w: NAT-PMP for another port", errForm)
	}
	p.port, p.lifetime = binary.BigEndian.Uint16(b[10:]), time.Duration(binary.BigEndian.Uint32(b[12:]))*time.Second
	if r.lifetime > 0 && (p.port == 0 || p.lifetime == 0) {
		return pmpResult{}, fmt.Errorf("%w: NAT-PMP mapping to port %d for %v", errForm, p.port, p.lifetime)
	}
	return p, nil
}

// natpmp speaks NAT-PMP with one gateway, of IPv4.
type natpmp struct {
	exchange
	epoch epoch
}

func (*natpmp) name() string { return NATPMP }

func (p *natpmp) probe(ctx context.Context) error {
	_, err := p.address(ctx)
	return err
}

func (p *natpmp) address(ctx context.Context) (r pmpResult, err error) {
	err = p.ask(ctx, []byte{0, pmpAddress}, func(b []byte) (err error) {
		r, err = parsePMP(b, pmpAddress, request{})
		return err
	})
	return r, err
}

func (p *natpmp) add(ctx context.Context, r request) (grant, error) {
	got, err := p.set(ctx, r)
	if err != nil {
		return grant{}, err
	}
	where, err := p.address(ctx)
	if err != nil {
		return grant{}, err
	}
	p.epoch.note(got.epoch, time.Now())
	return grant{external: netip.AddrPortFrom(where.address, got.port), lifetime: got.lifetime}, nil
}

func (p *natpmp) set(ctx context.Context, r request) (got pmpResult, err error) {
	err = p.ask(ctx, pmpMapRequest(r), func(b []byte) (err error) {
		got, err = parsePMP(b, pmpOpcode(r.transport), r)
		return err
	})
	return got, err
}

func (p *natpmp) remove(ctx context.Context, r request) error {
	r.lifetime = 0
	_, err := p.set(ctx, r)
	return err
}

func (p *natpmp) forgotten(ctx context.Context, _ request) (bool, error) {
	r, err := p.address(ctx)
	return err == nil && p.epoch.restarted(r.epoch, time.Now()), err
}
