package coordinator

import (
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
)

func TestAClockIsRightIfMostOthersAgree(t *testing.T) {
	const day = aDay
	for name, c := range map[string]struct {
		ahead []time.Duration
		want  clockVerdict
	}{
		"nobody says":                      {nil, clockUnknown},
		"all agree":                        {[]time.Duration{0, time.Second, -4 * time.Minute}, clockRight},
		"just within the bound":            {[]time.Duration{certificate.SkewMax, -certificate.SkewMax}, clockRight},
		"just beyond it":                   {[]time.Duration{certificate.SkewMax + 1, -certificate.SkewMax - 1}, clockWrong},
		"one liar":                         {[]time.Duration{0, 90 * day}, clockRight},
		"two of five lie":                  {[]time.Duration{0, 0, 90 * day, -90 * day}, clockRight},
		"ours is ahead":                    {[]time.Duration{-90 * day, -90 * day}, clockWrong},
		"one word against another":         {[]time.Duration{time.Hour}, clockDisputed},
		"all differ, from us and together": {[]time.Duration{time.Hour, 2 * time.Hour}, clockWrong},
		"as many for us as against":        {[]time.Duration{0, time.Hour, time.Hour}, clockDisputed},
	} {
		if got := judgeClocks(c.ahead); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestVotersClocksCountBeforeThoseOfMembers(t *testing.T) {
	lies := []time.Duration{aDay, aDay, aDay, aDay, aDay}
	for name, c := range map[string]struct {
		voters, members []time.Duration
		want            clockVerdict
	}{
		"members lie, voters agree":        {[]time.Duration{0, 0}, lies, clockRight},
		"members lie for a leader's clock": {[]time.Duration{aDay, aDay}, []time.Duration{0, 0, 0, 0, 0}, clockWrong},
		"a member settles it":              {[]time.Duration{aDay}, []time.Duration{0}, clockRight},
		"no voter answers":                 {nil, lies, clockWrong},
	} {
		if got := weighClocks(c.voters, slices.Concat(c.voters, c.members)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestAClockThatWasSetIsDoubted(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		var c clockWatch
		at := func(off time.Duration) time.Time { return time.Now().Add(off).Round(0) }
		c.now(1, at(0))
		c.conclude(1, clockRight, at(0))
		time.Sleep(time.Hour)
		for _, step := range []struct {
			term uint64
			off  time.Duration
			want clockVerdict
		}{{1, 30 * time.Second, clockRight}, {1, 2 * time.Minute, clockUnknown}, {1, 2 * time.Minute, clockUnknown}} {
			if got := c.now(step.term, at(step.off)); got != step.want {
				t.Errorf("off by %s: %d, want %d", step.off, got, step.want)
			}
		}
		c.conclude(1, clockRight, at(0))
		if c.now(1, at(-2*time.Minute)) != clockUnknown {
			t.Error("set back, and still believed")
		}
		c.conclude(1, clockRight, at(0))
		if c.now(2, at(0)) != clockUnknown {
			t.Error("believed in another term")
		}
	})
}

// Regression: a leader whose clock was 90 days ahead renewed everybody's certificate at once, from a time that for the others had not come. Nobody
// spoke with anybody until it had.
func TestALeaderWithAWrongClockLocksNobodyOut(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 90 * aDay, "behind": -90 * aDay, "a little": 20 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				nodes := l.mesh(3)
				settle(l, 3)
				late := l.node(3)
				leader := l.leader()
				leader.off.Store(int64(off))
				asked := nodes[0]
				if asked == leader {
					asked = nodes[1]
				}
				token := asked.invite(InviteSpec{}) // at once: another leader has to sign
				l.eventually(5*time.Second, "another leads", func() bool { now := l.leader(); return now != nil && now != leader })
				late.join(asked, token)
				for _, m := range l.leader().group.State().Members {
					if untimely(m.Certificate, l.now()) {
						t.Errorf("the certificate of %s holds from %s to %s, it is %s", m.Certificate.Name, m.Certificate.NotBefore, m.Certificate.NotAfter, l.now())
					}
				}
				leader.off.Store(0)
				l.eventually(10*time.Second, "all have the same state", func() bool {
					return leader.group.State().Digest() == l.leader().group.State().Digest()
				})
			})
		})
	}
}

// Who votes alone has nobody to compare with: the board computer without a battery, whose clock is right only after a while.
func TestWhatAClockThatWasAheadHasWrittenIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		m := guest(l, 1, first)
		first.off.Store(int64(60 * aDay))
		l.eventually(20*time.Second, "it renews itself, too early", func() bool { return fromAhead(certificateOf(first.group, first.id()), l.now()) })
		first.off.Store(0)
		l.eventually(20*time.Second, "the certificate from the future is replaced", func() bool {
			return !untimely(certificateOf(first.group, first.id()), l.now())
		})
		m.open()
		l.eventually(20*time.Second, "the others go on with it", func() bool { return m.group.State().Digest() == first.group.State().Digest() })
	})
}
