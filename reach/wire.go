package reach

import (
	"fmt"
	"net"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// The protocol "relay", one request a stream, messages of strict CBOR:
//
//	asker    [op, node 32, channel]     node and channel as the op needs them, else zero
//	answerer [code, channel, load]
//	answerer [load]                     every beatInterval, as long as the grant lives
//
// op 1 register: relay may send the asker frames of channels that others open to it. op 2 open: a channel to the member node, whose
// number is in the answer. op 3 offer: the relay asks a member that is not registered with it to take frames of channel that node
// opened. The grant ends with the stream, whoever ends it. The asker says nothing more after its request.
const ProtocolRelay = "relay"

type relayOp uint8

const (
	opRegister relayOp = 1
	opOpen     relayOp = 2
	opOffer    relayOp = 3
)

type relayRequest struct {
	_       struct{} `cbor:",toarray"`
	Op      relayOp
	Node    identity.NodeID
	Channel uint32
}

// valid reports whether the fields are those of the op.
func (q relayRequest) valid() bool {
	switch q.Op {
	case opRegister:
		return q.Node.IsZero() && q.Channel == 0
	case opOpen:
		return !q.Node.IsZero() && q.Channel == 0
	case opOffer:
		return !q.Node.IsZero() && q.Channel != 0
	}
	return false
}

// RefusalCode is why a relay refused. The numbers are part of the protocol.
type RefusalCode uint8

// The codes; zero is a grant.
const (
	RefusedNoRelay     RefusalCode = 1 // it carries nothing for others
	RefusedFull        RefusalCode = 2 // it carries all it can
	RefusedTooMany     RefusalCode = 3 // the asker has all that one may have
	RefusedUnreachable RefusalCode = 4 // it has no direct path to the target
	RefusedIndirect    RefusalCode = 5 // it has no direct path to the asker: relays are not chained
	RefusedRequest     RefusalCode = 6 // the request makes no sense
	refusalLast                    = RefusedRequest
)

var refusalTexts = [...]string{
	"granted", "it does not relay", "it is full", "too many channels of one node", "it cannot reach the target directly",
	"it is not reached directly itself", "the request makes no sense",
}

// String returns the code in words.
func (c RefusalCode) String() string {
	if int(c) < len(refusalTexts) {
		return refusalTexts[c]
	}
	return fmt.Sprintf("refusal %d", uint8(c))
}

// RefusedError is a relay's answer when it grants nothing.
type RefusedError struct {
	Relay identity.NodeID
	Code  RefusalCode
}

// Error says who refused and why.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("reach: relay %s refused: %s", e.Relay.Short(), e.Code)
}

type relayAnswer struct {
	_       struct{} `cbor:",toarray"`
	Code    RefusalCode
	Channel uint32
	Load    uint8 // percent
}

// valid reports whether the answer is one to q.
func (a relayAnswer) valid(q relayRequest) bool {
	return a.Code <= refusalLast && a.Load <= 100 && (a.Channel != 0) == (a.Code == 0 && q.Op == opOpen)
}

type relayBeat struct {
	_    struct{} `cbor:",toarray"`
	Load uint8
}

const (
	relayMessageMax = 64 // bytes: a request has at most 41

	// beatInterval is the gap between the messages that keep the control connection under a lease alive: it ends after 60 s without a packet, and
	// 15 s are left for retransmissions. A beat and its acknowledgement are some 125 bytes: 240 KB a day for each relay at hand.
	beatInterval = 45 * time.Second
	// beatLost is when a lease without beats is given up, should the connection not have ended by then.
	beatLost = 2*beatInterval + 15*time.Second
)

// exchange writes q and reads the answer into a, within limit.
func exchange(s net.Conn, q, a any, max int, limit time.Duration) error {
	if err := s.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if err := wire.WriteMessage(s, q, max); err != nil {
		return err
	}
	if err := wire.ReadMessage(s, a, max); err != nil {
		return err
	}
	_ = s.SetDeadline(time.Time{}) // it fails if the stream has ended since, which the next read tells
	return nil
}
