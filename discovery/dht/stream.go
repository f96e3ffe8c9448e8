package dht

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/phantommesh/phantommesh/control"
)

// errOneStream: kad-dht opens streams by its messenger only.
var errOneStream = errors.New("dht: no further streams on this connection")

// question is one that was read in full, as kad-dht wants to see it: a stream from which it reads the message and then the end.
type question struct {
	host    *host
	control *control.Stream
	message io.Reader
	sent    *atomic.Uint64
}

var _ network.Stream = (*question)(nil)

func newQuestion(h *host, s *control.Stream, message []byte, sent *atomic.Uint64) *question {
	return &question{host: h, control: s, message: bytes.NewReader(appendMessage(nil, message)), sent: sent}
}

func (q *question) Read(b []byte) (int, error) { return q.message.Read(b) }
func (q *question) Write(b []byte) (int, error) {
	n, err := q.control.Write(b)
	q.sent.Add(uint64(n))
	return n, err
}
func (q *question) Close() error      { return q.control.Close() }
func (q *question) CloseWrite() error { return q.control.CloseWrite() }
func (q *question) CloseRead() error  { return nil } // it has been read
func (q *question) Reset() error {
	q.control.Reset()
	return nil
}
func (q *question) ResetWithError(network.StreamErrorCode) error { return q.Reset() }
func (q *question) SetDeadline(t time.Time) error                { return q.control.SetDeadline(t) }
func (q *question) SetReadDeadline(t time.Time) error            { return q.control.SetReadDeadline(t) }
func (q *question) SetWriteDeadline(t time.Time) error           { return q.control.SetWriteDeadline(t) }
func (q *question) ID() string                                   { return q.Conn().ID() }
func (q *question) Protocol() protocol.ID                        { return q.host.protocol }
func (q *question) SetProtocol(protocol.ID) error                { return nil } // there is one
func (q *question) Stat() network.Stats                          { return network.Stats{Direction: network.DirInbound} }
func (q *question) Conn() network.Conn                           { return link{q} }
func (q *question) Scope() network.StreamScope                   { return &network.NullScope{} }

// link is the connection below a question.
type link struct{ question *question }

var _ network.Conn = link{}

func (l link) remote() control.Peer                       { return l.question.control.Peer() }
func (l link) Close() error                               { return l.question.Close() }
func (l link) CloseWithError(network.ConnErrorCode) error { return l.question.Reset() }
func (l link) ID() string                                 { return l.remote().ID.String() }
func (l link) LocalPeer() peer.ID                         { return l.question.host.self }
func (l link) RemotePeer() peer.ID                        { return peerIDOf(l.remote().ID) }
func (l link) RemotePublicKey() crypto.PubKey             { return nil } // libp2p has no form for our identities
func (l link) ConnState() network.ConnectionState {
	return network.ConnectionState{Transport: namespace}
}
func (l link) LocalMultiaddr() ma.Multiaddr                      { return everywhere }
func (l link) RemoteMultiaddr() ma.Multiaddr                     { return everywhere }
func (l link) Stat() network.ConnStats                           { return network.ConnStats{Stats: l.question.Stat()} }
func (l link) Scope() network.ConnScope                          { return &network.NullScope{} }
func (l link) NewStream(context.Context) (network.Stream, error) { return nil, errOneStream }
func (l link) GetStreams() []network.Stream                      { return []network.Stream{l.question} }
func (l link) IsClosed() bool                                    { return l.question.control.Context().Err() != nil }
func (l link) As(any) bool                                       { return false }
