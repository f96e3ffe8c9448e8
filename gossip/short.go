package gossip

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A probe names both nodes in text, two addresses and all its fields. Who sent a packet and whom it is for are known here without, so a
// probe or its answer that carries nothing else travels in a form of 13 bytes in place of 190 and 30:
//
//	+------+----------------------------+--------------------------------
//	| kind | sequence number (4, big end) | digest of the roster (8, big end)
//	+------+----------------------------+--------------------------------
const (
	shortPing = 0x20 // kinds that memberlist has not
	shortAck  = 0x21
	shortSize = 1 + 4 + 8
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

// shorten returns the kind and sequence number of a packet that is a probe of the node by ourselves or the answer to one, and nothing else.
func shorten(packet []byte, self, to string) (kind byte, sequence uint32, ok bool) {
	if len(packet) > checksumOverhead && packet[0] == typeChecksum {
		packet = packet[checksumOverhead:]
	}
	if len(packet) == 0 {
		return 0, 0, false
	}
	var handle codec.MsgpackHandle
	dec := codec.NewDecoderBytes(packet[1:], &handle)
	switch packet[0] {
	case typePing:
		var m pingMessage
		if err := dec.Decode(&m); err == nil && m.Node == to && m.SourceNode == self {
			return shortPing, m.SeqNo, true
		}
	case typeAck:
		var m ackMessage
		if err := dec.Decode(&m); err == nil && len(m.Payload) == 0 {
			return shortAck, m.SeqNo, true
		}
	}
	return 0, 0, false
}

// appendShort appends the short form.
func appendShort(b []byte, kind byte, sequence uint32, digest uint64) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, sequence)
	return binary.BigEndian.AppendUint64(b, digest)
}

// isShort reports whether an opened packet claims to be in short form.
func isShort(packet []byte) bool {
	return len(packet) > 0 && (packet[0] == shortPing || packet[0] == shortAck)
}

// lengthen makes of a short form what memberlist expects, from the node at its memberlist address.
func lengthen(packet []byte, from, to identity.NodeID, mesh identity.MeshID) (long []byte, digest uint64, err error) {
	if len(packet) != shortSize || from.IsZero() {
		return nil, 0, fmt.Errorf("%w: short form of %d bytes", errPacketForm, len(packet))
	}
	sequence := binary.BigEndian.Uint32(packet[1:])
	digest = binary.BigEndian.Uint64(packet[5:])
	if packet[0] == shortAck {
		long, err = encodeMessage(typeAck, ackMessage{SeqNo: sequence})
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
