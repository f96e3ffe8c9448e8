package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A relay frame takes a packet to a third node through one that both can reach:
//
//	0x30 | direction 1 bit (0: to the relay, 1: from it) | channel number 31 bits | packet of any other class
//
// The relay gives either end of a pair a number of its own, which is good for that end only, in both directions. Numbers are agreed on over
// the control channel. The relay changes the number and the direction, and looks no further.
const (
	frameHeader = 5
	fromRelay   = 1 << 31
)

// parseFrame reads a relay frame.
func parseFrame(b []byte) (number uint32, down bool, packet []byte, ok bool) {
	if len(b) <= frameHeader || b[0] != relayByte {
		return 0, false, nil, false
	}
	number = binary.BigEndian.Uint32(b[1:])
	return number &^ fromRelay, number&fromRelay != 0, b[frameHeader:], true
}

func putFrameHeader(b []byte, number uint32) {
	b[0] = relayByte
	binary.BigEndian.PutUint32(b[1:], number)
}

const (
	// channelsPerRelay and channelsMax bound the channels that relays, or who speaks through them, have us open.
	channelsPerRelay = 128
	channelsMax      = 1024
	// channelLife is how long such a channel is kept without a packet: longer than three keepalives; channelProof without a path over it.
	channelLife  = 3 * time.Minute
	channelProof = 10 * time.Second
)

// channel is our end of a way through a relay.
type channel struct {
	// Constant.
	socket   *Socket
	relay    *node
	via      identity.NodeID
	number   uint32
	endpoint *linkEndpoint

	asked bool // by OpenChannel; else a frame has opened it. Guarded by channels.mu
	used  atomic.Int64
}

var _ Link = (*channel)(nil)

// channels guards who may open and close channels. Reading a frame takes no lock: each relay's node holds an immutable channelSet.
type channels struct {
	mu     sync.Mutex
	relays map[*node]bool // that have a channelSet
	auto   int            // channels that nobody asked for
}

// channelSet is what a node that is our relay means by its numbers.
type channelSet struct {
	accepts  bool
	auto     int
	byNumber map[uint32]*channel
}

// Kind returns LinkChannel.
func (c *channel) Kind() LinkKind { return LinkChannel }

// Via returns the relay.
func (c *channel) Via() identity.NodeID { return c.via }

// Remote returns the relay's address.
func (c *channel) Remote() netip.AddrPort {
	switch r := c.relay.active.Load(); {
	case r == nil, r.relayed():
		return netip.AddrPort{}
	case r.link != nil:
		return r.link.link.Remote()
	default:
		return r.source.addr
	}
}

// frames is what one call of Send needs, kept from call to call.
type frames struct {
	bufs  [conn.IdealBatchSize][]byte
	boxes [conn.IdealBatchSize]*[]byte
	pools [conn.IdealBatchSize]*sync.Pool
}

var frameBatches = sync.Pool{New: func() any { return new(frames) }}

