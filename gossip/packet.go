package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A memberlist message is a type byte and a body. These are the types (memberlist v0.7 net.go); the numbers are its protocol.
const (
	typePing         = 0
	typeIndirectPing = 1
	typeAck          = 2
	typeSuspect      = 3
	typeAlive        = 4
	typeDead         = 5
	typePushPull     = 6
	typeCompound     = 7
	typeUser         = 8
	typeNack         = 11
	typeChecksum     = 12
	typeError        = 13
)

var errPacketForm = errors.New("gossip: malformed packet")

// walk calls visit for every message of a packet as memberlist would take it apart:
//
//	[12, CRC-32] then one message, or [7, count, count × 2-byte length] and count messages
//
// It refuses what honest members never send and memberlist would follow anywhere: packs inside packs, compression, cut messages.
func walk(packet []byte, visit func(kind byte, body []byte)) error {
	if len(packet) >= checksumOverhead && packet[0] == typeChecksum {
		packet = packet[checksumOverhead:]
	}
	if len(packet) == 0 {
		return fmt.Errorf("%w: empty", errPacketForm)
	}
	if packet[0] != typeCompound {
		return walkOne(packet, visit)
	}
	if len(packet) < 2 {
		return fmt.Errorf("%w: pack without a count", errPacketForm)
	}
	count, rest := int(packet[1]), packet[2:]
	if len(rest) < 2*count {
		return fmt.Errorf("%w: pack of %d messages without their lengths", errPacketForm, count)
	}
	lengths, rest := rest[:2*count], rest[2*count:]
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(rest) {
			return fmt.Errorf("%w: message %d of a pack is cut short", errPacketForm, i+1)
		}
		if err := walkOne(rest[:n], visit); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes after the last message", errPacketForm, len(rest))
	}
	return nil
}

func walkOne(message []byte, visit func(kind byte, body []byte)) error {
	if len(message) == 0 {
		return fmt.Errorf("%w: empty message", errPacketForm)
	}
	switch kind := message[0]; kind {
	case typePing, typeIndirectPing, typeAck, typeSuspect, typeAlive, typeDead, typeUser, typeNack:
		visit(kind, message[1:])
		return nil
	default:
		return fmt.Errorf("%w: message of type %d", errPacketForm, kind)
	}
}

// subjectOf returns whom a message is about that says that a node is alive, suspect or dead.
func subjectOf(body []byte) (id identity.NodeID, ok bool) {
	var m struct{ Node string }
	var handle codec.MsgpackHandle
	if err := codec.NewDecoderBytes(body, &handle).Decode(&m); err != nil {
		return id, false
	}
	id, err := identity.ParseNodeID(m.Node)
	return id, err == nil
}

// packOf is the packet of messages; empty of none.
func packOf(messages [][]byte) []byte {
	switch len(messages) {
	case 0:
		return nil
	case 1:
		return messages[0]
	}
	out := []byte{typeCompound, byte(len(messages))}
	for _, m := range messages {
		out = binary.BigEndian.AppendUint16(out, uint16(len(m)))
	}
	for _, m := range messages {
		out = append(out, m...)
	}
	return out
}
