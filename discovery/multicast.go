package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Multicast DNS, RFC 6762 §3.
const (
	mdnsPort = 5353
	// hopLimit: what is sent with 255 and arrives with 255 has crossed no router (RFC 5082).
	hopLimit = 255
	// packetMax is the largest packet that is looked at; a beacon has some 250 bytes.
	packetMax = 1500
	// segmentsMax bounds the interfaces: a host of containers has hundreds that are no LAN of people.
	segmentsMax = 32
)

var (
	group4 = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: mdnsPort}
	group6 = &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: mdnsPort}
)

// Segment is one interface of this host into a LAN.
type Segment struct {
	Index    int
	Name     string
	Prefixes []netip.Prefix // our addresses in it, with the length of their network
}

// Arrival says where a packet came from.
type Arrival struct {
	From     netip.Addr // without a zone
	Segment  int        // index of the interface
	HopLimit int        // 0: the system does not tell
}

// Multicast is the mDNS group of the LANs of this host. Read is called by one goroutine for each family, everything else by one at a time.
type Multicast interface {
	// Families are those that Read and Send may be called with: 4, 6.
	Families() []int
	// Read returns net.ErrClosed after Close.
	Read(family int, b []byte) (int, Arrival, error)
	Send(family int, s Segment, b []byte) error
	// Segments returns the LANs as they are now, after joining the group in new ones.
	Segments() []Segment
	Close() error
}

// systemMulticast is the host's own.
type systemMulticast struct {
	v4 *ipv4.PacketConn
	v6 *ipv6.PacketConn

	closing sync.Once
	joined4 map[int]bool
	joined6 map[int]bool
}

// openMulticast opens what there is of both families, beside other programs that speak mDNS.
func openMulticast(ctx context.Context) (Multicast, error) {
	m := &systemMulticast{joined4: map[int]bool{}, joined6: map[int]bool{}}
	var l net.ListenConfig
	c4, err4 := l.ListenPacket(ctx, "udp4", group4.String()) // Go binds the wildcard address, shared with others
	if err4 == nil {
		m.v4 = ipv4.NewPacketConn(c4)
		err4 = errors.Join(m.v4.SetMulticastTTL(hopLimit), m.v4.SetMulticastLoopback(true))
		_ = m.v4.SetControlMessage(ipv4.FlagTTL|ipv4.FlagInterface, true) // not everywhere; the source is checked too
	}
	c6, err6 := l.ListenPacket(ctx, "udp6", group6.String())
	if err6 == nil {
		m.v6 = ipv6.NewPacketConn(c6)
		err6 = errors.Join(m.v6.SetMulticastHopLimit(hopLimit), m.v6.SetMulticastLoopback(true))
		_ = m.v6.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true)
	}
	if err4 != nil && err6 != nil {
		_ = m.Close()
		return nil, errors.Join(err4, err6)
	}
	if err4 != nil && m.v4 != nil {
		_ = m.v4.Close()
		m.v4 = nil
	}
	if err6 != nil && m.v6 != nil {
		_ = m.v6.Close()
		m.v6 = nil
	}
	return m, nil
}

func (m *systemMulticast) Families() (out []int) {
	if m.v4 != nil {
		out = append(out, 4)
	}
	if m.v6 != nil {
		out = append(out, 6)
	}
	return out
}

func (m *systemMulticast) Read(family int, b []byte) (n int, at Arrival, err error) {
	var from net.Addr
	if family == 4 {
		var c *ipv4.ControlMessage
		if n, c, from, err = m.v4.ReadFrom(b); c != nil {
			at.Segment, at.HopLimit = c.IfIndex, c.TTL
		}
	} else {
		var c *ipv6.ControlMessage
		if n, c, from, err = m.v6.ReadFrom(b); c != nil {
			at.Segment, at.HopLimit = c.IfIndex, c.HopLimit
		}
	}
	if u, ok := from.(*net.UDPAddr); ok {
		at.From = u.AddrPort().Addr().Unmap().WithZone("")
	}
	return n, at, err
}

func (m *systemMulticast) Send(family int, s Segment, b []byte) (err error) {
	if family == 4 {
		_, err = m.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: s.Index}, group4)
	} else {
		_, err = m.v6.WriteTo(b, &ipv6.ControlMessage{IfIndex: s.Index}, &net.UDPAddr{IP: group6.IP, Port: group6.Port})
	}
	return err
}

// Segments leaves out point-to-point interfaces: behind a tunnel or a modem is no LAN, but somebody who need not know the mesh's name.
func (m *systemMulticast) Segments() []Segment {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []Segment
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || len(out) == segmentsMax {
			continue
		}
		s := Segment{Index: i.Index, Name: i.Name, Prefixes: prefixesOf(i)}
		if len(s.Prefixes) == 0 {
			continue
		}
		m.join(i)
		out = append(out, s)
	}
	m.forgetGone(out)
	return out
}

// join enters the group on an interface. A family that it lacks is an error of no interest; it is tried again with the next change.
func (m *systemMulticast) join(i net.Interface) {
	if m.v4 != nil && !m.joined4[i.Index] {
		m.joined4[i.Index] = m.v4.JoinGroup(&i, &net.UDPAddr{IP: group4.IP}) == nil
	}
	if m.v6 != nil && !m.joined6[i.Index] {
		m.joined6[i.Index] = m.v6.JoinGroup(&i, &net.UDPAddr{IP: group6.IP}) == nil
	}
}

// forgetGone lets an interface that comes back under its old number be joined again.
func (m *systemMulticast) forgetGone(now []Segment) {
	for _, joined := range []map[int]bool{m.joined4, m.joined6} {
		for index := range joined {
			if !slices.ContainsFunc(now, func(s Segment) bool { return s.Index == index }) {
				delete(joined, index)
			}
		}
	}
}

func prefixesOf(i net.Interface) (out []netip.Prefix) {
	addrs, err := i.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, netip.PrefixFrom(p.Addr().Unmap().WithZone(""), p.Bits()))
		}
	}
	return out
}

func (m *systemMulticast) Close() (err error) {
	m.closing.Do(func() {
		if m.v4 != nil {
			err = m.v4.Close()
		}
		if m.v6 != nil {
			err = errors.Join(err, m.v6.Close())
		}
	})
	return err
}