// Send wraps packets into frames and sends them to the relay, over its own path: never through another relay.
func (c *channel) Send(bufs [][]byte) error {
	c.used.Store(int64(c.socket.now()))
	for len(bufs) > 0 {
		n := min(len(bufs), conn.IdealBatchSize)
		if err := c.ship(bufs[:n]); err != nil {
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

func (c *channel) ship(bufs [][]byte) error {
	f := frameBatches.Get().(*frames)
	n := 0
	for _, b := range bufs {
		pool := bufferPool(frameHeader + len(b))
		if pool == nil {
			c.socket.stats.drop(dropTooLarge, 1)
			continue
		}
		box := pool.Get().(*[]byte)
		frame := (*box)[:frameHeader+len(b)]
		putFrameHeader(frame, c.number)
		copy(frame[frameHeader:], b)
		f.bufs[n], f.boxes[n], f.pools[n] = frame, box, pool
		n++
	}
	var err error
	if n > 0 {
		err = c.relay.sendDirect(f.bufs[:n], isData(bufs[0]))
	}
	for i := range n {
		f.pools[i].Put(f.boxes[i])
		f.bufs[i], f.boxes[i], f.pools[i] = nil, nil, nil
	}
	frameBatches.Put(f)
	return err
}

// OpenChannel opens our end of the channel that a relay calls number for us, and returns its link address, for [Socket.Try]. Opening it
// again returns the same. Errors: [ErrUnknownNode], [ErrTooManyLinks], [ErrClosed].
func (s *Socket) OpenChannel(relay identity.NodeID, number uint32) (netip.AddrPort, error) {
	n := s.memberNode(relay)
	if n == nil {
		return netip.AddrPort{}, fmt.Errorf("underlay: open channel at %s: %w", relay.Short(), ErrUnknownNode)
	}
	if number&fromRelay != 0 {
		return netip.AddrPort{}, fmt.Errorf("underlay: open channel at %s: number %d has more than 31 bits", relay.Short(), number)
	}
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	set := n.channelSet()
	if c := set.byNumber[number]; c != nil {
		if !c.asked {
			c.asked = true
			s.channels.auto--
			set.auto--
			s.storeChannelsLocked(n, set)
		}
		return c.endpoint.addr, nil
	}
	c, err := s.addChannelLocked(n, relay, set, number)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("underlay: open channel at %s: %w", relay.Short(), err)
	}
	c.asked = true
	s.storeChannelsLocked(n, set)
	return c.endpoint.addr, nil
}

// CloseChannel closes our end of a channel; its paths are dropped.
func (s *Socket) CloseChannel(addr netip.AddrPort) {
	e := s.links.get(addr)
	if e == nil {
		return
	}
	if c, ok := e.link.(*channel); ok {
		s.channels.mu.Lock()
		defer s.channels.mu.Unlock()
		set := c.relay.channelSet()
		s.dropChannelLocked(set, c)
		s.storeChannelsLocked(c.relay, set)
	}
}

// AcceptChannels says whether a relay may have channels opened to us: then a check that comes in a frame with a number that we do not
// know opens one. They are bounded, and forgotten when nothing comes or goes. No closes those that came about so.
func (s *Socket) AcceptChannels(relay identity.NodeID, yes bool) {
	n := s.memberNode(relay)
	if n == nil {
		return
	}
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	set := n.channelSet()
	set.accepts = yes
	if !yes {
		for _, c := range set.byNumber {
			if !c.asked {
				s.dropChannelLocked(set, c)
			}
		}
	}
	s.storeChannelsLocked(n, set)
}

// channelSet returns a copy of the node's channels, to be changed and stored.
func (n *node) channelSet() *channelSet {
	old := n.channels.Load()
	if old == nil {
		return &channelSet{byNumber: map[uint32]*channel{}}
	}
	set := *old
	set.byNumber = maps.Clone(old.byNumber)
	return &set
}

func (s *Socket) storeChannelsLocked(n *node, set *channelSet) {
	if !set.accepts && len(set.byNumber) == 0 {
		n.channels.Store(nil)
		delete(s.channels.relays, n)
		return
	}
	if s.channels.relays == nil {
		s.channels.relays = map[*node]bool{}
	}
	s.channels.relays[n] = true
	n.channels.Store(set)
}

func (s *Socket) addChannelLocked(n *node, via identity.NodeID, set *channelSet, number uint32) (*channel, error) {
	c := &channel{socket: s, relay: n, via: via, number: number}
	c.used.Store(int64(s.now()))
	e, err := s.addLink(c)
	if err != nil {
		return nil, err
	}
	c.endpoint = e
	set.byNumber[number] = c
	return c, nil
}

func (s *Socket) dropChannelLocked(set *channelSet, c *channel) {
	if set.byNumber[c.number] != c {
		return
	}
	delete(set.byNumber, c.number)
	if !c.asked {
		set.auto--
		s.channels.auto--
	}
	s.RemoveLink(c.endpoint.addr)
}

// closeChannels forgets all channels through a node that is a member no more.
func (s *Socket) closeChannels(n *node) {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	set := n.channelSet()
	set.accepts = false
	for _, c := range set.byNumber {
		s.dropChannelLocked(set, c)
	}
	s.storeChannelsLocked(n, set)
}

// forgetIdleChannels closes the channels that nobody asked for and nobody uses.
func (s *Socket) forgetIdleChannels(now instant) {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	for n := range s.channels.relays {
		s.forgetIdleOfLocked(n, now)
	}
}

func (s *Socket) forgetIdleOfLocked(n *node, now instant) {
	old := n.channels.Load()
	if old == nil || old.auto == 0 {
		return
	}
	set := n.channelSet()
	for _, c := range old.byNumber {
		idle := now - instant(c.used.Load())
		if !c.asked && (idle >= channelLife || idle >= channelProof && s.sources.get(c.endpoint.addr) == nil) {
			s.dropChannelLocked(set, c)
		}
	}
	if set.auto != old.auto {
		s.storeChannelsLocked(n, set)
	}
}

var errTooManyChannels = errors.New("underlay: too many channels")

// fromChannel takes in a frame of a relay. It runs in the goroutine that read.
func (s *Socket) fromChannel(relay *node, number uint32, packet []byte, now instant) {
	set := relay.channels.Load()
	if set == nil {
		s.stats.drop(dropRelay, 1)
		return
	}
	c := set.byNumber[number]
	if c == nil {
		// Nothing but a request opens a channel: of all else, the sender is nobody yet.
		if !set.accepts || classify(packet) != classSTUN || packet[0] != 0 {
			s.stats.drop(dropRelay, 1)
			return
		}
		var err error
		if c, err = s.acceptChannel(relay, number, now); err != nil {
			s.stats.drop(dropRelay, 1)
			return
		}
	}
	c.used.Store(int64(now))
	s.deliver(c.endpoint, packet)
}

// acceptChannel opens a channel for a number that a relay has used for the first time.
func (s *Socket) acceptChannel(relay *node, number uint32, now instant) (*channel, error) {
	id := relay.memberID()
	if id == nil {
		return nil, ErrUnknownNode
	}
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	set := relay.channelSet()
	if c := set.byNumber[number]; c != nil {
		return c, nil // another reader was faster
	}
	if !set.accepts {
		return nil, errTooManyChannels
	}
	if set.auto >= channelsPerRelay || s.channels.auto >= channelsMax {
		return nil, errTooManyChannels // until forgetIdleChannels has passed
	}
	c, err := s.addChannelLocked(relay, *id, set, number)
	if err != nil {
		return nil, err
	}
	set.auto++
	s.channels.auto++
	s.storeChannelsLocked(relay, set)
	return c, nil
}
