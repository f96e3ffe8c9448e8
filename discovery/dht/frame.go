package dht

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Protocol is the name of the table's streams in the control plane. A stream carries one question and its answer:
//
//	question  role (1 byte: 0 client, 1 server) ‖ message
//	answer    message
//	message   length (uvarint) ‖ kad-dht's protobuf
const Protocol = "dht"

const (
	// messageMax is the largest message in bytes: a value and 2 × bucketSize peers of some 50 bytes each, with their framing.
	messageMax = ValueMax + 2<<10
	// questionTime is how long who asks may take for its question, and to take the answer.
	questionTime = 10 * time.Second
	// answerTime bounds a question to one member as a whole, with a path and a connection that may have to be made for it. A dead member holds up
	// one of a lookup's concurrency questions for as long.
	answerTime = 5 * time.Second
)

// The roles of who asks.
const (
	roleClient byte = 0 // asks only
	roleServer byte = 1 // answers too: it may go into the routing table
)

var errFrame = errors.New("dht: malformed message")

// readMessage reads one message, with its length in front. It allocates no more than messageMax, whatever is claimed.
func readMessage(r *bufio.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > messageMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, messageMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}

// readQuestion reads what a stream begins with.
func readQuestion(r *bufio.Reader) (role byte, message []byte, err error) {
	if role, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	if role > roleServer {
		return 0, nil, fmt.Errorf("%w: role %d", errFrame, role)
	}
	message, err = readMessage(r)
	return role, message, err
}

// appendMessage appends a message with its length.
func appendMessage(b, message []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(message))), message...)
}
