package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// The protocol "bulletin", one question a stream, between members:
//
//	post   whoever speaks for a region sends the leader its bulletin and the records of a few of its members; one that is not let into the
//	       wide pool learns by the answer what it would hear there
//	where  asks for the records of members, of whom the asked coordinates the region or knows who does
//	about  asks for a region's bulletin
const protocolNews = "bulletin"

const (
	newsPost  = 1
	newsWhere = 2
	newsAbout = 3
)

const (
	// putForwardMax is how many members of its region whoever speaks for it puts forward to the leader.
	putForwardMax = 8
	// whereMax bounds the members that one question asks for.
	whereMax = 16
	// newsQuestionMax bounds a question: a bulletin and putForwardMax records. newsAnswerMax bounds an answer: what is ever shared.
	newsQuestionMax = bulletin.Max + putForwardMax*(peer.RecordMax+64) + 1024
	newsAnswerMax   = gossip.SharedMax + 4096
	// newsWait bounds a question, from opening a path on.
	newsWait = 4 * time.Second
	// newsForward bounds the part of it in which another is asked in turn.
	newsForward = 2 * time.Second
)

const (
	// postEvery and postBurst bound how often this node reports to the leader.
	postEvery = 5 * time.Second
	postBurst = 4
	// postAgain is the time until it tries again after it failed.
	postAgain = 2 * time.Second
	// postLost is how long one that is not let into the wide pool must have reached nobody there until it takes all other regions for lost.
	postLost = actingEvery + 15*time.Second
	// newsRate and newsBurst bound the questions of one member that are answered: a machine that goes round a whole region.
	newsRate  = 20 // a second
	newsBurst = 200
	// newsPacesMax bounds the members whose pace is remembered.
	newsPacesMax = 4096
)

type newsQuestion struct {
	_         struct{} `cbor:",toarray"`
	Kind      uint8
	Region    string       // about
	Bulletin  []byte       // post
	Records   []recordWire // post
	Nodes     []identity.NodeID
	Forwarded bool // where: do not ask another
}

type newsAnswer struct {
	_         struct{} `cbor:",toarray"`
	Taken     bool     // post
	Records   []recordWire
	Bulletins [][]byte
}

// posts is what this node has reported to the leader. It is guarded by abroad.mu.
type posts struct {
	pace     *rate.Limiter
	paces    *paces
	to       identity.NodeID
	bulletin bulletin.Mark
	records  []peer.Record
	when     time.Time // last posted
	answered time.Time // last with success
	tried    time.Time
	failed   int // since
	busy     bool
}

func newPosts() posts {
	return posts{pace: rate.NewLimiter(rate.Every(postEvery), postBurst), paces: &paces{}, answered: time.Now()}
}

// paces is how often each member has asked.
type paces struct {
	mu sync.Mutex
	of map[identity.NodeID]*rate.Limiter
}

func (p *paces) allow(id identity.NodeID, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= newsPacesMax {
		p.of = map[identity.NodeID]*rate.Limiter{}
	}
	l := p.of[id]
	if l == nil {
		l = rate.NewLimiter(newsRate, newsBurst)
		p.of[id] = l
	}
	return l.AllowN(now, 1)
}

// report posts to the leader what it needs to know of our region, if this node speaks for it, and returns when to look again.
func (a *abroad) report(state *coordinator.State, now time.Time) time.Duration {
	if _, speaks := a.speaker(state); !speaks {
		return abroadLook
	}
	forward := a.putForward(state)
	a.mu.Lock()
	defer a.mu.Unlock()
	to := a.postTo(state)
	held, ok := a.board.Notice(a.own)
	acting := a.repeats(state)
	var records []peer.Record
	for _, p := range forward {
		records = append(records, p.Record)
	}
	changed := to != a.posts.to || acting && held.Mark != a.posts.bulletin ||
		!slices.EqualFunc(records, a.posts.records, func(x, y peer.Record) bool { return x.ID == y.ID && sameMatter(x, y) })
	switch {
	case !ok || to.IsZero() || a.posts.busy || !changed && a.posts.failed == 0:
		return abroadLook
	case now.Sub(a.posts.tried) < postAgain || !a.posts.pace.AllowN(now, 1):
		return postAgain
	}
	q := newsQuestion{Kind: newsPost, Bulletin: held.Raw, Records: []recordWire{}, Nodes: []identity.NodeID{}}
	for _, p := range forward {
		if signed, ok := a.m.gossip.Signed(p.ID); ok {
			q.Records = append(q.Records, recordWire{ID: p.ID, Signed: signed})
		}
	}
	a.posts.busy, a.posts.tried = true, now
	a.posts.to, a.posts.bulletin, a.posts.records = to, held.Mark, records
	a.m.loops.Go(func() { a.post(to, q, acting) })
	return postAgain
}

// postTo is who is told: the leader; without one that is known, or after it did not answer, one of the voters after the other.
func (a *abroad) postTo(state *coordinator.State) identity.NodeID {
	c := state.Coordinators
	self := a.m.node.ID()
	if !c.Leader.IsZero() && a.posts.failed < 2 {
		if c.Leader == self {
			return identity.NodeID{}
		}
		return c.Leader
	}
	others := slices.DeleteFunc(slices.Clone(c.Voters), func(id identity.NodeID) bool { return id == self })
	if len(others) == 0 {
		return identity.NodeID{}
	}
	return others[a.posts.failed%len(others)]
}

