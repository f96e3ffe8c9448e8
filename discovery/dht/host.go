package dht

import (
	"context"
	"errors"
	"sync"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/event"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

// errByMessenger: kad-dht asks others through its message sender, which is ours.
var errByMessenger = errors.New("dht: connections are the control plane's")

// host is what kad-dht needs of a libp2p host: who we are, what it believes of others, and where to put its handler. It is its own network
// too: one without connections of its own, on which every member is one question away.
type host struct {
	self       peer.ID
	protocol   protocol.ID
	peerstore  peerstore.Peerstore
	bus        event.Bus
	identified event.Emitter
	mux        *multistream.MultistreamMuxer[protocol.ID]

	mu      sync.Mutex
	handler network.StreamHandler // nil while this node is a client
}

var (
	_ libp2phost.Host = (*host)(nil)
	_ network.Network = noNetwork{}
)

func newHost(self peer.ID, proto protocol.ID) (*host, error) {
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	h := &host{self: self, protocol: proto, peerstore: store, bus: eventbus.NewBus(), mux: multistream.NewMultistreamMuxer[protocol.ID]()}
	if h.identified, err = h.bus.Emitter(new(event.EvtPeerIdentificationCompleted)); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return h, nil
}

// know makes a member one that may be named to others, and stays so.
func (h *host) know(p peer.ID) { h.peerstore.AddAddr(p, everywhere, peerstore.PermanentAddrTTL) }

// serves notes that a member answers questions. kad-dht asks it one, if it has room for it in its routing table, and then puts it there.
func (h *host) serves(p peer.ID) error {
	h.know(p)
	if err := h.peerstore.SetProtocols(p, h.protocol); err != nil {
		return err
	}
	return h.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: p, Protocols: []protocol.ID{h.protocol}})
}

// forget removes all that is believed of a member.
func (h *host) forget(p peer.ID) {
	h.peerstore.ClearAddrs(p)
	h.peerstore.RemovePeer(p)
}

func (h *host) streamHandler() network.StreamHandler {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.handler
}

func (h *host) ID() peer.ID                      { return h.self }
func (h *host) Peerstore() peerstore.Peerstore   { return h.peerstore }
func (h *host) Addrs() []ma.Multiaddr            { return []ma.Multiaddr{everywhere} }
func (h *host) Network() network.Network         { return noNetwork{h} }
func (h *host) Mux() protocol.Switch             { return h.mux }
func (h *host) ConnManager() connmgr.ConnManager { return connmgr.NullConnMgr{} }
func (h *host) EventBus() event.Bus              { return h.bus }

// Connect does nothing: the question that follows makes the connection, or fails.
func (h *host) Connect(ctx context.Context, _ peer.AddrInfo) error { return ctx.Err() }

// SetStreamHandler sets kad-dht's handler; there is no other protocol.
func (h *host) SetStreamHandler(_ protocol.ID, f network.StreamHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handler = f
}

// SetStreamHandlerMatch is SetStreamHandler.
func (h *host) SetStreamHandlerMatch(p protocol.ID, _ func(protocol.ID) bool, f network.StreamHandler) {
	h.SetStreamHandler(p, f)
}

// RemoveStreamHandler makes this node a client.
func (h *host) RemoveStreamHandler(p protocol.ID) { h.SetStreamHandler(p, nil) }

// NewStream is not how kad-dht asks here.
func (h *host) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return nil, errByMessenger
}

// Close ends the peer store.
func (h *host) Close() error {
	return errors.Join(h.identified.Close(), h.peerstore.Close())
}

// noNetwork is the network of a host that has none of its own.
type noNetwork struct{ host *host }

func (n noNetwork) Peerstore() peerstore.Peerstore                        { return n.host.peerstore }
func (n noNetwork) LocalPeer() peer.ID                                    { return n.host.self }
func (noNetwork) Connectedness(peer.ID) network.Connectedness             { return network.NotConnected }
func (noNetwork) Peers() []peer.ID                                        { return nil }
func (noNetwork) Conns() []network.Conn                                   { return nil }
func (noNetwork) ConnsToPeer(peer.ID) []network.Conn                      { return nil }
func (noNetwork) ClosePeer(peer.ID) error                                 { return nil }
func (noNetwork) CanDial(peer.ID, ma.Multiaddr) bool                      { return true }
func (noNetwork) Notify(network.Notifiee)                                 {}
func (noNetwork) StopNotify(network.Notifiee)                             {}
func (noNetwork) DialPeer(context.Context, peer.ID) (network.Conn, error) { return nil, errByMessenger }
func (noNetwork) NewStream(context.Context, peer.ID) (network.Stream, error) {
	return nil, errByMessenger
}
func (noNetwork) SetStreamHandler(network.StreamHandler) {}
func (noNetwork) Listen(...ma.Multiaddr) error           { return nil }
func (n noNetwork) ListenAddresses() []ma.Multiaddr      { return n.host.Addrs() }
func (n noNetwork) InterfaceListenAddresses() ([]ma.Multiaddr, error) {
	return n.host.Addrs(), nil
}
func (noNetwork) ResourceManager() network.ResourceManager { return &network.NullResourceManager{} }
func (noNetwork) Close() error                             { return nil }
