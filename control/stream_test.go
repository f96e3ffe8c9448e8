package control_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
)

// accepted lets a test have both ends of a stream.
func accepted(t *testing.T, from, to *controltest.Node) (ours, theirs *control.Stream) {
	t.Helper()
	arrived := make(chan *control.Stream, 1)
	to.Host.Handle("pair", control.MembersOnly, func(_ context.Context, s *control.Stream) {
		arrived <- s
		<-s.Context().Done() // passed on: wait until the other goroutine has closed it
	})
	ours = mustOpen(t, from, to, "pair")
	select {
	case theirs = <-arrived:
	case <-within(t).Done():
		t.Fatal("the stream did not arrive")
	}
	t.Cleanup(func() { ours.Reset(); theirs.Reset() })
	return ours, theirs
}

func TestTheExporterTiesBothEndsOfOneConnection(t *testing.T) {
	m := controltest.New(t, 3)
	ours, theirs := accepted(t, m.Nodes[0], m.Nodes[1])
	elsewhere, _ := accepted(t, m.Nodes[0], m.Nodes[2])
	export := func(s *control.Stream, label, context string) [32]byte {
		b, err := s.Exporter(label, []byte(context))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	want := export(ours, "psk", "7")
	if export(theirs, "psk", "7") != want {
		t.Error("the ends disagree")
	}
	for name, got := range map[string][32]byte{
		"label": export(theirs, "psk2", "7"), "context": export(theirs, "psk", "8"), "connection": export(elsewhere, "psk", "7"),
	} {
		if got == want {
			t.Errorf("another %s gives the same", name)
		}
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	m := controltest.New(t, 2)
	ours, theirs := accepted(t, m.Nodes[0], m.Nodes[1])
	sent := strings.Repeat("x", 100_000)
	if _, err := io.WriteString(ours, sent); err != nil {
		t.Fatal(err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(theirs); err != nil || string(got) != sent {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestCloseFreesABlockedWriter(t *testing.T) {
	m := controltest.New(t, 2)
	ours, theirs := accepted(t, m.Nodes[0], m.Nodes[1])
	done := make(chan error, 1)
	go func() {
		_, err := ours.Write(make([]byte, 64<<20)) // more than any window
		done <- err
	}()
	if _, err := io.ReadFull(theirs, make([]byte, 1)); err != nil { // the writer is at work
		t.Fatal(err)
	}
	_ = ours.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the writer got %v", err)
	}
	if _, err := io.Copy(io.Discard, theirs); !errors.Is(err, control.ErrReset) {
		t.Errorf("the reader got %v", err)
	}
}

func TestResetBreaksTheStreamOff(t *testing.T) {
	m := controltest.New(t, 2)
	ours, theirs := accepted(t, m.Nodes[0], m.Nodes[1])
	ours.Reset()
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, control.ErrReset) {
		t.Errorf("got %v", err)
	}
	if !m.Nodes[0].Host.Connected(m.Nodes[1].ID) {
		t.Error("the connection went with the stream")
	}
}

func TestDeadlinesAreThoseOfANetConn(t *testing.T) {
	m := controltest.New(t, 2)
	ours, theirs := accepted(t, m.Nodes[0], m.Nodes[1])
	if err := ours.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := ours.Read(make([]byte, 1))
	var late net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("got %v", err)
	}
	if err := ours.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the deadline was lifted: %v", err)
	}
}

// ourGoroutines returns the stacks of goroutines in this package or in quic-go, without the test's own.
func ourGoroutines() []string {
	buf := make([]byte, 1<<20)
	var ours []string
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "testing.tRunner") {
			continue
		}
		if strings.Contains(stack, "phantommesh/control") || strings.Contains(stack, "quic-go") {
			ours = append(ours, stack)
		}
	}
	return ours
}

func TestNoGoroutineOutlivesItsHost(t *testing.T) {
	t.Run("busy", func(t *testing.T) {
		m := controltest.New(t, 3)
		for _, n := range m.Nodes {
			n.Host.Handle("echo", control.MembersOnly, echo)
			n.Host.Handle("hold", control.MembersOnly, func(ctx context.Context, s *control.Stream) { <-ctx.Done(); s.Close() })
		}
		for _, a := range m.Nodes {
			for _, b := range m.Nodes {
				if a != b {
					s := mustOpen(t, a, b, "echo")
					_ = say(t, s, "x")
					s.Close()
					_ = mustOpen(t, a, b, "hold") // left open
				}
			}
		}
		silent, err := newAttacker(t, m.Network).connect(m.Nodes[0]) // in its hello when the host closes
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the silent one is taken in", func() bool { return m.Nodes[0].Host.Stats().Strangers == 1 })
		m.Nodes[2].Port.Vanish()
		m.Nodes[0].Host.Suspect(m.Nodes[2].ID)
		began := time.Now()
		m.Nodes[0].Stop()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Close took %v", took)
		}
		<-silent.Context().Done()
	})
	eventually(t, "all goroutines have ended", func() bool { return len(ourGoroutines()) == 0 })
}

func benchmarkOpen(b *testing.B, before func(m *controltest.Mesh)) {
	m := controltest.New(b, 2)
	from, to := m.Nodes[0], m.Nodes[1]
	to.Host.Handle("echo", control.MembersOnly, echo)
	message := strings.Repeat("x", 1024)
	b.ReportAllocs()
	for b.Loop() {
		before(m)
		s := mustOpen(b, from, to, "echo")
		if got := say(b, s, message); got != message {
			b.Fatalf("%d bytes", len(got))
		}
		s.Close()
	}
}

// BenchmarkWarm is a stream with 1 KB there and back on a connection that is up.
func BenchmarkWarm(b *testing.B) { benchmarkOpen(b, func(*controltest.Mesh) {}) }

// BenchmarkCold is the same with a new connection every time: handshake, hello, stream; both ends on one machine.
func BenchmarkCold(b *testing.B) {
	benchmarkOpen(b, func(m *controltest.Mesh) {
		m.Nodes[0].Host.Disconnect(m.Nodes[1].ID, control.ReasonClosing)
	})
}