// post reports to a member, and takes in what it answers.
func (a *abroad) post(to identity.NodeID, q newsQuestion, acting bool) {
	ctx, cancel := a.within(newsWait)
	defer cancel()
	answer, err := a.m.node.askNews(ctx, to, q)
	a.mu.Lock()
	now := time.Now()
	a.posts.busy, a.posts.when = false, now
	if err == nil && acting && !answer.Taken {
		err = errNotTaken
	}
	if err != nil {
		a.posts.failed++
		a.m.node.log.Debug("report of our region not taken", "peer", to.Short(), "err", err)
	} else {
		a.posts.failed, a.posts.answered = 0, now
		if acting {
			a.believe(a.m.group.State(), to, answer.Bulletins)
		}
	}
	a.mu.Unlock()
	for _, raw := range answer.Bulletins {
		if a.hear(raw) && acting { // nobody else brings it into our region
			if n, err := bulletin.Parse(raw); err == nil {
				a.spread(n.Region, raw)
			}
		}
	}
	for _, r := range answer.Records {
		a.hearRecord(r.ID, r.Signed)
	}
	signal(a.wake)
}

// askNews asks a member one question.
func (n *Node) askNews(ctx context.Context, id identity.NodeID, q newsQuestion) (newsAnswer, error) {
	if q.Bulletin == nil {
		q.Bulletin = []byte{}
	}
	if q.Records == nil {
		q.Records = []recordWire{}
	}
	if q.Nodes == nil {
		q.Nodes = []identity.NodeID{}
	}
	var answer newsAnswer
	s, err := n.control.Open(ctx, id, protocolNews)
	if err != nil {
		return answer, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(s, q, newsQuestionMax); err != nil {
		return answer, err
	}
	if err := wire.ReadMessage(s, &answer, newsAnswerMax); err != nil {
		return newsAnswer{}, err
	}
	if len(answer.Records) > sharedRecordsMax || len(answer.Bulletins) > sharedBulletinsMax {
		return newsAnswer{}, fmt.Errorf("%s answers with more than there is", id.Short())
	}
	return answer, nil
}

// serveNews answers another member's question.
func (n *Node) serveNews(ctx context.Context, s *control.Stream) {
	defer s.Close()
	m := n.online.Load()
	_ = s.SetDeadline(time.Now().Add(newsWait))
	var q newsQuestion
	if err := wire.ReadMessage(s, &q, newsQuestionMax); err != nil || m == nil {
		return
	}
	answer, err := m.abroad.answer(ctx, s.Peer().ID, q)
	if err != nil {
		n.log.Debug("news of a region not taken", "peer", s.Peer().ID.Short(), "err", err)
		return
	}
	_ = wire.WriteMessage(s, answer, newsAnswerMax)
}

// What is wrong with a question.
var (
	errNewsPace = errors.New("asked too often")
	errNewsForm = errors.New("malformed")
	errNotTaken = errors.New("not believed there yet")
)

func (a *abroad) answer(ctx context.Context, from identity.NodeID, q newsQuestion) (newsAnswer, error) {
	if !a.posts.paces.allow(from, time.Now()) {
		return newsAnswer{}, errNewsPace
	}
	if len(q.Nodes) > whereMax || len(q.Records) > putForwardMax || len(q.Region) > peer.RegionMax {
		return newsAnswer{}, errNewsForm
	}
	out := newsAnswer{Records: []recordWire{}, Bulletins: [][]byte{}}
	switch q.Kind {
	case newsPost:
		return a.takePost(from, q)
	case newsWhere:
		out.Records = a.where(ctx, from, q)
	case newsAbout:
		a.mu.Lock()
		defer a.mu.Unlock()
		if n, ok := a.board.Notice(q.Region); ok {
			out.Bulletins = append(out.Bulletins, n.Raw)
		}
	default:
		return out, errNewsForm
	}
	return out, nil
}

// takePost takes what somebody says for its region, and answers with what is known of all others.
func (a *abroad) takePost(from identity.NodeID, q newsQuestion) (newsAnswer, error) {
	b, err := bulletin.Parse(q.Bulletin)
	if err != nil {
		return newsAnswer{}, err
	}
	if b.Author != from {
		return newsAnswer{}, fmt.Errorf("a bulletin of %s: %w", b.Author.Short(), errNewsForm)
	}
	if a.hear(q.Bulletin) {
		a.spread(b.Region, q.Bulletin)
	}
	for _, r := range q.Records {
		e, ok := a.m.node.peers.Get(r.ID)
		if !ok || e.Revoked || string(regionScope(e.Member.Region)) != b.Region {
			continue // of its own region only
		}
		a.learn(r.ID, r.Signed)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	held, _ := a.board.Notice(b.Region)
	out := newsAnswer{Taken: held.Mark == b.Mark, Records: []recordWire{}, Bulletins: [][]byte{}}
	for _, n := range a.board.Notices() {
		if n.Region != b.Region {
			out.Bulletins = append(out.Bulletins, n.Raw)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(a.records), identity.NodeID.Compare) {
		out.Records = append(out.Records, recordWire{ID: id, Signed: a.records[id].signed})
	}
	return out, nil
}

// learn takes in a member's record, once its signature is verified.
func (a *abroad) learn(id identity.NodeID, signed []byte) bool {
	e, ok := a.m.node.peers.Get(id)
	if !ok || e.Revoked || id == a.m.node.ID() {
		return false
	}
	r, err := peer.ParseRecord(id, signed)
	if err != nil || e.HasRecord && r.Sequence <= e.Record.Sequence {
		return false
	}
	if r, err = peer.VerifyRecord(&e.Member.Public, signed); err != nil {
		a.counts.refused.Add(1)
		return false
	}
	if !a.m.node.peers.Update(r) {
		return false
	}
	a.mu.Lock()
	for other := range a.learned {
		if len(a.learned) < learnedMax {
			break
		}
		delete(a.learned, other)
	}
	a.learned[id] = slices.Clone(signed)
	a.mu.Unlock()
	a.m.note(id, addresses(r))
	return true
}
