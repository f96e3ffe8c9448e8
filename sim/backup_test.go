package sim

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// oldDisk is what must never be done: an old copy of the folder is put back, and the node on it believes what it says.
type oldDisk struct {
	lasting
	back  bool
	where map[*Host]string
}

func (*oldDisk) Kind() string { return "old-disk" }
func (f *oldDisk) begin(p *play, who []*Host) {
	for _, h := range who {
		if !f.back {
			f.where[h] = h.folder + ".old"
			p.failed(copyFolder(f.where[h], h.folder))
			continue
		}
		p.failed(h.Kill())
		h.folder = f.where[h]
		p.failed(h.Start())
	}
}

// runWithCopies plays the beginning of old-backup, with copies of folders in place of backups if raw.
func runWithCopies(t *testing.T, raw bool) *Result {
	t.Helper()
	s, err := Find("old-backup")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shorten(5 * time.Minute); err != nil {
		t.Fatal(err)
	}
	where := map[*Host]string{}
	for i, step := range s.Timeline {
		switch step.Fault.(type) {
		case backUp:
			if raw {
				s.Timeline[i].Fault = &oldDisk{where: where}
			}
		case restore:
			if raw {
				s.Timeline[i].Fault = &oldDisk{back: true, where: where}
			}
		}
	}
	r, err := Play(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARestoredVoterNeverVotesTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	for _, v := range runWithCopies(t, false).Violations {
		t.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
	}
}

// The same with a voter that does vote twice: were nothing found then, the scenario would prove nothing.
func TestAVoterThatForgetsIsFoundOut(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	found := map[string]bool{}
	for _, v := range runWithCopies(t, true).Violations {
		found[v.Checker] = true
	}
	if !found["decisions-last"] && !found["audit-chain"] {
		t.Errorf("a decision was lost, and the checkers have found %s", fmt.Sprint(found))
	}
}
