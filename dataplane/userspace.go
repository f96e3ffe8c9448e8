package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// userspace is a TCP/IP stack of our own in place of an interface of the host. It stands on gVisor's netstack directly: the library's
// tun/netstack panics when it is closed while a packet is on its way out, and hands over one packet at a time through an
// unbuffered channel.
type userspace struct {
	addresses []netip.Prefix
	mtu       int
	stack     *stack.Stack
	link      *channel.Endpoint
	events    chan tun.Event

	ready     chan struct{} // capacity 1: packets may be waiting in link
	interrupt chan struct{} // capacity 1
	stop      chan struct{} // closed by Close
	stopOnce  sync.Once
}

const (
	// userspaceQueue is the stack's outgoing queue in packets, as long as a host's (txqueuelen 1000). TCP takes a full one as loss.
	userspaceQueue = 1024
	userspaceNIC   = 1
)

// OpenUserspace makes a TCP/IP stack in this process with the addresses; it needs no rights. An MTU of zero is DefaultMTU. It
// answers ICMP echo requests itself.
func OpenUserspace(addresses []netip.Prefix, mtu int) (Interface, error) {
	u := &userspace{
		addresses: addresses, mtu: mtuOrDefault(mtu),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			HandleLocal:        true,
		}),
		events: make(chan tun.Event), ready: make(chan struct{}, 1), interrupt: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	u.link = channel.New(userspaceQueue, uint32(u.mtu), "")
	u.link.AddNotify(u)
	if err := u.configure(); err != nil {
		_ = u.Close()
		return nil, fmt.Errorf("dataplane: userspace network: %w", err)
	}
	return u, nil
}

func (u *userspace) configure() error {
	sack := tcpip.TCPSACKEnabled(true) // off by default
	if err := u.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return errors.New(err.String())
	}
	rack := tcpip.TCPRecovery(0) // stalls under reordering in this version
	if err := u.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &rack); err != nil {
		return errors.New(err.String())
	}
	if err := u.stack.CreateNIC(userspaceNIC, u.link); err != nil {
		return errors.New(err.String())
	}
	for _, a := range u.addresses {
		protocol := ipv4.ProtocolNumber
		if a.Addr().Is6() {
			protocol = ipv6.ProtocolNumber
		}
		address := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddrFromSlice(a.Addr().AsSlice()).WithPrefix()}
		if err := u.stack.AddProtocolAddress(userspaceNIC, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address %s: %s", a, err)
		}
	}
	u.stack.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: userspaceNIC})
	u.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: userspaceNIC})
	return nil
}

// WriteNotify is called by the stack when it has queued a packet.
func (u *userspace) WriteNotify() {
	select {
	case u.ready <- struct{}{}:
	default:
	}
}

func (u *userspace) Interrupt() {
	select {
	case u.interrupt <- struct{}{}:
	default:
	}
}

func (u *userspace) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		n := 0
		for n < len(bufs) {
			packet := u.link.Read()
			if packet == nil {
				break
			}
			size := 0
			for _, part := range packet.AsSlices() {
				size += copy(bufs[n][offset+size:], part)
			}
			packet.DecRef()
			sizes[n] = size
			n++
		}
		if n > 0 {
			return n, nil
		}
		select {
		case <-u.ready:
		case <-u.interrupt:
			return 0, nil
		case <-u.stop:
			return 0, os.ErrClosed
		}
	}
}

func (u *userspace) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		packet := b[offset:]
		if len(packet) == 0 {
			continue
		}
		var protocol tcpip.NetworkProtocolNumber
		switch packet[0] >> 4 {
		case 4:
			protocol = header.IPv4ProtocolNumber
		case 6:
			protocol = header.IPv6ProtocolNumber
		default:
			return i, syscall.EAFNOSUPPORT
		}
		pkb := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		u.link.InjectInbound(protocol, pkb)
		pkb.DecRef()
	}
	return len(bufs), nil
}

func (u *userspace) DialContext(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	at, protocol := fullAddress(to)
	switch network {
	case "tcp", "tcp4", "tcp6":
		return gonet.DialContextTCP(ctx, u.stack, at, protocol)
	case "udp", "udp4", "udp6":
		return gonet.DialUDP(u.stack, nil, &at, protocol)
	}
	return nil, net.UnknownNetworkError(network)
}

func (u *userspace) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	full, protocol := fullAddress(at)
	return gonet.ListenTCP(u.stack, full, protocol)
}

func fullAddress(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	protocol := ipv4.ProtocolNumber
	if a.Addr().Is6() {
		protocol = ipv6.ProtocolNumber
	}
	return tcpip.FullAddress{NIC: userspaceNIC, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}, protocol
}

// Close ends the stack and its goroutines. Connections through it fail.
func (u *userspace) Close() error {
	u.stopOnce.Do(func() {
		close(u.stop)
		close(u.events)
		u.stack.Close()
		u.link.Close()
		u.stack.Wait()
	})
	return nil
}

func (u *userspace) Addresses() []netip.Prefix { return u.addresses }
func (u *userspace) File() *os.File            { return nil }
func (u *userspace) MTU() (int, error)         { return u.mtu, nil }
func (u *userspace) Name() (string, error)     { return "userspace", nil }
func (u *userspace) Events() <-chan tun.Event  { return u.events }
func (u *userspace) BatchSize() int            { return conn.IdealBatchSize }
