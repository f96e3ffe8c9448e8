package coordinator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func TestAMembersQuestionsHaveAPaceOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a askers
		start := time.Now()
		for range askBurst + askRate {
			if err := a.wait(context.Background(), identity.NodeID{1}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("%d questions over the burst took %v, want a second", askRate, took)
		}
		now := time.Now()
		if err := a.wait(context.Background(), identity.NodeID{2}); err != nil || time.Since(now) > 0 {
			t.Errorf("another member waited %v for it: %v", time.Since(now), err)
		}
	})
}
