package dataplane

import (
	"context"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

const (
	// DefaultName is the name of the TUN interface, of the first on a host.
	DefaultName = namePrefix + "0"
	namePrefix  = "phantom"
	// namesMax is how many nodes of one host get a name for theirs; others have to be given one.
	namesMax = 32
	// DefaultMTU fits a path of 1500 bytes over IPv6: 40 bytes IP, 8 UDP, 32 WireGuard.
	DefaultMTU = 1420
	// MinMTU is the least that IPv6 allows (RFC 8200 §5).
	MinMTU = 1280
	// MaxMTU is that of a tunnel over the largest usual path, of 9000 bytes.
	MaxMTU = 9000 - 80
	// maxMTU leaves WireGuard's message within a UDP datagram.
	maxMTU = 65535 - 80
)

// Interface is the host's side of the plane: a tun.Device, and the ways into the mesh for programs of this host.
type Interface interface {
	tun.Device
	// Interrupt makes the Read that blocks now, or the next one that would, return without packets and without an error. It may
	// be called at any time.
	Interrupt()
	// Addresses are this node's overlay addresses with the ranges they are in.
	Addresses() []netip.Prefix
	// DialContext connects to an overlay address; network is "tcp" or "udp".
	DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	// ListenTCP listens at one of this node's overlay addresses.
	ListenTCP(at netip.AddrPort) (net.Listener, error)
	// Echo sends an ICMP echo request with size bytes of data and returns the time until its reply.
	Echo(ctx context.Context, dst netip.Addr, size int) (time.Duration, error)
}

// RangeTaken is a range of the mesh that this host does not reach through the mesh, since a route of another device leads there.
type RangeTaken struct {
	Range  netip.Prefix
	Device string
}

// Taken returns the ranges of the mesh that an interface has not got.
func Taken(i Interface) []RangeTaken {
	if t, ok := i.(interface{ Taken() []RangeTaken }); ok {
		return t.Taken()
	}
	return nil
}

// mtuOrDefault returns the MTU to use for the one that was asked for, zero being the default.
func mtuOrDefault(mtu int) int {
	if mtu == 0 {
		mtu = DefaultMTU
	}
	return min(max(mtu, MinMTU), maxMTU)
}
