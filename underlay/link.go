package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
)

// Links are ways to a node beside the UDP socket: a channel through a relay, a TCP connection, one more UDP socket. Each has a link
// address, by which the underlay keeps its sources, checks and paths as it does for the addresses of UDP:
//
//	100::KIND:NUMBER-high:NUMBER-low, port 1      in the discard-only prefix 100::/64 (RFC 6666)
//
// A link address means something in this process only. From the network, a record or a hint none is ever taken: see [Socket.mayTry]
// and [reader.source].

// LinkKind says what a link is made of.
type LinkKind uint8

// The kinds of link.
const (
	LinkChannel LinkKind = iota + 1 // through a relay
	LinkPipe                        // TCP
	LinkSpare                       // another UDP socket
)

// linksMax bounds the links: 8 bytes each in the registry, whatever it costs who made them.
const linksMax = 4096

var (
	// ErrTooManyLinks: there are as many links as there may be.
	ErrTooManyLinks = errors.New("underlay: too many links")
	// errNoLink: the link was removed, or never was.
	errNoLink = errors.New("underlay: the link is gone")
)

// Link is a way to a node beside the UDP socket.
type Link interface {
	// Send takes packets to the other end. It never blocks, and drops what it cannot take. It must not keep bufs. It may be called
	// from any goroutine, also after RemoveLink.
	Send(bufs [][]byte) error
	Kind() LinkKind
	// Via is the relay that the link leads through, zero if it leads through none.
	Via() identity.NodeID
	// Remote is the address that the link's packets go to, for people and for rate limits; it may be invalid.
	Remote() netip.AddrPort
}

// linkPrefix holds the link addresses and nothing else.
var linkPrefix = netip.MustParsePrefix("100::/64")

const linkPort = 1

// isLinkAddr reports whether an address is, or looks like, that of a link.
func isLinkAddr(a netip.Addr) bool { return a.Is6() && linkPrefix.Contains(a.WithZone("")) }

func linkAddr(kind LinkKind, number uint32) netip.AddrPort {
	b := linkPrefix.Addr().As16()
	b[11] = byte(kind)
	binary.BigEndian.PutUint32(b[12:], number)
	return netip.AddrPortFrom(netip.AddrFrom16(b), linkPort)
}

func linkNumber(a netip.AddrPort) uint32 {
	b := a.Addr().As16()
	return binary.BigEndian.Uint32(b[12:])
}

// links are the ways beside the UDP socket.
type links struct {
	table *slots[linkEndpoint]

	mu      sync.Mutex
	removed []netip.AddrPort // whose paths the owner has yet to drop
}

// linkEndpoint is a link as a conn.Endpoint, the address of what arrives on it.
type linkEndpoint struct {
	link Link
	addr netip.AddrPort // constant once the endpoint can be found
	gone atomic.Bool
}

var _ conn.Endpoint = (*linkEndpoint)(nil)

// ClearSrc does nothing: a link has no local address to choose.
func (e *linkEndpoint) ClearSrc() {}

// SrcToString returns nothing.
func (e *linkEndpoint) SrcToString() string { return "" }

// DstToString returns the link address.
func (e *linkEndpoint) DstToString() string { return e.addr.String() }

// DstToBytes returns the link address.
func (e *linkEndpoint) DstToBytes() []byte { b, _ := e.addr.MarshalBinary(); return b }

// DstIP returns the link address.
func (e *linkEndpoint) DstIP() netip.Addr { return e.addr.Addr() }

// SrcIP returns no address.
func (e *linkEndpoint) SrcIP() netip.Addr { return netip.Addr{} }

// class is where the link's paths stand in the order of choice.
func (e *linkEndpoint) class() pathClass {
	switch e.link.Kind() {
	case LinkChannel:
		return pathRelayed
	case LinkPipe:
		return pathPipe
	}
	return pathUDP
}

// get returns the link with the address, nil if there is none.
func (l *links) get(addr netip.AddrPort) *linkEndpoint {
	if !isLinkAddr(addr.Addr()) {
		return nil
	}
	if e := l.table.get(linkNumber(addr)); e != nil && e.addr == addr {
		return e
	}
	return nil
}

// AddLink makes a link known, and returns the address under which it can be tried ([Socket.Try]) and delivers ([Socket.Deliver]). It
// returns [ErrTooManyLinks] or [ErrClosed]. The underlay does not close the link: who adds it removes it.
func (s *Socket) AddLink(l Link) (netip.AddrPort, error) {
	e, err := s.addLink(l)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return e.addr, nil
}

func (s *Socket) addLink(l Link) (*linkEndpoint, error) {
	kind := l.Kind()
	if kind < LinkChannel || kind > LinkSpare {
		return nil, fmt.Errorf("underlay: a link of kind %d", kind)
	}
	if !s.open() {
		return nil, ErrClosed
	}
	e := &linkEndpoint{link: l}
	if !s.links.table.put(e, func(number uint32) { e.addr = linkAddr(kind, number) }) {
		return nil, ErrTooManyLinks
	}
	return e, nil
}

// RemoveLink makes a link unknown. Nothing is sent over it any more, its paths are dropped and the next best take over. It waits for
// nothing, so a link may call it from its own Send.
func (s *Socket) RemoveLink(addr netip.AddrPort) {
	e := s.links.get(addr)
	if e == nil || e.gone.Swap(true) {
		return
	}
	s.links.table.remove(linkNumber(addr))
	s.links.mu.Lock()
	s.links.removed = append(s.links.removed, addr)
	s.links.mu.Unlock()
	s.wake()
}

