package coordinator

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// Each row is a voter with patience 400 and hold 400 that is asked at 1000 by candidate b for its pre-vote of term 3, and looks at it at now.
func TestAPreVoteGoesToOneCandidateOnceTheLeaderIsLost(t *testing.T) {
	ask := ballot{candidate: "b", term: 3, lastTerm: 2, lastIndex: 10}
	led := func(now, heard int) standing {
		return standing{now: at(now), state: raft.Follower, led: true, heard: at(heard)}
	}
	rival := func(b ballot) promises { return promises{own: b, ownUntil: at(1300)} }
	candidate := standing{now: at(1000), state: raft.Candidate, heard: at(500)}
	for name, c := range map[string]struct {
		p    promises
		s    standing
		want verdict
		at   int // of notYet
	}{
		"the leader is lost":                             {s: led(1000, 600), want: leaderIsLost},
		"the leader was heard lately":                    {s: led(1000, 700), want: notYet, at: 1100},
		"the leader is heard again":                      {s: led(1050, 1020), want: raftDecides},
		"kept for long enough":                           {s: led(1400, 1000), want: raftDecides},
		"no longer than a question is kept":              {s: led(1300, 999), want: notYet, at: 1399},
		"a follower that knows no leader":                {s: standing{now: at(1000), state: raft.Follower, heard: at(990)}, want: leaderIsLost},
		"a leader":                                       {s: standing{now: at(1000), state: raft.Leader}, want: raftDecides},
		"a candidate without backing is bound":           {p: promises{own: ballot{"9", 3, 2, 10}, ownUntil: at(1300), to: ballot{"a", 3, 2, 10}, toUntil: at(1250)}, s: candidate, want: notYet, at: 1250},
		"a backed candidate gives way to a better one":   {p: promises{own: ballot{"9", 3, 2, 10}, ownUntil: at(1300), backed: true, to: ballot{"a", 3, 2, 10}, toUntil: at(1250)}, s: candidate, want: leaderIsLost},
		"a backed candidate keeps the better one":        {p: promises{own: ballot{"9", 3, 2, 10}, ownUntil: at(1300), backed: true, to: ballot{"c", 3, 2, 10}, toUntil: at(1250)}, s: candidate, want: notYet, at: 1250},
		"promised to another":                            {p: promises{to: ballot{candidate: "a"}, toUntil: at(1250)}, s: led(1000, 100), want: notYet, at: 1250},
		"promised to the same":                           {p: promises{to: ballot{candidate: "b"}, toUntil: at(1250)}, s: led(1000, 100), want: leaderIsLost},
		"a promise that is over":                         {p: promises{to: ballot{candidate: "a"}, toUntil: at(1000)}, s: led(1000, 100), want: leaderIsLost},
		"a rival with the greater ID keeps its own":      {p: rival(ballot{"c", 3, 2, 10}), s: candidate, want: notYet, at: 1300},
		"a rival with the smaller ID gives way":          {p: rival(ballot{"a", 3, 2, 10}), s: candidate, want: leaderIsLost},
		"a rival with the shorter log gives way":         {p: rival(ballot{"c", 3, 2, 9}), s: candidate, want: leaderIsLost},
		"a rival with the longer log keeps its own":      {p: rival(ballot{"a", 3, 2, 11}), s: candidate, want: notYet, at: 1300},
		"a rival with the later log keeps its own":       {p: rival(ballot{"a", 3, 3, 1}), s: candidate, want: notYet, at: 1300},
		"a rival whose own campaign is over gives way":   {p: promises{own: ballot{"c", 3, 2, 10}, ownUntil: at(1000)}, s: candidate, want: leaderIsLost},
		"a rival of another term is no rival: raft says": {p: rival(ballot{"c", 2, 2, 10}), s: candidate, want: leaderIsLost},
	} {
		c.p.patience, c.p.hold = 400*time.Millisecond, 400*time.Millisecond
		got, again := c.p.judge(ask, at(1000), c.s)
		if got != c.want || (got == notYet && !again.Equal(at(c.at))) {
			t.Errorf("%s: %d, again at %v", name, got, again.Sub(epoch))
		}
		if promised := c.p.to.candidate == "b" && c.p.toUntil.Equal(c.s.now.Add(c.p.hold)); promised != (got == leaderIsLost) {
			t.Errorf("%s: promised to %q until %v", name, c.p.to.candidate, c.p.toUntil.Sub(epoch))
		}
	}
}

