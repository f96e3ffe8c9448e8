package coordinator

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/policy"
)

// Regression: every member wrote the whole state 50 ms after every change, 5.5 MB of a thousand members.
func TestALargeStateIsNotWrittenAgainAndAgain(t *testing.T) {
	const member = 5600 // bytes of one in the file
	if pause := savePause(5 * member); pause > 250*time.Millisecond {
		t.Errorf("the state of five members is kept back for %v", pause)
	}
	if pause := savePause(1000 * member); pause < 30*time.Second || pause > time.Minute {
		t.Errorf("that of a thousand is kept back for %v", pause)
	}
}

// Regression: a node that was killed right after a new policy was in force on it started alone with the one before, as its state had been written a
// moment ago and was let be.
func TestAPolicyIsWrittenAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		last := nodes[2]
		long := "#" + strings.Repeat("x", policy.TextMax-100) + "\n" // the state is let be for longer
		for i, text := range []string{long + pingOnly, "rules: []\n"} {
			set, err := nodes[0].group.SetPolicy(context.Background(), text)
			if err != nil {
				t.Fatal(err)
			}
			last.group.PullSoon(l.leader().id())
			l.eventually(5*time.Second, "in force", func() bool {
				p := last.group.State().Policy
				return p != nil && p.Number == set.Number
			})
			took := l.eventually(5*time.Second, "on the disk", func() bool {
				s, err := readStateFile(filepath.Join(last.dir, meshDir, stateName), nil)
				if err != nil {
					t.Fatal(err)
				}
				return s.Policy != nil && s.Policy.Number == set.Number
			})
			if took > 2*saveDelay {
				t.Errorf("policy %d was on the disk %v after it was in force", i+1, took)
			}
		}
	})
}
