package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// mesh makes n public hosts in one mesh.
func mesh(w *World, n int) ([]*Host, error) {
	ctx := context.Background()
	for i := range n {
		h := w.AddHost(Placement{Name: fmt.Sprintf("n%d", i+1), Region: "home", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(2 + i/250), byte(1 + i%250)})}})
		if err := h.Start(); err != nil {
			return nil, err
		}
		entry := localapi.Entry{New: "lab"}
		if i > 0 {
			invite, err := w.hosts[0].Node().Invite(ctx, localapi.InviteRequest{})
			if err != nil {
				return nil, err
			}
			entry = localapi.Entry{Token: invite.Token}
		}
		if err := h.Enter(ctx, entry); err != nil {
			return nil, err
		}
	}
	return w.hosts, nil
}

func TestAKilledNodeComesBackFromItsDisk(t *testing.T) {
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		hosts, err := mesh(w, 2)
		if err != nil {
			return err
		}
		reaches := func() bool { _, err := w.Ping(hosts[0], hosts[1], time.Second); return err == nil }
		if ok, err := w.Await(10*time.Second, time.Second, reaches); !ok {
			return fmt.Errorf("no ping gets through a fresh mesh: %w", err)
		}
		id := hosts[1].ID()
		if err := hosts[1].Kill(); err != nil {
			return err
		}
		if reaches() {
			t.Error("a killed node answers")
		}
		if err := hosts[1].Start(); err != nil {
			return err
		}
		if ok, err := w.Await(30*time.Second, time.Second, reaches); !ok {
			return fmt.Errorf("it is not back: %w", err)
		}
		if hosts[1].ID() != id || hosts[1].Node().ID().String() != id || hosts[1].Lives() != 2 {
			t.Error("it is another node")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheCallerEndsARun(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	err := Bubble(ctx, Config{Dir: t.TempDir(), Progress: func(d time.Duration) {
		if d > 5*time.Second {
			cancel()
		}
	}}, func(w *World) error { return w.Sleep(time.Hour) })
	if !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
}

func TestAPanicInABubbleIsAnError(t *testing.T) {
	err := Bubble(context.Background(), Config{Seed: 42, Dir: t.TempDir()}, func(*World) error { panic("planted") })
	if err == nil || !strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), "seed 42") {
		t.Error(err)
	}
}

func TestWhatABubbleLeavesBehindIsNamed(t *testing.T) {
	err := Bubble(context.Background(), Config{Seed: 42, Dir: t.TempDir()}, func(*World) error {
		go func() { <-make(chan int) }()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "TestWhatABubbleLeavesBehindIsNamed") {
		t.Error(err)
	}
}

// Regression: connections of TCP, which nodes fall back to where UDP is lost, got through cables that were cut.
func TestWhatIsLostIsLostForTCPToo(t *testing.T) {
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		hosts, err := mesh(w, 2)
		if err != nil {
			return err
		}
		reaches := func() bool { _, err := w.Ping(hosts[0], hosts[1], time.Second); return err == nil }
		if ok, err := w.Await(10*time.Second, time.Second, reaches); !ok {
			return fmt.Errorf("no ping gets through a fresh mesh: %w", err)
		}
		w.Degrade(hosts[1].name, Quality{Loss: 1})
		if ok, _ := w.Await(2*time.Minute, time.Second, reaches); ok {
			t.Error("a ping came through a cable that is cut")
		}
		w.Degrade(hosts[1].name, Quality{})
		if ok, err := w.Await(time.Minute, time.Second, reaches); !ok {
			return fmt.Errorf("it is not back: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
