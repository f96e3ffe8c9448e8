package gossip

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// A probe names both nodes in text, two addresses and all its fields. Who sent a packet and whom it is for are known here without, so a
// probe or its answer that carries nothing else travels in a form of 13 bytes in place of 190 and 30:
//
//	+------+------------------------------+-----------------------------------+------------------
//	| kind | sequence number (4, big end) | digest of the roster (8, big end) | coordinate (19)
//	+------+------------------------------+-----------------------------------+------------------
//
// The coordinate is in answers only, and only while it is not what the answerer's record says.
const (
	shortPing = 0x20 // kinds that memberlist has not
	shortAck  = 0x21
	shortSize = 1 + 4 + 8
	shortMax  = shortSize + peer.CoordinateSize
)

// pingMessage and ackMessage are memberlist's ping and ackResp.
type pingMessage struct {
	SeqNo      uint32
	Node       string
	SourceAddr []byte `codec:",omitempty"`
	SourcePort uint16 `codec:",omitempty"`
	SourceNode string `codec:",omitempty"`
}

type ackMessage struct {
	SeqNo   uint32
	Payload []byte
}

// spared marks the answer to a probe that was not sent. It cannot come from outside: an answer with a payload is refused.
var spared = []byte("spared")

// shortForm is what a probe, or the answer to one, says.
type shortForm struct {
	kind       byte
	sequence   uint32
	coordinate []byte // peer.CoordinateSize bytes or none
}

// shorten returns the short form of a packet that is a probe of the node by ourselves or the answer to one, and nothing else.
func shorten(packet []byte, self, to string) (f shortForm, ok bool) {
	if len(packet) > checksumOverhead && packet[0] == typeChecksum {
		packet = packet[checksumOverhead:]
	}
	if len(packet) == 0 {
		return f, false
	}
	var handle codec.MsgpackHandle
	dec := codec.NewDecoderBytes(packet[1:], &handle)
	switch packet[0] {
	case typePing:
		var m pingMessage
		if err := dec.Decode(&m); err == nil && m.Node == to && m.SourceNode == self {
			return shortForm{kind: shortPing, sequence: m.SeqNo}, true
		}
	case typeAck:
		var m ackMessage
		if err := dec.Decode(&m); err == nil && (len(m.Payload) == 0 || len(m.Payload) == peer.CoordinateSize) {
			return shortForm{shortAck, m.SeqNo, m.Payload}, true
		}
	}
	return f, false
}

// append appends the short form with a digest.
func (f shortForm) append(b []byte, digest uint64) []byte {
	b = append(b, f.kind)
	b = binary.BigEndian.AppendUint32(b, f.sequence)
	b = binary.BigEndian.AppendUint64(b, digest)
	return append(b, f.coordinate...)
}

// isShort reports whether an opened packet claims to be in short form.
func isShort(packet []byte) bool {
	return len(packet) > 0 && (packet[0] == shortPing || packet[0] == shortAck)
}

// lengthen makes of a short form what memberlist expects, from the node at its memberlist address.
func lengthen(packet []byte, from, to identity.NodeID, mesh identity.MeshID) (long []byte, digest uint64, err error) {
	coordinate := packet[min(shortSize, len(packet)):]
	if placed := len(coordinate) == peer.CoordinateSize && packet[0] == shortAck; len(packet) < shortSize || len(coordinate) > 0 && !placed || from.IsZero() {
		return nil, 0, fmt.Errorf("%w: short form of %d bytes", errPacketForm, len(packet))
	}
	sequence := binary.BigEndian.Uint32(packet[1:])
	digest = binary.BigEndian.Uint64(packet[5:])
	if packet[0] == shortAck {
		long, err = encodeMessage(typeAck, ackMessage{SeqNo: sequence, Payload: coordinate})
		return long, digest, err
	}
	long, err = encodeMessage(typePing, pingMessage{
		SeqNo: sequence, Node: to.String(), SourceAddr: identity.OverlayIPv6(mesh, from).AsSlice(), SourcePort: overlayPort,
		SourceNode: from.String(),
	})
	return long, digest, err
}

func encodeMessage(kind byte, message any) ([]byte, error) {
	out := []byte{kind}
	var body []byte
	var handle codec.MsgpackHandle
	if err := codec.NewEncoderBytes(&body, &handle).Encode(message); err != nil {
		return nil, fmt.Errorf("gossip: encode a message: %w", err)
	}
	return append(out, body...), nil
}
