package main

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// The attacker's tools: seeing and forging IPv4 packets of a host.

// datagram is a UDP packet over IPv4.
type datagram struct {
	from, to netip.AddrPort
	payload  []byte
}

// sniffer keeps the UDP packets that pass a host's interface.
type sniffer struct {
	mu   sync.Mutex
	seen []datagram
}

// sniff listens on a host until the test ends. It keeps the first 20,000 packets.
func sniff(t *testing.T, h *lab.Host) *sniffer {
	t.Helper()
	fd := socket(t, h, unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(unix.ETH_P_ALL)))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	s, stop, ended := &sniffer{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1<<16)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == nil {
				if d, ok := parse(b[:n]); ok {
					s.mu.Lock()
					if len(s.seen) < 20_000 {
						s.seen = append(s.seen, d)
					}
					s.mu.Unlock()
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
	return s
}

// packets are those seen so far.
func (s *sniffer) packets() []datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]datagram(nil), s.seen...)
}

func parse(ip []byte) (datagram, bool) {
	if len(ip) < 28 || ip[0] != 0x45 || ip[9] != unix.IPPROTO_UDP {
		return datagram{}, false
	}
	length := int(binary.BigEndian.Uint16(ip[24:]))
	if length < 8 || len(ip) < 20+length {
		return datagram{}, false
	}
	at := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[addr:addr+4])), binary.BigEndian.Uint16(ip[port:]))
	}
	return datagram{at(12, 20), at(16, 22), append([]byte(nil), ip[28:20+length]...)}, true
}

// forger sends packets with any source.
type forger struct{ fd int }

func newForger(t *testing.T, h *lab.Host) forger {
	t.Helper()
	return forger{socket(t, h, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)} // headers included
}

func (f forger) send(d datagram) error {
	b := make([]byte, 28, 28+len(d.payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP // the kernel fills in length and checksum
	from, to := d.from.Addr().As4(), d.to.Addr().As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	binary.BigEndian.PutUint16(b[20:], d.from.Port())
	binary.BigEndian.PutUint16(b[22:], d.to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(d.payload))) // checksum 0: none (RFC 768)
	return unix.Sendto(f.fd, append(b, d.payload...), 0, &unix.SockaddrInet4{Addr: to})
}

func socket(t *testing.T, h *lab.Host, domain, kind, protocol int) int {
	t.Helper()
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }
