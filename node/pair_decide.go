package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/pairing"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// A request waits at the member that was asked, and can be decided at any other: who is asked to decide asks all members that are alive what
// waits with them (protocol "pending", members only), has the mesh admit the machine in its own name, and tells the member that holds the
// request. Nothing of this is replicated: a request is worth nothing without its connection.
const protocolPending = "pending"

const (
	pendingWait   = 1500 * time.Millisecond // for the answers of all members
	pendingAsked  = 512                     // members
	pendingAtOnce = 64
	pendingMax    = 512 << 10 // bytes of an answer: petitionsMax requests of some 6 KiB
	pairPoll      = 400 * time.Millisecond
	// pairWindow is how long phantom pair waits unless somebody says otherwise.
	pairWindow = 2 * time.Minute
)

// The questions of "pending".
const (
	pendingList  = 1
	pendingAdmit = 2
	pendingTurn  = 3 // away
)

type pendingQuestion struct {
	_    struct{} `cbor:",toarray"`
	Op   uint8
	Node identity.NodeID
	Code string
}

type pendingAnswer struct {
	_        struct{} `cbor:",toarray"`
	Requests []pendingEntry
	Failure  string
}

type pendingEntry struct {
	_         struct{} `cbor:",toarray"`
	Code      string
	Name      string
	Node      identity.NodeID
	From      netip.AddrPort
	LAN       bool
	AgeMillis uint64
	Request   []byte
}

// held is a request and who holds it.
type held struct {
	pendingEntry
	holder identity.NodeID
}

// servePending answers another member.
func (n *Node) servePending(ctx context.Context, s *control.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(decideMax + pairStep))
	var q pendingQuestion
	if err := wire.ReadMessage(s, &q, 128); err != nil {
		return
	}
	var a pendingAnswer
	switch q.Op {
	case pendingList:
		a.Requests = n.pendingHere()
	case pendingAdmit, pendingTurn:
		if err := n.settle(ctx, q); err != nil {
			a.Failure = err.Error()
		}
	default:
		a.Failure = "unknown question"
	}
	_ = wire.WriteMessage(s, a, pendingMax)
}

func (n *Node) pendingHere() []pendingEntry {
	out := []pendingEntry{}
	for _, p := range n.petitions.list() {
		out = append(out, pendingEntry{Code: p.code, Name: p.name, Node: p.id, From: p.from, LAN: p.lan,
			AgeMillis: uint64(time.Since(p.since).Milliseconds()), Request: p.raw})
	}
	return out
}

var errRequestGone = errors.New("the machine has taken its request back, or it has expired")

// settle passes a verdict on to the machine that waits here, and returns when it has been told.
func (n *Node) settle(ctx context.Context, q pendingQuestion) error {
	p := n.petitions.get(q.Node)
	if p == nil || p.code != q.Code {
		return errRequestGone
	}
	v := verdict{admitted: q.Op == pendingAdmit, done: make(chan error, 1)}
	select {
	case p.verdict <- v:
	default: // decided a moment ago
		return nil
	}
	select {
	case err := <-v.done:
		return err
	case <-time.After(decideMax):
		return errRequestGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askPending has a member answer.
func (n *Node) askPending(ctx context.Context, id identity.NodeID, q pendingQuestion) (pendingAnswer, error) {
	s, err := n.control.Open(ctx, id, protocolPending)
	if err != nil {
		return pendingAnswer{}, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(s, q, 128); err != nil {
		return pendingAnswer{}, err
	}
	var a pendingAnswer
	if err := wire.ReadMessage(s, &a, pendingMax); err != nil {
		return pendingAnswer{}, err
	}
	if len(a.Requests) > petitionsMax {
		return pendingAnswer{}, fmt.Errorf("%s lists %d requests", id.Short(), len(a.Requests))
	}
	for _, r := range a.Requests {
		if !pairing.IsCode(r.Code) || len(r.Name) > 63 {
			return pendingAnswer{}, fmt.Errorf("%s lists a malformed request", id.Short())
		}
	}
	return a, nil
}

// answers tells whether a member is worth a question: it is alive, or gossip has not said yet how it is, as when this node has only just come
// online, and it is connected or a coordinator. Asking all of whom nothing is known would make every list wait for those that are off.
func (m *membership) answers(e peer.Entry) bool {
	switch e.State {
	case peer.Alive:
		return true
	case peer.Unknown:
		return m.node.control.Connected(e.ID) || slices.Contains(m.group.State().Coordinators.Voters, e.ID)
	default:
		return false
	}
}

// gather collects what waits anywhere in the mesh.
func (m *membership) gather(ctx context.Context) []held {
	n := m.node
	ctx, cancel := context.WithTimeout(ctx, pendingWait)
	defer cancel()
	var mu sync.Mutex
	var out []held
	add := func(holder identity.NodeID, list []pendingEntry) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range list {
			out = append(out, held{e, holder})
		}
	}
	add(n.ID(), n.pendingHere())
	var asked sync.WaitGroup
	slots := make(chan struct{}, pendingAtOnce)
	left := pendingAsked
	for _, e := range n.peers.All() {
		if left == 0 {
			break
		}
		if e.ID == n.ID() || e.Revoked || !m.answers(e) {
			continue
		}
		left--
		asked.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a, err := n.askPending(ctx, e.ID, pendingQuestion{Op: pendingList})
			if err != nil {
				n.log.Debug("requests of a member not listed", "peer", e.ID.Short(), "err", err)
				return
			}
			add(e.ID, a.Requests)
		})
	}
	asked.Wait()
	slices.SortFunc(out, func(a, b held) int {
		if a.AgeMillis != b.AgeMillis {
			if a.AgeMillis > b.AgeMillis {
				return -1
			}
			return 1
		}
		return a.Node.Compare(b.Node)
	})
	return out
}

