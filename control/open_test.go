package control_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
)

// testTimeout is how long a test waits for what must happen.
const testTimeout = 20 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// echo sends back what it gets.
func echo(_ context.Context, s *control.Stream) {
	defer s.Close()
	_, _ = io.Copy(s, s)
}

// say sends a message over a stream and returns what comes back.
func say(t testing.TB, s *control.Stream, message string) string {
	t.Helper()
	if _, err := io.WriteString(s, message); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mustOpen(t testing.TB, from, to *controltest.Node, protocol string) *control.Stream {
	t.Helper()
	s, err := from.Host.Open(within(t), to.ID, protocol)
	if err != nil {
		t.Fatalf("%s to %s: %v", from.Name, to.Name, err)
	}
	return s
}

func TestMembersTalkByNodeID(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	if s.Peer().ID != b.ID || s.Peer().Member == nil || s.Peer().Member.Name != b.Name {
		t.Errorf("peer is %+v", s.Peer())
	}
	if s.RemoteAddr().String() != b.ID.String() || s.LocalAddr().String() != a.ID.String() {
		t.Errorf("addresses %s, %s", s.LocalAddr(), s.RemoteAddr())
	}
	if got := say(t, s, "hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestUnknownProtocolsAndPeersAreSaidToBe(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	if _, err := a.Host.Open(within(t), b.ID, "nothing"); !errors.Is(err, control.ErrUnknownProtocol) {
		t.Errorf("unknown protocol: %v", err)
	}
	if _, err := a.Host.Open(within(t), a.ID, "echo"); !errors.Is(err, control.ErrUnknownPeer) {
		t.Errorf("itself: %v", err)
	}
	if _, err := a.Host.Open(within(t), [32]byte{1}, "echo"); !errors.Is(err, control.ErrUnknownPeer) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := a.Host.Open(within(t), b.ID, "Not A Name"); err == nil {
		t.Error("a bad name was opened")
	}
}