// With one of three or five voters gone, and in whatever order candidates are heard: never two of them have a majority of the pre-votes, and if
// all logs are the same, one has it without anybody's waiting for long.
func TestOfCandidatesThatCampaignAtOnceOneHasAMajority(t *testing.T) {
	for seed := range uint64(20000) {
		random := rand.New(rand.NewPCG(seed, 1))
		voters := 3 + 2*random.IntN(2)
		n := voters - 1
		candidates := 1 + random.IntN(n)
		all := make([]promises, n)
		type question struct{ from, to int }
		var questions []question
		ballots := make([]ballot, n)
		for i := range n {
			all[i].patience, all[i].hold = 400*time.Millisecond, 400*time.Millisecond
			ballots[i] = ballot{raft.ServerID(rune('a' + i)), 3, 2, uint64(10 + random.IntN(2))}
			if i < candidates {
				all[i].campaign(ballots[i], at(0))
			}
			for j := range n {
				if i < candidates && i != j {
					questions = append(questions, question{i, j})
				}
			}
		}
		random.Shuffle(len(questions), func(i, j int) { questions[i], questions[j] = questions[j], questions[i] })
		looks, votes := map[question]int{}, make([]int, n)
		for i := range candidates {
			votes[i] = 1
		}
		for len(questions) > 0 { // what is kept is looked at again
			q := questions[0]
			questions = questions[1:]
			s := standing{now: at(1), state: raft.Follower, led: true, heard: at(-500)}
			if q.to < candidates {
				s = standing{now: at(1), state: raft.Candidate, heard: at(-500)}
			}
			if v, _ := all[q.to].judge(ballots[q.from], at(1), s); v != leaderIsLost {
				if looks[q]++; looks[q] < n*n {
					questions = append(questions, q)
				}
				continue
			}
			if ballots[q.to].lastIndex > ballots[q.from].lastIndex { // raft refuses
				all[q.to].release(ballots[q.from])
				continue
			}
			votes[q.from]++
			all[q.from].backed = true
		}
		winners := 0
		for i := range candidates {
			if votes[i] > voters/2 {
				winners++
			}
		}
		// A candidate with a shorter log than most may have nobody's vote; then it takes the next campaign.
		longest := 0
		for _, b := range ballots {
			if b.lastIndex == 11 {
				longest++
			}
		}
		if winners > 1 || (winners == 0 && (longest == 0 || longest == n)) {
			t.Fatalf("seed %d: %d of %d candidates have a majority of %d voters: %v, %v", seed, winners, candidates, voters, votes, ballots)
		}
	}
}

// A leader that is killed is replaced by the first campaign: within its followers' patience, the spread of their moments, and what the questions take.
// Raft alone needed up to three times the patience, and an election timeout more for each campaign that was lost.
func TestTheFirstCampaignAfterALeaderIsLostWins(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.mesh(5)
		l.eventually(30*time.Second, "five voters", func() bool { return l.voters() == 5 })
		var took []time.Duration
		for range 25 {
			leader := l.leader()
			lost := time.Now()
			l.net.split(-1, leader.id())
			l.eventually(10*time.Second, "another leader", func() bool {
				for _, n := range l.nodes {
					if n != leader && n.group.State().Coordinators.Leader == n.id() && n.group.State().Coordinators.Quorum {
						return true
					}
				}
				return false
			})
			took = append(took, time.Since(lost))
			l.net.split(0, leader.id())
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		timing := LAN()
		for _, d := range took {
			if bound := timing.Heartbeat + timing.Stagger + 100*time.Millisecond; d > bound {
				t.Errorf("a new leader after %v of %v, want at most %v", d, took, bound)
			}
		}
	})
}

func TestCampaignTrace(t *testing.T) {
	var trace strings.Builder
	v, timing := vigil{}, LAN()
	draw := func(d time.Duration) time.Duration { return d / 3 }
	for _, c := range []struct{ heard, promised int }{{0, -1000}, {0, -1000}, {150, -1000}, {150, 700}, {900, 700}} {
		due := v.due(timing, at(c.heard), at(c.promised), draw)
		fmt.Fprintf(&trace, "leader heard at %4d, promised until %5d: campaigns at %d\n", c.heard, c.promised, due.Sub(epoch).Milliseconds())
	}
	golden(t, filepath.Join("testdata", "campaigns.txt"), trace.String())
}

// Regression: a new leader compared its clock with that of the one that was lost, too, and decided nothing until that had not answered for 700 ms.
func TestTheFirstDecisionOfANewLeaderDoesNotWaitForTheLostOne(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.mesh(5)
		l.eventually(30*time.Second, "five voters", func() bool { return l.voters() == 5 })
		old := l.leader()
		l.net.split(-1, old.id())
		var leader *member
		l.eventually(10*time.Second, "another leader", func() bool {
			for _, n := range l.nodes {
				if c := n.group.State().Coordinators; n != old && c.Leader == n.id() && c.Quorum {
					leader = n
					return true
				}
			}
			return false
		})
		begin := time.Now()
		leader.invite(InviteSpec{})
		if took := time.Since(begin); took > 200*time.Millisecond {
			t.Errorf("the first decision took %v", took)
		}
	})
}
