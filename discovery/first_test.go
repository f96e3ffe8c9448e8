package discovery

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// names is a resolver; a name without addresses never answers.
type names map[string][]netip.Addr

func (n names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if list, ok := n[host]; !ok {
		return nil, errors.New("no such host")
	} else if list != nil {
		return list, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// answering returns a contact function whose addresses answer after a time; others never do.
func answering(after map[string]time.Duration, running *atomic.Int32) func(context.Context, netip.AddrPort) error {
	return func(ctx context.Context, a netip.AddrPort) error {
		running.Add(1)
		defer running.Add(-1)
		d, ok := after[a.String()]
		if !ok {
			<-ctx.Done()
			return ctx.Err()
		}
		if d < 0 {
			return errors.New("refused")
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestTheFirstAnswerWinsAndEndsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Bootstrap{Resolver: names{
			"slow.example": nil,
			"two.example":  {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		}}
		var running atomic.Int32
		start := time.Now()
		got, err := b.FirstAnswer(t.Context(),
			[]string{"slow.example:1", "192.0.2.9:9", "two.example:2", "nowhere.example:1", "192.0.2.8:8"},
			answering(map[string]time.Duration{
				"192.0.2.1:2": time.Second, "[2001:db8::1]:2": 300 * time.Millisecond, "192.0.2.8:8": -1,
			}, &running))
		if err != nil {
			t.Fatal(err)
		}
		if got.Target != "two.example:2" || got.Addr.String() != "[2001:db8::1]:2" || len(got.Failures) != 2 {
			t.Errorf("got %+v", got)
		}
		if d := time.Since(start); d != 300*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if running.Load() != 0 {
			t.Error("a contact still runs")
		}
	})
}

func TestEveryFailureIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Bootstrap{Resolver: names{"slow.example": nil, "good.example": {netip.MustParseAddr("192.0.2.1")}}}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var running atomic.Int32
		targets := []string{"slow.example:1", "good.example:1", "nowhere.example:1", "no-port", "192.0.2.2:0", ":5", "[fe80::1]:7"}
		start := time.Now()
		_, err := b.FirstAnswer(ctx, targets, answering(map[string]time.Duration{"192.0.2.1:1": -1}, &running))
		var none *NoAnswerError
		if !errors.As(err, &none) || !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		for _, target := range targets {
			if !strings.Contains(err.Error(), target) {
				t.Errorf("%q does not tell of %s", err, target)
			}
		}
		if d := time.Since(start); d != 20*time.Second || running.Load() != 0 {
			t.Errorf("took %v, %d running", d, running.Load())
		}
	})
}

func TestTargetsAreBoundedAndTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many []string
		for range TargetsMax + 5 {
			many = append(many, "192.0.2.1:1")
		}
		var calls atomic.Int32
		_, err := FirstAnswer(t.Context(), many, func(context.Context, netip.AddrPort) error {
			calls.Add(1)
			return errors.New("refused")
		})
		if calls.Load() != 1 || err == nil {
			t.Errorf("%d calls, %v", calls.Load(), err)
		}
		if _, err := FirstAnswer(t.Context(), nil, nil); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("got %v", err)
		}
	})
}
