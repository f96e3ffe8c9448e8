package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingMax bounds the data of an echo request, in bytes: what fits an IPv4 packet.
const pingMax = 65535 - headerLen4 - headerLenICMP

// Ping sends an ICMP echo request with size bytes of data to an overlay address and returns the time until the reply. If there is no
// tunnel yet it is made first, and does not count. Errors: ErrOffOverlay, those of Ensure, ctx's, or what the network said.
func (p *Plane) Ping(ctx context.Context, dst netip.Addr, size int) (time.Duration, error) {
	dst = dst.Unmap()
	if size < 0 || size > pingMax {
		return 0, fmt.Errorf("ping %s: %d bytes of data; 0 to %d are possible", dst, size, pingMax)
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	if err := p.ready(ctx, dst); err != nil {
		return 0, fmt.Errorf("ping %s: %w", dst, err)
	}
	rtt, err := p.host.inner.Echo(ctx, dst, size)
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", dst, err)
	}
	return rtt, nil
}

// ready returns nil once there is a tunnel to the overlay address, or if it is our own.
func (p *Plane) ready(ctx context.Context, dst netip.Addr) error {
	if !dst.IsValid() || !p.overlay.contains(dst) {
		return ErrOffOverlay
	}
	if dst == p.self4 || dst == p.self6 {
		return nil
	}
	e, ok := p.cfg.Peers.ByAddress(dst)
	if !ok {
		return ErrNotMember
	}
	return p.Ensure(ctx, e.ID)
}

// within returns a context that ends with ctx or with the plane.
func (p *Plane) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// echoByHost pings with a socket of the host: the unprivileged kind where the system allows it (net.ipv4.ping_group_range), else a
// raw one, which a process that may make a TUN interface usually may open.
func echoByHost(ctx context.Context, dst netip.Addr, size int) (time.Duration, error) {
	unprivileged, raw, any := "udp4", "ip4:icmp", "0.0.0.0"
	if dst.Is6() {
		unprivileged, raw, any = "udp6", "ip6:ipv6-icmp", "::"
	}
	isRaw := false
	c, err := icmp.ListenPacket(unprivileged, any)
	if err != nil {
		var rawErr error
		if c, rawErr = icmp.ListenPacket(raw, any); rawErr != nil {
			return 0, fmt.Errorf("open a ping socket: %w; run as root, give the program CAP_NET_RAW, or set net.ipv4.ping_group_range",
				errors.Join(err, rawErr))
		}
		isRaw = true
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	id := uint16(time.Now().UnixNano())
	rtt, err := echo(c, dst, echoSpec{id: id, size: size, checkID: isRaw})
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return rtt, err
}

// echoSpec describes one echo request.
type echoSpec struct {
	id      uint16
	size    int
	checkID bool // the socket also gets what others have asked for; an unprivileged one has an ID of its own
}

func echo(c *icmp.PacketConn, dst netip.Addr, spec echoSpec) (time.Duration, error) {
	request, err := echoRequest(dst.Is6(), spec.id, spec.size)
	if err != nil {
		return 0, err
	}
	to := pingTarget(dst, spec.checkID)
	begun := time.Now()
	if _, err := c.WriteTo(request, to); err != nil {
		return 0, err
	}
	buf := make([]byte, headerLenICMP+spec.size+headerLen6)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		took := time.Since(begun)
		if addressOf(from) != dst {
			continue
		}
		id, err := parseEcho(buf[:n], dst.Is6())
		switch {
		case errors.Is(err, errNotEcho):
			continue
		case err != nil:
			return 0, err
		case !spec.checkID || id == spec.id:
			return took, nil
		}
	}
}

// echoRequest makes the ICMP message. The kernel or the stack fills in IPv6's checksum.
func echoRequest(v6 bool, id uint16, size int) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: make([]byte, size)}}
	if v6 {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	return m.Marshal(nil)
}

// errNotEcho: an ICMP message that is no echo reply.
var errNotEcho = errors.New("no echo reply")

// parseEcho returns the ID of an echo reply.
func parseEcho(b []byte, v6 bool) (uint16, error) {
	if len(b) < headerLenICMP {
		return 0, errNotEcho
	}
	reply := byte(ipv4.ICMPTypeEchoReply)
	if v6 {
		reply = byte(ipv6.ICMPTypeEchoReply)
	}
	if b[0] != reply || b[1] != 0 {
		return 0, errNotEcho
	}
	return binary.BigEndian.Uint16(b[4:6]), nil
}