// Requests lists the machines that wait to be approved, at any member.
func (n *Node) Requests(ctx context.Context) (*localapi.RequestList, error) {
	m, err := n.membership("list requests")
	if err != nil {
		return nil, err
	}
	out := &localapi.RequestList{Requests: localapi.List[localapi.Request]{}}
	for _, h := range m.gather(ctx) {
		out.Requests = append(out.Requests, h.describe(n))
	}
	return out, nil
}

func (h held) describe(n *Node) localapi.Request {
	r := localapi.Request{Code: h.Code, Name: h.Name, ID: h.Node.String(), LAN: h.LAN, At: h.holder.String(),
		Since: n.cfg.Now().Add(-time.Duration(h.AgeMillis) * time.Millisecond).UTC().Truncate(time.Second)}
	if h.From.IsValid() {
		r.From = h.From.Addr().String()
	}
	if e, ok := n.peers.Get(h.holder); ok && e.Member != nil {
		r.AtName = e.Member.Name
	}
	return r
}

// Approve admits, or with Refuse turns away, the machine that shows a code.
func (n *Node) Approve(ctx context.Context, r localapi.ApproveRequest) (*localapi.Request, error) {
	what := "cannot approve " + r.Code
	if r.Refuse {
		what = "cannot refuse " + r.Code
	}
	if !pairing.IsCode(r.Code) {
		return nil, localapi.Fail(localapi.Usage, what, errors.New("a code is six digits"), "phantom requests lists the machines that wait")
	}
	m, err := n.membership("approve")
	if err != nil {
		return nil, err
	}
	all := m.gather(ctx)
	all = slices.DeleteFunc(all, func(h held) bool { return h.Code != r.Code })
	switch {
	case len(all) == 0:
		return nil, localapi.Fail(localapi.Failed, what, errors.New("no machine that waits shows this code; a code is good for ten minutes and for one connection"),
			"compare it with what the new machine shows now (phantom status there), and phantom requests")
	case len(all) > 1:
		return nil, localapi.Fail(localapi.Refused, what, fmt.Errorf("%d requests show this code, which happens by chance once in a million times: "+
			"somebody may be trying to get in", len(all)), "refuse both (phantom down on the new machine), and let it join with an invitation")
	}
	if err := m.decide(ctx, all[0], !r.Refuse); err != nil {
		return nil, failed(what, err)
	}
	out := all[0].describe(n)
	return &out, nil
}

// decide carries a verdict out: the mesh first, then the machine that waits.
func (m *membership) decide(ctx context.Context, h held, admit bool) error {
	n := m.node
	q := pendingQuestion{Op: pendingTurn, Node: h.Node, Code: h.Code}
	ctx, cancel := context.WithTimeout(ctx, 2*decideMax)
	defer cancel()
	if admit {
		q.Op = pendingAdmit
		if err := m.group.Approve(ctx, h.Request); err != nil {
			return err
		}
	}
	if h.holder == n.ID() {
		return n.settle(ctx, q)
	}
	a, err := n.askPending(ctx, h.holder, q)
	if err == nil && a.Failure != "" {
		err = errors.New(a.Failure)
	}
	if err != nil && admit {
		// The mesh has admitted it; whoever holds the request notices by itself.
		n.log.Warn("approved, but the member that holds the request was not told", "peer", h.holder.Short(), "err", err)
		return nil
	}
	return err
}

// Pair opens a window in which the next machine that asks from a LAN is admitted. It returns when one was, or when the time is over.
func (n *Node) Pair(ctx context.Context, r localapi.PairRequest) (*localapi.Request, error) {
	const what = "cannot pair"
	if r.For == 0 {
		r.For = pairWindow
	}
	if r.For < localapi.PairWindowMin || r.For > localapi.PairWindowMax {
		return nil, localapi.Fail(localapi.Usage, what, fmt.Errorf("a window of %s: from %s to %s is possible", r.For, localapi.PairWindowMin, localapi.PairWindowMax), "")
	}
	m, err := n.membership("pair")
	if err != nil {
		return nil, err
	}
	opened := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.For)
	defer cancel()
	n.log.Info("pairing window opened", "for", r.For)
	for {
		// Only what came after the window opened: a request that was there before is approved by its code.
		waiting := m.gather(ctx)
		all := len(waiting)
		fresh := slices.DeleteFunc(waiting, func(h held) bool {
			return !h.LAN || time.Duration(h.AgeMillis)*time.Millisecond >= time.Since(opened)
		})
		if len(fresh) > 1 {
			return nil, localapi.Fail(localapi.Refused, what, fmt.Errorf("%d machines asked at once, and only one was expected", len(fresh)),
				"phantom requests lists them; phantom approve CODE lets the right one in")
		}
		if len(fresh) == 1 {
			if err := m.decide(ctx, fresh[0], true); err != nil {
				return nil, failed("cannot admit "+fresh[0].Name, err)
			}
			out := fresh[0].describe(n)
			return &out, nil
		}
		select {
		case <-time.After(pairPoll):
		case <-n.stop:
			return nil, localapi.Fail(localapi.Failed, what, errors.New("the node is stopping"), "")
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) && all > 0 {
				return nil, localapi.Fail(localapi.TimedOut, "nobody was let in", fmt.Errorf("the window is closed; %s before it opened, or not from the LAN",
					countOf(all, "machine asked", "machines asked")), "phantom requests lists them; phantom approve CODE lets one in")
			}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, localapi.Fail(localapi.TimedOut, "nobody asked to join", errors.New("the window is closed"),
					"open it again, then run phantom up on the new machine; or phantom invite")
			}
			return nil, localapi.Fail(localapi.Failed, "the window is closed", ctx.Err(), "")
		}
	}
}
