package control_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t)
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func TestManyOpensShareOneDial(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			s, err := a.Host.Open(within(t), b.ID, "echo")
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got := say(t, s, "x"); got != "x" {
				t.Errorf("got %q", got)
			}
		})
	}
	all.Wait()
	if st := a.Host.Stats(); st.Dials != 1 || st.Connections != 1 {
		t.Errorf("%d dials, %d connections", st.Dials, st.Connections)
	}
	if got := a.Port.Connects(); got != 1 {
		t.Errorf("the underlay was asked %d times", got)
	}
	// And the way back is the same connection.
	a.Host.Handle("echo", control.MembersOnly, echo)
	mustOpen(t, b, a, "echo").Close()
	if st := b.Host.Stats(); st.Dials != 0 {
		t.Errorf("%d dials back", st.Dials)
	}
}

// TestBothSidesDialingConverge lets two nodes dial each other at the same moment, again and again: no stream may break, and in the
// end both use the same connection.
func TestBothSidesDialingConverge(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	for _, n := range m.Nodes {
		n.Host.Handle("echo", control.MembersOnly, echo)
	}
	var early []*control.Stream
	var mu sync.Mutex
	var all sync.WaitGroup
	start := make(chan struct{})
	for _, pair := range [][2]*controltest.Node{{a, b}, {b, a}} {
		for range 5 {
			all.Go(func() {
				<-start
				s, err := pair[0].Host.Open(within(t), pair[1].ID, "echo")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				early = append(early, s)
				mu.Unlock()
			})
		}
	}
	close(start)
	all.Wait()
	// What is opened from now on goes one way, whoever opens it: the exporter tells connections apart.
	eventually(t, "both sides use one connection", func() bool {
		x, y := mustOpen(t, a, b, "echo"), mustOpen(t, b, a, "echo")
		defer x.Close()
		defer y.Close()
		ex, err1 := x.Exporter("test", nil)
		ey, err2 := y.Exporter("test", nil)
		return err1 == nil && err2 == nil && ex == ey
	})
	for _, s := range early {
		if got := say(t, s, "still here"); got != "still here" {
			t.Errorf("a stream opened in the race says %q", got)
		}
		s.Close()
	}
}

func TestARestartedPeerIsNoticed(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	old := mustOpen(t, a, b, "echo")
	defer old.Close()

	b.Kill()
	b.Start()
	b.Host.Handle("echo", control.MembersOnly, echo)
	began := time.Now()
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	if got := say(t, s, "again"); got != "again" {
		t.Errorf("got %q", got)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a restart was noticed only after %v", took)
	}
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, control.ErrConnectionLost) {
		t.Errorf("the stream to the run before: %v", err)
	}
}

func TestAPeerThatComesBackByItselfReplacesItsOldConnection(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	for _, n := range m.Nodes {
		n.Host.Handle("echo", control.MembersOnly, echo)
	}
	mustOpen(t, a, b, "echo").Close()
	b.Kill()
	b.Start()
	mustOpen(t, b, a, "echo").Close()
	eventually(t, "only the connection with the new run is left", func() bool {
		conns := a.Host.Conns()
		return len(conns) == 1 && !conns[0].Dialed
	})
}

func TestSuspicionDropsADeadConnection(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	mustOpen(t, a, b, "echo").Close()
	a.Host.Suspect(b.ID) // alive: nothing happens
	b.Port.Vanish()
	eventually(t, "the dead connection is dropped", func() bool {
		a.Host.Suspect(b.ID)
		return !a.Host.Connected(b.ID)
	})
	if _, err := a.Host.Open(within(t), b.ID, "echo"); !errors.Is(err, controltest.ErrUnreachable) {
		t.Errorf("open to a node that is gone: %v", err)
	}
}

func TestACallerThatGivesUpDoesNotWaitForTheDial(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	mustOpen(t, a, b, "echo").Close()
	m.Network.Cut(a.ID, b.ID)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Host.Open(ctx, b.ID, "echo"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on a dead connection: %v", err)
	}
	m.Network.Heal(a.ID, b.ID)
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	if got := say(t, s, "healed"); got != "healed" {
		t.Errorf("got %q", got)
	}
}

func TestIdleConnectionsEndAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := controltest.New(t, 2)
		a, b := m.Nodes[0], m.Nodes[1]
		b.Host.Handle("echo", control.MembersOnly, echo)
		mustOpen(t, a, b, "echo").Close()
		time.Sleep(2 * time.Minute) // virtual
		if a.Host.Connected(b.ID) || b.Host.Connected(a.ID) {
			t.Error("an idle connection is kept")
		}
		s := mustOpen(t, a, b, "echo")
		defer s.Close()
		if got := say(t, s, "back"); got != "back" {
			t.Errorf("got %q", got)
		}
	})
}

// TestAPeerThatFallsSilentIsGivenUp has the network swallow everything: Open must neither hang nor keep the dead connection.
func TestAPeerThatFallsSilentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := controltest.New(t, 2)
		a, b := m.Nodes[0], m.Nodes[1]
		b.Host.Handle("echo", control.MembersOnly, echo)
		mustOpen(t, a, b, "echo").Close()
		m.Network.Swallow(a.ID, b.ID)
		began := time.Now()
		if _, err := a.Host.Open(within(t), b.ID, "echo"); !errors.Is(err, control.ErrUnresponsive) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("given up after %v", took)
		}
		m.Network.Heal(a.ID, b.ID)
		mustOpen(t, a, b, "echo").Close()
	})
}

func TestDisconnectEndsStreamsWithTheReason(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	b.Host.Handle("echo", control.MembersOnly, echo)
	s := mustOpen(t, a, b, "echo")
	defer s.Close()
	b.Host.Disconnect(a.ID, control.ReasonRevoked)
	_, err := s.Read(make([]byte, 1))
	var refused *control.Refused
	if !errors.As(err, &refused) || refused.Code != uint64(control.ReasonRevoked) || refused.Ours || refused.Peer != b.ID {
		t.Errorf("the peer's stream says: %v", err)
	}
	if _, err := s.Write([]byte("x")); !errors.As(err, &refused) {
		t.Errorf("and writing: %v", err)
	}
	eventually(t, "both know they are not connected", func() bool {
		return !a.Host.Connected(b.ID) && !b.Host.Connected(a.ID)
	})
}

func TestWatchersHearOfPeersComingAndGoing(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	type event struct {
		id identity.NodeID
		up bool
	}
	heard := make(chan event, 10)
	b.Host.OnConnection(func(p control.Peer, up bool) { heard <- event{p.ID, up} })
	b.Host.Handle("echo", control.MembersOnly, echo)
	mustOpen(t, a, b, "echo").Close()
	if e := <-heard; e != (event{a.ID, true}) {
		t.Errorf("heard %+v", e)
	}
	a.Host.Disconnect(b.ID, control.ReasonClosing)
	if e := <-heard; e != (event{a.ID, false}) {
		t.Errorf("heard %+v", e)
	}
}

func TestCloseEndsHandlersAndTellsPeers(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	ended := make(chan struct{})
	b.Host.Handle("hold", control.MembersOnly, func(ctx context.Context, s *control.Stream) {
		defer close(ended)
		defer s.Close()
		<-ctx.Done()
	})
	s := mustOpen(t, a, b, "hold")
	defer s.Close()
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Close did not wait for the handler")
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the peer's stream: %v", err)
	}
	if _, err := b.Host.Open(within(t), a.ID, "hold"); !errors.Is(err, control.ErrClosed) {
		t.Errorf("open on a closed host: %v", err)
	}
}
