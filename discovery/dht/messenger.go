package dht

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	libp2p "github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// messenger asks other members on behalf of kad-dht: one stream of the control plane for each question. The connection below is shared with all
// other protocols, so a question to a member that we are talking to anyway costs one round trip and no handshake.
type messenger struct {
	control Control
	role    func() byte
	// answered is told of every member that has answered.
	answered func(libp2p.ID)

	requests, failed   atomic.Uint64
	sentTo, receivedBy atomic.Uint64 // bytes of questions and of their answers
}

var _ kadpb.MessageSenderWithDisconnect = (*messenger)(nil)

// SendRequest asks a member and returns its answer.
func (m *messenger) SendRequest(ctx context.Context, p libp2p.ID, question *kadpb.Message) (*kadpb.Message, error) {
	m.requests.Add(1)
	answer, err := m.ask(ctx, p, question)
	if err != nil {
		m.failed.Add(1)
		return nil, err
	}
	m.answered(p)
	return answer, nil
}

// SendMessage is SendRequest: each message of the protocol has an answer, but that of provider records, which are off.
func (m *messenger) SendMessage(ctx context.Context, p libp2p.ID, message *kadpb.Message) error {
	_, err := m.SendRequest(ctx, p, message)
	return err
}

// OnDisconnect does nothing: no stream outlives its question.
func (m *messenger) OnDisconnect(context.Context, libp2p.ID) {}

func (m *messenger) ask(ctx context.Context, p libp2p.ID, question *kadpb.Message) (*kadpb.Message, error) {
	id, ok := nodeIDOf(p)
	if !ok {
		return nil, errors.New("dht: not a node ID")
	}
	body, err := proto.Marshal(question)
	if err != nil {
		return nil, err
	}
	if len(body) > messageMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errFrame, len(body), messageMax)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := m.control.Open(ctx, id, Protocol)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Reset)()
	b := appendMessage([]byte{m.role()}, body)
	if _, err := s.Write(b); err != nil {
		return nil, err
	}
	_ = s.CloseWrite() // fails if the answer was faster and the other end is done with the stream; any other fault shows when it is read
	m.sentTo.Add(uint64(len(b)))
	if body, err = readMessage(bufio.NewReader(s)); err != nil {
		return nil, fmt.Errorf("dht: answer of %s: %w", id.Short(), err)
	}
	m.receivedBy.Add(uint64(len(body)))
	answer := new(kadpb.Message)
	if err := proto.Unmarshal(body, answer); err != nil {
		return nil, fmt.Errorf("%w: answer of %s: %w", errFrame, id.Short(), err)
	}
	if err := fits(question, answer); err != nil {
		return nil, fmt.Errorf("%w: answer of %s: %w", errFrame, id.Short(), err)
	}
	return answer, nil
}

// fits refuses answers that kad-dht does not expect: it takes the record in the answer to one that it had stored for given, and would end the
// process if there is none.
func fits(question, answer *kadpb.Message) error {
	switch {
	case answer.Type != question.Type:
		return fmt.Errorf("%v is answered with %v", question.Type, answer.Type)
	case question.Type == kadpb.Message_PUT_VALUE && answer.GetRecord() == nil:
		return errors.New("no record in the answer to one that was to be stored")
	}
	return nil
}