// Try checks addresses of a member now, in addition to what is under way: its own, or those of links on which it may be. A path over
// any that answers is as good as one found in another way. Addresses that no node can have are left out, as are those beyond
// [nat.PlanAddressesMax]. It does not wait for answers. Errors: [ErrUnknownNode], [ErrNoCandidates], [ErrClosed].
func (s *Socket) Try(id identity.NodeID, addrs []netip.AddrPort) error {
	n := s.memberNode(id)
	if n == nil {
		return fmt.Errorf("underlay: try addresses of %s: %w", id.Short(), ErrUnknownNode)
	}
	var fit []netip.AddrPort
	for _, a := range addrs {
		if a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()); s.mayCheck(a) {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		return fmt.Errorf("underlay: try addresses of %s: %w", id.Short(), ErrNoCandidates)
	}
	return s.command(func(o *owner) { o.try(n, fit) })
}

// mayCheck reports whether an address that we chose ourselves can be another node's: mayTry's, or that of a link.
func (s *Socket) mayCheck(a netip.AddrPort) bool {
	return s.links.get(a) != nil || s.mayTry(a)
}

// parseEndpoint returns the endpoint of an address, of the UDP socket or of a link.
func (s *Socket) parseEndpoint(a netip.AddrPort) (conn.Endpoint, error) {
	if !isLinkAddr(a.Addr()) {
		return s.bind.ParseEndpoint(a.String())
	}
	if e := s.links.get(a); e != nil {
		return e, nil
	}
	return nil, errNoLink
}

// transmit sends packets to an endpoint, of the UDP socket or of a link. Everything that leaves goes through here.
func (s *Socket) transmit(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*linkEndpoint)
	if !ok {
		return s.bind.Send(bufs, ep)
	}
	if e.gone.Load() {
		return errNoLink
	}
	return e.link.Send(bufs)
}

// linkOf returns the link of an endpoint, nil if it is one of the UDP socket.
func linkOf(ep conn.Endpoint) *linkEndpoint {
	e, _ := ep.(*linkEndpoint)
	return e
}

// tellableAddr is the address of an endpoint as others may hear it: a link's is nobody else's business, and says nothing about us.
func tellableAddr(ep conn.Endpoint) netip.AddrPort {
	if linkOf(ep) != nil {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return addrOf(ep)
}

// rationedAddr is the address of an endpoint for rate limits.
func rationedAddr(ep conn.Endpoint) netip.Addr {
	if e := linkOf(ep); e != nil {
		if remote := e.link.Remote(); remote.IsValid() {
			return remote.Addr().Unmap()
		}
	}
	return addrOf(ep).Addr()
}

// dropRemovedLinks drops the paths over links that were removed.
func (o *owner) dropRemovedLinks() {
	o.links.mu.Lock()
	removed := o.links.removed
	o.links.removed = nil
	o.links.mu.Unlock()
	for _, addr := range removed {
		src := o.sources.get(addr)
		if src == nil {
			continue
		}
		n := src.node
		o.gather(n)
		was := n.paths.active
		now := o.now()
		o.carryOut(n, n.paths.remove(addr, now))
		if was == addr && !n.paths.active.IsValid() && !n.paths.asleep(now) && o.nodes.has(n) {
			o.connect(n, nil, nil)
		}
		o.publish(n)
	}
}

// triesMax bounds the addresses that Try adds to a search, beyond those that the node announces.
const triesMax = nat.PlanAddressesMax

// try adds addresses to the search for the node. If none is under way, they are one.
func (o *owner) try(n *node, addrs []netip.AddrPort) {
	if !o.nodes.has(n) {
		return
	}
	if n.attempt == nil {
		n.begin(o.now())
	}
	a := n.attempt
	var fresh []netip.AddrPort
	for _, addr := range addrs {
		if !slices.Contains(fresh, addr) && !a.covers(addr) && a.extra < triesMax {
			fresh = append(fresh, addr)
			a.extra++
		}
	}
	o.extend(n, fresh)
	o.advance(n, o.now())
}

// way describes the path over an address.
func (o *owner) way(addr netip.AddrPort, rtt time.Duration) Way {
	w := Way{Kind: PathDirect, Endpoint: addr, Transport: "udp", RTT: rtt}
	e := o.links.get(addr)
	switch {
	case e == nil && isLinkAddr(addr.Addr()): // removed this moment
		w.Endpoint = netip.AddrPort{}
	case e == nil:
	case e.link.Kind() == LinkChannel:
		w.Kind, w.Endpoint, w.Via, w.Transport = PathRelay, netip.AddrPort{}, e.link.Via(), o.transportTo(e.link.Via())
	case e.link.Kind() == LinkPipe:
		w.Endpoint, w.Transport = e.link.Remote(), "tcp"
	default:
		w.Endpoint = e.link.Remote()
	}
	return w
}

// transportTo is what carries packets to a relay.
func (o *owner) transportTo(id identity.NodeID) string {
	if n := o.memberNode(id); n != nil {
		if r := n.active.Load(); r != nil && r.link != nil && r.link.link.Kind() == LinkPipe {
			return "tcp"
		}
	}
	return "udp"
}
