package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Memberlist has no call for the states of its members. But in a push/pull it writes all of them down, and it takes whatever
// address it is given: so we let it begin one with ourselves, keep what it writes and hang up. It is a read, made under its own
// lock, of about 10 µs and 200 bytes a member; the publisher makes one when a question is open, and one a probe interval while
// somebody is suspected.

var errSnapshot = errors.New("gossip: unreadable snapshot")

// snapshot returns the states of all members as memberlist holds them at this moment.
func (p *Pool) snapshot() (map[identity.NodeID]peer.State, error) {
	p.snapshots.Lock()
	defer p.snapshots.Unlock()
	var m mirror
	p.transport.mirror.Store(&m)
	defer p.transport.mirror.Store(nil)
	_, _ = p.list.Join([]string{joinAddress(p.mesh, p.self)}) // fails always: nobody answers
	return readSnapshot(m.written.Bytes())
}

// readSnapshot reads the beginning of a push/pull as memberlist writes it: type, head, members.
func readSnapshot(b []byte) (map[identity.NodeID]peer.State, error) {
	if len(b) == 0 || b[0] != typePushPull {
		return nil, errSnapshot
	}
	var handle codec.MsgpackHandle
	dec := codec.NewDecoderBytes(b[1:], &handle)
	var head struct{ Nodes int }
	if err := dec.Decode(&head); err != nil {
		return nil, fmt.Errorf("%w: %w", errSnapshot, err)
	}
	out := map[identity.NodeID]peer.State{}
	for range head.Nodes {
		var n struct {
			Name  string
			State memberlist.NodeStateType
		}
		if err := dec.Decode(&n); err != nil {
			return nil, fmt.Errorf("%w: %w", errSnapshot, err)
		}
		if id, err := identity.ParseNodeID(n.Name); err == nil {
			out[id] = stateOf(n.State)
		}
	}
	return out, nil
}

func stateOf(s memberlist.NodeStateType) peer.State {
	switch s {
	case memberlist.StateAlive:
		return peer.Alive
	case memberlist.StateSuspect:
		return peer.Suspect
	case memberlist.StateLeft:
		return peer.Left
	}
	return peer.Dead
}

// mirror is the other end of a push/pull with ourselves: it keeps what is written and has nothing to say.
type mirror struct{ written bytes.Buffer }

func (m *mirror) Write(b []byte) (int, error)      { return m.written.Write(b) }
func (m *mirror) Read([]byte) (int, error)         { return 0, io.EOF }
func (m *mirror) Close() error                     { return nil }
func (m *mirror) LocalAddr() net.Addr              { return nodeAddr{} }
func (m *mirror) RemoteAddr() net.Addr             { return nodeAddr{} }
func (m *mirror) SetDeadline(time.Time) error      { return nil }
func (m *mirror) SetReadDeadline(time.Time) error  { return nil }
func (m *mirror) SetWriteDeadline(time.Time) error { return nil }
